"""The vision transformer: images in, features before the projection head out.

Patch embedding, optional class token first, learned positions, optional LayerNorm, the pre-LN stack, LayerNorm, and a pool: the
class token (Dosovitskiy et al. 2021, arXiv 2010.11929; Radford et al. 2021, arXiv 2103.00020, section 2.4), or what a learned
probe attends to (SigLIP's multi-head attention pool, Zhai et al. 2022, arXiv 2106.04560; transformers,
models/siglip/modeling_siglip.py).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from relink_jax import errors
from relink_jax.encoders import blocks, specs


class ImageTower(nn.Module):
    """`[B, H, W, C] -> [B, F]` in the dtype of the parameters."""

    spec: specs.VitSpec

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Returns the features [B, F] of normalised pixels [B, H, W, C].

        Raises: DataError: a pool that is neither 'class', with a class token, nor 'probe'.
        """
        spec, width = self.spec, self.spec.stack.width
        if spec.pool not in ("class", "probe") or (spec.pool == "class" and not spec.class_token):
            found = f"{spec.pool!r} {'with' if spec.class_token else 'without'} a class token"
            raise errors.DataError(errors.describe("pool", "vision transformer", "'class' with a class token, or 'probe'", found))
        size = (spec.patch_size, spec.patch_size)
        patches = nn.Conv(width, size, size, "VALID", use_bias=spec.patch_bias, precision=blocks.PRECISION, name="patch_embedding")(pixels)
        x = patches.reshape(patches.shape[0], -1, width)
        if spec.class_token:
            token = self.param("class_embedding", nn.initializers.normal(width**-0.5), (width,))
            x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, width)), x], axis=1)
        x = x + self.param("position_embedding", nn.initializers.normal(0.02), (spec.positions, width))
        if spec.pre_norm:
            x = blocks.layer_norm(spec.stack.epsilon, "pre_layernorm")(x)
        x = blocks.Stack(spec.stack, name="encoder")(x)
        norm = blocks.layer_norm(spec.stack.epsilon, "post_layernorm")
        return norm(x[:, 0]) if spec.pool == "class" else self._probed(norm(x))

    def _probed(self, x: jax.Array) -> jax.Array:
        """Returns the attention output [B, W] of the probe over tokens [B, P, W]."""
        batch, _, width = x.shape
        probe = self.param("probe", nn.initializers.normal(width**-0.5), (width,))
        attention = blocks.Attention(self.spec.stack.heads, name="probe_attn")
        return attention(x.reshape(-1, width), batch, queries=jnp.broadcast_to(probe, (batch, width)))
