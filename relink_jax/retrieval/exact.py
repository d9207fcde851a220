"""Counting in float32, the reference: thresholds are the scores of the true pairs with the very bits that a tile holds."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jax.sharding import Mesh

from relink_jax.retrieval import limits, loop, resume, sides
from relink_jax.retrieval.counted import Records
from relink_jax.retrieval.layout import Layout
from relink_jax.retrieval.product import FLOAT32
from relink_jax.store.rows import select

Lists = tuple[np.ndarray, np.ndarray]  # numbers int32 and scores float32 [n, k] of the best candidates


@dataclasses.dataclass(frozen=True)
class Linked:
    """What a pass over images and studies found, in the order of numbers.

    Attributes:
        own: float32 [Q], score of each image's own report; best: float32 [S], best own score of each study, +inf without an image.
        per_image, per_study: int32 [J, answers, Q] and [J, answers, S]; two answers per stratum, candidates above the threshold and
            those that reach it.
        near: int64 [2, Q], other-patient candidates above threshold + 1e-6, and those that reach threshold - 1e-6.
        lists: best studies of each image.
        settling: how a faster precision came to the integers of images and of studies, see `faster`; empty in float32.
    """

    own: np.ndarray
    best: np.ndarray
    per_image: np.ndarray
    per_study: np.ndarray
    near: np.ndarray
    lists: Lists
    settling: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {})


@dataclasses.dataclass(frozen=True)
class Pass:
    """Passes in float32 on one mesh in one layout."""

    mesh: Mesh
    layout: Layout

    def links(self, records: Records, studies: bool, k: int, kept: resume.Place | None, what: str = "count links") -> Linked:
        """Returns what images find among studies, with lists of k, and, if asked, what studies find among images.

        Raises: UnsoundError: a tile did not hold the scores of the true pairs bit for bit. StoreError: see `loop.run`.
        """
        wanted = sides.Wanted(codes=len(records.codes), studies=studies, k=k)
        work = resume.arranged(records, self.mesh, self.layout, FLOAT32, wanted, kept, what)
        own = work.own_scores(wanted)
        around = limits.exact(own, records.image_study, len(records.study_text))
        found = loop.run(work, wanted, around, what, kept)
        check(found, around)
        near = found.per_image[:, -3:-1].sum(axis=0, dtype=np.int64)
        return Linked(own, around.study_high, found.per_image[:, :-3], found.per_study[:, :-1], near, (found.top_id, found.top_score))

    def lists(self, records: Records, k: int, kept: resume.Place | None = None, what: str = "list images") -> Lists:
        """Returns the best k studies of each image."""
        n = len(records.images)
        if not k:
            return np.zeros((n, 0), np.int32), np.zeros((n, 0), np.float32)
        wanted = sides.Wanted(codes=0, near=False, studies=False, k=k)
        plain = dataclasses.replace(records, codes={})
        work = resume.arranged(plain, self.mesh, self.layout, FLOAT32, wanted, kept, what)
        found = loop.run(work, wanted, limits.nowhere(n, len(records.study_text)), what, kept)
        return found.top_id, found.top_score


def check(found: loop.Found, around: limits.Limits) -> None:
    """Raises `UnsoundError` unless the stream met every true pair once, inside its limits."""
    loop.check_seen(found.per_image[:, -1].sum(axis=0), np.ones(len(around.image_low)), "images")
    if found.per_study.shape[2]:
        loop.check_seen(found.per_study[:, -1].sum(axis=0), around.best_image >= 0, "studies")


def by_text(records: Records) -> Records:
    """Returns records with the sides exchanged, whose 'images' are the distinct texts and whose 'studies' are the images; for lists."""
    numbers = np.arange(len(records.images), dtype=np.int32)
    return Records(records.texts, np.zeros(len(records.texts), np.int32), records.images, numbers, numbers, {})


def by_study(records: Records, best_image: np.ndarray, studies: np.ndarray) -> Records:
    """Returns records with the sides exchanged, whose 'images' are the reports of `studies` [n] and whose 'studies' are the images.

    The truth of each is its best own image; its other own images share its exclusion key.
    """
    of_image = records.image_study
    return Records(
        select(records.texts, records.study_text[studies]),
        best_image[studies],
        records.images,
        np.arange(len(of_image), dtype=np.int32),
        records.exclusion[of_image],
        {name: code[of_image] for name, code in records.codes.items()},
        None if records.block is None else records.block[of_image],
    )


def some(records: Records, rows: np.ndarray) -> Records:
    """Returns the records of images `rows` alone, among all studies."""
    return dataclasses.replace(records, images=select(records.images, rows), image_study=records.image_study[rows])
