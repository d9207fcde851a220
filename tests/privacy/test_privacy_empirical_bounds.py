"""Lower bounds: exact limits, coverage, nothing from nothing, and enough where there is something."""

import fractions
import math

import dp_accounting
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.privacy.empirical import bounds, guesses, tails

SEEDS = 40


def chance(count: int, trials: int, probability: float) -> float:
    """P[X >= count] by exact fractions."""
    p = fractions.Fraction(probability)
    return float(sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(count, trials + 1)))


@pytest.mark.parametrize(("successes", "trials", "confidence"), [(0, 10, 0.95), (3, 10, 0.95), (9, 10, 0.5), (500, 1000, 0.975), (999, 1000, 0.975)])
def test_clopper_pearson_equals_scipy(successes, trials, confidence):
    beta = pytest.importorskip("scipy.stats").beta
    assert tails.clopper_pearson_upper(successes, trials, confidence) == pytest.approx(beta.ppf(confidence, successes + 1, trials - successes), abs=1e-12)


def test_clopper_pearson_closed_cases_and_definition():
    assert tails.clopper_pearson_upper(0, 1000, 0.975) == pytest.approx(-math.expm1(math.log(0.025) / 1000), abs=1e-15)
    assert tails.clopper_pearson_upper(7, 7, 0.9) == 1.0
    limit = tails.clopper_pearson_upper(4, 30, 0.95)
    assert 1 - chance(5, 30, limit) == pytest.approx(0.05, abs=1e-12)
    assert tails.upper_tail(5, 30, 0.25) == pytest.approx(chance(5, 30, 0.25), rel=1e-12)


@pytest.mark.parametrize("mu", [0.01, 0.1, 0.5, 1.0, 3.0, 5.36, 30.0])
def test_gaussian_epsilon_equals_dp_accounting_and_inverts(mu):
    epsilon = tails.gaussian_epsilon(mu, 1e-5)
    assert epsilon == pytest.approx(dp_accounting.get_epsilon_gaussian(1 / mu, 1e-5), rel=1e-9)
    assert tails.gaussian_mu(epsilon, 1e-5) == pytest.approx(mu, rel=1e-9)


def test_gaussian_epsilon_at_the_ends():
    assert tails.gaussian_epsilon(0.0, 1e-5) == 0.0
    assert tails.gaussian_epsilon(math.inf, 1e-5) == math.inf
    assert tails.gaussian_delta(1.0, 0.0) == 0.0


def test_null_scores_give_nothing():
    found = np.zeros(3)
    for seed in range(SEEDS):
        generator = np.random.default_rng(seed)
        scored = bounds.from_scores(generator.standard_normal(1000), generator.standard_normal(1000))
        one_run = guesses.from_scores(generator.standard_normal(500), generator.random(500) < 0.5)
        found += np.array([scored.clopper_pearson, scored.gaussian, one_run.lower_bound]) > 0
    assert all(tails.upper_tail(int(count), SEEDS, 1 - bounds.CONFIDENCE) > 1e-3 for count in found), found


def test_scores_below_chance_give_nothing():
    generator = np.random.default_rng(0)
    scored = bounds.from_scores(generator.standard_normal(2000) - 2, generator.standard_normal(2000))
    assert (scored.clopper_pearson, scored.gaussian) == (0.0, 0.0)
    assert scored.auroc < 0.1
    assert bounds.gaussian_mu_lower_bound(900, 900, 1000, 1000) == 0.0


def test_perfect_scores_reach_the_ceiling():
    scored = bounds.from_scores(np.ones(2000), np.zeros(2000))
    assert scored.clopper_pearson == scored.ceiling == pytest.approx(5.6006, abs=1e-4)
    assert scored.gaussian == pytest.approx(36.49, abs=0.01)
    assert scored.auroc == 1.0


@pytest.mark.parametrize("mu", [0.3, 0.9, 2.0])
def test_gaussian_scores_are_bounded_by_the_truth_and_not_far_below(mu):
    truth = tails.gaussian_epsilon(mu, bounds.DELTA)
    found = []
    for seed in range(SEEDS):
        generator = np.random.default_rng(seed)
        scored = bounds.from_scores(mu + generator.standard_normal(2000), generator.standard_normal(2000))
        assert scored.clopper_pearson <= truth
        found.append(scored.gaussian)
    above = sum(value > truth for value in found)
    assert tails.upper_tail(above, SEEDS, 1 - bounds.CONFIDENCE) > 1e-3
    assert np.median(found) > 0.5 * truth if mu > 0.5 else np.median(found) >= 0


def test_clopper_pearson_covers_randomized_response():
    """The tightest pure mechanism: the truth is told with probability e^eps / (1 + e^eps)."""
    epsilon, above = 1.5, 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        wrong = generator.binomial(300, 1 / (1 + math.exp(epsilon)), 2)
        above += bounds.epsilon_lower_bound(int(wrong[0]), int(wrong[1]), 300, 300, 0.0) > epsilon
    assert tails.upper_tail(above, 200, 0.05) > 1e-3


def test_one_run_covers_randomized_response_and_is_not_empty():
    epsilon, canaries = 1.0, 400
    found = []
    for seed in range(100):
        correct = int(np.random.default_rng(seed).binomial(canaries, 1 / (1 + math.exp(-epsilon))))
        found.append(guesses.lower_bound(correct, canaries, canaries, 0.0))
    above = sum(value > epsilon for value in found)
    assert tails.upper_tail(above, 100, 0.05) > 1e-3
    assert above > 0
    assert np.median(found) > 0.7


def test_one_run_bound_solves_the_theorem():
    bound = guesses.lower_bound(90, 100, 100, 0.0)
    assert chance(90, 100, 1 / (1 + math.exp(-bound))) == pytest.approx(0.05, abs=1e-9)
    beta = [chance(v, 20, 1 / (1 + math.exp(-0.7))) for v in range(21)]
    delta_term = 2 * 50 * 1e-3 * max((beta[15 - i] - beta[15]) / i for i in range(1, 16))
    assert guesses.probability_of(15, 20, 50, 0.7, 1e-3) == pytest.approx(beta[15] + delta_term, rel=1e-10)
    assert guesses.lower_bound(90, 100, 1000, 1e-4) < bound


def test_one_run_grows_with_what_scores_tell():
    generator = np.random.default_rng(0)
    included = generator.random(1000) < 0.5
    noise = generator.standard_normal(1000)
    found = [guesses.from_scores(shift * included + noise, included) for shift in (0.0, 1.0, 3.0, 50.0)]
    assert found[0].lower_bound == 0.0
    assert [one.lower_bound for one in found] == sorted(one.lower_bound for one in found)
    assert found[-1].lower_bound == found[-1].ceiling > 5
    assert found[-1].correct == found[-1].guesses == 900


def test_auroc_counts_ties_by_half():
    generator = np.random.default_rng(0)
    left, right = generator.integers(0, 5, 30), generator.integers(0, 5, 40)
    expected = np.mean((left[:, None] > right) + 0.5 * (left[:, None] == right))
    assert bounds.auroc(left, right) == pytest.approx(expected, abs=1e-12)


def test_refused_input():
    with pytest.raises(errors.DataError, match="finite"):
        bounds.from_scores(np.array([1.0, 2, 3, np.nan]), np.zeros(4))
    with pytest.raises(errors.DataError, match="at least 4"):
        bounds.from_scores(np.zeros(3), np.zeros(10))
    with pytest.raises(errors.UsageError, match="confidence"):
        bounds.from_scores(np.zeros(8), np.zeros(8), confidence=1.0)
    with pytest.raises(errors.DataError, match="successes"):
        tails.clopper_pearson_upper(5, 4, 0.95)
    with pytest.raises(errors.DataError, match="included"):
        guesses.from_scores(np.zeros(5), np.ones(5, bool))
    with pytest.raises(errors.DataError, match="guesses"):
        guesses.lower_bound(5, 4, 10)
