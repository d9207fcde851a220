"""The curve over pool sizes: worked points, and a band that is wider than what it holds together."""

import numpy as np
import pytest

from relink_jax.audit import bands, uncertainty
from relink_jax.audit.sample import Sample
from relink_jax.retrieval import expectation
from relink_jax.retrieval.counted import StratumCounts

SIZES = [2, 3, 10, 30, None]


@pytest.fixture(scope="module")
def measured():
    """Two hundred queries of sixty patients against 49 to 59 candidates, some tied."""
    generator = np.random.default_rng(0)
    patient = np.concatenate([np.arange(60), generator.integers(0, 60, 140)])
    M = 60 - np.bincount(patient)[patient]
    g = np.minimum(generator.geometric(0.2 + 0.5 * generator.random(60)[patient]) - 1, M - 3)
    counts = StratumCounts(M, g, generator.integers(0, 3, 200))
    sample = Sample(patient, 60, uncertainty.Bootstrap(800))
    return counts, sample, bands.pooled(counts, SIZES)


def test_points_of_the_worked_matrix():
    worked = StratumCounts(np.full(5, 4), np.array([0, 0, 1, 1, 1]), np.array([0, 1, 2, 1, 1]))
    sample = Sample(np.arange(5), 5, uncertainty.Bootstrap(50))
    found = bands.curve("cosine", bands.pooled(worked, [2, 3, 4, 6, None]), sample)
    assert (found["attack"], found["level"]) == ("cosine", 0.95)
    assert [(point["N"], point["full"]) for point in found["points"]] == [(2, False), (3, False), (4, False), (5, True)]
    assert [point["value"] for point in found["points"]] == pytest.approx([29 / 40, 19 / 36, 47 / 120, 3 / 10])
    assert [point["chance"] for point in found["points"]] == pytest.approx([1 / 2, 1 / 3, 1 / 4, 1 / 5])


def test_the_band_holds_the_pointwise_interval_and_more_than_it(measured):
    _, sample, pooled = measured
    found = bands.curve("best", pooled, sample)["points"]
    for point, one in zip(found, pooled, strict=True):
        assert 0 <= point["band_low"] <= point["low"] <= point["value"] <= point["high"] <= point["band_high"] <= 1
        pointwise = sample.mean(one.values, one.rows)
        assert (point["value"], point["low"], point["high"]) == pytest.approx((pointwise["value"], pointwise["ci"]["low"], pointwise["ci"]["high"]))
        alone = bands.curve("best", [one], sample)["points"][0]
        assert alone["band_low"] >= point["band_low"] - 1e-12
        assert alone["band_high"] <= point["band_high"] + 1e-12
    assert sum(point["band_high"] - point["band_low"] for point in found) > 1.1 * sum(point["high"] - point["low"] for point in found)


@pytest.mark.parametrize("hits", [2, 57])
def test_the_band_is_nowhere_inside_a_lopsided_interval(hits):
    sample = Sample(np.arange(60), 60, uncertainty.Bootstrap(800))
    (point,) = bands.curve("cosine", [bands.Pooled(9, False, np.arange(60), (np.arange(60) < hits).astype(float), 1 / 9)], sample)["points"]
    assert point["band_low"] <= point["low"] < point["value"] < point["high"] <= point["band_high"]


def test_the_band_is_the_largest_deviation_of_shared_draws(measured):
    _, sample, pooled = measured
    sums, queries = (
        np.stack([uncertainty.patient_sums(sample.patient[one.rows], part, 60) for one, part in zip(pooled, parts, strict=True)], axis=1)
        for parts in ([one.values for one in pooled], [np.ones(len(one.rows)) for one in pooled])
    )
    drawn, value = uncertainty.replicate(sums, queries, sample.settings), sums.sum(axis=0) / queries.sum(axis=0)
    largest = np.sort((np.abs(drawn - value) / drawn.std(axis=0, ddof=1)).max(axis=1))
    reach = largest[int(np.ceil(0.95 * 799))] * drawn.std(axis=0, ddof=1) / value / (1 - value)
    odds = value / (1 - value)
    low, high = (odds * np.exp(sign * reach) / (1 + odds * np.exp(sign * reach)) for sign in (-1, 1))
    points = bands.curve("cosine", pooled, sample)["points"]
    ends = np.array([[point["band_low"], point["band_high"]] for point in points])
    pointwise = np.array([[point["low"], point["high"]] for point in points])
    np.testing.assert_allclose(ends[:, 0], np.minimum(low, pointwise[:, 0]))
    np.testing.assert_allclose(ends[:, 1], np.maximum(high, pointwise[:, 1]))


def test_points_without_a_link_get_the_exact_bound_and_share_the_error(measured):
    _, sample, _ = measured
    counts = StratumCounts(np.full(200, 60), np.repeat([1, 20], 100), np.zeros(200, int))
    *finite, full = bands.curve("cosine", bands.pooled(counts, [2, 10, None]), sample)["points"]
    held = uncertainty.patient_sums(sample.patient, np.ones(200), 60)
    assert (full["value"], full["low"], full["band_low"]) == (0, 0, 0)
    assert full["high"] == pytest.approx(uncertainty.extreme_bound(held, 0.95))
    assert full["band_high"] == pytest.approx(uncertainty.extreme_bound(held, 0.975))
    without = bands.curve("cosine", bands.pooled(counts, [2, 10]), sample)["points"]
    assert all(point["band_high"] > other["band_high"] for point, other in zip(finite, without, strict=True))
    alike = bands.curve("cosine", bands.pooled(StratumCounts(counts.M, 0 * counts.M, counts.M), [5, None]), sample)["points"]
    for point in alike:
        assert (point["value"], point["band_low"], point["band_high"]) == pytest.approx((point["chance"], point["low"], point["high"]))


def test_the_label_only_attacker_has_no_band_and_only_coded_queries(measured):
    counts, sample, _ = measured
    coded, same = np.arange(200) % 4 > 0, np.arange(200) % 7
    found = bands.curve("label_only", bands.label_only(counts.M, same, coded, [10, None]), sample, band=False)["points"]
    wanted = [expectation.label_only(counts.M[coded], same[coded], size, [1])["recall@1"].mean() for size in (10, None)]
    assert [point["value"] for point in found] == pytest.approx(wanted)
    assert {point[end] for point in found for end in ("band_low", "band_high")} == {None}
    values = expectation.label_only(counts.M[coded], same[coded], None, [1])["recall@1"]
    ci = sample.mean(values, np.flatnonzero(coded))["ci"]
    assert (found[1]["low"], found[1]["high"]) == pytest.approx((ci["low"], ci["high"]))
    assert found[1]["chance"] == pytest.approx((1 / (counts.M[coded] + 1)).mean())


def test_grid():
    assert bands.grid(2) == [None]
    assert bands.grid(10) == [2, 3, None]
    assert bands.grid(43793) == [2, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, None]
