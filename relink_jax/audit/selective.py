"""Selective linking: an attacker asserts only the links he is most sure of. How often is he right, against how many he asserts?

His confidence is the margin between the best and the second best score. Every threshold is fitted on one half of the patients and used on
the other, and the reverse, so no link is judged by a threshold that it helped to choose. Where a threshold falls among equal
confidences, each of them is asserted with the same probability, so that results do not depend on the order of queries.

Intervals take the thresholds as given. Reference: El-Yaniv and Wiener (2010), "On the foundations of noise-free selective classification".
"""

from typing import Any

import numpy as np

from relink_jax.audit.sample import Sample

COVERAGES = (0.01, 0.1)
PRECISIONS = (0.5, 0.9)
POINTS = 50
LEAST = 1e-3  # coverage at which the curve begins, if there are queries enough
_STREAM = 0x5E1E  # keeps the draw of halves apart from other draws of the seed


def section(confidence: np.ndarray, right: np.ndarray, sizes: np.ndarray, sample: Sample) -> dict[str, Any] | None:
    """Returns precision against coverage, as in results; None where fewer than two patients have a query with a candidate.

    'at_coverage' names the coverage that thresholds were fitted to, the curve's the one they had; 'coverage_at_precision' is the largest
    coverage that had the precision where the threshold was fitted, and 'achieved' the precision where it was used.

    Args:
        confidence: [Q], any scale. right: probability that the asserted study is the truth [Q]. sizes: candidates, truth included, int [Q];
            queries with no other candidate are left out.
    """
    rows = np.flatnonzero(sizes >= 2)
    confidence, right, sizes, patient = confidence[rows], right[rows], sizes[rows], sample.patient[rows]
    if len(np.unique(patient)) < 2:
        return None
    half = halves(patient, sample.settings.seed)
    least = min(1.0, max(1 / len(rows), LEAST))
    wanted = [*COVERAGES, *np.geomspace(least, 1, POINTS)]
    asserted = np.stack([_crossed(confidence, half, [_covering(confidence[half == side], share) for side in (0, 1)]) for share in wanted], axis=1)
    found = _precision(asserted, right, rows, sample)
    curve = [_point(asserted[:, column].mean(), entry) for column, entry in enumerate(found) if column >= len(COVERAGES) and entry["value"] is not None]
    return {
        "confidence": "margin",
        "N": int(sizes.max()),
        "curve": curve,
        "at_coverage": [{"coverage": share, "precision": entry} for share, entry in zip(COVERAGES, found, strict=False)],
        "coverage_at_precision": [_reaching(confidence, right, half, share, rows, sample) for share in PRECISIONS],
        "chance": float((1 / sizes).mean()),
        "n_queries": len(rows),
        "n_patients": len(np.unique(patient)),
    }


def halves(patient: np.ndarray, seed: int) -> np.ndarray:
    """Returns 0 or 1 for each query [n]: a random half of the patients that `patient` [n] names; the same for the same patients and seed."""
    held, place = np.unique(patient, return_inverse=True)
    return (np.random.default_rng([seed, len(held), _STREAM]).permutation(len(held)) % 2)[place]


def _crossed(confidence: np.ndarray, half: np.ndarray, rules: list[tuple[float, float]]) -> np.ndarray:
    """Returns how likely each query is asserted, float64 [n]: above the threshold of the other half always, at it with that rule's probability."""
    threshold, probability = np.array(rules)[1 - half].T
    return np.where(confidence > threshold, 1.0, np.where(confidence == threshold, probability, 0.0))


def _covering(confidence: np.ndarray, share: float) -> tuple[float, float]:
    """Returns the threshold, and the probability at it, that assert a share of queries with these confidences [n]; a share of 1 asserts any."""
    if share >= 1:
        return -np.inf, 1.0
    ordered, wanted = np.sort(confidence), share * len(confidence)
    threshold = ordered[len(ordered) - int(np.ceil(wanted))]
    low, high = np.searchsorted(ordered, threshold, "left"), np.searchsorted(ordered, threshold, "right")
    return float(threshold), float((wanted - (len(ordered) - high)) / (high - low))


def _precise(confidence: np.ndarray, right: np.ndarray, precision: float) -> tuple[float, float]:
    """Returns the lowest threshold at or above which a share `precision` of queries [n] is right, inf if none has it, and 1."""
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    reached = np.cumsum(right[order]) >= (precision - 1e-12) * np.arange(1, len(order) + 1)
    ends = np.append(ordered[1:] != ordered[:-1], True)
    held = np.flatnonzero(reached & ends)
    return (float(ordered[held[-1]]) if len(held) else np.inf), 1.0


def _reaching(confidence: np.ndarray, right: np.ndarray, half: np.ndarray, precision: float, rows: np.ndarray, sample: Sample) -> dict[str, Any]:
    rules = [_precise(confidence[half == side], right[half == side], precision) for side in (0, 1)]
    asserted = _crossed(confidence, half, rules)
    achieved = _precision(asserted[:, None], right, rows, sample)[0]
    return {"precision": precision, "coverage": sample.mean(asserted, rows), "achieved": achieved}


def _precision(asserted: np.ndarray, right: np.ndarray, rows: np.ndarray, sample: Sample) -> list[dict[str, Any]]:
    """Returns the precision of what is asserted, by column of [n, C]; None as value and interval where nothing is."""
    some = np.flatnonzero(asserted.any(axis=0))
    found: list[dict[str, Any]] = [{"value": None, "ci": None, "n_queries": 0, "n_patients": 0} for _ in range(asserted.shape[1])]
    kept = asserted[:, some]
    for column, entry in zip(some, sample.ratios(kept * right[:, None], kept, rows, bounded=True) if len(some) else [], strict=True):
        found[column] = entry
    return found


def _point(coverage: float, entry: dict[str, Any]) -> dict[str, Any]:
    interval = entry["ci"] or {"low": None, "high": None}
    return {"coverage": float(coverage), "precision": entry["value"], "low": interval["low"], "high": interval["high"]}
