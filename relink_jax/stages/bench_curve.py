"""`relink bench curve`: what the whole curve over pool sizes costs, and how far it is from exact integers.

The counts are drawn, as a search would leave them: few negatives or most of them precede the truth, one query in twenty has ties, up to a
tenth of its candidates, patients have one study or several, so M differs, and the largest of 200 label codes is 200 times the smallest. Timed is
what an audit asks of every pool size: Recall@k of every k and MRR, expected and with ties resolved either way, of every query with N - 1 negatives.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence

import numpy as np

from relink_jax.retrieval import expectation
from relink_jax.retrieval.counted import LABEL_MATCHED, OTHER_PATIENT, StratumCounts

KS = (1, 5, 10, 50)
POOL_SIZES = 30
_UNIVERSES = (406_240, 10**7)
_CODES, _TIED, _STUDIES, _PEER_PAIRS = 200, 0.05, 40, 200


@dataclasses.dataclass(frozen=True)
class Curve:
    """One stratum.

    Attributes:
        distinct: distinct pairs of M and a number of preceding negatives, g or g + t.
        seconds, processor_seconds: medians over rounds, of the wall clock and of this process alone.
        scipy: how many times as long scipy's law takes for the recalls of the distinct pairs, None without scipy.
    """

    stratum: str
    candidates: int
    queries: int
    pool_sizes: int
    distinct: int
    seconds: float
    processor_seconds: float
    scipy: float | None


@dataclasses.dataclass(frozen=True)
class Error:
    """The largest absolute error over `values` recalls and reciprocal ranks in a universe of M negatives."""

    M: int
    values: int
    largest: float


def measure(candidates: int, queries: int, rounds: int) -> list[Curve]:
    """Returns the figures of the other-patient and the label-matched stratum, which take turns with scipy."""
    strata = draw(candidates, queries)
    sizes = {name: pool_sizes(int(counted.M.max())) for name, counted in strata.items()}
    pairs = {name: np.unique([np.tile(counted.M, 2), np.append(counted.g, counted.g + counted.t)], axis=1) for name, counted in strata.items()}
    walls, busy, ratios = ({name: list[float]() for name in strata} for _ in range(3))
    for _ in range(rounds):
        for name, counted in strata.items():
            started, started_busy = time.perf_counter(), time.process_time()
            whole(counted, sizes[name])
            walls[name].append(time.perf_counter() - started)
            busy[name].append(time.process_time() - started_busy)
            one = scipy_seconds(pairs[name], sizes[name])
            if one is not None:
                ratios[name].append(one * pairs[name].shape[1] * len(sizes[name]) * len(KS) / walls[name][-1])
    return [
        Curve(
            name,
            candidates,
            queries,
            len(sizes[name]),
            pairs[name].shape[1],
            statistics.median(walls[name]),
            statistics.median(busy[name]),
            statistics.median(ratios[name]) if ratios[name] else None,
        )
        for name in strata
    ]


def whole(counted: StratumCounts, sizes: Sequence[int]) -> list[dict[str, expectation.Bounds]]:
    """Returns every metric of every pool size on the queries that are eligible for it."""
    found = []
    for size in sizes:
        fits = size - 1 <= counted.M
        found.append(expectation.pool_metrics(counted.M[fits], counted.g[fits], counted.t[fits], size, KS))
    return found


def errors(candidates: int) -> list[Error]:
    """Returns the largest errors at this and two larger universes, against quotients of integers at 24 pairs (g, t) per pool size."""
    out = []
    for M in (candidates - 1, *_UNIVERSES):
        differences: list[float] = []
        for size in pool_sizes(M):
            n = size - 1
            g = np.repeat(np.minimum(np.array([0, 0.01, 1, 5, 20, 60]) * M // n, M).astype(np.int64), 4)
            t = np.minimum(np.tile([0, 1, 3, M // n], 6), M - g)
            found = expectation.pool_metrics(np.full_like(g, M), g, t, size, KS)
            for query, counts in enumerate(zip(g.tolist(), t.tolist(), strict=True)):
                for k, value in zip(KS, exact_recalls(M, *counts, n, KS), strict=True):
                    differences.append(found[f"recall@{k}"].expected[query] - value)
                if counts[1] <= 3:
                    differences.append(found["mrr"].expected[query] - exact_mrr(M, *counts, n))
        out.append(Error(M, len(differences), float(np.abs(differences).max())))
    return out


def table(curves: Sequence[Curve], found: Sequence[Error], where: str) -> str:
    """Returns the figures as text."""
    lines = [f"  {'stratum':<14} {'candidates':>10} {'queries':>8} {'pool sizes':>10} {'distinct':>9} {'seconds':>8} {'processor':>9} {'scipy':>6}"]
    for row in curves:
        scipy = "" if row.scipy is None else f"{row.scipy:.0f}x"
        shape = f"{row.candidates:>10,} {row.queries:>8,} {row.pool_sizes:>10} {row.distinct:>9,}"
        lines.append(f"  {row.stratum:<14} {shape} {row.seconds:>8.2f} {row.processor_seconds:>9.2f} {scipy:>6}".rstrip())
    lines += [f"  largest error at M = {row.M:,}: {row.largest:.1e} of {row.values:,} values" for row in found]
    told = [
        "seconds of the wall clock, and processor seconds of this process: Recall@k and MRR of every pool size, expected and with ties resolved either way",
        "distinct: pairs of M and g or g + t",
        "scipy: time of scipy.stats.hypergeom.cdf over the distinct pairs as a multiple of ours, extrapolated from about 200 pairs at 3 pool sizes",
        "errors: against quotients of integers, Recall@k with ties of 0, 1, 3 and M / (N - 1), MRR with those up to 3",
    ]
    if all(row.scipy is None for row in curves):
        told[2] = "not installed, skipped: scipy"
    return "\n".join([f"the curve over pool sizes, k = {', '.join(map(str, KS))} ({where}):", *lines, *told])


def pool_sizes(M: int) -> list[int]:
    """Returns up to 30 pool sizes from 2 to the full pool of M negatives, evenly spaced in the logarithm."""
    return sorted(set(np.rint(np.geomspace(2, M + 1, POOL_SIZES)).astype(int).tolist()))


def draw(candidates: int, queries: int) -> dict[str, StratumCounts]:
    """Returns synthetic counts of both strata; at least two candidates."""
    generator = np.random.default_rng(0)
    own = np.minimum(generator.geometric(0.4, queries), min(_STUDIES, candidates - 1))
    weight = 1 / np.arange(1, _CODES + 1)
    same = generator.multinomial(candidates, weight / weight.sum())[generator.choice(_CODES, queries, p=weight / weight.sum())]
    ahead, tied = generator.beta(0.35, 2, queries) ** 1.5, generator.uniform(0, 0.1, queries) * (generator.uniform(size=queries) < _TIED)
    strata = {}
    for name, M in ((OTHER_PATIENT, candidates - own), (LABEL_MATCHED, np.maximum(same - own, 1))):
        g = (ahead * M).astype(np.int64)
        strata[name] = StratumCounts(M, g, np.minimum((tied * M).astype(np.int64), M - g))
    return strata


def scipy_seconds(pairs: np.ndarray, sizes: Sequence[int]) -> float | None:
    """Returns seconds per value of scipy's law, from a sample of `pairs` (M, K) [2, pairs] at three pool sizes; None without scipy."""
    try:
        from scipy import stats
    except ImportError:
        return None
    M, K = pairs[:, :: max(1, pairs.shape[1] // _PEER_PAIRS)]
    started, values = time.perf_counter(), 0
    for size in (sizes[0], sizes[len(sizes) // 2], sizes[-1]):
        for k in KS:
            fits = size - 1 <= M
            values += len(stats.hypergeom.cdf(k - 1, M[fits], K[fits], size - 1))
    return (time.perf_counter() - started) / values


def exact_law(M: int, K: int, n: int, count: int) -> tuple[list[int], int]:
    """Returns whole numbers w(0) .. w(count - 1) and W: the chance that j of K marked are among n drawn of M is w(j) / W."""
    K, n = sorted((K, n))
    out, lowest = [0] * count, max(0, K + n - M)
    if lowest < count:
        out[lowest] = math.comb(K, lowest) * math.perm(n, lowest) * math.perm(M - n, K - lowest)
    for j in range(lowest + 1, min(count, K + 1)):
        out[j] = out[j - 1] * (K - j + 1) * (n - j + 1) // (j * (M - n - K + j))
    return out, math.perm(M, K)


def exact_recalls(M: int, g: int, t: int, n: int, ks: Sequence[int]) -> list[float]:
    """Returns expected Recall@k per k, each correctly rounded; ties by the hockey-stick identity of `expectation`, in whole numbers."""
    if not t:
        law, total = exact_law(M, g, n, max(ks))
        return [sum(law[:k]) / total for k in ks]
    (low, low_total), (high, high_total) = (exact_law(M + 1, K, n + 1, max(ks)) for K in (g, g + t + 1))
    return [(M + 1) * (_sum(low, k) * high_total - _sum(high, k) * low_total) / ((n + 1) * (t + 1) * low_total * high_total) for k in ks]


def exact_mrr(M: int, g: int, t: int, n: int) -> float:
    """Returns the expected reciprocal rank within one rounding per tie."""
    terms = []
    for y in range(g + 1, g + t + 2):
        (none,), total = exact_law(M + 1, y, n + 1, 1)
        terms.append((total - none) / (total * y))
    return math.fsum(terms) * ((M + 1) / ((n + 1) * (t + 1)))


def _sum(law: Sequence[int], k: int) -> int:
    """Returns E max(k - X, 0) in units of the law's total."""
    return sum((k - j) * law[j] for j in range(k))
