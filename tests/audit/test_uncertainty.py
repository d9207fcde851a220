"""The clustered bootstrap against exact enumeration, and its coverage."""

import itertools

import numpy as np
import pytest

from relink_jax.audit import uncertainty

BEFORE, AFTER, COUNT = np.array([2.0, 0, 1]), np.array([1.0, 0, 0]), np.array([3.0, 1, 4])
SUMS, COUNTS = np.stack([BEFORE, AFTER], 1), np.stack([COUNT, COUNT], 1)


def test_weights_reproduce_worked_resamples():
    wanted = {(1, 1, 1): (3 / 8, 1 / 8), (2, 1, 0): (4 / 7, 2 / 7), (0, 0, 3): (1 / 4, 0), (1, 0, 2): (4 / 11, 1 / 11)}
    found = uncertainty.ratios(np.array(list(wanted), float), SUMS, COUNTS)
    np.testing.assert_allclose(found, list(wanted.values()))


def test_all_resamples_have_the_worked_mean_and_variance():
    weights = np.array([np.bincount(draw, minlength=3) for draw in itertools.product(range(3), repeat=3)], float)
    before, after = uncertainty.ratios(weights, SUMS, COUNTS).T
    assert before.mean() == pytest.approx(22727 / 62370)
    assert before.var() == pytest.approx(695478991 / 31120135200)
    assert (after - before).mean() == pytest.approx(-1979 / 8316)
    assert (after - before).var() == pytest.approx(193993 / 48024900)
    drawn = np.concatenate(list(uncertainty.weights(3, 60000, 1)))
    assert (drawn.sum(axis=1) == 3).all()
    sampled = uncertainty.ratios(drawn, SUMS, COUNTS)[:, 0]
    assert sampled.mean() == pytest.approx(22727 / 62370, abs=4 * np.sqrt(695478991 / 31120135200 / 60000))


def test_same_draws_for_every_arm_and_no_others():
    first, again = (np.concatenate(list(uncertainty.weights(50, 300, 4))) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, np.concatenate(list(uncertainty.weights(50, 300, 5))))


def test_patient_sums():
    assert uncertainty.patient_sums(np.array([0, 2, 0]), np.array([1.0, 2, 4]), 4).tolist() == [5, 0, 2, 0]


def test_interval_covers_and_beats_an_unclustered_one():
    generator = np.random.default_rng(0)
    settings = uncertainty.Bootstrap(400, 0.9, 0)
    covered, widths, naive = 0, [], []
    for _ in range(150):
        sizes = generator.integers(1, 8, 60)
        risk = generator.beta(1, 3, 60)
        hits = generator.binomial(sizes, risk).astype(float)
        found = uncertainty.intervals(hits[:, None], sizes[:, None].astype(float), settings)
        covered += bool(found.low[0] <= 0.25 <= found.high[0])
        widths.append(found.se[0])
        naive.append(np.sqrt(found.estimate[0] * (1 - found.estimate[0]) / sizes.sum()))
    assert 0.84 <= covered / 150 <= 0.96
    assert np.mean(widths) > 1.15 * np.mean(naive)


def test_bca_leans_with_the_skew_and_degenerates_quietly():
    sums = np.concatenate([np.zeros(90), np.ones(10)])[:, None]
    found = uncertainty.intervals(sums, np.ones((100, 1)), uncertainty.Bootstrap(4000, 0.95, 0))
    assert 0.1 - found.low[0] < found.high[0] - 0.1
    flat = uncertainty.intervals(np.ones((9, 1)), np.ones((9, 1)), uncertainty.Bootstrap(100))
    assert (flat.low[0], flat.high[0], flat.se[0]) == (1, 1, 0)


def test_bound_when_nothing_was_seen():
    assert uncertainty.extreme_bound(np.ones(100), 0.95) == pytest.approx(1 - 0.05**0.01)
    assert uncertainty.extreme_bound(np.array([100, 1, 1]), 0.95) > uncertainty.extreme_bound(np.full(3, 34), 0.95)
