"""Concentration of risk: the worked example, all-zero risk, shares at a boundary, patients, intervals."""

from fractions import Fraction

import numpy as np
import pytest

from relink_jax.audit import risk, uncertainty
from relink_jax.audit.sample import Sample

O12 = np.array([0.9, 0.5, 0.25, 0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0])


def sample_of(patient, replicates=200):
    patient = np.asarray(patient)
    return Sample(patient, int(patient.max()) + 1, uncertainty.Bootstrap(replicates))


def entry(p, patient=None, rows=None, **named):
    p = np.asarray(p, float)
    rows = np.arange(len(p)) if rows is None else rows
    return risk.entry(p, rows, sample_of(np.arange(len(p)) if patient is None else patient), N=10, full=False, **named)


def test_o12_worked_example():
    assert O12.mean() == pytest.approx(1 / 5)
    found = entry(O12[[3, 1, 9, 0, 7, 2, 5, 8, 4, 6]])
    assert found["top10pct_share"] == pytest.approx(9 / 20)
    assert risk.top_share(O12, 0.2) == pytest.approx(float(Fraction(7, 10)))
    assert found["gini"] == pytest.approx(float(Fraction(51, 80)))
    assert found["share_ge_009"]["value"] * 10 == pytest.approx(5)
    assert found["share_ge_050"]["value"] * 10 == pytest.approx(2)
    assert found["quantiles"] == {"0.5": 0.05, "0.9": 0.5, "0.99": 0.9, "1": 0.9}


def test_a_boundary_inside_a_record_counts_its_part():
    """1% of 10 records is a tenth of the first; 15% is the first and half of the second."""
    assert entry(O12)["top1pct_share"] == pytest.approx(0.09 / 2)
    assert risk.top_share(O12, 0.15) == pytest.approx((0.9 + 0.25) / 2)


def test_lorenz_curve():
    found = entry(O12)["lorenz"]
    x, y = np.array(found["records"]), np.array(found["hits"])
    assert 21 <= len(x) <= 101
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) >= 0).all()
    assert (y <= x + 1e-12).all()
    assert (np.diff(np.diff(y) / np.diff(x)) >= -1e-9).all()
    assert 1 - 2 * np.trapezoid(y, x) == pytest.approx(51 / 80, abs=1e-9)


def test_patients_are_ranked_by_their_own_sums():
    """Ten patients: one with five records of 0.1 has more expected hits than one with a single record of 0.4."""
    p = [0.1] * 5 + [0.4] + [0.01] * 8
    patient = [0] * 5 + [1] + list(range(2, 10))
    total = 0.5 + 0.4 + 0.08
    assert entry(p, patient)["patients_top10pct_share"] == pytest.approx(0.5 / total)
    assert entry(p, patient)["patients_top1pct_share"] == pytest.approx(0.05 / total)
    assert entry(p, patient)["top10pct_share"] == pytest.approx((0.4 + 0.4 * 0.1) / total)


def test_patients_without_an_eligible_query_are_nobody():
    patient = np.arange(20)
    found = risk.entry(O12, np.arange(10), sample_of(patient), N=10, full=True)
    assert found["patients_top10pct_share"] == pytest.approx(9 / 20)
    assert found["share_ge_009"]["n_patients"] == 10
    assert found["full"] is True


def test_no_risk_at_all_has_no_concentration():
    found = entry(np.zeros(12))
    assert [found[name] for name in ("gini", "lorenz", "top1pct_share", "top10pct_share", "patients_top1pct_share", "patients_top10pct_share")] == [None] * 6
    assert found["quantiles"] == {"0.5": 0, "0.9": 0, "0.99": 0, "1": 0}
    assert found["share_ge_009"]["value"] == 0
    assert found["share_ge_009"]["ci"]["high"] == pytest.approx(1 - 0.05 ** (1 / 12))
    assert risk.entry(np.zeros(0), np.zeros(0, int), sample_of([0, 1]), N=2, full=False) is None


def test_equal_risk_is_spread_evenly():
    found = entry(np.full(40, 0.3))
    assert found["gini"] == pytest.approx(0, abs=1e-12)
    assert found["top10pct_share"] == pytest.approx(0.1)
    np.testing.assert_allclose(found["lorenz"]["hits"], found["lorenz"]["records"], atol=1e-12)


def test_a_threshold_is_met_within_rounding():
    assert entry([0.09 - 1e-12, 0.0899, 0.5, 0.1])["share_ge_009"]["value"] == pytest.approx(3 / 4)


def test_intervals_are_over_patients():
    generator = np.random.default_rng(3)
    patient = np.repeat(np.arange(60), 10)
    p = np.repeat(generator.random(60) < 0.3, 10) * 0.6
    apart = np.repeat(generator.random(600) < 0.3, 1) * 0.6
    together = entry(p, patient)["share_ge_050"]["ci"]
    alone = entry(apart, patient)["share_ge_050"]["ci"]
    assert together["se"] > 2 * alone["se"]
    assert together["low"] < np.mean(p > 0.5) < together["high"]
