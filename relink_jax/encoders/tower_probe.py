"""A tower before any weight is there: what its compiled program holds on a device, and how fast it runs on stand-ins."""

import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from relink_jax.encoders import cost, specs, steps, towers
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import timing

_QUICKLY = {"xla_backend_optimization_level": 0}  # of the CPU's code, whose buffers are decided before
_CPU_FLOP, _ROUNDS = 4e10, 2  # of a timed batch on a CPU, about a second; rounds after the first, which compiles


def shapes(spec: specs.VLMSpec, kind: str, mesh: Mesh, rows: int, dtype: Any, levelled: bool = True) -> tuple[Any, jax.ShapeDtypeStruct]:
    """Returns the arguments of `steps.program` for a batch of `rows` as shapes with their shardings.

    Args: levelled: whether planes are 8-bit levels, see `steps.program`. dtype: of the parameters.
    """
    whole, split = meshes.replicated(mesh), meshes.rows(mesh)
    side, planes = ("text", jnp.int32) if kind == "text" else ("image", jnp.uint8 if levelled else jnp.float32)
    params = jax.eval_shape(functools.partial(towers.init, spec), jax.random.key(0))[side]
    inputs = {"params": jax.tree.map(lambda one: jax.ShapeDtypeStruct(one.shape, dtype, sharding=whole), params)}
    if side == "image" and levelled:
        inputs["levels"] = jax.ShapeDtypeStruct((256, 3), dtype, sharding=whole)
    pixels = towers.image_shape(spec)[:2]
    sizes = {"text": (towers.text_length(spec),), "image": pixels, steps.PAIR: (2, *pixels)}[kind]
    return inputs, jax.ShapeDtypeStruct((rows, *sizes), planes, sharding=split)


def device_bytes(spec: specs.VLMSpec, kind: str, mesh: Mesh, rows: int, dtype: Any, levelled: bool = True) -> int:
    """Returns the bytes of one device while a tower runs: of the compiled program, by XLA's own account, and of the step before it; 0 if it does not tell.

    Args: as of `shapes`.
    """
    step: Any = steps.program(spec, kind, mesh)
    given = shapes(spec, kind, mesh, rows, dtype, levelled)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    told = step.lower(*given).compile(compiler_options=_QUICKLY if on_cpu else None).memory_analysis()
    if told is None:
        return 0
    batch = given[1].dtype.itemsize * int(np.prod(given[1].sharding.shard_shape(given[1].shape)))
    return int(told.argument_size_in_bytes + told.temp_size_in_bytes + 2 * told.output_size_in_bytes) + batch


def seconds_per_row(spec: specs.VLMSpec, kind: str, mesh: Mesh, rows: int, dtype: Any, levelled: bool = True) -> float:
    """Returns the median seconds that a row takes in a batch of `rows`, or of fewer on a CPU so that it takes about a second.

    Parameters are one small number, which costs what any others do. Args: as of `shapes`.
    """
    flop = cost.text_flop(spec.text) if kind == "text" else cost.image_flop(spec.image, kind == steps.PAIR)
    fitting = max(1, int(_CPU_FLOP / flop)) if mesh.devices.flat[0].platform == "cpu" else rows
    size = meshes.padded(min(rows, fitting), mesh.size)
    inputs, batch = jax.tree.map(
        lambda one: jax.device_put(np.full(one.shape, 0.01 if jnp.issubdtype(one.dtype, jnp.floating) else 1, one.dtype), one.sharding),
        shapes(spec, kind, mesh, size, dtype, levelled),
    )
    step = steps.program(spec, kind, mesh)
    (spent,) = timing.alternating([lambda: step(inputs, batch)], _ROUNDS)
    return statistics.median(spent) / size
