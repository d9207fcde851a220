"""What the transformer towers share: activations, layers at full precision, attention and the pre-LN stack.

Pre-LN is `x + attention(norm1(x))`, then `x + mlp(norm2(x))`, biases on every linear map, as in CLIP (Radford et al. 2021,
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
_NEVER = -1e30  # a score that leaves no weight, in bfloat16 too
_CACHED = 2**24  # bytes of scores computed together, in groups of heads: what a CPU's last cache holds, and ample for an accelerator


def quick_gelu(x: jax.Array) -> jax.Array:
    """Returns x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """Returns x times the normal distribution function of x, through erf."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """Returns the tanh approximation of `gelu`, which SigLIP is trained with."""
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation that a config's `hidden_act` names.

    Raises: DataError: an activation no tower here implements.
    """
    if name not in ACTIVATIONS:
        raise errors.DataError(errors.describe("activation", "config.json", f"one of {', '.join(ACTIVATIONS)}", repr(name)))
    return ACTIVATIONS[name]


def dense(features: int, name: str) -> nn.Dense:
    """Returns a biased linear layer at HIGHEST precision."""
    return nn.Dense(features, precision=PRECISION, kernel_init=nn.initializers.lecun_normal(), name=name)


def layer_norm(epsilon: float, name: str) -> nn.LayerNorm:
    """Returns a LayerNorm with the two-pass variance."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


def mlp(stack: specs.StackSpec, x: jax.Array) -> jax.Array:
    """Returns fc2(act(fc1(x))) of tokens [N, W]; to be called inside a compact module."""
    return dense(stack.width, "fc2")(activation(stack.act)(dense(stack.mlp_width, "fc1")(x)))


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, batch: int, heads: int, mask: jax.Array | None = None, bias: jax.Array | None = None
) -> jax.Array:
    """Returns what queries [B * L, W] gather from keys and values [B * M, W] with `heads` heads: [B * L, W].

    `mask` is True where attention is allowed: [L, M], or [B, 1, M] or [B, L, M] to differ between samples. `bias` is added to the scores:
    [heads, L, M], or [B, heads, L, M].
    """
    depth = query.shape[-1] // heads
    query, key, value = (part.reshape(batch, -1, heads, depth).transpose(0, 2, 1, 3) for part in (query * depth**-0.5, key, value))
    if mask is not None and mask.ndim == 3 and mask.shape[1] == 1:
        query, key, mask = *_with_padding(query, key, mask), None
    together = max(1, _CACHED // (batch * query.shape[2] * key.shape[2] * query.dtype.itemsize))
    groups = [slice(first, first + together) for first in range(0, heads, together)]
    biases = [None if bias is None else bias[..., group, :, :] for group in groups]
    mixed = [_mix(query[:, group], key[:, group], value[:, group], mask, part) for group, part in zip(groups, biases, strict=True)]
    return jnp.concatenate(mixed, axis=1).transpose(0, 2, 1, 3).reshape(-1, heads * depth)


def _mix(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, bias: jax.Array | None) -> jax.Array:
    """Returns softmax(query key + bias) value [B, H, L, D] of [B, H, L, D] and [B, H, M, D]; the division comes last, on the smallest array."""
    scores = jnp.einsum("bhld,bhmd->bhlm", query, key, precision=PRECISION)
    scores = scores if bias is None else scores + bias
    if mask is not None:
        scores = jnp.where(mask[:, None] if mask.ndim == 3 else mask, scores, _NEVER)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    return jnp.einsum("bhlm,bhmd->bhld", weights, value, precision=PRECISION) / jnp.sum(weights, axis=-1, keepdims=True)


def _with_padding(query: jax.Array, key: jax.Array, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns queries [B, H, L, D] and keys [B, H, M, D] with one more channel, whose product adds 0 for keys `seen` [B, 1, M], else `_NEVER`.

    The product itself then masks, which saves a pass over the scores.
    """
    never = jnp.broadcast_to(jnp.where(seen, 0, _NEVER)[..., None].astype(key.dtype), (*key.shape[:3], 1))
    return jnp.concatenate([query, jnp.ones_like(query[..., :1])], axis=-1), jnp.concatenate([key, never], axis=-1)


class Attention(nn.Module):
    """Multi-head attention with separate q, k and v projections."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, batch: int, mask: jax.Array | None = None, queries: jax.Array | None = None) -> jax.Array:
        """Returns what `queries` [B * L, W], the tokens themselves unless given, gather from tokens `x` [B * M, W]; `mask` as in `attend`."""
        width = x.shape[-1]
        query = dense(width, "q_proj")(x if queries is None else queries)
        key, value = (dense(width, f"{part}_proj")(x) for part in "kv")
        return dense(width, "out_proj")(attend(query, key, value, batch, self.heads, mask))


class Block(nn.Module):
    """One pre-LN layer."""

    stack: specs.StackSpec

    @nn.compact
    def __call__(self, x: jax.Array, batch: int, mask: jax.Array | None) -> jax.Array:
        """Returns the tokens [B * L, W] after attention and MLP."""
        stack = self.stack
        x = x + Attention(stack.heads, name="self_attn")(layer_norm(stack.epsilon, "layer_norm1")(x), batch, mask)
        return x + mlp(stack, layer_norm(stack.epsilon, "layer_norm2")(x))


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
