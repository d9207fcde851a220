"""BioViL-T's temporal pooler: what changed between the patches of a prior image and of the current one.

Transformer blocks over the patches of both images; the tokens of the current image are kept (Bannur et al. 2023, arXiv 2301.04558,
section 3.1; microsoft/hi-ml, health_multimodal/image/model/transformer.py). Position and image type are added inside every block, after
the first LayerNorm, to what becomes query, key *and* value; q, k and v have no bias. The sine table is in no checkpoint: it is recomputed.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from relink_jax import errors
from relink_jax.encoders import blocks

ACT, EPSILON = "gelu", 1e-6


def sine_positions(grid: int, width: int) -> np.ndarray:
    """Returns the position table [grid * grid, width], float64, row by row.

    The first half of the channels encodes y, the second x. Coordinates 1 .. grid are divided by (grid + 1e-6) and scaled by 2 pi;
    channels 2i and 2i + 1 of a half are sine and cosine of coordinate / 10000 ** (2i / half).
    """
    half = width // 2
    coordinates = np.arange(1, grid + 1) / (grid + 1e-6) * 2 * math.pi
    angles = coordinates[:, None] / 10000.0 ** (np.arange(0, half, 2) / half)
    axis = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(grid, half)
    return np.concatenate([np.repeat(axis, grid, axis=0), np.tile(axis, (grid, 1))], axis=1)


class _Attention(nn.Module):
    """Self-attention whose q, k and v have no bias."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, batch: int) -> jax.Array:
        width = x.shape[-1]
        query, key, value = (nn.Dense(width, use_bias=False, precision=blocks.PRECISION, name=f"{part}_proj")(x) for part in "qkv")
        mixed = blocks.attend(query, key, value, batch, self.heads)
        return blocks.dense(width, "out_proj")(mixed)


class _Block(nn.Module):
    """`x + attention(norm1(x) + marks)`, then `x + mlp(norm2(x))` with a hidden width equal to the width."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, marks: jax.Array) -> jax.Array:
        marked = blocks.layer_norm(EPSILON, "norm1")(x) + marks
        x = x + _Attention(self.heads, name="attn")(marked.reshape(-1, x.shape[-1]), len(x)).reshape(x.shape)
        hidden = blocks.activation(ACT)(blocks.dense(x.shape[-1], "fc1")(blocks.layer_norm(EPSILON, "norm2")(x)))
        return x + blocks.dense(x.shape[-1], "fc2")(hidden)


class TemporalPooler(nn.Module):
    """`[B, P, J], [B, P, J] -> [B, P, J]`: the patches of a square grid of the current and of the prior image to the difference half."""

    layers: int
    heads: int

    @nn.compact
    def __call__(self, current: jax.Array, prior: jax.Array) -> jax.Array:
        """Returns the current image's tokens [B, P, J] after they have seen the prior image's.

        Raises: errors.UsageError: the two images' patches differ in shape, or do not form a square; errors.DataError: a width that the
        heads do not divide, or that is no multiple of 4.
        """
        patches, width = current.shape[1:]
        if width % 4 or width % self.heads:
            raise errors.DataError(errors.describe("joint width", "ResNet specification", f"a multiple of 4 and of {self.heads} heads", str(width)))
        grid = math.isqrt(patches)
        if prior.shape != current.shape or grid**2 != patches:
            raise errors.UsageError(
                errors.describe("patches", "temporal pooler", "two images' patches of one square grid", f"shapes {current.shape} and {prior.shape}")
            )
        types = self.param("type_embedding", nn.initializers.truncated_normal(0.02), (2, width))
        positions = jnp.asarray(sine_positions(grid, width), current.dtype)
        marks = jnp.concatenate([positions + types[0], positions + types[1]])
        x = jnp.concatenate([current, prior], axis=1)
        for index in range(self.layers):
            x = _Block(self.heads, name=f"block_{index}")(x, marks)
        return blocks.layer_norm(EPSILON, "norm_post")(x)[:, :patches]
