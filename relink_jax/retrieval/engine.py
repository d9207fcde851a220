"""A counting pass on a mesh: both sides arranged, encoded and placed, and one compiled step per batch of images.

Candidates lie on the devices as a whole or panel by panel, each panel some tiles. Batches are dispatched a few ahead of the one whose
results are fetched, so that the devices never wait for the host.
"""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from relink_jax.retrieval import arrange, kernels, sides, sweep
from relink_jax.retrieval import layout as layouts
from relink_jax.retrieval import product as products
from relink_jax.retrieval.counted import Records
from relink_jax.retrieval.limits import Limits
from relink_jax.runtime import mesh as meshes

T = TypeVar("T")


class Engine:
    """One pass of images over studies on a mesh, in batches and tiles of fixed shape.

    Args:
        layout: see `layout`; its split and panel are decided here where it leaves them open. k: length of the lists, for that.
        precision: of the product. shape: of a pass that began on these or other devices and is to have the same bits here; goes before `layout`.
    Attributes:
        images, studies: places of both sides. height: images of one product. tiles: tiles of one panel. panels: their number.
    Raises: UsageError: a precision that the devices do not have, or a layout that does not fit their memory.
    """

    def __init__(
        self,
        records: Records,
        mesh: Mesh,
        layout: layouts.Layout = layouts.DEFAULT,
        precision: str = products.FLOAT32,
        k: int = 10,
        shape: layouts.Shape | None = None,
    ) -> None:
        products.check(precision, mesh)
        self.records, self.mesh, self.precision = records, mesh, precision
        size = size_of(records, mesh, precision, k)
        self.layout = layouts.chosen(size, layout, layout.memory or meshes.memory(mesh)) if shape is None else shape.layout(mesh.size, size.studies)
        shared = self.layout.split != layouts.STUDIES
        self._image_parts, self._study_parts = (mesh.size if shared else 1), (1 if self.layout.split == layouts.IMAGES else mesh.size)
        if shape is None:
            self._arrange(self.layout, size.platform)
        else:
            self._arrange_as(shape)
        self.panels = len(self.studies.number) // self.tiles
        self._placed = meshes.padded(self.tiles, self._study_parts)  # tiles of a panel on the devices; those beyond `tiles` are empty

    def _arrange(self, layout: layouts.Layout, platform: str) -> None:
        """Decides the places of both sides, the height of a product and the tiles of a panel."""
        records, study_parts = self.records, self._study_parts
        rows, height, columns = layouts.default_shape(platform)
        width = layout.query_block or rows * self._image_parts
        height = layout.height or height
        many = 0 < 2 * height * self._image_parts < min(width, len(records.images))
        self.images = arrange.arrange(len(records.images), width, self._image_block, unit=(height if many else arrange.ROWS) * self._image_parts)
        self.height = height if many else self.images.width // self._image_parts
        tile = layout.tile or columns
        per_panel = max(1, layout.panel // (tile * study_parts)) * study_parts if layout.panel else study_parts
        self.studies = arrange.arrange(len(records.study_text), tile, records.block, parts=per_panel, strict=layout.panel > 0)
        self.tiles = per_panel if layout.panel else len(self.studies.number)

    def _arrange_as(self, shape: layouts.Shape) -> None:
        """Gives both sides the places that they have in a pass of another number of devices, but for empty ones at the end."""
        width, self.height, self.tiles = shape.rows * self._image_parts, shape.height, shape.tiles
        self.images = arrange.arrange(len(self.records.images), width, self._image_block, unit=width, strict=True)
        self.studies = arrange.arrange(len(self.records.study_text), shape.tile, self.records.block, unit=shape.tile, parts=shape.tiles, strict=True)

    @property
    def _image_block(self) -> np.ndarray | None:
        return None if self.records.block is None else self.records.block[self.records.image_study]

    def shape(self, wanted: sides.Wanted) -> layouts.Shape:
        """Returns what decides the bits of a pass for `wanted`."""
        rows, kernel = self.images.width // self._image_parts, self.shaped(wanted).kernel
        return layouts.Shape(self.layout.split, rows, self.height, self.studies.width, self.tiles, kernel)

    @property
    def flop(self) -> int:
        """Arithmetic of the product over all places, padding included."""
        return 2 * self.images.number.size * self.studies.number.size * products.width(self.records.texts.shape[1], self.precision)

    def own_scores(self, wanted: sides.Wanted) -> np.ndarray:
        """Returns the float32 score of every image against its own report, [Q], with the bits that a pass for `wanted` sees."""
        step, records = (kernels if self.shaped(wanted).kernel else products).own_scores(self.mesh), self.records
        height = meshes.padded(self.height, arrange.ROWS)
        places = arrange.arrange(len(records.images), self.images.width, unit=height * self.mesh.size)
        scores = []
        for number in places.number:
            rows = np.maximum(number, 0)
            images, reports = (
                side.reshape(-1, height, side.shape[1]) for side in (records.images[rows], records.texts[records.study_text[records.image_study[rows]]])
            )
            shared = meshes.split(self.mesh, 0)
            scores.append(step(meshes.put(images, shared), meshes.put(np.ascontiguousarray(reports.swapaxes(1, 2)), shared)))
        return places.back(np.concatenate([np.asarray(score).ravel() for score in scores]), len(records.images))

    def shaped(self, wanted: sides.Wanted) -> sides.Wanted:
        """Returns `wanted` with the shapes, the split, the precision and the kernel of this pass.

        Raises: UsageError: a kernel that is always wanted, for what the devices have none.
        """
        given = dataclasses.replace(wanted, blocks=self.records.n_blocks, split=self.layout.split, precision=self.precision)
        given = dataclasses.replace(given, kernel=kernels.chosen(self.mesh, given, self.layout.kernel))
        kept = layouts.kept_groups(wanted.k, self.tiles)
        height = self.images.width // self._image_parts if given.kernel else self.height
        shares = self.images.block.reshape(self.images.number.size // height, -1)
        spans, image_spans = self.studies.blocks_per_part(), int((shares[:, -1] - shares[:, 0]).max()) + 1
        return dataclasses.replace(given, kept=kept, spans=spans, image_spans=image_spans, height=height)

    def steps(
        self, columns: sides.Studies, state: jax.Array, limits: Limits, wanted: sides.Wanted, places: tuple[int, int | None] = (0, None)
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray], jax.Array]]:
        """Yields (numbers of a batch, what was found with its rows first, state) of batches in order, a few behind the devices.

        A state is consumed by the step after it: only the last one can be read.

        Args: places: of the images, first and past the last, see `Arrangement.batches`.
        """
        step = sweep.program(self.mesh, wanted)

        def dispatched(state: jax.Array) -> Iterator[tuple[np.ndarray, sides.PerImage, jax.Array]]:
            for number, block in self.images.batches(*places):
                found, state = step(self.batch(number, block, limits), columns, state)
                yield number, found, state

        for number, found, after in lagging(dispatched(state)):
            yield number, _rows_first(found), after

    def each_panel(self, limits: Limits) -> Iterator[sides.Studies]:
        """Yields `columns` of every panel, with the next being placed by a thread."""
        with concurrent.futures.ThreadPoolExecutor(1, "panel") as ahead:
            coming = ahead.submit(self.columns, limits, 0)
            for panel in range(self.panels):
                columns = coming.result()
                if panel + 1 < self.panels:
                    coming = ahead.submit(self.columns, limits, panel + 1)
                yield columns

    def batch(self, number: np.ndarray, block: np.ndarray, limits: Limits) -> sides.Images:
        """Returns the images `number` [R], -1 for none, on the devices."""
        records, rows, real = self.records, np.maximum(number, 0), number >= 0
        study = np.where(real, records.image_study[rows], -1).astype(np.int32)
        known = np.maximum(study, 0)
        key, text, *codes = (
            np.where(real, of_study[known], -1).astype(np.int32) for of_study in (records.exclusion, records.study_text, *records.codes.values())
        )
        low, high = (np.where(real, limit[rows], np.inf).astype(np.float32) for limit in (limits.image_low, limits.image_high))
        stacked = np.stack(codes) if codes else np.zeros((0, len(number)), np.int32)
        vectors = products.encode(records.images[rows], self.precision)
        given = sides.Images(vectors, number, study, key, text, stacked, low, high, block)
        shared = self.layout.split != layouts.STUDIES
        return _place(given, lambda name: meshes.split(self.mesh, int(name == "codes")) if shared else meshes.replicated(self.mesh))

    def columns(self, limits: Limits, panel: int = 0) -> sides.Studies:
        """Returns the candidates of one panel on the devices."""
        records, first = self.records, panel * self.tiles
        places = self.studies.some(first, self.tiles, self._placed)
        dim = records.texts.shape[1]
        empty = products.encode(np.zeros((1, dim), np.float32), self.precision, candidates=True)
        vectors = np.zeros((self._placed, empty.shape[1], places.width), empty.dtype)
        for tile, number in zip(vectors, places.number, strict=True):
            present = number >= 0
            tile[:, present] = products.encode(records.texts[records.study_text[number[present]]], self.precision, candidates=True).T
        codes = [places.take(np.where(code < 0, -2, code).astype(np.int32), -2) for code in records.codes.values()]
        given = sides.Studies(
            vectors,
            places.number,
            places.take(records.exclusion, -2),
            places.take(records.study_text, -2),
            np.stack(codes, axis=1) if codes else np.zeros((self._placed, 0, places.width), np.int32),
            places.take(limits.study_low, np.inf),
            places.take(limits.study_high, np.inf),
            places.take(limits.best_image, -2),
            places.block,
            (first + np.arange(self._placed, dtype=np.int32)) * places.width,
        )
        shared = self.layout.split != layouts.IMAGES
        return _place(given, lambda _: meshes.split(self.mesh, 0) if shared else meshes.replicated(self.mesh))

    def empty(self, wanted: sides.Wanted, counted: np.ndarray | None = None) -> jax.Array:
        """Returns the counts of one panel's studies before the first batch, or after those that gave `counted`, see `counts_of`."""
        state = sweep.empty_studies(wanted, self.mesh.size, self._placed, self.studies.width)
        if counted is not None:
            state[0, :, : counted.shape[1]] = counted
        return meshes.put(state, meshes.split(self.mesh, sweep.state_axis(self.layout.split)))

    def counts_of(self, state: jax.Array) -> np.ndarray:
        """Returns the counts of one panel's studies on the host, added up over devices, int32 [J, tiles, answers, T]; no tiles where not counted."""
        return meshes.to_host(state).sum(axis=0, dtype=np.int32)[:, : self.tiles]


def size_of(records: Records, mesh: Mesh, precision: str, k: int) -> layouts.Size:
    """Returns what a pass over records on a mesh is made of, for the choice of its layout."""
    row_bytes, platform = products.row_bytes(records.texts.shape[1], precision), mesh.devices.flat[0].platform
    return layouts.Size(len(records.study_text), row_bytes, len(records.codes), records.n_blocks, k, mesh.size, platform)


def lagging(items: Iterable[T], behind: int = 2) -> Iterator[T]:
    """Yields `items` in order, each when `behind` more were taken, so that devices are at work on those while one is fetched."""
    waiting: collections.deque[T] = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > behind:
            yield waiting.popleft()
    yield from waiting


def _rows_first(found: sides.PerImage) -> list[np.ndarray]:
    counts, score, place, settled = (np.asarray(array) for array in found)
    return [np.moveaxis(counts, -1, 0), score, place, settled]


def _place(values: Any, sharding: Any) -> Any:
    """Returns the NamedTuple `values` as device arrays, each sharded as `sharding(field name)` says."""
    return type(values)(*(meshes.put(np.asarray(value), sharding(name)) for name, value in zip(values._fields, values, strict=True)))
