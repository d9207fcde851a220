"""AUROC against hand-worked values, a brute-force count over pairs, scikit-learn, and physical replication of patients."""

import numpy as np
import pytest
from sklearn import metrics

from relink_jax import errors
from relink_jax.utility import auroc as auroc_lib


def brute_force(scores, positive):
    pairs = [(s, t) for s, y in zip(scores, positive, strict=True) if y for t, z in zip(scores, positive, strict=True) if not z]
    return sum(1.0 if s > t else 0.5 if s == t else 0.0 for s, t in pairs) / len(pairs)


def test_worked_values_with_ties():
    y = np.array([1, 0, 1, 0, 0, 1, 0], bool)
    s = np.array([8, 8, 6, 5, 6, 2, 1.0])
    assert auroc_lib.auroc(s, y) == pytest.approx(7 / 12, abs=1e-15)
    assert auroc_lib.auroc(-s, y) == pytest.approx(5 / 12, abs=1e-15)
    weights = np.array([[2, 2, 0, 1, 1, 1, 0]])
    assert auroc_lib.RankedScores.of(s, y).weighted(weights)[0] == 0.5
    assert auroc_lib.auroc(np.array([0.1, 0.5, 0.5, 0.9]), np.array([0, 0, 1, 1], bool)) == 0.875


def test_one_class_is_undefined():
    assert auroc_lib.auroc(np.arange(3.0), np.ones(3, bool)) is None
    assert auroc_lib.auroc(np.array([]), np.array([], bool)) is None


@pytest.mark.parametrize("seed", range(6))
def test_equals_brute_force_and_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 41).astype(float)
    positive = rng.random(41) < 0.3
    positive[:2] = True, False
    assert auroc_lib.auroc(scores, positive) == pytest.approx(brute_force(scores, positive), abs=1e-14)
    assert auroc_lib.auroc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores), abs=1e-12)
    assert auroc_lib.auroc(np.exp(scores), positive) == auroc_lib.auroc(scores, positive)


def test_patient_weights_equal_physical_replication():
    rng = np.random.default_rng(3)
    scores, positive = rng.integers(0, 9, (60, 3)).astype(float), rng.random((60, 3)) < 0.4
    known, patients = rng.random((60, 3)) < 0.8, rng.integers(100, 120, 60)
    weights = auroc_lib.patient_weights(patients, 7, seed=1)
    replicated = auroc_lib.label_replicates(scores, positive, known, patients, weights)
    distinct = np.unique(patients)
    assert (weights.sum(axis=1) == len(distinct)).all()
    for b in range(7):
        rows = np.concatenate([np.tile(np.flatnonzero(patients == p), weights[b, i]) for i, p in enumerate(distinct)]).astype(int)
        for label in range(3):
            kept = rows[known[rows, label]]
            assert replicated[b, label] == pytest.approx(brute_force(scores[kept, label], positive[kept, label]), abs=1e-13)


def test_weights_of_one_reproduce_the_point_estimate():
    rng = np.random.default_rng(4)
    scores, positive, patients = rng.standard_normal((50, 2)), rng.random((50, 2)) < 0.5, rng.integers(0, 9, 50)
    ones = np.ones((1, len(np.unique(patients))))
    values = auroc_lib.label_replicates(scores, positive, np.ones((50, 2), bool), patients, ones)
    assert values[0].tolist() == [auroc_lib.auroc(scores[:, label], positive[:, label]) for label in range(2)]


def test_interval_is_clustered_by_patient():
    """Rows copied within patients must not shrink the interval, and the same seed draws the same weights."""
    rng = np.random.default_rng(5)
    scores, positive, patients = rng.standard_normal((80, 1)), rng.random((80, 1)) < 0.5, np.arange(80)
    weights = auroc_lib.patient_weights(patients, 200, seed=2)
    single = auroc_lib.label_replicates(scores, positive, np.ones((80, 1), bool), patients, weights)
    times = [np.repeat(array, 4, axis=0) for array in (scores, positive, np.ones((80, 1), bool), patients)]
    copied = auroc_lib.label_replicates(*times, auroc_lib.patient_weights(times[3], 200, seed=2))
    np.testing.assert_allclose(copied, single, atol=1e-13)
    interval = auroc_lib.percentile_interval(single[:, 0], 0.9)
    assert interval["low"] < auroc_lib.auroc(scores[:, 0], positive[:, 0]) < interval["high"]
    assert interval["B"] == 200


def test_refuses_non_finite_scores():
    with pytest.raises(errors.DataError, match="expected finite numbers, found 1"):
        auroc_lib.auroc(np.array([0.0, np.nan]), np.array([True, False]))
