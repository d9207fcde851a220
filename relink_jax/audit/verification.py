"""Pairwise verification: is this image's report that report? Every pair gets one threshold, whatever else the attacker could compare it with.

The true-positive rate at a false-positive rate is conservative: the smallest threshold that lets at most that share of impostor pairs through,
ties counted against the attacker. Interpolating within ties, or the convex hull of the curve, would need a randomised attacker and
gives more. A low rate is not few false matches: each query meets N - 1 impostors, so the share of accepted pairs that are true
is told beside it for pools of N. The pooled AUC compares all true pairs with all impostor pairs, across queries.

Intervals are over patients of the true pairs, with thresholds as they are. Reference: Carlini et al. (2022), arXiv 2112.03570, for low rates.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax.audit.sample import Sample
from relink_jax.retrieval import impostor_pass
from relink_jax.retrieval.impostors import Impostors

RATES = (1e-2, 1e-3, 1e-4, 1e-5)
FEWEST = 10  # impostor pairs that a rate should rest on


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is kept of the impostor pairs; with the own scores, all else follows.

    Attributes:
        n_impostors: pairs. auc_low, auc_high: what the histogram's bins leave open of the pooled AUC.
        points: (rate asked for, threshold, rate that it has) each.
    """

    n_impostors: int
    auc_low: float
    auc_high: float
    points: tuple[tuple[float, float, float], ...]


def measure(impostors: Impostors, own_scores: np.ndarray, fprs: Sequence[float] = RATES) -> Measured:
    """Returns thresholds at false-positive rates and the pooled AUC of true pairs with scores float32 [Q].

    Raises: UsageError: a rate outside 0 to 1.
    """
    thresholds = [impostors.threshold(rate) for rate in fprs]
    points = [(float(rate), tau, impostors.at_least(tau).high / impostors.total) for rate, tau in zip(fprs, thresholds, strict=True)]
    low, high = (1 - ahead.mean() / impostors.total for ahead in reversed(_ahead(impostors, own_scores)))
    return Measured(impostors.total, float(low), float(high), tuple(points))


def to_arrays(measured: Measured) -> dict[str, np.ndarray]:
    """Returns the same as arrays by name, for a file of arrays."""
    auc = np.array([measured.auc_low, measured.auc_high])
    return {"n_impostors": np.array([measured.n_impostors]), "auc": auc, "points": np.array(measured.points, np.float64).reshape(-1, 3)}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Measured:
    """Returns what `to_arrays` was given."""
    low, high = arrays["auc"].tolist()
    return Measured(int(arrays["n_impostors"][0]), low, high, tuple((rate, tau, found) for rate, tau, found in arrays["points"].tolist()))


def section(measured: Measured, own_scores: np.ndarray, sample: Sample, pool_sizes: Sequence[int | None], full_size: int) -> dict[str, Any]:
    """Returns the section 'verification' of results, for true pairs with scores float32 [Q].

    'auc_pooled' is the middle of 'auc_bounds'. Args: pool_sizes: N for the predictive values; None is `full_size`, the largest pool.
    """
    accepted = np.stack([own_scores >= tau for _, tau, _ in measured.points], axis=1)
    points = []
    for (rate, tau, fpr), entry in zip(measured.points, sample.means(accepted), strict=True):
        predictive = [_predictive(entry["value"], fpr, size, full_size) for size in pool_sizes]
        point = {"fpr": rate, "fpr_found": fpr, "tpr": entry, "threshold": tau, "ppv": predictive}
        points.append(point | {"resolved": bool(rate * measured.n_impostors >= FEWEST)})
    bounds = [measured.auc_low, measured.auc_high]
    counted = {"n_impostors": measured.n_impostors, "n_true": len(own_scores), "points": points}
    return {"definition": "conservative", "auc_pooled": sum(bounds) / 2, "auc_bounds": bounds, **counted}


def measured_of(shown: Mapping[str, Any]) -> Measured:
    """Returns what a section was made of, so that it can be made again from the own scores alone."""
    low, high = shown["auc_bounds"]
    return Measured(shown["n_impostors"], low, high, tuple((point["fpr"], point["threshold"], point["fpr_found"]) for point in shown["points"]))


def _predictive(tpr: float, fpr: float, size: int | None, full_size: int) -> dict[str, Any]:
    n = size or full_size
    accepted = tpr + (n - 1) * fpr
    return {"N": n, "value": tpr / accepted if accepted else None} | ({"full": True} if size is None else {})


def _ahead(impostors: Impostors, own_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many impostor pairs score above each true pair, ties as halves, at least and at most; float64 [Q], equal inside the tail."""
    n, rising = len(impostors.score), impostors.score[::-1]
    exact = n - (np.searchsorted(rising, own_scores, "left") + np.searchsorted(rising, own_scores, "right")) / 2
    if impostors.cut == -math.inf:
        return exact, exact
    from_edge = np.append(np.cumsum(impostors.histogram[::-1])[::-1], 0)
    bin_of = np.searchsorted(impostor_pass.edges(len(impostors.histogram)), own_scores, "right") - 1
    inside = own_scores > impostors.cut
    return np.where(inside, exact, np.maximum(from_edge[bin_of + 1], n)), np.where(inside, exact, from_edge[bin_of])
