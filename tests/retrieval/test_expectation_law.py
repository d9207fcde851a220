"""The law of one pool against whole numbers: every value of small universes, and samples of large ones."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from relink_jax.retrieval import pool_law
from relink_jax.stages import bench_curve


def rows(*values):
    return (np.array([value]) for value in values)


def test_every_value_of_small_universes():
    for M in (1, 2, 5, 40):
        for K, n in itertools.product(sorted({0, 1, min(2, M), M // 3, M // 2, M - 1, M}), range(M + 1)):
            j = np.arange(M + 2)
            wanted = [math.comb(K, x) * math.comb(M - K, n - x) / math.comb(M, n) if x <= min(K, n) else 0.0 for x in range(M + 2)]
            law = pool_law.probability(M, K, n, j)
            np.testing.assert_allclose(law, wanted, rtol=1e-14, atol=0)
            assert law.sum() == pytest.approx(1, abs=1e-14)
            np.testing.assert_allclose(pool_law.cumulative(*rows(M, K, n), M + 2)[:, 0], np.cumsum(wanted), rtol=2e-14, atol=1e-300)


def test_symmetries_at_any_size():
    generator = np.random.default_rng(0)
    M = generator.integers(2, 10**7, 2000)
    K, n = (np.minimum(M, (M ** generator.random(2000)).astype(int)) for _ in range(2))
    j = np.clip(np.rint(K * (n / M)) + generator.integers(-2, 3, 2000), 0, None).astype(int)
    law = pool_law.probability(M, K, n, j)
    assert (law > 0).mean() > 0.5
    np.testing.assert_allclose(law, pool_law.probability(M, n, K, j), rtol=1e-12)
    np.testing.assert_allclose(law, pool_law.probability(M, M - K, n, n - j), rtol=1e-11)


def test_monotone_in_k_and_in_what_precedes():
    K = np.arange(3001)
    law = pool_law.cumulative(np.full(3001, 3000), K, np.full(3001, 200), 60)
    assert (np.diff(law, axis=0) >= 0).all()
    assert (np.diff(law, axis=1) <= 1e-13).all()
    assert law[:, 0].tolist() == [1] * 60
    assert law[:, -1].tolist() == [0] * 60


@pytest.mark.parametrize("M", [43792, 406240, 10**7])
def test_large_universes_against_whole_numbers(M):
    compared = 0
    for n in (1, 2, 97, 9999, M // 5, M - 100, M - 1, M):
        K = np.unique(np.clip([0, 1, 2, *(x * M // n for x in (1, 5, 49, 60))], 0, M))
        K = np.array([*(x for x in K if min(x, n) < 10000), *([M - 1, M] if n < 10000 else [])])
        found = pool_law.cumulative(np.full(len(K), M), K, np.full(len(K), n), 50)
        for column, marked in enumerate(K.tolist()):
            law, total = bench_curve.exact_law(M, marked, n, 50)
            wanted = [value / total for value in itertools.accumulate(law)]
            np.testing.assert_allclose(found[:, column], wanted, rtol=0, atol=1e-12)
            compared += sum(0 < value < 1 for value in wanted)
    assert compared > 300


def test_the_whole_numbers_are_the_law():
    for M, K, n in itertools.product((6,), range(7), range(7)):
        law, total = bench_curve.exact_law(M, K, n, 9)
        wanted = [Fraction(math.comb(K, j) * math.comb(M - K, n - j), math.comb(M, n)) if j <= n else 0 for j in range(9)]
        assert [Fraction(value, total) for value in law] == wanted


def test_moments_are_sums_over_the_law():
    M = 60
    K, n = (column.ravel() for column in np.meshgrid(np.arange(M + 1), np.arange(1, M + 1)))
    law = pool_law.probability(M, K[:, None], n[:, None], np.arange(M + 1))
    X = np.arange(M + 1)
    size = np.full_like(K, M)
    for k in (1, 4, 80):
        (shortfall,), (fewer,) = pool_law.shortfall(size, K, n, [k]), pool_law.fewer_than(size, K, n, [k])
        np.testing.assert_allclose(shortfall, law @ np.maximum(k - X, 0), atol=1e-12)
        np.testing.assert_allclose(fewer, law @ (k > X), atol=1e-12)
    harmonic = np.cumsum([0.0, *(1 / np.arange(1, M + 1))])
    np.testing.assert_allclose(pool_law.harmonic(X), harmonic, rtol=1e-15)
    np.testing.assert_allclose(pool_law.expected_harmonic(size, K, n), law @ harmonic, atol=1e-12)


def test_parts_of_long_tables_join(monkeypatch):
    M, K, n = np.full(500, 10**5), np.arange(0, 10**5, 200), np.full(500, 70)
    whole = pool_law.fewer_than(M, K, n, [3, 30]), pool_law.expected_harmonic(M, K, n)
    monkeypatch.setattr(pool_law, "_CHUNK", 1 << 10)
    np.testing.assert_array_equal(pool_law.fewer_than(M, K, n, [3, 30]), whole[0])
    np.testing.assert_allclose(pool_law.expected_harmonic(M, K, n), whole[1], rtol=1e-13)
