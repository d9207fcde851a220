"""What a run is told before it spends: the plan of a named model."""

import dataclasses
import json

import against_oracle as against
import pytest
from own_archive import archive, write

from relink_jax import cli
from relink_jax import config as config_lib
from relink_jax.encoders import published
from relink_jax.stages import plan

pytestmark = pytest.mark.usefixtures("quick_module")  # the arithmetic of what is compiled here is tested elsewhere

FAST = [
    "--config.audit.attacks=",
    "--config.audit.measures=",
    "--config.audit.bootstrap_replicates=100",
    "--config.audit.pool_sizes=3",
    "--config.audit.ks=1",
    "--config.embed.batch_size=8",
]


def relink(*words):
    return cli.main(list(words))


def planned(model=None, **changed):
    config = config_lib.RunConfig()
    for path, value in changed.items():
        setattr(config.embed, path, value)
    lines = plan.run(config, "", ["embed"], images="1000", studies="500", model=model)["embed"]
    return {line.what: line for line in lines}


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


def test_vectors_stay_float32_and_weights_follow_the_precision():
    plain, low = planned("clip-vit-b-32"), planned("clip-vit-b-32", map_dtype="float16", precision="bf16")
    assert plain["features per image"] == low["features per image"]
    assert plain["features per image"].value == "3,072 B"
    assert (plain["weights in memory"].value, low["weights in memory"].value) == ("574.6 MiB", "287.3 MiB")


def test_without_a_model_the_packaged_ones_are_planned(capsys):
    assert planned()["model"].value.startswith("phantom-")
    assert planned()["image tower"].value == "631,040 parameters, 21.6 MFLOP per image"
    assert relink("plan", "audit", "--model=gloria") == 0
    assert "D = 768" in capsys.readouterr().out
    assert relink("plan", "audit", "--model=gloria", "--dim=12") == 0
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
