"""Counts what `right_patient` needs: other studies of the query's patient that beat the truth, and how many strangers beat each of them.

Which of them beat the truth is decided by exact scores of these few pairs; strangers are counted by the counting pass, in which such a
study takes the place of the truth. Time: as many image rows again as there are images and distinct better scores of their patient's studies.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

from relink_jax.audit.right_patient import Siblings
from relink_jax.retrieval import counts, faster, loop, resume
from relink_jax.retrieval.counted import I2R, OTHER_PATIENT, Records, StratumCounts
from relink_jax.retrieval.layout import DEFAULT, Layout
from relink_jax.retrieval.product import FLOAT32
from relink_jax.store.rows import select

_PAIRS = 1 << 15  # images with other studies of their patient that are scored at a time


@dataclasses.dataclass(frozen=True)
class _Better:
    """Distinct scores above the truth: query, one study that has it, and how many have; int64 [n] by query, then best first."""

    query: np.ndarray
    study: np.ndarray
    studies: np.ndarray


def find(
    records: Records, counted: StratumCounts, mesh: Mesh, layout: Layout = DEFAULT, *, precision: str = FLOAT32, directory: resume.Place | None = None
) -> Siblings:
    """Returns the other studies of the patient of every image.

    Args:
        records: whose exclusion keys are patients. counted: other-patient counts of its images.
        mesh, layout, precision: of the further pass, as in `counts.count`. directory: where its finished parts are kept, if it is long.
    Raises: see `counts.count`.
    """
    others = np.bincount(records.exclusion)[records.exclusion[records.image_study]].astype(np.int64) - 1
    beside, better = _compare(records, others)
    found = _strangers(records, better, mesh, layout, precision, directory)
    offsets = np.searchsorted(better.query, np.arange(len(others) + 1))
    return Siblings(others, beside, offsets, better.studies, *_ordered(better.query, *found, counted.g))


def _compare(records: Records, others: np.ndarray) -> tuple[np.ndarray, _Better]:
    """Returns (other studies that tie with the truth int64 [Q], those above it)."""
    beside, parts = np.zeros(len(others), np.int64), [np.zeros((3, 0), np.int64)]
    for query, study in _pairs(records, others):
        own = records.image_study[query]
        ids = records.study_text[np.column_stack([own, study])]
        truth, score = faster.exact_scores(select(records.images, query), records.texts, ids).T
        beside += np.bincount(query[score == truth], minlength=len(beside))
        above = np.flatnonzero(score > truth)
        above = above[np.lexsort((study[above], -score[above], query[above]))]
        query, study, score = query[above], study[above], score[above]
        first = np.flatnonzero(np.concatenate([np.ones(min(len(query), 1), bool), (np.diff(query) != 0) | (np.diff(score) != 0)]))
        parts.append(np.stack([query[first], study[first], np.diff(np.append(first, len(query)))]))
    return beside, _Better(*np.concatenate(parts, axis=1))


def _pairs(records: Records, others: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (images, other studies of their patient) int64, some images at a time, all studies of an image together."""
    by_patient = np.argsort(records.exclusion, kind="stable")
    first = np.searchsorted(records.exclusion[by_patient], records.exclusion[records.image_study])
    ends = np.cumsum(others + 1)
    asked = 0
    while asked < len(others):
        until = max(asked + 1, int(np.searchsorted(ends, (ends[asked - 1] if asked else 0) + _PAIRS, "right")))
        many = others[asked:until] + 1
        query = np.repeat(np.arange(asked, until), many)
        place = np.arange(len(query)) - np.repeat(np.cumsum(many) - many, many)
        study = by_patient[first[query] + place]
        kept = study != records.image_study[query]
        if kept.any():
            yield query[kept], study[kept]
        asked = until


def _strangers(records: Records, better: _Better, mesh: Mesh, layout: Layout, precision: str, directory: resume.Place | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns (other-patient negatives above each better study, those that tie with it), int64 [n]; never more images at a time than there are."""
    greater, tied = np.zeros((2, len(better.query)), np.int64)
    for number, start in enumerate(range(0, len(better.query), len(records.images))):
        part = slice(start, start + len(records.images))
        images, study = select(records.images, better.query[part]), better.study[part].astype(np.int32)
        asked = dataclasses.replace(records, images=images, image_study=study, codes={}, block=None)
        kept = directory and loop.worth(asked, directory / f"part-{number}")
        found = counts.count(asked, mesh=mesh, top_k=0, layout=layout, precision=precision, directions=(I2R,), directory=kept)[I2R].strata[OTHER_PATIENT]
        greater[part], tied[part] = found.g, found.t
    return greater, tied


def _ordered(query: np.ndarray, greater: np.ndarray, tied: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the counts with strangers above one score never more than those that reach it, up to the truth's `g` [Q].

    Exact counts are so already; those of a float32 pass may differ by strangers within rounding of a score.
    """
    span = int(g.max(initial=0)) + 1
    shift = query * span  # keeps the running minimum, from the last query to the first, apart for each of them
    greater = np.minimum.accumulate((np.minimum(greater, g[query]) + shift)[::-1])[::-1] - shift
    last = np.append(np.diff(query) != 0, True)[: len(query)]
    limit = np.where(last, g[query], np.append(greater[1:], 0)[: len(query)])
    return greater, np.minimum(tied, limit - greater)
