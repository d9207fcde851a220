"""The loop of a counting pass: sides arranged and placed on the mesh, one compiled step per batch of images, results back on the host.

Batches are dispatched a few ahead of the one whose results are fetched, so that the devices never wait for the host. A pass first reads
the score of every true pair with a product of the same kind; the stream must then meet each true pair once and find the same bits, or the
pass is refused: a threshold that differs from its own tile by a rounding error turns every duplicate of the right report into a mistake.
"""

import collections
import dataclasses
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from relink_jax import errors
from relink_jax.retrieval import arrange, packed, resume, sweep
from relink_jax.retrieval.counted import Records
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress, timing
from relink_jax.store import digests

_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Found:
    """What a pass found, in the order of numbers: counts int32 per image [J, answers, Q] and per study [J, answers, S], see `sweep`;
    top lists of the images, study numbers int32 and scores float32 [Q, k]."""

    per_image: np.ndarray
    per_study: np.ndarray
    top_id: np.ndarray
    top_score: np.ndarray


class Engine:
    """One pass of images over studies on a mesh, in batches and tiles of fixed shape.

    Args:
        query_block: images per step over all devices; tile: studies per tile; both are rounded, 0 chooses for the device.
        split: what the devices share, see `sweep.SPLITS`.
    """

    def __init__(self, records: Records, mesh: Mesh, query_block: int = 0, tile: int = 0, split: str = sweep.SPLITS[0]) -> None:
        rows, columns = arrange.default_shape(mesh.devices.flat[0].platform)
        self.records, self.mesh, self.split_images = records, mesh, split == sweep.SPLITS[0]
        sharing = mesh.size if self.split_images else 1
        width = query_block or rows * sharing
        image_block = None if records.block is None else records.block[records.image_study]
        self.images = arrange.arrange(len(records.images), width, image_block, unit=arrange.ROWS * sharing)
        self.studies = arrange.arrange(len(records.study_text), tile or columns, records.block, parts=mesh.size // sharing)

    def own_scores(self) -> np.ndarray:
        """Returns the score of every image against its own report, float32 [Q]."""
        step, records = sweep.own_scores(self.mesh), self.records
        places = arrange.arrange(len(records.images), self.images.width, unit=arrange.ROWS * self.mesh.size)
        scores = []
        for number in places.number:
            rows = np.maximum(number, 0)
            reports = np.ascontiguousarray(records.texts[records.study_text[records.image_study[rows]]].T)
            scores.append(step(_put(records.images[rows], meshes.split(self.mesh, 0)), _put(reports, meshes.split(self.mesh, 1))))
        return places.back(np.concatenate([np.asarray(score) for score in scores]), len(records.images))

    def run(self, wanted: sweep.Wanted, own: np.ndarray, best: np.ndarray, best_image: np.ndarray, what: str, directory: pathlib.Path | None = None) -> Found:
        """Returns what every batch finds; shapes and split of `wanted` are filled in here.

        Args:
            own: float32 [Q], thresholds of the images; best: float32 [S], of the studies, +inf for none.
            best_image: int32 [S], number of the image that has a study's threshold, -2 for none.
            what: words for the progress bar.
            directory: where finished parts are kept, and taken up when they are there (one process only); None keeps none.
        Raises: StoreError: parts of another pass in `directory`.
        """
        wanted = self.shaped(wanted)
        columns, state = self.columns(best, best_image), self.empty(wanted)
        parts = None if directory is None else resume.Parts(directory, len(self.images.number), self.images.width, self._identity(wanted, own, best))
        done, kept_state = ([], None) if parts is None else parts.finished()
        state = state if kept_state is None else _put(kept_state, state.sharding)
        step = len(self.images.number) if parts is None else parts.batches
        places = min(len(done) * step, len(self.images.number)) * self.images.width
        with progress.bar(len(own), what, "images", first=int((self.images.number.ravel()[:places] >= 0).sum())) as shown:
            for index in range(len(done), -(-len(self.images.number) // step)):
                rows = slice(index * step, (index + 1) * step)
                found: dict[str, list[np.ndarray]] = {name: [] for name in sweep.PerImage._fields}
                for number, batch, after in self.steps(columns, state, own, wanted, rows):
                    for name, array in zip(sweep.PerImage._fields, batch, strict=True):
                        found[name].append(array)
                    state = after
                    shown.update(int((number >= 0).sum()))
                done.append({name: np.concatenate(arrays) for name, arrays in found.items()})
                if parts is not None:
                    parts.write(index, done[-1], np.asarray(state))
        counts, score, place, settled = (self._by_number([part[name] for part in done]) for name in sweep.PerImage._fields)
        left = np.flatnonzero(~settled)
        if len(left):
            self._settle(columns, own, wanted, left, score, place)
        ids = np.where(place >= 0, self.studies.number.ravel()[np.maximum(place, 0)], -1).astype(np.int32)
        return Found(np.moveaxis(counts, 0, -1), self._per_study(state, wanted), ids, score)

    def _image_spans(self) -> int:
        """Returns the largest number of jackknife blocks among the images that one device gets in one step."""
        shares = self.images.block.reshape(len(self.images.block) * (self.mesh.size if self.split_images else 1), -1)
        return int((shares[:, -1] - shares[:, 0]).max()) + 1

    def shaped(self, wanted: sweep.Wanted) -> sweep.Wanted:
        """Returns `wanted` with the shapes and the split of this pass."""
        kept = min(wanted.k, 2 * -(-wanted.k // len(self.studies.number)) + 8)
        split = sweep.SPLITS[0] if self.split_images else sweep.SPLITS[1]
        return dataclasses.replace(
            wanted, kept=kept, blocks=self.records.n_blocks, spans=self.studies.blocks_per_part(), image_spans=self._image_spans(), split=split
        )

    def steps(
        self, columns: sweep.Studies, state: jax.Array, own: np.ndarray, wanted: sweep.Wanted, rows: slice = slice(None)
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray], jax.Array]]:
        """Yields (numbers of a batch, what was found with its rows first, state) of batches `rows` in order, a few behind the devices."""
        step = sweep.program(self.mesh, wanted)
        running: collections.deque[tuple[np.ndarray, sweep.PerImage]] = collections.deque()
        for number, block in zip(self.images.number[rows], self.images.block[rows], strict=True):
            found, state = step(self.batch(number, block, own), columns, state)
            running.append((number, found))
            if len(running) > _AHEAD:
                before, ready = running.popleft()
                yield before, _rows_first(ready), state
        for before, ready in running:
            yield before, _rows_first(ready), state

    def _settle(self, columns: sweep.Studies, own: np.ndarray, wanted: sweep.Wanted, left: np.ndarray, score: np.ndarray, place: np.ndarray) -> None:
        """Fills in the top lists of images `left` from tiles that keep as many groups as exactness can need."""
        exact = dataclasses.replace(wanted, kept=wanted.k, studies=False, near=False)
        step, state = sweep.program(self.mesh, exact), self.empty(exact)
        for first in range(0, len(left), self.images.width):
            chosen = left[first : first + self.images.width]
            number = np.pad(chosen, (0, self.images.width - len(chosen)), constant_values=-1).astype(np.int32)
            found, state = step(self.batch(number, np.zeros_like(self.images.block[0]), own), columns, state)
            score[chosen], place[chosen] = (np.asarray(array)[: len(chosen)] for array in (found.top_score, found.top_place))

    def batch(self, number: np.ndarray, block: np.ndarray, own: np.ndarray) -> sweep.Images:
        """Returns the images `number` [R], -1 for none, on the devices."""
        records, rows, real = self.records, np.maximum(number, 0), number >= 0
        study = np.where(real, records.image_study[rows], -1).astype(np.int32)
        known = np.maximum(study, 0)
        key, text, *codes = (
            np.where(real, of_study[known], -1).astype(np.int32) for of_study in (records.exclusion, records.study_text, *records.codes.values())
        )
        threshold = np.where(real, own[rows], np.inf).astype(np.float32)
        stacked = np.stack(codes) if codes else np.zeros((0, len(number)), np.int32)
        given = sweep.Images(records.images[rows], number, study, key, text, stacked, threshold, block)
        return _place(given, lambda name: meshes.split(self.mesh, int(name == "codes")) if self.split_images else meshes.replicated(self.mesh))

    def columns(self, best: np.ndarray, best_image: np.ndarray) -> sweep.Studies:
        """Returns all candidates on the devices."""
        records, places = self.records, self.studies
        vectors = np.zeros((len(places.number), records.texts.shape[1], places.width), np.float32)
        for tile, number in zip(vectors, places.number, strict=True):
            tile[:, number >= 0] = records.texts[records.study_text[number[number >= 0]]].T
        codes = [places.take(np.where(code < 0, -2, code).astype(np.int32), -2) for code in records.codes.values()]
        given = sweep.Studies(
            vectors,
            places.number,
            places.take(records.exclusion, -2),
            places.take(records.study_text, -2),
            np.stack(codes, axis=1) if codes else np.zeros((len(vectors), 0, places.width), np.int32),
            places.take(best, np.inf),
            places.take(best_image, -2),
            places.block,
            np.arange(len(vectors), dtype=np.int32) * (places.width // packed.GROUP),
        )
        return _place(given, lambda _: meshes.replicated(self.mesh) if self.split_images else meshes.split(self.mesh, 0))

    def empty(self, wanted: sweep.Wanted) -> jax.Array:
        """Returns the counts of the studies before the first batch."""
        axis = 0 if self.split_images else 2
        return _put(sweep.empty_studies(wanted, self.mesh.size, *self.studies.number.shape), meshes.split(self.mesh, axis))

    def _by_number(self, parts: list[np.ndarray]) -> np.ndarray:
        """Returns rows of the batches, [n_places, ...] in pieces, in the order of image numbers."""
        return np.moveaxis(self.images.back(np.moveaxis(np.concatenate(parts), 0, -1), len(self.records.images)), -1, 0).copy()

    def _identity(self, wanted: sweep.Wanted, own: np.ndarray, best: np.ndarray) -> dict[str, Any]:
        """Returns what the parts of this pass depend on."""
        records = self.records
        arrays = {"images": records.images, "texts": records.texts, "own": own, "best": best, "exclusion": records.exclusion}
        tables = {"image_study": records.image_study, "study_text": records.study_text, **{f"code {name}": code for name, code in records.codes.items()}}
        places = {"images": self.images.number, "studies": self.studies.number, "image_block": self.images.block, "study_block": self.studies.block}
        return {
            "wanted": dataclasses.asdict(wanted),
            "records": digests.arrays_digest(arrays | tables),
            "places": digests.arrays_digest(places),
            "devices": self.mesh.size,
        }

    def _per_study(self, state: jax.Array, wanted: sweep.Wanted) -> np.ndarray:
        """Returns the counts of the studies in the order of their numbers."""
        if not wanted.studies:
            return np.zeros((wanted.blocks, wanted.study_answers + 1, 0), np.int32)
        summed = np.moveaxis(meshes.to_host(state).sum(axis=0, dtype=np.int32), 1, 2)
        return self.studies.back(summed.reshape(*summed.shape[:2], -1), len(self.records.study_text))


def probe(mesh: Mesh, dim: int, n_studies: int) -> float:
    """Returns FLOP per second of the bare product of a step's shape on this mesh, the limit of a counting pass; takes about a second."""
    rows, columns = arrange.default_shape(mesh.devices.flat[0].platform)
    width = arrange.arrange(n_studies, columns).width
    images = _put(np.ones((rows * mesh.size, dim), np.float32), meshes.split(mesh, 0))
    tiles = _put(np.ones((2, dim, width), np.float32), meshes.replicated(mesh))
    (spent,) = timing.alternating([lambda: sweep.bare_product(mesh)(images, tiles)], 5)
    return 4 * rows * mesh.size * width * dim / statistics.median(spent)


def check_seen(found: np.ndarray, expected: np.ndarray, side: str) -> None:
    """Raises `UnsoundError` unless each query's true pair was met `expected` times, with the bits of its threshold."""
    wrong = int((found != expected).sum())
    if wrong:
        raise errors.UnsoundError(
            errors.describe("scores changed between passes", "counting pass", "bit-identical scores of the true pairs", f"others for {wrong:,} {side}")
        )


def _rows_first(found: sweep.PerImage) -> list[np.ndarray]:
    counts, score, place, settled = (np.asarray(array) for array in found)
    return [np.moveaxis(counts, -1, 0), score, place, settled]


def _place(values: Any, sharding: Any) -> Any:
    """Returns the NamedTuple `values` as device arrays, each sharded as `sharding(field name)` says."""
    return type(values)(*(_put(np.asarray(value), sharding(name)) for name, value in zip(values._fields, values, strict=True)))


def _put(value: np.ndarray, sharding: Any) -> jax.Array:
    """Returns a global device array; every process passes the same host value."""
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
