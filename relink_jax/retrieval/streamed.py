"""A step of one's own over every batch of images and every panel of studies of an `engine.Engine`, with the devices kept busy.

The devices share the images, and each holds every study of a panel. The next panel is placed while one is passed over; batches are
dispatched a few ahead of the one whose results are fetched.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from relink_jax.retrieval import arrange, limits, sides
from relink_jax.retrieval import layout as layouts
from relink_jax.retrieval.counted import Records
from relink_jax.retrieval.engine import Engine, lagging
from relink_jax.runtime import mesh as meshes

ROWS, WHOLE = PartitionSpec(meshes.DATA), PartitionSpec()
IMAGES = sides.Images(ROWS, ROWS, ROWS, ROWS, ROWS, PartitionSpec(None, meshes.DATA), ROWS, ROWS, ROWS)


def engine(records: Records, mesh: Mesh, layout: layouts.Layout, k: int = 0, most: int = 0) -> Engine:
    """Returns the arrangement of a pass in float32, whatever split `layout` has.

    Args: k: length of the lists. most: scores that a device may compute in one step, which panels are narrowed for; 0 for any number.
    Raises: UsageError: a layout that does not fit the devices' memory.
    """
    plain = dataclasses.replace(records, codes={}, block=None)
    _, height, _ = layouts.default_shape(mesh.devices.flat[0].platform)
    layout = dataclasses.replace(layout, split=layouts.IMAGES, query_block=layout.query_block or height * mesh.size)  # one product a step
    work = Engine(plain, mesh, layout, k=k)
    rows = work.images.width // mesh.size
    if most and rows * work.tiles * work.studies.width > most:
        tile = min(work.studies.width, max(arrange.LANES, most // rows // arrange.LANES * arrange.LANES))
        work = Engine(plain, mesh, dataclasses.replace(layout, tile=tile, panel=max(tile, most // rows // tile * tile)), k=k)
    return work


def panels(work: Engine, around: limits.Limits | None = None) -> Iterator[sides.Studies]:
    """Returns the studies of each panel on the devices, see `Engine.each_panel`."""
    return work.each_panel(around or nowhere(work))


def batches(work: Engine, numbers: Iterable[np.ndarray], step: Callable[[sides.Images], Any]) -> Iterator[tuple[np.ndarray, Any]]:
    """Yields (number [R] of the images of a batch, what `step` found for them as NumPy) in order, a few behind the devices.

    Args: numbers: of each batch, int32 [R], -1 for none. step: dispatches one batch; its results are the same on every process.
    """
    around = nowhere(work)
    for number, found in lagging((number, step(work.batch(number, work.images.block[0], around))) for number in numbers):
        yield number, jax.tree.map(np.asarray, found)


def regrouped(work: Engine, images: np.ndarray) -> np.ndarray:
    """Returns image numbers [n] in batches, int32 [n_batches, R], -1 for none."""
    width = work.images.width
    return np.pad(images, (0, -len(images) % width), constant_values=-1).astype(np.int32).reshape(-1, width)


def nowhere(work: Engine) -> limits.Limits:
    """Returns limits that no score reaches, for passes that ask for none."""
    return limits.nowhere(len(work.records.images), len(work.records.study_text))
