"""Where the data leave nothing to resample, an interval must say what that many patients can say, and a missing stratum a reason."""

import numpy as np
import pytest
from matrices import audited

import relink_jax
from relink_jax.audit import comparison, metrics, queries, uncertainty
from relink_jax.retrieval.counted import StratumCounts

PROTOCOL = {"ks": [1], "pool_sizes": [10, 50, 60], "mc_repeats": 0, "bootstrap": {"replicates": 400, "level": 0.95, "seed": 0}}


class Arm:
    """An audited arm of one image per patient."""

    def __init__(self, negatives, greater, tied=0, **changes):
        greater = np.asarray(greater)
        counted = StratumCounts(np.full(len(greater), negatives), greater, np.full(len(greater), tied))
        keys = np.arange(len(greater)).astype(str).astype(object)
        self.queries = {"i2r": queries.Queries(keys, keys, {"other_patient": counted})}
        self.protocol = {**PROTOCOL, **changes}

    def recall(self, pool):
        entries, _ = metrics.compute(self.queries, self.protocol)
        return next(entry for entry in entries if entry["name"] == "recall" and entry["N"] == pool and not entry["full"])


def linked(n, of=20):
    return Arm(19, [0] * n + [5] * (of - n), pool_sizes=[20])


def test_upper_bound_of_a_pool_where_nothing_is_linked_does_not_depend_on_how_close_to_zero_it_is():
    arm = Arm(99, [49] * 100)
    tiny, zero = arm.recall(50), arm.recall(60)
    assert 0 < tiny["value"] < 1e-25
    assert zero["value"] == 0
    for entry in (tiny, zero):
        assert entry["ci"]["method"] == "exact_extreme"
        assert entry["ci"]["low"] == 0
        assert entry["ci"]["high"] == pytest.approx(1 - 0.05 ** (1 / 100))
        assert entry["ci"]["design_effect"] is None


def test_equal_patients_leave_room_for_unseen_ones():
    entry = Arm(99, [0] * 30, tied=99).recall(10)
    reach = 1 - 0.05 ** (1 / 30)
    assert entry["value"] == pytest.approx(0.1)
    assert (entry["ci"]["low"], entry["ci"]["high"]) == pytest.approx((0.1 * (1 - reach), 0.1 * (1 - reach) + reach))
    single = Arm(99, [1]).recall(10)["ci"]
    assert single["high"] - single["low"] == pytest.approx(0.95)


def test_no_spread_is_the_zero_bound_and_its_mirror():
    ones = np.ones(7)
    reach = uncertainty.extreme_bound(ones, 0.9)
    assert uncertainty.no_spread(0 * ones, ones, 0.9) == (0, reach)
    assert uncertainty.no_spread(ones, ones, 0.9) == pytest.approx((1 - reach, 1))
    assert uncertainty.no_spread(np.arange(7), 7 * ones, 0.9) is None


@pytest.mark.parametrize("after", [1, 3])
def test_reduction_and_bits_are_the_ratio_mapped(after):
    found = comparison.paired(linked(12), linked(after), pool_size=20)
    ratio, bits, reduction = (found[form] for form in ("ratio", "bits_removed", "reduction"))
    assert (reduction["low"], reduction["high"]) == pytest.approx((1 - ratio["high"], 1 - ratio["low"]))
    assert bits["low"] == pytest.approx(-np.log2(ratio["high"]))
    assert bits["high"] is None if ratio["low"] == 0 else bits["high"] == pytest.approx(-np.log2(ratio["low"]))
    assert bits["low"] < bits["value"] < (bits["high"] or np.inf)


def test_removing_every_link_seen_is_not_certainty():
    found = comparison.paired(linked(12), linked(0), pool_size=20)
    reach = 1 - 0.025 ** (1 / 20)
    before = uncertainty.intervals(np.array([[1.0]] * 12 + [[0.0]] * 8), np.ones((20, 1)), uncertainty.Bootstrap(400, 0.975, 0))
    assert found["reduction"]["value"] == 1
    assert found["reduction"]["high"] == 1
    assert found["reduction"]["low"] == pytest.approx(1 - reach / before.low[0])
    assert found["difference"]["low"] == pytest.approx(-before.high[0])
    assert found["difference"]["high"] == pytest.approx(reach - before.low[0])
    assert found["bits_removed"]["low"] == pytest.approx(-np.log2(reach / before.low[0]))
    assert found["bits_removed"]["high"] is None


def test_excess_over_chance_is_undefined_at_chance():
    assert set(comparison.paired(linked(1), linked(2), pool_size=20)["excess_reduction"].values()) == {None}


def test_intervals_do_not_depend_on_the_order_of_summation():
    patient = np.r_[np.zeros(20, int), np.arange(1, 41)]
    hits = uncertainty.patient_sums(patient, np.random.default_rng(4).integers(0, 2, 60), 41)
    chance = uncertainty.patient_sums(patient, np.where(patient == 0, 1 / 41, 1 / 60), 41)
    settings = uncertainty.Bootstrap(400)
    alone = uncertainty.intervals(hits[:, None], chance[:, None], settings)
    for width in (4, 31):
        many = uncertainty.intervals(np.repeat(hits[:, None], width, 1), np.repeat(chance[:, None], width, 1), settings)
        np.testing.assert_allclose(many.low, alone.low[0], rtol=1e-12)
        np.testing.assert_allclose(many.high, alone.high[0], rtol=1e-12)


def test_a_stratum_or_direction_without_a_candidate_says_so():
    labels = np.full((12, 14), np.nan)
    for row in range(12):
        labels[row, :4] = [row >> bit & 1 for bit in range(4)]
    generator = np.random.default_rng(0)
    found = relink_jax.audit(
        images=generator.standard_normal((12, 4)),
        texts=generator.standard_normal((12, 4)),
        image_study=range(12),
        text_study=range(12),
        patient=range(12),
        labels=labels,
    )
    assert "i2r label_matched: absent, no query has a candidate in it" in found.warnings
    lone = audited([[3, 2, 1]], [0, 1, 2], image_study=[0])
    assert "r2i other_patient: absent, no query has a candidate in it" in lone.warnings


def test_a_pool_smaller_than_every_k_is_named_as_such():
    found = audited(np.arange(36).reshape(6, 6) % 7, range(6), ks=[5], pool_sizes=[2, 6])
    assert "i2r other_patient: no Recall at pool sizes 2, smaller than every k" in found.warnings
    assert not any("left out" in warning for warning in found.warnings)


def test_sampling_a_handful_of_hits_neither_passes_nor_fails():
    entry = Arm(999, [30] * 4 + [0], pool_sizes=[500], mc_repeats=3, ks=[1]).recall(500)
    assert entry["mc_check"]["passed"] is None
    assert entry["mc_check"]["z"] is None


def test_mean_rank_bounds_are_the_best_and_worst_place_of_a_tie():
    found = audited([[2, 2, 2, 1], [0, 3, 1, 1], [1, 1, 1, 1], [5, 0, 0, 4]], range(4), pool_sizes=[4])
    entry = found.metric("mean_rank")
    assert (entry["optimistic"], entry["value"], entry["pessimistic"]) == pytest.approx(((1 + 1 + 1 + 2) / 4, (2 + 1 + 2.5 + 2) / 4, (3 + 1 + 4 + 2) / 4))


def test_lift_over_the_whole_database_carries_the_spread_of_its_chance():
    generator = np.random.default_rng(1)
    patient = np.r_[np.zeros(20, int), np.arange(1, 41)]
    found = audited(generator.integers(0, 30, (60, 60)) + 12 * np.eye(60, dtype=int), patient)
    entry = found.metric("recall", k=1)
    full = next(one for one in metrics.per_query(found.queries["i2r"], "i2r", "other_patient", [None], [1]) if one.name == "recall")
    sums = [uncertainty.patient_sums(patient, values, 41)[:, None] for values in (full.bounds.expected, full.chance)]
    wanted = uncertainty.intervals(*sums, uncertainty.Bootstrap(100))
    assert (entry["ci"]["lift_low"], entry["ci"]["lift_high"]) == pytest.approx((wanted.low[0], wanted.high[0]))
    assert entry["ci"]["lift_low"] != pytest.approx(entry["ci"]["low"] / entry["chance"], rel=1e-6)


@pytest.mark.parametrize(
    ("other", "low", "high"), [(-5e-7, 0, 1), (5e-7, 0, 1), (-5e-6, 1, 1), (5e-6, 0, 0)], ids=["just below", "just above", "clearly below", "clearly above"]
)
def test_tie_sensitivity_moves_the_threshold_both_ways(other, low, high):
    found = relink_jax.audit(
        images=np.array([[1.0, 0.0]]),
        texts=np.array([[0.25, 0.0], [0.25 + other, 1.0], [0.1, 2.0]]),
        image_study=[0],
        text_study=[0, 1, 2],
        patient=[0, 1, 2],
        normalize=False,
        pool_sizes=[2],
        ks=[1],
    )
    assert found.checks["tie_sensitivity"] == {"delta": 1e-6, "recall1_lo": low, "recall1_hi": high}


def sensitivity(texts, patient):
    found = relink_jax.audit(
        images=np.array([[1.0, 0.0]]), texts=np.array(texts), image_study=[0], text_study=[0, 1, 2], patient=patient, normalize=False, pool_sizes=[2], ks=[1]
    )
    return found.checks["tie_sensitivity"]


def test_tie_sensitivity_leaves_out_the_patients_other_studies():
    assert sensitivity([[0.25, 0.0], [0.9, 1.0], [0.1, 2.0]], [0, 0, 1]) == {"delta": 1e-6, "recall1_lo": 1, "recall1_hi": 1}


def test_tie_sensitivity_shares_the_first_place_with_duplicates_of_the_right_report():
    assert sensitivity([[0.25, 0.0], [0.25, 0.0], [0.1, 2.0]], [0, 1, 2]) == {"delta": 1e-6, "recall1_lo": 0.5, "recall1_hi": 0.5}


def test_replicates_equal_to_the_estimate_count_half():
    drawn = np.repeat([0.4, 0.5, 0.6], [25, 50, 25])[:, None]
    low, high = uncertainty.bca(np.array([0.5]), drawn, np.full((5, 1), 0.5), 0.95)
    assert (low[0], high[0]) == (0.4, 0.6)
