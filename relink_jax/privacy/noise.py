"""Gaussian noise for clipped sums: one draw per step, scaled by the sensitivity that the objective declares.

The draw is made on the whole gradient outside any per-device code, in float32, from one key of the step, so that it is the same on any mesh
and is never made twice (see `randomness` for keys).

Modes, by what leaves the run:
    test       a known seed. Not private.
    research   one float32 draw. jax's float32 normal takes 2^23 values, so ONE noisy gradient that became known would tell which of two true
               gradients it hides (Mironov 2012; Holohan & Braghin 2021, arXiv 2107.10138). Only final heads may leave, never a step's.
    careful    the sum of four draws over two, which has the same law and no such small support, and released heads rounded to the grid of
               bfloat16, a public step that costs no privacy. The default.
The generator (threefry) is not cryptographic in any of them. A discrete Gaussian from a cryptographic generator is not offered: the accountants
used here do not bound it under Poisson sampling.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors
from relink_jax.privacy.modes import DRAWS, GRIDS, MODES, TEST

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


def add_noise(value: Any, deviation: float, key: jax.Array, draws: int = 1) -> Any:
    """Returns a tree plus independent N(0, deviation^2) in every entry, float32; one call per step, before any division.

    Args: draws: how many standard normals make one, 1 or 4.
    """
    return _add(value, np.float32(deviation), key, draws)


def released(value: Any, mode: str) -> Any:
    """Returns final heads (NumPy) as they leave the run: on the grid of bfloat16 where the mode says so. Post-processing, it costs nothing."""
    if GRIDS[mode] is None:
        return value
    return jax.tree.map(lambda leaf: np.asarray(jnp.asarray(leaf, jnp.bfloat16).astype(jnp.float32)), value)


def _drawn(key: jax.Array, shape: tuple[int, ...], draws: int) -> jax.Array:
    return sum(jax.random.normal(one, shape, jnp.float32) for one in jax.random.split(key, draws)) / np.float32(np.sqrt(draws))  # type: ignore[return-value]


def _add_all(value: Any, deviation: Any, key: jax.Array, draws: int) -> Any:
    leaves, structure = jax.tree.flatten(value)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [leaf + deviation * _drawn(one, leaf.shape, draws) for leaf, one in zip(leaves, keys, strict=True)])


_add = jax.jit(_add_all, static_argnums=3)
