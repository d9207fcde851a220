"""The linear probe against scikit-learn, and its rules: undefined labels, uncertain labels, grid edges, pairing."""

import warnings

import numpy as np
import pytest
from sklearn import linear_model, metrics

from relink_jax import errors
from relink_jax.utility import auroc as auroc_lib
from relink_jax.utility import logistic, macro, probe

NAMES = ("Edema", "Fracture", "Pneumonia")
GRID = (1e-4, 1e-2, 1.0)


def make(seed=0, rows=(500, 200, 260), width=24, labels=3):
    """Returns train, validate and test splits of one linear model with correlated features, and test patients."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width)) * np.exp(-np.arange(width) / 6)
    truth = rng.standard_normal((width, labels)) * 0.4
    splits = []
    for n in rows:
        x = (rng.standard_normal((n, width)) @ mixing.T + 3).astype(np.float32)
        y = (x - 3) @ truth + rng.logistic(size=(n, labels)) * 2 > 1
        splits.append((x, y, rng.random((n, labels)) < 0.9))
    return (*splits, rng.integers(0, rows[2] // 2, rows[2]))


def linear_probe(*, train, validate, test, patient_test, label_names, l2_grid, **settings):
    """Fits a probe and scores it on one test set."""
    return probe.evaluate(
        probe.fit_probe(train=train, validate=validate, label_names=label_names, l2_grid=l2_grid), test=test, patient_test=patient_test, **settings
    )


@pytest.mark.parametrize("l2", GRID)
def test_coefficients_and_auroc_equal_scikit_learn(l2):
    train, validate, test, _ = make()
    fitted = probe.fit_probe(train=train, validate=validate, label_names=NAMES, l2_grid=[l2])
    x = (train[0].astype(np.float64) - train[0].astype(np.float64).mean(0)) / train[0].astype(np.float64).std(0)
    scores = fitted.scores(test[0])
    for label in range(3):
        rows, kept = train[2][:, label], test[2][:, label]
        oracle = linear_model.LogisticRegression(C=1 / (l2 * rows.sum()), tol=1e-12, max_iter=5000, solver="newton-cholesky")
        oracle.fit(x[rows], train[1][rows, label])
        assert np.abs(fitted.weights[:, label] - oracle.coef_[0]).max() < 1e-4 * max(1, np.abs(oracle.coef_).max())
        assert abs(fitted.intercepts[label] - oracle.intercept_[0]) < 1e-4
        standard = (test[0][kept] - fitted.center) * fitted.inverse_scale
        expected = metrics.roc_auc_score(test[1][kept, label], oracle.decision_function(standard))
        assert abs(auroc_lib.auroc(scores[kept, label], test[1][kept, label]) - expected) < 1e-4
    assert fitted.gradient_norm < 1e-4


def test_strength_is_the_best_on_validation():
    train, validate, _, _ = make(seed=1)
    fitted = probe.fit_probe(train=train, validate=validate, label_names=NAMES, l2_grid=[10.0**power for power in range(-4, 1)])
    lowest, highest = min(1e-4, *fitted.l2.values()), max(1.0, *fitted.l2.values())
    tried = [10.0**power for power in range(round(np.log10(lowest)), round(np.log10(highest)) + 1)]
    for label, name in enumerate(NAMES):
        rows, values = validate[2][:, label], {}
        for l2 in tried:
            one = probe.fit_probe(train=train, validate=validate, label_names=NAMES, l2_grid=[l2])
            values[l2] = auroc_lib.auroc(one.scores(validate[0])[rows, label], validate[1][rows, label])
        best = fitted.l2[name]
        assert values[best] == max(values.values())
    assert fitted.warnings == ()


def test_a_grid_that_is_too_strong_or_too_weak_ends_where_a_wide_one_does():
    train, validate, _, _ = make(seed=1)
    wide = probe.fit_probe(train=train, validate=validate, label_names=NAMES, l2_grid=[10.0**power for power in range(-6, 4)])
    for grid in ((100.0, 1000.0), (1e-5, 1e-4)):
        found = probe.fit_probe(train=train, validate=validate, label_names=NAMES, l2_grid=grid)
        for label in range(3):
            rows = validate[2][:, label]
            values = [auroc_lib.auroc(one.scores(validate[0])[rows, label], validate[1][rows, label]) for one in (found, wide)]
            assert values[0] > values[1] - 0.02
        assert any(l2 not in grid for l2 in found.l2.values())


def test_macro_interval_and_json():
    train, validate, test, patients = make(seed=2)
    settings = {"label_names": NAMES, "l2_grid": GRID, "features": "original", "bootstrap_replicates": 200}
    result = linear_probe(train=train, validate=validate, test=test, patient_test=patients, **settings)
    assert result.macro_auroc == pytest.approx(np.mean(list(result.per_label.values())))
    assert result.ci["low"] < result.macro_auroc < result.ci["high"]
    assert result.macro_auroc > 0.6
    entry = result.to_json()
    assert {"features", "macro_auroc", "ci", "per_label", "undefined", "l2", "chance"} <= set(entry)
    assert entry["undefined"] == []
    assert entry["n_patients"] == len(np.unique(patients))


def test_undefined_labels_are_listed_and_left_out():
    train, validate, test, patients = make(seed=3, labels=4)
    names = (*NAMES, "Atelectasis")
    train[1][:, 1] = True
    test[1][:, 2] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = linear_probe(train=train, validate=validate, test=test, patient_test=patients, label_names=names, l2_grid=GRID, bootstrap_replicates=100)
    assert result.undefined == ("Fracture", "Pneumonia")
    assert result.per_label["Fracture"] is None
    assert result.macro_auroc == pytest.approx((result.per_label["Edema"] + result.per_label["Atelectasis"]) / 2, rel=1e-12)
    assert any("Fracture: undefined, one class only in train" in line for line in result.warnings)
    test[1][:, [0, 3]] = True
    nothing = linear_probe(train=train, validate=validate, test=test, patient_test=patients, label_names=names, l2_grid=GRID, bootstrap_replicates=100)
    assert nothing.macro_auroc is None
    assert nothing.ci is None


def test_constant_features_give_one_half():
    train, validate, test, patients = make(seed=4)
    flat = [(np.full_like(split[0], 0.1), *split[1:]) for split in (train, validate, test)]
    result = linear_probe(train=flat[0], validate=flat[1], test=flat[2], patient_test=patients, label_names=NAMES, l2_grid=GRID, bootstrap_replicates=100)
    assert set(result.per_label.values()) == {0.5}
    assert result.details["n_features"] == 0
    assert (result.ci["low"], result.ci["high"]) == (0.5, 0.5)


def test_a_constant_column_changes_nothing():
    train, validate, test, patients = make(seed=5)
    wider = [(np.hstack([split[0], np.full((len(split[0]), 1), 7, np.float32)]), *split[1:]) for split in (train, validate, test)]
    settings = {"patient_test": patients, "label_names": NAMES, "l2_grid": GRID, "bootstrap_replicates": 100}
    plain = linear_probe(train=train, validate=validate, test=test, **settings)
    padded = linear_probe(train=wider[0], validate=wider[1], test=wider[2], **settings)
    assert padded.macro_auroc == pytest.approx(plain.macro_auroc, abs=1e-5)
    assert (plain.details["n_features"], padded.details["n_features"]) == (24, 24)


def test_rotation_of_the_features_changes_little():
    """A linear probe cannot see an invertible head: rotating standardised features leaves macro AUROC where it was."""
    train, validate, test, patients = make(seed=6)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((24, 24)))[0]
    settings = {"patient_test": patients, "label_names": NAMES, "l2_grid": [1e-4], "bootstrap_replicates": 100}
    turned = [(split[0] @ rotation, *split[1:]) for split in (train, validate, test)]
    before = linear_probe(train=train, validate=validate, test=test, **settings)
    after = linear_probe(train=turned[0], validate=turned[1], test=turned[2], **settings)
    assert abs(before.macro_auroc - after.macro_auroc) < 0.01


def test_targets_follow_the_label_policy():
    y, known = probe.targets(np.array([[1, 0, -1], [-2, 1, -2]], np.int8), np.array([True, False]))
    assert y.tolist() == [[True, False, False], [False, True, False]]
    assert known.tolist() == [[True, True, False], [False, False, False]]
    with pytest.raises(errors.DataError, match="expected 1, 0, -1 or -2, found 1 other"):
        probe.targets(np.array([[3]]), np.array([True]))


def test_paired_difference_shares_draws():
    train, validate, test, patients = make(seed=7)
    settings = {"label_names": NAMES, "l2_grid": GRID, "patient_test": patients, "bootstrap_replicates": 300}
    full = linear_probe(train=train, validate=validate, test=test, features="original", **settings)
    cut = [(split[0][:, :4], *split[1:]) for split in (train, validate, test)]
    less = linear_probe(train=cut[0], validate=cut[1], test=cut[2], features="dp", **settings)
    difference = macro.paired_difference(less, full)
    assert (difference["features"], difference["against"]) == ("dp", "original")
    assert difference["difference"] == pytest.approx(less.macro_auroc - full.macro_auroc)
    assert difference["ci"]["high"] < 0
    assert difference["ci"]["se"] < np.hypot(full.ci["se"], less.ci["se"])
    assert macro.paired_difference(full, full)["ci"]["se"] == 0
    other = linear_probe(train=train, validate=validate, test=test, features="x", **{**settings, "bootstrap_replicates": 200})
    with pytest.raises(errors.DataError, match="paired difference"):
        macro.paired_difference(full, other)


def test_an_unfinished_fit_is_reported():
    train, validate, _, _ = make(seed=8)
    fitted = probe.fit_probe(train=train, validate=validate, label_names=NAMES, l2_grid=[1e-4], max_iterations=1)
    assert any("not converged" in line for line in fitted.warnings)
    assert fitted.gradient_norm > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.full((500, 24), np.nan)}, "500 rows that are not"),
        ({"x": np.zeros((400, 24))}, r"shape \(400, 3\)"),
        ({"x": np.zeros((0, 24))}, "at least one row"),
    ],
)
def test_bad_input_is_one_sentence(change, message):
    train, validate, _, _ = make()
    with pytest.raises(errors.DataError, match=message):
        probe.fit_probe(train=(change["x"], *train[1:]), validate=validate, label_names=NAMES, l2_grid=GRID)


@pytest.mark.parametrize("grid", [(), (0.0, 1.0), (1.0, 1.0)])
def test_bad_grid(grid):
    train, validate, _, _ = make()
    with pytest.raises(errors.UsageError, match="distinct positive numbers"):
        probe.fit_probe(train=train, validate=validate, label_names=NAMES, l2_grid=grid)


def test_solver_needs_few_iterations_on_ill_conditioned_features():
    train, _, _, _ = make(seed=9, width=40)
    x = train[0].astype(np.float64)
    x = (x - x.mean(0)) / x.std(0)
    _, _, iterations = logistic.fit(x, train[1], train[2], np.array(GRID), 200)
    assert iterations.max() < 60


def first(kind, known, of_it, others):
    """Returns the mask of the first known rows of a kind and of the first others."""
    return (kind & known & (np.cumsum(kind & known) <= of_it)) | (~kind & known & (np.cumsum(~kind & known) <= others))


def test_a_label_with_exactly_the_least_count_of_each_class_is_defined():
    (x, y, known), *_ = make()
    known = np.column_stack([known[:, 0], first(y[:, 1], known[:, 1], 5, 10), first(~y[:, 2], known[:, 2], 7, 13)])
    fitted = probe.fit_probe(train=(x, y, known), validate=(x, y, known), label_names=("c", "a", "b"), l2_grid=(0.1,))
    shared = {"test": (x, y, known), "patient_test": np.arange(500), "bootstrap_replicates": 10}
    assert probe.evaluate(fitted, **shared, min_class_count=5).undefined == ()
    assert probe.evaluate(fitted, **shared, min_class_count=6).undefined == ("a",)
