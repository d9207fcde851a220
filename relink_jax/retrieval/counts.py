"""One streamed pass over all images and reports: exact counts of better and tied candidates for every query.

image -> report (i2r): the query is an image, the candidates are studies, the truth is the image's own study, scored by its
report. report -> image (r2i): the query is a study's report, the candidates are images, the truth is the *best* of the
study's own images (any of them is a link), and the study's other images are no candidates.

For each query and stratum: M eligible negatives, g that score above the truth, t that tie with it.
  other_patient: candidates whose exclusion key differs from the query's. The key is the patient (same-patient studies are
    neither right nor wrong, they are left out) or the study (same-patient studies count as wrong).
  further strata: those of them whose code equals the query study's; studies without a code neither ask nor answer.

A query's own text group is masked on the device and its eligible members are added to t on the host, so a duplicate of the right
report is a tie whatever the product rounds. Other identical rows get identical scores because a score has the same bits wherever
in a tile it is computed; thresholds come from the same product, and the count is refused if a tile does not hold them bit for bit.

Memory: one tile of scores per device, one batch of images, all candidates once per device; never images x studies.

Guarantees: the integers do not depend on mesh, batch or tile where scores are exact in float32 (small-integer embeddings); elsewhere
they differ only by candidates within rounding of the threshold.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from relink_jax.retrieval import eligible, engine, sweep
from relink_jax.retrieval.counted import I2R, OTHER_PATIENT, R2I, DirectionCounts, Records, StratumCounts


def count(
    records: Records,
    *,
    mesh: Mesh,
    top_k: int = 10,
    query_block: int = 0,
    tile: int = 0,
    split: str = sweep.SPLITS[0],
    directions: Sequence[str] = (I2R, R2I),
    lists: Sequence[str] = (I2R, R2I),
    directory: pathlib.Path | None = None,
) -> dict[str, DirectionCounts]:
    """Returns the counts of the directions asked for, by name.

    Args:
        mesh: 1-D mesh with axis 'data'.
        top_k: candidates kept per query; 0 keeps none.
        directions: what is counted; lists: for which of them candidates are kept. Those of r2i cost a second product, with the sides exchanged.
        query_block: images per step over all devices; tile: studies per tile; both rounded, 0 chooses for the device. Speed and memory only.
        split: what the devices share, 'images' or 'studies'. Memory only.
        directory: where finished parts of the passes are kept, so that a count that stops goes on where it was; None keeps none.
    Raises: StoreError: `directory` holds parts of another count. UnsoundError: a tile did not hold the scores of the true pairs bit for bit.
    """
    forward = engine.Engine(records, mesh, query_block, tile, split)
    wanted = sweep.Wanted(codes=len(records.codes), near=I2R in directions, studies=R2I in directions, k=top_k if I2R in directions and I2R in lists else 0)
    own = forward.own_scores()
    best, best_image = best_own(own, records.image_study, len(records.study_text))
    found = forward.run(wanted, own, best, best_image, "count links", directory and directory / "links")
    engine.check_seen(found.per_image[:, -1].sum(axis=0), np.ones(len(own)), "images")
    out = {}
    if I2R in directions:
        out[I2R] = _image_queries(records, own, found)
    if R2I in directions:
        engine.check_seen(found.per_study[:, -1].sum(axis=0), best_image >= 0, "studies")
        out[R2I] = _study_queries(records, best, found.per_study, _text_lists(records, mesh, top_k if R2I in lists else 0, query_block, tile, split, directory))
    return out


def best_own(own: np.ndarray, image_study: np.ndarray, n_studies: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (best own score float32 [S], +inf without an image; lowest number of an image that has it int32 [S], -2 without one)."""
    best = np.full(n_studies, -np.inf, np.float32)
    np.maximum.at(best, image_study, own)
    image = np.full(n_studies, np.iinfo(np.int32).max, np.int32)
    reached = np.flatnonzero(own == best[image_study]).astype(np.int32)
    np.minimum.at(image, image_study[reached], reached)
    none = np.isinf(best)
    return np.where(none, np.inf, best).astype(np.float32), np.where(none, -2, image).astype(np.int32)


def _text_lists(records: Records, mesh: Mesh, k: int, query_block: int, tile: int, split: str, directory: pathlib.Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best images of every distinct text, numbers int32 and scores float32 [U, k], from a pass with the sides exchanged."""
    n_texts, numbers = len(records.texts), np.arange(len(records.images), dtype=np.int32)
    if not k:
        return np.zeros((n_texts, 0), np.int32), np.zeros((n_texts, 0), np.float32)
    exchanged = Records(records.texts, np.zeros(n_texts, np.int32), records.images, numbers, numbers, {})
    wanted = sweep.Wanted(codes=0, near=False, studies=False, k=k)
    nothing = np.full(n_texts, np.inf, np.float32), np.full(len(numbers), np.inf, np.float32), np.full(len(numbers), -2, np.int32)
    found = engine.Engine(exchanged, mesh, query_block, tile, split).run(wanted, *nothing, "list images", directory and directory / "lists")
    return found.top_id, found.top_score


def _image_queries(records: Records, own: np.ndarray, found: engine.Found) -> DirectionCounts:
    asked = records.image_study
    query_codes = {name: code[asked] for name, code in records.codes.items()}
    keys, texts = records.exclusion, records.study_text

    def strata(counts: np.ndarray, among: Any) -> tuple[dict[str, StratumCounts], np.ndarray]:
        codes = {name: code[among] for name, code in records.codes.items()}
        M = eligible.sizes(keys[among], codes, keys[asked], query_codes)
        twins = eligible.sizes(keys[among], codes, keys[asked], query_codes, texts[among], texts[asked])
        return {name: StratumCounts(M[name], counts[2 * row].astype(np.int64), counts[2 * row + 1] + twins[name]) for row, name in enumerate(M)}, twins[
            OTHER_PATIENT
        ]

    whole, twins = strata(found.per_image.sum(axis=0, dtype=np.int64), slice(None))
    near = found.per_image[:, -3:-1].sum(axis=0, dtype=np.int64)
    blocks = (
        _by_stratum([strata(found.per_image[number], records.block == number)[0] for number in range(records.n_blocks)]) if records.block is not None else {}
    )
    query = np.arange(len(asked), dtype=np.int32)
    return DirectionCounts(query, own, whole, found.top_id, found.top_score, np.column_stack([*near, twins]), blocks)


def _study_queries(records: Records, best: np.ndarray, per_study: np.ndarray, lists: tuple[np.ndarray, np.ndarray]) -> DirectionCounts:
    query = np.unique(records.image_study).astype(np.int32)
    keys = records.exclusion
    query_codes = {name: code[query] for name, code in records.codes.items()}

    def strata(counts: np.ndarray, images: np.ndarray) -> dict[str, StratumCounts]:
        codes = {name: code[images] for name, code in records.codes.items()}
        M = eligible.sizes(keys[images], codes, keys[query], query_codes)
        return {
            name: StratumCounts(M[name], counts[2 * row, query].astype(np.int64), counts[2 * row + 1, query].astype(np.int64)) for row, name in enumerate(M)
        }

    blocks = {}
    if records.block is not None:
        image_block = records.block[records.image_study]
        blocks = _by_stratum([strata(per_study[number], records.image_study[image_block == number]) for number in range(records.n_blocks)])
    text = records.study_text[query]
    return DirectionCounts(query, best[query], strata(per_study.sum(axis=0), records.image_study), lists[0][text], lists[1][text], blocks=blocks)


def _by_stratum(by_block: list[dict[str, StratumCounts]]) -> dict[str, list[StratumCounts]]:
    return {name: [block[name] for block in by_block] for name in by_block[0]}
