"""BioViL-T's two-image mode through the command line: a table that names priors, convert, embed beside them, audit and page."""

import dataclasses
import json
import shutil

import against_oracle as against
import numpy as np
import pytest
from own_archive import archive, write

from relink_jax import cli, heads
from relink_jax.cohort import schema
from relink_jax.encoders import published
from relink_jax.store import shards

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn")  # the arithmetic of what is compiled here is tested elsewhere

FAST = [
    "--config.audit.attacks=",
    "--config.audit.measures=",
    "--config.audit.bootstrap_replicates=100",
    "--config.audit.pool_sizes=3",
    "--config.audit.ks=1",
    "--config.embed.batch_size=8",
    "--config.mitigate=",
]
NAME = "biovil-t"
TABLE = "--config.embed.prior=table"


def rows_of(root, priors=True):
    """Rows of a pairs table in which a patient's second image has the first as its prior."""
    rows = [{**row, "findings": f"{chr(97 + index)} left lung"} for index, row in enumerate(archive(root))]
    return [{**row, "prior_image_id": f"im{index - 1}" if index % 2 and priors else ""} for index, row in enumerate(rows)]


@pytest.fixture(scope="module", autouse=True)
def small():
    """Gives the entry the geometry and the preprocessing of its golden."""
    directory = against.TESTS / "goldens" / NAME
    geometry = against.spec_of(directory, NAME, json.loads((directory / "oracle.json").read_text()))
    changed = {field: getattr(geometry, field) for field in ("image", "text", "dim")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(published.MODELS, NAME, dataclasses.replace(published.MODELS[NAME], recipe="", **changed))
        yield directory


@pytest.fixture(scope="module")
def converted(tmp_path_factory, small):
    """A workdir with a cohort of 12 images, half of them with a prior, and the converted model."""
    root = tmp_path_factory.mktemp("prior")
    assert cli.main(["cohort", *write(root, rows_of(root))]) == 0
    assert cli.main(["convert", f"--model={NAME}", f"--source={small}", f"--workdir={root / 'w'}"]) == 0
    return root / "w"


@pytest.fixture(scope="module")
def embedded(converted, tmp_path_factory):
    """Copies of the workdir with features of every image alone, and beside its prior."""
    made = {}
    for mode in ("none", "table"):
        made[mode] = tmp_path_factory.mktemp(mode) / "w"
        shutil.copytree(converted, made[mode])
        assert cli.main(["embed", *FAST, f"--config.embed.prior={mode}", f"--workdir={made[mode]}"]) == 0
    return made


def read(workdir):
    return shards.read(workdir / "features" / NAME / "images")["features"]


def test_features_hold_both_halves_and_rows_without_a_prior_keep_their_embedding(embedded, converted):
    alone, both = read(embedded["none"]), read(embedded["table"])
    prior = schema.load(converted / "cohort", converted).image_prior
    assert prior.tolist() == [-1, 0, -1, 2, -1, 4, -1, 6, -1, 8, -1, 10]
    assert both.shape == (*alone.shape[:2], 2 * alone.shape[2])
    np.testing.assert_allclose(both[..., : alone.shape[2]], alone, atol=1e-5)
    head = heads.load(converted / "heads" / NAME / "original")[0]["image"]
    np.testing.assert_array_equal(both[prior < 0, 0, alone.shape[2] :], np.tile(head["missing"], (6, 1)))
    same, other = (np.asarray(heads.project(head, features)) for features in (alone, both))
    np.testing.assert_allclose(same[prior < 0], other[prior < 0], atol=2e-6)
    assert np.abs(same[prior >= 0] - other[prior >= 0]).max(axis=1).min() > 1e-4


def test_results_and_page_say_that_priors_were_shown(embedded):
    documents, pages = {}, {}
    for mode, workdir in embedded.items():
        for stage in ("audit", "report"):
            assert cli.main([stage, *FAST, f"--config.embed.prior={mode}", f"--workdir={workdir}"]) == 0
        documents[mode] = json.loads((workdir / "results" / f"{NAME}__original__pairs-A-test.json").read_text())
        pages[mode] = next(workdir.rglob("*.html")).read_text()
    sentence = "6 of 12 images were embedded beside the prior image that the table names, not each image alone"
    assert documents["none"]["model"]["encoding"] == {"precision": "float32", "dtype": "float32"}
    assert documents["table"]["model"]["encoding"] == {"precision": "float32", "dtype": "float32", "prior": "table", "images_with_prior": "6 of 12"}
    assert [sentence in documents[mode]["warnings"] for mode in ("none", "table")] == [False, True]
    assert [sentence in pages[mode] for mode in ("none", "table")] == [False, True]
    assert documents["none"]["model"]["features_sha256"] != documents["table"]["model"]["features_sha256"]


@pytest.mark.parametrize(("mode", "other"), [("none", "table"), ("table", "none")])
def test_the_other_mode_needs_a_fresh_workdir(embedded, capsys, mode, other):
    capsys.readouterr()
    assert cli.main(["embed", *FAST, f"--config.embed.prior={other}", f"--workdir={embedded[mode]}"]) == 74
    assert "inputs changed in shards 'images': expected the inputs it was started with, found different images_with_prior, prior" in capsys.readouterr().err


def test_an_unknown_mode_is_refused(converted, capsys):
    assert cli.main(["embed", "--config.embed.prior=tabel", f"--workdir={converted}"]) == 2
    assert "'embed.prior': expected one of none, table, found 'tabel'; did you mean 'table'?" in capsys.readouterr().err


def test_a_cohort_without_priors_is_said_and_embedded_alone(tmp_path, small, capsys, embedded):
    assert cli.main(["cohort", *write(tmp_path, rows_of(tmp_path, priors=False))]) == 0
    assert cli.main(["convert", f"--model={NAME}", f"--source={small}", f"--workdir={tmp_path / 'w'}"]) == 0
    capsys.readouterr()
    assert cli.main(["embed", *FAST, TABLE, f"--workdir={tmp_path / 'w'}"]) == 0
    assert "but no image has a prior in the cohort (column prior_image_id of its table): every image is embedded alone" in capsys.readouterr().err
    np.testing.assert_allclose(read(tmp_path / "w"), read(embedded["none"]), atol=1e-5)


def test_models_that_compare_nothing_are_left_as_they_are_and_said(tmp_path, capsys):
    workdir, flags = tmp_path / "w", ["--config.models=phantom-0-untrained", "--config.mitigate=", "--config.embed.anchors=2"]
    assert cli.main(["cohort", *write(tmp_path, rows_of(tmp_path))]) == 0
    assert cli.main(["convert", *flags, f"--workdir={workdir}"]) == 0
    assert cli.main(["embed", *flags, f"--workdir={workdir}"]) == 0
    kept = {path.name: path.read_bytes() for path in (workdir / "features" / "phantom-0-untrained" / "images").iterdir()}
    capsys.readouterr()
    assert cli.main(["embed", *flags, TABLE, f"--workdir={workdir}"]) == 0
    assert "embed.prior is 'table', but no model here compares images: every image is embedded alone" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (workdir / "features" / "phantom-0-untrained" / "images").iterdir()} == kept
