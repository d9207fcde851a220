"""Macro AUROC of label scores on one test set, with its patient-clustered interval and its paired differences.

Design note: undefined labels depend on labels alone, never on scores, so every arm is averaged over the same labels, and results of one
seed share their bootstrap draws; `paired_difference` relies on both.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.store import digests
from relink_jax.utility import auroc, equivalence


@dataclasses.dataclass(frozen=True)
class MacroResult:
    """Macro AUROC of one set of features with its interval; `replicates` [B] and `draw` pair it with other arms.

    `details` is what the task adds to the entry of a results file.
    """

    features: str
    macro_auroc: float | None
    ci: dict[str, Any] | None
    per_label: dict[str, float | None]
    undefined: tuple[str, ...]
    n_test: int
    n_patients: int
    warnings: tuple[str, ...]
    replicates: np.ndarray
    draw: str
    details: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of `utility` in a results file."""
        skipped = ("replicates", "draw", "details")
        entry = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in skipped}
        return {**entry, **self.details, "chance": 0.5, "undefined": list(self.undefined), "warnings": list(self.warnings)}


def score(
    scores: np.ndarray, y: np.ndarray, known: np.ndarray, patients: np.ndarray, label_names: Sequence[str], *, task: str = "probe", features: str = "",
    unfitted: Mapping[str, str] | None = None, warnings: Sequence[str] = (), details: Mapping[str, Any] | None = None,
    bootstrap_replicates: int = 500, level: float = 0.95, seed: int = 0, min_class_count: int = 5
) -> MacroResult:  # fmt: skip
    """Returns macro AUROC of finite `scores` [n, L] against `y`, `known` bool [n, L] of rows that belong to `patients` [n].

    A label is undefined when it is in `unfitted`, which says why, or has fewer than `min_class_count` positives or negatives; it is listed
    and left out of the macro average. A bootstrap replicate in which a label lost a class averages the others.

    Args: task: what the warnings are of. features: name of the entry. warnings: that come first. details: see `MacroResult`.
    Raises: DataError: scores that are not finite, or one patient per row missing.
    """
    unfitted, warned = unfitted or {}, list(warnings)
    if np.shape(patients) != (len(scores),):
        raise errors.DataError(errors.describe("patients", f"{task} test split", f"one per row ({len(scores)})", f"shape {np.shape(patients)}"))
    enough = class_counts(y, known) >= min_class_count
    defined = np.array([index for index, name in enumerate(label_names) if enough[index] and name not in unfitted], dtype=int)
    undefined = tuple(name for index, name in enumerate(label_names) if index not in defined)
    for name in undefined:
        warned.append(f"{task} of {name}: undefined, {unfitted.get(name, f'fewer than {min_class_count} positives or negatives in test')}")
    per_label: dict[str, float | None] = dict.fromkeys(label_names)
    for label in defined:
        rows = known[:, label]
        per_label[label_names[label]] = auroc.auroc(scores[rows, label], y[rows, label])
    identity = {"y": y & known, "known": known, "patients": np.unique(patients, return_inverse=True)[1], "defined": defined}
    draw = digests.arrays_digest({**identity, "draw": np.array([seed, bootstrap_replicates])})
    macro, replicates = None, np.full(bootstrap_replicates, np.nan)
    if len(defined):
        macro = float(np.mean([per_label[label_names[label]] for label in defined]))
        weights = auroc.patient_weights(patients, bootstrap_replicates, seed)
        per_draw = auroc.label_replicates(scores[:, defined], y[:, defined], known[:, defined], patients, weights)
        replicates = _row_means(per_draw)
        dropped = int(np.isnan(per_draw).any(axis=1).sum())
        if dropped:
            warned.append(f"{task} bootstrap: {dropped} of {bootstrap_replicates} replicates lost a class of some label and average the others")
    ci = auroc.percentile_interval(replicates, level)
    return MacroResult(
        features, macro, ci, per_label, undefined, len(scores), len(np.unique(patients)), tuple(warned), replicates, draw, dict(details or {"l2": {}})
    )


def paired_difference(a: MacroResult, b: MacroResult, *, task: str = "probe", margin: float = 0.01) -> dict[str, Any]:
    """Returns {task, features, against, difference, ci, equivalence}: macro AUROC of `a` minus that of `b` over shared bootstrap draws.

    Args: margin: of the equivalence test, see `equivalence.equivalence`.
    Raises: DataError: the two were not scored on the same rows, labels, patients and draws, or have no defined label.
    """
    if a.draw != b.draw:
        raise errors.DataError(errors.describe("probe results", "paired difference", "the same test rows, labels, patients, seed and B", "different ones"))
    if a.macro_auroc is None or b.macro_auroc is None or a.ci is None:
        raise errors.DataError(errors.describe("macro AUROC", "paired difference", "at least one defined label", "none"))
    differences = a.replicates - b.replicates
    names = {"task": task, "features": a.features, "against": b.features}
    found = {"difference": a.macro_auroc - b.macro_auroc, "ci": auroc.percentile_interval(differences, a.ci["level"])}
    return {**names, **found, "equivalence": equivalence.equivalence(differences, margin)}


def class_counts(y: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns the size of the smaller class of each label [L], over the rows of `y`, `known` [n, L] that are known."""
    return np.minimum((y & known).sum(axis=0), (~y & known).sum(axis=0))


def _row_means(values: np.ndarray) -> np.ndarray:
    """Returns means over finite entries of each row; NaN for a row without any."""
    finite = np.isfinite(values)
    return np.divide(np.where(finite, values, 0.0).sum(axis=1), finite.sum(axis=1), out=np.full(len(values), np.nan), where=finite.any(axis=1))
