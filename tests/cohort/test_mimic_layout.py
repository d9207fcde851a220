"""The written MIMIC-CXR tree: what the adapter reads back from it, and the form that is published."""

import csv
import gzip
import re

import numpy as np
import pytest
from PIL import Image

from relink_jax import errors
from relink_jax.cohort import mimic_cxr, reports, sections
from relink_jax.cohort.layouts import exams
from relink_jax.cohort.layouts import mimic_cxr as layout
from relink_jax.cohort.schema import BLANK, LABELS
from relink_jax.config import PhantomConfig


@pytest.fixture(scope="module")
def population():
    config = PhantomConfig(n_patients=60, image_size=32)
    return list(exams.exams(config))


@pytest.fixture(scope="module")
def roots(population, tmp_path_factory):
    return layout.write(population, tmp_path_factory.mktemp("published"))


def lines(path):
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def test_every_study_comes_back(population, roots):
    pairs = mimic_cxr.read(*roots)
    rows = {row["image_id"]: row for row in (dict(zip(pairs.columns, cells, strict=True)) for cells in zip(*pairs.columns.values(), strict=True))}
    assert len(rows) == len(pairs) == sum(len(exam.shots) for exam in population)
    for exam in population:
        subject, study, dicoms = layout.names(exam)
        for dicom, shot in zip(dicoms, exam.shots, strict=True):
            row = rows[dicom]
            assert (row["patient_id"], row["study_id"], row["view"], row["split"], row["study_order"]) == (
                subject,
                study,
                shot.view,
                exam.split,
                str(exam.order),
            )
            assert (reports.normalise(row["findings"]), reports.normalise(row["impression"])) == (exam.findings, exam.impression)
            assert reports.normalise(row["labelled_text"]) == (exam.impression or exam.findings)
            codes = [int(row[label]) if row[label] else BLANK for label in LABELS]
            assert codes == (list(exam.labels) if exam.has_labels else [BLANK] * 14)
            assert bool(row["label_source"]) == (exam.has_labels and any(code != BLANK for code in exam.labels))
            with Image.open(roots[0] / row["image_path"]) as picture:
                assert picture.format == "JPEG"
                np.testing.assert_array_equal(np.asarray(picture), shot.pixels())


def test_the_population_tries_what_the_rule_could_break(population):
    """Headers inside sections, studies without text, without labels, of every view and split."""
    assert any(re.search(r"[A-Z]:", exam.findings) for exam in population)
    assert any(not exam.findings and exam.impression for exam in population) or any(exam.findings and not exam.impression for exam in population)
    assert any(not exam.has_labels for exam in population)
    assert {shot.view for exam in population for shot in exam.shots} == {"PA", "AP", "LATERAL"}
    assert {exam.split for exam in population} == {"train", "validate", "test"}


@pytest.mark.parametrize(("compressed", "zipped"), [(False, False), (True, True), (False, True)])
def test_other_forms_read_the_same(population, roots, tmp_path, compressed, zipped):
    found = mimic_cxr.read(*layout.write(population, tmp_path, compressed=compressed, zipped=zipped))
    expected = mimic_cxr.read(*roots)
    assert (found.columns, found.counts) == (expected.columns, expected.counts)


@pytest.mark.parametrize("labels", ["negbio", "radiologist"])
def test_the_other_label_tables_agree(roots, labels):
    found, expected = mimic_cxr.read(*roots, labels=labels).columns, mimic_cxr.read(*roots).columns
    kept = [row for row, source in enumerate(expected["label_source"]) if source and (labels == "negbio" or expected["split"][row] == "test")]
    assert [row for row, source in enumerate(found["label_source"]) if source] == kept
    assert all(found[label][row] == expected[label][row] for label in LABELS for row in kept)


def test_tables_have_the_published_names_and_columns(roots):
    images, texts = roots
    assert {path.name for path in images.iterdir()} == {
        *("IMAGE_FILENAMES", "files", "mimic-cxr-2.0.0-metadata.csv.gz", "mimic-cxr-2.0.0-split.csv.gz"),
        *("mimic-cxr-2.0.0-chexpert.csv.gz", "mimic-cxr-2.0.0-negbio.csv.gz", "mimic-cxr-2.1.0-test-set-labeled.csv"),
    }
    assert {path.name for path in texts.iterdir()} == {"files", "cxr-record-list.csv.gz", "cxr-study-list.csv.gz"}
    assert lines(images / "mimic-cxr-2.0.0-chexpert.csv.gz")[0] == ["subject_id", "study_id", *sorted(LABELS)]
    assert lines(texts / "cxr-record-list.csv.gz")[0] == ["subject_id", "study_id", "dicom_id", "path"]
    listed = (images / "IMAGE_FILENAMES").read_text().split()
    assert sorted(listed) == sorted(path.relative_to(images).as_posix() for path in images.rglob("*.jpg"))
    assert all(re.fullmatch(r"files/p1\d/p1\d{7}/s5\d{7}/[0-9a-f]{8}(-[0-9a-f]{8}){4}\.jpg", name) for name in listed)
    reported = [row[2] for row in lines(texts / "cxr-study-list.csv.gz")[1:]]
    assert sorted(reported) == sorted(path.relative_to(texts).as_posix() for path in texts.rglob("*.txt"))
    times = [row[8] for row in lines(images / "mimic-cxr-2.0.0-metadata.csv.gz")[1:]]
    assert any(float(time) < 100_000 for time in times)
    assert not any(time.startswith("0") and float(time) >= 1 for time in times)


def test_reports_have_the_published_form(roots):
    for path in roots[1].rglob("*.txt"):
        text = path.read_text()
        found = text.split("\n")
        assert found[0].strip() == "FINAL REPORT"
        assert found[-1] == ""
        assert all(len(line) <= layout.WIDTH and line.startswith(" ") for line in found[:-1])
        assert sum(line == " " for line in found) == text.count("\n \n") > 0


def test_files_are_private(roots):
    assert {path.stat().st_mode & 0o777 for root in roots for path in root.rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for root in roots for path in root.rglob("*") if path.is_dir()} == {0o700}


@pytest.mark.parametrize("width", range(30, 80, 7))
def test_no_line_starts_like_a_header(monkeypatch, width):
    monkeypatch.setattr(layout, "WIDTH", width)
    body = "HEART: normal. LUNGS AND PLEURA: no effusion. LINES AND DEVICES: the tube ends well. BONES: old fracture. " * 3
    said = sections.conclusions(layout.report(body, "LUNGS: clear."))
    assert (reports.normalise(said.findings), reports.normalise(said.impression)) == (body.strip(), "LUNGS: clear.")


def test_a_text_that_cannot_be_written_is_refused():
    with pytest.raises(errors.DataError, match="sections that the official rule finds again"):
        layout.report(f"{'A ' * 60}B: text", "")
