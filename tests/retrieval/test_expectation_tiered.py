"""Filled-up pools against enumeration of both tiers, for many queries at once."""

import itertools

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.retrieval import expectation, tiered
from relink_jax.retrieval.counted import StratumCounts

NEAR = [(2, 1, 0), (3, 0, 2), (1, 0, 1), (0, 0, 0), (4, 1, 2), (3, 0, 2), (2, 0, 2)]
REST = [(4, 1, 2), (3, 1, 1), (5, 2, 3), (6, 1, 1), (2, 0, 2), (3, 1, 1), (4, 0, 4)]


def tier(rows):
    return StratumCounts(*np.array(rows).T)


def enumerated(near, rest, N, k):
    kinds = [["above"] * g + ["tied"] * t + ["below"] * (M - g - t) for M, g, t in (near, rest)]
    drawn, hits = min(N - 1, near[0]), []
    for first, second in itertools.product(itertools.combinations(kinds[0], drawn), itertools.combinations(kinds[1], N - 1 - drawn)):
        above, tied = ((first + second).count(kind) for kind in ("above", "tied"))
        hits.append(np.clip(k - above, 0, tied + 1) / (tied + 1))
    return np.mean(hits)


def test_equals_enumeration(monkeypatch):
    for chunk in (1 << 18, 7):
        monkeypatch.setattr(tiered, "_CHUNK", chunk)
        for N in range(2, 7):
            found = tiered.recall(tier(NEAR), tier(REST), N, (1, 2, 3, 5))
            for row, k in zip(found, (1, 2, 3, 5), strict=True):
                np.testing.assert_allclose(row, [enumerated(*pair, N, k) for pair in zip(NEAR, REST, strict=True)], rtol=0, atol=1e-13)


def test_one_tier_is_the_plain_pool():
    counted, empty = [(50, 6, 3), (44, 0, 0), (90, 0, 90)], [(0, 0, 0)] * 3
    for N in (2, 20, 45):
        wanted = expectation.pool_metrics(*np.array(counted).T, N, [2, 9])
        for tiers in ((counted, empty), (empty, counted)):
            np.testing.assert_allclose(tiered.recall(*map(tier, tiers), N, [2, 9]), [wanted["recall@2"].expected, wanted["recall@9"].expected], atol=1e-12)


def test_everything_tied_is_chance():
    """Also where thousands of ties in the rest are cut off, since fewer than k of them can hardly be drawn."""
    for N in (60, 3000, 20001):
        found = tiered.recall(tier([(30, 0, 30), (5, 0, 5)]), tier([(19970, 0, 19970), (19995, 0, 19995)]), N, (1, 50))
        np.testing.assert_allclose(found, [[1 / N] * 2, [50 / N] * 2], rtol=1e-10)


def test_more_near_negatives_ahead_and_larger_pools_never_help():
    M, rest = 60, [(5000, 40, 0)]
    curves = np.array([[tiered.recall(tier([(M, g, 0)]), tier(rest), N, (1, 5, 20))[:, 0] for N in (61, 62, 200, 2000, 5061)] for g in (0, 1, 4, 19, 20)])
    assert (np.diff(curves, axis=0) <= 0).all()
    assert (np.diff(curves, axis=1) <= 1e-14).all()
    assert (np.diff(curves, axis=2) >= 0).all()
    assert curves[0, 0].min() == 1
    assert curves[4].max() == 0


def test_refuses_pools_and_counts_that_cannot_be():
    with pytest.raises(errors.DataError, match="pool size in expected metrics: expected 2 to 6"):
        tiered.recall(tier([(2, 0, 0)]), tier([(3, 0, 0)]), 7, [1])
    for near in ((0, 1, 0), (1, -1, 0)):
        with pytest.raises(errors.DataError, match=r"g \+ t <= M"):
            tiered.recall(tier([near]), tier([(5, 1, 0)]), 3, [1])
