"""Synthetic studies in the form that every layout writer takes: the same pixels, texts and labels, whatever tree they end up in."""

import dataclasses
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from relink_jax.cohort.phantom import people
from relink_jax.cohort.schema import BLANK, LABELS
from relink_jax.config import PhantomConfig

_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Shot:
    """One image: its view ('PA', 'AP' or 'LATERAL') and its JPEG bytes, 8-bit grey."""

    view: str
    jpeg: bytes

    def pixels(self) -> np.ndarray:
        """Returns the grey levels uint8 [H, W] that the JPEG bytes decode to: what every layout holds, in whatever format."""
        with Image.open(io.BytesIO(self.jpeg)) as picture:
            return np.asarray(picture.convert("L"))


@dataclasses.dataclass(frozen=True)
class Exam:
    """One study. `patient` and `study` are numbers from 0 over the population, `order` from 0 within the patient.

    `labels` are 14 codes in `schema.LABELS` order (1, 0, -1, or `schema.BLANK` for not mentioned); all blank where `has_labels` is false.
    """

    patient: int
    study: int
    order: int
    findings: str
    impression: str
    split: str
    labels: tuple[int, ...]
    has_labels: bool
    age: int
    sex: str
    shots: tuple[Shot, ...]


def exams(config: PhantomConfig, *, first_study_only: bool = False) -> Iterator[Exam]:
    """Yields the studies of a phantom population, patients in order; `first_study_only` for layouts without repeated patients."""
    number = 0
    for patient in range(config.n_patients):
        for record in people.patient_studies(config.seed, patient):
            if first_study_only and record.study.order:
                continue
            report = record.report
            shots = tuple(Shot(view, _jpeg(people.draw_image(config.seed, record, shot, config.image_size))) for shot, view in enumerate(record.views))
            yield Exam(
                patient=patient,
                study=number,
                order=record.study.order,
                findings=report.findings,
                impression=report.impression,
                split=record.split,
                labels=tuple(map(int, report.labels)) if record.has_labels else (BLANK,) * len(LABELS),
                has_labels=record.has_labels,
                age=record.patient.age,
                sex=record.patient.sex,
                shots=shots,
            )
            number += 1


def _jpeg(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
