"""Norms and weighted sums of per-unit gradients without forming the gradients: ghost clipping (Li et al. 2021, arXiv 2110.05679).

A dense layer's gradient is G = sum_a x_a (x) d_a over the positions a that a unit sends through it: its pairs, and the patches of a map,
with inputs x_a [in] and gradients d_a [out] with respect to the layer's outputs. A bias is one more input that is always 1, and a
learned constant `missing` is more such inputs. So with kappa = |missing|^2 + [bias],

    one position     |G| = |(x, sqrt kappa)| |d|
    several          |G|^2 = sum_ab (x_a.x_b + kappa)(d_a.d_b), or G itself where that is cheaper (`_gram_is_cheaper`)
    weighted sum     sum_units c sum_a x_a (x) d_a, one matmul per layer

and one batched backward pass to the layers' outputs gives all d. Scales and shifts of norm layers are as small as their inputs and
have plain per-unit gradients. Exact but for rounding: where positions cancel each other, `_gram` rounds the norm up, never down.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import heads
from relink_jax.privacy import norms, units

_HIGHEST = jax.lax.Precision.HIGHEST
_ROUNDING = 1e-6


class Slopes(NamedTuple):
    """What determines the gradients of U units: dense layers' inputs and slopes {side: {name: [U, A, F]}}, and small leaves' gradients [U, ..].

    `formed` holds the gradient itself, as [U, out, in], of each layer for which that is cheaper than a Gram matrix.
    """

    inputs: dict[str, dict[str, jax.Array]]
    slopes: dict[str, dict[str, jax.Array]]
    formed: dict[str, dict[str, jax.Array]]
    small: heads.Heads


def slopes(objective: Any, params: heads.Heads, block: units.Records, weights: jax.Array, state: Any) -> Slopes:
    """Returns the slopes of U units' losses, block [U, m, ...] and weights [U, m]; each unit's loss sees that unit alone.

    Where a unit's loss is a sum over its slots (`record_loss`) and only dense layers are trained, all slots are one long unit: slopes with
    respect to a slot's own outputs are the same, and a batch without a slot axis is what compilers know best.
    """
    small = small_leaves(params)
    if hasattr(objective, "record_loss") and not jax.tree.leaves(small):
        return _slopes_of_slots(objective, params, block, weights, state)
    taps = {side: heads.zero_taps(params[side], features.shape[1:]) for side, features in zip(heads.SIDES, block[:2], strict=True)}

    def loss(small: heads.Heads, taps: Any, unit: units.Records, weights: jax.Array) -> tuple[jax.Array, Any]:
        return units.loss(objective, heads.combine(small, params), unit, weights, state, taps)

    per_unit = jax.vmap(jax.grad(loss, argnums=(0, 1), has_aux=True), in_axes=(None, None, 0, 0))
    (by_leaf, by_output), inputs = per_unit(small, taps, block, weights)
    return formed_where_cheaper(inputs, by_output, by_leaf)


def _slopes_of_slots(objective: Any, params: heads.Heads, block: units.Records, weights: jax.Array, state: Any) -> Slopes:
    slots: units.Records = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), block)
    taps = {side: heads.zero_taps(params[side], features.shape) for side, features in zip(heads.SIDES, slots[:2], strict=True)}

    def loss(taps: Any) -> tuple[jax.Array, Any]:
        return units.loss(objective, params, slots, weights.reshape(-1), state, taps)

    def by_unit(tree: Any) -> Any:
        return jax.tree.map(lambda array: array.reshape(*weights.shape, *array.shape[1:]), tree)

    by_output, inputs = jax.grad(loss, has_aux=True)(taps)
    return formed_where_cheaper(by_unit(inputs), by_unit(by_output), small_leaves(params))


def formed_where_cheaper(inputs: Any, by_output: Any, small: heads.Heads) -> Slopes:
    """Returns `Slopes` of layer inputs and slopes [U, .., F], with the gradients of layers formed whose Gram matrices would cost more."""
    inputs, by_output = jax.tree.map(lambda array: array.reshape(len(array), -1, array.shape[-1]), (inputs, by_output))
    formed = {
        side: {
            name: jnp.einsum("uai,uao->uoi", x, by_output[side][name], precision=_HIGHEST)
            for name, x in layers.items()
            if x.shape[1] > 1 and not _gram_is_cheaper(x.shape[1], x.shape[2], by_output[side][name].shape[2])
        }
        for side, layers in inputs.items()
    }
    return Slopes(inputs, by_output, formed, small)


def unit_norms(params: heads.Heads, parts: Slopes) -> jax.Array:
    """Returns the norm [U] of each unit's gradient over all trained leaves of both heads."""
    found = [norms.norm(leaf.reshape(len(leaf), -1)) for leaf in jax.tree.leaves(parts.small)]
    for side, layers in parts.inputs.items():
        for name, x in layers.items():
            d, kappa = parts.slopes[side][name], _kappa(params[side], name, x.shape[-1])
            if name in parts.formed[side]:
                whole = norms.norm(parts.formed[side][name].reshape(len(x), -1))
                found.append(_hypot(whole, jnp.sqrt(kappa) * norms.norm(jnp.sum(d, axis=1))))
            elif x.shape[1] == 1:
                found.append(_hypot(norms.norm(x[:, 0]), jnp.sqrt(kappa)) * norms.norm(d[:, 0]))
            else:
                found.append(_gram(x, d, kappa))
    return found[0] if len(found) == 1 else norms.norm(jnp.stack(found, axis=-1))


def weighted_sum(params: heads.Heads, parts: Slopes, factors: jax.Array) -> heads.Heads:
    """Returns sum_u factors[u] G_u on the trained leaves; units of factor 0 contribute exactly nothing, NaN or not."""

    def scaled(leaf: jax.Array) -> jax.Array:
        factor = factors.reshape((-1,) + (1,) * (leaf.ndim - 1))
        return jnp.where(factor > 0, leaf * factor, 0.0)

    total = jax.tree.map(lambda leaf: jnp.sum(scaled(leaf), axis=0), parts.small)
    for side, layers in parts.inputs.items():
        for name, x in layers.items():
            right = scaled(parts.slopes[side][name])
            if name in parts.formed[side]:
                kernel = jnp.sum(scaled(parts.formed[side][name]), axis=0).T
            else:
                left = _finite(x, factors)
                kernel = jnp.matmul(left.T, right.reshape(len(left), -1), precision=_HIGHEST)
            layer = total[side][name] if name else total[side]
            constant = heads.constant_inputs(params[side], name, x.shape[-1])
            if constant is not None:
                kernel = jnp.concatenate([kernel, jnp.outer(constant, jnp.sum(right, axis=(0, 1)))])
            layer["kernel"] = kernel
            if "bias" in layer:
                layer["bias"] = jnp.sum(right, axis=(0, 1))
    return total


def bytes_per_unit(params: heads.Heads, shapes: dict[str, tuple[int, ...]]) -> int:
    """Returns about how many bytes of temporaries one unit takes, for features of `shapes` {side: (m, .., F)}."""
    floats = 0
    for side, shape in shapes.items():
        positions = int(np.prod(shape[:-1]))
        floats += 2 * positions * shape[-1]
        for name in heads.dense_layers(params[side]):
            inputs, outputs = np.shape((params[side][name] if name else params[side])["kernel"])
            floats += positions * (inputs + 3 * outputs)
            if positions > 1:
                floats += 3 * positions**2 if _gram_is_cheaper(positions, inputs, outputs) else 2 * inputs * outputs
    return 4 * floats


def small_leaves(params: heads.Heads) -> heads.Heads:
    """Returns the trained leaves that belong to no dense layer, in the whole structure with None elsewhere."""
    trained, _ = heads.partition(params)
    copy = jax.tree.map(lambda leaf: leaf, trained)
    for side, head in copy.items():
        for name in heads.dense_layers(params[side]):
            layer = head[name] if name else head
            layer.update(dict.fromkeys(layer))
    return copy


def _finite(x: jax.Array, factors: jax.Array) -> jax.Array:
    """Returns inputs [U A, F] that slopes of 0 turn into 0: zeros for units of factor 0, copied only where something is not finite."""
    rows, kept = x.reshape(-1, x.shape[-1]), jnp.repeat(factors > 0, x.shape[1])
    finite = jnp.all(jnp.isfinite(norms.norm(rows)))
    return jax.lax.cond(finite, lambda rows: rows, lambda rows: jnp.where(kept[:, None], rows, 0.0), rows)


def _kappa(head: dict[str, Any], name: str, width: int) -> Any:
    constant = heads.constant_inputs(head, name, width)
    bias = float("bias" in (head[name] if name else head))
    return jnp.float32(bias) if constant is None else bias + jnp.sum(jnp.square(constant))


def _hypot(first: jax.Array, second: Any) -> jax.Array:
    return norms.norm(jnp.stack([first, jnp.broadcast_to(second, first.shape)], axis=-1))


def _gram_is_cheaper(positions: int, inputs: int, outputs: int) -> bool:
    return positions * (inputs + outputs) < inputs * outputs


def _gram(x: jax.Array, d: jax.Array, kappa: Any) -> jax.Array:
    """Returns norms [U] of sum_a (x_a, sqrt kappa) (x) d_a, both sides scaled by their largest entries.

    The double sum cancels where the positions do, down to rounding errors that a record could hide a large gradient in. So a millionth of
    the sum of |x_a|^2 |d_a|^2, an upper bound of those errors, is added before the root: a norm is overstated by at most 5e-7 of itself
    where positions do not cancel, and never understated.
    """
    largest = jnp.maximum(jnp.max(jnp.abs(x), axis=(1, 2)), jnp.sqrt(kappa))
    scales = [jnp.where(one > 0, one, 1.0) for one in (largest, jnp.max(jnp.abs(d), axis=(1, 2)))]
    products = functools.partial(jnp.einsum, "uai,ubi->uab", precision=_HIGHEST)
    left, right = (products(scaled, scaled) for scaled in (array / scale[:, None, None] for array, scale in zip((x, d), scales, strict=True)))
    both = (left + (kappa / jnp.square(scales[0]))[:, None, None]) * right
    squares = jnp.maximum(jnp.sum(both, axis=(1, 2)), 0.0) + _ROUNDING * jnp.sum(jnp.diagonal(both, axis1=1, axis2=2), axis=1)
    return scales[0] * scales[1] * jnp.sqrt(squares)
