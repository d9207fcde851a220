"""PadChest: its table as rows, folders or a flat directory of images, and the oddities of the published file."""

import pytest
from archive_checks import picture, refused, rows_of, write_csv

from relink_jax.cohort import padchest


def row_of(number, patient, study, projection, **cells):
    row = {"": str(number), "ImageID": f"{number}_abc.png", "ImageDir": str(number % 2), "StudyDate_DICOM": "20140915", "StudyID": study, "PatientID": patient}
    row |= {
        "PatientBirth": "1930.0",
        "PatientSex_DICOM": "F",
        "Projection": projection,
        "ReportID": f"r{study}",
        "Report": f"sin cambi {study} .",
        "Labels": "[]",
    }
    return row | cells


def table_rows():
    return [
        row_of(1, "p1", "s1", "PA"),
        row_of(2, "p1", "s1", "L", Report="otro"),
        row_of(3, "p1", "s2", "AP_horizontal", PatientBirth="", ReportID="rs1"),
        row_of(4, "p2", "s3", "AP", PatientSex_DICOM="nan", ImageDir="0.0"),
        row_of(5, "p3", "s3", "COSTAL", Report="nan"),
        row_of(6, "p3", "s4", "UNK"),
        row_of(7, "p3", "s4", "EXCLUDE"),
    ]


def expected(number, patient, study, view, **cells):
    study_id, text = f"{patient}/{study}", f"sin cambi {study} ."
    row = {"image_path": f"{number % 2}/{number}_abc.png", "image_id": f"{number}_abc.png", "patient_id": patient, "study_id": study_id, "report_id": study_id}
    row |= {"report_text": text, "labelled_text": text, "split": "test", "origin": "padchest", "site": "PadChest", "study_date": "20140915"}
    row |= {"age_years": "84", "sex": "F", "view": view} | cells
    return {name: cell for name, cell in row.items() if cell}


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_every_oddity_gives_its_row(tmp_path, name):
    pairs = padchest.read(write_csv(tmp_path / name, table_rows()), tmp_path)
    assert rows_of(pairs) == [
        expected(1, "p1", "s1", "PA"),
        expected(2, "p1", "s1", "LATERAL"),
        expected(3, "p1", "s2", "AP", age_years=""),
        expected(4, "p2", "s3", "AP", sex=""),
        expected(5, "p3", "s3", "OTHER", report_text="", labelled_text=""),
        expected(6, "p3", "s4", ""),
        expected(7, "p3", "s4", "OTHER"),
    ]
    assert pairs.counts == {
        "rows_read": 7,
        "reports_in_stemmed_spanish": 5,
        "reports_of_several_studies": 2,
        "studies_with_differing_texts": 1,
        "views_lying": 1,
        "views_other": 2,
        "views_unknown": 1,
    }


@pytest.mark.parametrize("place", ["1/3_abc.png", "3_abc.png"])
def test_the_first_image_found_says_whether_there_are_folders(tmp_path, place):
    picture(tmp_path / place)
    pairs = padchest.read(write_csv(tmp_path / "t.csv", table_rows()), tmp_path)
    assert (tmp_path / pairs.columns["image_path"][2]).is_file()
    assert {"/" in path for path in pairs.columns["image_path"]} == {"/" in place}


def test_a_table_without_a_column_is_told(tmp_path):
    rows = [{name: cell for name, cell in row.items() if name != "Projection"} for row in table_rows()]
    message = refused(lambda: padchest.read(write_csv(tmp_path / "t.csv", rows), tmp_path), "p1")
    assert message == "column 'Projection' in table 't.csv': expected it in the header, found no such column"
