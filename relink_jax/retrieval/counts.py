"""One streamed pass over all images and reports: exact counts of better and tied candidates for every query.

image -> report (i2r): the query is an image, the candidates are studies, the truth is the image's own study, scored by its
report. report -> image (r2i): the query is a study's report, the candidates are images, the truth is the *best* of the
study's own images (any of them is a link), and the study's other images are no candidates.

For each query and stratum: M eligible negatives, g that score above the truth, t that tie with it.
  other_patient: candidates whose exclusion key differs from the query's. The key is the patient (same-patient studies are
    neither right nor wrong, they are left out) or the study (same-patient studies count as wrong).
  label_matched: those of them whose label code equals the query study's; unlabelled studies neither ask nor answer.

Studies with byte-identical report embeddings share one score. A query's own text group is masked on the device and its
eligible members are added to t on the host, so a duplicate of the right report is a tie whatever the matmul rounds.
Memory: one tile of scores per device, one block of images, all distinct texts; never images x studies.

Guarantees: the integers do not depend on mesh, block or tile where scores are exact in float32 (small-integer embeddings);
elsewhere they differ only by candidates within rounding of the threshold. A score is computed once per (distinct image,
distinct text), and thresholds are read by the same program in a first partial pass; if the second pass does not reproduce
them bit for bit, the count is refused.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from relink_jax import errors
from relink_jax.retrieval import sweep, tiles, toplists
from relink_jax.retrieval.counted import I2R, LABEL_MATCHED, OTHER_PATIENT, R2I, DirectionCounts, StratumCounts
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress


@dataclasses.dataclass(frozen=True)
class Records:
    """What is counted: image and study tables joined by number.

    Attributes:
        images: embeddings float32 [Q, D]; scores are inner products, cosines when rows are unit-norm.
        image_study: int32 [Q], study of each image.
        texts: distinct report embeddings float32 [U, D], distinct by bytes, numbered by the first study that has them.
        study_text: int32 [S], row of `texts` of each study.
        exclusion: int32 [S], studies with equal values are not each other's candidates: patient or study numbers.
        study_code: int32 [S], label code, -1 unlabelled.
    """

    images: np.ndarray
    image_study: np.ndarray
    texts: np.ndarray
    study_text: np.ndarray
    exclusion: np.ndarray
    study_code: np.ndarray


def count(records: Records, *, mesh: Mesh, top_k: int = 10, query_block: int = 1024, tile: int = 2048) -> dict[str, DirectionCounts]:
    """Returns the counts of both directions, keyed 'i2r' and 'r2i'.

    Args:
        mesh: 1-D mesh with axis 'data'; images are split over it.
        top_k: candidates kept per query; 0 keeps none.
        query_block: images per device step over all devices. tile: studies per tile. Both: speed and memory only.
    Raises:
        DataError: texts not numbered by the first study that has them.
        UnsoundError: the device did not reproduce its own scores between the two passes.
    """
    n_images, n_studies = len(records.images), len(records.study_text)
    if not np.array_equal(records.study_text[np.sort(np.unique(records.study_text, return_index=True)[1])], np.arange(len(records.texts))):
        raise errors.DataError(errors.describe("texts out of order", "counting pass", "every text numbered by the first study that has it", "another order"))
    image_first, image_group = tiles.unique_rows(records.images)
    share = -(-min(query_block, n_images) // mesh.size)
    images = tiles.pack(image_group, _shape(max(share, top_k), sweep.PACKED))
    studies = tiles.pack(records.study_text, _shape(max(min(tile, n_studies), top_k), 128))
    step = sweep.program(mesh, top_k, len(image_first) < n_images, len(records.texts) < n_studies)
    work = _Pass(records, images, studies, image_first, mesh, step, top_k)
    columns = _study_side(records, studies)
    own = work.own_scores(columns)
    best_own = np.full(n_studies, -np.inf, np.float32)
    np.maximum.at(best_own, records.image_study, own)
    threshold = np.where(np.isfinite(best_own), best_own, np.inf).astype(np.float32)
    columns = columns._replace(threshold=_take(threshold, columns.study, np.inf))
    per_image, image_top, state = work.sums(columns, own)
    per_study = np.asarray(state.counts, dtype=np.int64)[studies.locate(n_studies)]
    text_top = toplists.empty(len(records.texts), top_k)
    text_top.fill(columns.group.ravel(), columns.lead.ravel(), *(np.asarray(array).reshape(columns.lead.size, top_k) for array in state[1:]))
    image_list = toplists.expand(image_top, records.study_text, top_k)
    text_list = toplists.expand(text_top, image_group, top_k)
    return {I2R: _image_queries(records, own, per_image, image_group, image_list), R2I: _study_queries(records, best_own, per_study, text_list)}


@dataclasses.dataclass(frozen=True)
class _Pass:
    """The compiled step and the packed sides it runs over, one block of image tiles (one per device) at a time."""

    records: Records
    images: tiles.Packing
    studies: tiles.Packing
    image_first: np.ndarray
    mesh: Mesh
    step: Callable[..., tuple[sweep.ImageState, sweep.StudyState]]
    top_k: int

    def own_scores(self, columns: sweep.Side) -> np.ndarray:
        """Returns the score of every image against its own report, float32 [Q], visiting only the tiles that hold one.

        Costs little when images and studies come in similar order, and one extra pass when they do not.
        """
        tile_of_study, _ = self.studies.locate(len(self.records.study_text))
        device_columns, state = self._replicated(columns), self._empty(columns)
        own = np.full(len(self.records.images), np.inf, np.float32)
        for rows in self._blocks():
            members = _spread(self.images.member, rows, -1)
            real = members[members >= 0]
            visited = tile_of_study[self.records.image_study[real]]
            found, _ = self.step(self._block(rows, own), device_columns, state, np.int32(visited.min()), np.int32(visited.max() + 1))
            own[real] = np.asarray(found.own).view(np.float32)[members >= 0]
        return own

    def sums(self, columns: sweep.Side, own: np.ndarray) -> tuple[np.ndarray, toplists.GroupTop, sweep.StudyState]:
        """Returns (counts per image [Q, 6], best texts per distinct image, study state) of the full pass with thresholds `own`."""
        device_columns, state = self._replicated(columns), self._empty(columns)
        per_image, top = np.zeros((len(own), 6), np.int64), toplists.empty(len(self.image_first), self.top_k)
        with progress.bar(len(own), "count links", "images") as shown:
            for rows in self._blocks():
                members = _spread(self.images.member, rows, -1)
                real = members[members >= 0]
                found, state = self.step(self._block(rows, own), device_columns, state, np.int32(0), np.int32(self.studies.n_tiles))
                if not np.array_equal(np.asarray(found.own).view(np.float32)[members >= 0], own[real]):
                    expected = "bit-identical scores of the true pairs"
                    raise errors.UnsoundError(
                        errors.describe("scores changed between passes", "counting pass", expected, "different ones; this device is not deterministic")
                    )
                per_image[real] = np.asarray(found.counts)[members >= 0]
                top.fill(_spread(self.images.group, rows, -1), _spread(self.images.lead, rows, False), found.top_score, found.top_group)
                shown.update(len(real))
        return per_image, top, state

    def _blocks(self) -> list[np.ndarray]:
        return [np.arange(first, first + self.mesh.size) for first in range(0, self.images.n_tiles, self.mesh.size)]

    def _block(self, rows: np.ndarray, threshold: np.ndarray) -> sweep.Side:
        return _put(_image_side(self.records, self.images, self.image_first, rows, threshold), meshes.rows(self.mesh))

    def _replicated(self, columns: sweep.Side) -> sweep.Side:
        return _put(columns, meshes.replicated(self.mesh))

    def _empty(self, columns: sweep.Side) -> sweep.StudyState:
        return _put(sweep.empty_studies(columns.group.shape[0], columns.group.shape[1], self.top_k), meshes.replicated(self.mesh))


def _image_queries(records: Records, own: np.ndarray, per_image: np.ndarray, image_group: np.ndarray, top: Any) -> DirectionCounts:
    asked = records.image_study
    keys, codes, texts = records.exclusion, records.study_code, records.study_text
    sizes = _eligible(keys, codes, keys[asked], codes[asked])
    same_text = _eligible(keys, codes, keys[asked], codes[asked], texts, texts[asked])
    strata = {
        name: StratumCounts(sizes[row], per_image[:, 2 * row], per_image[:, 2 * row + 1] + same_text[row])
        for row, name in enumerate((OTHER_PATIENT, LABEL_MATCHED))
    }
    return DirectionCounts(
        np.arange(len(asked), dtype=np.int32), own, strata, top[0][image_group], top[1][image_group], np.column_stack([per_image[:, 4:], same_text[0]])
    )


def _study_queries(records: Records, best_own: np.ndarray, per_study: np.ndarray, top: Any) -> DirectionCounts:
    query = np.unique(records.image_study).astype(np.int32)
    keys, codes = records.exclusion, records.study_code
    sizes = _eligible(keys[records.image_study], codes[records.image_study], keys[query], codes[query])
    strata = {
        name: StratumCounts(sizes[row], per_study[query, 2 * row], per_study[query, 2 * row + 1]) for row, name in enumerate((OTHER_PATIENT, LABEL_MATCHED))
    }
    text = records.study_text[query]
    return DirectionCounts(query, best_own[query], strata, top[0][text], top[1][text])


def _eligible(
    keys: np.ndarray, codes: np.ndarray, query_keys: np.ndarray, query_codes: np.ndarray, texts: Any = 0, query_texts: Any = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many candidates each query has in (other_patient, label_matched), among those of the same text when texts are given."""
    span, key_span = int(codes.max(initial=0)) + 1, int(keys.max(initial=0)) + 1
    labelled = codes >= 0
    text, query_text = np.broadcast_to(np.int64(texts), keys.shape), np.broadcast_to(np.int64(query_texts), query_keys.shape)
    cell, query_cell = text * span + codes, query_text * span + query_codes
    other = _tally(text, query_text) - _tally(text * key_span + keys, query_text * key_span + query_keys)
    matched = _tally(cell[labelled], query_cell) - _tally((cell * key_span + keys)[labelled], query_cell * key_span + query_keys)
    return other, np.where(query_codes >= 0, matched, 0)


def _tally(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns how many of `values` equal each of `wanted`, int64."""
    known = np.sort(values)
    return np.searchsorted(known, wanted, "right") - np.searchsorted(known, wanted, "left")


def _study_side(records: Records, packing: tiles.Packing) -> sweep.Side:
    """Returns all report tiles, their number rounded up (1, 2, 4, 8, 16, 24, ...) so that cohorts of similar size share one compilation."""
    n = packing.n_tiles
    rows = np.arange(1 << (n - 1).bit_length() if n <= 8 else meshes.padded(n, 8))
    member, group, lead, slot = _tiles(packing, rows)
    key, text, code = (_take(array, member, -1) for array in (records.exclusion, records.study_text, records.study_code))
    flat = sweep.Side(_take(records.texts, group, 0), lead, group, slot, member, key, text, code, np.full(len(member), np.inf, np.float32))
    return sweep.Side(*(array.reshape(len(rows), -1, *array.shape[1:]) for array in flat))


def _image_side(records: Records, packing: tiles.Packing, first: np.ndarray, rows: np.ndarray, threshold: np.ndarray) -> sweep.Side:
    """Returns the block of image tiles `rows`, end to end; tiles past the last are padding. `first`: image of each distinct row."""
    member, group, lead, slot = _tiles(packing, rows)
    study = _take(records.image_study, member, -1)
    key, text, code = (_take(array, study, -1) for array in (records.exclusion, records.study_text, records.study_code))
    return sweep.Side(_take(records.images, _take(first, group, -1), 0), lead, group, slot, study, key, text, code, _take(threshold, member, np.inf))


def _tiles(packing: tiles.Packing, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (member, group, lead, slot) of tiles `rows`, end to end."""
    return _spread(packing.member, rows, -1), _spread(packing.group, rows, -1), _spread(packing.lead, rows, False), _spread(packing.slot, rows, 0)


def _spread(array: np.ndarray, rows: np.ndarray, fill: Any) -> np.ndarray:
    """Returns tiles `rows` of a packed array [n_tiles, width] end to end, with `fill` for tiles past the last."""
    return np.concatenate([array[row] if row < len(array) else np.full_like(array[0], fill) for row in rows])


def _take(array: np.ndarray, index: np.ndarray, fill: Any) -> np.ndarray:
    """Returns array[index], with `fill` where the index is -1."""
    taken = array[np.maximum(index, 0)]
    taken[index < 0] = fill
    return taken


def _put(values: Any, sharding: NamedSharding) -> Any:
    """Returns the NamedTuple `values` as global device arrays; every process passes the same host values."""

    def place(value: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return type(values)(*(place(np.asarray(value)) for value in values))


def _shape(n: int, unit: int) -> int:
    """Returns `n` rounded up to a multiple of `unit`, with few distinct results below 16 units."""
    units = -(-n // unit)
    return unit * (1 << (units - 1).bit_length() if units <= 16 else units)
