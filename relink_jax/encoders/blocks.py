"""The pre-LN transformer stack that image and text towers share.

`x + attention(norm1(x))`, then `x + mlp(norm2(x))`, biases on every linear map, as in CLIP (Radford et al. 2021,
arXiv 2103.00020; OpenAI's clip/model.py). Activation and LayerNorm epsilon have no defaults: both are invisible in a
checkpoint's keys and wrong ones move embeddings without an error.

Design note: Flax's LayerNorm computes the variance as E[x^2] - E[x]^2 unless told otherwise, which loses digits that the
reference keeps; `layer_norm` switches that off in one place. Matmuls ask for HIGHEST precision, so that accelerators do
not quietly round to bfloat16 or TF32. Tokens travel as one flat matrix [B * L, W] and only attention sees the batch: the
weight gradients are then plain matrix products, which halves the time of training on a CPU.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from relink_jax import errors
from relink_jax.encoders import specs

PRECISION = jax.lax.Precision.HIGHEST


def quick_gelu(x: jax.Array) -> jax.Array:
    """Returns x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"quick_gelu": quick_gelu, "gelu": _gelu}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation that a config's `hidden_act` names.

    Raises: DataError: an activation no tower here implements.
    """
    if name not in ACTIVATIONS:
        raise errors.DataError(errors.describe("activation", "config.json", " or ".join(ACTIVATIONS), repr(name)))
    return ACTIVATIONS[name]


def dense(features: int, name: str) -> nn.Dense:
    """Returns a biased linear layer at HIGHEST precision."""
    return nn.Dense(features, precision=PRECISION, kernel_init=nn.initializers.lecun_normal(), name=name)


def layer_norm(epsilon: float, name: str) -> nn.LayerNorm:
    """Returns a LayerNorm with the two-pass variance."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


class Attention(nn.Module):
    """Multi-head self-attention with separate q, k and v projections."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, batch: int, mask: jax.Array | None) -> jax.Array:
        """Returns the attended tokens [B * L, W]; `mask` [L, L] is True where attention is allowed."""
        width = x.shape[-1]
        depth = width // self.heads
        query, key, value = (self._split(dense(width, f"{part}_proj")(x), batch) for part in "qkv")
        scores = jnp.einsum("nld,nmd->nlm", query * depth**-0.5, key, precision=PRECISION)
        if mask is not None:
            scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("nlm,nmd->nld", jax.nn.softmax(scores, axis=-1), value, precision=PRECISION)
        mixed = mixed.reshape(batch, self.heads, -1, depth).transpose(0, 2, 1, 3).reshape(x.shape)
        return dense(width, "out_proj")(mixed)

    def _split(self, x: jax.Array, batch: int) -> jax.Array:
        """Returns [B * heads, L, W / heads] of [B * L, W]."""
        return x.reshape(batch, -1, self.heads, x.shape[-1] // self.heads).transpose(0, 2, 1, 3).reshape(batch * self.heads, -1, x.shape[-1] // self.heads)


class Block(nn.Module):
    """One pre-LN layer."""

    stack: specs.StackSpec

    @nn.compact
    def __call__(self, x: jax.Array, batch: int, mask: jax.Array | None) -> jax.Array:
        """Returns the tokens [B * L, W] after attention and MLP."""
        stack = self.stack
        x = x + Attention(stack.heads, name="self_attn")(layer_norm(stack.epsilon, "layer_norm1")(x), batch, mask)
        hidden = activation(stack.act)(dense(stack.mlp_width, "fc1")(layer_norm(stack.epsilon, "layer_norm2")(x)))
        return x + dense(stack.width, "fc2")(hidden)


class Stack(nn.Module):
    """`layers` blocks in a row, named block_0 and so on."""

    stack: specs.StackSpec

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns the tokens [B, L, W] after every block."""
        flat = x.reshape(-1, x.shape[-1])
        for index in range(self.stack.layers):
            flat = Block(self.stack, name=f"block_{index}")(flat, x.shape[0], mask)
        return flat.reshape(x.shape)
