"""Sums of clipped gradients of objectives that look at the whole batch: per pair, and the rows of an unsound loss.

The gradient of S_ij = u_i.v_j has an image part, which is v_j pulled back through record i's image head, and a text part, u_i pulled
back through record j's text head. So its norm is a hypotenuse of two n x n tables; for linear and affine heads both are closed forms,

    |image part|^2 = (1 - S_ij^2) (|x_i|^2 + [bias]) / |z_i|^2        with z_i the head's output [own derivation, checked against autodiff]

and for other heads every v_j is sent back to the head's layers, where norms cost no gradient (`closed_form`). The clipped sum is
then one backward pass per record of the cotangents sum_j f_ij v_j and sum_i f_ij u_i, with f the clipped coefficients.

A record whose embeddings are not unit vectors (NaN, zero or overflowing features) counts as absent.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import heads
from relink_jax.privacy import closed_form, norms, units

_HIGHEST = jax.lax.Precision.HIGHEST
_ROUNDING = 1e-6
_UNIT = 1e-3
_PULLBACK = units.Pullback()


def usable_embeddings(params: heads.Heads, block: units.Records, weights: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (image embeddings [n, D], text embeddings [n, D], present bool [n]) of a batch of one slot per unit; absent rows are constant."""
    flat = units.Records(*(None if array is None else array[:, 0] for array in block))
    embeddings, _ = units.embed(params, flat, weights[:, 0])
    lengths = [jnp.linalg.norm(embeddings[side], axis=-1) for side in heads.SIDES]
    present = (weights[:, 0] > 0) & (jnp.abs(lengths[0] - 1) < _UNIT) & (jnp.abs(lengths[1] - 1) < _UNIT)
    images, texts = (jnp.where(present[:, None], embeddings[side], embeddings[side].shape[-1] ** -0.5) for side in heads.SIDES)
    return images, texts, present


def row_cotangents(objective: Any, params: heads.Heads, block: units.Records, weights: jax.Array) -> tuple[units.Records, jax.Array]:
    """Returns the batch with the batch loss's cotangents as labels, and weights [n, 1] that are 0 for absent rows."""
    images, texts, present = usable_embeddings(params, block, weights)
    cotangents = jax.grad(objective.batch_loss, argnums=(0, 1))(images, texts, present)
    return _with_cotangents(block, cotangents, present)


def pair_sum(objective: Any, params: heads.Heads, block: units.Records, weights: jax.Array, clip: Any, memory: int) -> heads.Heads:
    """Returns sum_ij outer_ij clip_B(inner_ij grad S_ij) over the pairs of a batch [n, 1, ...], with norms in closed form."""
    images, texts, present = usable_embeddings(params, block, weights)
    similarities = jnp.matmul(images, texts.T, precision=_HIGHEST)
    pairs = present[:, None] & present[None, :]
    outer, inner = objective.pair_scales(similarities, pairs)
    sine = jnp.sqrt(jnp.maximum(1.0 - jnp.square(similarities), 0.0) + _ROUNDING)
    sides = [
        _side_norms(params[side], features[:, 0], own, other, sine if side == "image" else sine.T, memory)
        for side, features, own, other in (("image", block.images, images, texts), ("text", block.texts, texts, images))
    ]
    sizes = norms.norm(jnp.stack([sides[0], sides[1].T], axis=-1))
    coefficients = outer * inner * norms.clip_factors(jnp.abs(inner) * sizes, clip, ~pairs)
    cotangents = (jnp.matmul(coefficients, texts, precision=_HIGHEST), jnp.matmul(coefficients.T, images, precision=_HIGHEST))
    rows, kept = _with_cotangents(block, cotangents, present)
    parts = closed_form.slopes(_PULLBACK, params, units.gather(rows, None, kept), kept, None)
    return closed_form.weighted_sum(params, parts, kept[:, 0])


def pair_sum_by_autodiff(objective: Any, params: heads.Heads, block: units.Records, weights: jax.Array, clip: Any, chunk: int) -> heads.Heads:
    """Returns the same sum from `chunk` whole pair gradients at a time; the reference."""
    images, texts, present = usable_embeddings(params, block, weights)
    pairs = present[:, None] & present[None, :]
    outer, inner = objective.pair_scales(jnp.matmul(images, texts.T, precision=_HIGHEST), pairs)
    trained, fixed = heads.partition(params)
    count = len(present)
    index = jnp.arange(-(-(count**2) // chunk) * chunk).reshape(-1, chunk)

    def similarity(trained: heads.Heads, image: jax.Array, text: jax.Array) -> jax.Array:
        whole = heads.combine(trained, fixed)
        return jnp.vdot(heads.project(whole["image"], image), heads.project(whole["text"], text), precision=_HIGHEST)

    def step(total: heads.Heads, flat: jax.Array) -> tuple[heads.Heads, None]:
        i, j = jnp.minimum(flat // count, count - 1), flat % count
        gradients = jax.vmap(jax.grad(similarity), in_axes=(None, 0, 0))(trained, block.images[i, 0], block.texts[j, 0])
        inside = inner[i, j]
        sizes = norms.norm(jnp.concatenate([leaf.reshape(chunk, -1) for leaf in jax.tree.leaves(gradients)], axis=-1)) * jnp.abs(inside)
        kept = norms.clip_factors(sizes, clip, (flat >= count**2) | ~pairs[i, j])
        scale = outer[i, j] * inside * kept

        def one(leaf: jax.Array) -> jax.Array:
            shape = (-1,) + (1,) * (leaf.ndim - 1)
            return jnp.sum(jnp.where(kept.reshape(shape) > 0, leaf * scale.reshape(shape), 0.0), axis=0)

        return jax.tree.map(jnp.add, total, jax.tree.map(one, gradients)), None

    total: heads.Heads = jax.lax.scan(step, jax.tree.map(jnp.zeros_like, trained), index)[0]
    return total


def _with_cotangents(block: units.Records, cotangents: Any, present: jax.Array) -> tuple[units.Records, jax.Array]:
    return block._replace(labels=tuple(one[:, None] for one in cotangents)), present.astype(jnp.float32)[:, None]


def _side_norms(head: dict[str, Any], features: jax.Array, own: jax.Array, other: jax.Array, sine: jax.Array, memory: int) -> jax.Array:
    """Returns [n, n], row i being the norms of every `other` embedding pulled back through this head at record i's features."""
    if heads.form_of(head) in ("linear", "affine", "none"):
        if not head:
            return jnp.zeros_like(sine)
        outputs, _ = heads.tapped(head, features)
        inputs = norms.norm(jnp.stack([norms.norm(features.astype(jnp.float32)), jnp.full(len(features), float("bias" in head))], axis=-1))
        return sine * (inputs / norms.norm(outputs))[:, None]
    params: heads.Heads = {"image": head, "text": {}}
    small = closed_form.small_leaves(params)

    def pulled(x: jax.Array) -> jax.Array:
        def embedding(small: heads.Heads, taps: Any) -> tuple[jax.Array, Any]:
            outputs, inputs = heads.tapped(heads.combine(small, params)["image"], x, taps)
            return heads.unit_norm(outputs), inputs

        _, back, inputs = jax.vjp(embedding, small, heads.zero_taps(head, x.shape), has_aux=True)
        by_leaf, by_output = jax.vmap(back)(other)
        repeated = jax.tree.map(lambda one: jnp.broadcast_to(one, (len(other), *one.shape)), inputs)
        return closed_form.unit_norms(params, closed_form.formed_where_cheaper({"image": repeated, "text": {}}, {"image": by_output, "text": {}}, by_leaf))

    shape = (*features.shape[1:-1], features.shape[-1]) if features.ndim > 2 else (1, features.shape[-1])
    each = len(other) * closed_form.bytes_per_unit(params, {"image": shape})
    return jax.lax.map(pulled, features, batch_size=int(np.clip(memory // each, 1, len(features))))
