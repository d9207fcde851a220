"""CLIP's vision transformer: images in, features of the class token before the projection head out.

Patch embedding without bias, class token first, learned positions, LayerNorm, the stack, LayerNorm of the class token
(Dosovitskiy et al. 2021, arXiv 2010.11929; Radford et al. 2021, arXiv 2103.00020, section 2.4).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from relink_jax.encoders import blocks, specs


class ImageTower(nn.Module):
    """`[B, H, W, C] -> [B, F]`, float32."""

    spec: specs.ImageSpec

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Returns the features [B, F] of normalised pixels [B, H, W, C]."""
        spec, width = self.spec, self.spec.stack.width
        patches = nn.Conv(
            width,
            (spec.patch_size, spec.patch_size),
            (spec.patch_size, spec.patch_size),
            "VALID",
            use_bias=False,
            precision=blocks.PRECISION,
            name="patch_embedding",
        )(pixels)
        token = self.param("class_embedding", nn.initializers.normal(width**-0.5), (width,))
        positions = self.param("position_embedding", nn.initializers.normal(0.02), (spec.positions, width))
        x = patches.reshape(patches.shape[0], -1, width)
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, width)), x], axis=1) + positions
        x = blocks.layer_norm(spec.stack.epsilon, "pre_layernorm")(x)
        x = blocks.Stack(spec.stack, name="encoder")(x)
        return blocks.layer_norm(spec.stack.epsilon, "post_layernorm")(x[:, 0])
