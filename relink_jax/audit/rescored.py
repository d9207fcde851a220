"""Scores in float64 for what a pass leaves open: a query's own patient's studies, and all candidates of the few queries that need them again.

Products of float32 numbers are exact in float64, so these scores differ from those of a pass by no more than the pass rounds.
"""

from collections.abc import Iterator

import numpy as np

from relink_jax.retrieval import faster
from relink_jax.retrieval.counted import Records
from relink_jax.runtime import progress
from relink_jax.store.rows import blocks, select

_QUERIES = 256
_PAIRS = 1 << 15


def own_scores(records: Records) -> np.ndarray:
    """Returns the score of every image with its own report, float64 [Q]."""
    return faster.exact_scores(records.images, records.texts, records.study_text[records.image_study][:, None])[:, 0]


def excluded(records: Records, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (place in `rows`, study) of each pair of an image `rows` [n] and a study of its exclusion key, its own too; int64 [L], places rising."""
    order = np.argsort(records.exclusion, kind="stable")
    keys = records.exclusion[order]
    asked = records.exclusion[records.image_study[rows]]
    first, last = np.searchsorted(keys, asked, "left"), np.searchsorted(keys, asked, "right")
    owner = np.repeat(np.arange(len(rows)), last - first)
    inside = np.arange(len(owner)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
    return owner, order[first[owner] + inside]


def pair_scores(records: Records, images: np.ndarray, studies: np.ndarray) -> np.ndarray:
    """Returns scores float64 [L] of pairs of image and study numbers [L]."""
    out = np.empty(len(images))
    for first in range(0, len(images), _PAIRS):
        part = slice(first, first + _PAIRS)
        out[part] = faster.exact_scores(select(records.images, images[part]), records.texts, records.study_text[studies[part]][:, None])[:, 0]
    return out


def eligible_scores(records: Records, rows: np.ndarray, what: str) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yields (part of `rows`, scores float64 [R, T], copies int64 [R, T]) of images `rows` [n] against blocks of T distinct reports.

    `copies` counts the studies with that report whose exclusion key is not the image's; all blocks of one part follow each other.

    Args: what: words for the progress bar.
    """
    multiplicity = np.bincount(records.study_text, minlength=len(records.texts))
    with progress.bar(len(rows), what, "queries") as shown:
        for first in range(0, len(rows), _QUERIES):
            part = slice(first, min(first + _QUERIES, len(rows)))
            queries = records.images[rows[part]].astype(np.float64)
            owner, study = excluded(records, rows[part])
            text = records.study_text[study]
            for block in blocks(records.texts):
                scores = queries @ records.texts[block].astype(np.float64).T
                copies = np.tile(multiplicity[block], (len(queries), 1))
                here = (text >= block.start) & (text < block.stop)
                np.subtract.at(copies, (owner[here], text[here] - block.start), 1)
                yield part, scores, copies
            shown.update(len(queries))
