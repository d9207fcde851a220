"""Clipped sums of per-record gradients, by `vmap(grad)` and by a closed form for linear heads; the same numbers to 1e-6.

A linear head's record gradient is one outer product: features x [F] by output gradient a [D]. Its norm is |x||a|, the norm
over both heads is the hypotenuse of the two, and the clipped sum is X^T (c A) with clip factors c: two matmuls per head, and no
gradient of size F x D per record. This is ghost clipping (Li et al. 2021, arXiv 2110.05679) in its exact rank-one case.

Guarantees, for every input including NaN, infinity, zeros and subnormals:
    - one record contributes a vector of norm at most `l2_norm_clip` over both heads, or nothing;
    - padding rows contribute exactly zero whatever they hold;
    - the sensitivity travels with the value (`ClippedSum`), from the objective and from nowhere else.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors, heads
from relink_jax.privacy import objectives

IMPLEMENTATIONS = ("closed_form", "vmap")
_MARGIN = 1 - 1e-6
_HIGHEST = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class ClippedSum:
    """A sum of clipped gradients with the L2 sensitivity that its noise must cover.

    Attributes:
        value: heads pytree of float32, the sum over the records of one step.
        sensitivity: L2 distance the sum can move when one privacy unit changes by `relation`.
        relation: neighboring relation, one of `accounting.RELATIONS`.
    """

    value: heads.Heads
    sensitivity: float
    relation: str


def clipped_sum(
    objective: objectives.Objective,
    params: heads.Heads,
    image_features: Any,
    text_features: Any,
    rows: Any,
    is_padding_example: Any,
    public: Any,
    *,
    l2_norm_clip: float,
    implementation: str = "closed_form",
    chunk: int = 256,
    relation: str = "add_remove",
) -> ClippedSum:
    """Returns the sum over `rows` of record gradients, each clipped to `l2_norm_clip` over both heads jointly.

    Sensitivity: `objective.sensitivity(relation, l2_norm_clip)`; each privacy unit must own at most one of `rows`.

    Args:
        image_features: float32 [N, F_i], one row per pair (private).
        text_features: float32 [N, F_t], the paired text of each row (private).
        rows: int32 [P], the records of this step; P must be a multiple of `chunk`.
        is_padding_example: bool [P], true where `rows` is filler.
        public: float32 [A, F_t], features of the public bank.
        implementation: closed_form or vmap (the reference path).
        chunk: records differentiated at once; speed and memory only.

    Raises: UsageError: unknown implementation, a clip norm that is not positive, heads without a closed form, or P not a multiple of `chunk`.
    """
    if implementation not in IMPLEMENTATIONS:
        raise errors.UsageError(
            errors.describe("clipping", "mechanism", f"one of {list(IMPLEMENTATIONS)}", repr(implementation)) + errors.suggest(implementation, IMPLEMENTATIONS)
        )
    if not 0 < l2_norm_clip < float("inf"):
        raise errors.UsageError(errors.describe("l2_norm_clip", "mechanism", "a positive number", f"{l2_norm_clip:g}"))
    if chunk < 1 or len(rows) % chunk:
        raise errors.UsageError(errors.describe("chunk", "clipped sum", f"a divisor of {len(rows)} rows", str(chunk)))
    linear = all(set(params[side]) == {"kernel"} for side in heads.SIDES)
    if implementation == "closed_form" and not (objective.rank_one and linear):
        raise errors.UsageError(errors.describe("clipping", "mechanism", "'vmap' for heads or objectives without a rank-one gradient", repr(implementation)))
    one = np.float32(l2_norm_clip)
    value = _accumulate(
        objective,
        implementation,
        chunk,
        params,
        image_features,
        text_features,
        jnp.asarray(rows, jnp.int32),
        jnp.asarray(is_padding_example, bool),
        public,
        one,
    )
    return ClippedSum(value, objective.sensitivity(relation, l2_norm_clip), relation)


def zero_sum(objective: objectives.Objective, params: heads.Heads, *, l2_norm_clip: float, relation: str = "add_remove") -> ClippedSum:
    """Returns the sum over no records, with the sensitivity of a full one: an empty batch, or the noise-only control."""
    return ClippedSum(jax.tree.map(jnp.zeros_like, params), objective.sensitivity(relation, l2_norm_clip), relation)


def add(first: ClippedSum, second: ClippedSum) -> ClippedSum:
    """Returns the sum over two disjoint sets of units; sensitivity does not grow, since a unit is in one of them.

    Raises: UnsoundError: the two carry different sensitivities or relations.
    """
    if (first.sensitivity, first.relation) != (second.sensitivity, second.relation):
        raise errors.UnsoundError(
            errors.describe("sensitivity", "sum of clipped sums", f"{first.sensitivity:g} ({first.relation})", f"{second.sensitivity:g} ({second.relation})")
        )
    return dataclasses.replace(first, value=jax.tree.map(jnp.add, first.value, second.value))


def norm(vectors: jax.Array) -> jax.Array:
    """Returns L2 norms along the last axis, scaled by the largest entry so that squares neither overflow nor underflow."""
    largest = jnp.max(jnp.abs(vectors), axis=-1)
    scale = jnp.where(largest > 0, largest, 1.0)
    return largest * jnp.sqrt(jnp.sum(jnp.square(vectors / scale[..., None]), axis=-1))


def clip_factors(norms: jax.Array, l2_norm_clip: Any, is_padding_example: jax.Array) -> jax.Array:
    """Returns min(1, C(1-1e-6)/norm) per record [B]; 0 where the norm is not finite or the row is padding."""
    kept = jnp.isfinite(norms) & ~is_padding_example
    return jnp.where(kept, jnp.minimum(1.0, l2_norm_clip * _MARGIN / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny)), 0.0)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _accumulate(
    objective: objectives.Objective,
    implementation: str,
    chunk: int,
    params: heads.Heads,
    images: Any,
    texts: Any,
    rows: Any,
    padding: Any,
    public: Any,
    clip: Any,
) -> heads.Heads:
    one_chunk = _closed_form if implementation == "closed_form" else _vmap_grad

    def body(total: heads.Heads, block: tuple[jax.Array, jax.Array]) -> tuple[heads.Heads, None]:
        index, pad = block
        part = one_chunk(objective, params, images[index], texts[index], pad, public, clip)
        return jax.tree.map(jnp.add, total, part), None

    start = jax.tree.map(lambda array: jnp.zeros(array.shape, jnp.float32), params)
    total, _ = jax.lax.scan(body, start, (rows.reshape(-1, chunk), padding.reshape(-1, chunk)))
    return total


def _closed_form(objective: objectives.Objective, params: heads.Heads, images: Any, texts: Any, padding: Any, public: Any, clip: Any) -> heads.Heads:
    state = objective.public_state(params, public)
    features = {"image": images, "text": texts}
    outputs = {side: jnp.matmul(features[side], params[side]["kernel"], precision=_HIGHEST) for side in heads.SIDES}
    slopes = dict(
        zip(
            heads.SIDES,
            jax.vmap(jax.grad(objective.loss_at_outputs, argnums=(0, 1)), in_axes=(0, 0, None))(outputs["image"], outputs["text"], state),
            strict=True,
        )
    )
    by_head = jnp.stack([norm(features[side]) * norm(slopes[side]) for side in heads.SIDES], axis=-1)
    factors = clip_factors(norm(by_head), clip, padding)[:, None]

    def one(side: str) -> jax.Array:
        left = jnp.where(factors > 0, features[side], 0.0)
        right = jnp.where(factors > 0, slopes[side] * factors, 0.0)
        return jnp.matmul(left.T, right, precision=_HIGHEST)

    return {side: {"kernel": one(side)} for side in heads.SIDES}


def _vmap_grad(objective: objectives.Objective, params: heads.Heads, images: Any, texts: Any, padding: Any, public: Any, clip: Any) -> heads.Heads:
    gradients = jax.vmap(jax.grad(objective.loss), in_axes=(None, (0, 0), None))(params, (images, texts), public)
    flat = jnp.concatenate([leaf.reshape(len(images), -1) for leaf in jax.tree.leaves(gradients)], axis=-1)
    factors = clip_factors(norm(flat), clip, padding)

    def one(leaf: jax.Array) -> jax.Array:
        scale = factors.reshape((-1,) + (1,) * (leaf.ndim - 1))
        return jnp.sum(jnp.where(scale > 0, leaf * scale, 0.0), axis=0)

    return jax.tree.map(one, gradients)
