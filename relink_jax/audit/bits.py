"""Linkage in bits, from per-query numbers alone; needs no device.

InfoNCE         log2 N + E log2 p, with p the truth's softmax share of its pool: at most log2 N, 0 for an attacker who knows that he knows
                nothing, and a lower bound of mutual information in expectation over pools (van den Oord et al. 2018, arXiv 1807.03748)
rank-corrected  log2(N!) / N - E log2 rank: the shortfall of the rank from what a random ranking has, which log2 N - E log2 rank exceeds
                by up to log2 e = 1.44 bits under chance alone
"""

from typing import Any

import numpy as np
from scipy import special

from relink_jax.audit.sample import Sample


def infonce(log2_posterior: np.ndarray, M: np.ndarray, beta: float, sample: Sample) -> dict[str, Any] | None:
    """Returns the InfoNCE bits in the full pool, as in results; None where no query has a candidate.

    Args: log2_posterior: log2 of the truth's softmax share among itself and its M eligible negatives [Q], see `posterior`. beta: of the softmax.
    """
    rows = np.flatnonzero(M >= 1)
    if not len(rows):
        return None
    sizes = M[rows] + 1
    return sample.mean(np.log2(sizes) + log2_posterior[rows], rows, bounded=False) | {"beta": float(beta), "N": int(sizes.max())}


def rank_corrected(M: np.ndarray, g: np.ndarray, t: np.ndarray, sample: Sample) -> dict[str, Any] | None:
    """Returns the chance-corrected rank bits in the full pool, as in results; None where no query has a candidate.

    'chance' is what a random ranking has of log2 N - E log2 rank, and what was subtracted from it. Args: M, g, t: integers [Q].
    """
    rows = np.flatnonzero(M >= 1)
    if not len(rows):
        return None
    sizes = M[rows] + 1
    fair = mean_log2_rank(np.zeros(len(rows), np.int64), M[rows])
    bits = sample.mean(fair - mean_log2_rank(g[rows], t[rows]), rows, bounded=False)
    return bits | {"N": int(sizes.max()), "chance": float((np.log2(sizes) - fair).mean())}


def mean_log2_rank(g: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Returns the mean of log2 over the ranks g + 1 .. g + t + 1, which ties broken at random make equally likely; float64 [Q]."""
    spread = (special.gammaln(g + t + 2.0) - special.gammaln(g + 1.0)) / (np.log(2) * (t + 1.0))
    return np.where(t > 0, spread, np.log2(g + 1.0))
