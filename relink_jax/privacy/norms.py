"""L2 norms that neither overflow nor underflow, and the factors that clip to them."""

from typing import Any

import jax
import jax.numpy as jnp

MARGIN = 1 - 1e-6
_TINY = jnp.finfo(jnp.float32).tiny


def norm(vectors: jax.Array) -> jax.Array:
    """Returns L2 norms along the last axis, scaled by the largest entry so that squares neither overflow nor underflow."""
    largest = jnp.max(jnp.abs(vectors), axis=-1)
    scale = jnp.where(largest > 0, largest, 1.0)
    return largest * jnp.sqrt(jnp.sum(jnp.square(vectors / scale[..., None]), axis=-1))


def clip_factors(norms: jax.Array, l2_norm_clip: Any, is_padding_example: jax.Array) -> jax.Array:
    """Returns min(1, C(1-1e-6)/norm) per record; 0 where the norm is not finite or the row is padding."""
    kept = jnp.isfinite(norms) & ~is_padding_example
    return jnp.where(kept, jnp.minimum(1.0, l2_norm_clip * MARGIN / jnp.maximum(norms, _TINY)), 0.0)
