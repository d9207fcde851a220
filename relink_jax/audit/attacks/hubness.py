"""Hubness: reports that are among the nearest of far more images than their share.

Source: Radovanović, Nanopoulos and Ivanović (2010), Journal of Machine Learning Research 11, 2487-2531.
"""

from typing import Any

import numpy as np

from relink_jax import errors

K = 10


def hubness(top_id: np.ndarray, n_candidates: int) -> dict[str, Any]:
    """Returns {'n10_skew', 'max_n1', 'k'}: skewness over candidates of how many queries list them, the most queries that list one first, and k.

    Args:
        top_id: int [Q, L], candidate numbers of each query's best by falling score, -1 for none; the first 10 count, or all where L is less.
        n_candidates: S. Candidates that nobody lists count 0.
    Raises: DataError: no lists, or a number that is no candidate's.
    """
    if np.ndim(top_id) != 2 or not top_id.shape[1] or top_id.max(initial=-1) >= n_candidates:
        found = f"lists of shape {list(np.shape(top_id))} up to number {np.max(top_id, initial=-1)}"
        raise errors.DataError(errors.describe("top lists", "hubness", f"lists of at least 1, with numbers below {n_candidates}", found))
    k = min(K, top_id.shape[1])
    first, listed = (np.bincount(ids[ids >= 0], minlength=n_candidates) for ids in (top_id[:, 0], top_id[:, :k]))
    apart = listed - listed.mean()
    spread = np.sqrt((apart**2).mean())
    return {"n10_skew": float((apart**3).mean() / spread**3) if spread > 0 else 0.0, "max_n1": int(first.max(initial=0)), "k": k}
