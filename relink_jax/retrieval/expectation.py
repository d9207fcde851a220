"""Exact expected retrieval metrics at any pool size, from integer counts alone.

Notation: a query has M eligible negatives in the whole universe, g of them score above the truth and t tie with it. A
pool of size N holds the truth and n = N - 1 distinct negatives drawn uniformly without replacement. With ties broken at
random, the number of negatives that precede the truth in the universe is K = g + u with u uniform on 0..t, and the
number that precede it inside the pool is hypergeometric (M, K, n). Everything below is a mean of that law over u, so no
pool is ever drawn. `optimistic` places every tie below the truth (K = g), `pessimistic` every tie above (K = g + t).

Design note: log P(j | K) is a cumulative sum of log1p ratios in K, one row per j, in float64. It needs no log-gamma, whose
rounding alone costs 1e-10 at M = 44,000 (and everything in float32), and it is exact in the full pool n = M. Means over
ties are differences of suffix sums, which keep relative accuracy because the law decreases in K.

References: Krichene and Rendle (2020), "On sampled metrics for item recommendation", for why N must be stated with a metric.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from relink_jax import errors


@dataclasses.dataclass(frozen=True)
class Bounds:
    """One metric of Q queries: expected under random tie-breaking, and with every tie resolved for or against the truth; float64 [Q]."""

    expected: np.ndarray
    optimistic: np.ndarray
    pessimistic: np.ndarray


def log_law(M: int, n: int, j_max: int, K_max: int) -> np.ndarray:
    """Returns log P(j of the K preceding negatives are among n drawn of M), float64 [j_max + 1, K_max + 1], for j_max <= n <= M.

    Uses P(j | j) = prod_{i<j} (n-i)/(M-i) and P(j | K+1) / P(j | K) = (K+1)/(K+1-j) * (M-K-n+j)/(M-K).
    """
    j = np.arange(j_max + 1, dtype=np.float64)[:, None]
    m = np.arange(K_max, dtype=np.float64)[None, :]
    grown = m >= j
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.cumsum(np.concatenate([[0.0], np.log(n - j[:-1, 0]) - np.log(M - j[:-1, 0])]))
        loss = np.maximum(-(n - j) / (M - m), -1.0)
        ratio = np.log1p(j / np.where(grown, m + 1 - j, 1.0)) + np.log1p(loss)
    steps = np.cumsum(np.where(grown, ratio, 0.0), axis=1)
    law = np.concatenate([np.zeros((j_max + 1, 1)), steps], axis=1) + first[:, None]
    return np.where(np.arange(K_max + 1)[None, :] >= j, law, -np.inf)


def pool_metrics(M: np.ndarray, g: np.ndarray, t: np.ndarray, pool_size: int | None, ks: Sequence[int]) -> dict[str, Bounds]:
    """Returns per-query Recall@k for every k (keys 'recall@k') and 'mrr' in random pools of one size.

    Args:
        M, g, t: integers [Q] with g + t <= M and M >= 1.
        pool_size: N, the truth included; None for the full pool N = M + 1 of each query.
        ks: distinct k >= 1; k larger than a query's pool gives recall 1.
    Raises: DataError: a query has fewer than N - 1 negatives, or inconsistent counts.
    """
    M, g, t = (np.asarray(x, dtype=np.int64) for x in (M, g, t))
    _check(M, g, t, pool_size)
    names = [f"recall@{k}" for k in ks] + ["mrr"]
    out = {name: Bounds(*(np.empty(len(M)) for _ in range(3))) for name in names}
    order = np.argsort(M, kind="stable")
    starts = np.flatnonzero(np.diff(M[order], prepend=-1))
    for rows in np.split(order, starts[1:]) if len(order) else []:
        universe = int(M[rows[0]])
        n = universe if pool_size is None else pool_size - 1
        for name, table in _tables(universe, n, ks, int((g + t)[rows].max())).items():
            suffix = np.concatenate([np.cumsum(table[::-1])[::-1], [0.0]])
            low, high = g[rows], (g + t)[rows]
            tied = (suffix[low] - suffix[high + 1]) / (t[rows] + 1)
            out[name].expected[rows] = np.where(t[rows] == 0, table[low], np.clip(tied, table[high], table[low]))
            out[name].optimistic[rows], out[name].pessimistic[rows] = table[low], table[high]
    return out


def mean_rank(M: np.ndarray, g: np.ndarray, t: np.ndarray, pool_size: int | None) -> Bounds:
    """Returns the 1-based expected rank of the truth per query in pools of `pool_size` (None: the full pool): 1 + n K / M."""
    M, g, t = (np.asarray(x, dtype=np.float64) for x in (M, g, t))
    drawn = M if pool_size is None else pool_size - 1
    return Bounds(*(1 + drawn * preceding / M for preceding in (g + t / 2, g, g + t)))


def median_rank(M: np.ndarray, g: np.ndarray, t: np.ndarray, pool_size: int | None, weights: np.ndarray | None = None) -> float:
    """Returns the median over queries of the expected rank, not rounded; the middle of two ranks where the weight splits evenly.

    Args: M, g, t, pool_size: as in `mean_rank`. weights: non-negative [Q], None for equal ones.
    Raises: DataError: no query has weight.
    """
    ranks = mean_rank(M, g, t, pool_size).expected
    order = np.argsort(ranks, kind="stable")
    reached = np.cumsum(np.ones(len(ranks)) if weights is None else np.asarray(weights, dtype=np.float64)[order])
    if not len(ranks) or reached[-1] <= 0:
        raise errors.DataError(errors.describe("weights", "median rank", "a query with weight above 0", "none"))
    middle = [np.searchsorted(reached, reached[-1] / 2, side) for side in ("left", "right")]
    return float(ranks[order][middle].mean())


def auc(M: np.ndarray, g: np.ndarray, t: np.ndarray) -> Bounds:
    """Returns the within-query AUC, 1 - K/M: the chance that the truth outscores one random negative; Recall@1 at N = 2."""
    M, g, t = (np.asarray(x, dtype=np.float64) for x in (M, g, t))
    return Bounds(*(1 - preceding / M for preceding in (g + t / 2, g, g + t)))


def chance_mrr(sizes: np.ndarray) -> np.ndarray:
    """Returns the expected reciprocal rank of a random ranking, H_N / N, for integer pool sizes [Q]."""
    sizes = np.asarray(sizes, dtype=np.int64)
    harmonic = np.cumsum(1.0 / np.arange(1, sizes.max(initial=1) + 1))
    return harmonic[sizes - 1] / sizes


def _tables(M: int, n: int, ks: Sequence[int], K_max: int) -> dict[str, np.ndarray]:
    """Returns each metric as a function of the number of preceding negatives K = 0..K_max."""
    law = np.exp(log_law(M, n, min(max(ks, default=1) - 1, n), K_max))
    cumulative = np.minimum(np.cumsum(law, axis=0), 1.0)
    tables = {f"recall@{k}": cumulative[min(k - 1, n)] if k <= n else np.ones(K_max + 1) for k in ks}
    K = np.arange(K_max + 1)
    tables["mrr"] = ((M + 1) / (n + 1) - law[0] * (M - K - n) / (n + 1)) / (K + 1)
    return tables


def _check(M: np.ndarray, g: np.ndarray, t: np.ndarray, pool_size: int | None) -> None:
    if len(M) and (g.min() < 0 or t.min() < 0 or (g + t > M).any() or M.min() < 1):
        raise errors.DataError(errors.describe("counts", "retrieval counts", "0 <= g, 0 <= t, g + t <= M and M >= 1", "a query that breaks this"))
    if pool_size is not None and len(M) and not 2 <= pool_size <= M.min() + 1:
        raise errors.DataError(errors.describe("pool size", "expected metrics", f"2 to {M.min() + 1}, the smallest pool of these queries", str(pool_size)))


def right_patient(M: int, better: Sequence[int], g: int, pool_size: int, k: int) -> float:
    """Returns the probability that some report of the query's own patient is among the first k of a random pool, without ties.

    A hit on any of the patient's reports counts ("right patient"), so the patient's other studies are candidates here.

    Args:
        M: negatives of the true study, the patient's other studies included.
        better: for each of the patient's other studies that score above the truth, the number of other-patient negatives above it.
        g: other-patient negatives above the truth.
        pool_size: N, the truth included.
    """
    n = pool_size - 1
    total = 0.0
    for rank, above in enumerate([*sorted(better), g]):
        drawn = n - 1 if rank < len(better) else n
        rest = M - rank - above - (1 if rank < len(better) else 0)
        total += sum(math.comb(above, j) * math.comb(rest, drawn - j) for j in range(min(k, above + 1, drawn + 1))) / math.comb(M, n)
    return total


def right_patient_chance(M: int, others: int, pool_size: int) -> float:
    """Returns Recall@1 of a random ranking under the right-patient truth, with `others` further studies of the patient among the M."""
    return (1 + (pool_size - 1) * others / M) / pool_size


def tiered_recall(near: tuple[int, int, int], rest: tuple[int, int, int], pool_size: int, k: int) -> float:
    """Returns one query's expected Recall@k in pools drawn from its `near` negatives, filled up from the `rest` once those run out.

    This keeps queries with fewer than N - 1 label-matched negatives: all of these are then in the pool, g + u of them ahead of
    the truth, and k shrinks by as many for the random draw from the rest. Ties are broken at random over both tiers.

    Args:
        near, rest: (M, g, t) of the two disjoint sets of negatives.
        pool_size: N, the truth included.
    Raises: DataError: fewer than N - 1 negatives in all, or inconsistent counts.
    """
    M, g, t = (np.array(column) for column in zip(near, rest, strict=True))
    _check(M[M + g + t > 0], g[M + g + t > 0], t[M + g + t > 0], None)
    _check(M.sum(keepdims=True), g.sum(keepdims=True), t.sum(keepdims=True), pool_size)
    n = pool_size - 1 - near[0]
    if n <= 0:
        return float(pool_metrics(M[:1], g[:1], t[:1], pool_size, [k])[f"recall@{k}"].expected[0])
    (_, ahead, tied), (M_rest, ahead_rest, tied_rest) = near, rest
    cumulative = np.minimum(np.cumsum(np.exp(log_law(M_rest, n, min(k - 1, n), ahead_rest + tied_rest)), axis=0), 1.0)
    total = 0.0
    for u in range(min(tied, k - 1 - ahead) + 1):
        for v in range(tied_rest + 1):
            share = math.comb(tied, u) * math.comb(tied_rest, v) / (math.comb(tied + tied_rest, u + v) * (tied + tied_rest + 1))
            total += share * cumulative[min(k - 1 - ahead - u, n), ahead_rest + v]
    return float(total)
