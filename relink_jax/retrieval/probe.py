"""How fast a counting pass and the bare product of its tiles run on these devices: for plans, progress bars and benchmarks."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from relink_jax.retrieval import arrange, engine, limits, product, shapes, sides
from relink_jax.retrieval import layout as layouts
from relink_jax.retrieval.counted import LABEL_MATCHED, Records
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import timing

_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Placed:
    """A pass whose candidates lie on the devices, in one panel.

    Attributes:
        work, wanted, around: the pass, what it is asked for in its shapes, and its limits. columns: the candidates.
        vectors: encoded images of each batch, by product.
    """

    work: engine.Engine
    wanted: sides.Wanted
    around: limits.Limits
    columns: sides.Studies
    vectors: Sequence[Any]

    @property
    def flop(self) -> int:
        """Arithmetic of the product over the same tiles, padding included."""
        return self.work.flop

    def call(self) -> int:
        """Runs the batches, host work and fetching of results included, and returns how many lists their certificates leave open (`toplists`)."""
        opened = 0
        for number, (_, _, _, settled), _ in self.work.steps(self.columns, self.work.empty(self.wanted), self.around, self.wanted):
            opened += int((~settled & (number >= 0)).sum())
        return opened

    def product(self) -> Any:
        """Runs the bare product over the same tiles."""
        bare = product.bare_product(self.work.mesh, self.work.precision)
        return jax.block_until_ready([bare(part, self.columns.vectors) for part in self.vectors])

    def planned(self) -> int:
        """Returns the bytes of one device that the layout of this pass plans for."""
        work, records = self.work, self.work.records
        row_bytes, platform = product.row_bytes(records.texts.shape[1], work.precision), work.mesh.devices.flat[0].platform
        size = layouts.Size(len(records.study_text), row_bytes, self.wanted.codes, records.n_blocks, self.wanted.k, work.mesh.size, platform)
        return layouts.taken(size, work.layout).total

    def compiled(self) -> int:
        """Returns the bytes of one device that the compiled step holds: arguments, results and temporaries, shared ones once.

        0 where the backend does not tell.
        """
        told = shapes.compiled(self.work, self.wanted)
        return 0 if told is None else told.total


@dataclasses.dataclass(frozen=True)
class Speed:
    """FLOP per second of the bare product, and the share of it that a whole pass reaches."""

    rate: float
    share: float


def placed(
    records: Records,
    mesh: meshes.Mesh,
    wanted: sides.Wanted,
    layout: layouts.Layout = layouts.DEFAULT,
    precision: str = product.FLOAT32,
    around: limits.Limits | None = None,
) -> Placed:
    """Returns a pass over all records, in one panel, ready to be timed; without limits `around` both are the float32 scores of the true pairs."""
    work = engine.Engine(records, mesh, layout, precision, wanted.k)
    around = limits.exact(work.own_scores(wanted), records.image_study, len(records.study_text)) if around is None else around
    vectors = [_parts(work.batch(number, block, around).vectors, work.height) for number, block in zip(work.images.number, work.images.block, strict=True)]
    return Placed(work, work.shaped(wanted), around, work.columns(around), vectors)


def _parts(vectors: jax.Array, height: int) -> jax.Array:
    return vectors.reshape(-1, height, vectors.shape[1])


def bare(mesh: meshes.Mesh, dim: int, n_studies: int, precision: str = product.FLOAT32) -> float:
    """Returns FLOP per second of the bare product of a step's shape on a mesh, the limit of a pass; takes about a second."""
    rows, height, columns = layouts.default_shape(mesh.devices.flat[0].platform)
    width = arrange.arrange(n_studies, columns).width
    one = product.encode(np.ones((1, dim), np.float32), precision)
    images = meshes.put(np.ones((rows * mesh.size // (height or rows), height or rows, one.shape[1]), one.dtype), meshes.split(mesh, 0))
    tiles = meshes.put(np.ones((2, one.shape[1], width), one.dtype), meshes.replicated(mesh))
    (spent,) = timing.alternating([lambda: product.bare_product(mesh, precision)(images, tiles)], _ROUNDS)
    return 4 * rows * mesh.size * width * one.shape[1] / statistics.median(spent)


def reached(mesh: meshes.Mesh, dim: int, n_studies: int, k: int, precision: str = product.FLOAT32) -> Speed:
    """Returns the speed of a whole pass on a mesh: both directions, two strata and lists of k, over a batch and up to four tiles.

    Takes some seconds, most of them compilation. More tiles than that leave a larger share.
    """
    rows, _, columns = layouts.default_shape(mesh.devices.flat[0].platform)
    data = records(min(n_studies, 4 * columns), dim, rows * mesh.size)
    one = placed(data, mesh, sides.Wanted(k=min(k, n_studies)), precision=precision)
    whole, limit = timing.alternating([one.call, one.product], _ROUNDS)
    return Speed(one.flop / statistics.median(limit), statistics.median(part / other for part, other in zip(limit, whole, strict=True)))


def records(candidates: int, dim: int, queries: int) -> Records:
    """Returns seeded unit rows to time with: two studies a patient, 200 label codes, queries near their own text.

    The queries are those of neighbouring studies, as in a few batches of a whole pass, and reach across the middle of all studies.
    """
    generator = np.random.default_rng(0)
    texts = _unit(generator.standard_normal((candidates, dim), dtype=np.float32))
    own = ((candidates // 2 - queries // 2 + np.arange(queries)) % candidates).astype(np.int32)
    images = _unit(0.3 * texts[own] + _unit(generator.standard_normal((queries, dim), dtype=np.float32)))
    number = np.arange(candidates, dtype=np.int32)
    return Records(images, own, texts, number, number // 2, {LABEL_MATCHED: generator.integers(0, 200, candidates).astype(np.int32)})


def _unit(rows: np.ndarray) -> np.ndarray:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
