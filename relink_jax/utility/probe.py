"""14-label linear probe: what a set of features still says about the findings.

Features are standardised with training means and deviations (constant features dropped), each label gets its own
L2-regularised logistic regression fitted on train, its strength chosen by validation AUROC (`strength`), and macro AUROC is taken on
test over the labels that are defined there, with a patient-clustered bootstrap interval (`macro`). Uncertain labels are left out of
training and evaluation (U-Ignore) and blanks count as negative, CheXpert's training convention.

References: Irvin et al. (2019), arXiv 1901.07031, section 3 (U-Ignore); Radford et al. (2021), arXiv 2103.00020, A.3.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from relink_jax import errors
from relink_jax.utility import auroc as auroc_lib
from relink_jax.utility import logistic, macro, strength

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
        l2_grid: positive strengths, where the search starts; of equally good ones the strongest is taken, and a single one is kept.
        max_iterations: L-BFGS iterations per fit.
    Returns: the probe; a fit that did not converge is in `warnings`, and labels without both classes in train and validate are in
        `unfitted` with the reason.
    Raises: DataError: shapes that do not agree, non-finite features, or a label whose best strength no grid reaches, see `strength`;
        UsageError: a bad grid.
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
    for name, counts in zip(label_names, zip(macro.class_counts(y, known), macro.class_counts(y_validate, known_validate), strict=True), strict=True):
        missing = [where for where, count in zip(("train", "validate"), counts, strict=True) if count == 0]
        if missing:
            unfitted[name] = f"one class only in {missing[0]}"
    kept = np.array([index for index, name in enumerate(label_names) if name not in unfitted], dtype=int)
    weights, intercepts = np.zeros((x.shape[1], len(label_names))), np.zeros(len(label_names))
    chosen: dict[str, float] = {}
    worst, warnings = 0.0, []
    if len(kept):
        standard, standard_validate = (x - center) * inverse_scale, (x_validate - center) * inverse_scale

        def value(label: int, slopes: np.ndarray, intercept: float) -> float:
            rows = known_validate[:, kept[label]]
            return cast(float, auroc_lib.auroc(standard_validate[rows] @ slopes + intercept, y_validate[rows, kept[label]]))

        solver = logistic.Solver(standard, y[:, kept], known[:, kept], max_iterations)
        best = strength.choose(solver.at, value, grid, [label_names[label] for label in kept])
        for label, one in zip(kept, best, strict=True):
            name = label_names[label]
            chosen[name], weights[:, label], intercepts[label] = one.l2, one.weights, one.intercept
            norm = logistic.gradient_norm(standard, y[:, label], known[:, label], one.l2, one.weights, one.intercept)
            worst = max(worst, norm)
            if norm > _UNCONVERGED:
                warnings.append(f"of {name}: relative gradient norm {norm:.1e} after {max_iterations} iterations, not converged")
    return Probe(tuple(label_names), center, inverse_scale, weights, intercepts, chosen, unfitted, worst, tuple(warnings))


def evaluate(probe: Probe, *, test: Split, patient_test: np.ndarray, task: str = "probe", **settings: Any) -> macro.MacroResult:
    """Scores a fitted probe on `test` (x, y, known) whose rows belong to patients `patient_test` [n].

    Args:
        task: what the warnings are of. settings: features, bootstrap_replicates, level, seed and min_class_count of `macro.score`.
    Raises: DataError: shapes that do not agree or non-finite features.
    """
    x, y, known = _checked(test, "test", len(probe.label_names), len(probe.center))
    details = {"l2": probe.l2, "gradient_norm": probe.gradient_norm, "n_features": int((probe.inverse_scale > 0).sum())}
    warnings = [f"{task} {line}" for line in probe.warnings]
    given = {"task": task, "unfitted": probe.unfitted, "warnings": warnings, "details": details, **settings}
    return macro.score(probe.scores(x), y, known, np.asarray(patient_test), probe.label_names, **given)


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
