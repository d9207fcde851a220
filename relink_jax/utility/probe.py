"""14-label linear probe: what a set of features still says about the findings.

Features are standardised with training means and deviations (constant features dropped), each label gets its own
L2-regularised logistic regression fitted on train, its strength chosen by validation AUROC, and macro AUROC is taken on test
over the labels that are defined there, with a patient-clustered bootstrap interval. Uncertain labels are left out of
training and evaluation (U-Ignore) and blanks count as negative, CheXpert's training convention.

Design note: undefined labels depend on labels alone, never on scores, so every arm is averaged over the same labels and
arms probed with one seed share their bootstrap draws; `paired_difference` relies on both.

References: Irvin et al. (2019), arXiv 1901.07031, section 3 (U-Ignore); Radford et al. (2021), arXiv 2103.00020, A.3.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.store import digests
from relink_jax.utility import auroc as auroc_lib
from relink_jax.utility import logistic

Split = tuple[np.ndarray, np.ndarray, np.ndarray]
_UNCONVERGED = 1e-3


@dataclasses.dataclass(frozen=True)
class Probe:
    """Fitted probe: `weights` [D, L] and `intercepts` [L] act on (x - center) * inverse_scale; unfitted labels have zeros."""

    label_names: tuple[str, ...]
    center: np.ndarray
    inverse_scale: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray
    l2: dict[str, float]
    unfitted: dict[str, str]
    gradient_norm: float
    warnings: tuple[str, ...]

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Returns logits [n, L] in float64 of features [n, D]."""
        return (np.asarray(x, np.float64) - self.center) * self.inverse_scale @ self.weights + self.intercepts


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """Macro AUROC of one set of features with its interval; `replicates` [B] and `draw` pair it with other arms."""

    features: str
    macro_auroc: float | None
    ci: dict[str, Any] | None
    per_label: dict[str, float | None]
    undefined: tuple[str, ...]
    l2: dict[str, float]
    gradient_norm: float
    n_test: int
    n_patients: int
    n_features: int
    warnings: tuple[str, ...]
    replicates: np.ndarray
    draw: str

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of `utility.probe` in a results file."""
        skipped = ("replicates", "draw")
        entry = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in skipped}
        return {**entry, "chance": 0.5, "undefined": list(self.undefined), "warnings": list(self.warnings)}


def targets(labels: np.ndarray, has_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (y, known), boolean [n, L], of label codes 1, 0, -1 (uncertain) and -2 (blank) in `labels` int8 [n, L].

    Uncertain entries and rows without a label row (`has_labels` [n] false) are unknown; blank counts as negative.
    Raises: DataError: any other code.
    """
    codes = np.asarray(labels)
    wrong = ~np.isin(codes, (1, 0, -1, -2))
    if wrong.any():
        raise errors.DataError(errors.describe("label code", "probe targets", "1, 0, -1 or -2", f"{int(wrong.sum())} other values"))
    return codes == 1, (codes != -1) & np.asarray(has_labels, bool)[:, None]


def fit_probe(*, train: Split, validate: Split, label_names: Sequence[str], l2_grid: Sequence[float], max_iterations: int = 200) -> Probe:
    """Fits one logistic regression per label on `train` and chooses its L2 strength by AUROC on `validate`.

    Args:
        train, validate: (x float [n, D], y bool [n, L], known bool [n, L]).
        label_names: names of the L labels.
        l2_grid: positive strengths; of equally good ones the strongest is taken.
        max_iterations: L-BFGS iterations per fit.
    Returns: the probe; a choice at an edge of the grid and a fit that did not converge are in `warnings`, and labels
        without both classes in train and validate are in `unfitted` with the reason.
    Raises: DataError: shapes that do not agree or non-finite features; UsageError: a bad grid.
    """
    grid = np.unique(np.asarray(l2_grid, np.float64))
    if len(grid) == 0 or len(grid) != len(l2_grid) or not np.isfinite(grid).all() or grid[0] <= 0:
        raise errors.UsageError(errors.describe("L2 grid", "probe", "distinct positive numbers", str(tuple(l2_grid))))
    x, y, known = _checked(train, "train", len(label_names))
    x_validate, y_validate, known_validate = _checked(validate, "validate", len(label_names), x.shape[1])
    center, spread = x.mean(axis=0), x.std(axis=0)
    varies = (np.ptp(x, axis=0) > 0) & (spread > 1e-7 * np.abs(x).max(axis=0))
    inverse_scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)
    unfitted = {}
    for name, counts in zip(label_names, zip(_class_counts(y, known), _class_counts(y_validate, known_validate), strict=True), strict=True):
        missing = [where for where, count in zip(("train", "validate"), counts, strict=True) if count == 0]
        if missing:
            unfitted[name] = f"one class only in {missing[0]}"
    kept = np.array([index for index, name in enumerate(label_names) if name not in unfitted], dtype=int)
    weights, intercepts = np.zeros((x.shape[1], len(label_names))), np.zeros(len(label_names))
    chosen: dict[str, float] = {}
    worst, warnings = 0.0, []
    if len(kept):
        standard, standard_validate = (x - center) * inverse_scale, (x_validate - center) * inverse_scale
        solved, offsets, _ = logistic.fit(standard, y[:, kept], known[:, kept], grid, max_iterations)
        for position, label in enumerate(kept):
            name, rows = label_names[label], known_validate[:, label]
            values = [auroc_lib.auroc(standard_validate[rows] @ solved[k, position], y_validate[rows, label]) for k in range(len(grid))]
            best = max(range(len(grid)), key=lambda k, v=values: (round(v[k], 12), k))  # type: ignore[misc]
            chosen[name] = float(grid[best])
            weights[:, label], intercepts[label] = solved[best, position], offsets[best, position]
            norm = logistic.gradient_norm(standard, y[:, label], known[:, label], grid[best], weights[:, label], float(intercepts[label]))
            worst = max(worst, norm)
            if norm > _UNCONVERGED:
                warnings.append(f"probe of {name}: relative gradient norm {norm:.1e} after {max_iterations} iterations, not converged")
            if len(grid) > 1 and best in (0, len(grid) - 1):
                warnings.append(f"probe of {name}: chosen L2 strength {grid[best]:g} is at an edge of the grid")
    return Probe(tuple(label_names), center, inverse_scale, weights, intercepts, chosen, unfitted, worst, tuple(warnings))


def evaluate(
    probe: Probe, *, test: Split, patient_test: np.ndarray, features: str = "", bootstrap_replicates: int = 500, level: float = 0.95,
    seed: int = 0, min_class_count: int = 5
) -> ProbeResult:  # fmt: skip
    """Scores a fitted probe on `test` (x, y, known) whose rows belong to patients `patient_test` [n].

    A label is undefined when it was not fitted or has fewer than `min_class_count` positives or negatives in test; it is
    listed and left out of the macro average. `features` names the entry in the results file.
    Raises: DataError: shapes that do not agree or non-finite features.
    """
    x, y, known = _checked(test, "test", len(probe.label_names), len(probe.center))
    patients = np.asarray(patient_test)
    if patients.shape != (len(x),):
        raise errors.DataError(errors.describe("patients", "probe test split", f"one per row ({len(x)})", f"shape {patients.shape}"))
    enough = _class_counts(y, known) >= min_class_count
    defined = np.array([index for index, name in enumerate(probe.label_names) if enough[index] and name not in probe.unfitted], dtype=int)
    undefined = tuple(name for index, name in enumerate(probe.label_names) if index not in defined)
    warnings = list(probe.warnings)
    for index, name in enumerate(probe.label_names):
        if index not in defined:
            warnings.append(f"probe of {name}: undefined, {probe.unfitted.get(name, f'fewer than {min_class_count} positives or negatives in test')}")
    scores = probe.scores(x)
    per_label: dict[str, float | None] = dict.fromkeys(probe.label_names)
    for label in defined:
        rows = known[:, label]
        per_label[probe.label_names[label]] = auroc_lib.auroc(scores[rows, label], y[rows, label])
    identity = {"y": y & known, "known": known, "patients": np.unique(patients, return_inverse=True)[1], "defined": defined}
    draw = digests.arrays_digest({**identity, "draw": np.array([seed, bootstrap_replicates])})
    macro, replicates = None, np.full(bootstrap_replicates, np.nan)
    if len(defined):
        macro = float(np.mean([per_label[probe.label_names[label]] for label in defined]))
        weights = auroc_lib.patient_weights(patients, bootstrap_replicates, seed)
        per_draw = auroc_lib.label_replicates(scores[:, defined], y[:, defined], known[:, defined], patients, weights)
        replicates = _row_means(per_draw)
        dropped = int(np.isnan(per_draw).any(axis=1).sum())
        if dropped:
            warnings.append(f"probe bootstrap: {dropped} of {bootstrap_replicates} replicates lost a class of some label and average the others")
    ci = auroc_lib.percentile_interval(replicates, level)
    n_patients, n_features = len(np.unique(patients)), int((probe.inverse_scale > 0).sum())
    return ProbeResult(
        features, macro, ci, per_label, undefined, probe.l2, probe.gradient_norm, len(x), n_patients, n_features, tuple(warnings), replicates, draw
    )


def linear_probe(
    *, train: Split, validate: Split, test: Split, patient_test: np.ndarray, label_names: Sequence[str], l2_grid: Sequence[float], max_iterations: int = 200,
    features: str = "", bootstrap_replicates: int = 500, level: float = 0.95, seed: int = 0, min_class_count: int = 5
) -> ProbeResult:  # fmt: skip
    """Fits a probe and scores it on one test set; arguments and errors of `fit_probe` and `evaluate`."""
    probe = fit_probe(train=train, validate=validate, label_names=label_names, l2_grid=l2_grid, max_iterations=max_iterations)
    shared = {"features": features, "bootstrap_replicates": bootstrap_replicates, "level": level, "seed": seed, "min_class_count": min_class_count}
    return evaluate(probe, test=test, patient_test=patient_test, **shared)  # type: ignore[arg-type]


def paired_difference(a: ProbeResult, b: ProbeResult) -> dict[str, Any]:
    """Returns {features, against, difference, ci}: macro AUROC of `a` minus that of `b` over shared bootstrap draws.

    Raises: DataError: the two were not scored on the same rows, labels, patients and draws, or have no defined label.
    """
    if a.draw != b.draw:
        raise errors.DataError(errors.describe("probe results", "paired difference", "the same test rows, labels, patients, seed and B", "different ones"))
    if a.macro_auroc is None or b.macro_auroc is None or a.ci is None:
        raise errors.DataError(errors.describe("macro AUROC", "paired difference", "at least one defined label", "none"))
    interval = auroc_lib.percentile_interval(a.replicates - b.replicates, a.ci["level"])
    return {"features": a.features, "against": b.features, "difference": a.macro_auroc - b.macro_auroc, "ci": interval}


def _checked(split: Split, where: str, labels: int, width: int | None = None) -> Split:
    x, y, known = np.asarray(split[0], np.float64), np.asarray(split[1], bool), np.asarray(split[2], bool)
    if x.ndim != 2 or len(x) == 0 or x.shape[1] == 0 or (width is not None and x.shape[1] != width):
        raise errors.DataError(errors.describe("features", f"probe {where} split", f"[rows, {width or 'D'}] with at least one row", f"shape {x.shape}"))
    if y.shape != (len(x), labels) or known.shape != y.shape:
        raise errors.DataError(errors.describe("labels", f"probe {where} split", f"shape {(len(x), labels)}", f"{y.shape} and known {known.shape}"))
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(axis=1).sum())
        raise errors.DataError(errors.describe("features", f"probe {where} split", "finite numbers", f"{bad} rows that are not"))
    return x, y, known


def _class_counts(y: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns the size of the smaller class of each label, over known rows."""
    return np.minimum((y & known).sum(axis=0), (~y & known).sum(axis=0))


def _row_means(values: np.ndarray) -> np.ndarray:
    """Returns means over finite entries of each row; NaN for a row without any."""
    finite = np.isfinite(values)
    return np.divide(np.where(finite, values, 0.0).sum(axis=1), finite.sum(axis=1), out=np.full(len(values), np.nan), where=finite.any(axis=1))
