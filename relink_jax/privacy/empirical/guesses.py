"""A lower bound on epsilon from one training run: guesses about many canaries that were each included by a fair coin.

Steinke, Nasr & Jagielski (2023, arXiv 2305.08846, main theorem): when the run is (epsilon, delta)-DP, of r guesses with m - r
abstentions, at least v are right with probability at most
    beta(v) + 2 m delta max_i (beta(v - i) - beta(v)) / i,    beta(v) = P[Binomial(r, e^epsilon / (1 + e^epsilon)) >= v].
The epsilon at which this probability reaches 1 - confidence is a lower bound.

Design note: how many guesses pay best depends on the run, so four counts fixed in advance are tried, each at a quarter of the error
probability (a union bound). Never all are guessed: the coins rarely fall evenly, and an even split would then force wrong guesses.
"""

import dataclasses
import math

import numpy as np

from relink_jax import errors
from relink_jax.privacy.empirical import bounds, tails

SHARES = (0.02, 0.1, 0.3, 0.9)
_LARGEST = 64.0
_HALVINGS = 50


@dataclasses.dataclass(frozen=True)
class OneRun:
    """What the guesses of one run prove.

    Attributes:
        lower_bound: on epsilon at `delta`, with `confidence`; 0 proves nothing.
        ceiling: what it would be without a wrong guess.
        auroc: chance that an included canary scores above one left out.
        canaries, guesses, correct: how many there were, were guessed about, and guessed right.
    """

    lower_bound: float
    ceiling: float
    auroc: float
    canaries: int
    guesses: int
    correct: int
    delta: float
    confidence: float


def probability_of(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Returns the largest probability, over (epsilon, delta)-DP runs, of at least `correct` right guesses (main theorem); at most 1."""
    right = 1 / (1 + math.exp(-epsilon))
    if right == 1:
        return 1.0
    mass = np.exp(tails.log_pmf(np.arange(guesses + 1), guesses, right))
    beta = float(mass[correct:].sum())
    added = np.cumsum(mass[:correct][::-1]) / np.arange(1, correct + 1)
    return min(1.0, beta + 2 * canaries * delta * float(added.max(initial=0.0)))


def lower_bound(correct: int, guesses: int, canaries: int, delta: float = bounds.DELTA, confidence: float = bounds.CONFIDENCE) -> float:
    """Returns the lower bound on epsilon of `correct` right ones among `guesses` made by a rule fixed in advance; at least 0.

    Raises: DataError: counts that are not 0 <= correct <= guesses <= canaries with at least one guess. UsageError: a confidence outside (0, 1).
    """
    if not 0 <= correct <= guesses <= canaries or guesses < 1:
        found = f"{correct} of {guesses} guesses, {canaries} canaries"
        raise errors.DataError(errors.describe("guesses", "one-run audit", "0 <= correct <= guesses <= canaries, at least one guess", found))
    tails.check_confidence(confidence)
    low, high = 0.0, _LARGEST
    if probability_of(correct, guesses, canaries, low, delta) >= 1 - confidence:
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if probability_of(correct, guesses, canaries, middle, delta) < 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def from_scores(scores: np.ndarray, included: np.ndarray, delta: float = bounds.DELTA, confidence: float = bounds.CONFIDENCE) -> OneRun:
    """Returns the best bound over the guess counts `SHARES`: the highest scores are guessed in, as many of the lowest out.

    Args:
        scores: float [m], one per canary, higher means more like a member.
        included: bool [m], the fair coins.

    Raises: DataError: lengths that differ, scores that are not finite, or canaries that were all included or all left out.
    """
    values, coins = np.asarray(scores, np.float64).ravel(), np.asarray(included, bool).ravel()
    if len(values) != len(coins) or not np.isfinite(values).all() or coins.all() or not coins.any():
        found = f"{int(np.isfinite(values).sum())} finite scores of {len(values)}, {int(coins.sum())} of {len(coins)} included"
        raise errors.DataError(errors.describe("canary scores", "one-run audit", "one finite score per canary, some included and some not", found))
    order = np.argsort(values, kind="stable")
    canaries, level = len(values), 1 - (1 - confidence) / len(SHARES)
    tried = []
    for share in SHARES:
        each = max(1, round(share * canaries / 2))
        correct = int((~coins[order[:each]]).sum() + coins[order[-each:]].sum())
        tried.append((lower_bound(correct, 2 * each, canaries, delta, level), 2 * each, correct))
    best, guesses, correct = max(tried)
    ceiling = max(lower_bound(count, count, canaries, delta, level) for _, count, _ in tried)
    return OneRun(best, ceiling, bounds.auroc(values[coins], values[~coins]), canaries, guesses, correct, delta, confidence)
