"""An attacker who re-fits the space: a linear map between image and report embeddings fitted on pairs of his own, then cosine.

A mitigation that only moves, rotates or mixes one side is undone by anyone who holds some image-report pairs and their released embeddings. Three maps:
  ridge       regression from image to report embeddings
  cca         canonical correlations of both sides, each direction weighed by its correlation
  procrustes  the rotation of the images that comes nearest to the reports; of fewer pairs than dimensions, of what they span
Every map is centred on both sides, and its strength chosen by leaving out his patients in turn, so that nothing of the audited people enters it.
Rotating either side rotates the map with it and changes no score.

References: Hoerl and Kennard (1970), Technometrics 12(1), 55-67. Vinod (1976), J. Econometrics 4(2), 147-166 (canonical correlations with a ridge).
Gong et al. (2014), Int. J. Computer Vision 106, 210-233 (weighing them). Schoenemann (1966), Psychometrika 31, 1-10 (Procrustes).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import linalg

from relink_jax import errors
from relink_jax.audit import moments
from relink_jax.audit.moments import Moments, Side
from relink_jax.store.rows import RowSource

METHODS = RIDGE, CCA, PROCRUSTES = ("ridge", "cca", "procrustes")
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
FOLDS = 4
_JUDGED = 1024  # pairs of a fold on which strengths are compared
_TINY = np.finfo(np.float64).tiny


@dataclasses.dataclass(frozen=True)
class Refit:
    """A fitted map.

    Attributes:
        image_center, text_center: means of the attacker's pairs, float64 [D], [G]. image_weights: [D, E]. text_weights: [G, E], None where E is G and
            reports stay as they are. strength: ridge penalty relative to the mean variance of a dimension; None where there is none.
    """

    image_center: np.ndarray
    text_center: np.ndarray
    image_weights: np.ndarray
    text_weights: np.ndarray | None
    strength: float | None

    def followed(self, images: np.ndarray, texts: np.ndarray) -> "Refit":
        """Returns the map that goes on with `images` and `texts`, both [E, F]."""
        text_weights = texts if self.text_weights is None else self.text_weights @ texts
        return dataclasses.replace(self, image_weights=self.image_weights @ images, text_weights=text_weights)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Returns image embeddings [n, D] as the attacker compares them, float64 [n, E] of any norm."""
        return (np.asarray(rows, np.float64) - self.image_center) @ self.image_weights

    def texts(self, rows: np.ndarray) -> np.ndarray:
        """Returns report embeddings [n, G] as the attacker compares them, float64 [n, E] of any norm."""
        moved = np.asarray(rows, np.float64) - self.text_center
        return moved if self.text_weights is None else moved @ self.text_weights


def fit(
    images: RowSource,
    texts: RowSource,
    patient: np.ndarray,
    method: str = RIDGE,
    *,
    strengths: Sequence[float] = STRENGTHS,
    standardise: bool = False,
) -> Refit:
    """Returns the map fitted on the attacker's pairs: images [n, D], their reports [n, G], and whose they are, int [n].

    Each strength is scored on patients left out in turn, by how far an image's own report stands above theirs (own cosine minus the mean,
    over the standard deviation); of equal ones the strongest is taken.

    Args: method: one of `METHODS`. standardise: give all dimensions one variance first; no longer indifferent to rotations then.
    Raises: DataError: fewer than two patients, or as many images as reports not given.
    """
    if not len(images) == len(texts) == len(patient) or not len(images.shape) == len(texts.shape) == 2:
        found = f"{images.shape[0]} images, {texts.shape[0]} reports"
        raise errors.DataError(errors.describe("auxiliary pairs", "re-fit attacker", "as many images as reports and patients", found))
    fold = moments.folds(patient, FOLDS)
    if len(np.unique(fold)) < 2:
        raise errors.DataError(errors.describe("auxiliary pairs", "re-fit attacker", "pairs of at least 2 patients", str(len(np.unique(patient)))))
    sides = moments.side(images, standardise=standardise), moments.side(texts, standardise=standardise, spanned=method == CCA)
    parts = moments.by_fold(images, texts, sides, fold)
    strength = None if method == PROCRUSTES else _chosen(method, strengths, parts, (images, texts), sides, fold)
    found_images, found_texts = _solved(method, moments.total(parts), sides, strength or 0.0)
    text_weights = None if found_texts is None and not standardise else sides[1].weights(np.eye(sides[1].width) if found_texts is None else found_texts)
    return Refit(sides[0].center, sides[1].center, sides[0].weights(found_images), text_weights, strength)


def unit(rows: np.ndarray) -> np.ndarray:
    """Returns rows [n, E] divided by their norms, in their own precision; a zero row stays zero and so ties with everything."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)


def ridge(pairs: Moments, strength: float, width: int) -> np.ndarray:
    """Returns regression weights [r, G] of centred y on centred x, the penalty relative to the mean variance of x over `width` dimensions."""
    xx, xy, _ = pairs.about(pairs.mean)
    size = max(float(np.trace(xx)) / width, _TINY)
    return linalg.solve(xx / size + strength * np.eye(len(xx)), xy / size, assume_a="pos")


def _cca(pairs: Moments, strength: float, sides: tuple[Side, Side]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the canonical directions of both sides [r, E], [s, E], each times its correlation, which rises."""
    xx, xy, yy = pairs.about(pairs.mean)
    sizes = [max(float(np.trace(square)) / one.width, _TINY) for square, one in zip((xx, yy), sides, strict=True)]
    left, right = (linalg.cholesky(square / size + strength * np.eye(len(square)), lower=True) for square, size in zip((xx, yy), sizes, strict=True))
    between = linalg.solve_triangular(right, linalg.solve_triangular(left, xy / np.sqrt(sizes[0]) / np.sqrt(sizes[1]), lower=True).T, lower=True).T
    square, axes = linalg.eigh(between.T @ between, driver="evd")
    directions = between @ axes, axes * np.sqrt(square.clip(0))
    return tuple(linalg.solve_triangular(root, one, lower=True, trans="T") for root, one in zip((left, right), directions, strict=True))


def _procrustes(pairs: Moments) -> np.ndarray:
    u, size, vt = linalg.svd(pairs.about(pairs.mean)[1], full_matrices=False)
    held = size > 1e-10 * max(float(size[0]), _TINY)
    return u[:, held] @ vt[held]


def _solved(method: str, pairs: Moments, sides: tuple[Side, Side], strength: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns (weights of image coordinates [r, E]; of report coordinates [s, E], None where they stay as they are)."""
    if method == CCA:
        return _cca(pairs, strength, sides)
    return (ridge(pairs, strength, sides[0].width) if method == RIDGE else _procrustes(pairs)), None


def _chosen(
    method: str, strengths: Sequence[float], parts: list[Moments], pairs: tuple[RowSource, RowSource], sides: tuple[Side, Side], fold: np.ndarray
) -> float:
    """Returns the strength under which left-out images stand nearest to their own reports."""
    scores = np.zeros(len(strengths))
    for left in range(len(parts)):
        kept = moments.total([part for number, part in enumerate(parts) if number != left])
        inside = np.flatnonzero(fold == left)
        rows = inside[np.unique(np.linspace(0, len(inside) - 1, min(_JUDGED, len(inside))).astype(np.int64))]
        x, y = (one.coordinates(source[rows]) - mean for one, source, mean in zip(sides, pairs, np.split(kept.mean, [kept.split]), strict=True))
        for place, strength in enumerate(strengths):
            found_images, found_texts = _solved(method, kept, sides, strength)
            scores[place] += _margin(x @ found_images, y if found_texts is None else y @ found_texts) * len(inside) / len(rows)
    return float(strengths[max(range(len(strengths)), key=lambda place: (round(float(scores[place]), 9), strengths[place]))])


def _margin(images: np.ndarray, texts: np.ndarray) -> float:
    """Returns the sum over images of their own report's standardised cosine among these reports."""
    cosines = unit(images) @ unit(texts).T
    spread = np.maximum(cosines.std(axis=1), 1e-12)
    return float(np.sum((np.diag(cosines) - cosines.mean(axis=1)) / spread))
