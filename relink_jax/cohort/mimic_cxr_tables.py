"""The tables of MIMIC-CXR-JPG: one row per image of metadata and split, one row per study of labels, and what their cells mean.

Columns are found by name, since the four tables of labels that circulate have four orders and two spellings.

References: Johnson et al. (2019), MIMIC-CXR-JPG, arXiv 1901.07042; physionet.org/content/mimic-cxr-jpg/2.1.0; MIT-LCP/mimic-cxr,
notebooks/generate-stats-from-paper.ipynb (views).
"""

import dataclasses
import datetime
import pathlib
import re

from relink_jax import errors
from relink_jax.cohort import archives, csv_tables
from relink_jax.cohort.columns import ALIASES
from relink_jax.cohort.schema import LABELS, SPLITS

ARCHIVE = "MIMIC-CXR"
METADATA, SPLIT = "mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-split.csv"
LABEL_TABLES = {
    "chexpert": "mimic-cxr-2.0.0-chexpert.csv",
    "negbio": "mimic-cxr-2.0.0-negbio.csv",
    "radiologist": "mimic-cxr-2.1.0-test-set-labeled.csv",
}
SPELLINGS = {"Lung Opacity": "Airspace Opacity"}  # of the radiologists' table
METADATA_COLUMNS = (
    *("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns", "StudyDate", "StudyTime"),
    *("ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning"),
)
SPLIT_COLUMNS = ("dicom_id", "study_id", "subject_id", "split")
FORMS = {
    "dicom_id": (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}"), "five groups of eight hexadecimal digits"),
    "subject_id": (re.compile(r"1[0-9]{7}"), "eight digits that start with 1"),
    "study_id": (re.compile(r"5[0-9]{7}"), "eight digits that start with 5"),
}

_POSITIONS = {"PA": "PA", "AP": "AP", "LATERAL": "LATERAL", "LL": "LATERAL"}
_TURNED = ("AP LLD", "AP RLD", "PA LLD", "PA RLD")
_OTHERS = ("AP AXIAL", "L5 S1", "LAO", "LPO", "RAO", "RPO", "SWIMMERS", "XTABLE LATERAL")
_CODES = {"postero-anterior": "PA", "antero-posterior": "AP", "lateral": "LATERAL"}
_CODES_OF_LABELS = {"": "", "1": "1", "1.0": "1", "0": "0", "0.0": "0", "-1": "-1", "-1.0": "-1"}


@dataclasses.dataclass(frozen=True)
class Images:
    """One entry per image in the order of the metadata table: ids of their published form, and cells as they stand; `where` is the table."""

    where: str
    dicom: list[str]
    subject: list[str]
    study: list[str]
    position: list[str]
    code: list[str]
    date: list[str]
    time: list[str]
    split: list[str]


def read_images(root: pathlib.Path) -> Images:
    """Returns the metadata table joined with the split table by dicom_id.

    Raises: DataError: a table missing or damaged (see `csv_tables.read`), an id of another form, one image twice, an image
        in one table only or under another study or patient there, an unknown split; names the table and its data row.
    """
    path, where = archives.find_table(root, METADATA, ARCHIVE)
    wanted = ("dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "StudyDate", "StudyTime")
    found = csv_tables.read(path, wanted, where)
    rows = _rows_of(found, where)
    return Images(
        where=where,
        dicom=found["dicom_id"],
        subject=found["subject_id"],
        study=found["study_id"],
        position=found["ViewPosition"],
        code=found["ViewCodeSequence_CodeMeaning"],
        date=found["StudyDate"],
        time=found["StudyTime"],
        split=_splits(root, found, rows, where),
    )


def read_labels(root: pathlib.Path, which: str) -> dict[str, tuple[str, ...]]:
    """Returns the 14 cells ('1', '0', '-1' or '' for not mentioned) in `schema.LABELS` order of each study of a label table.

    Args: which: a name of `LABEL_TABLES`.
    Raises: DataError: the table missing or damaged, a label missing, a study twice, an unknown value; names table and data row.
    """
    path, where = archives.find_table(root, LABEL_TABLES[which], ARCHIVE)
    found = csv_tables.read(path, ("study_id", *LABELS), where, aliases=ALIASES)
    _check_form(found, "study_id", where)
    _check_once(found["study_id"], "study", where)
    cells = [[_CODES_OF_LABELS.get(cell) for cell in found[label]] for label in LABELS]
    for label, column in zip(LABELS, cells, strict=True):
        if None in column:
            raise errors.DataError(errors.describe("unknown label value", _at(where, column.index(None), label), "1, 0, -1 or blank", "another value"))
    rows = zip(*cells, strict=True)
    return {study: tuple(cell or "" for cell in row) for study, row in zip(found["study_id"], rows, strict=True)}


def view_of(position: str, code: str) -> tuple[str, str]:
    """Returns the view that ViewPosition, or where it is blank ViewCodeSequence_CodeMeaning, tells, and the decision to count, '' for none.

    Only PA and AP as they stand are frontal: rotated and decubitus projections are OTHER. The DICOM field that the authors of
    the archive used for blank positions is not in the published tables.

    Example: >>> view_of('', 'postero-anterior')  ->  ('PA', 'view_from_code')
    """
    if position in _POSITIONS:
        return _POSITIONS[position], ""
    if not position:
        return (_CODES[code], "view_from_code") if code in _CODES else ("", "view_unknown")
    return "OTHER", "view_turned" if position in _TURNED else "" if position in _OTHERS else "view_unlisted"


def moment(date: str, time: str, where: str, row: int) -> datetime.datetime | None:
    """Returns when a study was taken, in the patient's shifted calendar; None where date or time is blank.

    Args:
        date: YYYYMMDD.
        time: HHMMSS with or without a fraction and without leading zeros, as a number prints: 80556.875 is 08:05:56.875.
        where, row: the table and the data row (from 0) that errors name.

    Raises: DataError: not a date or not a time of day.
    """
    if not date or not time:
        return None
    whole, _, part = time.partition(".")
    digits = date + whole.zfill(6) + (part or "0")
    try:
        if len(date) != 8 or len(whole) > 6 or not (digits.isascii() and digits.isdigit()):
            raise ValueError
        return datetime.datetime.strptime(date + whole.zfill(6), "%Y%m%d%H%M%S") + datetime.timedelta(seconds=float(f"0.{part or 0}"))
    except ValueError as error:
        raise errors.DataError(errors.describe("date and time", _at(where, row, "StudyDate"), "YYYYMMDD and HHMMSS of StudyTime", "others")) from error


def _splits(root: pathlib.Path, images: dict[str, list[str]], rows: dict[str, int], metadata: str) -> list[str]:
    path, where = archives.find_table(root, SPLIT, ARCHIVE)
    found = csv_tables.read(path, SPLIT_COLUMNS, where)
    _rows_of(found, where)
    splits = [""] * len(rows)
    for number, (dicom, study, subject, split) in enumerate(zip(*(found[name] for name in SPLIT_COLUMNS), strict=True)):
        row = rows.get(dicom)
        if row is None:
            raise errors.DataError(errors.describe("image", f"{where}, data row {number + 1}", f"a row of the same image in {METADATA!r}", "none"))
        if study != images["study_id"][row] or subject != images["subject_id"][row]:
            expected = f"the study and patient of data row {row + 1} of {METADATA!r}"
            raise errors.DataError(errors.describe("image", f"{where}, data row {number + 1}", expected, "another study or patient"))
        if split not in SPLITS:
            raise errors.DataError(errors.describe("unknown value", _at(where, number, "split"), ", ".join(SPLITS), "another value"))
        splits[row] = split
    if "" in splits:
        raise errors.DataError(errors.describe("image", f"{metadata}, data row {splits.index('') + 1}", f"a row of the same image in {SPLIT!r}", "none"))
    return splits


def _rows_of(found: dict[str, list[str]], where: str) -> dict[str, int]:
    """Returns the row of each image after checking the form of the ids and that every image is there once."""
    for name in FORMS:
        _check_form(found, name, where)
    _check_once(found["dicom_id"], "image", where)
    return {dicom: row for row, dicom in enumerate(found["dicom_id"])}


def _check_form(found: dict[str, list[str]], name: str, where: str) -> None:
    form, expected = FORMS[name]
    for row, cell in enumerate(found[name]):
        if not form.fullmatch(cell):
            raise errors.DataError(errors.describe("identifier", _at(where, row, name), expected, f"{len(cell)} characters of another form"))


def _check_once(cells: list[str], what: str, where: str) -> None:
    first: dict[str, int] = {}
    for row, cell in enumerate(cells):
        if first.setdefault(cell, row) != row:
            raise errors.DataError(errors.describe(what, f"{where}, data row {row + 1}", f"every {what} once", f"the {what} of data row {first[cell] + 1}"))


def _at(where: str, row: int, column: str) -> str:
    return f"{where}, data row {row + 1}, column {column!r}"
