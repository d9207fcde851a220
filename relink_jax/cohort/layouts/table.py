"""A generic archive: one pairs table, with the columns that `relink cohort --help` lists, beside image files of any kind."""

import csv
import io
import pathlib
from collections.abc import Callable, Iterable

from relink_jax.cohort.layouts import png
from relink_jax.cohort.layouts.exams import Exam
from relink_jax.cohort.schema import BLANK, LABELS
from relink_jax.store import files

COLUMNS = ("image_path", "patient_id", "study_id", "findings", "impression", "view", "split", "study_order", "age_years", "sex", "label_source", *LABELS)


def write(exams: Iterable[Exam], directory: pathlib.Path, save: Callable[[Exam, int], str]) -> pathlib.Path:
    """Writes `pairs.csv` under `directory`, one row per image, and returns its path.

    Args: save: writes image number n of a study, `save(exam, n)`, and returns its path below the image root.

    Raises: StoreError: the directory cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for exam in exams:
        codes = ["" if code == BLANK else str(code) for code in exam.labels]
        for number, shot in enumerate(exam.shots):
            about = [f"P{exam.patient:06d}", f"S{exam.study:07d}", exam.findings, exam.impression, shot.view, exam.split, exam.order, exam.age, exam.sex]
            writer.writerow([save(exam, number), *about, "phantom" if exam.has_labels else "", *codes])
    files.write_text(directory / "pairs.csv", text.getvalue())
    return directory / "pairs.csv"


def write_png(exams: Iterable[Exam], directory: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes `pairs.csv` and `images/*.png` (8-bit grey) under `directory` and returns (table, image root); raises what `write` does."""
    images = files.make_dir(directory / "images")

    def save(exam: Exam, number: int) -> str:
        name = f"{exam.study:07d}_{number}.png"
        png.save(images / name, exam.shots[number].pixels())
        return name

    return write(exams, directory, save), images
