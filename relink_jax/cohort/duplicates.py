"""Studies of identical text: how many there are, and how high strict Recall@1 can be where an image has to find its own among them.

An oracle that knows the exact text of each image's report still cannot tell which of g studies with that text is the image's own, so it is
right once in g. This ceiling is a property of the cohort and the text field, and belongs beside every strict Recall@1.
"""

import numpy as np

from relink_jax import errors
from relink_jax.cohort.schema import Cohort, Selection

SAME_PATIENT = ("exclude", "negative")


def ceiling(cohort: Cohort, selection: Selection, *, pool_size: int | None = None, same_patient: str = "exclude") -> float:
    """Returns the strict Recall@1 of an oracle that knows the exact text, mean over the selection's images.

    Against all candidates it is the mean of 1/g. In a pool of N, the own study and N - 1 of the other M - 1 candidates drawn without
    replacement, the number X of other studies with the text is hypergeometric, and the mean of 1 / (1 + X) is
    M / (N g) * (1 - C(M - g, N) / C(M, N)), the probability in brackets being that a pool of N of the M holds one of the g.

    Args:
        pool_size: N; None for all candidates.
        same_patient: 'exclude' leaves the query patient's other studies out of the candidates, 'negative' keeps them, as the audit's setting.

    Raises: UsageError: another `same_patient`, or a pool larger than a query's candidates. DataError: a selection without images.
    """
    if same_patient not in SAME_PATIENT:
        raise errors.UsageError(errors.describe("same_patient", "ceiling", f"one of {', '.join(SAME_PATIENT)}", repr(same_patient)))
    if not len(selection.images):
        raise errors.DataError(errors.describe("selection", "ceiling", "at least one image", "none"))
    texts, patients = cohort.study_text[selection.studies], cohort.study_patient[selection.studies]
    alike = np.bincount(texts)[texts]
    candidates = np.full(len(texts), len(texts))
    if same_patient == "exclude":
        pair = texts.astype(np.int64) * (int(patients.max()) + 1) + patients
        _, place, own = np.unique(pair, return_inverse=True, return_counts=True)
        alike = alike - own[place] + 1
        candidates = candidates - np.bincount(patients)[patients] + 1
    if pool_size is not None and not 1 <= pool_size <= candidates.min():
        raise errors.UsageError(errors.describe("pool size", "ceiling", f"1 to {candidates.min()}, the fewest candidates of a query", str(pool_size)))
    queries = np.bincount(np.searchsorted(selection.studies, cohort.image_study[selection.images]), minlength=len(texts))
    kinds, weight = _grouped(np.stack([candidates, alike], axis=1), queries)
    return float(sum(_hit(m, g, pool_size or m) * w for (m, g), w in zip(kinds.tolist(), weight.tolist(), strict=True)) / len(selection.images))


def repeated(cohort: Cohort, selection: Selection) -> tuple[int, float]:
    """Returns how many studies of the selection have a text that another one has too, and their share in [0, 1]."""
    texts = cohort.study_text[selection.studies]
    count = int((np.bincount(texts)[texts] > 1).sum()) if len(texts) else 0
    return count, count / max(1, len(texts))


def _hit(candidates: int, alike: int, pool: int) -> float:
    """Returns the mean of 1 / (1 + X) of `ceiling`; exact to rounding, since the product's logarithm is summed and never subtracted from 1."""
    if pool == candidates:
        return 1 / alike
    if alike > candidates - pool:  # every pool holds one
        return candidates / (pool * alike)
    met = -np.expm1(np.log1p(-pool / (candidates - np.arange(alike))).sum())
    return float(candidates / (pool * alike) * met)


def _grouped(rows: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns distinct `rows` [k, 2] and the summed weight [k] of each."""
    kinds, place = np.unique(rows, axis=0, return_inverse=True)
    return kinds, np.bincount(place.ravel(), weight)
