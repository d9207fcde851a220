"""How fast a counting pass and the bare product of its tiles run on these devices: for plans, progress bars and benchmarks."""

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from relink_jax.retrieval import arrange, engine, limits, product, sides
from relink_jax.retrieval import layout as layouts
from relink_jax.retrieval.counted import LABEL_MATCHED, Records
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import timing

_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Placed:
    """A pass whose candidates lie on the devices.

    Attributes:
        call: runs its batches, host work and fetching of results included. product: the bare product over the same tiles.
        flop: arithmetic of that product, padding included.
    """

    call: Callable[[], Any]
    product: Callable[[], Any]
    flop: int


@dataclasses.dataclass(frozen=True)
class Speed:
    """FLOP per second of the bare product, and the share of it that a whole pass reaches."""

    rate: float
    share: float


def placed(records: Records, mesh: meshes.Mesh, wanted: sides.Wanted, layout: layouts.Layout = layouts.DEFAULT, precision: str = product.FLOAT32) -> Placed:
    """Returns a pass over all records, in one panel, ready to be timed."""
    work = engine.Engine(records, mesh, layout, precision, wanted.k)
    wanted, own = work.shaped(wanted), work.own_scores()
    around = limits.exact(own, records.image_study, len(records.study_text))
    columns = work.columns(around)
    vectors = [_parts(work.batch(number, block, around).vectors, work.height) for number, block in zip(work.images.number, work.images.block, strict=True)]
    bare = product.bare_product(mesh, precision)

    def call() -> None:
        for _ in work.steps(columns, work.empty(wanted), around, wanted):
            pass

    return Placed(call, lambda: jax.block_until_ready([bare(part, columns.vectors) for part in vectors]), work.flop)


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
    """Returns seeded unit rows to time with: two studies a patient, 200 label codes, queries near their own text."""
    generator = np.random.default_rng(0)
    texts = _unit(generator.standard_normal((candidates, dim), dtype=np.float32))
    own = generator.integers(0, candidates, queries).astype(np.int32)
    images = _unit(0.3 * texts[own] + _unit(generator.standard_normal((queries, dim), dtype=np.float32)))
    number = np.arange(candidates, dtype=np.int32)
    return Records(images, own, texts, number, number // 2, {LABEL_MATCHED: generator.integers(0, 200, candidates).astype(np.int32)})


def _unit(rows: np.ndarray) -> np.ndarray:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
