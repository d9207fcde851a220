"""Label-level retrieval: are the reports found for an image about the same findings, whoever they belong to?

Precision@k is the share of the k best reports that have the label code of the image's own study; nDCG@k gains the Jaccard overlap of the
positive labels of both, discounted by 1 / log2(1 + place). Candidates are the labelled studies of other patients, so that nothing here is
linkage. Both are exact expectations under random order among equal scores: constant embeddings get chance exactly. Identical texts are
scored once, so their scores tie exactly.

References: Jarvelin and Kekalainen (2002), ACM TOIS 20(4), 422-446 (nDCG); McSherry and Najork (2008), ECIR, LNCS 4956, 414-421 (ties).
"""

import dataclasses
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.store.rows import RowSource
from relink_jax.utility import auroc

_BLOCK = 64  # queries scored at once against every text


@dataclasses.dataclass(frozen=True)
class Studies:
    """The candidate studies: row of each one's text, its patient and label code (-1 where it has no labels), int [S], and positives, bool [S, L]."""

    text: np.ndarray
    patient: np.ndarray
    code: np.ndarray
    positive: np.ndarray


def label_retrieval(
    images: RowSource, texts: RowSource, image_study: np.ndarray, studies: Studies, *, k: int = 10, most: int = 2000,
    bootstrap_replicates: int = 500, level: float = 0.95, seed: int = 0
) -> dict[str, Any]:  # fmt: skip
    """Returns {precision_at_k, ndcg_at_k, chance, chance_ndcg, k} with k spelled out, each of the first two {value, ci, n_queries, n_patients}.

    A query is an image of a labelled study that has at least k candidates, and for nDCG one with any overlap. With more than `most` images of
    labelled studies, a random sample of that many is asked, the same for every arm of one seed. Values are None where nothing can be asked.

    Args:
        images: unit embeddings [n, D] of the images; texts: unit embeddings [U, D] of distinct texts.
        image_study: int [n], position in `studies` of each image's study.
    Raises: UsageError: k or most below 1.
    """
    if min(k, most) < 1:
        raise errors.UsageError(errors.describe("k and number of queries", "label retrieval", "at least 1", f"{k} and {most}"))
    labelled = studies.code >= 0
    asked = np.flatnonzero(labelled[image_study])
    if len(asked) > most:
        asked = np.sort(np.random.default_rng(seed).choice(asked, most, replace=False))
    found = np.full((len(asked), 4), np.nan)  # precision, its chance, nDCG, its chance
    vectors, overlaps = np.asarray(texts[:], np.float32), _Overlaps(studies.positive)
    for first in range(0, len(asked), _BLOCK):
        part = asked[first : first + _BLOCK]
        products = np.asarray(images[part], np.float32) @ vectors.T
        for row, (image, scores) in enumerate(zip(part, products, strict=True), first):
            study = image_study[image]
            eligible = np.flatnonzero(labelled & (studies.patient != studies.patient[study]))
            if len(eligible) >= k:
                same = studies.code[eligible] == studies.code[study]
                found[row] = _of_query(scores[studies.text[eligible]], same, overlaps.with_all(study)[eligible], k)
    owner = studies.patient[image_study[asked]]
    shared = (bootstrap_replicates, level, seed)
    chance = {
        name: float(np.nanmean(column)) if np.isfinite(column).any() else None for name, column in (("chance", found[:, 1]), ("chance_ndcg", found[:, 3]))
    }
    return {f"precision_at_{k}": _mean(found[:, 0], owner, *shared), f"ndcg_at_{k}": _mean(found[:, 2], owner, *shared), **chance, "k": k}


def top_share(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns what each candidate of `scores` [S] expects of `values` [k], one per place from the best, under random order among equal scores.

    Example: >>> top_share(np.array([2., 1., 1., 0.]), np.array([1., .5]))  ->  [1., .25, .25, 0.]
    """
    k, expected = min(len(values), len(scores)), np.zeros(len(scores))
    reached = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    _, group, size = np.unique(-scores[reached], return_inverse=True, return_counts=True)
    total = np.concatenate([[0.0], np.cumsum(values[:k])])
    stop = np.cumsum(size)
    expected[reached] = ((total[np.minimum(stop, k)] - total[np.minimum(stop - size, k)]) / size)[group]
    return expected


class _Overlaps:
    """Jaccard overlaps of positive label sets bool [S, L], one distinct set at a time; 1 between empty sets."""

    def __init__(self, positive: np.ndarray) -> None:
        self._sets, of = np.unique(positive, axis=0, return_inverse=True)
        self._of, self._known = of.ravel(), dict[int, np.ndarray]()

    def with_all(self, study: int) -> np.ndarray:
        """Returns float64 [S], the overlap of a study with every study."""
        number = int(self._of[study])
        if number not in self._known:
            shared, either = (self._sets & self._sets[number]).sum(axis=1), (self._sets | self._sets[number]).sum(axis=1)
            self._known[number] = np.where(either > 0, shared / np.maximum(either, 1), 1.0)
        return self._known[number][self._of]


def _of_query(scores: np.ndarray, same: np.ndarray, gain: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """Returns (precision, its chance, nDCG, its chance) of one query from its candidates' scores, code matches and gains [S]."""
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = float(np.sort(np.partition(gain, len(gain) - k)[len(gain) - k :])[::-1] @ discount)
    precision = float(top_share(scores, np.full(k, 1 / k)) @ same)
    if ideal == 0:
        return precision, float(same.mean()), np.nan, np.nan
    return precision, float(same.mean()), float(top_share(scores, discount) @ gain) / ideal, float(gain.mean() * discount.sum()) / ideal


def _mean(values: np.ndarray, patients: np.ndarray, replicates: int, level: float, seed: int) -> dict[str, Any]:
    """Returns {value, ci, n_queries, n_patients} of the mean of finite `values` [n], whole patients drawn again."""
    kept = np.isfinite(values)
    if not kept.any():
        return {"value": None, "ci": None, "n_queries": 0, "n_patients": 0}
    distinct, owner = np.unique(patients[kept], return_inverse=True)
    weights = auroc.patient_weights(patients[kept], replicates, seed)
    sums, counts = (np.bincount(owner, part, len(distinct)) for part in (values[kept], None))
    ci = auroc.percentile_interval((weights @ sums) / (weights @ counts), level)
    return {"value": float(values[kept].mean()), "ci": ci, "n_queries": int(kept.sum()), "n_patients": len(distinct)}
