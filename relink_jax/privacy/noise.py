"""Gaussian noise for clipped sums: one draw per step, scaled by the sensitivity that the objective declares.

The draw is made on the whole gradient outside any per-device code, in float32, from one key of the step, so that it is the same on any mesh
and is never made twice (see `randomness` for keys).

Modes, by what leaves the run:
    test       a known seed. Not private.
    research   one float32 draw. Such a normal takes 2^23 values, as jax's does, so ONE noisy gradient that became known would tell which of two
               true gradients it hides (Mironov 2012; Holohan & Braghin 2021, arXiv 2107.10138). Only final heads may leave, never a step's.
    careful    the sum of four draws over two, which has the same law and no such small support, and released heads rounded to the grid of
               bfloat16, a public step that costs no privacy. The default.
The generator (Threefry-2x32, Salmon et al. 2011) is not cryptographic in any of them. A discrete Gaussian from a cryptographic generator is not offered: the accountants
used here do not bound it under Poisson sampling.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors
from relink_jax.privacy.modes import DRAWS, GRIDS, MODES, TEST

_LOWEST = np.nextafter(np.float32(-1), np.float32(0))

__all__ = ["DRAWS", "GRIDS", "MODES", "TEST", "add_noise", "released", "stddev"]


def stddev(noise_multiplier: float, scale: float) -> float:
    """Returns the standard deviation of the noise on a sum: `noise_multiplier * scale`, the only place where the two meet.

    Args: scale: `Objective.noise_scale`, the sensitivity where there is one.
    Raises: UnsoundError: a negative or non-finite multiplier, or a scale that is not positive and finite.
    """
    if not 0 <= noise_multiplier < float("inf"):
        raise errors.UnsoundError(errors.describe("noise_multiplier", "mechanism", "a finite number of at least 0", f"{noise_multiplier:g}"))
    if not 0 < scale < float("inf"):
        raise errors.UnsoundError(errors.describe("sensitivity", "clipped sum", "a positive finite bound", f"{scale:g}"))
    return noise_multiplier * scale


def add_noise(value: Any, deviation: float, key: jax.Array, draws: int = 1, then: Callable[..., Any] | None = None, *given: Any) -> Any:
    """Returns a tree plus independent N(0, deviation^2) in every entry, float32; one call per step, before any division.

    Args:
        draws: how many standard normals make one, 1 or 4.
        then: what to do with the noisy tree, `then(noisy, *given)`, in the program that adds: a hashable pure function. What it returns is returned.
    """
    shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(value))
    drawn = _noise(key, shapes, draws) if any(map(_is_spread, jax.tree.leaves(value))) else None
    return _add(value, np.float32(deviation), key, drawn, draws, then, given)


def released(value: Any, mode: str) -> Any:
    """Returns final heads (NumPy) as they leave the run: on the grid of bfloat16 where the mode says so. Post-processing, it costs nothing."""
    if GRIDS[mode] is None:
        return value
    return jax.tree.map(lambda leaf: np.asarray(jnp.asarray(leaf, jnp.bfloat16).astype(jnp.float32)), value)


def _normals(key: jax.Array, shape: tuple[int, ...], draws: int) -> list[jax.Array]:
    """Returns independent arrays of standard normals, float32: the quantile of 23 bits of a word each, as `jax.random.normal` has it.

    The words are those of Threefry-2x32 under the key at counters 0, 1, 2 and so on, both of each block: XLA's own generator by name, which is
    the same on every device. `jax.random` hashes one block per number, in a loop that runs on one core of a CPU.
    """
    state, found = jnp.concatenate([jax.random.key_data(key), jnp.zeros(2, jnp.uint32)]), []
    for _ in range(draws):
        state, words = jax.lax.rng_bit_generator(state, shape, jnp.uint32, algorithm=jax.lax.RandomAlgorithm.RNG_THREE_FRY)
        between = jax.lax.bitcast_convert_type(words >> np.uint32(9) | np.uint32(0x3F800000), jnp.float32) - np.float32(1)
        uniform = jnp.maximum(_LOWEST, between * (np.float32(1) - _LOWEST) + _LOWEST)
        found.append(np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform))
    return found


def _drawn(key: jax.Array, shape: tuple[int, ...], draws: int) -> jax.Array:
    return sum(_normals(key, shape, draws), start=jnp.float32(0)) / np.float32(np.sqrt(draws))


def _is_spread(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1


@functools.partial(jax.jit, static_argnums=(1, 2))
def _noise(key: jax.Array, shapes: tuple[tuple[int, ...], ...], draws: int) -> list[jax.Array]:
    """Returns unit noise for leaves of these shapes. Beside leaves on a mesh it is a program of its own: in theirs XLA would split the generator over
    the mesh, and draw otherwise.
    """
    return [_drawn(one, shape, draws) for one, shape in zip(jax.random.split(key, len(shapes)), shapes, strict=True)]


@functools.partial(jax.jit, static_argnums=(4, 5))
def _add(value: Any, deviation: Any, key: jax.Array, drawn: list[jax.Array] | None, draws: int, then: Callable[..., Any] | None, given: tuple[Any, ...]) -> Any:
    leaves, structure = jax.tree.flatten(value)
    drawn = _noise(key, tuple(leaf.shape for leaf in leaves), draws) if drawn is None else drawn
    noisy = jax.tree.unflatten(structure, [leaf + deviation * one for leaf, one in zip(leaves, drawn, strict=True)])
    return noisy if then is None else then(noisy, *given)
