"""Many tests at once, and the p values of one."""

import numpy as np
from scipy import special


def two_sided(statistic: np.ndarray | float, freedom: np.ndarray | float) -> np.ndarray:
    """Returns two-sided p values of t statistics [n] with `freedom` degrees of freedom, float64 [n]."""
    return np.asarray(2 * special.stdtr(np.asarray(freedom, np.float64), -np.abs(np.asarray(statistic, np.float64))))


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Returns p values [n] adjusted so that rejecting those at most a keeps the expected share of false rejections at most a, float64 [n].

    References: Benjamini and Hochberg (1995), "Controlling the false discovery rate".
    """
    p = np.asarray(p, np.float64)
    falling = np.argsort(-p, kind="stable")
    scaled = p[falling] * len(p) / np.arange(len(p), 0, -1)
    out = np.empty_like(p)
    out[falling] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    return out
