"""The phantom population: patients with studies, reports and images, each patient from a random stream of its own.

Patient i of seed s depends on (s, i) only, so a larger population keeps the earlier patients, and pictures of one
patient do not depend on the others. Site and split follow a golden-ratio sequence over patients, which keeps their shares
within one patient of the intended ones at any size.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from relink_jax.cohort import reports
from relink_jax.cohort.phantom import frontal, lateral, reporting, scanner
from relink_jax.cohort.phantom.anatomy import Patient, draw_patient
from relink_jax.cohort.phantom.findings import Study, draw_studies
from relink_jax.cohort.phantom.reporting import Report
from relink_jax.cohort.schema import BLANK, LABELS

SITE_A_SHARE = 0.72
SPLIT_SHARES = (("train", 0.37), ("validate", 0.10), ("test", 0.53))
_GOLDEN = 0.6180339887498949
_PEOPLE, _ANCHORS = 1, 2


@dataclasses.dataclass(frozen=True)
class StudyRecord:
    """One study of the population and the view of each of its images."""

    patient_index: int
    patient: Patient
    site: str
    split: str
    study: Study
    report: Report
    has_labels: bool
    views: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """One image in memory: `image` uint8 [S, S]; `labels` int8 [14] (codes of `schema`); `text` as the table joins it."""

    patient_index: int
    study_order: int
    site: str
    split: str
    view: str
    image: np.ndarray
    findings: str
    impression: str
    labels: np.ndarray

    @property
    def text(self) -> str:
        """The report as text_field 'findings+impression' reads it."""
        return reports.join_sections(self.findings, self.impression)


def patient_studies(seed: int, index: int, domain: int = _PEOPLE) -> list[StudyRecord]:
    """Returns the studies of patient `index` of the population `seed`, in time order."""
    rng = np.random.default_rng((domain, seed, index))
    site, split = _place(seed, index)
    patient = draw_patient(rng)
    count = 1 + min(5, int(rng.geometric({"outpatient": 0.62, "ward": 0.40, "intensive": 0.33}[patient.setting])) - 1)
    records: list[StudyRecord] = []
    for study in draw_studies(rng, patient, count):
        report = reporting.write_report(rng, patient, study, site)
        same = study.order and study.acute == study.before and site == "A"
        draws = rng.random(4)
        if same and draws[0] < 0.10:
            report = records[-1].report
        if draws[1] < 0.005:
            report = Report("", "", (BLANK,) * len(LABELS))
        records.append(
            StudyRecord(
                index, patient, site, split, study, report, bool(draws[2] >= 0.04 and (report.findings or report.impression)), _views(draws[3], study.portable)
            )
        )
    return records


def draw_image(seed: int, record: StudyRecord, number: int, size: int) -> np.ndarray:
    """Returns image `number` of a study, uint8 [size, size]."""
    rng = np.random.default_rng((_PEOPLE, seed, record.patient_index, record.study.order, number))
    shifts = rng.uniform(-1, 1, 3)
    shown = reporting.visible(record.patient, record.study)
    if record.views[number] == "LATERAL":
        picture = lateral.draw_lateral(size, record.patient.anatomy, shown, 0.02 * shifts[0])
    else:
        pose = frontal.Pose(0.018 * shifts[0], 0.015 * shifts[1], record.study.portable, 0.03 * shifts[2])
        picture = frontal.draw_frontal(size, record.patient.anatomy, shown, pose)
    return scanner.expose(picture, rng, record.site)


def population(
    seed: int, n_patients: int, image_size: int, *, sites: tuple[str, ...] = ("A", "B"), views: tuple[str, ...] = ("PA", "AP"), first: int = 0
) -> Iterator[ImageRecord]:
    """Yields every image of patients `first` to `n_patients` - 1 from memory, without touching the disk.

    The images and reports equal those `generate` writes for the same seed and size. Studies without a report are left out.
    """
    for index in range(first, n_patients):
        if _place(seed, index)[0] not in sites:
            continue
        for record in patient_studies(seed, index):
            report = record.report
            if not (report.findings or report.impression):
                continue
            labels = np.asarray(report.labels, dtype=np.int8)
            for number, view in enumerate(record.views):
                if view in views:
                    image = draw_image(seed, record, number, image_size)
                    yield ImageRecord(index, record.study.order, record.site, record.split, view, image, report.findings, report.impression, labels)


def anchor_reports(n: int, seed: int) -> dict[str, np.ndarray]:
    """Returns `n` distinct synthetic reports of style A with their labels int8 [14], from a public population that no cohort is drawn from.

    Every second one is of a patient's later study when there is one; exact texts of normal reports appear once.
    """
    found: dict[str, np.ndarray] = {}
    index = 0
    while len(found) < n:
        if _place(seed, index)[0] == "A":
            for record in patient_studies(seed, index, _ANCHORS):
                text = reports.join_sections(record.report.findings, record.report.impression)
                if text and len(found) < n:
                    found[text] = np.asarray(record.report.labels, np.int8)
        index += 1
    return found


def anchor_texts(n: int, seed: int) -> list[str]:
    """Returns the texts of `anchor_reports`, in its order."""
    return list(anchor_reports(n, seed))


def _views(draw: float, portable: bool) -> tuple[str, ...]:
    main = "AP" if portable else "PA"
    if draw < 0.015:
        return ("LATERAL",)
    if draw < (0.10 if portable else 0.13):
        return (main, main)
    if not portable and draw < 0.52:
        return (main, "LATERAL")
    return (main,)


def _place(seed: int, index: int) -> tuple[str, str]:
    """Returns (site, split) of a patient."""
    start = np.random.default_rng((3, seed)).random()
    point = (start + (index + 1) * _GOLDEN) % 1.0
    if point >= SITE_A_SHARE:
        return "B", "test"
    left = point / SITE_A_SHARE
    for split, share in SPLIT_SHARES:
        left -= share
        if left < 0:
            return "A", split
    return "A", "test"
