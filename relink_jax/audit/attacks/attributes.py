"""Attackers who see no more of a report than its length, or what is known of its study: what a link is worth that needs no image model to be explained.

A ridge regression from image embeddings, fitted on auxiliary patients, guesses the attributes b of an image's study; candidates are ranked by how much
likelier the image is for their attributes than for anybody's. With a guess a whose errors have variance v in units where attributes have variance 1, that is
  (b^2 - (b - a)^2 / v) / 2 = a b / v - b^2 (1/v - 1) / 2 + a constant of the image,
an inner product in one more dimension. Attributes that images do not tell (v = 1) drop out, and where none is left all candidates tie.
Errors are those on auxiliary patients left out in turn.
"""

import dataclasses
import numbers
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from relink_jax import errors
from relink_jax.audit import moments, refit
from relink_jax.audit.attacks import pairs as held
from relink_jax.audit.attacks.base import BASELINE, Attack, Space, Target
from relink_jax.audit.inputs import AuditInputs
from relink_jax.retrieval import unique
from relink_jax.store.rows import blocks

_FEWEST = 5  # auxiliary studies of a category that is told apart
_LEAST_ERROR = 1e-4  # variance of a guess's error, of the attribute's


@dataclasses.dataclass(frozen=True)
class _Guess:
    """A regression from images to attributes, both centred: guesses are images times `weights` [D, c], the truth attributes times `axes` [C, c].

    `error`: variance [c] of the guesses' errors, below 1.
    """

    center: np.ndarray
    weights: np.ndarray
    usual: np.ndarray
    axes: np.ndarray
    error: np.ndarray
    strength: float


@dataclasses.dataclass(frozen=True)
class MetadataOnly:
    """Ranks by everything that is known of a study, or by the columns named; missing values, and categories of fewer than 5 studies, say nothing."""

    columns: tuple[str, ...] | None = None
    name: ClassVar[str] = "metadata_only"
    family: ClassVar[str] = BASELINE
    bank: ClassVar[str | None] = None
    pairs: ClassVar[int | None] = None
    features: ClassVar[str] = held.EMBEDDINGS

    def why_not(self, target: Target) -> str | None:
        """Returns the sentence why it cannot be fitted on these auxiliary patients; None where it can."""
        names = self._names(target)
        missing = sorted(name for name in names if name not in target.attributes or name not in target.auxiliary_attributes)
        if missing or not names:
            found = f"no {', '.join(missing)}" if missing else "none"
            return errors.describe("attributes", f"attack {self.name!r}", "attributes of audited and auxiliary studies", found)
        sentence = held.problem(self.name, target, None, self.features, 0)
        if sentence is None and not self._encoded(target)[0].any():
            sentence = errors.describe("attributes", f"attack {self.name!r}", "one that differs among auxiliary studies", "none")
        return sentence

    def variants(self, target: Target) -> Sequence[Attack]:
        """Returns itself: its strength is chosen inside."""
        return (self,)

    def space(self, target: Target) -> Space:
        """Returns images as their guesses [Q, c + 1] and, with `study_text`, the distinct attributes of studies [V, c + 1].

        Raises: DataError: what `why_not` says.
        """
        sentence = self.why_not(target)
        if sentence is not None:
            raise errors.DataError(sentence)
        known, asked = self._encoded(target)
        guess = _fitted(target.auxiliary, known)
        queries = []
        for part in blocks(target.inputs.images):
            rows = (np.asarray(target.inputs.images[part], np.float64) - guess.center) @ guess.weights / guess.error
            queries.append(np.concatenate([rows, np.ones((len(rows), 1))], axis=1).astype(np.float32))
        actual = (asked - guess.usual) @ guess.axes
        offset = -np.sum(actual**2 * (1 / guess.error - 1), axis=1, keepdims=True) / 2
        studies = np.concatenate([actual, offset], axis=1).astype(np.float32) + np.float32(0)
        first, study_text = unique.unique_rows(studies)
        params = {"columns": list(self._names(target)), "strength": guess.strength, "explained": [float(1 - one) for one in guess.error]}
        return Space(np.concatenate(queries), studies[first], params=params, study_text=study_text)

    def _names(self, target: Target) -> tuple[str, ...]:
        return tuple(target.attributes) if self.columns is None else self.columns

    def _encoded(self, target: Target) -> tuple[np.ndarray, np.ndarray]:
        """Returns columns [S', C], [S, C] of auxiliary and audited studies, of mean 0 and variance 1 among the auxiliary ones; 0 where nothing is known."""
        both = [(target.auxiliary_attributes[name], target.attributes[name]) for name in self._names(target)]
        columns = [column for known, asked in both for column in self._columns(np.asarray(known), np.asarray(asked))]
        return tuple(np.stack(side, axis=1) for side in zip(*columns, strict=True)) if columns else (np.zeros((1, 1)), np.zeros((1, 1)))  # type: ignore[return-value]

    def _columns(self, known: np.ndarray, asked: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        numeric = _numeric(known) and _numeric(asked)
        if numeric:
            yield _standardised(*(self._scaled(column.astype(np.float64)) for column in (known, asked)))
            return
        levels, count = np.unique([str(one) for one in known.tolist() if not _missing(one)], return_counts=True)
        texts = [np.array([np.nan if _missing(one) else str(one) for one in side.tolist()], object) for side in (known, asked)]
        told = set(levels[count >= _FEWEST].tolist())
        for level in sorted(told):
            yield _standardised(*(np.array([float(one == level) if one in told else np.nan for one in side]) for side in texts))

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        return values


@dataclasses.dataclass(frozen=True)
class LengthOnly(MetadataOnly):
    """Ranks by the logarithm of a report's length, the column named."""

    columns: tuple[str, ...] | None = ("report_words",)
    name: ClassVar[str] = "length_only"

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        return np.log1p(np.maximum(values, 0))


def _missing(value: Any) -> bool:
    return value is None or value != value or value == ""


def _numeric(values: np.ndarray) -> bool:
    if values.dtype != object:
        return values.dtype.kind in "biuf"
    return all(_missing(one) or isinstance(one, numbers.Real) for one in values.tolist())


def _standardised(known: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both columns in units of the first; zeros where a value is missing, and throughout where the first does not vary."""
    finite = known[np.isfinite(known)]
    spread = float(finite.std()) if len(finite) else 0.0
    if spread <= 1e-9 * max(1.0, float(np.abs(finite).max(initial=0.0))):
        return np.zeros(len(known)), np.zeros(len(asked))
    return tuple(np.where(np.isfinite(side), (side - finite.mean()) / spread, 0.0) for side in (known, asked))  # type: ignore[return-value]


def _fitted(auxiliary: AuditInputs, columns: np.ndarray) -> _Guess:
    """Returns the regression on auxiliary images, attributes turned to axes of their own variance 1 whose errors do not correlate."""
    study = auxiliary.image_study
    targets = columns[study]
    sides = moments.side(auxiliary.images), moments.Side(np.zeros(targets.shape[1]), np.ones(targets.shape[1]))
    parts = moments.by_fold(auxiliary.images, targets, sides, moments.folds(auxiliary.study_patient[study], refit.FOLDS))
    whole = moments.total(parts)
    variance, axes = np.linalg.eigh(whole.about(whole.mean)[2] / whole.n)
    held_axes = variance > 1e-9 * max(float(variance[-1]), 1e-300)
    white = axes[:, held_axes] / np.sqrt(variance[held_axes])
    left_out = {strength: white.T @ _errors(parts, strength, sides[0].width) @ white for strength in refit.STRENGTHS}
    strength = min(refit.STRENGTHS, key=lambda one: (float(np.trace(left_out[one])), -one))
    error, turned = np.linalg.eigh(left_out[strength])
    told = error < 1
    white = white @ turned[:, told]
    weights = sides[0].weights(refit.ridge(whole, strength, sides[0].width) @ white)
    return _Guess(sides[0].center, weights, whole.mean[whole.split :], white, np.maximum(error[told], _LEAST_ERROR), float(strength))


def _errors(parts: Sequence[moments.Moments], strength: float, width: int) -> np.ndarray:
    """Returns the mean products [C, C] of the errors on folds that the regression was not fitted on."""
    found = np.zeros(())
    for left, part in enumerate(parts):
        kept = moments.total([one for number, one in enumerate(parts) if number != left])
        weights = refit.ridge(kept, strength, width)
        xx, xy, yy = part.about(kept.mean)
        cross = weights.T @ xy
        found = found + yy - cross - cross.T + weights.T @ xx @ weights
    return found / sum(part.n for part in parts)
