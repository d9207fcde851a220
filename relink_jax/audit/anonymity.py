"""How many reports an image cannot tell from its own: the sizes of its anonymity sets, by score and by text."""

from typing import Any

import numpy as np


def section(tied: np.ndarray, duplicates: np.ndarray | None = None) -> dict[str, Any]:
    """Returns {'by_score', 'by_text'} of image queries, each {'unique_share', 'median', 'p99', 'max'} of set sizes, the right report counted.

    Args:
        tied: other-patient negatives with the score of the truth in the whole pool, int [Q].
        duplicates: other-patient negatives with the very text of the truth, int [Q]; None leaves `by_text` out.
    """
    sets = {"by_score": tied, "by_text": duplicates}
    return {name: _sizes(1 + np.asarray(others, np.int64)) for name, others in sets.items() if others is not None and len(others)}


def _sizes(sizes: np.ndarray) -> dict[str, Any]:
    return {
        "unique_share": float((sizes == 1).mean()),
        "median": float(np.median(sizes)),
        "p99": float(np.quantile(sizes, 0.99, method="inverted_cdf")),
        "max": int(sizes.max()),
    }
