"""Open-set linkage: the true report may be absent, so the attacker asserts his best candidate only if its score reaches a threshold.

  TPIR(tau)  share of mated searches, those whose true report is in the pool, that have it at rank 1 with a score of tau or more
  FPIR(tau)  share of non-mated searches, the same images without any report of their patient, whose best candidate scores tau or more

A tie at rank 1 counts for the share of it that the truth has. The threshold of a rate is the smallest that keeps FPIR at or below it. With n
non-mated searches, rates below 10 / n rest on too few of them.

Intervals are percentiles over draws of patients, each of which finds its own threshold. Reference: ISO/IEC 19795-1, biometric performance testing.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from relink_jax.audit import uncertainty
from relink_jax.audit.sample import Sample

RATES = (0.1, 0.01, 0.001)
POINTS = 50
FEWEST = 10  # non-mated searches above the threshold that a rate should rest on
_CHUNK = 1 << 23  # numbers held at a time


def section(own_score: np.ndarray, best_impostor: np.ndarray, right: np.ndarray, sizes: np.ndarray, sample: Sample) -> dict[str, Any] | None:
    """Returns TPIR at rates of FPIR, as in results; None where no query has a candidate.

    Args:
        own_score, best_impostor: float32 [Q]. right: probability that the truth is at rank 1 [Q]. sizes: candidates, truth included, int [Q];
            queries with no other candidate are left out.
    """
    rows = np.flatnonzero(sizes >= 2)
    if not len(rows):
        return None
    own, best, right = own_score[rows], best_impostor[rows], right[rows]
    drawn = refitted(own, best, right, rows, sample, RATES)
    points = []
    for column, rate in enumerate(RATES):
        tau = threshold(best, rate)
        entry = _interval(sample.mean(identified(own, right, tau), rows), drawn[:, column], sample.settings.level)
        points.append({"fpir": rate, "tpir": entry, "threshold": tau, "resolved": bool(rate >= FEWEST / len(rows))})
    return {"N": int(sizes[rows].max()), "points": points, "curve": _curve(own, best, right), "resolution": FEWEST / len(rows)}


def identified(own_score: np.ndarray, right: np.ndarray, tau: float) -> np.ndarray:
    """Returns how likely each mated search [n] has the truth at rank 1 with a score of `tau` or more, float64 [n]."""
    return np.where(own_score >= tau, right, 0.0)


def rates(own_score: np.ndarray, best_impostor: np.ndarray, right: np.ndarray, tau: float) -> tuple[float, float]:
    """Returns (TPIR, FPIR) at a threshold, from arrays [n] as in `section`."""
    return float(identified(own_score, right, tau).mean()), float((best_impostor >= tau).mean())


def threshold(best_impostor: np.ndarray, fpir: float) -> float:
    """Returns the smallest float32 that at most a share `fpir` of scores float32 [n] reach, -inf where all may."""
    n = len(best_impostor)
    allowed = math.floor(fpir * n)
    allowed += (allowed + 1) / n <= fpir
    if allowed >= n:
        return -math.inf
    first_refused = np.partition(best_impostor, n - 1 - allowed)[n - 1 - allowed]
    return float(np.nextafter(np.float32(first_refused), np.float32(np.inf)))


def refitted(own: np.ndarray, best: np.ndarray, right: np.ndarray, rows: np.ndarray, sample: Sample, fpirs: Sequence[float]) -> np.ndarray:
    """Returns bootstrap replicates of TPIR at each rate, float64 [B, C], with the threshold found again in every draw of patients.

    Args: own, best, right: [n] as in `section`, of queries `rows` [n].
    """
    order, hits = np.argsort(-best, kind="stable"), np.flatnonzero(right > 0)
    hits = hits[np.argsort(-own[hits], kind="stable")]
    ends = np.flatnonzero(np.append(best[order][1:] != best[order][:-1], True))
    above = np.append(np.searchsorted(-own[hits], -best[order][ends]), len(hits))  # hits above each distinct score, and all of them
    patient, out = sample.patient[rows], []
    for weights in uncertainty.weights(sample.n_patients, sample.settings.replicates, sample.settings.seed):
        for weight in np.array_split(weights, max(1, min(len(weights), len(weights) * len(rows) // _CHUNK))):
            total = weight @ np.bincount(patient, minlength=sample.n_patients)
            seen = np.cumsum(weight[:, patient[order]], axis=1)[:, ends]
            won = np.cumsum(np.pad(weight[:, patient[hits]] * right[hits], ((0, 0), (1, 0))), axis=1)
            refused = np.stack([(seen <= rate * total[:, None] + 1e-9).sum(axis=1) for rate in fpirs], axis=1)
            found = np.take_along_axis(won, above[refused], axis=1)
            out.append(np.divide(found, total[:, None], out=np.full(found.shape, np.nan), where=total[:, None] > 0))
    return np.concatenate(out)


def _interval(entry: dict[str, Any], drawn: np.ndarray, level: float) -> dict[str, Any]:
    """Returns the entry of a mean with the percentile interval of replicates [B], unless all patients have one value."""
    drawn = drawn[~np.isnan(drawn)]
    if entry["ci"] is None or entry["ci"]["method"] == "exact_extreme" or len(drawn) < 2:
        return entry
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return entry | {"ci": entry["ci"] | {"method": "patient_percentile", "low": float(low), "high": float(high), "se": float(drawn.std(ddof=1))}}


def _curve(own: np.ndarray, best: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Returns points at rates from 1 / n to 1, each with the FPIR that its threshold has."""
    n = len(best)
    found = dict(rates(own, best, right, threshold(best, rate))[::-1] for rate in np.geomspace(1 / n, 1, POINTS))
    return [{"fpir": fpir, "tpir": found[fpir]} for fpir in sorted(found)]
