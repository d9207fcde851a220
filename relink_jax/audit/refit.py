"""An attacker who re-fits the space: ridge regression from image to report embeddings on pairs of his own, then cosine.

A mitigation that only moves or rotates one side is undone by anyone who holds some image-report pairs and their released embeddings.
The map is centred on both sides and chosen among ridge strengths by leaving out his patients in turn, so that nothing of the audited
people enters it. Rotating either side rotates the map with it and changes no score.

References: Hoerl and Kennard (1970), Technometrics 12(1), 55-67.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from relink_jax import errors

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_FOLDS = 4


@dataclasses.dataclass(frozen=True)
class Refit:
    """A fitted map.

    Attributes:
        image_center, text_center: means of the attacker's pairs, float64 [D]. weights: [D, D]. strength: ridge penalty relative to the mean
            variance of an image dimension.
    """

    image_center: np.ndarray
    text_center: np.ndarray
    weights: np.ndarray
    strength: float

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Returns image embeddings [n, D] as the attacker compares them, float64 of any norm."""
        return (np.asarray(rows, np.float64) - self.image_center) @ self.weights

    def texts(self, rows: np.ndarray) -> np.ndarray:
        """Returns report embeddings [n, D] as the attacker compares them, float64 of any norm."""
        return np.asarray(rows, np.float64) - self.text_center


def fit(images: np.ndarray, texts: np.ndarray, patient: np.ndarray, strengths: Sequence[float] = STRENGTHS) -> Refit:
    """Returns the map fitted on the attacker's pairs: images [n, D], their reports [n, D], and whose they are, int [n].

    Each strength is scored on patients left out in turn, by how far an image's own report stands above theirs (own cosine minus the mean,
    over the standard deviation); of equal ones the strongest is taken.

    Raises: DataError: fewer than two patients, or rows that do not fit together.
    """
    if not len(images) == len(texts) == len(patient) or np.ndim(images) != 2 or np.shape(images) != np.shape(texts):
        raise errors.DataError(errors.describe("auxiliary pairs", "re-fit attacker", "as many images as reports, of one width", f"{np.shape(images)}"))
    people, owner = np.unique(patient, return_inverse=True)
    if len(people) < 2:
        raise errors.DataError(errors.describe("auxiliary pairs", "re-fit attacker", "pairs of at least 2 patients", f"{len(people)}"))
    fold = owner % min(_FOLDS, len(people))
    scores = np.zeros(len(strengths))
    for left in np.unique(fold):
        kept, out = fold != left, fold == left
        for place, strength in enumerate(strengths):
            scores[place] += _margin(_solved(images[kept], texts[kept], strength), images[out], texts[out])
    best = max(range(len(strengths)), key=lambda place: (round(float(scores[place]), 9), strengths[place]))
    return _solved(images, texts, strengths[best])


def _solved(images: np.ndarray, texts: np.ndarray, strength: float) -> Refit:
    x, y = np.asarray(images, np.float64), np.asarray(texts, np.float64)
    image_center, text_center = x.mean(axis=0), y.mean(axis=0)
    x = x - image_center
    gram = x.T @ x
    size = max(float(np.trace(gram)) / len(gram), np.finfo(np.float64).tiny)
    weights = np.linalg.solve(gram / size + strength * np.eye(len(gram)), x.T @ (y - text_center) / size)
    return Refit(image_center, text_center, weights, float(strength))


def _margin(fitted: Refit, images: np.ndarray, texts: np.ndarray) -> float:
    """Returns the sum over images of their own report's standardised cosine among these reports."""
    query, gallery = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300) for rows in (fitted.images(images), fitted.texts(texts)))
    cosines = query @ gallery.T
    spread = np.maximum(cosines.std(axis=1), 1e-12)
    return float(np.sum((np.diag(cosines) - cosines.mean(axis=1)) / spread))
