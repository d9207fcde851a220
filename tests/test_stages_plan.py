"""What a run is told before it spends: the plan of a named model."""

import collections
import dataclasses
import json
import shutil

import against_oracle as against
import numpy as np
import pytest
from own_archive import archive, write

from relink_jax import cli, errors
from relink_jax import config as config_lib
from relink_jax.audit import importer, inputs
from relink_jax.encoders import published, tower_probe
from relink_jax.retrieval import probe, shapes
from relink_jax.runtime import progress, room
from relink_jax.stages import context, plan, plan_audit, plan_embed, plan_short, plan_sizes

pytestmark = pytest.mark.usefixtures("quick_module")  # the arithmetic of what is compiled here is tested elsewhere

FAST = [
    "--config.audit.attacks=",
    "--config.audit.measures=",
    "--config.audit.bootstrap_replicates=100",
    "--config.audit.pool_sizes=3",
    "--config.audit.ks=1",
    "--config.embed.batch_size=8",
]


SMALL = ("--images=90", "--studies=60", "--notimed", "--config.audit.strata=")


def relink(*words):
    return cli.main(list(words))


@pytest.fixture
def by_formula(monkeypatch):
    """Nothing is compiled: for what is decided by formula."""
    monkeypatch.setattr(tower_probe, "device_bytes", lambda *_, **__: 2**20)
    monkeypatch.setattr(shapes, "compiled", lambda *_: shapes.Held(2**20, 0, 0, 0))


def planned(model=None, **changed):
    config = config_lib.RunConfig()
    for path, value in changed.items():
        setattr(config.embed, path, value)
    lines = plan.run(config, "", ["embed"], images="1000", studies="500", model=model, timed=False)["embed"].lines
    return {line.what: line for line in lines}


@pytest.mark.usefixtures("by_formula")
def test_the_plan_of_a_map_model_states_the_published_disk():
    """BioViL: 15 x 15 patches of 2,048 numbers, 1.84 MB in float32, 0.92 MB in float16 (models.md, section 0, 6)."""
    whole, half = planned("biovil"), planned("biovil", map_dtype="float16")
    assert whole["features per image"].value == "1,843,200 B"
    assert half["features per image"].value == "921,600 B"
    assert (whole["features per image"].why, half["features per image"].why) == ("float32, 225 x 2048, a map", "float16, 225 x 2048, a map")
    assert whole["features per text"].value == half["features per text"].value == "3,072 B"
    assert whole["features on disk"].value == f"{(1000 * 1_843_200 + 500 * 3072) / 1024**3:.1f} GiB"
    assert half["features on disk"].value == f"{(1000 * 921_600 + 500 * 3072) / 1024**2:.1f} MiB"
    assert whole["image tower"].value == "23,561,152 parameters, 37.5 GFLOP per image"
    assert whole["arithmetic"].value == f"{(1000 * 37_534_924_800 + 500 * 96_636_764_160) / 1e12:.1f} TFLOP"


@pytest.mark.usefixtures("by_formula")
def test_vectors_stay_float32_and_weights_follow_the_precision():
    plain, low = planned("clip-vit-b-32"), planned("clip-vit-b-32", map_dtype="float16", precision="bf16")
    assert plain["features per image"] == low["features per image"]
    assert plain["features per image"].value == "3,072 B"
    assert (plain["weights in memory"].value, low["weights in memory"].value) == ("574.6 MiB", "287.3 MiB")


@pytest.mark.usefixtures("by_formula")
def test_without_a_model_the_packaged_ones_are_planned(capsys):
    assert planned()["model"].value.startswith("phantom-")
    assert planned()["image tower"].value == "631,040 parameters, 21.6 MFLOP per image"
    assert relink("plan", "audit", "--model=gloria", *SMALL) == 0
    assert "D = 768" in capsys.readouterr().out
    assert relink("plan", "audit", "--model=gloria", "--dim=12", *SMALL) == 0
    assert "D = 12" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("plan", "embed"), ("bench", "embed")])
def test_an_unknown_model_is_told_only_what_the_stage_has(capsys, words):
    assert relink(*words, "--model=biovl") == 2
    told = capsys.readouterr().err
    assert "unknown model in flag --model: expected one of phantom-0-untrained, " in told
    assert "found 'biovl'; did you mean 'biovil'?" in told
    assert "--source" not in told


@pytest.fixture
def gloria(monkeypatch):
    """The golden GLoRIA checkpoint, whose heads are affine and none, as its entry."""
    directory = against.TESTS / "goldens" / "gloria"
    geometry = against.spec_of(directory, "gloria", json.loads((directory / "oracle.json").read_text()))
    changed = {field: getattr(geometry, field) for field in ("image", "text", "dim")}
    monkeypatch.setitem(published.MODELS, "gloria", dataclasses.replace(published.MODELS["gloria"], recipe="", **changed))
    return directory


def test_a_demo_that_mitigates_nothing_takes_any_heads(tmp_path, gloria):
    rows = [
        {**{name: value for name, value in row.items() if name != "split"}, "findings": f"{chr(97 + index)} lung"}
        for index, row in enumerate(archive(tmp_path))
    ]
    flags, workdir = write(tmp_path, rows), tmp_path / "w"
    assert relink("convert", "--model=gloria", f"--source={gloria}", *flags) == 0
    assert relink("demo", *FAST, f"--workdir={workdir}", "--config.mitigate=gloria") == 0
    assert (workdir / "features" / "gloria").exists()
    _check_sizes(workdir)


def _check_sizes(workdir):
    """The sizes of the plan are those that the audit counted, and the bytes that it states are about those that were written."""
    config, found = cli.load_config(workdir / "config.json"), plan_sizes.without_lock(str(workdir))
    run = plan_sizes.of_cohort(config, found, context.load_cohort(found))
    (result,) = found.results.glob("*__original__*.json")
    counted, (one,) = json.loads(result.read_text()), run.sets
    assert one.sizes() == tuple(counted["data"][name] for name in ("n_images", "n_studies", "n_unique_texts"))
    assert result.stem.endswith(f"__{one.name}")
    assert [model.dim for model in run.models] == [counted["data"]["dim"]]
    assert list(one.records.codes) == counted["protocol"]["strata"]
    features = sum(file.stat().st_size for what in ("images", "texts") for file in found.features("gloria", what).glob("*.safetensors"))
    assert 0.5 * features < plan_embed.disk(config, run) - config.embed.anchors * 4 * (run.models[0].encoders[0].text.features[-1] + 1) <= features
    assert room.held([found.results]) < plan_audit.disk(config, run, plan_audit.largest(config, run, plan_audit.meshes.make_mesh()))["results"]


def test_a_plan_that_does_not_fit_says_which_setting_to_change(capsys):
    assert relink("plan", "audit", *SMALL, "--config.audit.memory=0.0001", "--config.audit.top_k=0") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "DOES NOT FIT: --config.audit.memory (now 0.0001 GiB), --config.audit.panel" in told.err
    assert told.err.splitlines()[-1].startswith("relink plan: error: too little device memory in plan of audit: expected at most 104.9 KiB, found ")


@pytest.mark.usefixtures("by_formula")
def test_an_audit_is_every_arm_of_every_model(capsys):
    assert relink("plan", "audit", *SMALL, "--dim=10", "--config.audit.attacks=csls", "--config.audit.measures=tiers") == 0
    told = {line[2:].split("  ")[0].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert "  11  " in told["passes of the run"]
    assert "at most 49 " in told["further passes"]  # csls 4 and tiers 3, for seven arms that are no redraws
    flop = 2 * 90 * 60 * 10 * (11 * 2 + 49)
    assert f"{flop / 1e6:.1f} MFLOP" in told["arithmetic of the run"]
    assert "not probed" in told["time"]


@pytest.mark.usefixtures("by_formula")
def test_time_is_arithmetic_at_the_speed_of_a_probe(monkeypatch, capsys):
    monkeypatch.setattr(probe, "reached", lambda *_: probe.Speed(2e6, 0.5))
    monkeypatch.setattr(tower_probe, "seconds_per_row", lambda spec, kind, *_, **__: {"image": 0.5, "text": 0.25}[kind])
    sizes = [word for word in SMALL if word != "--notimed"]
    assert relink("plan", *sizes, "--dim=10", "--config.audit.attacks=", "--config.audit.measures=", "--config.heads.mechanism.iterations=2") == 0
    audit, embed, heads = (text.split("\n") for text in capsys.readouterr().out.split("\n\n"))
    times = [[" ".join(line.split()) for line in part if line.startswith("  time")] for part in (audit, embed, heads)]
    assert times[0][0].startswith(f"time {2 * 90 * 60 * 10 / 1e6:.2g} s arithmetic")
    assert times[0][1].startswith(f"time of the run at most {11 * 2 * 2 * 90 * 60 * 10 / 1e6:.2g} s")
    assert times[1][0].startswith("time of the run 4 min at")  # four models, 90 images of 0.5 s and 60 texts of 0.25 s
    (spent,) = times[2]
    assert spent.startswith("time ")
    assert "of the clipped sums" in spent


@pytest.mark.usefixtures("by_formula")
def test_memory_of_the_host_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(room, "memory", lambda: 8 * 2**20)  # what eight devices of a MiB take, and no byte for the host's own
    assert relink("plan", "embed", *SMALL) == 2
    assert "too little host memory in plan of embed: expected at most 8.0 MiB" in capsys.readouterr().err


def test_a_model_of_ones_own_is_as_wide_as_the_packaged_ones_until_it_is_there():
    config = config_lib.RunConfig(models=("mine",), mitigate="mine")
    mine = plan_sizes.model_of(config, "mine")
    assert (mine.dim, mine.encoders, mine.whole, len(mine.arms)) == (64, (), 4, 8)
    with pytest.raises(errors.UsageError, match="unknown model"):
        plan_sizes.model_of(config, "mine", known=True)


@pytest.mark.parametrize("name", ["a" * 300, "~nobody-of-this-name/w"])
def test_a_workdir_that_can_be_none_is_a_wrong_argument(capsys, name):
    assert relink("plan", *SMALL, f"--workdir={name}") == 2
    assert "workdir in --workdir: expected a path that a directory can have" in capsys.readouterr().err


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir with a cohort alone."""
    path = tmp_path_factory.mktemp("plan") / "w"
    assert relink("cohort", "--config.cohort.phantom.n_patients=24", f"--workdir={path}") == 0
    return path


def _tree(path):
    return {file.relative_to(path): file.stat().st_mtime_ns for file in path.rglob("*")}


def test_a_plan_reads_a_workdir_in_use_and_writes_nothing_there(workdir, by_formula, capsys):
    config = cli.load_config(workdir / "config.json")
    with context.opened(config, workdir) as found:
        before, cohort = _tree(workdir), context.load_cohort(found)
        assert relink("plan", f"--workdir={workdir}", "--notimed") == 0
        assert _tree(workdir) == before
    told = capsys.readouterr().out
    assert f"{len(cohort.image_key):,} images, {len(cohort.text):,} texts" in told
    for one in context.evaluation_sets(config, cohort):
        studies, texts = len(one.selection.studies), len(np.unique(cohort.study_text[one.selection.studies]))
        assert f"{one.name}, {len(one.selection.images):,} images, {studies:,} studies, {texts:,} texts" in told
    trained = cohort.select(split="train")
    assert f"training pairs         {len(trained.images):,} " in told


def test_a_full_disk_is_seen_before_anything_is_computed(workdir, by_formula, monkeypatch, capsys):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40 - 5000, 5000))
    assert relink("plan", "embed", f"--workdir={workdir}", "--notimed") == 74
    assert "too little disk in plan of embed: expected at most 4.9 KiB" in capsys.readouterr().err
    config = cli.load_config(workdir / "config.json")
    with context.opened(config, workdir) as found, pytest.raises(errors.StoreError, match="too little disk in plan of audit"):
        plan_short.announce("audit", config, found, context.load_cohort(found))


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ("embed", "with 4 models; "),
        ("audit", "22 counting passes of up to "),
        ("heads", "60 noisy steps; epsilon to be spent 0.34, at delta 6e-06, per patient, zero-out, by dp"),
        ("probe", "7 sets of heads on 2 evaluation sets"),
    ],
)
def test_a_stage_says_in_a_few_lines_what_it_will_spend_and_compiles_nothing(workdir, monkeypatch, capsys, stage, told):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(tower_probe, "device_bytes", refuse)
    monkeypatch.setattr(shapes, "compiled", refuse)
    said = []
    monkeypatch.setattr(progress, "say", said.append)
    found, config = plan_sizes.without_lock(str(workdir)), cli.load_config(workdir / "config.json")
    plan_short.announce(stage, config, found, context.load_cohort(found))
    (text,) = said
    assert text.startswith(f"plan of {stage}: ")
    assert told in text
    assert 2 <= len(text.splitlines()) <= 4
    assert "needs at most " in text


def test_embeddings_brought_along_are_counted_as_an_audit_counts_them(tmp_path, by_formula, capsys):
    rows = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    ids = np.arange(20)
    given = {"images": rows, "texts": rows[ids // 2], "image_study": np.arange(30) % 20, "text_study": ids, "patient": ids // 2}
    for name, array in given.items():
        np.save(tmp_path / f"{name}.npy", array)
    assert relink("plan", f"--embeddings={tmp_path}", "--notimed") == 0
    told = capsys.readouterr().out
    assert "the embeddings brought along: all, 30 images, 20 studies, 10 texts" in told
    assert "30 x 20, D = 6" in told
    assert "plan of embed" not in told
    config = config_lib.RunConfig(embeddings=str(tmp_path))
    prepared = inputs.prepare(**importer.load_embeddings(tmp_path))
    assert plan_sizes.of_inputs(config, prepared).sets[0].sizes() == (len(prepared.images), len(prepared.study_text), len(prepared.texts)) == (30, 20, 10)
