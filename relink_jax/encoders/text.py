"""CLIP's causal text transformer: token ids in, features at the end-of-text token before the projection head out.

Radford et al. 2021, arXiv 2103.00020, section 2.4. Attention is causal, so padding after the end-of-text token cannot
reach the features and no padding mask is needed.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from relink_jax.encoders import blocks, specs

LEGACY_EOS = 2


def eos_position(ids: jax.Array, eos_token_id: int) -> jax.Array:
    """Returns the position [B] whose token is pooled, for ids [B, L].

    Published CLIP configs carry `eos_token_id: 2` although the vocabulary's end-of-text token is its highest id; for those
    the reference takes the first position of the largest id, otherwise the first position of `eos_token_id`
    (transformers, models/clip/modeling_clip.py).
    """
    if eos_token_id == LEGACY_EOS:
        return jnp.argmax(ids, axis=-1)
    return jnp.argmax(ids == eos_token_id, axis=-1)


class TextTower(nn.Module):
    """`[B, L] int32 -> [B, F]`, float32; L is at most the tower's positions."""

    spec: specs.TextSpec

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Returns the features [B, F] of token ids [B, L]."""
        spec, width, length = self.spec, self.spec.stack.width, ids.shape[1]
        tokens = self.param("token_embedding", nn.initializers.normal(0.02), (spec.vocab_size, width))
        positions = self.param("position_embedding", nn.initializers.normal(0.01), (spec.positions, width))
        x = tokens[ids] + positions[:length]
        x = blocks.Stack(spec.stack, name="encoder")(x, jnp.tril(jnp.ones((length, length), bool)))
        x = blocks.layer_norm(spec.stack.epsilon, "final_layer_norm")(x)
        return jnp.take_along_axis(x, eos_position(ids, spec.eos_token_id)[:, None, None], axis=1)[:, 0]
