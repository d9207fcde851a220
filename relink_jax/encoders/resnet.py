"""ResNet v1.5 with frozen batch norm: one vector per image, or the last grid patch by patch.

Bottleneck blocks with the stride on the 3 x 3 convolution (He et al. 2016, arXiv 1512.03385; torchvision's resnet50). Batch norm is the
affine map of its stored statistics, so a row never depends on its batch. Padding is written out: 'SAME' would pad one side only at stride 2.
BioViL-T adds a 1 x 1 map of the grid and a temporal pooler; GLoRIA upsamples its input first.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from relink_jax import errors
from relink_jax.encoders import blocks, specs, temporal

POOLS = ("mean", "map")


def align_corners(source: int, target: int) -> np.ndarray:
    """Returns the matrix [target, source] of linear interpolation in which first and last samples keep their places.

    Row i reads position i * (source - 1) / (target - 1) (torch.nn.functional.interpolate, align_corners=True).
    """
    places = np.arange(target) * (source - 1) / max(target - 1, 1)
    return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(source)))


def resize(pixels: jax.Array, side: int) -> jax.Array:
    """Returns pixels [B, side, side, C] of [B, H, W, C], bilinear with aligned corners."""
    rows, columns = (jnp.asarray(align_corners(size, side), pixels.dtype) for size in pixels.shape[1:3])
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, pixels, precision=blocks.PRECISION)


def max_pool(x: jax.Array) -> jax.Array:
    """Returns the 3 x 3 maxima at stride 2 of [B, H, W, C], a border of minus infinity around."""
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def _conv(features: int, kernel: int, stride: int, name: str) -> nn.Conv:
    """Returns a convolution without bias, padded alike on both sides."""
    side = kernel // 2
    return nn.Conv(features, (kernel, kernel), stride, ((side, side), (side, side)), use_bias=False, precision=blocks.PRECISION, name=name)


class FrozenBatchNorm(nn.Module):
    """`(x - mean) / sqrt(var + epsilon) * scale + bias` per channel, all four arrays parameters."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the normalised [..., C]."""
        width = x.shape[-1:]
        scale, var = (self.param(name, nn.initializers.ones, width) for name in ("scale", "var"))
        bias, mean = (self.param(name, nn.initializers.zeros, width) for name in ("bias", "mean"))
        return (x - mean) * (scale / jnp.sqrt(var + self.epsilon)) + bias


class ConvNorm(nn.Module):
    """A convolution named conv and its frozen batch norm named bn."""

    features: int
    kernel: int
    stride: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, ceil(H / stride), ceil(W / stride), features]."""
        return FrozenBatchNorm(self.epsilon, name="bn")(_conv(self.features, self.kernel, self.stride, "conv")(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 with the stride, 1 x 1 to four times the width, and a shortcut that is projected where shapes change."""

    width: int
    stride: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, ceil(H / stride), ceil(W / stride), 4 * width]."""
        y = x
        for index, (features, kernel, stride) in enumerate(((self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)), start=1):
            y = FrozenBatchNorm(self.epsilon, name=f"bn{index}")(_conv(features, kernel, stride, f"conv{index}")(y))
            y = y if index == 3 else nn.relu(y)
        if y.shape != x.shape:
            x = ConvNorm(4 * self.width, 1, self.stride, self.epsilon, name="downsample")(x)
        return nn.relu(x + y)


class Stage(nn.Module):
    """Blocks of one width, the first with the stage's stride."""

    blocks: int
    width: int
    stride: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, ceil(H / stride), ceil(W / stride), 4 * width]."""
        for index in range(self.blocks):
            x = Bottleneck(self.width, self.stride if index == 0 else 1, self.epsilon, name=f"block_{index}")(x)
        return x


class ResNetTower(nn.Module):
    """`[B, H, W, C] -> [B, F]` (pool 'mean') or `[B, grid * grid, F]`, row by row (pool 'map')."""

    spec: specs.ResNetSpec

    @nn.compact
    def __call__(self, pixels: jax.Array, prior: jax.Array | None = None) -> jax.Array:
        """Returns the features of normalised pixels [B, H, W, C].

        `prior`: the same patients' earlier images in the same shape; only with `joint_width`, and the features are then the current
        image's patches followed by the temporal pooler's, [B, grid * grid, 2 * joint_width].

        Raises: errors.UsageError: a prior image where the model takes none or of another shape; errors.DataError: an unknown pool.
        """
        spec = self.spec
        if spec.pool not in POOLS:
            raise errors.DataError(errors.describe("pool", "ResNet specification", " or ".join(POOLS), repr(spec.pool)))
        if prior is None:
            x = self._patches(pixels)
            if spec.joint_width and self.is_initializing():
                self._difference(x, x)
        elif not spec.joint_width or prior.shape != pixels.shape:
            expected = f"shape {pixels.shape}" if spec.joint_width else "none, since the model compares no images"
            raise errors.UsageError(errors.describe("prior image", "image tower", expected, f"shape {prior.shape}"))
        else:
            beside = jnp.stack([pixels, prior], axis=1).reshape(-1, *pixels.shape[1:])  # a pair stays on its device
            both = self._patches(beside)
            current, previous = both[::2], both[1::2]
            x = jnp.concatenate([current, self._difference(current, previous)], axis=-1)
        return x.mean(axis=1) if spec.pool == "mean" else x

    def _patches(self, pixels: jax.Array) -> jax.Array:
        """Returns the last stage's grid [B, P, F], mapped to `joint_width` if there is one."""
        spec = self.spec
        x = resize(pixels, spec.resize) if spec.resize else pixels
        x = max_pool(nn.relu(ConvNorm(spec.width, 7, 2, spec.epsilon, name="stem")(x)))
        for index, depth in enumerate(spec.blocks):
            x = Stage(depth, spec.width * 2**index, 2 if index else 1, spec.epsilon, name=f"stage_{index + 1}")(x)
        if spec.joint_width:
            x = _conv(spec.joint_width, 1, 1, "backbone_to_vit")(x)
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def _difference(self, current: jax.Array, previous: jax.Array) -> jax.Array:
        return temporal.TemporalPooler(self.spec.pooler_blocks, self.spec.pooler_heads, name="pooler")(current, previous)
