"""Re-alignment: an attacker with some image-report pairs of other patients fits a linear map between the two sides, then takes cosines.

Of the embeddings after the head it tells what the released space still holds for someone with that many pairs; of the features before it,
what a head could have given away. See `audit.refit` for the maps.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from relink_jax.audit import refit
from relink_jax.audit.attacks import pairs as held
from relink_jax.audit.attacks.base import REALIGNMENT, Attack, Space, Target
from relink_jax.store.rows import RowSource, blocks


@dataclasses.dataclass(frozen=True)
class Linear:
    """What the three maps share.

    Attributes:
        pairs: how many auxiliary pairs it is fitted on, the first of one random order of patients, so that fewer are among more; None for all.
        features: 'embeddings' after the head, or vectors 'before_head', which are standardised first. seed: of the order.
        strengths: ridge penalties to choose from, by left-out auxiliary patients.
    """

    pairs: int | None = None
    features: str = held.EMBEDDINGS
    seed: int = 0
    strengths: tuple[float, ...] = refit.STRENGTHS
    name: ClassVar[str] = ""
    family: ClassVar[str] = REALIGNMENT
    bank: ClassVar[str | None] = None

    def why_not(self, target: Target) -> str | None:
        """Returns the sentence why it cannot be fitted on these auxiliary pairs; None where it can."""
        return held.problem(self.name, target, self.pairs, self.features, self.seed)

    def variants(self, target: Target) -> Sequence[Attack]:
        """Returns itself: its strength is chosen inside."""
        return (self,)

    def space(self, target: Target) -> Space:
        """Returns the mapped images and reports, unit-norm.

        Raises: DataError: what `why_not` says.
        """
        known = held.known(self.name, target, self.pairs, self.features, self.seed)
        before = self.features == held.BEFORE_HEAD
        fitted = refit.fit(known.images, known.texts, known.patient, self.name, strengths=self.strengths, standardise=before)
        return mapped(fitted, target, self.features, settings(known, self.seed) | {"strength": fitted.strength})


@dataclasses.dataclass(frozen=True)
class Ridge(Linear):
    """Regression from images to reports."""

    name: ClassVar[str] = refit.RIDGE


@dataclasses.dataclass(frozen=True)
class CCA(Linear):
    """Canonical correlations of images and reports, each direction weighed by its correlation."""

    name: ClassVar[str] = refit.CCA


@dataclasses.dataclass(frozen=True)
class Procrustes(Linear):
    """The rotation of the images that comes nearest to the reports; `strengths` are not used."""

    name: ClassVar[str] = refit.PROCRUSTES


def settings(known: held.Known, seed: int) -> dict[str, Any]:
    """Returns what results say of the pairs that an attack was fitted on."""
    return {"fitted_pairs": len(known.patient), "fitted_patients": len(np.unique(known.patient)), "seed": seed}


def mapped(fitted: refit.Refit, target: Target, features: str, params: dict[str, Any]) -> Space:
    """Returns the audited people as a fitted map shows them, unit-norm."""
    images, texts = held.audited(target, features)
    return Space(_through(fitted.images, images), _through(fitted.texts, texts), params=params)


def _through(change: Callable[[np.ndarray], np.ndarray], rows: RowSource) -> np.ndarray:
    """Returns changed rows [n, E], unit-norm float32, reading the source once in blocks."""
    return np.concatenate([refit.unit(change(rows[part])).astype(np.float32) for part in blocks(rows)])
