"""Fused queries: several images of one study, or several models, speak for one image."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from scipy import sparse

from relink_jax import errors
from relink_jax.audit.attacks import base
from relink_jax.store.rows import RowSource, blocks


@dataclasses.dataclass(frozen=True)
class StudyMean:
    """An attacker who knows which images were taken together asks with their mean; its answer is the answer of each."""

    name: ClassVar[str] = "study_mean"
    family: ClassVar[str] = base.FUSION
    bank: ClassVar[str | None] = None
    pairs: ClassVar[int | None] = None

    def space(self, target: base.Target) -> base.Space:
        """Returns the unit-norm mean of the unit-norm images of each image's study, and the reports as they are."""
        means, study = study_means(unit(target.inputs.images), target.inputs.image_study)
        return base.Space(unit(means)[study], target.inputs.texts)

    def variants(self, target: base.Target) -> Sequence[base.Attack]:
        """Returns itself."""
        return (self,)


@dataclasses.dataclass(frozen=True)
class ModelFusion:
    """The mean cosine of several models that embedded the same people."""

    name: ClassVar[str] = "model_fusion"
    family: ClassVar[str] = base.FUSION
    bank: ClassVar[str | None] = None
    pairs: ClassVar[int | None] = None

    def why_not(self, target: base.Target) -> str | None:
        """Returns why it cannot be tried, None where it can."""
        return None if target.others else "no other model embedded the same people"

    def space(self, target: base.Target) -> base.Space:
        """Returns rows of all models side by side, over sqrt(models); reports that are distinct here are taken from their first study there.

        Raises: DataError: another model's rows are not of the same images and studies.
        """
        models = (target.inputs, *target.others)
        for other in target.others:
            if not np.array_equal(other.image_study, target.inputs.image_study) or len(other.study_text) != len(target.inputs.study_text):
                found = f"{len(other.images)} images and {len(other.study_text)} studies, or another order"
                expected = f"the same {len(target.inputs.images)} images and {len(target.inputs.study_text)} studies"
                raise errors.DataError(errors.describe("rows of another model", "model fusion", expected, found))
        _, first = np.unique(target.inputs.study_text, return_index=True)
        images = _beside([(model.images, np.arange(len(model.images))) for model in models])
        texts = _beside([(model.texts, model.study_text[first]) for model in models])
        return base.Space(images, texts, params={"models": len(models)})

    def variants(self, target: base.Target) -> Sequence[base.Attack]:
        """Returns itself."""
        return (self,)


def study_means(images: RowSource, image_study: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (means of the images [Q, D] of each study that has any, float32 [G, D]; row there of each image [Q]).

    Reads which images belong together, and not to which report. Images that cancel out have the zero row.
    """
    _, study, number = np.unique(image_study, return_inverse=True, return_counts=True)
    n = len(study)
    share = sparse.csr_array(((1 / number[study]).astype(np.float32), (study, np.arange(n))), (len(number), n))
    return share @ np.asarray(images[:], np.float32), study


def unit(rows: RowSource) -> np.ndarray:
    """Returns rows [n, D] at norm 1, float32; zero rows stay."""
    out = np.empty(rows.shape, np.float32)
    for block in blocks(rows):
        part = rows[block].astype(np.float64)
        norm = np.sqrt(np.einsum("nd,nd->n", part, part))
        out[block] = part / np.where(norm > 0, norm, 1)[:, None]
    return out


def _beside(sides: Sequence[tuple[RowSource, np.ndarray]]) -> np.ndarray:
    """Returns rows of given numbers of every side at norm 1 / sqrt(sides), one side after the other, float32 [n, sum of D]."""
    return np.concatenate([unit(rows)[number] for rows, number in sides], axis=1) / np.float32(np.sqrt(len(sides)))
