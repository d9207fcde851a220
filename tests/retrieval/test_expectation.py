"""Closed forms against exact fractions, subset enumeration and their own properties."""

import dataclasses
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.retrieval import expectation
from relink_jax.stages import bench_curve


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
    ("g", "values", "digits"),
    [
        (1, (0.997739313117, 0.977187614176, 0.771670624772), (12, 12, 12)),
        (4, (0.990987562848, 0.911822753848, 0.354576758585), (12, 12, 12)),
        (43, (0.907223598612, 0.370546581630, 1.43523462e-5), (12, 12, 9)),
        (437, (0.370093105511, 3.96424678e-5, 3.3579e-50), (12, 9, 5)),
    ],
)
def test_large_universe(g, values, digits):
    for N, want, known in zip((100, 1000, 10000), values, digits, strict=True):
        assert one(43792, g, 0, N - 1, 1)[0].expected[0] == pytest.approx(want, rel=5 * 10.0**-known)
    assert one(43792, g, 0, 43792, 1)[0].expected[0] == 0
    assert one(43792, 0, 0, 43792, 1)[0].expected[0] == 1


def test_large_universe_with_ties():
    found = expectation.pool_metrics(np.array([43792]), np.array([4]), np.array([3]), 10000, [1, 5])
    assert found["recall@1"].expected[0] == pytest.approx(0.250557546485, rel=1e-11)
    assert found["recall@5"].expected[0] == pytest.approx(0.996953411090, rel=1e-11)


def test_relative_accuracy_against_integers():
    M, n = 2000, 700
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
    assert (np.diff(curves[5], 2, axis=0) < -1e-6).any()
    assert (curves[1] <= curves[2] + 1e-13).all()
    assert (curves[2] <= curves[5] + 1e-13).all()
    bounds = expectation.pool_metrics(M, g, t, 25, [3])["recall@3"]
    assert (bounds.optimistic >= bounds.expected).all()
    assert (bounds.expected >= bounds.pessimistic).all()


def test_nothing_above_is_certain_and_everything_above_is_hopeless():
    for N in (2, 5, 9, None):
        for g, want in ((0, 1), (8, 0)):
            found = expectation.pool_metrics(np.array([8]), np.array([g]), np.array([0]), N, [1])["recall@1"]
            assert value(found) == pytest.approx((want, want, want), abs=1e-13)


def test_median_rank_by_weight():
    M, g, t = np.full(4, 10), np.array([7, 0, 2, 1]), np.array([0, 1, 0, 0])
    assert expectation.mean_rank(M, g, t, None).expected.tolist() == [8, 1.5, 3, 2]
    assert expectation.median_rank(M, g, t, None) == 2.5
    assert expectation.median_rank(M, g, t, None, np.ones(4)) == 2.5
    assert expectation.median_rank(M, g, t, 6) == pytest.approx(1 + 5 * 1.5 / 10)
    for weights in ([3, 1, 1, 0], [0, 2, 1, 1], [0, 0, 5, 0], [1, 4, 2, 2]):
        repeated = [np.repeat(column, weights) for column in (M, g, t)]
        assert expectation.median_rank(M, g, t, None, np.array(weights)) == np.median(expectation.mean_rank(*repeated, None).expected)
    with pytest.raises(errors.DataError, match="weights in median rank: expected a query with weight above 0, found none"):
        expectation.median_rank(M, g, t, None, np.zeros(4))


def test_a_label_only_attacker_is_everything_of_the_code_tied_at_the_top():
    """The Recall@1 formula, and enumeration for the other k and MRR."""
    for M, same, n in itertools.product((6,), range(7), range(1, 7)):
        found = expectation.label_only(np.array([M]), np.array([same]), n + 1, [1, 2, 3])
        first = Fraction(M + 1, (n + 1) * (same + 1)) * (1 - Fraction(math.comb(M - same, n + 1), math.comb(M + 1, n + 1)))
        assert found["recall@1"][0] == pytest.approx(float(first), abs=1e-13)
        for k in (1, 2, 3):
            recall, mrr = enumerate_pool(M, 0, same, n, k)
            assert found[f"recall@{k}"][0] == pytest.approx(float(recall), abs=1e-13)
        assert found["mrr"][0] == pytest.approx(float(mrr), abs=1e-13)


def test_a_query_does_not_depend_on_the_others():
    """Pairs of M and K are evaluated once and handed out; the order, the company and the other k change nothing."""
    generator = np.random.default_rng(0)
    M = generator.integers(40, 400, 300)
    g = (M * generator.beta(0.4, 2, 300)).astype(int)
    t = np.where(generator.random(300) < 0.5, 0, generator.integers(0, M - g + 1))
    order = generator.permutation(300)
    for size in (2, 30, None):
        found = expectation.pool_metrics(M, g, t, size, [1, 7, 60])
        moved = expectation.pool_metrics(M[order], g[order], t[order], size, [60, 1])
        for name in ("recall@1", "recall@60", "mrr"):
            assert (found[name].optimistic >= found[name].expected).all()
            assert (found[name].expected >= found[name].pessimistic).all()
            for one_way, other in zip(dataclasses.astuple(found[name]), dataclasses.astuple(moved[name]), strict=True):
                np.testing.assert_allclose(one_way[order], other, rtol=0, atol=1e-12)
        alone = [expectation.pool_metrics(M[[q]], g[[q]], t[[q]], size, [7])["recall@7"].expected[0] for q in range(40)]
        np.testing.assert_allclose(found["recall@7"].expected[:40], alone, rtol=0, atol=1e-12)
    assert expectation.pool_metrics(M[:0], g[:0], t[:0], 5, [1])["recall@1"].expected.shape == (0,)


@pytest.mark.parametrize("M", [43792, 406240, 10**7])
def test_ties_at_large_sizes_against_the_sum_over_them(M):
    """Short ties take the middle of the bounds, long ones the identity; here both are summed one by one in whole numbers."""
    spans = 0
    for n, k in ((1, 1), (60, 5), (3000, 50), (M // 3, 10), (M - 1, 1000)):
        for mean, t in ((5e-5, 1), (1, 25), (k, 9)):
            g = min(int(mean * M / n), M - t)
            (recall, mrr), laws = one(M, g, t, n, k), [bench_curve.exact_law(M, g + u, n, k) for u in range(t + 1)]
            assert recall.expected[0] == pytest.approx(math.fsum(sum(law) / total for law, total in laws) / (t + 1), abs=1e-9)
            assert mrr.expected[0] == pytest.approx(math.fsum(mean_reciprocal(M, g + u, n, *law) for u, law in enumerate(laws)) / (t + 1), abs=1e-9)
            spans += t * n > 1e-4 * M
    assert 0 < spans < 15


@pytest.mark.parametrize("K", [0, 1, 31, 33, 200])
def test_reciprocal_ranks_where_next_to_nothing_is_drawn(K):
    M, n = 10**7, 31
    law, total = bench_curve.exact_law(M, K, n, 1)
    assert one(M, K, 0, n, 1)[1].expected[0] == pytest.approx(mean_reciprocal(M, K, n, law, total), abs=1e-10)


def mean_reciprocal(M, K, n, law, total):
    """Returns E 1 / (1 + X) in whole numbers from P(X = 0), the first of a law."""
    return ((M + 1) * total - law[0] * max(M - K - n, 0)) / ((n + 1) * (K + 1) * total)


def test_refuses_impossible_pools_and_counts():
    one_query = np.array([4]), np.array([1]), np.array([1])
    with pytest.raises(errors.DataError, match="pool size in expected metrics: expected 2 to 5"):
        expectation.pool_metrics(*one_query, 6, [1])
    with pytest.raises(errors.DataError, match="g \\+ t <= M"):
        expectation.pool_metrics(np.array([4]), np.array([3]), np.array([2]), 3, [1])
