"""A counting step before anything is placed: its arguments as shapes, and the bytes of one device that the program compiled for them holds.

Nothing of the size of the data is allocated: a pass is made of tables of numbers and of rows that are never read.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from relink_jax.retrieval import engine, product, sides, sweep
from relink_jax.retrieval import layout as layouts
from relink_jax.retrieval.packed import GROUP
from relink_jax.runtime import mesh as meshes

_QUICKLY = {"xla_backend_optimization_level": 0}  # of the CPU's code, whose buffers are decided before; compiles in a tenth of the time


@dataclasses.dataclass(frozen=True)
class Held:
    """Bytes of one device under a compiled step: candidates with their counts, one batch of images, what is found for it, and temporaries.

    The counts that go in and come out share their place.
    """

    candidates: int
    batch: int
    found: int
    temporaries: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.candidates + self.batch + self.found + self.temporaries

    def in_flight(self, panels: int) -> int:
        """Returns the bytes while a pass runs: three batches in flight with what was found for them, and the next of several panels being placed."""
        return self.total + 2 * (self.batch + self.found) + (self.candidates if panels > 1 else 0)


def rows(n: int, dim: int) -> np.ndarray:
    """Returns float32 rows [n, dim] of zeros that take no memory, for a pass that is planned and not run."""
    return np.broadcast_to(np.float32(0), (n, dim))


def arguments(work: engine.Engine, wanted: sides.Wanted) -> tuple[sides.Images, sides.Studies, Any]:
    """Returns the arguments of a pass's step as shapes with their shardings; `wanted` as `Engine.shaped` gives it."""
    apart, whole = meshes.split(work.mesh, 0), meshes.replicated(work.mesh)
    images, studies = (whole if work.layout.split == split else apart for split in (layouts.STUDIES, layouts.IMAGES))
    batch, tiles, places = work.images.width, work.tiles, work.studies.width
    one = product.encode(np.zeros((1, work.records.texts.shape[1]), np.float32), work.precision)

    def shape(*sizes: int, kind: Any = np.int32, where: Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, kind, sharding=where)

    def of_images(*sizes: int, kind: Any = np.int32) -> jax.ShapeDtypeStruct:
        return shape(*sizes, kind=kind, where=images)

    def of_tiles(*sizes: int, kind: Any = np.int32) -> jax.ShapeDtypeStruct:
        return shape(tiles, *sizes, kind=kind, where=studies)

    number, score = of_images(batch), of_images(batch, kind=np.float32)
    codes = shape(wanted.codes, batch, where=whole if images is whole else meshes.split(work.mesh, 1))
    vectors = of_images(batch, one.shape[1], kind=one.dtype)
    asked = sides.Images(vectors, number, number, number, number, codes, score, score, of_images(batch // GROUP))
    of_each, limit = of_tiles(places), of_tiles(places, kind=np.float32)
    candidates = of_tiles(one.shape[1], places, kind=one.dtype), of_each, of_each, of_each, of_tiles(wanted.codes, places)
    answering = sides.Studies(*candidates, limit, limit, of_each, of_tiles(places // GROUP), of_tiles())
    return asked, answering, _state(work, wanted)


def state_bytes(work: engine.Engine, wanted: sides.Wanted) -> int:
    """Returns the bytes of the counts of one panel's studies over all devices, as they are kept on disk beside the parts of a pass."""
    state = _state(work, wanted)
    return int(np.prod(state.shape)) * 4


def compiled(work: engine.Engine, wanted: sides.Wanted) -> Held | None:
    """Returns what the compiled step of a pass holds on one device, by XLA's own account; None where the backend does not tell.

    Args: wanted: in the shapes of the pass, see `Engine.shaped`.
    """
    given = arguments(work, wanted)
    step: Any = sweep.program(work.mesh, wanted)
    told = memory(step.lower(*given), work.mesh)
    if told is None:
        return None
    batch = sum(one.dtype.itemsize * int(np.prod(one.sharding.shard_shape(one.shape))) for one in given[0])
    found = int(told.output_size_in_bytes - told.alias_size_in_bytes)
    return Held(max(0, int(told.argument_size_in_bytes) - batch), batch, found, int(told.temp_size_in_bytes))


def memory(lowered: Any, mesh: meshes.Mesh) -> Any:
    """Returns XLA's account of a lowered program's memory on one device, None where the backend gives none."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return lowered.compile(compiler_options=_QUICKLY if on_cpu else None).memory_analysis()


def _state(work: engine.Engine, wanted: sides.Wanted) -> jax.ShapeDtypeStruct:
    like = sweep.empty_studies(wanted, work.mesh.size, 0, work.studies.width).shape
    tiles = work.tiles if wanted.studies else 0
    return jax.ShapeDtypeStruct((*like[:2], tiles, *like[3:]), np.int32, sharding=meshes.split(work.mesh, sweep.state_axis(work.layout.split)))
