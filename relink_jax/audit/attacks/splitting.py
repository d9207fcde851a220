"""Part of an audit's people, with everything that is known of them, as an audit of its own."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from relink_jax.audit.attacks import base
from relink_jax.audit.inputs import AuditInputs
from relink_jax.store.rows import select


@dataclasses.dataclass(frozen=True)
class Part:
    """Some studies of an audit, renumbered, and the numbers there of its images, distinct reports and studies, int64, ascending."""

    inputs: AuditInputs
    images: np.ndarray
    texts: np.ndarray
    studies: np.ndarray

    def features(self, every: base.Features | None) -> base.Features | None:
        """Returns the features of these people."""
        return every and base.Features(every.images[self.images], every.texts[self.texts])

    def attributes(self, every: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the attributes of these studies."""
        return {name: values[self.studies] for name, values in every.items()}


def part(inputs: AuditInputs, kept: np.ndarray) -> Part:
    """Returns the studies where `kept`, bool [S], is true, with their images, reports and patients."""
    studies, images = np.flatnonzero(kept), np.flatnonzero(kept[inputs.image_study])
    texts, text = np.unique(inputs.study_text[studies], return_inverse=True)
    people, patient = np.unique(inputs.study_patient[studies], return_inverse=True)
    chosen = AuditInputs(
        images=select(inputs.images, images),
        image_study=np.searchsorted(studies, inputs.image_study[images]).astype(np.int32),
        texts=select(inputs.texts, texts),
        study_text=text.astype(np.int32),
        study_patient=patient.astype(np.int32),
        study_labels=None if inputs.study_labels is None else inputs.study_labels[studies],
        study_has_labels=inputs.study_has_labels[studies],
        image_key=inputs.image_key[images],
        study_key=inputs.study_key[studies],
        patient_key=inputs.patient_key[people],
        study_exposure=None if inputs.study_exposure is None else inputs.study_exposure[studies],
    )
    return Part(chosen, images, texts, studies)
