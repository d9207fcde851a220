"""Writes a phantom population to disk as a user's archive would look: PNG files and one pairs table.

Design note: the pictures are written plainly, without the flush to disk that `store.files` does for each artifact; they can
be drawn again, and the table, written last and durably, is what says that they are all there.
"""

import csv
import io
import pathlib

from relink_jax.cohort.layouts import png
from relink_jax.cohort.phantom import people
from relink_jax.cohort.schema import BLANK, LABELS
from relink_jax.config import PhantomConfig
from relink_jax.store import files

COLUMNS = (
    "image_path",
    "patient_id",
    "study_id",
    "image_id",
    "report_id",
    "findings",
    "impression",
    "view",
    "split",
    "pretrain_exposure",
    "site",
    "study_order",
    "prior_image_id",
    "age_years",
    "sex",
    "label_source",
    *LABELS,
)


def generate(config: PhantomConfig, directory: pathlib.Path) -> pathlib.Path:
    """Writes `images/pXX/*.png` (8-bit grey) and `pairs.csv` under `directory` and returns the table's path.

    The table is written last and in one piece, so that it marks a finished cohort. One row per image; labels are 1, 0, -1
    or empty. Identifiers are invented and start with P, S, I and R. The prior image of a frontal view is the first frontal
    image of the patient's latest earlier study that has one, and so for lateral views.
    Raises: StoreError: the directory cannot be written.
    """
    directory = pathlib.Path(directory)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for index in range(config.n_patients):
        folder = f"p{index % 100:02d}"
        latest: dict[bool, str] = {}
        for record in people.patient_studies(config.seed, index):
            study, first = f"S{index:06d}{record.study.order}", dict[bool, str]()
            for number, view in enumerate(record.views):
                lateral = view == "LATERAL"
                path = f"images/{folder}/{study}_{number}.png"
                png.save(directory / path, people.draw_image(config.seed, record, number, config.image_size))
                table.writerow(_row(record, path, study, number, view, latest.get(lateral, "")))
                first.setdefault(lateral, _image_id(study, number))
            latest |= first
    target = directory / "pairs.csv"
    files.write_text(target, text.getvalue())
    return target


def _image_id(study: str, number: int) -> str:
    return f"I{study[1:]}{number}"


def _row(record: people.StudyRecord, path: str, study: str, number: int, view: str, prior: str) -> list[str]:
    report, patient = record.report, record.patient
    head = [path, f"P{record.patient_index:06d}", study, _image_id(study, number), f"R{study[1:]}", report.findings, report.impression, view, record.split]
    values = ["" if value == BLANK else str(value) for value in report.labels] if record.has_labels else [""] * len(LABELS)
    source = "phantom" if record.has_labels else ""
    return [*head, "unseen", record.site, str(record.study.order), prior, str(patient.age), patient.sex, source, *values]
