"""Builders of tensorflow-datasets: one archive each, without TensorFlow, and silent about what they hold."""

import sys

import archives
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.cohort import builders, examples, images, schema

SITES = ("MIMIC-CXR", "CheXpert-Plus", "Open-I", "Other")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return archives.source(tmp_path_factory.mktemp("archive"), 20, sites=SITES)


@pytest.mark.parametrize("name", list(builders.ARCHIVES))
def test_each_has_the_studies_of_its_archive(source, tmp_path, name, capfd):
    made = builders.builder(name, source, tmp_path / "tfds")
    builders.prepare(made)
    cohort, site = source.cohort(), builders.ARCHIVES[name].site
    rows = np.flatnonzero(cohort.study_site[cohort.image_study] == site) if site else range(len(cohort.image_key))
    found = [examples.plain(record) for split in made.info.splits for record in made.as_data_source(split)]
    assert sorted(record["image_key"] for record in found) == sorted(cohort.image_key[list(rows)])
    for record in found[:5]:
        row = record["index"]
        assert record["text"] == cohort.text[cohort.study_text[cohort.image_study[row]]]
        np.testing.assert_array_equal(examples.brightness(record, "a record"), images.read_image(archives.files_of(cohort, source)[row]))
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "tfds").rglob("*")} == {0}
    assert not [path for path in (tmp_path / "tfds").rglob("*") if "CANARY" in path.name]
    assert "CANARY" not in "".join(capfd.readouterr())
    assert "tensorflow" not in sys.modules


def test_no_data_directory_an_open_one_and_other_names_are_refused(source, tmp_path):
    for nowhere in ("", "."):
        with pytest.raises(errors.UsageError, match="data_dir in builders"):
            builders.builder("open_i", source, nowhere)
    with pytest.raises(errors.UsageError, match="did you mean 'open_i'"):
        builders.builder("openi", source, tmp_path)
    tmp_path.chmod(0o755)
    with pytest.raises(errors.StoreError, match="chmod 700"):
        builders.builder("open_i", source, tmp_path)


def test_a_site_without_images_is_refused(tmp_path):
    with pytest.raises(errors.DataError, match="images in cohort, site 'Open-I': expected at least one, found none"):
        builders.builder("open_i", archives.source(tmp_path), tmp_path / "tfds")


def test_duplicate_keys_are_refused_before_tfds_can_log_them(source, tmp_path, monkeypatch, caplog, capfd):
    cohort = source.cohort()
    monkeypatch.setattr(schema.Cohort, "__post_init__", lambda self: None)
    twice = schema.dataclasses.replace(cohort, image_key=np.array([cohort.image_key[0]] * len(cohort.image_key)))
    monkeypatch.setattr(builders.Source, "cohort", lambda self: twice)
    with pytest.raises(errors.DataError, match="duplicate image keys in cohort: expected distinct ones, found 39 repeated"):
        builders.builder("pairs_table", source, tmp_path / "tfds")
    assert "CANARY" not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("failing", "kind", "told"),
    [
        (lambda record: record | {"text": f"{archives.SECRET} \udc80"}, errors.DataError, "record not encoded in image 1 of the cohort"),
        (lambda record: record | {"labels": archives.SECRET}, errors.DataError, "feature 'labels' in image 1"),
        (lambda record: 1 / len(record["absent"]), errors.StoreError, "found KeyError"),
    ],
)
def test_what_fails_inside_leaves_without_the_example(source, tmp_path, monkeypatch, capfd, caplog, failing, kind, told):
    honest = examples.example
    monkeypatch.setattr(examples, "example", lambda *given: failing(honest(*given)))
    made = builders.builder("pairs_table", source, tmp_path / "tfds")
    with pytest.raises(kind, match=told) as caught:
        builders.prepare(made)
    assert caught.value.__context__ is None
    assert "CANARY" not in "".join((str(caught.value), *capfd.readouterr(), caplog.text))


def test_an_error_of_tfds_own_encoding_is_scrubbed(source, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setattr(examples, "serialised", lambda record, where: b"")  # as if a value passed that TFDS cannot encode
    honest = examples.example
    monkeypatch.setattr(examples, "example", lambda *given: honest(*given) | {"labels": [archives.SECRET] * 14})
    made = builders.builder("pairs_table", source, tmp_path / "tfds")
    with pytest.raises(errors.StoreError, match="dataset not written in builders") as caught:
        builders.prepare(made)
    assert caught.value.__context__ is None
    assert "CANARY" not in "".join((str(caught.value), *capfd.readouterr(), caplog.text))
