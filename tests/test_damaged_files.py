"""Damaged files in a workdir: one sentence, exit code 74, nothing else on stderr, wherever the damage is and whatever reads it."""

import json
import shutil

import numpy as np
import pytest

from relink_jax import cli
from relink_jax.store import digests

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn")  # the arithmetic of what is compiled here is tested elsewhere

MODEL = "phantom-3-specialist"
SETTINGS = [
    "--config=demo_small",
    "--config.cohort.phantom.n_patients=60",
    f"--config.models={MODEL}",
    "--config.embed.anchors=64",
    "--config.audit.bootstrap_replicates=100",
    "--config.audit.pool_sizes=10",
    "--config.audit.ks=1",
    "--config.audit.attacks=",
    "--config.audit.measures=",
    "--config.probe.bootstrap_replicates=100",
    "--config.probe.max_iterations=5",
    "--config.probe.l2_grid=0.01,1",
    "--config.heads.mechanism.iterations=3",
    "--config.heads.noise_draws=1",
    "--config.heads.mechanism.expected_batch_size=8",
    "--config.report.headline_pool=10",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir after the whole road, which no test may change."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main(["demo", *SETTINGS, f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("phantom", "*.html"))
    return tmp_path / "run"


def refused(capfd, workdir, *stages):
    """Runs the stages and returns the one sentence that each of them must end in."""
    said = ""
    for stage in stages:
        capfd.readouterr()
        assert cli.main([*stage.split(), f"--workdir={workdir}"]) == 74
        out, said = capfd.readouterr()
        assert out == ""
        assert said.count("\n") == 1, said
        assert said.startswith(f"relink {stage.split()[0]}: error: ")
        assert ": expected " in said
        assert ", found " in said
        assert str(workdir.parent) not in said
    return said


def flip(path):
    path.write_bytes(bytes([path.read_bytes()[0] ^ 255]) + path.read_bytes()[1:])


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def empty(path):
    path.write_bytes(b"")


def directory(path):
    path.unlink()
    path.mkdir()


def not_text(path):
    path.write_bytes(b"\xff" + path.read_bytes())


DAMAGES = [flip, cut, empty, directory]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_heads(copy, capfd, damage):
    damage(copy / "heads" / MODEL / "dp" / "heads.safetensors")
    assert "heads" in refused(capfd, copy, "heads", "audit", "report")


@pytest.mark.parametrize("name", ["manifest.ocdbt", "ocdbt.process_0/manifest.ocdbt", "_METADATA", "d/*", "ocdbt.process_0/d/*"])
@pytest.mark.parametrize("damage", [empty, flip, directory, lambda path: path.unlink()])
def test_a_damaged_checkpoint_is_refused_before_orbax_reads_it(copy, capfd, name, damage):
    damage(sorted((copy / "models" / MODEL / "tree").glob(name))[0])
    assert f"models/{MODEL}/tree" in refused(capfd, copy, "convert")


@pytest.mark.parametrize("field", ["tree_sha256", "tree_files", "source_sha256", "config_sha256", "parameters", "layout", "ignored", "model"])
@pytest.mark.parametrize("lost", [True, False])
def test_provenance_without_a_field(copy, capfd, field, lost):
    path = copy / "models" / MODEL / "provenance.json"
    record = {**json.loads(path.read_text()), field: None}
    if lost:
        del record[field]
    path.write_text(json.dumps(record))
    assert f"field '{field}' in models '{MODEL}/provenance.json'" in refused(capfd, copy, "convert")


@pytest.mark.parametrize("content", ["{}", "[]", "null", "3", "{", "", "\udcff"])
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("cohort/cohort.json", ["cohort", "audit"]),
        (f"models/{MODEL}/provenance.json", ["convert", "embed"]),
        (f"heads/{MODEL}/dp/card.json", ["heads", "audit"]),
        (f"embeddings/{MODEL}/dp/images/manifest.json", ["audit", "probe"]),
        (f"features/{MODEL}/images/manifest.json", ["audit"]),
        (f"features/{MODEL}/images/started.json", ["embed"]),
    ],
)
def test_a_record_with_other_content(copy, capfd, name, stages, content):
    (copy / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert name.rsplit("/", maxsplit=1)[-1] in refused(capfd, copy, *stages)


@pytest.mark.parametrize(
    ("name", "field", "stage"),
    [
        *(("cohort/cohort.json", field, "audit") for field in ("name", "synthetic", "counts", "digest")),
        *((f"features/{MODEL}/images/started.json", field, "embed") for field in ("rows", "shard_rows", "identity")),
        *((f"embeddings/{MODEL}/dp/images/manifest.json", field, "audit") for field in ("rows", "identity", "shards")),
        *((f"heads/{MODEL}/dp/card.json", field, "heads") for field in ("arm", "settings", "settings_sha256", "heads_sha256")),
    ],
)
@pytest.mark.parametrize("value", ["lost", None, [], [3], "x"])
def test_a_record_with_a_field_lost_or_of_another_kind(copy, capfd, name, field, stage, value):
    record = json.loads((copy / name).read_text())
    record = {key: kept for key, kept in record.items() if key != field} | ({} if value == "lost" else {field: value})
    (copy / name).write_text(json.dumps(record))
    refused(capfd, copy, stage)


@pytest.mark.parametrize("settings", [{}, {"mechanism": None}, {"mechanism": {"target_epsilon": "much"}}])
def test_a_card_whose_settings_were_sealed_again_does_not_fit_its_ledger(copy, capfd, settings):
    path = copy / "heads" / MODEL / "dp" / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "settings": settings, "settings_sha256": digests.value_digest(settings)}))
    assert "ledger of other settings" in refused(capfd, copy, "audit")


@pytest.mark.parametrize("damage", [directory, not_text])
@pytest.mark.parametrize(
    ("name", "stage"),
    [
        *((f"cohort/{table}.parquet.sha256", "audit") for table in ("images", "studies", "patients", "texts")),
        (f"features/{MODEL}/images/shard-00000.ok", "embed"),
        (f"results/{MODEL}__dp__phantom-A-test.parquet.sha256", "report --check"),
    ],
)
def test_a_digest_that_is_no_text(copy, capfd, damage, name, stage):
    damage(copy / name)
    refused(capfd, copy, stage)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        *((f"cohort/{table}.parquet", "audit") for table in ("images", "studies", "patients", "texts")),
        (f"features/{MODEL}/images/shard-00000.safetensors", "embed"),
        (f"features/{MODEL}/images/shard-00000.safetensors", "probe"),
        (f"embeddings/{MODEL}/dp/images/shard-00000.safetensors", "audit"),
        (f"results/{MODEL}__dp__phantom-A-test.parquet", "report --check"),
        (f"results/{MODEL}__dp__phantom-A-test.parquet", "audit"),
        ("key", "audit"),
        ("config.json", "audit --config=demo_small"),
    ],
)
def test_a_directory_in_place_of_a_file(copy, capfd, name, stage):
    directory(copy / name)
    refused(capfd, copy, stage)


def test_a_manifest_that_lost_a_shard_is_refused(copy, capfd):
    path = copy / "embeddings" / MODEL / "dp" / "images" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "rows": manifest["rows"] + 1}))
    assert "rows missing in shards 'images'" in refused(capfd, copy, "audit")


def test_tables_swapped_with_their_digests_are_refused(copy, capfd):
    for suffix in (".parquet", ".parquet.sha256"):
        shutil.copy(copy / "cohort" / f"patients{suffix}", copy / "cohort" / f"images{suffix}")
    assert "cohort damaged" in refused(capfd, copy, "audit")


@pytest.mark.parametrize("change", [{"protocol": {}}, {"paired": [3]}, {"files": {}}])
def test_results_that_cannot_be_rebuilt_are_refused(copy, capfd, change):
    path = copy / "results" / f"{MODEL}__dp__phantom-A-test.json"
    path.write_text(json.dumps(digests.sealed({**json.loads(path.read_text()), **change})))
    refused(capfd, copy, "report --check")


def vectors(folder):
    """Writes embeddings of 40 studies and returns the flags that audit them."""
    folder.mkdir(parents=True)
    rows = np.random.default_rng(0).standard_normal((40, 8))
    np.savez(folder / "embeddings.npz", images=rows, texts=rows, image_study=np.arange(40), text_study=np.arange(40), patient=np.arange(40))
    return [f"--embeddings={folder}", *SETTINGS[4:]]


@pytest.mark.parametrize(("length", "code"), [(210, 0), (230, 2), (245, 2)])
def test_embeddings_whose_results_could_not_be_named(tmp_path, capfd, length, code):
    flags = vectors(tmp_path / ("n" * length))
    capfd.readouterr()
    assert cli.main(["audit", *flags, f"--workdir={tmp_path / 'w'}"]) == code
    said = capfd.readouterr().err
    assert (tmp_path / "w").exists() == (code == 0)
    assert code == 0 or (said.count("\n") == 1 and ": expected " in said), said


def test_provenance_of_a_model_and_results_without_fields_are_refused_by_every_reader(copy, capfd):
    for path in (copy / "results").glob("*.json"):
        path.write_text("{}")
    assert "field 'utility'" in refused(capfd, copy, "probe")
    (copy / "models" / MODEL / "provenance.json").write_text("{}")
    assert "provenance.json" in refused(capfd, copy, "audit", "probe")


def test_a_directory_in_place_of_the_page_is_refused_by_its_check(copy, capfd):
    (copy / "report" / "index.html").mkdir()
    (copy / "report" / "summary.html").write_text("")
    assert cli.main(["report", "--check", f"--workdir={copy}"]) == 74
    assert "report/index.html" in capfd.readouterr().err


def test_a_workdir_that_lost_its_config_is_not_taken_for_a_demo(copy, capfd):
    (copy / "config.json").unlink()
    assert cli.main(["audit", f"--workdir={copy}"]) == 74
    assert "recorded config missing" in capfd.readouterr().err
