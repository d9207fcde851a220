"""Counting at a precision that rounds more than float32, with the integers of exact scores.

A pass at such a precision knows each score up to a band that is certified (`product.band`). Candidates above the band around the truth
are better, those below it are worse. Those inside are found by a second pass over the queries that have any, scored again in float64 and
counted as they really stand. A query with more than `INSIDE` of them, or a list that the band leaves open, is counted again in float32,
and how many these were is told. So the integers are those of exact scores; float32 gives the same up to candidates within its own
rounding of the threshold, the interval that `DirectionCounts.near` states.
"""

import concurrent.futures
import dataclasses
import os

import numpy as np
from jax.sharding import Mesh

from relink_jax.retrieval import exact, limits, loop, product, resume, sides, tally
from relink_jax.retrieval.counted import Records
from relink_jax.retrieval.layout import AUTO, Layout
from relink_jax.store.rows import RowSource

INSIDE = 256  # candidates inside a query's band that are scored again
_CHUNK = 1 << 22  # numbers gathered at a time and thread
_SPARE = 16  # candidates listed beyond k, or half of k, so that lists close


@dataclasses.dataclass
class _Asked:
    """One direction as images asking for studies: its records, exact scores of the truths, limits, and answers so far [J, answers, n]."""

    records: Records
    own: np.ndarray
    around: limits.Limits
    answers: np.ndarray
    near: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pass:
    """Passes at one precision on one mesh in one layout; the methods of `exact.Pass`."""

    mesh: Mesh
    layout: Layout
    precision: str

    @property
    def _plain(self) -> exact.Pass:
        """Passes in float32 for what this one leaves open; a kernel that is forced here need not exist for them."""
        return exact.Pass(self.mesh, dataclasses.replace(self.layout, kernel=AUTO))

    def links(self, records: Records, studies: bool, k: int, kept: resume.Place | None) -> exact.Linked:
        """Returns what `exact.Pass.links` does, for exact scores. Raises: UnsoundError: a true pair was not met inside its band."""
        n_studies = len(records.study_text)
        own, image_band, around = banded(records, self.precision)
        wanted = sides.Wanted(codes=len(records.codes), near=False, studies=studies, k=_listed(k, n_studies))
        found = self._run(records, wanted, around, "count links", kept and kept / "all")
        exact.check(found, around)
        images = _Asked(records, own, around, found.per_image[:, :-1].copy(), np.tile(found.per_image[:, 0].sum(axis=0, dtype=np.int64), (2, 1)))
        told: tuple[dict[str, float], dict[str, float]] = self._settle(images, kept and kept / "images", "settle images"), {}
        lists = self._close(records, k, (found.top_id, found.top_score), image_band, kept and kept / "listed")
        per_study, best = found.per_study[:, :-1].copy(), limits.best_own(own, records.image_study, n_studies)[0]
        if studies:
            asking = np.flatnonzero(around.best_image >= 0)
            low, high = around.study_low[asking], around.study_high[asking]
            exchanged = exact.by_study(records, around.best_image, asking)
            given = dataclasses.replace(limits.nowhere(len(asking), len(own)), image_low=low, image_high=high)
            side = _Asked(exchanged, best[asking], given, per_study[:, :, asking], np.zeros((2, len(asking)), np.int64))
            told[1].update(self._settle(side, kept and kept / "studies", "settle studies"))
            per_study[:, :, asking] = side.answers
        return exact.Linked(own.astype(np.float32), best.astype(np.float32), images.answers, per_study, images.near, lists, told)

    def lists(self, records: Records, k: int, kept: resume.Place | None = None) -> exact.Lists:
        """Returns what `exact.Pass.lists` does, in the order of exact scores."""
        n, n_studies = len(records.images), len(records.study_text)
        if not k:
            return self._plain.lists(records, 0)
        wanted = sides.Wanted(codes=0, near=False, studies=False, k=_listed(k, n_studies))
        found = self._run(records, wanted, limits.nowhere(n, n_studies), "list images", kept and kept / "all")
        band = product.band(records.images, product.extent(records.texts, self.precision), self.precision)
        return self._close(records, k, (found.top_id, found.top_score), band, kept and kept / "listed")

    def _run(self, records: Records, wanted: sides.Wanted, around: limits.Limits, what: str, kept: resume.Place | None) -> loop.Found:
        work = resume.arranged(records, self.mesh, self.layout, self.precision, wanted, kept, what)
        return loop.run(work, wanted, around, what, kept)

    def _settle(self, asked: _Asked, kept: resume.Place | None, what: str) -> dict[str, float]:
        """Turns the answers of one direction into those of exact scores, and returns how."""
        inside = (asked.answers[:, 1] - asked.answers[:, 0]).sum(axis=0)
        few = np.flatnonzero((inside > 0) & (inside <= INSIDE))
        many = np.flatnonzero(inside > INSIDE)
        if len(few):
            plain = dataclasses.replace(exact.some(asked.records, few), codes={}, block=None)
            around = dataclasses.replace(asked.around, image_low=asked.around.image_low[few], image_high=asked.around.image_high[few])
            wanted = sides.Wanted(codes=0, near=False, studies=False, k=min(INSIDE, len(plain.study_text)), within=True)
            ids = self._run(plain, wanted, around, what, kept and kept / "inside").top_id
            missed = (ids >= 0).sum(axis=1) != inside[few]
            many = np.sort(np.concatenate([many, few[missed]]))
            _add(asked, few[~missed], ids[~missed])
        if len(many):
            again = self._plain.links(exact.some(asked.records, many), False, 0, kept and kept / "float32", what)
            asked.answers[:, :, many], asked.near[:, many] = again.per_image, again.near
        band = float((asked.around.image_high - asked.own).max(initial=0.0))
        counted = {"queries_inside": int((inside > 0).sum()), "pairs_rescored": int(inside[few].sum()), "queries_recounted": len(many)}
        return {"band": band, **counted}

    def _close(self, records: Records, k: int, found: exact.Lists, band: np.ndarray, kept: resume.Place | None) -> exact.Lists:
        """Returns the best k of longer lists by exact scores; those that the band leaves open are made again in float32."""
        ids, rough = found
        if not k:
            return ids[:, :0], rough[:, :0]
        scores = exact_scores(records.images, records.texts, np.where(ids >= 0, records.study_text[np.maximum(ids, 0)], -1))
        place = ids.astype(np.int64) if records.block is None else records.block[ids] * np.int64(len(records.study_text)) + ids
        order = np.lexsort((place, -scores), axis=1)[:, :k]
        ids_out, best = np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
        left = np.flatnonzero((ids[:, -1] >= 0) & (ids.shape[1] < len(records.study_text)) & ~(best[:, -1] > rough.min(axis=1) + band))
        best = best.astype(np.float32)
        if len(left):
            ids_out[left], best[left] = self._plain.lists(exact.some(records, left), k, kept, "list again")
        return ids_out, best


def banded(records: Records, precision: str) -> tuple[np.ndarray, np.ndarray, limits.Limits]:
    """Returns (float64 scores of the true pairs [Q], band of each image [Q], limits of both sides) that a pass at `precision` counts between."""
    own = exact_scores(records.images, records.texts, records.study_text[records.image_study][:, None])[:, 0]
    image_band = product.band(records.images, product.extent(records.texts, precision), precision)
    text_band = product.band(records.texts, product.extent(records.images, precision), precision)
    return own, image_band, limits.banded(own, records.image_study, len(records.study_text), image_band, text_band[records.study_text])


def exact_scores(queries: RowSource, candidates: RowSource, ids: np.ndarray) -> np.ndarray:
    """Returns float64 scores [n, K] of queries [n, D] against candidates `ids` int [n, K]; -inf where an id is negative.

    Products of float32 numbers are exact in float64, and every score is added in one order, so equal rows have equal scores.
    """
    out = np.empty(ids.shape, np.float64)
    rows = max(1, _CHUNK // max(1, ids.shape[1] * queries.shape[1]))

    def score(first: int) -> None:
        part = slice(first, first + rows)
        gathered = candidates[np.maximum(ids[part], 0).ravel()].reshape(*ids[part].shape, -1).astype(np.float64)
        out[part] = np.einsum("nd,nkd->nk", queries[part].astype(np.float64), gathered)

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        list(threads.map(score, range(0, len(ids), rows)))
    out[ids < 0] = -np.inf
    return out


def _listed(k: int, n: int) -> int:
    return min(k + max(_SPARE, k // 2), n) if k else 0


def _add(asked: _Asked, rows: np.ndarray, ids: np.ndarray) -> None:
    """Counts the candidates `ids` [n, K] inside the bands of queries `rows` [n] as their exact scores say, in place."""
    records = asked.records
    study = records.image_study[rows]
    own_and_found = np.concatenate([study[:, None], ids], axis=1)
    scores = exact_scores(records.images[rows], records.texts, np.where(own_and_found >= 0, records.study_text[np.maximum(own_and_found, 0)], -1))
    truth, scores, real = scores[:, :1], scores[:, 1:], ids >= 0
    asked.near[:, rows] += np.stack([(real & (scores > truth + tally.DELTA)).sum(axis=1), (real & (scores >= truth - tally.DELTA)).sum(axis=1)])
    block = np.zeros_like(ids) if records.block is None else records.block[ids]
    members = [real, *(real & (code[ids] == code[study][:, None]) & (code[study] >= 0)[:, None] for code in records.codes.values())]
    for number, member in enumerate(members):
        above, reached = asked.answers[:, 2 * number], asked.answers[:, 2 * number + 1]
        reached[:, rows] = above[:, rows]
        for answer, counted in ((above, scores > truth), (reached, scores >= truth)):
            which, column = np.nonzero(member & counted)
            np.add.at(answer, (block[which, column], rows[which]), 1)
