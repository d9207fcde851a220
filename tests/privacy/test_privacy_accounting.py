import fractions
import math

import pytest

from relink_jax import errors
from relink_jax.privacy import accounting

F = fractions.Fraction
# (q, noise multiplier, steps, delta, RDP epsilon, best order, PLD epsilon, prv_accountant lower and upper bound); the RDP values agree with
# Opacus to five digits and the PRV brackets come from prv_accountant (Gopi et al. 2021) at epsilon error 0.005.
ORACLES = [
    (F(1, 100), 1.0, 1000, 1e-5, 2.10137, 7.8, 1.82824, 1.82324, 1.83324),
    (F(1024, 166667), 2.0, 814, 6e-6, 0.37758, 39, 0.34116, 0.33614, 0.34614),
    (F(4096, 166667), 5.0, 204, 6e-6, 0.27619, 54, 0.24998, 0.24497, 0.25497),
    (F(256, 227000), 0.8, 4434, 6e-6, 1.39016, 8.1, 0.64994, 0.64487, 0.65487),
    (F(2048, 333000), 3.0, 3252, 6e-6, 0.47945, 34, 0.43704, 0.43196, 0.44196),
    (F(1), 20.0, 10, 1e-6, 0.70021, 30, 0.64811, 0.64310, 0.65311),
    (F(512, 150000), 1.5, 1465, 6e-6, 0.46293, 24, 0.36031, 0.35527, 0.36527),
]


TENTH = F(1, 10)


def mechanism(q=TENTH, multiplier=2.0, steps=20, clip=1.0, **changes):
    return accounting.Mechanism(q, multiplier * clip, clip, steps, **changes)


@pytest.mark.parametrize(("q", "multiplier", "steps", "delta", "rdp", "order", "pld", "low", "high"), ORACLES)
def test_oracle_rows(q, multiplier, steps, delta, rdp, order, pld, low, high):
    found = accounting.price(mechanism(q, multiplier, steps), delta)
    assert found.rdp == pytest.approx(rdp, abs=5e-5)
    assert found.rdp_order == pytest.approx(order)
    assert found.pld == pytest.approx(pld, abs=2e-4)
    assert low <= found.pld <= high
    assert found.pld <= found.rdp


@pytest.mark.parametrize(
    ("units", "batch", "steps", "expected"),
    [(150_000, 1024, 733, 2.276), (166_667, 4096, 204, 4.165), (333_000, 256, 6504, 1.385), (227_000, 2048, 555, 2.586)],
)
def test_calibration_finds_the_tabulated_noise_and_hits_the_target(units, batch, steps, expected):
    q = F(batch, units)
    multiplier = accounting.calibrate(q, steps, 0.34, 6e-6)
    assert multiplier == pytest.approx(expected, abs=3e-3)
    reached = accounting.price(mechanism(q, multiplier, steps), 6e-6).rdp
    assert 0.34 - 1e-3 < reached <= 0.34


@pytest.mark.parametrize("target", [(0.0, 1e-5), (-1.0, 1e-5), (float("nan"), 1e-5), (1.0, 0.0), (1.0, 1.0), (1e7, 1e-5), (math.inf, 1e-5)])
def test_unreachable_targets_are_refused(target):
    with pytest.raises(errors.UsageError, match="privacy target"):
        accounting.calibrate(F(1, 10), 10, *target)


def test_clip_norm_scales_out_of_the_price():
    assert accounting.price(mechanism(clip=1.0), 1e-5) == accounting.price(mechanism(clip=7.5), 1e-5)


def test_epsilon_falls_with_noise_and_rises_with_sampling_and_steps():
    def pair(**changes):
        found = accounting.price(mechanism(**changes), 1e-5)
        return found.rdp, found.pld

    base = pair()
    for more in (pair(q=F(1, 5)), pair(steps=40), pair(multiplier=1.5)):
        assert all(a < b for a, b in zip(base, more, strict=True))
    for view in range(2):
        assert pair(multiplier=3.0)[view] < base[view]


def test_replace_one_conventions_are_normalised():
    full = mechanism(F(1), 1.0, 1)
    assert accounting.price(full, 1e-5).rdp == pytest.approx(4.7285, abs=1e-3)
    assert accounting.price(full, 1e-5).pld == pytest.approx(4.3772, abs=1e-3)
    swapped = accounting.price(mechanism(F(1), 1.0, 1, relation="replace_one"), 1e-5)
    halved = accounting.price(mechanism(F(1), 0.5, 1), 1e-5)
    assert swapped.pld == pytest.approx(9.9973, abs=2e-3)
    assert swapped.pld == pytest.approx(halved.pld, abs=2e-3)
    assert swapped.rdp == pytest.approx(halved.rdp, abs=1e-9)
    assert swapped.rdp >= swapped.pld
    subsampled = accounting.price(mechanism(F(1024, 166667), 2.006, 814, relation="replace_one"), 6e-6)
    assert subsampled.rdp is None
    assert subsampled.pld == pytest.approx(0.652, abs=2e-3)


@pytest.mark.parametrize(
    ("q", "multiplier", "steps"), [(F(1, 10), 2.0, 20), (F(1024, 166667), 2.0, 814), (F(1), 20.0, 10), pytest.param(F(1, 4), 0.3, 4, marks=pytest.mark.slow)]
)
def test_zero_out_costs_what_add_remove_costs(q, multiplier, steps):
    first, second = (accounting.price(mechanism(q, multiplier, steps, relation=relation), 1e-5) for relation in ("add_remove", "zero_out"))
    assert second.rdp == pytest.approx(first.rdp, rel=1e-12)
    assert second.pld == pytest.approx(first.pld, rel=1e-9)


def test_no_noise_and_known_randomness_are_infinite_and_no_data_is_free():
    for open_book in (mechanism(multiplier=0.0), mechanism(disclosed=True)):
        found = accounting.price(open_book, 1e-5, [1e-6])
        assert math.isinf(found.rdp)
        assert math.isinf(found.pld)
        assert math.isinf(found.at_delta[0][1])
        assert accounting.event_to_json(accounting.build_event(open_book, "rdp"))["class_name"] == "NonPrivateDpEvent"
    for free in (mechanism(data_used=False), mechanism(data_used=False, multiplier=0.0), mechanism(steps=0)):
        found = accounting.price(free, 1e-5)
        assert (found.rdp, found.pld) == (0.0, 0.0)
        assert accounting.group_epsilon(free, 5, 1e-5) == 0.0


def test_silent_zero_and_unsound_inputs_are_refused():
    with pytest.raises(errors.UnsoundError, match="smaller delta"):
        accounting.price(mechanism(multiplier=1e4), 0.05)
    for noise, sensitivity in ((1.0, 0.0), (1.0, math.inf), (math.inf, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1e-3, 1.0), (1e-200, 1.0)):
        with pytest.raises(errors.UnsoundError, match="noise or sensitivity"):
            accounting.build_event(accounting.Mechanism(F(1, 2), noise, sensitivity, 3), "rdp")


def test_runs_compose_below_the_sum_of_epsilons():
    one = mechanism(F(1024, 166667), 2.006, 814)
    for view, single, double in (("rdp", 0.376, 0.538), ("pld", 0.340, 0.490)):
        event = accounting.build_event(one, view)
        found = [accounting.epsilon_of(accounting.compose([event] * n), view, "add_remove", [6e-6])[0][0] for n in (1, 2)]
        assert found == pytest.approx([single, double], abs=1e-3)


def test_pair_level_epsilon_of_a_patient_with_several_pairs():
    one = mechanism(F(1024, 166667), 2.006, 814)
    assert [accounting.group_epsilon(one, k, 6e-6) for k in (1, 2, 3)] == pytest.approx([0.34, 0.72, 1.13], abs=5e-3)
    full = mechanism(F(1), 6.0, 2)
    assert accounting.group_epsilon(full, 3, 1e-5) == pytest.approx(accounting.price(mechanism(F(1), 2.0, 2), 1e-5).pld, abs=2e-3)


def test_clt_is_below_the_bound_and_advantage_is_as_published():
    one = mechanism(F(256, 227000), 0.8, 4434)
    assert accounting.gaussian_clt(one, 6e-6) == pytest.approx(0.53256, abs=1e-4)
    assert accounting.gaussian_clt(mechanism(multiplier=0.0), 1e-5) is None
    assert accounting.membership_advantage(0.34, 6e-6) == pytest.approx(0.168, abs=5e-4)
    assert accounting.membership_advantage(math.inf, 0.0) == 1.0
    assert accounting.membership_advantage(0.0, 0.0) == 0.0


OUT_OF_RANGE = [{"class_name": "GaussianDpEvent", "noise_multiplier": bad} for bad in ("2", True, None, 0.0, -1.0, 1e-9, math.nan, math.inf)] + [
    {"class_name": "SelfComposedDpEvent", "event": {"class_name": "NoOpDpEvent"}, "count": 1.5},
    {"class_name": "SelfComposedDpEvent", "event": [], "count": 2},
    {"class_name": "PoissonSampledDpEvent", "event": {"class_name": "NoOpDpEvent"}, "sampling_probability": 2},
    {"class_name": "ComposedDpEvent", "events": []},
    {"class_name": ["GaussianDpEvent"]},
]


def test_events_round_trip_and_unknown_classes_are_refused():
    for made in (mechanism(), mechanism(q=F(1)), mechanism(multiplier=0.0), mechanism(data_used=False)):
        event = accounting.compose([accounting.build_event(made, "pld")] * 2)
        assert accounting.event_from_json(accounting.event_to_json(event)) == event
    for bad in ({"class_name": "UnsupportedDpEvent"}, {"class_name": "GaussianDpEvent", "sigma": 1.0}, {"module_name": "os"}, None, 3, *OUT_OF_RANGE):
        with pytest.raises(errors.StoreError, match="event"):
            accounting.event_from_json(bad)


@pytest.mark.slow
@pytest.mark.parametrize("multiplier", [0.01, 0.05])
def test_hardly_any_noise_has_a_price_in_seconds_and_prints_nothing(multiplier, caplog):
    found = accounting.price(mechanism(F(1, 4), multiplier, 4), 6e-6)
    assert 900 < found.pld < found.rdp < 2.3e4
    assert accounting.gaussian_clt(mechanism(F(1, 4), multiplier, 4), 6e-6) is None
    assert accounting.membership_advantage(found.rdp, 6e-6) == 1.0
    assert not caplog.records


@pytest.mark.slow
def test_calibration_to_a_huge_epsilon_prints_nothing(caplog):
    multiplier = accounting.calibrate(F(1, 4), 4, 800.0, 6e-6)
    assert 799 < accounting.price(mechanism(F(1, 4), multiplier, 4), 6e-6).rdp <= 800
    assert not caplog.records


@pytest.mark.slow
def test_a_wider_grid_of_losses_is_for_little_noise_only_and_changes_little():
    event = {multiplier: accounting.build_event(mechanism(F(1, 4), multiplier, 4), "pld") for multiplier in (0.1, 0.5, 20.0)}
    assert accounting.pld_grid(event[0.5]) == accounting.pld_grid(event[20.0]) == accounting.PLD_GRID
    assert accounting.pld_grid(event[0.1]) > accounting.PLD_GRID
    assert accounting.epsilon_of(event[0.1], "pld", "zero_out", [6e-6])[0][0] == pytest.approx(252.7316, rel=1e-5)
    assert accounting.pld_grid(accounting.compose([event[20.0], event[0.1]])) >= accounting.pld_grid(event[0.1])
