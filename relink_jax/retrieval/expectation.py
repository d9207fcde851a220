"""Exact expected retrieval metrics at any pool size, from integer counts alone.

Notation: a query has M eligible negatives in the whole universe, g of them score above the truth and t tie with it. A
pool of size N holds the truth and n = N - 1 distinct negatives drawn uniformly without replacement. With ties broken at
random, the number of negatives that precede the truth in the universe is K = g + u with u uniform on 0..t, and the
number that precede it inside the pool follows `pool_law` with (M, K, n). Everything below is a mean of that law over u, so no
pool is ever drawn. `optimistic` places every tie below the truth (K = g), `pessimistic` every tie above (K = g + t).

The mean over ties needs no sum over them. With X(K) of the law (M + 1, K, n + 1), a hockey-stick identity gives
  Recall@k = w [E max(k - X(g), 0) - E max(k - X(g+t+1), 0)]    MRR = w [E H(X(g+t+1)) - E H(X(g))]    w = (M+1) / ((n+1) (t+1))
with harmonic numbers H. Where ties span so little of the pool that w would magnify rounding, the law is straight between
K = g and K = g + t, and the mean is the middle of its ends.

References: Krichene and Rendle (2020), "On sampled metrics for item recommendation", for why N must be stated with a metric.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from relink_jax import errors
from relink_jax.retrieval import pool_law

_STRAIGHT = 1e-4


@dataclasses.dataclass(frozen=True)
class Bounds:
    """One metric of Q queries: expected under random tie-breaking, and with every tie resolved for or against the truth; float64 [Q]."""

    expected: np.ndarray
    optimistic: np.ndarray
    pessimistic: np.ndarray


def pool_metrics(M: np.ndarray, g: np.ndarray, t: np.ndarray, pool_size: int | None, ks: Sequence[int]) -> dict[str, Bounds]:
    """Returns per-query Recall@k for every k (keys 'recall@k') and 'mrr' in random pools of one size.

    The absolute error is below 1e-8 for M up to 10^7; `relink bench curve` measures it.

    Args:
        M, g, t: integers [Q] with g + t <= M and M >= 1.
        pool_size: N, the truth included; None for the full pool N = M + 1 of each query.
        ks: distinct k >= 1; k larger than a query's pool gives recall 1.
    Raises: DataError: a query has fewer than N - 1 negatives, or inconsistent counts.
    """
    M, g, t = (np.asarray(x, dtype=np.int64) for x in (M, g, t))
    check(M, g, t, pool_size)
    n = M if pool_size is None else np.full_like(M, pool_size - 1)
    tied = np.flatnonzero(t)
    bounds = _untied(np.append(M, M[tied]), np.append(g, (g + t)[tied]), np.append(n, n[tied]), ks)
    optimistic, worst = np.split(bounds, [len(M)], axis=1)
    expected, pessimistic = optimistic.copy(), optimistic.copy()
    pessimistic[:, tied] = worst
    expected[:, tied] = _tied(M[tied], g[tied], t[tied], n[tied], ks, optimistic[:, tied], worst)
    names = [*(f"recall@{k}" for k in ks), "mrr"]
    return {name: Bounds(*rows) for name, *rows in zip(names, expected, optimistic, pessimistic, strict=True)}


def label_only(M: np.ndarray, same: np.ndarray, pool_size: int | None, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns expected Recall@k and 'mrr' of an attacker who knows only the query's label code, float64 [Q] each, keys as in `pool_metrics`.

    He ranks reports of that code first and breaks ties at random: what disease labels alone give away.

    Args: M: negatives [Q]. same: those of them with the query's code [Q]; queries without a code do not belong here.
    """
    return {name: bounds.expected for name, bounds in pool_metrics(M, np.zeros_like(same), same, pool_size, ks).items()}


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
    return pool_law.harmonic(sizes) / sizes


def check(M: np.ndarray, g: np.ndarray, t: np.ndarray, pool_size: int | None) -> None:
    """Refuses counts [Q] that cannot be, and a pool size that some query is too small for.

    Raises: DataError.
    """
    if len(M) and (g.min() < 0 or t.min() < 0 or (g + t > M).any() or M.min() < 1):
        raise errors.DataError(errors.describe("counts", "retrieval counts", "0 <= g, 0 <= t, g + t <= M and M >= 1", "a query that breaks this"))
    if pool_size is not None and len(M) and not 2 <= pool_size <= M.min() + 1:
        raise errors.DataError(errors.describe("pool size", "expected metrics", f"2 to {M.min() + 1}, the smallest pool of these queries", str(pool_size)))


def _untied(M: np.ndarray, K: np.ndarray, n: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Returns Recall@k of every k and the MRR of queries that K negatives precede, float64 [len(ks) + 1, Q]; n is a function of M."""
    first, place = _distinct(M, K)
    M, K, n = M[first], K[first], n[first]
    absent, *recalls = pool_law.fewer_than(M, K, n, [1, *ks])
    drawn = n * (K / M)
    some = (M + 1 - absent * (M - K - n)) / ((n + 1) * (K + 1))
    few = 1 - drawn / 2 + drawn * (K - 1) * ((n - 1) / np.maximum(M - 1, 1)) / 6
    return np.stack([*recalls, np.where(drawn < _STRAIGHT, few, some)])[:, place]


def _tied(M: np.ndarray, g: np.ndarray, t: np.ndarray, n: np.ndarray, ks: Sequence[int], best: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """Returns what `_untied` does with ties broken at random, between `best` (all below the truth) and `worst` (all above)."""
    span = t * (n / M)
    mean = (best + worst) / 2
    long = np.flatnonzero(span > _STRAIGHT)
    M, g, t, n = M[long], g[long], t[long], n[long]
    low, high = np.split(_moments(np.tile(M + 1, 2), np.append(g, g + t + 1), np.tile(n + 1, 2), ks), 2, axis=1)
    exact = (low - high) * ((M + 1) / ((n + 1) * (t + 1)))
    bend = np.sqrt([*ks, 1])[:, None]
    mean[:, long] = np.where(span[long] > _STRAIGHT * bend, np.clip(exact, worst[:, long], best[:, long]), mean[:, long])
    return mean


def _moments(M: np.ndarray, K: np.ndarray, n: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Returns E max(k - X, 0) of every k and -E H(X) for X of the law (M, K, n), float64 [len(ks) + 1, Q]; n is a function of M."""
    first, place = _distinct(M, K)
    M, K, n = M[first], K[first], n[first]
    return np.vstack([pool_law.shortfall(M, K, n, ks), -pool_law.expected_harmonic(M, K, n)])[:, place]


def _distinct(M: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first row of each distinct (M, K), and the number of its pair for every row."""
    _, first, place = np.unique(M * (K.max(initial=0) + 1) + K, return_index=True, return_inverse=True)
    return first, place
