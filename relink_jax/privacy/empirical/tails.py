"""Binomial tails, Clopper-Pearson limits and the exact curve of the Gaussian mechanism, in float64 without SciPy.

Tails are sums of binomial probabilities in log space, and limits are found by bisection on them, so a limit is exact to about 1e-12
up to a million trials. The Gaussian curve is Balle & Wang (2018, arXiv 1805.06530, theorem 8).

Design note: dp_accounting has the same curve. An audit that priced its findings with the accountant under audit would inherit its
mistakes, so this one is written out; a test holds the two equal.
"""

import functools
import math
import statistics
from collections.abc import Callable

import numpy as np

from relink_jax import errors

_HALVINGS = 80
_NORMAL = statistics.NormalDist()


def log_pmf(counts: np.ndarray, trials: int, probability: float) -> np.ndarray:
    """Returns log P[X = k] of X ~ Binomial(trials, probability), 0 < probability < 1, at each k of `counts`, float64."""
    choose = _log_factorials(trials)
    return choose[trials] - choose[counts] - choose[trials - counts] + counts * math.log(probability) + (trials - counts) * math.log1p(-probability)


def upper_tail(successes: int, trials: int, probability: float) -> float:
    """Returns P[X >= successes] of X ~ Binomial(trials, probability)."""
    if successes <= 0 or probability >= 1:
        return 1.0
    if successes > trials or probability <= 0:
        return 0.0
    return min(1.0, float(np.exp(log_pmf(np.arange(successes, trials + 1), trials, probability)).sum()))


@functools.lru_cache(maxsize=4096)
def clopper_pearson_upper(successes: int, trials: int, confidence: float) -> float:
    """Returns the one-sided upper limit of a binomial probability: exceeded by the truth with chance at most 1 - confidence.

    Reference: Clopper & Pearson (1934), Biometrika 26(4).
    Raises: DataError: counts that are not 0 <= successes <= trials with at least one trial. UsageError: a confidence outside (0, 1).
    """
    if not (trials >= 1 and 0 <= successes <= trials):
        raise errors.DataError(errors.describe("counts", "Clopper-Pearson limit", "0 <= successes <= trials and trials >= 1", f"{successes} of {trials}"))
    check_confidence(confidence)
    if successes == trials:
        return 1.0
    low, high = successes / trials, 1.0
    counts = np.arange(successes + 1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if np.exp(log_pmf(counts, trials, middle)).sum() > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def wilson_upper(successes: np.ndarray, trials: int, confidence: float) -> np.ndarray:
    """Returns Wilson's approximate upper limits (1927, JASA 22), for choosing a threshold; never for a bound."""
    z = quantile(confidence)
    rate, spread = successes / trials, z * z / trials
    return np.minimum(1.0, (rate + spread / 2 + np.sqrt(rate * (1 - rate) * spread + spread**2 / 4)) / (1 + spread))


def quantile(probability: float) -> float:
    """Returns the standard normal quantile; minus and plus infinity at 0 and 1."""
    if not 0 < probability < 1:
        return math.copysign(math.inf, probability - 0.5)
    return _NORMAL.inv_cdf(probability)


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Returns the exact delta at `epsilon` of mu-Gaussian DP, mu = sensitivity / noise stddev."""
    if mu == 0:
        return 0.0
    first, second = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
    return max(0.0, math.exp(_log_cdf(first)) - math.exp(epsilon + _log_cdf(second)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Returns the exact epsilon at `delta` of mu-Gaussian DP; 0 for mu = 0, infinity for an infinite mu."""
    if mu == math.inf:
        return math.inf
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(high, mu) > delta:
        high *= 2
    return _bisect(lambda epsilon: gaussian_delta(epsilon, mu) > delta, 0.0, high)


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Returns the mu whose exact Gaussian epsilon at `delta` is `epsilon`: noise multiplier 1/mu spends exactly `epsilon` in one full step."""
    high = 1.0
    while gaussian_delta(epsilon, high) < delta:
        high *= 2
    return _bisect(lambda mu: gaussian_delta(epsilon, mu) < delta, 0.0, high)


def check_confidence(confidence: float) -> None:
    """Raises `UsageError` for a confidence outside (0, 1)."""
    if not 0 < confidence < 1:
        raise errors.UsageError(errors.describe("confidence", "empirical audit", "a number between 0 and 1", f"{confidence:g}"))


def _bisect(below: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if below(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _log_cdf(x: float) -> float:
    """Returns log of the standard normal distribution function; the asymptotic series far in the lower tail."""
    if x > -25:
        return math.log(0.5 * math.erfc(-x / math.sqrt(2)))
    inverse = 1 / (x * x)
    return -x * x / 2 - math.log(-x) - 0.5 * math.log(2 * math.pi) + math.log1p(-inverse + 3 * inverse**2 - 15 * inverse**3)


@functools.lru_cache(maxsize=64)
def _log_factorials(largest: int) -> np.ndarray:
    return np.array([math.lgamma(count + 1) for count in range(largest + 1)])
