"""TPIR at FPIR: the worked example, thresholds, intervals against whole resampled searches, and the resolution limit."""

from fractions import Fraction

import numpy as np
import pytest

from relink_jax.audit import open_set, sample, uncertainty

OWN, BEST = np.array([9, 7, 7, 4], np.float32), np.array([6, 7, 8, 5], np.float32)
RIGHT = np.array([1, 0.5, 0, 0])


def people(patient, replicates=200, seed=0):
    patient = np.asarray(patient)
    return sample.Sample(patient, int(patient.max()) + 1, uncertainty.Bootstrap(replicates, 0.95, seed))


def searches(n_patients, seed=0, grid=0):
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), generator.integers(1, 5, n_patients))
    own, best = ((generator.standard_normal(len(patient)) + shift).astype(np.float32) for shift in (1.5, 1))
    if grid:
        own, best = (np.round(scores * grid).astype(np.float32) / np.float32(grid) for scores in (own, best))
    return own, best, np.where(own > best, 1, np.where(own == best, 0.5, 0)), np.full(len(own), 100), people(patient)


@pytest.mark.parametrize(("tau", "tpir", "fpir"), [(9, "1/4", 0), (8, "1/4", "1/4"), (7, "3/8", "1/2"), (6, "3/8", "3/4"), (5, "3/8", 1), (4, "3/8", 1)])
def test_the_worked_example(tau, tpir, fpir):
    assert open_set.rates(OWN, BEST, RIGHT, tau) == (Fraction(tpir), Fraction(fpir))


@pytest.mark.parametrize(("rate", "above"), [(0, 8), (0.2, 8), (0.25, 7), (0.5, 6), (0.74, 6), (0.75, 5)])
def test_the_smallest_threshold_that_keeps_the_rate(rate, above):
    tau = open_set.threshold(BEST, rate)
    assert tau == np.nextafter(np.float32(above), np.float32(np.inf))
    assert (tau <= BEST).mean() <= rate < (np.nextafter(np.float32(tau), np.float32(-np.inf)) <= BEST).mean()
    assert open_set.threshold(BEST, 1) == -np.inf
    assert open_set.threshold(np.zeros(10, np.float32), 0.9) > 0  # ties count against the attacker


def test_every_rate_of_many_searches_is_kept():
    _, best, *_ = searches(200, grid=8)
    for allowed in range(len(best)):
        tau = open_set.threshold(best, allowed / len(best))
        assert (best >= tau).sum() <= allowed < (best >= np.nextafter(np.float32(tau), np.float32(-np.inf))).sum()


@pytest.mark.parametrize("grid", [0, 3])
def test_draws_of_patients_find_their_own_threshold(grid):
    """Each replicate is what searches of the drawn patients, repeated as often as drawn, give from the start."""
    own, best, right, _, who = searches(12, grid=grid)
    fpirs = (0.3, 0.1, 0.02)
    found = open_set.refitted(own, best, right, np.arange(len(own)), who, fpirs)
    weights = np.concatenate(list(uncertainty.weights(12, 200, 0)))
    assert found.shape == (200, 3)
    for weight, row in zip(weights[:60], found, strict=False):
        drawn = np.repeat(np.arange(len(own)), weight[who.patient].astype(int))
        wanted = [open_set.rates(own[drawn], best[drawn], right[drawn], open_set.threshold(best[drawn], rate))[0] for rate in fpirs]
        np.testing.assert_allclose(row, wanted, atol=1e-12)


def test_the_section_of_many_searches(monkeypatch):
    own, best, right, sizes, who = searches(400)
    found = open_set.section(own, best, right, sizes, who)
    n = len(own)
    assert found["N"] == 100
    assert found["resolution"] == 10 / n
    assert [point["resolved"] for point in found["points"]] == [True, 10 / n <= 0.01, False]
    for point in found["points"]:
        assert (point["tpir"]["value"], True) == (open_set.rates(own, best, right, point["threshold"])[0], (best >= point["threshold"]).mean() <= point["fpir"])
        assert point["tpir"]["ci"]["low"] <= point["tpir"]["value"] <= point["tpir"]["ci"]["high"]
        assert point["tpir"]["ci"]["method"] == "patient_percentile"
    fixed = who.mean(np.where(own >= found["points"][1]["threshold"], right, 0))["ci"]
    assert found["points"][1]["tpir"]["ci"]["se"] > 1.1 * fixed["se"]  # the threshold is uncertain too
    fpir, tpir = ([point[name] for point in found["curve"]] for name in ("fpir", "tpir"))
    assert fpir == sorted(set(fpir))
    assert tpir == sorted(tpir)
    assert fpir[0] >= 1 / n
    assert (fpir[-1], tpir[-1]) == (1, right.mean())
    monkeypatch.setattr(open_set, "_CHUNK", 3000)
    assert open_set.section(own, best, right, sizes, who)["points"] == found["points"]


def test_nobody_linked_has_a_bound_and_not_certainty():
    own, best, right, sizes, who = searches(50)
    found = open_set.section(own - 99, best, right * 0, sizes, who)
    assert all(point["tpir"]["ci"]["method"] == "exact_extreme" and point["tpir"]["ci"]["high"] > 0 for point in found["points"])


def test_queries_without_candidates_are_no_searches():
    own, best, right, sizes, who = searches(60)
    kept = np.arange(len(own)) % 4 > 0
    found = open_set.section(own, np.where(kept, best, -np.inf), right, np.where(kept, sizes, 1), who)
    assert found["resolution"] == 10 / kept.sum()
    assert found["points"][0]["tpir"]["n_queries"] == kept.sum()
    assert found["points"][0]["threshold"] == open_set.threshold(best[kept], 0.1)
    assert open_set.section(own, best, right, sizes * 0 + 1, who) is None
