"""Swin transformer: attention inside windows that shift by half their side from block to block, four neighbours merged between stages.

Liu et al. 2021, arXiv 2103.14030; transformers, models/swin/modeling_swin.py, whose published checkpoints this reproduces. Grids that the
window does not divide are padded below and to the right, after the LayerNorm, and the padding is attended to; it is cropped afterwards. A
window as large as its grid does not shift. The index into the bias table is in no parameter: it follows from the offsets within a window.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from relink_jax import errors
from relink_jax.encoders import blocks, specs

Grid = TypeVar("Grid", jax.Array, np.ndarray)

MASKED = -100.0
"""What the reference adds to the score of a pair from different regions; not minus infinity."""

OUTER_EPSILON = 1e-5
"""Of the LayerNorms after the patch embedding and in merging, whatever the configuration says of the others."""

POOLS = {"first": lambda tokens: tokens[:, 0], "mean": lambda tokens: tokens.mean(axis=1)}


def relative_position_index(side: int, window: int) -> np.ndarray:
    """Returns for each pair (query, key) of a window of `side` the row of the bias table [side ** 2, side ** 2].

    Row (dy + window - 1) * (2 * window - 1) + dx + window - 1 belongs to the offset (dy, dx) of query minus key; a window cut down to a
    smaller grid uses the part of the table that its offsets reach.
    """
    rows, columns = np.divmod(np.arange(side**2), side)
    dy, dx = (axis[:, None] - axis[None, :] + window - 1 for axis in (rows, columns))
    return dy * (2 * window - 1) + dx


def shift_mask(height: int, width: int, side: int, shift: int) -> np.ndarray:
    """Returns what is added to the scores of each window [windows, side ** 2, side ** 2] after a cyclic shift: 0, or MASKED.

    The shift brings cells from opposite borders into the last windows; those do not see each other.
    """
    wrapped_rows, wrapped_columns = (np.arange(size) >= size - shift for size in (height, width))
    regions = windows(2 * wrapped_rows[None, :, None, None] + wrapped_columns[None, None, :, None], side)[..., 0]
    return np.where(regions[:, :, None] == regions[:, None, :], 0.0, MASKED)


def windows(grid: Grid, side: int) -> Grid:
    """Returns [B * windows, side ** 2, C] of a grid [B, H, W, C] that `side` divides, both row by row."""
    batch, height, width, channels = grid.shape
    return grid.reshape(batch, height // side, side, width // side, side, channels).swapaxes(2, 3).reshape(-1, side**2, channels)


def grid_of(tokens: jax.Array, side: int, height: int, width: int) -> jax.Array:
    """Returns the grid [B, height, width, C] of windows [B * windows, side ** 2, C]."""
    return tokens.reshape(-1, height // side, width // side, side, side, tokens.shape[-1]).swapaxes(2, 3).reshape(-1, height, width, tokens.shape[-1])


def pad_to_multiple(grid: jax.Array, multiple: int) -> jax.Array:
    """Returns [B, H, W, C] with zeros below and to the right until `multiple` divides both sides."""
    return jnp.pad(grid, ((0, 0), (0, -grid.shape[1] % multiple), (0, -grid.shape[2] % multiple), (0, 0)))


def merge(grid: jax.Array) -> jax.Array:
    """Returns [B, ceil(H / 2), ceil(W / 2), 4 C] of [B, H, W, C]: of each 2 x 2 cells upper left, lower left, upper right, lower right."""
    grid = pad_to_multiple(grid, 2)
    return jnp.concatenate([grid[:, row::2, column::2] for column in range(2) for row in range(2)], axis=-1)


class WindowAttention(nn.Module):
    """Self-attention within each window, with a learned bias per head and offset."""

    heads: int
    window: int

    @nn.compact
    def __call__(self, x: jax.Array, side: int, mask: np.ndarray | None) -> jax.Array:
        """Returns the attended tokens [B * windows, side ** 2, C]; `mask` [windows, side ** 2, side ** 2] is added to the scores."""
        width = x.shape[-1]
        query, key, value = (blocks.dense(width, f"{part}_proj")(x.reshape(-1, width)) for part in "qkv")
        table = self.param("relative_position_bias", nn.initializers.truncated_normal(0.02), ((2 * self.window - 1) ** 2, self.heads))
        bias = table[relative_position_index(side, self.window)].transpose(2, 0, 1)
        if mask is not None:
            bias = jnp.tile(bias + jnp.asarray(mask, x.dtype)[:, None], (len(x) // len(mask), 1, 1, 1))
        return blocks.dense(width, "out_proj")(blocks.attend(query, key, value, len(x), self.heads, bias=bias)).reshape(x.shape)


class Block(nn.Module):
    """`x + attention(norm1(x))` within windows, then `x + mlp(norm2(x))`."""

    spec: specs.SwinSpec
    heads: int
    shifted: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the grid [B, H, W, C] after attention and MLP."""
        spec, (height, width, channels) = self.spec, x.shape[1:]
        side = min(spec.window, height, width)
        shift = spec.window // 2 if self.shifted and min(height, width) > spec.window else 0
        y = pad_to_multiple(blocks.layer_norm(spec.epsilon, "norm1")(x), side)
        padded_height, padded_width = y.shape[1:3]
        tokens = windows(jnp.roll(y, (-shift, -shift), (1, 2)), side)
        mask = shift_mask(padded_height, padded_width, side, shift) if shift else None
        tokens = WindowAttention(self.heads, spec.window, name="attn")(tokens, side, mask)
        x = x + jnp.roll(grid_of(tokens, side, padded_height, padded_width), (shift, shift), (1, 2))[:, :height, :width]
        hidden = blocks.dense(spec.mlp_ratio * channels, "fc1")(blocks.layer_norm(spec.epsilon, "norm2")(x))
        return x + blocks.dense(channels, "fc2")(blocks.activation(spec.act)(hidden))


class Merging(nn.Module):
    """LayerNorm of merged neighbours, then a linear map without bias to twice the width."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, ceil(H / 2), ceil(W / 2), 2 C] of [B, H, W, C]."""
        merged = blocks.layer_norm(OUTER_EPSILON, "norm")(merge(x))
        return nn.Dense(2 * x.shape[-1], use_bias=False, precision=blocks.PRECISION, name="reduction")(merged)


class Stage(nn.Module):
    """Blocks of one width, every second one shifted, then merging unless it is the last stage."""

    spec: specs.SwinSpec
    index: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the next stage's grid, or the last grid [B, H, W, C]."""
        for block in range(self.spec.blocks[self.index]):
            x = Block(self.spec, self.spec.heads[self.index], block % 2 == 1, name=f"block_{block}")(x)
        return x if self.index == len(self.spec.blocks) - 1 else Merging(name="downsample")(x)


class SwinTower(nn.Module):
    """`[B, H, W, C] -> [B, F]`."""

    spec: specs.SwinSpec

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Returns the features [B, F] of normalised pixels [B, H, W, C].

        Raises: errors.DataError: an unknown pool, or heads that do not match the stages or divide their widths.
        """
        spec = self.spec
        if spec.pool not in POOLS:
            raise errors.DataError(errors.describe("pool", "Swin specification", " or ".join(POOLS), repr(spec.pool)))
        widths = [spec.width * 2**index for index in range(len(spec.blocks))]
        if len(spec.heads) != len(widths) or any(width % heads for width, heads in zip(widths, spec.heads, strict=True)):
            raise errors.DataError(errors.describe("heads", "Swin specification", f"a divisor of each of the widths {widths}", str(list(spec.heads))))
        patch = (spec.patch_size, spec.patch_size)
        x = pad_to_multiple(pixels, spec.patch_size)
        x = nn.Conv(spec.width, patch, patch, "VALID", precision=blocks.PRECISION, name="patch_embedding")(x)
        x = blocks.layer_norm(OUTER_EPSILON, "patch_norm")(x)
        for index in range(len(spec.blocks)):
            x = Stage(spec, index, name=f"stage_{index}")(x)
        return POOLS[spec.pool](blocks.layer_norm(spec.epsilon, "final_norm")(x.reshape(x.shape[0], -1, x.shape[-1])))
