"""Identities between events, and what one epsilon means for other units, tests, plans and choices; numbers from the design's measurements."""

import dataclasses
import fractions
import math

import pytest

from relink_jax import errors
from relink_jax.privacy import accounting

F = fractions.Fraction
PAPER = accounting.Mechanism(F(1024, 166667), 2.006, 1.0, 814, "zero_out", n_units=166667)
SMALL = accounting.Mechanism(F(1, 10), 4.0, 1.0, 10, "zero_out", n_units=1000)


def pld(mechanism, delta=1e-5):
    return accounting.price(mechanism, delta).pld


def test_identities_of_events():
    import dp_accounting

    full = dataclasses.replace(SMALL, sampling_probability=F(1))
    exact = dp_accounting.get_epsilon_gaussian(4.0 / math.sqrt(10), 1e-5)
    assert pld(full) == pytest.approx(exact, abs=2e-4)
    assert accounting.gaussian_epsilon(math.sqrt(10) / 4, 1e-5) == pytest.approx(exact, rel=1e-9)
    nearly = dataclasses.replace(SMALL, sampling_probability=F(10**9 - 1, 10**9))
    assert pld(nearly) == pytest.approx(pld(full), abs=1e-3)
    one = dp_accounting.dp_event.MixtureOfGaussiansDpEvent(4.0, (0, 1), (0.9, 0.1))
    mixture = accounting.epsilon_of(dp_accounting.SelfComposedDpEvent(one, 10), "pld", "zero_out", [1e-5])[0][0]
    assert mixture == pytest.approx(pld(SMALL), abs=1e-4)
    halves = accounting.compose([accounting.build_event(dataclasses.replace(SMALL, iterations=5), "pld")] * 2)
    assert accounting.epsilon_of(halves, "pld", "zero_out", [1e-5])[0][0] == pytest.approx(pld(SMALL), abs=1e-6)
    huge = dataclasses.replace(SMALL, truncated_batch=900)
    assert pld(huge) == pytest.approx(pld(SMALL), abs=1e-9)


def test_truncated_batches_need_a_public_number_of_units_and_are_priced_by_pld_only():
    cut = dataclasses.replace(SMALL, truncated_batch=110)
    found = accounting.price(cut, 1e-5)
    assert found.rdp is None
    assert found.pld > 1.2 * pld(SMALL)
    event = accounting.build_event(cut, "pld")
    assert accounting.event_from_json(accounting.event_to_json(event)) == event
    for wrong in (dataclasses.replace(cut, n_units=None), dataclasses.replace(cut, relation="add_remove")):
        with pytest.raises(errors.UnsoundError, match="truncated batches"):
            accounting.build_event(wrong, "pld")


@pytest.mark.slow
@pytest.mark.parametrize(("cap", "expected"), [(1056, 0.690), (1152, 0.33999)])
def test_truncation_costs_what_was_measured(cap, expected):
    assert pld(dataclasses.replace(PAPER, truncated_batch=cap), 6e-6) == pytest.approx(expected, abs=2e-4)


@pytest.mark.slow
def test_patients_with_many_pairs():
    found = [accounting.group_epsilon(PAPER, k, 6e-6) for k in (5, 10, 20)]
    assert found == pytest.approx([1.98, 4.33, 9.82], abs=1e-2)


def test_an_unbounded_objective_has_no_epsilon_whatever_its_noise():
    open_sum = dataclasses.replace(SMALL, bounded=False, sensitivity=math.inf)
    assert accounting.event_to_json(accounting.build_event(open_sum, "rdp"))["class_name"] == "NonPrivateDpEvent"
    assert math.isinf(pld(open_sum))
    assert math.isinf(accounting.group_epsilon(open_sum, 3, 1e-5))
    assert accounting.gaussian_clt(open_sum, 1e-5) is None
    assert accounting.tuning_epsilon(open_sum, 1e-5, "poisson", 10) == math.inf


def test_one_pair_of_a_patient_with_others_is_the_replace_one_epsilon():
    found = accounting.own_pair_epsilon(PAPER, 6e-6)
    assert found == pytest.approx(0.652, abs=1e-3)
    bound, spent = accounting.replace_one_bound(0.340, 6e-6)
    assert found < bound == 0.68
    assert spent == pytest.approx((1 + math.exp(0.340)) * 6e-6)
    other = accounting.other_unit(SMALL, "patient", 1e-5)
    assert other["unit"] == "pair"
    assert other["rows"] == [{"unit": "pair", "owns": 1, "relation": "replace_one", "pld": accounting.own_pair_epsilon(SMALL, 1e-5)}]
    assert other["rows"][0]["pld"] > pld(SMALL)


def test_other_units_of_pair_and_study_runs():
    rows = accounting.other_unit(SMALL, "pair", 1e-5, (1, 2))["rows"]
    assert [row["owns"] for row in rows] == [1, 2]
    assert rows[0]["pld"] == pytest.approx(pld(SMALL), abs=1e-6)
    assert rows[1]["pld"] > rows[0]["pld"]
    assert [row["unit"] for row in accounting.other_unit(SMALL, "study", 1e-5, (2,))["rows"]] == ["patient", "pair"]
    assert accounting.other_unit(dataclasses.replace(SMALL, disclosed=True), "pair", 1e-5)["rows"][0]["pld"] is None


@pytest.mark.parametrize(
    ("distribution", "mean", "expected"), [("geometric", 10, 0.835), ("poisson", 10, 0.864), ("logarithmic", 10, 0.688), ("geometric", 20, 0.911)]
)
def test_a_random_number_of_trials_costs_what_was_measured(distribution, mean, expected):
    assert accounting.tuning_epsilon(PAPER, 6e-6, distribution, mean) == pytest.approx(expected, abs=1.5e-3)


def test_tuning_refuses_what_it_has_no_bound_for():
    assert accounting.tuning_epsilon(dataclasses.replace(SMALL, relation="replace_one"), 1e-5, "poisson", 10) is None
    assert accounting.tuning_epsilon(dataclasses.replace(SMALL, data_used=False), 1e-5, "poisson", 10) == 0
    for arguments in (("poison", 10), ("geometric", 1 - 1e-9), ("logarithmic", 1), ("geometric", math.inf)):
        with pytest.raises(errors.UsageError, match="trials"):
            accounting.tuning_epsilon(SMALL, 1e-5, *arguments)
    with pytest.raises(errors.UsageError, match="cap"):
        accounting.tuning_epsilon(dataclasses.replace(SMALL, overflow_delta=1e-6), 1e-5, "poisson", 10)


def test_batches_of_fixed_size_cost_more():
    assert accounting.fixed_batch_epsilon(PAPER, 1024, 166667, 6e-6) == pytest.approx(1.97, abs=5e-3)
    assert accounting.fixed_batch_epsilon(dataclasses.replace(PAPER, data_used=False), 1024, 166667, 6e-6) == 0


def test_runs_of_the_same_people_compose_as_measured():
    for view, expected in (("rdp", (0.376, 0.538, 0.872)), ("pld", (0.340, 0.490, 0.798))):
        event = accounting.build_event(PAPER, view)
        found = [accounting.epsilon_of(accounting.compose([event] * n), view, "zero_out", [6e-6])[0][0] for n in (1, 2, 5)]
        assert found == pytest.approx(expected, abs=1.2e-3)


def test_the_trade_off_curve_lies_below_the_gaussian_one_and_meets_it():
    alphas = [0.0, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.9, 1.0]
    full = dataclasses.replace(SMALL, sampling_probability=F(1), iterations=4)
    betas = accounting.trade_off(accounting.build_event(full, "pld"), "zero_out", alphas)
    exact = accounting.gaussian_trade_off(0.5, alphas)
    assert all(0 <= exact[i] - betas[i] < 2e-3 for i in range(len(alphas)))
    assert betas == sorted(betas, reverse=True)
    paid = accounting.trade_off(accounting.build_event(full, "pld"), "zero_out", alphas, overflow=0.01)
    assert all(a <= b for a, b in zip(paid, betas, strict=True))
    assert accounting.trade_off(accounting.build_event(dataclasses.replace(full, data_used=False), "pld"), "zero_out", [0.25]) == [0.75]
    assert accounting.trade_off(accounting.build_event(dataclasses.replace(full, disclosed=True), "pld"), "zero_out", [0.25]) == [0.0]


def test_a_test_at_the_trade_off_gains_at_most_the_membership_advantage():
    alphas = [i / 50 for i in range(51)]
    gain = max(1 - alpha - beta for alpha, beta in zip(alphas, accounting.trade_off(accounting.build_event(SMALL, "pld"), "zero_out", alphas), strict=True))
    assert 0 < gain <= accounting.membership_advantage(pld(SMALL), 1e-5)


def test_epsilon_over_steps_rises_to_that_of_the_run():
    rows = accounting.epsilon_over_steps(SMALL, 1e-5, 3)
    assert [row[0] for row in rows] == [3, 7, 10]
    assert [row[2] for row in rows] == sorted(row[2] for row in rows)
    whole = accounting.price(SMALL, 1e-5)
    assert rows[-1] == (10, whole.rdp, whole.pld)
    assert accounting.epsilon_over_steps(SMALL, 1e-5, [2, 4])[0][0] == 2


def test_beliefs():
    assert accounting.posterior(0.5, 0.0, 0.0) == 0.5
    assert accounting.posterior(0.5, 0.34, 6e-6) == pytest.approx(0.5842, abs=1e-4)
    assert accounting.posterior(0.5, math.inf, 0.0) == 1.0
    assert accounting.posterior(0.0, 5.0, 1e-5) == 0.0
    with pytest.raises(errors.UsageError, match="prior"):
        accounting.posterior(1.5, 1.0, 0.0)


GIVEN = {"n_units": 166667, "delta": 6e-6}


def test_a_plan_finds_any_one_of_four():
    noise = accounting.solve(**GIVEN, expected_batch_size=1024, iterations=814, epsilon=0.34)
    assert noise.noise_multiplier == pytest.approx(2.170, abs=1e-3)
    assert (noise.solved_for, noise.rdp <= 0.34, noise.pld) == ("noise_multiplier", True, pytest.approx(0.308, abs=2e-3))
    spent = accounting.solve(**GIVEN, expected_batch_size=1024, iterations=814, noise_multiplier=2.006)
    assert (spent.epsilon, spent.pld) == (pytest.approx(0.376, abs=1e-3), pytest.approx(0.340, abs=1e-3))


@pytest.mark.parametrize("name", ["iterations", "expected_batch_size"])
def test_whole_numbers_are_the_largest_within_epsilon(name):
    given = {"n_units": 1000, "delta": 1e-5, "noise_multiplier": 4.0, "epsilon": 0.5, "expected_batch_size": 100, "iterations": 10}
    found = accounting.solve(**{**given, name: None})
    assert found.rdp <= 0.5
    more = dataclasses.asdict(found)
    batch, steps = (more[key] + (key == name) for key in ("expected_batch_size", "iterations"))
    assert accounting.epsilon_at(accounting.Mechanism(F(batch, 1000), 4.0, 1.0, steps), "rdp", 1e-5) > 0.5


def test_pld_needs_less_noise_for_the_same_guarantee():
    by_rdp, by_pld = (accounting.calibrate(F(1), 2, 0.2, 1e-5, view) for view in accounting.VIEWS)
    assert by_pld < by_rdp
    assert 0.199 < accounting.epsilon_at(accounting.Mechanism(F(1), by_pld, 1.0, 2), "pld", 1e-5) <= 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("units", "batch", "epochs", "expected"), [(166667, 1024, 5, 2.005), (333000, 1024, 1, 0.992), (227000, 4096, 10, None)])
def test_noise_by_pld_as_tabulated(units, batch, epochs, expected):
    rows = accounting.sigma_table(units, 0.34, 6e-6, [batch], [epochs], "pld" if expected else "rdp")
    assert rows[0]["noise_multiplier"] == pytest.approx(expected or 4.940, abs=2e-3)


def test_sigma_table_rows():
    rows = accounting.sigma_table(150_000, 0.34, 6e-6, [512, 200_000], [1, 3])
    assert [(row["expected_batch_size"], row["epochs"], row["iterations"]) for row in rows] == [(512, 1, 293), (512, 3, 879)]
    assert [row["noise_multiplier"] for row in rows] == pytest.approx([1.527, 1.642], abs=2e-3)


def test_plans_that_are_not_one_short_or_out_of_range_are_refused():
    whole = {"expected_batch_size": 10, "iterations": 10, "noise_multiplier": 1.0, "epsilon": 1.0}
    for wrong in (whole, {**whole, "epsilon": None, "iterations": None}):
        with pytest.raises(errors.UsageError, match="to find the fourth"):
            accounting.solve(n_units=100, delta=1e-5, **wrong)
    for name, value in (("expected_batch_size", 101), ("iterations", 0), ("noise_multiplier", 1e-4)):
        with pytest.raises(errors.UsageError, match=name):
            accounting.solve(n_units=100, delta=1e-5, **{**whole, "epsilon": None, name: value})
    with pytest.raises(errors.UsageError, match="did you mean 'pld'"):
        accounting.solve(n_units=100, delta=1e-5, accountant="plb", **{**whole, "epsilon": None})
    with pytest.raises(errors.UsageError, match="none; add noise"):
        accounting.solve(n_units=100, delta=1e-5, **{**whole, "epsilon": 0.01, "iterations": None})
