"""The whole road on a tiny cohort through the command line: every stage, its resume, and its refusals."""

import json
import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest

from relink_jax import cli
from relink_jax.report import schema
from relink_jax.store import digests

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn", "traced_once")  # the arithmetic of what is compiled here is tested elsewhere

MODELS = "phantom-0-untrained,phantom-3-specialist"
SMALL = [
    "--config=demo_small",
    "--config.cohort.phantom.n_patients=90",
    f"--config.models={MODELS}",
    "--config.embed.anchors=64",
    "--config.embed.shard_rows=64",
    "--config.audit.bootstrap_replicates=100",
    "--config.audit.pool_sizes=10,50",
    *("--config.audit.attacks=inverted_softmax", "--config.audit.measures=blocks,right_patient"),
    *("--config.probe.bootstrap_replicates=100", "--config.probe.max_iterations=20", "--config.probe.l2_grid=0.01,1"),
    *("--config.heads.mechanism.iterations=5", "--config.heads.noise_draws=2"),
    "--config.heads.mechanism.expected_batch_size=8",
    "--config.report.headline_pool=50",
]


def relink(*words: str) -> int:
    return cli.main(list(words))


def recalls_at_ten(document):
    return [entry["value"] for entry in document["metrics"] if entry["name"] == "recall" and entry["N"] == 10 and entry["direction"] == "i2r"]


def edit(path, change, sealed=True):
    """Changes a results file in place, under a seal of its new content unless `sealed` is false."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(digests.sealed(document) if sealed else document))


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A finished demo in a workdir."""
    workdir = tmp_path_factory.mktemp("road") / "run"
    assert relink("demo", *SMALL, f"--workdir={workdir}") == 0
    return workdir


@pytest.fixture
def copy(road, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(road, tmp_path / "run")
    return tmp_path / "run"


def test_results_cover_models_arms_and_sites(road):
    stems = {schema.stem(document) for document in schema.load_results(road / "results")}
    arms = [("phantom-0-untrained", "original"), *(("phantom-3-specialist", arm) for arm in ("original", "random", "dp", "noise_only", "noise_only_2"))]
    assert stems == {f"{model}__{arm}__{site}" for model, arm in arms for site in ("phantom-A-test", "phantom-B-external")}


def test_dp_results_carry_the_calibrated_epsilon_and_their_paired_change(road):
    document = json.loads((road / "results" / "phantom-3-specialist__dp__phantom-A-test.json").read_text())
    assert document["model"]["dp"]["epsilon"] == pytest.approx(0.34, abs=2e-3)
    assert {entry["against"].split("__")[1] for entry in document["paired"]} == {"original", "noise_only"}
    assert [(entry["task"], entry["against"]) for entry in document["utility"]["paired"]] == [(t, "original") for t in ("probe", "report_probe", "zero_shot")]
    assert document["data"]["exposure"] == {"unseen": document["data"]["n_studies"]}


def test_everything_in_the_workdir_is_private(road):
    for path in road.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == 0, path.name


def test_no_raw_identifier_or_report_text_leaves_the_cohort(road):
    texts = (road / "phantom" / "pairs.csv").read_text()
    identifiers = {line.split(",")[1] for line in texts.splitlines()[1:20]}
    for path in [*road.glob("results/*.json"), *road.glob("report/*"), *road.glob("heads/*/*/*.json")]:
        content = path.read_text()
        assert not any(f'"{one}"' in content for one in identifiers)
        assert "pleural effusion is seen" not in content


def test_a_second_run_changes_nothing(road, capsys):
    before = {
        path: path.stat().st_mtime_ns for folder in ("features", "heads", "models", "embeddings") for path in (road / folder).rglob("*") if path.is_file()
    }
    assert relink("demo", *SMALL, f"--workdir={road}") == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "page: " in capsys.readouterr().out


def test_check_recomputes_every_number_and_catches_a_changed_one(copy, capsys):
    assert relink("report", "--check", *SMALL, f"--workdir={copy}") == 0
    assert "all agree" in capsys.readouterr().out

    def raise_recall(document):
        next(entry for entry in document["metrics"] if entry["name"] == "recall")["value"] += 0.01

    edit(next((copy / "results").glob("*dp*A-test.json")), raise_recall)
    assert relink("report", "--check", *SMALL, f"--workdir={copy}") == 74
    assert "does not come out again" in capsys.readouterr().err


def test_a_damaged_feature_shard_is_refused_and_names_itself(copy, capsys):
    shutil.rmtree(copy / "embeddings")
    shard = next((copy / "features" / "phantom-3-specialist" / "images").glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-3] ^= 8
    shard.write_bytes(bytes(content))
    assert relink("audit", *SMALL, f"--workdir={copy}") == 74
    assert f"shard corrupted in images/{shard.name}" in capsys.readouterr().err


def test_embedding_again_after_losing_a_shard_gives_the_same_bytes(copy):
    directory = copy / "features" / "phantom-3-specialist" / "images"
    shard = sorted(directory.glob("*.safetensors"))[1]
    content, manifest = shard.read_bytes(), (directory / "manifest.json").read_bytes()
    shard.unlink()
    assert relink("embed", *SMALL, f"--workdir={copy}") == 0
    assert shard.read_bytes() == content
    assert (directory / "manifest.json").read_bytes() == manifest


def test_heads_of_other_settings_are_refused_not_retrained(road, capsys):
    assert relink("heads", *SMALL, "--config.heads.mechanism.target_epsilon=1", f"--workdir={road}") == 74
    assert "settings" in capsys.readouterr().err


def test_another_cohort_in_the_same_workdir_is_refused(road, capsys):
    assert relink("cohort", *SMALL, "--config.cohort.phantom.seed=8", f"--workdir={road}") == 74
    assert "cohort.phantom.seed 7 (now 8)" in capsys.readouterr().err


def test_stages_out_of_order_say_which_one_is_missing(tmp_path, capsys):
    assert relink("audit", *SMALL, f"--workdir={tmp_path / 'w'}") == 74
    assert "run" in capsys.readouterr().err


def test_accountants_prints_the_runs_side_by_side(road, capsys):
    assert relink("accountants", str(road / "heads"), str(road / "heads" / "phantom-3-specialist" / "dp")) == 0
    out = capsys.readouterr().out
    assert "patient" in out
    assert "0.34" in out
    assert relink("accountants") == 2
    assert relink("accountants", str(road / "cohort")) == 74


@pytest.mark.slow
def test_a_user_table_goes_the_same_road(road, tmp_path, capsys):
    table = [
        "--config=demo_small",
        f"--config.models={MODELS}",
        "--config.cohort.source=table",
        f"--config.cohort.table={road / 'phantom' / 'pairs.csv'}",
        f"--config.cohort.image_root={road / 'phantom'}",
        "--config.cohort.name=mine",
        "--config.mitigate=",
        "--config.audit.pool_sizes=10",
        "--config.audit.bootstrap_replicates=100",
    ]
    for stage in ("cohort", "convert", "embed", "audit"):
        assert relink(stage, *table, f"--workdir={tmp_path / 'w'}") == 0
    ours = json.loads((tmp_path / "w" / "results" / "phantom-3-specialist__original__mine-A-test.json").read_text())
    theirs = json.loads((road / "results" / "phantom-3-specialist__original__phantom-A-test.json").read_text())
    assert recalls_at_ten(ours) == recalls_at_ten(theirs)
    assert ours["data"]["synthetic"] is False


def test_embeddings_brought_along_need_no_encoder(tmp_path):
    generator = np.random.default_rng(0)
    folder = tmp_path / "vectors"
    folder.mkdir()
    texts = generator.standard_normal((40, 16)).astype(np.float32)
    study = np.repeat(np.arange(40), 2)
    images = texts[study] + generator.standard_normal((80, 16)).astype(np.float32)
    np.savez(folder / "embeddings.npz", images=images, texts=texts, image_study=study, text_study=np.arange(40), patient=np.arange(40) // 2)
    code = (
        "import sys; from relink_jax import cli; "
        f"code = cli.main(['audit', '--embeddings={folder}', '--config.audit.pool_sizes=10', '--config.audit.attacks=', '--config.audit.measures=', "
        f"'--config.audit.bootstrap_replicates=100', '--workdir={tmp_path / 'w'}']); "
        "print(sorted({'flax', 'torch', 'transformers', 'tensorflow', 'PIL'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "RELINK_PROGRESS": "0"}, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("[]")
    assert "recall" in done.stdout
    assert list((tmp_path / "w" / "results").glob("*.json"))


def test_trained_heads_without_their_ledger_are_refused(copy, capsys):
    (copy / "heads" / "phantom-3-specialist" / "dp" / "privacy_ledger.json").unlink()
    assert relink("heads", *SMALL, f"--workdir={copy}") == 74
    assert "privacy ledger missing in heads/phantom-3-specialist/dp" in capsys.readouterr().err
    assert relink("audit", *SMALL, f"--workdir={copy}") == 74


def swap(root, source, target, *names):
    """Copies files of one arm over those of another."""
    for name in names:
        shutil.copy(root / "heads" / "phantom-3-specialist" / source / name, root / "heads" / "phantom-3-specialist" / target / name)


@pytest.mark.parametrize(
    ("source", "names", "says"),
    [
        ("noise_only", ("privacy_ledger.json",), "ledger"),
        ("noise_only", ("privacy_ledger.json", "heads.safetensors", "card.json"), "heads of another arm"),
        ("random", ("heads.safetensors", "card.json"), "heads of another arm"),
        ("noise_only", ("heads.safetensors",), "heads corrupted"),
    ],
)
def test_heads_cards_and_ledgers_of_different_arms_are_told_apart(copy, capsys, source, names, says):
    swap(copy, source, "dp", *names)
    for words in (("heads", *SMALL), ("audit", *SMALL), ("report", "--check", *SMALL)):
        assert relink(*words, f"--workdir={copy}") == 74
        assert says in capsys.readouterr().err


def test_a_valid_ledger_of_another_training_is_refused(copy, road, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(road, other)
    shutil.rmtree(other / "heads" / "phantom-3-specialist" / "dp")
    assert relink("heads", *SMALL, f"--workdir={other}") == 0
    place = "heads/phantom-3-specialist/dp/privacy_ledger.json"
    shutil.copy(other / place, copy / place)
    assert relink("audit", *SMALL, f"--workdir={copy}") == 74
    assert relink("report", *SMALL, f"--workdir={copy}") == 74
    assert "ledger" in capsys.readouterr().err


def test_results_that_state_another_epsilon_than_the_ledger_are_refused(copy, capsys):
    edit(copy / "results" / "phantom-3-specialist__dp__phantom-A-test.json", lambda document: document["model"]["dp"].update(epsilon=0.034))
    assert relink("report", *SMALL, f"--workdir={copy}") == 74
    assert "privacy of the heads in results file 'phantom-3-specialist__dp__phantom-A-test.json'" in capsys.readouterr().err


def test_one_page_does_not_mix_protocols(copy, capsys):
    assert relink("audit", *SMALL, "--config.audit.same_patient=negative", "--model=phantom-0-untrained", f"--workdir={copy}") == 0
    assert relink("report", *SMALL, f"--workdir={copy}") == 74
    assert "results of different protocols (same_patient)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["utility"]["probe"][1].update(macro_auroc=0.99),
        lambda document: document["data"].update(synthetic=False),
        lambda document: document.update(warnings=[]),
        lambda document: document.pop("checks"),
        lambda document: document.pop("content_sha256"),
    ],
)
def test_results_edited_by_hand_make_no_page(copy, capsys, change):
    edit(copy / "results" / "phantom-3-specialist__dp__phantom-A-test.json", change, sealed=False)
    assert relink("report", *SMALL, f"--workdir={copy}") == 74
    assert "results edited in results file 'phantom-3-specialist__dp__phantom-A-test.json'" in capsys.readouterr().err


def test_a_table_of_another_audit_is_refused_by_the_check(copy, capsys):
    results = copy / "results"
    for suffix in (".parquet", ".parquet.sha256"):
        shutil.copy(results / f"phantom-3-specialist__dp__phantom-A-test{suffix}", results / f"phantom-3-specialist__random__phantom-A-test{suffix}")
    assert relink("report", "--check", *SMALL, f"--workdir={copy}") == 74
    assert "table of another audit in file 'phantom-3-specialist__random__phantom-A-test.parquet'" in capsys.readouterr().err


def test_results_of_heads_that_are_missing_on_one_set_make_no_page(copy, capsys):
    (copy / "results" / "phantom-3-specialist__dp__phantom-B-external.json").unlink()
    assert relink("report", *SMALL, f"--workdir={copy}") == 74
    assert "results missing in results file 'phantom-3-specialist__dp__phantom-B-external.json'" in capsys.readouterr().err


def test_an_audit_that_one_set_refuses_changes_no_result_and_names_the_set(copy, capsys):
    before = {path: path.read_bytes() for path in (copy / "results").iterdir()}
    largest = {}
    for name in ("A-test", "B-external"):
        counts = json.loads((copy / "results" / f"phantom-0-untrained__original__phantom-{name}.json").read_text())["counts"]
        largest[name] = 1 + max(counts[direction]["other_patient"]["M"]["max"] for direction in ("i2r", "r2i"))
    smaller, larger = sorted(largest, key=lambda name: largest[name])
    between = largest[larger]
    assert largest[smaller] < between
    assert relink("audit", f"--config.audit.pool_sizes={between}", "--config.audit.ks=1", f"--workdir={copy}") == 65
    assert f"phantom-{smaller}, phantom-0-untrained with original heads: pool size" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (copy / "results").iterdir()} == before


def test_one_page_does_not_mix_probes(copy, capsys):
    assert relink("probe", *SMALL, "--config.probe.max_iterations=1", "--config.arms=original", f"--workdir={copy}") == 0
    assert relink("report", *SMALL, f"--workdir={copy}") == 74
    assert "results of different protocols (probe)" in capsys.readouterr().err


@pytest.mark.slow
def test_heads_trained_again_are_said_audited_anew_and_add_up(copy, capsys):
    (copy / "heads" / "phantom-3-specialist" / "dp" / "card.json").unlink()
    assert relink("heads", *SMALL, f"--workdir={copy}") == 0
    told = capsys.readouterr()
    assert "heads dp are trained again" in told.err
    assert "with 1 earlier released on the same people" in told.out
    assert relink("report", *SMALL, f"--workdir={copy}") == 74
    assert "audit again" in capsys.readouterr().err
    for stage in ("audit", "probe", "report"):
        assert relink(stage, *SMALL, f"--workdir={copy}") == 0
    assert relink("report", "--check", *SMALL, f"--workdir={copy}") == 0


@pytest.mark.parametrize("stage", ["convert", "embed"])
def test_a_changed_preprocessing_file_of_a_converted_model_is_refused(copy, capsys, stage):
    path = copy / "models" / "phantom-3-specialist" / "spec" / "preprocessor_config.json"
    path.write_text(path.read_text().replace('"image_mean"', '"image_mean_"'))
    assert relink(stage, *SMALL, f"--workdir={copy}") == 74
    assert "model files changed in models/phantom-3-specialist/spec" in capsys.readouterr().err


def test_damaged_original_heads_are_noticed_by_convert(copy, capsys):
    shutil.copy(
        copy / "heads" / "phantom-3-specialist" / "random" / "heads.safetensors", copy / "heads" / "phantom-3-specialist" / "original" / "heads.safetensors"
    )
    assert relink("convert", *SMALL, f"--workdir={copy}") == 74
    assert "heads corrupted" in capsys.readouterr().err


def test_a_page_of_other_bytes_is_refused_by_the_check(copy, capsys):
    page = copy / "report" / "index.html"
    page.write_bytes(page.read_bytes() + b"\xff\xfe")
    assert relink("report", "--check", *SMALL, f"--workdir={copy}") == 74
    assert "page edited" in capsys.readouterr().err


def test_settings_of_a_refused_command_do_not_stay(copy):
    before = (copy / "config.json").read_bytes()
    assert relink("audit", "--config.audit.ks=1,5000", "--config.audit.pool_sizes=10,5000", f"--workdir={copy}") == 65
    assert (copy / "config.json").read_bytes() == before


def test_a_model_name_cannot_leave_the_workdir(tmp_path):
    assert relink("convert", "--model=../evil", f"--workdir={tmp_path / 'w'}") == 2
    assert not (tmp_path / "evil").exists()
