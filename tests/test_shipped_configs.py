"""The shipped configurations of the full study, end to end on generated trees: a user with access only sets the roots."""

import dataclasses
import json
import pathlib
import random

import against_oracle as against
import generated
import pytest

from relink_jax import cli, study
from relink_jax.encoders import published

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn")
GOLDENS = against.TESTS / "goldens"
GOLDEN_OF = {
    **{"clip-vit-b-32": "clip-hf", "pubmedclip": "pubmedclip", "biomedclip": "biomedclip", "medsiglip-448": "siglip", "biovil-t": "biovil-t"},
    **{"chexzero": "chexzero", "cxr-clip-swin-t": "cxr-clip-swin", "medclip-swin-t": "medclip-swin", "xrayclip-vit-b-16": "xrayclip", "gloria": "gloria"},
}
FAST = [
    *("--config.audit.attacks=", "--config.audit.measures="),
    *("--config.audit.bootstrap_replicates=100", "--config.audit.pool_sizes=5,10", "--config.audit.ks=1", "--config.embed.batch_size=16"),
    *("--config.heads.mechanism.iterations=2", "--config.heads.noise_draws=1", "--config.embed.anchors=16", "--config.probe.bootstrap_replicates=100"),
    *("--config.probe.max_iterations=20", "--config.report.headline_pool=10"),
]
STUDIES = [name for name in cli.config_names() if not name.startswith("demo")]


def relink(*words):
    return cli.main(list(words))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Returns (roots of the trees as flags of a run on one archive, and what CheXpert Plus adds)."""
    root = tmp_path_factory.mktemp("trees")
    shared = ["--patients=40", "--config.cohort.phantom.image_size=48"]
    mimic = generated.write("mimic_cxr", root / "mimic", *shared)
    chexpert = generated.write("chexpert_plus", root / "chexpert", *shared, "--config.cohort.phantom.seed=8")
    return tuple([flag for flag in flags if not flag.startswith("--config.cohort.source=")] for flags in (mimic, chexpert))


def _letters(count, seed):
    """Public texts that a tower of 12 letters tells apart."""
    return [" ".join(random.Random(f"{seed} {index}").choices("abcdefghijklmnopqrstuvwxyz", k=9)) for index in range(count)]


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Returns a directory of small checkpoints in the published layouts, under the names of the models."""
    monkeypatch.setattr("relink_jax.stages.embed.phantom.anchor_texts", _letters)
    for name, family in GOLDEN_OF.items():
        directory = GOLDENS / family
        geometry = against.spec_of(directory, family, json.loads((directory / "oracle.json").read_text()))
        changed = {field: getattr(geometry, field) for field in ("image", "text", "dim")}
        monkeypatch.setitem(published.MODELS, name, dataclasses.replace(published.MODELS[name], recipe="", **changed))
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "checkpoints" / name).symlink_to(directory)
    return tmp_path / "checkpoints"


def test_every_model_of_the_study_is_published_and_on_its_rung():
    rungs = (study.GENERAL, study.BIOMEDICAL, study.MEDICAL, study.CHEST_XRAY)
    assert set(study.ALL) == set(GOLDEN_OF)
    assert len(study.ALL) == 10
    for rung, models in enumerate(rungs):
        assert {published.MODELS[name].rung for name in models} == {rung}
    assert [published.MODELS[name].rung for name in study.LADDER] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", STUDIES)
def test_only_the_roots_are_the_users_to_set(name, roots, capsys):
    config = cli.load_config(cli.config_path(name))
    assert relink("cohort", f"--config={name}", "--workdir=nowhere") == 2
    assert "config field 'cohort.mimic_cxr.images'" in capsys.readouterr().err
    assert not pathlib.Path("nowhere").exists()
    assert config.heads.mechanism.target_epsilon == 0.34
    assert config.heads.mechanism.target_delta == 6e-6


@pytest.mark.slow  # tests/test_real_cohorts_layouts.py audits every layout, tests/test_road.py takes the whole road
@pytest.mark.parametrize("name", STUDIES)
def test_the_whole_road(name, roots, checkpoints, tmp_path):
    config = cli.load_config(cli.config_path(name))
    places = [*roots[0], *(roots[1] if "chexpert_plus" in config.cohort.sources else [])]
    workdir = tmp_path / "w"
    models = ["--config.models=clip-vit-b-32,biovil-t"] if name == "chexpert_external" else []  # two of the ladder; the slow cases take all
    flags = [f"--config={name}", *places, f"--config.checkpoints={checkpoints}", *FAST, *models, f"--workdir={workdir}"]
    assert relink("demo", *flags) == 0
    results = {path.stem: json.loads(path.read_text()) for path in (workdir / "results").glob("*__*.json")}
    audited = set(models[0].partition("=")[2].split(",")) if models else set(config.models)
    assert {one["model"]["name"] for one in results.values()} == audited
    sets = {one["data"]["name"] for one in results.values()}
    expected = {
        "full_sweep": {"mimic-chexpert-joined"},
        "chexpert_external": {"mimic-chexpert-MIMIC-CXR-test", "mimic-chexpert-CheXpert-Plus-external"},
    }
    assert sets == expected.get(name, {"mimic-MIMIC-CXR-test"})
    assert {one["data"]["synthetic"] for one in results.values()} == {True}
    arms = {one["model"]["head"] for one in results.values() if one["model"]["name"] == config.mitigate}
    assert arms == ({"original", "random", "dp", "noise_only"} if config.mitigate else set())
    for one in results.values():
        assert sum(one["data"]["exposure"].values()) == one["data"]["n_studies"]
        if one["model"]["dp"]:
            assert one["model"]["dp"]["epsilon"] <= 0.34 + 1e-6
    assert (workdir / "report" / "index.html").exists()
    assert relink("report", "--check", f"--workdir={workdir}") == 0


def test_a_checkpoint_that_is_not_there_is_named(roots, tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    flags = ["--config=rung_1_biomedical", *roots[0], f"--config.checkpoints={tmp_path / 'checkpoints'}", f"--workdir={tmp_path / 'w'}"]
    assert relink("convert", *flags) == 65
    told = capsys.readouterr().err
    assert "'pubmedclip' in directory 'checkpoints' of config field 'checkpoints'" in told
    assert "found none" in told
