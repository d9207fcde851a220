"""Exact expected Recall@k in pools of hard negatives that are filled up: all of the near tier, then a random draw from the rest.

This keeps queries with fewer than N - 1 label-matched negatives. All of these are then in the pool, g + u of them ahead of the truth
with u of the t tied ones, and k shrinks by as many for the draw from the rest. Ties are broken at random over both tiers.
"""

from collections.abc import Sequence

import numpy as np

from relink_jax.retrieval import expectation, pool_law
from relink_jax.retrieval.counted import StratumCounts

_CHUNK = 1 << 18


def recall(near: StratumCounts, rest: StratumCounts, pool_size: int, ks: Sequence[int]) -> np.ndarray:
    """Returns expected Recall@k per k and query, float64 [len(ks), Q].

    The cost grows with the ties in the rest of the distinct cases; equal reports have equal labels, so label-matched pools have few.

    Args:
        near, rest: counts [Q] of the two disjoint tiers of negatives; a tier may be empty.
        pool_size: N, the truth included.
    Raises: DataError: a query has fewer than N - 1 negatives in all, or inconsistent counts.
    """
    tiers = np.array([[near.M, near.g, near.t], [rest.M, rest.g, rest.t]], dtype=np.int64)
    for tier in tiers:
        M, g, t = tier[:, tier.any(axis=0)]
        expectation.check(M, g, t, None)
    M, g, t = tiers.sum(axis=0)
    expectation.check(M, g, t, pool_size)
    out = np.zeros((len(ks), len(M)))
    short = tiers[0, 0] < pool_size - 1
    M, g, t = tiers[0][:, ~short]
    found = expectation.pool_metrics(M, g, t, pool_size, ks)
    out[:, ~short] = [found[f"recall@{k}"].expected for k in ks]
    cases, place = np.unique(tiers[:, :, short].reshape(6, -1), axis=1, return_inverse=True)
    out[:, short] = _filled(cases, pool_size - 1, ks)[:, place]
    return out


def _filled(cases: np.ndarray, drawn: int, ks: Sequence[int]) -> np.ndarray:
    """Returns Recall@k [len(ks), cases] where all near negatives are in the pool; `cases`: M, g, t of near and of rest [6, cases].

    A case has one row for every number v = 0 .. t of tied ones of the rest ahead of the truth, up to where fewer than k drawn ahead of it has
    a chance below exp(-40) by Chernoff's bound. That u of the near ones are ahead with them is as likely as u near ones among the first
    u + v of all tied.
    """
    out = np.zeros((len(ks), cases.shape[1]))
    mean = max(ks) + 40 + (80 * max(ks) + 1600) ** 0.5
    many = np.clip(mean * cases[3] // (drawn - cases[0]) - cases[4], 0, cases[5]).astype(np.int64) + 1
    ends, step = np.cumsum(many), max(1, _CHUNK // max(ks))
    for start in range(0, ends.max(initial=0), step):
        row = np.arange(start, min(start + step, ends[-1]))
        case = np.searchsorted(ends, row, side="right")
        M, g, t, M_rest, g_rest, t_rest = cases[:, case]
        v = row - (ends - many)[case]
        fewer = np.vstack([np.zeros(len(row)), pool_law.cumulative(M_rest, g_rest + v, drawn - M, max(ks))])  # P(X < i) at i
        for u in range(min(int(t.max()), max(ks) - 1) + 1):
            here = np.flatnonzero((u <= t) & (u + g < max(ks)))
            ties = (t + t_rest)[here]
            share = pool_law.probability(ties, t[here], u + v[here], u) / (ties + 1)
            for number, k in enumerate(ks):
                hits = share * fewer[np.maximum(k - u - g[here], 0), here]
                out[number] += np.bincount(case[here], hits, minlength=out.shape[1])
    return out
