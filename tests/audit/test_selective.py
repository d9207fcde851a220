"""Precision against coverage: exact small cases, thresholds that never saw the patients they judge, and independence of the order of queries."""

import numpy as np
import pytest

from relink_jax.audit import sample, selective, uncertainty


def people(patient, seed=0, replicates=200):
    patient = np.asarray(patient)
    return sample.Sample(patient, int(patient.max()) + 1, uncertainty.Bootstrap(replicates, 0.95, seed))


def planted(n_patients=400, seed=0):
    """Returns (confidence, right, sizes, Sample): the chance of being right grows with confidence from 0 to 1."""
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), generator.integers(1, 6, n_patients))
    confidence = generator.random(len(patient))
    return confidence, (generator.random(len(patient)) < confidence) * 1.0, np.full(len(patient), 50), people(patient)


def test_a_worked_case():
    """Patient 0 sets the threshold of patient 1 and the reverse: of 10 queries each, a coverage of 10% takes those at or above the other's best."""
    confidence = np.concatenate([np.arange(10.0), np.arange(10.0) + 0.5])
    right = np.zeros(20)
    right[[9, 19, 18]] = 1
    found = selective.section(confidence, right, np.full(20, 11), people(np.repeat([0, 1], 10)))
    low, tenth = found["at_coverage"]
    assert (low["coverage"], tenth["coverage"]) == (0.01, 0.1)
    assert tenth["precision"]["value"] == 1
    assert tenth["precision"]["n_queries"] == 1
    half, most = found["coverage_at_precision"]
    assert (half["precision"], most["precision"]) == (0.5, 0.9)
    # patient 0 is right in 1 of 2 from 8 on, patient 1 in 2 of 4 from 6.5 on: 7, 8, 9 and 8.5, 9.5 are asserted
    assert half["coverage"]["value"] == 5 / 20
    assert half["achieved"]["value"] == 3 / 5
    # 1 of 1 from 9 on and 2 of 2 from 8.5 on: 9 and 9.5
    assert most["coverage"]["value"] == 2 / 20
    assert most["achieved"]["value"] == 1
    assert found["curve"][-1]["coverage"] == 1
    assert found["curve"][-1]["precision"] == 3 / 20
    assert (found["N"], found["n_queries"], found["n_patients"]) == (11, 20, 2)
    assert found["chance"] == pytest.approx(1 / 11)


def test_precision_where_confidence_means_something():
    confidence, right, sizes, who = planted()
    found = selective.section(confidence, right, sizes, who)
    assert len(found["curve"]) == selective.POINTS
    covered = np.array([point["coverage"] for point in found["curve"]])
    wanted = np.geomspace(max(1 / len(right), 1e-3), 1, selective.POINTS)
    np.testing.assert_allclose(covered, wanted, atol=0.03)
    for point in found["curve"]:
        assert point["low"] <= point["precision"] <= point["high"]
    late = covered > 0.05
    np.testing.assert_allclose([point["precision"] for point in found["curve"]][-late.sum() :], 1 - covered[late] / 2, atol=0.08)
    half, most = found["coverage_at_precision"]
    assert half["coverage"]["value"] > 0.85
    assert abs(most["coverage"]["value"] - 0.2) < 0.1
    assert abs(most["achieved"]["value"] - 0.9) < 0.08
    assert found["at_coverage"][1]["precision"]["ci"]["low"] < 0.95 < found["at_coverage"][1]["precision"]["ci"]["high"]


def test_thresholds_do_not_see_the_patients_they_judge():
    """A confidence that knows nothing: the best-looking threshold keeps its promise where it was chosen, and not elsewhere."""
    achieved = []
    for seed in range(12):
        generator = np.random.default_rng(seed)
        right = (generator.random(400) < 0.4) * 1.0
        found = selective.section(generator.random(400), right, np.full(400, 50), people(np.arange(400), seed=seed, replicates=20))
        achieved.append(found["coverage_at_precision"][0]["achieved"]["value"])
    achieved = [one for one in achieved if one is not None]
    assert len(achieved) > 6
    assert np.mean(achieved) < 0.46


def test_one_half_does_not_move_its_own_threshold():
    confidence, _right, _sizes, who = planted(60)
    half = selective.halves(who.patient, 0)
    assert len(np.unique(half)) == 2
    assert all(len(np.unique(half[who.patient == one])) == 1 for one in range(60))
    before = selective._crossed(confidence, half, [selective._covering(confidence[half == side], 0.2) for side in (0, 1)])
    changed = np.where(half == 0, confidence**3, confidence)
    after = selective._crossed(changed, half, [selective._covering(changed[half == side], 0.2) for side in (0, 1)])
    threshold = selective._covering(confidence[half == 1], 0.2)[0]
    np.testing.assert_array_equal(after[half == 0] == 1, confidence[half == 0] ** 3 > threshold)
    assert (after[half == 1] != before[half == 1]).any()


def test_order_of_queries_changes_nothing_even_among_equal_confidences():
    confidence, right, sizes, who = planted(100)
    confidence = np.round(confidence * 3)
    order = np.random.default_rng(5).permutation(len(right))
    first = selective.section(confidence, right, sizes, who)
    second = selective.section(confidence[order], right[order], sizes, people(who.patient[order]))
    for one, other in zip(first["curve"], second["curve"], strict=True):
        assert one == pytest.approx(other, abs=1e-12)
    for one, other in zip(first["coverage_at_precision"], second["coverage_at_precision"], strict=True):
        assert one["coverage"]["value"] == pytest.approx(other["coverage"]["value"])
        assert one["achieved"]["value"] == pytest.approx(other["achieved"]["value"])


def test_a_precision_is_not_reached_inside_a_tie():
    for right in ([1, 1, 0], [1, 0, 1]):
        assert selective._precise(np.array([2.0, 1, 1]), np.array(right), 0.9) == (2, 1)
        assert selective._precise(np.array([2.0, 1, 1]), np.array(right), 2 / 3) == (1, 1)
    assert selective._precise(np.array([2.0, 1]), np.array([0, 0]), 0.1) == (np.inf, 1)


def test_equal_confidences_have_the_precision_of_all_at_every_coverage():
    found = selective.section(np.zeros(60), np.full(60, 1 / 31), np.full(60, 31), people(np.arange(60) // 2))
    for point in found["curve"]:
        assert point["precision"] == pytest.approx(1 / 31) == found["chance"]
    np.testing.assert_allclose([point["coverage"] for point in found["curve"]], np.geomspace(1 / 60, 1, selective.POINTS))
    assert [entry["coverage"]["value"] for entry in found["coverage_at_precision"]] == [0, 0]
    assert found["coverage_at_precision"][0]["achieved"]["value"] is None


def test_queries_without_candidates_and_single_patients_are_left_out():
    confidence, right, sizes, who = planted(40)
    sizes[::3] = 1
    found = selective.section(np.where(sizes == 1, np.inf, confidence), right, sizes, who)
    assert found["n_queries"] == (sizes > 1).sum()
    assert found["chance"] == pytest.approx(1 / 50)
    assert selective.section(confidence, right, np.where(who.patient == 3, 50, 1), who) is None
