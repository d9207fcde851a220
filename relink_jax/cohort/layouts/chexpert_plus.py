"""Writes studies as CheXpert Plus publishes them: one table of 27 columns, three files of labels and a tree of PNG files."""

import csv
import io
import json
import pathlib
from collections.abc import Iterable

from relink_jax.cohort.layouts import png
from relink_jax.cohort.layouts.exams import Exam, Shot
from relink_jax.cohort.schema import BLANK, LABELS
from relink_jax.store import files

COLUMNS = (
    *("path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id", "patient_report_date_order", "report"),
    *("section_narrative", "section_clinical_history", "section_history", "section_comparison", "section_technique", "section_procedure_comments"),
    *("section_findings", "section_impression", "section_end_of_impression", "section_summary", "section_accession_number"),
    *("age", "sex", "race", "ethnicity", "interpreter_needed", "insurance_type", "recent_bmi", "deceased", "split"),
)
_LABEL_ORDER = (*LABELS[1:], LABELS[0])  # the label files have No Finding last
_FIRST_PATIENT = 10001
_SEX = {"F": "Female", "M": "Male"}


def write(exams: Iterable[Exam], directory: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Writes the tree under `directory`; returns its table, the directory of its images and that of its labels.

    Images are `PNG/PNG/{train,valid}/patient*/study*/view*_{frontal,lateral}.png`; the table calls them `.jpg`, as the
    archive's does. The archive has no test part: studies of the splits validate and test are both written as 'valid'. A study
    without labels has no line in the label files. Tables are written last.
    Raises: StoreError: the directory cannot be written.
    """
    directory = pathlib.Path(directory)
    table, lines = io.StringIO(), list[str]()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for exam in exams:
        for number, shot in enumerate(exam.shots, start=1):
            side = "lateral" if shot.view == "LATERAL" else "frontal"
            stem = f"{_split(exam)}/{_patient(exam)}/study{exam.order + 1}/view{number}_{side}"
            png.save(directory / "PNG" / "PNG" / f"{stem}.png", shot.pixels())
            row = _row(exam, shot, stem)
            writer.writerow([row.get(column, "") for column in COLUMNS])
            if exam.has_labels:
                lines.append(_label_line(exam, f"{stem}.jpg"))
    for source in ("report", "findings", "impression"):
        files.write_text(directory / "chexbert_labels" / f"{source}_fixed.json", "".join(lines))
    target = directory / "df_chexpert_plus_240401.csv"
    files.write_text(target, table.getvalue())
    return target, directory / "PNG", directory / "chexbert_labels"


def _split(exam: Exam) -> str:
    return "train" if exam.split == "train" else "valid"


def _patient(exam: Exam) -> str:
    return f"patient{_FIRST_PATIENT + exam.patient}"


def _row(exam: Exam, shot: Shot, stem: str) -> dict[str, str]:
    lateral = shot.view == "LATERAL"
    sections = (("NARRATIVE", "RADIOGRAPH OF THE CHEST"), ("FINDINGS", exam.findings), ("IMPRESSION", exam.impression))
    return {
        "path_to_image": f"{stem}.jpg",
        "path_to_dcm": f"{stem}.dcm",
        "frontal_lateral": "Lateral" if lateral else "Frontal",
        "ap_pa": "" if lateral else shot.view,
        "deid_patient_id": _patient(exam),
        "patient_report_date_order": str(exam.order + 1),
        "report": "\n\n".join(f"{name}:\n{text}" for name, text in sections if text),
        "section_narrative": "RADIOGRAPH OF THE CHEST",
        "section_findings": exam.findings,
        "section_impression": exam.impression,
        "age": str(exam.age),
        "sex": _SEX.get(exam.sex, "Unknown"),
        "race": "Unknown",
        "ethnicity": "Unknown",
        "interpreter_needed": "False",
        "insurance_type": "Unknown",
        "deceased": "No",
        "split": _split(exam),
    }


def _label_line(exam: Exam, image: str) -> str:
    codes = dict(zip(LABELS, exam.labels, strict=True))
    values = {label: None if codes[label] == BLANK else float(codes[label]) for label in _LABEL_ORDER}
    return json.dumps({"path_to_image": image} | values) + "\n"
