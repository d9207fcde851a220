"""Recall@1 over pool sizes, with a band that holds at all of them at once.

A curve is read as a whole, and pointwise intervals are not made for that: over a dozen pool sizes one of them misses far more often than
they say. The band takes the max-|t| quantile of the bootstrap that the pointwise intervals use, on the scale of log odds (the log scale
where Recall is small), and is nowhere inside the pointwise interval. Where all patients have one value, such as none linked, the exact
bound over patients takes its place; band and bound then share the error (Bonferroni).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from relink_jax.audit import uncertainty
from relink_jax.audit.sample import Sample
from relink_jax.retrieval import expectation
from relink_jax.retrieval.counted import StratumCounts


@dataclasses.dataclass(frozen=True)
class Pooled:
    """Recall@1 in pools of one size.

    Attributes:
        N: pool size, the truth included; the largest of them for the full pools. full: each query's full pool.
        rows: numbers of the queries that have such a pool, int64 [n]. values: their expected Recall@1 [n]. chance: the mean of a random ranking.
    """

    N: int
    full: bool
    rows: np.ndarray
    values: np.ndarray
    chance: float


def grid(largest: int) -> list[int | None]:
    """Returns the pool sizes of a curve: 2, 3, 10, 30, 100, 300, ... below `largest`, then None for the full pool.

    Args: largest: the pool that all queries have, so that all points are about the same queries.
    Example: >>> grid(150)  ->  [2, 3, 10, 30, 100, None]
    """
    sizes: list[int | None] = [2, 3]
    sizes += [step * 10**power for power in range(1, len(str(max(largest, 1)))) for step in (1, 3)]
    return [size for size in sizes if size is not None and size < largest] + [None]


def pooled(counted: StratumCounts, pool_sizes: Sequence[int | None]) -> list[Pooled]:
    """Returns expected Recall@1 of every query that has a pool of each size; sizes that no query has are left out.

    Args: counted: counts [Q]. pool_sizes: N; None for the full pool.
    """
    found = []
    for size in pool_sizes:
        rows = np.flatnonzero((size or 2) <= counted.M + 1)
        if not len(rows):
            continue
        M, g, t = counted.M[rows], counted.g[rows], counted.t[rows]
        values = expectation.pool_metrics(M, g, t, size, [1])["recall@1"].expected
        largest = int(M.max()) + 1 if size is None else size
        found.append(Pooled(largest, size is None, rows, values, float((1 / (M + 1)).mean()) if size is None else 1 / size))
    return found


def label_only(M: np.ndarray, same: np.ndarray, coded: np.ndarray, pool_sizes: Sequence[int | None]) -> list[Pooled]:
    """Returns Recall@1 of the attacker who knows only the label code, `expectation.label_only`, as `pooled` does.

    Args: M: negatives [Q]. same: those of them with the query's code [Q]. coded: queries that have one, bool [Q].
    """
    chosen = np.flatnonzero(coded)
    known = pooled(StratumCounts(M[chosen], np.zeros_like(same[chosen]), same[chosen]), pool_sizes)
    return [dataclasses.replace(one, rows=chosen[one.rows]) for one in known]


def curve(attack: str, points: Sequence[Pooled], sample: Sample, *, band: bool = True) -> dict[str, Any]:
    """Returns one entry of the results' 'curve': {'attack', 'level', 'points'}, the band ends None without a band.

    A point is {'N', 'full', 'value', 'chance', 'low', 'high', 'band_low', 'band_high'}; low and high are its pointwise interval, None where
    there is none.
    """
    above, below = (np.zeros((len(sample.patient), len(points))) for _ in range(2))
    for column, point in enumerate(points):
        above[point.rows, column], below[point.rows, column] = point.values, 1.0
    means = sample.ratios(above, below, bounded=True)
    ends = _band(above, below, means, sample) if band and points else [(None, None)] * len(points)
    shown = []
    for point, mean, (low, high) in zip(points, means, ends, strict=True):
        ci = mean["ci"] or {"low": None, "high": None}
        value = {"N": point.N, "full": point.full, "value": mean["value"], "chance": point.chance, "low": ci["low"], "high": ci["high"]}
        shown.append({**value, "band_low": low, "band_high": high})
    return {"attack": attack, "level": sample.settings.level, "points": shown}


def _band(above: np.ndarray, below: np.ndarray, means: Sequence[dict[str, Any]], sample: Sample) -> list[tuple[float | None, float | None]]:
    """Returns (low, high) of the band at each of C points, values and queries [Q, C]."""
    tops, bottoms = (np.stack([uncertainty.patient_sums(sample.patient, column, sample.n_patients) for column in part.T], axis=1) for part in (above, below))
    exact = np.array([uncertainty.no_spread(tops[:, column], bottoms[:, column], sample.settings.level) is not None for column in range(len(means))])
    level = (1 + sample.settings.level) / 2 if exact.any() and not exact.all() else sample.settings.level
    value = np.array([mean["value"] for mean in means])
    spread = np.flatnonzero(~exact)
    reach, se = uncertainty.simultaneous(value[spread], uncertainty.replicate(tops[:, spread], bottoms[:, spread], sample.settings), level)
    lows, highs = value.copy(), value.copy()
    lows[spread], highs[spread] = uncertainty.on_log_odds(value[spread], reach * se)
    ends: list[tuple[float | None, float | None]] = []
    for column, mean in enumerate(means):
        low, high = (uncertainty.no_spread(tops[:, column], bottoms[:, column], level) if exact[column] else None) or (lows[column], highs[column])
        ci = mean["ci"] or {"low": low, "high": high}
        ends.append((float(min(low, ci["low"])), float(max(high, ci["high"]))))
    return ends
