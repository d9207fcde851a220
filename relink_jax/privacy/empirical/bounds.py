"""Lower bounds on epsilon from the scores an attack gives to runs with and without one record.

An (epsilon, delta) claim limits every test: (1 - FNR) <= e^epsilon FPR + delta, and the same with the two errors exchanged (Kairouz et al.
2015, arXiv 1311.0776). So measured errors that are too small refute a claim. Two bounds are given:
    clopper_pearson   exact limits on both error rates; assumes nothing about the mechanism. Its ceiling is set by the number of runs.
    gaussian          the same limits turned into mu = Phi^-1(1 - FPR) - Phi^-1(FNR) of Gaussian DP (Nasr et al. 2023, arXiv 2302.07956),
                      then the exact epsilon of that Gaussian. Far stronger; a bound for mechanisms whose trade-off is Gaussian, as one full noisy
                      step is, and an extrapolation for others.

Design note: the threshold is chosen on every other score and evaluated on the rest, so the limits hold for it. Choosing and
evaluating on one sample, or taking absolute values of an estimated mu, reports several units of epsilon on scores that carry none.
"""

import dataclasses
import math

import numpy as np

from relink_jax import errors
from relink_jax.privacy.empirical import tails

CONFIDENCE = 0.95
DELTA = 1e-5
_THRESHOLDS = 512


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What an attack on scores proves.

    Attributes:
        clopper_pearson, gaussian: lower bounds on epsilon at `delta`, each at `confidence`; 0 proves nothing.
        ceiling: the largest `clopper_pearson` this many scores can give, reached by an attack without errors.
        auroc: chance that a member's score is above a non-member's, over all scores; 0.5 is a coin.
        false_positive_rate, false_negative_rate: the attack's measured error rates at the Gaussian threshold, on the evaluation half.
    """

    clopper_pearson: float
    gaussian: float
    ceiling: float
    auroc: float
    false_positive_rate: float
    false_negative_rate: float
    delta: float
    confidence: float


def epsilon_lower_bound(false_positives: int, false_negatives: int, n_in: int, n_out: int, delta: float = DELTA, confidence: float = CONFIDENCE) -> float:
    """Returns the Clopper-Pearson lower bound on epsilon of a test fixed before these scores were seen; at least 0.

    Args:
        false_positives: of the `n_out` runs without the record, those called members.
        false_negatives: of the `n_in` runs with the record, those called non-members.
    """
    fpr, fnr = _limits(false_positives, false_negatives, n_in, n_out, confidence)
    return max(0.0, *(math.log((1 - delta - miss) / hit) for hit, miss in ((fpr, fnr), (fnr, fpr)) if 1 - delta - miss > 0))


def gaussian_mu_lower_bound(false_positives: int, false_negatives: int, n_in: int, n_out: int, confidence: float = CONFIDENCE) -> float:
    """Returns the lower bound on mu of Gaussian DP of a test fixed before these scores were seen; at least 0, never an absolute value."""
    fpr, fnr = _limits(false_positives, false_negatives, n_in, n_out, confidence)
    return max(0.0, -tails.quantile(fpr) - tails.quantile(fnr))


def from_scores(scores_in: np.ndarray, scores_out: np.ndarray, delta: float = DELTA, confidence: float = CONFIDENCE) -> Bounds:
    """Returns both bounds from independent scores, float [n_in] with the record and [n_out] without; higher means more like a member.

    Raises: DataError: fewer than 4 scores on a side, or scores that are not finite. UsageError: a confidence outside (0, 1).
    """
    tails.check_confidence(confidence)
    members, others = (np.asarray(scores, np.float64).ravel() for scores in (scores_in, scores_out))
    if min(len(members), len(others)) < 4 or not (np.isfinite(members).all() and np.isfinite(others).all()):
        found = f"{len(members)} and {len(others)} scores, {int(np.sum(~np.isfinite(members)) + np.sum(~np.isfinite(others)))} of them not finite"
        raise errors.DataError(errors.describe("scores", "empirical audit", "at least 4 finite scores on each side", found))
    chosen = choose_thresholds(members[::2], others[::2], delta, confidence)
    held_in, held_out = members[1::2], others[1::2]
    sizes = len(held_in), len(held_out)
    by_rates, by_gaussian = ((int(np.sum(held_out > threshold)), int(np.sum(held_in <= threshold))) for threshold in chosen)
    return Bounds(
        clopper_pearson=epsilon_lower_bound(*by_rates, *sizes, delta, confidence),
        gaussian=tails.gaussian_epsilon(gaussian_mu_lower_bound(*by_gaussian, *sizes, confidence), delta),
        ceiling=epsilon_lower_bound(0, 0, *sizes, delta, confidence),
        auroc=auroc(members, others),
        false_positive_rate=by_gaussian[0] / len(held_out),
        false_negative_rate=by_gaussian[1] / len(held_in),
        delta=delta,
        confidence=confidence,
    )


def choose_thresholds(members: np.ndarray, others: np.ndarray, delta: float, confidence: float) -> tuple[float, float]:
    """Returns the thresholds that promise the largest (Clopper-Pearson, Gaussian) bound on these scores, by Wilson's limits.

    Candidates are midpoints between neighbouring scores, at most 512 of them spread over the ranks.
    """
    pooled = np.sort(np.concatenate([members, others]))
    middles = (pooled[1:] + pooled[:-1]) / 2
    candidates = middles[np.unique(np.linspace(0, len(middles) - 1, _THRESHOLDS).astype(int))]
    level = (1 + confidence) / 2
    fpr = tails.wilson_upper(len(others) - np.searchsorted(np.sort(others), candidates, side="right"), len(others), level)
    fnr = tails.wilson_upper(np.searchsorted(np.sort(members), candidates, side="right"), len(members), level)
    by_rates = np.maximum((1 - delta - fnr) / fpr, (1 - delta - fpr) / fnr)
    by_gaussian = [-tails.quantile(a) - tails.quantile(b) for a, b in zip(fpr, fnr, strict=True)]
    return float(candidates[np.argmax(by_rates)]), float(candidates[np.argmax(by_gaussian)])


def auroc(scores_in: np.ndarray, scores_out: np.ndarray) -> float:
    """Returns P[score in > score out] + P[equal] / 2 over all pairs of scores, exactly."""
    ordered = np.sort(scores_out)
    below, up_to = (np.searchsorted(ordered, scores_in, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(ordered)))


def _limits(false_positives: int, false_negatives: int, n_in: int, n_out: int, confidence: float) -> tuple[float, float]:
    """Returns upper limits of (FPR, FNR) that hold together with `confidence`."""
    level = (1 + confidence) / 2
    return tails.clopper_pearson_upper(false_positives, n_out, level), tails.clopper_pearson_upper(false_negatives, n_in, level)
