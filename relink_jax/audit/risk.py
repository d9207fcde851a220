"""How the risk of being linked is spread over records and over patients.

The risk of a record is its exact probability of being linked in a random pool, so that nothing here is sampled. Expected hits are summed
risks. A top share counts part of the record, or patient, at its boundary: the Lorenz curve is a straight line between records, and every
share is read off it.
"""

from typing import Any

import numpy as np

from relink_jax.audit.sample import Sample

QUANTILES = (0.5, 0.9, 0.99, 1)
THRESHOLDS = {"share_ge_009": 0.09, "share_ge_050": 0.5}  # 0.09 as in EMA Policy 0070 and Health Canada's PRCI; context, not compliance
_ROUNDING = 1e-8  # of a probability, see `retrieval.expectation`
_POINTS = np.unique(np.round(np.concatenate([np.linspace(0, 0.9, 46), np.linspace(0.9, 0.99, 31), np.linspace(0.99, 1, 21)]), 6))


def entry(p: np.ndarray, rows: np.ndarray, sample: Sample, *, N: int, full: bool, attack: str = "cosine") -> dict[str, Any] | None:
    """Returns one entry of the results' section `risk`, None where no query has a pool of this size.

    Args:
        p: probability of each query's being linked, float64 [n]; rows: their query numbers [n].
        N, full: the pool size. attack: who links.
    Returns: quantiles (the least risk that this share of records does not exceed), shares of records at or above a threshold with intervals,
        top shares, Gini and Lorenz curve (lowest risks first); these are None where no record has any risk.
    """
    if not len(p):
        return None
    by_patient = np.bincount(sample.patient[rows], p, minlength=sample.n_patients)[np.unique(sample.patient[rows])]
    shares = sample.means(np.stack([p >= limit - _ROUNDING for limit in THRESHOLDS.values()], axis=1), rows)
    found = np.quantile(p, QUANTILES, method="inverted_cdf")
    curve = lorenz(p, _POINTS)
    return {
        "N": N,
        "full": full,
        "attack": attack,
        "quantiles": {f"{share:g}": float(value) for share, value in zip(QUANTILES, found, strict=True)},
        **dict(zip(THRESHOLDS, shares, strict=True)),
        "top1pct_share": top_share(p, 0.01),
        "top10pct_share": top_share(p, 0.1),
        "patients_top1pct_share": top_share(by_patient, 0.01),
        "patients_top10pct_share": top_share(by_patient, 0.1),
        "gini": gini(p),
        "lorenz": None if curve is None else {"records": _POINTS.tolist(), "hits": curve.tolist()},
    }


def lorenz(values: np.ndarray, shares: np.ndarray) -> np.ndarray | None:
    """Returns what part of the sum of `values` [n] >= 0 the lowest `shares` [k] of them hold, float64 [k]; None where the sum is 0."""
    held = np.concatenate([[0.0], np.cumsum(np.sort(values))])
    if held[-1] <= 0:
        return None
    return np.interp(shares, np.linspace(0, 1, len(held)), held / held[-1])


def top_share(values: np.ndarray, share: float) -> float | None:
    """Returns what part of the sum of `values` [n] >= 0 the greatest `share` of them hold; None where the sum is 0.

    Of the value at the boundary the part that belongs counts: the top 1% of 10 values is a tenth of the greatest.
    """
    below = lorenz(values, np.array([1 - share]))
    return None if below is None else float(1 - below[0])


def gini(values: np.ndarray) -> float | None:
    """Returns the Gini coefficient of `values` [n] >= 0, 0 where all are equal and 1 - 1/n where one has everything; None where the sum is 0."""
    total, n = values.sum(), len(values)
    if total <= 0:
        return None
    return float(2 * (np.arange(1, n + 1) @ np.sort(values)) / (n * total) - (n + 1) / n)
