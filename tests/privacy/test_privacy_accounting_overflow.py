"""What batches above a cap cost, against exact fractions and against the mechanism enumerated in full."""

import fractions
import itertools
import math

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.privacy import accounting

F = fractions.Fraction


def exact_tail(trials, q, at_least):
    return sum(math.comb(trials, k) * q**k * (1 - q) ** (trials - k) for k in range(max(0, at_least), trials + 1))


@pytest.mark.parametrize(("trials", "q"), [(1, F(1, 2)), (39, F(1, 4)), (200, F(1, 50)), (60, F(9, 10))])
def test_the_tail_is_exact_and_never_below(trials, q):
    for at_least in (-1, 0, 1, trials // 2, trials - 1, trials, trials + 1):
        exact = exact_tail(trials, q, at_least)
        found = accounting.binomial_tail(trials, q, at_least)
        assert found >= float(exact) * (1 - 1e-15)
        assert found == pytest.approx(float(exact), rel=3e-8, abs=0)


def test_overflow_counts_steps_and_pairs_of_one_person():
    q = F(1, 4)
    assert accounting.overflow_delta(q, 40, 25, 7) == pytest.approx(float(7 * exact_tail(39, q, 25)), rel=3e-8)
    assert accounting.overflow_delta(q, 40, 25, 7, 3) == pytest.approx(float(7 * exact_tail(37, q, 23)), rel=3e-8)
    assert accounting.overflow_delta(q, 40, 40, 7) == 0
    assert accounting.overflow_delta(q, 40, 1, 10**6) == 1
    assert accounting.overflow_delta(F(1024, 166667), 166667, 1280, 814) == pytest.approx(814 * 6e-15, rel=0.3)
    for wrong in ((F(0), 40, 25, 7), (q, 40, 0, 7), (q, 40, 25, -1), (q, 2, 1, 1, 3)):
        with pytest.raises(errors.UsageError, match="batch cap"):
            accounting.overflow_delta(*wrong)


def test_the_bound_holds_for_a_small_mechanism_enumerated_over_all_draws():
    """Five units of value 1, at most two kept (the first two drawn), one of them added first in line: a swap of 2 where it evicts."""
    q, cap, deviation, epsilon = 0.3, 2, 1.0, 0.5
    grid = np.linspace(-9, 9, 40001)

    def density(members):
        total = np.zeros_like(grid)
        for coins in itertools.product((0, 1), repeat=len(members)):
            kept = [value for value, coin in zip(members, coins, strict=True) if coin][:cap]
            weight = math.prod(q if coin else 1 - q for coin in coins)
            total += weight * np.exp(-((grid - sum(kept)) ** 2) / 2) / math.sqrt(2 * math.pi)
        return total

    width = grid[1] - grid[0]
    plain, added = density([-1, -1, 1, 1]), density([1, -1, -1, 1, 1])
    lost = max(np.sum(np.maximum(a - math.exp(epsilon) * b, 0)) * width for a, b in ((plain, added), (added, plain)))
    event = accounting.build_event(accounting.Mechanism(F(3, 10), deviation, 1.0, 1), "pld")
    losses, deltas = accounting.delta_curve(event, "add_remove", 400)
    allowed = float(np.interp(epsilon, losses, deltas)) + accounting.overflow_delta(F(3, 10), 5, cap, 1)
    assert 0 < lost <= allowed


def capped(**changes):
    fields = {"overflow_delta": 4e-6, "n_units": 40, "batch_cap": 30} | changes
    return accounting.Mechanism(F(1, 4), 4.0, 1.0, 4, **fields)


def test_prices_and_calibration_spend_what_is_left_of_delta():
    free = accounting.price(capped(overflow_delta=0.0), 6e-6)
    paid = accounting.price(capped(), 1e-5, (1e-5, 1e-6))
    assert (paid.rdp, paid.pld) == pytest.approx((free.rdp, free.pld), rel=1e-9)
    assert paid.at_delta == ((1e-5, paid.rdp, paid.pld), (1e-6, None, None))
    assert accounting.epsilon_at(capped(), "pld", 1e-5) == paid.pld
    with pytest.raises(errors.UsageError, match="batches above the cap"):
        accounting.price(capped(), 4e-6)
    with pytest.raises(errors.UsageError, match="batches above the cap"):
        accounting.calibrate(F(1, 4), 4, 1.0, 4e-6, overflow_delta=4e-6)
    assert accounting.calibrate(F(1, 4), 4, 1.0, 1e-5, overflow_delta=4e-6) == accounting.calibrate(F(1, 4), 4, 1.0, 1e-5 - 4e-6)
    for nothing in (capped(data_used=False), capped(bounded=False)):
        assert accounting.price(nothing, 1e-9).rdp in (0.0, math.inf)


def test_a_patient_with_several_pairs_pays_for_all_of_them_and_needs_the_cap():
    lost = accounting.overflow_delta(F(1, 4), 40, 30, 4)
    one, three = (accounting.group_epsilon(capped(overflow_delta=lost), k, 1e-5) for k in (1, 3))
    free = accounting.group_epsilon(capped(overflow_delta=0.0), 3, 1e-5 - accounting.overflow_delta(F(1, 4), 40, 30, 4, 3))
    assert one < three == pytest.approx(free, rel=1e-9)
    with pytest.raises(errors.UnsoundError, match="batch cap"):
        accounting.group_epsilon(capped(overflow_delta=lost, batch_cap=None), 3, 1e-5)
