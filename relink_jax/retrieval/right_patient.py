"""Exact expected Recall@k when any report of the query's own patient counts as a hit ("right patient"), at any pool size.

The patient's other studies are then candidates like any other. Of those that score above the truth, and the truth last, the best one in
the pool decides: it is there, the better ones are not, and fewer than k strangers precede it. These cases exclude each other, so
their probabilities add up; each is a product of two terms of `pool_law`. Ties are not broken here: scores must differ.
"""

from collections.abc import Sequence

import numpy as np

from relink_jax import errors
from relink_jax.retrieval import expectation, pool_law


def recall(M: np.ndarray, g: np.ndarray, better: np.ndarray, offsets: np.ndarray, pool_size: int, ks: Sequence[int]) -> np.ndarray:
    """Returns the probability that a report of the query's patient is among the first k of a random pool that holds the truth, float64 [Q].

    Args:
        M: negatives of the true study [Q], the patient's other studies included.
        g: other-patient negatives above the truth [Q].
        better: of every other study of the patient above the truth, the number of other-patient negatives above that study, all queries
            in one row; query i has better[offsets[i]:offsets[i+1]], in any order.
        offsets: [Q + 1], from 0 to len(better).
        pool_size: N, the truth included.
    Raises: DataError: a query has fewer than N - 1 negatives, or inconsistent counts.
    """
    M, g, better, offsets = (np.asarray(x, dtype=np.int64) for x in (M, g, better, offsets))
    number = np.diff(offsets)
    if len(number) != len(M) or offsets[0] != 0 or offsets[-1] != len(better) or number.min(initial=0) < 0:
        raise errors.DataError(errors.describe("offsets", "right-patient recall", f"{len(M) + 1} rising numbers from 0 to {len(better)}", "others"))
    expectation.check(M, g, number, pool_size)
    owner = np.repeat(np.arange(len(M)), number)
    if ((better < 0) | (better > g[owner])).any():
        raise errors.DataError(errors.describe("better", "right-patient recall", "0 to g strangers above a study that beats the truth", "others"))
    better = better[np.lexsort((better, owner))]
    place = np.arange(len(better)) - offsets[owner]
    n = np.full_like(M, pool_size - 1)
    out = _missed(M, number, n) * _first(M - number, g, n, ks)
    M, n = M[owner] - place, n[owner]
    chosen = _missed(M + place, place, n) * (n / M) * _first(M - 1, better, n - 1, ks)
    for row, added in zip(out, chosen, strict=True):
        row += np.bincount(owner, added, minlength=len(row))
    return out


def chance(M: np.ndarray, others: np.ndarray, pool_size: int, k: int = 1) -> np.ndarray:
    """Returns what `recall` is for a random ranking, with `others` further studies of the patient among the M negatives; k <= pool_size.

    The first k are the truth, with chance k / N, or a random k of the M. At k = 1 this is (1 + (N - 1) others / M) / N.
    """
    return 1 - (1 - k / pool_size) * pool_law.probability(M, others, np.minimum(k, M), 0)


def _first(M: np.ndarray, above: np.ndarray, n: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Returns the chance per k that fewer than k of `above` are among n drawn of M; where n is beyond M, and none can be asked for, n is M."""
    return pool_law.fewer_than(M, above, np.minimum(n, M), ks)


def _missed(M: np.ndarray, marked: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Returns the probability that none of `marked` is among n drawn of M."""
    return pool_law.probability(M, marked, n, 0)
