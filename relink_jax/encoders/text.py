"""The pre-LN text transformers of CLIP and SigLIP: token ids in, features of one position before the projection head out.

CLIP (Radford et al. 2021, arXiv 2103.00020, section 2.4) is causal and pools the end-of-text token, so padding after it cannot reach
the features. SigLIP (Zhai et al. 2023, arXiv 2303.15343) is bidirectional, masks nothing and pools the last position, which is
padding for most texts: its features belong to one length of padding, and ids must be as long as in training.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from relink_jax import errors
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
    """`[B, L] int32 -> [B, F]` in the dtype of the parameters; L is at most the tower's positions."""

    spec: specs.TextSpec

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Returns the features [B, F] of token ids [B, L].

        Raises: DataError: a pool that is neither 'eos' nor 'last'.
        """
        spec, width, length = self.spec, self.spec.stack.width, ids.shape[1]
        if spec.pool not in ("eos", "last"):
            raise errors.DataError(errors.describe("pool", "text transformer", "'eos' or 'last'", repr(spec.pool)))
        tokens = self.param("token_embedding", nn.initializers.normal(0.02), (spec.vocab_size, width))
        positions = self.param("position_embedding", nn.initializers.normal(0.01), (spec.positions, width))
        x = tokens[ids] + positions[:length]
        x = blocks.Stack(spec.stack, name="encoder")(x, jnp.tril(jnp.ones((length, length), bool)) if spec.causal else None)
        x = blocks.layer_norm(spec.stack.epsilon, "final_layer_norm")(x)
        return x[:, -1] if spec.pool == "last" else at(x, eos_position(ids, spec.eos_token_id))


def at(x: jax.Array, position: jax.Array) -> jax.Array:
    """Returns the tokens [B, W] of x [B, L, W] at one position [B] each."""
    return jnp.take_along_axis(x, position[:, None, None], axis=1)[:, 0]
