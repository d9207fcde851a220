"""The law of one candidate pool: how many of K marked negatives are among n drawn of M without replacement.

Design note: log-gamma grows with M and its rounding with it, too far in float64 at M = 10^7 and anywhere in float32. Here one probability
comes from Stirling's formula with the large parts cancelled on paper (Loader's saddle point): what is left is a sum over the four cells
of the 2 x 2 table of a function of found - expected, which is a whole number over M. All others follow from it by recurrences of positive
terms, so nothing cancels. The cost does not depend on M, and every argument may be an array.

References: Loader (2000), "Fast and accurate computation of binomial probabilities", for the saddle point.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

_SMALL = 16
_FACTORIALS = np.array([1.0, *(math.factorial(x) * math.exp(x) / x**x for x in range(1, _SMALL))])
_CERTAIN = 1e17
_CHUNK = 1 << 18
_HARMONIC = np.cumsum([0.0, *(1 / np.arange(1, 32))])


def probability(M: np.ndarray, K: np.ndarray, n: np.ndarray | int, j: np.ndarray | int) -> np.ndarray:
    """Returns P(j of the K marked are among the n drawn of M), float64, for integers with K <= M, n <= M that broadcast; 0 where j is impossible."""
    M, K, n, j = np.broadcast_arrays(*(np.asarray(x, dtype=np.int64) for x in (M, K, n, j)))
    inside = np.clip(j, np.maximum(K + n - M, 0), np.minimum(K, n))
    cells = ((inside, K, n, 1), (K - inside, K, M - n, -1), (n - inside, M - K, n, -1), (M - K - n + inside, M - K, M - n, 1))
    margins = _stirling(K) * _stirling(M - K) * _stirling(n) * _stirling(M - n) / _stirling(M)
    surplus, deviance = (inside * M - K * n) / np.maximum(M, 1), np.zeros(M.shape)
    for found, row, column, sign in cells:
        expected = row * column / np.maximum(M, 1)
        margins = margins / _stirling(found)
        deviance += expected * _departure(sign * surplus / np.maximum(expected, 1e-300))
    return margins * np.exp(-deviance) * (inside == j)


def cumulative(M: np.ndarray, K: np.ndarray, n: np.ndarray, count: int) -> np.ndarray:
    """Returns P(at most j of the K marked are among the n drawn of M) for j = 0 .. count - 1, float64 [count, rows], for integers [rows].

    With P(j) = P(exactly j) and F(j) = P(at most j), r(j) = F(j-1) / P(j) grows by r(j) = (1 + r(j-1)) P(j-1) / P(j). Then the last
    F = P (1 + r), and F(j-1) = F(j) r(j) / (1 + r(j)) downwards. Where r reaches 1e17, the missing upper tail is below rounding.
    """
    marked, drawn = (np.asarray(x, dtype=np.float64) for x in (K, n))
    left = np.asarray(M, dtype=np.float64) - marked - drawn
    ratio = np.zeros((count, len(left)))
    with np.errstate(divide="ignore", over="ignore"):
        for j in range(1, count):
            np.multiply(1 + ratio[j - 1], j * np.maximum(left + j, 0), out=ratio[j])
            ratio[j] /= np.maximum(marked - j + 1, 0) * np.maximum(drawn - j + 1, 0)
            np.minimum(ratio[j], _CERTAIN, out=ratio[j])
    out = np.empty_like(ratio)
    top = count - 1
    whole = (ratio[top] == _CERTAIN) | (top >= np.minimum(marked, drawn))
    out[top] = np.where(whole, 1.0, np.minimum(probability(M, K, n, top) * (1 + ratio[top]), 1.0))
    for j in range(top, 0, -1):
        np.multiply(out[j], ratio[j] / (1 + ratio[j]), out=out[j - 1])
    return out


def fewer_than(M: np.ndarray, K: np.ndarray, n: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Returns P(X < k) for the number X of marked among the drawn, float64 [len(ks), rows], for integers [rows] and k >= 1."""
    return _at(M, K, n, ks, lambda law: law)


def shortfall(M: np.ndarray, K: np.ndarray, n: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Returns E max(k - X, 0), the sum of P(X < i) over i = 1 .. k, otherwise as `fewer_than`."""
    beyond = np.array([max(0, k - 1 - int(n.max(initial=0))) for k in ks])
    return _at(M, K, n, ks, lambda law: np.cumsum(law, axis=0)) + beyond[:, None]


def expected_harmonic(M: np.ndarray, K: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Returns E H(X), the harmonic number of the marked among the drawn, float64 [rows], for integers [rows] with n >= 1.

    H(K) less the sum over y = 1 .. K of P(none drawn | y marked) / y. Time grows with M / n of each distinct (M, n), memory does not.
    """
    missing = np.zeros(len(M))
    _, group = np.unique(M * (M.max(initial=0) + 1) + n, return_inverse=True)
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(M) else []:
        missing[rows] = _missing(int(M[rows[0]]), int(n[rows[0]]), K[rows])
    return harmonic(K) - missing


def harmonic(x: np.ndarray) -> np.ndarray:
    """Returns the harmonic numbers H(x) = 1 + 1/2 + ... + 1/x of integers x >= 0, float64: summed below 32, then Euler's series."""
    large = np.maximum(x, len(_HARMONIC)).astype(np.float64)
    square = 1 / large**2
    series = np.log(large) + np.euler_gamma + 1 / (2 * large) - square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))
    return np.where(x < len(_HARMONIC), _HARMONIC[np.minimum(x, len(_HARMONIC) - 1)], series)


def _missing(M: int, n: int, ends: np.ndarray) -> np.ndarray:
    """Returns the sum over y = 1 .. K of P(none drawn | y marked) / y at every K of `ends` [rows]."""
    last = min(int(ends.max()), 1 + 40 * M // n)  # beyond it, P < exp(-40)
    out = np.zeros(len(ends))
    total, absent = 0.0, 1.0
    for start in range(0, last, _CHUNK):
        y = np.arange(start + 1, min(start + _CHUNK, last) + 1)
        none = absent * np.cumprod(np.maximum(1 - n / (M + 1 - y), 0))
        sums = total + np.cumsum(none / y)
        here = ends > start
        out[here] = sums[np.minimum(ends[here], y[-1]) - start - 1]
        total, absent = sums[-1], none[-1]
    return out


def _at(M: np.ndarray, K: np.ndarray, n: np.ndarray, ks: Sequence[int], of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Returns row k - 1 of a function of `cumulative` for each k, or the last row where k is beyond every n; in parts that fit a cache."""
    count = min(max(ks, default=1), int(n.max(initial=0)) + 1)
    rows = [min(k, count) - 1 for k in ks]
    out = np.empty((len(ks), len(M)))
    for part in np.array_split(np.arange(len(M)), 1 + count * len(M) // _CHUNK):
        out[:, part] = of(cumulative(M[part], K[part], n[part], count))[rows]
    return out


def _stirling(x: np.ndarray) -> np.ndarray:
    """Returns x! (e / x)^x for integers x >= 0: exact below 16, then sqrt(2 pi x) with the series of the log of the remainder."""
    large = np.maximum(x, _SMALL).astype(np.float64)
    square = 1 / large**2
    series = (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188)))) / large
    return np.where(x < _SMALL, _FACTORIALS[np.minimum(x, _SMALL - 1)], np.sqrt(2 * np.pi * large) * np.exp(series))


def _departure(z: np.ndarray) -> np.ndarray:
    """Returns (1 + z) log(1 + z) - z for z >= -1: what a cell departs from its expectation, which is 0 at z = 0 and 1 at z = -1."""
    return np.where(z <= -1, 1.0, (1 + z) * np.log1p(np.maximum(z, np.nextafter(-1, 0))) - z)
