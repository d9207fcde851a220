"""Tie-correct AUROC with integer weights, for point estimates and patient-clustered bootstrap replicates alike.

AUROC is the Mann-Whitney statistic with half credit for ties. Scores are sorted once per label; each weighting of the rows
then costs one pass over tie groups, so B replicates of n rows take O(B n) and equal physical replication of the rows.

References: Hanley and McNeil (1982), Radiology 143(1), 29-36; DeLong et al. (1988), Biometrics 44(3), 837-845, ties.
"""

import dataclasses

import numpy as np

from relink_jax import errors

_CHUNK = 1 << 22


@dataclasses.dataclass(frozen=True)
class RankedScores:
    """One label's scores sorted once: row order, first position of each tie group, and which sorted rows are positive."""

    order: np.ndarray
    starts: np.ndarray
    positive: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, positive: np.ndarray) -> "RankedScores":
        """Sorts finite `scores` [n] with their boolean `positive` [n]; `DataError` on NaN, infinity or unequal lengths."""
        values, flags = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
        if values.ndim != 1 or values.shape != flags.shape:
            raise errors.DataError(errors.describe("scores and labels", "AUROC", "two vectors of one length", f"shapes {values.shape} and {flags.shape}"))
        if not np.isfinite(values).all():
            raise errors.DataError(errors.describe("scores", "AUROC", "finite numbers", f"{int((~np.isfinite(values)).sum())} that are not"))
        order = np.argsort(values, kind="stable")
        ranked = values[order]
        starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(ranked)), bool), ranked[1:] > ranked[:-1]]))
        return cls(order, starts, flags[order])

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """Returns AUROC [B] in float64 under row weights [B, n]; NaN where a class has no weight."""
        if len(self.order) == 0:
            return np.full(len(weights), np.nan)
        ranked = np.asarray(weights, dtype=np.float64)[:, self.order]
        positives = np.add.reduceat(ranked * self.positive, self.starts, axis=1)
        negatives = np.add.reduceat(ranked * ~self.positive, self.starts, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        won = (positives * (below + 0.5 * negatives)).sum(axis=1)
        return np.divide(won, pairs, out=np.full(len(ranked), np.nan), where=pairs > 0)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Returns AUROC of `scores` [n] against boolean `positive` [n]; None when only one class is present.

    Example: >>> auroc(np.array([.1, .5, .5, .9]), np.array([0, 0, 1, 1], bool))  ->  0.875
    """
    ranked = RankedScores.of(scores, positive)
    value = float(ranked.weighted(np.ones((1, len(ranked.order))))[0])
    return None if np.isnan(value) else value


def patient_weights(patients: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """Returns bootstrap multiplicities int32 [B, P] of the distinct patients in `patients` [n], drawn Multinomial(P; 1/P).

    The draw depends on the seed, B and P only, so every arm scored on the same patients shares it.
    """
    count = len(np.unique(patients))
    if count == 0:
        raise errors.DataError(errors.describe("patients", "bootstrap", "at least one", "none"))
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=replicates).astype(np.int32)


def label_replicates(scores: np.ndarray, positive: np.ndarray, known: np.ndarray, patients: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns AUROC [B, L] of `scores`, `positive`, `known` [n, L] with whole patients reweighted by `weights` [B, P].

    Rows with `known` false do not count for that label. NaN marks a replicate in which a label lost one of its classes.
    """
    _, patient_index = np.unique(patients, return_inverse=True)
    values = np.full((len(weights), scores.shape[1]), np.nan)
    step = max(1, _CHUNK // max(1, len(scores)))
    for label in range(scores.shape[1]):
        rows = np.flatnonzero(known[:, label])
        ranked = RankedScores.of(scores[rows, label], positive[rows, label])
        owner = patient_index[rows]
        for start in range(0, len(weights), step):
            values[start : start + step, label] = ranked.weighted(weights[start : start + step][:, owner])
    return values


def percentile_interval(replicates: np.ndarray, level: float) -> dict[str, float | int | str] | None:
    """Returns {method, level, low, high, B, se} of finite `replicates` [B]; None when fewer than two are finite."""
    kept = replicates[np.isfinite(replicates)]
    if len(kept) < 2:
        return None
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return {"method": "patient_percentile", "level": level, "low": float(low), "high": float(high), "B": len(kept), "se": float(kept.std(ddof=1))}
