"""Closed forms against exact fractions, subset enumeration and their own properties."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.retrieval import expectation


def one(M, g, t, n, k):
    """Returns (recall@k, mrr) bounds of one query."""
    found = expectation.pool_metrics(np.array([M]), np.array([g]), np.array([t]), n + 1, [k])
    return found[f"recall@{k}"], found["mrr"]


def value(bounds):
    return bounds.expected[0], bounds.optimistic[0], bounds.pessimistic[0]


def enumerate_pool(M, g, t, n, k):
    """Returns (recall@k, mrr) as fractions over every subset of negatives and every place of the truth among ties."""
    kinds = ["above"] * g + ["tied"] * t + ["below"] * (M - g - t)
    hits, reciprocal, pools = Fraction(0), Fraction(0), 0
    for pool in itertools.combinations(kinds, n):
        pools += 1
        above, tied = pool.count("above"), pool.count("tied")
        places = [above + u for u in range(tied + 1)]
        hits += Fraction(sum(place < k for place in places), len(places))
        reciprocal += sum(Fraction(1, place + 1) for place in places) / len(places)
    return hits / pools, reciprocal / pools


@pytest.mark.parametrize(
    ("counts", "expected", "optimistic", "pessimistic", "mrr", "rank", "auc"),
    [
        ((6, 2, 0, 3, 1), Fraction(1, 5), None, None, Fraction(17, 30), 2, Fraction(2, 3)),
        ((6, 2, 0, 3, 2), Fraction(4, 5), None, None, None, None, None),
        ((6, 1, 2, 3, 1), Fraction(1, 4), Fraction(1, 2), Fraction(1, 20), Fraction(421, 720), None, None),
        ((6, 1, 2, 3, 2), Fraction(23, 30), 1, Fraction(1, 2), None, None, None),
        ((9, 3, 2, 4, 2), Fraction(47, 126), Fraction(25, 42), Fraction(1, 6), Fraction(1537, 3780), Fraction(25, 9), Fraction(5, 9)),
        ((4, 0, 4, 2, 1), Fraction(1, 3), 1, None, None, None, None),
        ((5, 5, 0, 2, 1), 0, 0, 0, None, None, None),
    ],
)
def test_hypergeometric_oracle(counts, expected, optimistic, pessimistic, mrr, rank, auc):
    M, g, t, n, _ = counts
    recall, reciprocal = one(*counts)
    found = [
        *value(recall),
        reciprocal.expected[0],
        expectation.mean_rank(*np.array([[M], [g], [t]]), n + 1).expected[0],
        expectation.auc(*np.array([[M], [g], [t]])).expected[0],
    ]
    for got, want in zip(found, [expected, optimistic, pessimistic, mrr, rank, auc], strict=True):
        if want is not None:
            assert got == pytest.approx(float(want), rel=1e-13, abs=1e-300)


@pytest.mark.parametrize(
    ("g", "values"),
    [
        (1, (0.997739313117, 0.977187614176, 0.771670624772)),
        (4, (0.990987562848, 0.911822753848, 0.354576758585)),
        (43, (0.907223598612, 0.370546581630, 1.43523462e-5)),
        (437, (0.370093105511, 3.96424678e-5, 3.3579e-50)),
    ],
)
def test_large_universe(g, values):
    for N, want, tolerance in zip((100, 1000, 10000), values, (2e-12, 2e-8, 2e-5), strict=True):
        assert one(43792, g, 0, N - 1, 1)[0].expected[0] == pytest.approx(want, rel=tolerance)


def test_large_universe_with_ties():
    found = expectation.pool_metrics(np.array([43792]), np.array([4]), np.array([3]), 10000, [1, 5])
    assert found["recall@1"].expected[0] == pytest.approx(0.250557546485, rel=1e-11)
    assert found["recall@5"].expected[0] == pytest.approx(0.996953411090, rel=1e-11)


def test_relative_accuracy_against_integers():
    M, n = 2000, 700
    import math

    for g, t, k in [(0, 0, 1), (3, 40, 2), (60, 7, 5), (1295, 4, 3), (1500, 200, 90)]:
        total = math.comb(M, n)
        wins = sum(math.comb(g + u, j) * math.comb(M - g - u, n - j) for u in range(t + 1) for j in range(min(k, g + u + 1)))
        assert one(M, g, t, n, k)[0].expected[0] == pytest.approx(float(Fraction(wins, total * (t + 1))), rel=1e-10, abs=1e-300)


def test_equals_enumeration_everywhere():
    for M in (1, 3, 6):
        for g, t in itertools.product(range(M + 1), repeat=2):
            for n, k in itertools.product(range(1, M + 1), range(1, M + 2)):
                if g + t <= M:
                    recall, mrr = enumerate_pool(M, g, t, n, k)
                    found = one(M, g, t, n, k)
                    assert found[0].expected[0] == pytest.approx(float(recall), abs=1e-13)
                    assert found[1].expected[0] == pytest.approx(float(mrr), abs=1e-13)


def test_full_pool_is_the_step_function():
    M, g, t = np.array([5, 9, 9, 7]), np.array([0, 1, 9, 2]), np.array([0, 3, 0, 5])
    for k in (1, 2, 4, 8, 20):
        found = expectation.pool_metrics(M, g, t, None, [k])[f"recall@{k}"]
        np.testing.assert_allclose(found.expected, np.clip(k - g, 0, t + 1) / (t + 1), rtol=0, atol=1e-14)
        assert set(found.optimistic) <= {0.0, 1.0}


def test_all_tied_is_chance_and_recall_at_two_is_auc():
    M = np.array([50, 50, 80])
    for N in (2, 7, 51):
        found = expectation.pool_metrics(M, 0 * M, M, N, [1, 2])
        np.testing.assert_allclose(found["recall@1"].expected, 1 / N, rtol=1e-12)
        np.testing.assert_allclose(found["recall@2"].expected, 2 / N, rtol=1e-12)
        np.testing.assert_allclose(found["mrr"].expected, expectation.chance_mrr(np.full(3, N)), rtol=1e-12)
    g, t = np.array([3, 20, 0]), np.array([4, 0, 80])
    np.testing.assert_allclose(expectation.pool_metrics(M, g, t, 2, [1])["recall@1"].expected, expectation.auc(M, g, t).expected, rtol=1e-13)


def test_monotone_convex_and_ordered():
    generator = np.random.default_rng(0)
    M = generator.integers(60, 90, 40)
    g = generator.integers(0, 30, 40)
    t = generator.integers(0, 30, 40)
    curves = {k: np.array([expectation.pool_metrics(M, g, t, N, [k])[f"recall@{k}"].expected for N in range(2, 60)]) for k in (1, 2, 5)}
    for curve in curves.values():
        assert (np.diff(curve, axis=0) <= 1e-13).all()
    assert (np.diff(curves[1], 2, axis=0) >= -1e-13).all()
    assert (curves[1] <= curves[2] + 1e-13).all()
    assert (curves[2] <= curves[5] + 1e-13).all()
    bounds = expectation.pool_metrics(M, g, t, 25, [3])["recall@3"]
    assert (bounds.optimistic >= bounds.expected).all()
    assert (bounds.expected >= bounds.pessimistic).all()


def test_refuses_impossible_pools_and_counts():
    one_query = np.array([4]), np.array([1]), np.array([1])
    with pytest.raises(errors.DataError, match="pool size in expected metrics: expected 2 to 5"):
        expectation.pool_metrics(*one_query, 6, [1])
    with pytest.raises(errors.DataError, match="g \\+ t <= M"):
        expectation.pool_metrics(np.array([4]), np.array([3]), np.array([2]), 3, [1])
