"""Between which scores a candidate is neither surely better nor surely worse than the truth."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Limits:
    """Lower and upper limits of both sides.

    Attributes:
        image_low, image_high: float32 [Q] around the score of an image's own report.
        study_low, study_high: float32 [S] around the best score of a study's own images, +inf without an image.
        best_image: int32 [S], lowest number of an image that has that best score, -2 without one.
    """

    image_low: np.ndarray
    image_high: np.ndarray
    study_low: np.ndarray
    study_high: np.ndarray
    best_image: np.ndarray


def exact(own: np.ndarray, image_study: np.ndarray, n_studies: int) -> Limits:
    """Returns limits at the own scores themselves, float32 [Q]."""
    best, best_image = best_own(own, image_study, n_studies)
    return Limits(own, own, best, best, best_image)


def banded(own: np.ndarray, image_study: np.ndarray, n_studies: int, image_band: np.ndarray, study_band: np.ndarray) -> Limits:
    """Returns limits around exact own scores, float64 [Q], that hold every score within the bands [Q] and [S], rounded outwards."""
    best, best_image = best_own(own, image_study, n_studies)
    return Limits(*_around(own, image_band), *_around(best, study_band), best_image)


def nowhere(n_images: int, n_studies: int) -> Limits:
    """Returns limits of queries without a truth: no score is above them or reaches them."""
    images, studies = (np.full(n, np.inf, np.float32) for n in (n_images, n_studies))
    return Limits(images, images, studies, studies, np.full(n_studies, -2, np.int32))


def best_own(own: np.ndarray, image_study: np.ndarray, n_studies: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (best own score [S] of the type of `own` [Q], +inf without an image; lowest number of an image that has it int32 [S], or -2)."""
    best = np.full(n_studies, -np.inf, own.dtype)
    np.maximum.at(best, image_study, own)
    image = np.full(n_studies, np.iinfo(np.int32).max, np.int32)
    reached = np.flatnonzero(own == best[image_study]).astype(np.int32)
    np.minimum.at(image, image_study[reached], reached)
    none = np.isinf(best)
    return np.where(none, np.inf, best).astype(own.dtype), np.where(none, -2, image).astype(np.int32)


def _around(centre: np.ndarray, band: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = ((centre + sign * band).astype(np.float32) for sign in (-1, 1))
    return np.nextafter(low, -np.inf, dtype=np.float32), np.nextafter(high, np.inf, dtype=np.float32)
