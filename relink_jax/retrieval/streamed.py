"""A step of one's own over every batch of images and every panel of studies of an `engine.Engine`, with the devices kept busy.

The devices share the images, and each holds every study of a panel. The next panel is placed while one is passed over; batches are
dispatched a few ahead of the one whose results are fetched. A long pass can keep its finished parts, see `resume`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from relink_jax.retrieval import arrange, limits, loop, resume, sides
from relink_jax.retrieval import layout as layouts
from relink_jax.retrieval.counted import Records
from relink_jax.retrieval.engine import Engine, lagging, size_of
from relink_jax.retrieval.product import FLOAT32
from relink_jax.runtime import mesh as meshes

T = TypeVar("T", bound=tuple[Any, ...])
ROWS, WHOLE = PartitionSpec(meshes.DATA), PartitionSpec()
IMAGES = sides.Images(ROWS, ROWS, ROWS, ROWS, ROWS, PartitionSpec(None, meshes.DATA), ROWS, ROWS, ROWS)


def engine(
    records: Records, mesh: Mesh, layout: layouts.Layout, k: int = 0, most: int = 0, kept: resume.Place | None = None, what: str = "pass"
) -> Engine:  # fmt: skip
    """Returns the arrangement of a pass in float32, whatever split `layout` has.

    Args:
        k: length of the lists. most: scores that a device may compute in one step, which panels are narrowed for; 0 for any number.
        kept: where parts are kept, whose shape the pass then has; what: the pass in a few words.
    Raises: UsageError: a layout that does not fit the devices' memory.
    """
    plain = dataclasses.replace(records, codes={}, block=None)
    shape = resume.shape_of(size_of(plain, mesh, FLOAT32, k), mesh, layout.memory, kept, what)
    if shape is not None:
        return Engine(plain, mesh, k=k, shape=shape)
    _, height, _ = layouts.default_shape(mesh.devices.flat[0].platform)
    block = layout.query_block or height * mesh.size  # one product a step
    layout = dataclasses.replace(layout, split=layouts.IMAGES, query_block=block, kernel=layouts.NEVER)
    work = Engine(plain, mesh, layout, k=k)
    rows = work.images.width // mesh.size
    if most and rows * work.tiles * work.studies.width > most:
        tile = min(work.studies.width, max(arrange.LANES, most // rows // arrange.LANES * arrange.LANES))
        work = Engine(plain, mesh, dataclasses.replace(layout, tile=tile, panel=max(tile, most // rows // tile * tile)), k=k)
    return work


def panels(work: Engine, around: limits.Limits | None = None) -> Iterator[sides.Studies]:
    """Returns the studies of each panel on the devices, see `Engine.each_panel`."""
    return work.each_panel(around or nowhere(work))


def batches(
    work: Engine, numbers: Iterable[np.ndarray], step: Callable[[np.ndarray, sides.Images], Any], around: limits.Limits | None = None
) -> Iterator[tuple[np.ndarray, Any]]:
    """Yields (number [R] of the images of a batch, what `step` found for them as NumPy) in order, a few behind the devices.

    Args: numbers: of each batch, int32 [R], -1 for none. step: dispatches one batch, of numbers and images; its results are the same on every process.
    """
    around = around or nowhere(work)
    for number, found in lagging((number, step(number, work.batch(number, work.images.block[0], around))) for number in numbers):
        yield number, jax.tree.map(np.asarray, found)


def parts(
    work: Engine, kept: resume.Place | None, panel: int, asked: Mapping[str, Any], what: str, around: limits.Limits | None = None
) -> resume.Parts | None:  # fmt: skip
    """Returns the parts of one panel of a pass, None where none are kept. Args: asked: what they depend on besides the records, JSON-ready."""
    if kept is None:
        return None
    wanted = work.shaped(sides.Wanted(codes=0, near=False, studies=False, k=0))
    identity = resume.identity_of(work, wanted, kept) | {"asked": dict(asked), "panel": [panel, work.panels]}
    return resume.Parts(kept / f"panel-{panel:03d}", identity, work, wanted, around or nowhere(work), what)


def passed(
    work: Engine, kind: type[T], step: Callable[[np.ndarray, sides.Images], T], held: resume.Parts | None, around: limits.Limits | None = None
) -> Iterator[tuple[np.ndarray, T]]:
    """Yields (number [n] of images, -1 for none, what `step` found for them as NumPy) of all images in order: first what finished parts hold.

    Args: kind: NamedTuple of what a step finds, rows first throughout. held: where parts are written as they finish; None for none.
    """
    if held is None:
        yield from batches(work, work.images.number, step, around)
        return
    done, _, covered = held.finished()
    fields = kind._fields  # type: ignore[attr-defined]
    for part in done:
        yield part["number"], kind(*(part[name] for name in fields))
    for index, (start, stop) in enumerate(spans(work, covered), len(done)):
        gathered = list(batches(work, (number for number, _ in work.images.batches(start, stop)), step, around))
        number = np.concatenate([one for one, _ in gathered])[: stop - start]
        found = kind(*(np.concatenate(arrays)[: stop - start] for arrays in zip(*(one for _, one in gathered), strict=True)))
        held.write(index, {"number": number, **dict(zip(fields, found, strict=True))}, start, stop)
        yield number, found


def spans(work: Engine, covered: int, whole: bool = False) -> list[tuple[int, int]]:
    """Returns (first place, past the last) of each part that is left of a panel when its first `covered` places are done; `whole`: all in one."""
    total = work.images.number.size
    size = total if whole else loop.per_part(work) * work.images.width
    return [(start, min(start + size, total)) for start in range(covered, total, size)]


def regrouped(work: Engine, images: np.ndarray) -> np.ndarray:
    """Returns image numbers [n] in batches, int32 [n_batches, R], -1 for none."""
    width = work.images.width
    return np.pad(images, (0, -len(images) % width), constant_values=-1).astype(np.int32).reshape(-1, width)


def nowhere(work: Engine) -> limits.Limits:
    """Returns limits that no score reaches, for passes that ask for none."""
    return limits.nowhere(len(work.records.images), len(work.records.study_text))
