"""The clustered bootstrap against exact enumeration, and its coverage."""

import collections
import itertools
import types
from fractions import Fraction

import numpy as np
import pytest

from relink_jax.audit import comparison, metrics, queries, uncertainty
from relink_jax.retrieval.counted import StratumCounts

BEFORE, AFTER, COUNT = np.array([2.0, 0, 1]), np.array([1.0, 0, 0]), np.array([3.0, 1, 4])
SUMS, COUNTS = np.stack([BEFORE, AFTER], 1), np.stack([COUNT, COUNT], 1)


def worked_arm(hits):
    """Returns an audited arm of eight queries of three patients, each certainly hit or missed."""
    missed = 1 - np.array(hits)
    counted = StratumCounts(np.full(8, 10), missed, 0 * missed)
    table = queries.Queries(np.arange(8).astype(str).astype(object), np.array(list("AAABCCCC"), dtype=object), {"other_patient": counted})
    return types.SimpleNamespace(
        queries={"i2r": table}, protocol={"ks": [1], "pool_sizes": [11], "mc_repeats": 0, "bootstrap": {"replicates": 40000, "level": 0.95, "seed": 0}}
    )


def test_weights_reproduce_worked_resamples():
    wanted = {(1, 1, 1): (3 / 8, 1 / 8), (2, 1, 0): (4 / 7, 2 / 7), (0, 0, 3): (1 / 4, 0), (1, 0, 2): (4 / 11, 1 / 11)}
    found = uncertainty.ratios(np.array(list(wanted), float), SUMS, COUNTS)
    np.testing.assert_allclose(found, list(wanted.values()))
    np.testing.assert_allclose(found[:, 1] / found[:, 0], [1 / 3, 1 / 2, 0, 1 / 4])
    assert uncertainty.intervals(SUMS, COUNTS, uncertainty.Bootstrap(100)).estimate.tolist() == [3 / 8, 1 / 8]


def test_all_resamples_have_the_worked_mean_and_variance():
    weights = np.array([np.bincount(draw, minlength=3) for draw in itertools.product(range(3), repeat=3)], float)
    before, after = uncertainty.ratios(weights, SUMS, COUNTS).T
    assert before.mean() == pytest.approx(22727 / 62370)
    assert before.var() == pytest.approx(695478991 / 31120135200)
    assert (after - before).mean() == pytest.approx(-1979 / 8316)
    assert (after - before).var() == pytest.approx(193993 / 48024900)
    assert before.var() + after.var() == pytest.approx(510873859 / 15560067600)
    values = collections.Counter(Fraction(value).limit_denominator(100) for value in before)
    assert [str(value) for value in sorted(values)] == ["0", "1/6", "2/9", "1/4", "4/11", "3/8", "2/5", "1/2", "4/7", "2/3"]
    assert [values[value] for value in sorted(values)] == [1, 3, 3, 1, 3, 6, 3, 3, 3, 1]
    drawn = np.concatenate(list(uncertainty.weights(3, 60000, 1)))
    assert (drawn.sum(axis=1) == 3).all()
    sampled = uncertainty.ratios(drawn, SUMS, COUNTS)[:, 0]
    assert sampled.mean() == pytest.approx(22727 / 62370, abs=4 * np.sqrt(695478991 / 31120135200 / 60000))


def test_worked_jackknife_and_linearised_variance(monkeypatch):
    honest, seen = uncertainty.bca, []
    monkeypatch.setattr(uncertainty, "bca", lambda *given: seen.append(given[2]) or honest(*given))
    uncertainty.intervals(SUMS, COUNTS, uncertainty.Bootstrap(100))
    left_out = seen[0][:, 0]
    np.testing.assert_allclose(left_out, [1 / 5, 3 / 7, 1 / 2])
    assert 2 * left_out.var() == pytest.approx(361 / 11025)
    step = 1e-4
    moved = [uncertainty.ratios(1 + sign * step * np.eye(3), SUMS, COUNTS)[:, 0] for sign in (1, -1)]
    linearised = (((moved[0] - moved[1]) / (2 * step)) ** 2).sum()
    assert linearised == pytest.approx(37 / 2048, rel=1e-6)
    assert 3 / 2 * linearised == pytest.approx(111 / 4096, rel=1e-6)


def test_worked_patients_through_metrics_and_comparison():
    before, after = worked_arm([1, 1, 0, 0, 1, 0, 0, 0]), worked_arm([1, 0, 0, 0, 0, 0, 0, 0])
    entry = next(entry for entry in metrics.compute(before.queries, before.protocol)[0] if entry["name"] == "recall" and entry["full"])
    assert (entry["value"], entry["n_queries"], entry["n_patients"]) == (3 / 8, 8, 3)
    assert entry["ci"]["se"] ** 2 == pytest.approx(695478991 / 31120135200, rel=0.03)
    iid = Fraction(15, 512) * Fraction(8, 7)
    assert entry["ci"]["design_effect"] == pytest.approx(entry["ci"]["se"] ** 2 / float(iid))
    found = comparison.paired(before, after)
    assert (found["before"], found["after"]) == (3 / 8, 1 / 8)
    wanted = {"difference": -1 / 4, "ratio": 1 / 3, "reduction": 2 / 3, "bits_removed": np.log2(3)}
    assert {form: found[form]["value"] for form in wanted} == pytest.approx(wanted)
    assert (found["n_queries"], found["n_patients"]) == (8, 3)


def test_same_draws_for_every_arm_and_no_others():
    first, again = (np.concatenate(list(uncertainty.weights(50, 300, 4))) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, np.concatenate(list(uncertainty.weights(50, 300, 5))))


def test_kept_draws_are_the_draws(monkeypatch):
    kept = list(uncertainty.weights(40, 300, 6))
    again = list(uncertainty.weights(40, 300, 6))
    again[0][:] = 0  # whoever changes what he was given changes nobody else's
    third = list(uncertainty.weights(40, 300, 6))
    monkeypatch.setattr(uncertainty, "_KEPT", 0)
    for chunks in (third, list(uncertainty.weights(40, 300, 6))):
        assert [len(chunk) for chunk in chunks] == [128, 128, 44]
        np.testing.assert_array_equal(np.concatenate(chunks), np.concatenate(kept))
    assert kept[0].dtype == np.float64


def test_worked_differences():
    weights = np.array([[1.0, 1, 1], [2, 1, 0], [0, 0, 3], [1, 0, 2]])
    before, after = uncertainty.ratios(weights, SUMS, COUNTS).T
    np.testing.assert_allclose(after - before, [-1 / 4, -2 / 7, -1 / 4, -3 / 11])
    iid = np.repeat([1.0, 0], [3, 5])
    assert iid.var() / 8 == 15 / 512


def test_simultaneous_quantile_is_of_the_largest_deviation():
    drawn = np.random.default_rng(1).standard_normal((4000, 5)) * [1, 2, 3, 4, 0]
    reach, se = uncertainty.simultaneous(np.zeros(5), drawn, 0.95)
    np.testing.assert_allclose(se, [*drawn[:, :4].std(axis=0, ddof=1), 0])
    assert ((np.abs(drawn[:, :4]) <= reach * se[:4]).all(axis=1)).mean() == pytest.approx(0.95, abs=3e-4)
    assert reach == pytest.approx(2.49, abs=0.06)  # four independent normals: 1 - (1 - 0.0127) ** 4 = 0.05
    alone, _ = uncertainty.simultaneous(np.zeros(1), drawn[:, :1], 0.95)
    assert uncertainty.simultaneous(np.zeros(3), drawn[:, [0, 0, 0]], 0.95)[0] == alone < reach


def test_simultaneous_leaves_lost_replicates_out():
    drawn = np.random.default_rng(1).standard_normal((500, 2))
    lost = np.concatenate([drawn, [[np.nan, 0.0]] * 20])
    _, se = uncertainty.simultaneous(np.zeros(2), lost, 0.9)
    assert se[0] == pytest.approx(drawn[:, 0].std(ddof=1))
    assert np.isfinite(uncertainty.simultaneous(np.zeros(2), lost, 0.9)[0])
    assert uncertainty.simultaneous(np.zeros(0), np.zeros((9, 0)), 0.9)[0] == 0


def test_log_odds_are_logs_near_zero_and_mirror_near_one():
    low, high = uncertainty.on_log_odds(np.array([1e-4, 0.5, 1 - 1e-4]), np.array([5e-5, 0.1, 5e-5]))
    assert (low[0], high[0]) == pytest.approx((1e-4 * np.exp(-0.5), 1e-4 * np.exp(0.5)), rel=1e-3)
    np.testing.assert_allclose(low, 1 - high[::-1])


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
