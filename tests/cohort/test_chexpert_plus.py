"""CheXpert Plus: a generated tree with every oddity of the archive, the forms of its images, its labels, and what is refused."""

import gzip
import json
import resource
import time

import pytest
from archive_checks import assert_same_as_exams, exam_list, picture, refused, rows_of, rows_or_none, write_csv, write_parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relink_jax import errors
from relink_jax.cohort import chexpert_plus
from relink_jax.cohort.layouts import chexpert_plus as layout
from relink_jax.cohort.schema import LABELS

A, B = "patient10001", "patient10002"
LONG = 'FINDINGS:\nTwo lines,\n"quoted" words.\n\nIMPRESSION:\n1. Clear.'


def row_of(path, **cells):
    """One row as the table has them; blank where nothing is said."""
    split, patient, _, name = path.split("/")
    lateral = "lateral" in name
    basic = {"path_to_image": path, "path_to_dcm": path.replace(".jpg", ".dcm"), "frontal_lateral": "Lateral" if lateral else "Frontal"}
    basic |= {"deid_patient_id": patient, "split": split, "age": "61", "sex": "Male", "patient_report_date_order": "1"}
    return {column: (basic | cells).get(column, "") for column in layout.COLUMNS}


def table_rows():
    """Two images of one study with its texts twice, anonymised otherwise; a lateral, LL, RL and a null view; null findings; restarting studies."""
    report = "ANONYMIZED REPORT OF A STUDY\nACCESSION NUMBER: AB1234\n" + LONG + "\n(AB1234)"
    texts = {"report": report, "section_findings": 'Two lines,\n"quoted" words.', "section_impression": "1. Clear."}
    accession = {"section_accession_number": "AB1234"}
    plain = {"report": "IMPRESSION:\nNormal.", "section_impression": "Normal."}
    return [
        row_of(f"train/{A}/study1/view1_frontal.jpg", ap_pa="AP", **texts, **accession),
        row_of(f"train/{A}/study1/view2_lateral.jpg", **(texts | {"report": report.replace("Two", "2")}), **accession),
        row_of(f"train/{A}/study2/view1_frontal.jpg", ap_pa="PA", **plain, age="62.0"),
        row_of(f"train/{B}/study1/view1_frontal.jpg", ap_pa="LL", **plain, section_accession_number="7"),
        row_of(f"valid/{B}x/study1/view1_frontal.jpg".replace("x", "1"), ap_pa="RL", **plain),
        row_of("valid/patient10003/study1/view1_frontal.jpg", report="No sections 7."),
    ]


def label_line(path, **codes):
    values = {label: codes.get(label.replace(" ", "_")) for label in (*LABELS[1:], LABELS[0])}
    return json.dumps({"path_to_image": path} | values)


def tree(tmp_path, *, images="PNG/PNG", ending=".png", missing=("study2",)):
    """Writes table, images and labels; the images of `missing` are not there and the first study's second image has other labels."""
    rows = table_rows()
    table = write_csv(tmp_path / "df_chexpert_plus_240401.csv", rows)
    for row in rows:
        if not any(part in row["path_to_image"] for part in missing):
            picture(tmp_path / "root" / images / row["path_to_image"].replace(".jpg", ending))
    paths = [row["path_to_image"] for row in rows]
    for source, level in (("report", 1.0), ("findings", 0.0), ("impression", -1.0)):
        lines = [label_line(paths[0], Edema=level, Pneumonia=-1.0), label_line(paths[1], Edema=None), label_line(paths[2], No_Finding=1), label_line(paths[4])]
        folder = tmp_path / "chexbert_labels"
        folder.mkdir(exist_ok=True)
        (folder / f"{source}_fixed.json").write_text("\n".join([*lines, label_line("train/patient19999/study1/view1_frontal.jpg")]) + "\n")
    return table, tmp_path / "root", tmp_path / "chexbert_labels"


def expected(path, view, **cells):
    """The row that a path of the PNG tree gives."""
    split, patient, study, _ = path.split("/")
    row = {"image_path": f"PNG/PNG/{path}.png", "image_id": path, "patient_id": patient, "study_id": f"{patient}/{study}", "report_id": f"{patient}/{study}"}
    row |= {"view": view, "split": {"train": "train", "valid": "validate"}[split], "origin": f"chexpert-plus/{split}", "site": "CheXpert-Plus"}
    return row | {"age_years": "61", "sex": "Male"} | cells


def test_every_oddity_gives_its_row(tmp_path):
    table, root, labels = tree(tmp_path)
    pairs = chexpert_plus.read(table, root, labels=labels)
    texts = {"findings": 'Two lines,\n"quoted" words.', "impression": "1. Clear.", "report_text": LONG + "\n()", "labelled_text": LONG + "\n()"}
    plain = {"impression": "Normal.", "report_text": "IMPRESSION:\nNormal.", "labelled_text": "IMPRESSION:\nNormal."}
    codes = {"Edema": "1", "Pneumonia": "-1", "label_source": "chexbert/report"}
    assert rows_of(pairs) == [
        expected(f"train/{A}/study1/view1_frontal", "AP", **texts, **codes),
        expected(f"train/{A}/study1/view2_lateral", "LATERAL", **texts, **codes),
        expected(f"train/{A}/study2/view1_frontal", "PA", **(plain | {"age_years": "62.0", "No Finding": "1", "label_source": "chexbert/report"})),
        expected(f"train/{B}/study1/view1_frontal", "FRONTAL", **plain),
        expected(f"valid/{B}1/study1/view1_frontal", "FRONTAL", **plain, label_source="chexbert/report"),
        expected("valid/patient10003/study1/view1_frontal", "FRONTAL", report_text="No sections 7.", labelled_text="No sections 7."),
    ]
    assert pairs.counts == {
        "rows_read": 6,
        "archive_studies": 5,
        "images_as_png": 6,
        "studies_with_differing_texts": 1,
        "notices_removed": 1,
        "accession_numbers_removed": 1,
        "frontal_called_lateral": 2,
        "studies_unlabelled": 2,
        "studies_with_differing_labels": 1,
        "label_lines_unused": 1,
    }
    assert (pairs.name, pairs.image_root) == ("CheXpert-Plus", root)
    assert pairs.columns["report_text"][0] is pairs.columns["report_text"][1]


@pytest.mark.parametrize(("source", "text", "code"), [("findings", 'Two lines,\n"quoted" words.', "0"), ("impression", "1. Clear.", "-1")])
def test_the_label_source_chooses_the_file_and_the_text(tmp_path, source, text, code):
    table, root, _ = tree(tmp_path)
    columns = chexpert_plus.read(table, root, labels=tmp_path, label_source=source).columns
    assert (columns["labelled_text"][0], columns["Edema"][0], columns["label_source"][0]) == (text, code, f"chexbert/{source}")
    assert columns["labelled_text"][5] == ""


def test_without_labels_nobody_labelled(tmp_path):
    table, root, _ = tree(tmp_path)
    columns = chexpert_plus.read(table, root).columns
    assert {cell for name in (*LABELS, "label_source") for cell in columns[name]} == {""}


def test_gzip_parquet_and_other_columns_give_the_same_rows(tmp_path):
    table, root, labels = tree(tmp_path)
    whole = chexpert_plus.read(table, root, labels=labels)
    rows = [{"": str(number)} | row for number, row in enumerate(table_rows())]
    turned = [dict(reversed(row.items())) for row in rows]
    others = [
        write_csv(tmp_path / "t.csv.gz", rows),
        write_csv(tmp_path / "turned.csv", turned),
        write_parquet(tmp_path / "t.parquet", table_rows()),
    ]
    for other in others:
        pairs = chexpert_plus.read(other, root, labels=labels)
        assert (pairs.columns, pairs.counts) == (whole.columns, whole.counts)


@pytest.mark.parametrize("folder", ["", "PNG", "PNG/PNG"])
@pytest.mark.parametrize("missing", [("study2",), (A,)])
def test_png_trees_are_found_wherever_they_were_unpacked(tmp_path, folder, missing):
    table, root, _ = tree(tmp_path, images=folder, missing=missing)
    pairs = chexpert_plus.read(table, root)
    there = [(root / path).is_file() for path in pairs.columns["image_path"]]
    assert there == [not any(part in path for part in missing) for path in pairs.columns["image_id"]]
    assert pairs.counts["images_as_png"] == 6


@pytest.mark.parametrize(
    ("folder", "ending", "form"), [("CheXpert-v1.0-small", ".jpg", "jpg"), ("", ".jpg", "jpg"), ("", ".dcm", "dicom"), ("DICOM", ".dcm", "dicom")]
)
def test_old_jpg_and_dicom_roots_serve_too(tmp_path, folder, ending, form):
    table, root, _ = tree(tmp_path, missing=("p",))
    for row in table_rows()[3:]:
        target = root / folder / row["path_to_image"].replace(".jpg", ending)
        target.parent.mkdir(parents=True)
        target.write_bytes(b"x")
    pairs = chexpert_plus.read(table, root)
    assert [(root / path).is_file() for path in pairs.columns["image_path"]] == [False] * 3 + [True] * 3
    assert pairs.counts[f"images_as_{form}"] == 6


def test_one_form_for_the_whole_root_and_png_before_jpg(tmp_path):
    table, root, _ = tree(tmp_path, images="", missing=("study2",))
    picture(root / f"train/{A}/study2/view1_frontal.jpg")
    picture(root / f"train/{A}/study1/view1_frontal.jpg")
    assert all(path.endswith(".png") for path in chexpert_plus.read(table, root).columns["image_path"])


def test_no_images_at_all_is_the_published_form(tmp_path):
    table, root, _ = tree(tmp_path, missing=("p",))
    assert chexpert_plus.read(table, root).columns["image_path"][0] == f"train/{A}/study1/view1_frontal.png"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ANONYMIZED REPORT. Nothing here is real. NARRATIVE: X-ray.", "NARRATIVE: X-ray."),
        ("This report was de-identified.\n\nNARRATIVE: X-ray.", "NARRATIVE: X-ray."),
        ("The anonymised patient has a clear chest.", "The anonymised patient has a clear chest."),
        ("Accession No: 12 NARRATIVE: a long narrative text in one line", "NARRATIVE: a long narrative text in one line"),
        ("NARRATIVE: X-ray.\nACCESSION NUMBER: 12 34\nIMPRESSION: Clear.", "NARRATIVE: X-ray.\nIMPRESSION: Clear."),
        ("Accession of fluid is seen.", "Accession of fluid is seen."),
    ],
)
def test_notices_and_accession_numbers_are_taken_out_of_the_report(tmp_path, before, after):
    table = write_csv(tmp_path / "t.csv", [row_of(f"train/{A}/study1/view1_frontal.jpg", report=before)])
    assert chexpert_plus.read(table, tmp_path).columns["report_text"] == [after]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"split": "test"}, "split in table 't.csv', data row 2, column 'split': expected train or valid, found another value"),
        (
            {"ap_pa": "XX"},
            "data row 2, columns 'frontal_lateral' and 'ap_pa': expected Lateral, or Frontal with AP, PA, LL, RL or a blank, found another value",
        ),
        ({"frontal_lateral": ""}, "data row 2, columns 'frontal_lateral' and 'ap_pa'"),
        ({"path_to_image": f"train/{A}/view1.jpg"}, "path in table 't.csv', data row 2, column 'path_to_image'"),
        ({"path_to_image": f"train/../{A}/study1/view1.jpg"}, "data row 2, column 'path_to_image'"),
        ({"path_to_image": ""}, "data row 2, column 'path_to_image'"),
    ],
)
def test_wrong_cells_are_told_by_row(tmp_path, cells, message):
    rows = [row_of(f"train/{A}/study1/view1_frontal.jpg"), row_of(f"train/{A}/study2/view1_frontal.jpg", **cells)]
    table = write_csv(tmp_path / "t.csv", rows)
    assert message in refused(lambda: chexpert_plus.read(table, tmp_path), A, tmp_path, "XX")


def test_wrong_headers_are_told(tmp_path):
    rows = table_rows()
    columns = [column for column in rows[0] if column != "section_findings"]
    table = write_csv(tmp_path / "t.csv", rows, [*columns, "section_finding"])
    expected = "column 'section_findings' in table 't.csv': expected it in the header, found no such column; did you mean 'section_finding'?"
    assert refused(lambda: chexpert_plus.read(table, tmp_path)) == expected
    write_csv(table, rows, [*rows[0], "age"])
    assert refused(lambda: chexpert_plus.read(table, tmp_path)) == "header in table 't.csv': expected every column once, found column 'age' twice"
    assert "did you mean 'report'" in refused(lambda: chexpert_plus.read(table, tmp_path, label_source="reports"), kind=errors.UsageError)


def test_wrong_tables_are_told(tmp_path):
    rows = table_rows()
    whole = write_csv(tmp_path / "whole.csv", rows).read_bytes()
    packed = write_csv(tmp_path / "whole.csv.gz", rows).read_bytes()
    files = {
        "empty.csv": (b"", "found no such column"),
        "header.csv": (whole.splitlines(keepends=True)[0], "rows in table 'header.csv': expected at least one data row, found none"),
        "short.csv": (whole + b"a,b\r\n", "cells in table 'short.csv', data row 7: expected 27, found 2"),
        "quote.csv": (whole + b'"a', "damaged CSV in table 'quote.csv', after data row 6"),
        "latin.csv": (whole.replace(b"Two", b"\xe9"), "encoding in table 'latin.csv': expected UTF-8"),
        "cut.csv.gz": (packed[:-20], "damaged table in table 'cut.csv.gz'"),
        "not.csv.gz": (whole, "damaged table in table 'not.csv.gz'"),
        "not.parquet": (b"PAR1 and no more", "damaged Parquet in table 'not.parquet'"),
        "table.txt": (whole, "table format in table 'table.txt'"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        assert message in refused(lambda path=tmp_path / name: chexpert_plus.read(path, tmp_path), A, "Two", tmp_path)
    assert "found no file" in refused(lambda: chexpert_plus.read(tmp_path / "none.csv", tmp_path), tmp_path)


def test_a_line_that_swells_is_refused(tmp_path):
    table = tmp_path / "t.csv.gz"
    table.write_bytes(gzip.compress(b"path_to_image" + b"," * 11_000_000))
    assert "size of the table in table 't.csv.gz': expected lines under 10,000,000 and" in refused(lambda: chexpert_plus.read(table, tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "labels in label file 'report_fixed.json', line 2: expected one JSON object with path_to_image, found something else"),
        ("{", "line 2: expected one JSON object with path_to_image, found something else"),
        ("[" * 100_000, "line 2: expected one JSON object"),
        (label_line(f"train/{A}/study1/view1_frontal.jpg"), "line 2: expected every image once, found an image of an earlier line"),
        (label_line("x", Edema=2), "label 'Edema' in label file 'report_fixed.json', line 2: expected 1, 0, -1 or null, found another value"),
        (label_line("x", Edema="1"), "found another value"),
        (label_line("x", Edema=[1]), "found another value"),
        (label_line("x", Edema=float("nan")), "found another value"),
        (label_line("x").replace("Edema", "Oedema"), "label 'Edema' in label file 'report_fixed.json', line 2: expected 1, 0, -1 or null, found no such field"),
    ],
)
def test_wrong_label_lines_are_told_by_line(tmp_path, line, message):
    table, root, labels = tree(tmp_path)
    (labels / "report_fixed.json").write_text(label_line(f"train/{A}/study1/view1_frontal.jpg") + "\n" + line + "\n")
    assert message in refused(lambda: chexpert_plus.read(table, root, labels=labels), A, "Oedema", tmp_path)


def test_missing_labels_are_told(tmp_path):
    table, root, _ = tree(tmp_path)
    assert "found no file" in refused(lambda: chexpert_plus.read(table, root, labels=root), tmp_path)


def test_exams_come_back_from_their_layout(tmp_path):
    exams = exam_list()
    assert {exam.split for exam in exams} == {"train", "validate", "test"}
    assert any(not exam.has_labels for exam in exams) or any(not exam.findings for exam in exams)
    table, images, labels = layout.write(exams, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["PNG", "chexbert_labels", "df_chexpert_plus_240401.csv"]
    assert len(table.read_text().partition("\n")[0].split(",")) == 27
    views = {"PA": "PA", "AP": "AP", "LATERAL": "LATERAL"}
    pairs = chexpert_plus.read(table, images, labels=labels)
    assert_same_as_exams(pairs, exams, views=views, splits={"train": "train", "validate": "validate", "test": "validate"}, labels=True)
    assert pairs.columns["age_years"][0] == str(exams[0].age)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


CELLS = st.one_of(
    st.sampled_from(["", "Frontal", "AP", "train", f"train/{A}/study1/v.jpg", f"train/{B}/study2/w.jpg"]), st.text(st.characters(codec="utf-8"), max_size=6)
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(st.sampled_from(["path_to_image", "frontal_lateral", "ap_pa", "split", "report", "path_to_dcm"]), CELLS), min_size=1, max_size=3)
)
def test_any_cells_give_rows_or_one_sentence(tmp_path, changes):
    rows = [row_of(f"train/{A}/study{number}/view1_frontal.jpg") | cells for number, cells in enumerate(changes)]
    table = write_csv(tmp_path / "t.csv", rows)
    pairs = rows_or_none(lambda: chexpert_plus.read(table, tmp_path))
    assert pairs is None or len(pairs) == len(rows)


@pytest.mark.slow
def test_the_whole_archive_in_a_minute(tmp_path):
    text = " ".join(f"word{number}" for number in range(150))
    rows = [
        row_of(f"train/patient{10000 + number // 3}/study{number % 3}/view1_frontal.jpg", ap_pa="AP", report=f"{number} {text}", section_impression=f"{number}")
        for number in range(223_462)
    ]
    table = write_csv(tmp_path / "df_chexpert_plus_240401.csv", rows)
    (tmp_path / "report_fixed.json").write_text("".join(label_line(row["path_to_image"], Edema=1.0) + "\n" for row in rows))
    del rows
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pairs = chexpert_plus.read(table, tmp_path, labels=tmp_path)
    print(f"{time.process_time() - start:.1f} s of CPU, peak {before / 1e6:.2f} -> {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    assert len(pairs) == 223_462
    assert time.process_time() - start < 60
