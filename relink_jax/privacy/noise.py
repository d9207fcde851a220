"""Gaussian noise for clipped sums: one draw per step, scaled by the sensitivity that came with the sum.

The key is 64 bits of OS entropy put straight into a threefry key (`jax.random.key(int)` would keep 32 bits of the seed, few
enough to enumerate). The draw is made on the whole gradient outside any per-device code, so it is the same on any mesh.

Design note: float32 Gaussians from a counter-based generator that is not cryptographic are research grade. Released heads are
an optimizer's sum of many noisy steps, and per-step noisy gradients never leave `training`; see Mironov (2012) and
Holohan & Braghin (2021, arXiv 2107.10138) for what a release of single noisy floats would give away.
"""

import secrets
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors, heads
from relink_jax.privacy import clipping


def fresh_key(token_bytes: Callable[[int], bytes] = secrets.token_bytes) -> jax.Array:
    """Returns a new threefry key of 64 secret bits; `token_bytes` other than OS entropy is for tests."""
    return jax.random.wrap_key_data(jnp.asarray(np.frombuffer(token_bytes(8), np.uint32)), impl="threefry2x32")


def stddev(noise_multiplier: float, sensitivity: float) -> float:
    """Returns the standard deviation of the noise on a sum: `noise_multiplier * sensitivity`.

    Raises: UnsoundError: a negative or non-finite multiplier, or a sensitivity that is not positive and finite.
    """
    if not 0 <= noise_multiplier < float("inf"):
        raise errors.UnsoundError(errors.describe("noise_multiplier", "mechanism", "a finite number of at least 0", f"{noise_multiplier:g}"))
    if not 0 < sensitivity < float("inf"):
        raise errors.UnsoundError(errors.describe("sensitivity", "clipped sum", "a positive finite bound", f"{sensitivity:g}"))
    return noise_multiplier * sensitivity


def add_noise(clipped: clipping.ClippedSum, noise_multiplier: float, key: jax.Array) -> heads.Heads:
    """Returns the sum plus independent N(0, stddev^2) in every entry of both heads, float32; one call per step, before any division.

    Raises: UnsoundError: see `stddev`; the sum must carry the add/remove sensitivity that `noise_multiplier` is relative to.
    """
    if clipped.relation == "replace_one":
        raise errors.UnsoundError(
            errors.describe("relation", "clipped sum", "add_remove or zero_out, which noise_multiplier is relative to", repr(clipped.relation))
        )
    return _add(clipped.value, np.float32(stddev(noise_multiplier, clipped.sensitivity)), key)


@jax.jit
def _add(value: heads.Heads, deviation: Any, key: jax.Array) -> heads.Heads:
    leaves, structure = jax.tree.flatten(value)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [leaf + deviation * jax.random.normal(one, leaf.shape, jnp.float32) for leaf, one in zip(leaves, keys, strict=True)])
