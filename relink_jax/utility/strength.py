"""Which L2 strength each label gets: the best on validation, with a grid that grows until the best lies inside it.

A best strength at an edge of the grid says that the grid was too narrow. That side then grows by decades as long as validation AUROC gains
more than `FLAT`; an edge that is no more than `FLAT` better than its neighbour lies on a plateau and stands. Only the labels concerned are
fitted again. Curves that still rise at `LOWEST` or `HIGHEST` are refused: whatever were chosen there would be chosen by the limit.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from relink_jax import errors

LOWEST, HIGHEST = 1e-10, 1e6
FLAT = 1e-4


@dataclasses.dataclass(frozen=True)
class Fit:
    """One label fitted at one strength: validation AUROC, weights [D] and intercept."""

    l2: float
    auroc: float
    weights: np.ndarray
    intercept: float


FitAll = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
Value = Callable[[int, np.ndarray, float], float]


def choose(fit: FitAll, value: Value, grid: np.ndarray, names: Sequence[str]) -> list[Fit]:
    """Returns the best fit of each of L labels; of equally good ones, to 12 digits, that of the strongest L2.

    Args:
        fit: takes strengths [L] and wanted bool [L] and returns (weights [L, D], intercepts [L], iterations [L]), see `logistic.Solver.at`.
        value: validation AUROC of (label number, weights, intercept).
        grid: distinct positive strengths in rising order. A grid of one fixes the strength, as there is nothing to choose.
        names: of the L labels, for messages.
    Raises: DataError: a label whose AUROC still rises at a limit.
    """
    tried: list[list[Fit]] = [[] for _ in names]

    def attempt(strengths: dict[int, float]) -> None:
        wanted = np.isin(np.arange(len(names)), list(strengths))
        weights, intercepts, _ = fit(np.array([strengths.get(label, 1.0) for label in range(len(names))]), wanted)
        for label, l2 in strengths.items():
            tried[label].append(Fit(l2, value(label, weights[label], float(intercepts[label])), weights[label], float(intercepts[label])))

    for l2 in grid[::-1]:
        attempt(dict.fromkeys(range(len(names)), float(l2)))
    while further := {label: l2 for label, fits in enumerate(tried) if (l2 := _beyond(fits, names[label])) is not None}:
        attempt(further)
    return [_best(fits) for fits in tried]


def _best(fits: Sequence[Fit]) -> Fit:
    return max(fits, key=lambda one: (round(one.auroc, 12), one.l2))


def _beyond(fits: Sequence[Fit], name: str) -> float | None:
    """Returns the next strength to try for a label, None where its best lies inside what was tried or on a plateau."""
    ordered, best = sorted(fits, key=lambda one: one.l2), _best(fits)
    if len(ordered) == 1 or best not in (ordered[0], ordered[-1]):
        return None
    low = best is ordered[0]
    if best.auroc - ordered[1 if low else -2].auroc <= FLAT:
        return None
    beyond = float(f"{best.l2 / 10 if low else best.l2 * 10:.6g}")
    if not LOWEST <= beyond <= HIGHEST:
        expected = f"validation AUROC that stops rising between {LOWEST:g} and {HIGHEST:g}"
        raise errors.DataError(errors.describe("L2 strength without a best value", f"probe of {name}", expected, f"one that still rises at {best.l2:g}"))
    return beyond
