"""Rows that are equal byte for byte."""

import numpy as np


def unique_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (indices of the first row of each distinct value by bytes, group number per row), groups in order of first appearance."""
    if not len(rows):
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    raw = np.ascontiguousarray(rows)
    keys = raw.view(np.dtype((np.void, raw.dtype.itemsize * raw.shape[1]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return first[order].astype(np.int32), rank[inverse.ravel()]
