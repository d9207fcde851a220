"""Patient-clustered bootstrap of ratios of sums, from per-patient sums alone.

A metric is theta(w) = sum_p w_p S_p / sum_p w_p c_p with S_p the patient's summed values and c_p its number of queries.
Replicates draw whole patients, w ~ Multinomial(P; 1/P), so queries of one patient stay together, and no candidate is ever
resampled (a repeated record would compete with itself). All metrics, and all arms that are compared, share the same draws.
The interval is conditional on the database: it speaks of new query patients against these candidates.

Intervals are BCa (Efron 1987), with the delete-one-patient jackknife for acceleration; where replicates never fall on both
sides of the estimate they are percentile. Where all patients have one value, such as none linked at all, the bootstrap has
nothing to resample and would claim certainty; the exact bound over patients takes its place (`no_spread`).
Statements about several ratios at once take the max-|t| quantile of the same draws (`simultaneous`; Westfall and Young 1993).
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from scipy import special

_CHUNK = 128
_KEPT = 1 << 28  # bytes of patient weights that are kept for the next figure of the same audit


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Settings: replicates B, confidence level in (0, 1), seed of the draws."""

    replicates: int = 2000
    level: float = 0.95
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Interval:
    """Intervals of C ratios, float64 [C]: estimate, low, high, standard error."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    se: np.ndarray


def patient_sums(patient: np.ndarray, values: np.ndarray, n_patients: int) -> np.ndarray:
    """Returns the sum of `values` [Q] per patient number, float64 [n_patients]."""
    return np.bincount(patient, weights=values, minlength=n_patients)


def weights(n_patients: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Yields chunks [b, n_patients] of multinomial patient weights, float64; the same for the same three arguments."""
    small = replicates * n_patients <= _KEPT
    for chunk in _all(n_patients, replicates, seed) if small else _draws(n_patients, replicates, seed):
        yield chunk.astype(np.float64)


@functools.lru_cache(maxsize=1)
def _all(n_patients: int, replicates: int, seed: int) -> tuple[np.ndarray, ...]:
    return tuple(_draws(n_patients, replicates, seed))


def _draws(n_patients: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Yields the chunks as uint8, which the weight of a patient fits: it is at most P, and beyond 255 draws of P it never happens."""
    generator = np.random.default_rng([seed, n_patients])
    for start in range(0, replicates, _CHUNK):
        size = min(_CHUNK, replicates - start)
        drawn = generator.integers(0, n_patients, (size, n_patients)) + np.arange(size)[:, None] * n_patients
        yield np.bincount(drawn.ravel(), minlength=size * n_patients).reshape(size, n_patients).astype(np.uint8)


def ratios(weight: np.ndarray, numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Returns sum_p w S / sum_p w c for weights [B, P] and per-patient sums [P, C]; NaN where the denominator is 0; float64 [B, C]."""
    below = weight @ denominators
    return np.divide(weight @ numerators, below, out=np.full(below.shape, np.nan), where=below > 0)


def replicate(numerators: np.ndarray, denominators: np.ndarray, settings: Bootstrap) -> np.ndarray:
    """Returns the bootstrap replicates of C ratios, float64 [B, C]."""
    chunks = weights(len(numerators), settings.replicates, settings.seed)
    return np.concatenate([ratios(weight, numerators, denominators) for weight in chunks])


def intervals(numerators: np.ndarray, denominators: np.ndarray, settings: Bootstrap) -> Interval:
    """Returns BCa intervals of C ratios from per-patient sums [P, C]."""
    estimate = ratios(np.ones((1, len(numerators))), numerators, denominators)[0]
    drawn = replicate(numerators, denominators, settings)
    left = denominators.sum(axis=0) - denominators
    jackknife = np.divide(numerators.sum(axis=0) - numerators, left, out=np.broadcast_to(estimate, left.shape).copy(), where=left > 0)
    low, high = bca(estimate, drawn, jackknife, settings.level)
    return Interval(estimate, low, high, np.nanstd(drawn, axis=0, ddof=1))


def bca(estimate: np.ndarray, drawn: np.ndarray, jackknife: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns (low, high) [C] of estimates [C] from replicates [B, C] and delete-one values [P, C]."""
    deviation = jackknife.mean(axis=0) - jackknife
    spread = (deviation**2).sum(axis=0)
    acceleration = np.divide((deviation**3).sum(axis=0), 6 * spread**1.5, out=np.zeros_like(spread), where=spread > 0)
    valid = np.maximum((~np.isnan(drawn)).sum(axis=0), 1)
    near = np.abs(drawn - estimate) <= 1e-10 * np.maximum(1, np.abs(estimate))  # equal but for the order of summation
    below = ((drawn < estimate) & ~near).sum(axis=0) / valid + near.sum(axis=0) / valid / 2
    shift = np.where((below > 0) & (below < 1), special.ndtri(np.clip(below, 1e-12, 1 - 1e-12)), 0.0)
    acceleration = np.where((below > 0) & (below < 1), acceleration, 0.0)
    bounds = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = shift + special.ndtri(tail)
        share = special.ndtr(shift + z / (1 - acceleration * z))
        bounds.append(_quantiles(drawn, share))
    return bounds[0], bounds[1]


def simultaneous(estimate: np.ndarray, drawn: np.ndarray, level: float) -> tuple[float, np.ndarray]:
    """Returns (q, standard errors [C]): with probability `level`, all C estimates are within q standard errors at once.

    q is the `level` quantile over replicates of the largest |replicate - estimate| / se (max-|t|). Columns without spread have se 0 and
    no part in q.

    Args: estimate: [C]. drawn: replicates [B, C] of the same draws; NaN where a replicate has no value.
    """
    deviation = np.abs(drawn - estimate)
    valid = (~np.isnan(deviation)).sum(axis=0)
    mean = np.nansum(drawn, axis=0) / np.maximum(valid, 1)
    se = np.sqrt(np.nansum((drawn - mean) ** 2, axis=0) / np.maximum(valid - 1, 1))
    se = np.where(se > 1e-12, se, 0.0)
    largest = np.nan_to_num(np.divide(deviation, se, out=np.zeros_like(deviation), where=se > 0)).max(axis=1, initial=0.0)
    return float(np.quantile(largest, level, method="higher")), se


def on_log_odds(value: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (low, high) of proportions, `value` +- `reach` taken on the scale of log odds: about the log scale near 0, and its mirror near 1.

    Args: value: inside (0, 1). reach: half width on the scale of the values, such as 1.96 standard errors.
    """
    middle, step = special.logit(value), reach / (value * (1 - value))
    return special.expit(middle - step), special.expit(middle + step)


def extreme_bound(patients: np.ndarray, level: float) -> float:
    """Returns the largest proportion compatible at `level` with none seen: 1 - (1-level)^(1/P), P the effective number of patients.

    Args: patients: queries per patient [P]; the effective number is (sum c)^2 / sum c^2.
    """
    counts = np.asarray(patients, dtype=np.float64)
    effective = counts.sum() ** 2 / (counts**2).sum()
    return float(1 - (1 - level) ** (1 / effective))


def no_spread(numerators: np.ndarray, denominators: np.ndarray, level: float) -> tuple[float, float] | None:
    """Returns the interval of a mean of values in [0, 1] whose patients all have the same mean, or None when they differ.

    At `level` at most a share r (`extreme_bound`) of unseen patients can differ from what was seen, in either direction at
    worst: [m (1 - r), m (1 - r) + r]. With m = 0 this is the exact one-sided bound [0, r].

    Args: numerators, denominators: per-patient sums and numbers of queries [P]; patients without a query do not count.
    """
    held = denominators > 0
    means = numerators[held] / denominators[held]
    if np.ptp(means) > 1e-9:
        return None
    reach, kept = extreme_bound(denominators[held], level), float(numerators.sum() / denominators.sum())
    kept = 0.0 if kept < 1e-9 else 1.0 if kept > 1 - 1e-9 else kept
    return kept * (1 - reach), min(1.0, kept * (1 - reach) + reach)


def _quantiles(drawn: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Returns one linear-interpolated quantile per column, NaN rows aside."""
    ordered = np.sort(drawn, axis=0)
    last = np.maximum((~np.isnan(drawn)).sum(axis=0) - 1, 0)
    place = np.clip(share, 0, 1) * last
    low = np.floor(place).astype(np.int64)
    columns = np.arange(drawn.shape[1])
    first, second = ordered[low, columns], ordered[np.minimum(low + 1, last), columns]
    return first + (place - low) * (second - first)
