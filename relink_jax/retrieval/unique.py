"""Rows that are equal byte for byte."""

import hashlib

import numpy as np

from relink_jax.store.rows import RowSource, blocks


def unique_rows(rows: RowSource) -> tuple[np.ndarray, np.ndarray]:
    """Returns (indices of the first row of each distinct value by bytes, group number per row), groups in order of first appearance.

    Reads the rows once, in order, and keeps only the SHA-256 of each distinct one.
    """
    number: dict[bytes, int] = {}
    first: list[int] = []
    group = np.empty(len(rows), np.int32)
    for part in blocks(rows):
        for place, row in enumerate(np.ascontiguousarray(rows[part]), part.start):
            group[place] = number.setdefault(hashlib.sha256(row).digest(), len(number))
            if len(number) > len(first):
                first.append(place)
    return np.array(first, np.int32), group
