"""Clipped sums of gradients by closed forms and by `vmap(grad)`, for every head form and objective; the same numbers to 1e-6.

The closed forms (`closed_form`, `pair_clipping`) never hold a gradient per record; `vmap` does, a chunk of units at a time, and is the
reference they are tested against. Both see a unit's records through one function (`units.loss`), mapped over units.

Guarantees, for every input including NaN, infinity, zeros and subnormals:
    - one unit contributes a vector of norm at most `l2_norm_clip` over both heads, or nothing;
    - slots of weight 0 contribute exactly zero whatever they hold;
    - the sensitivity travels with the value (`ClippedSum`), from the objective and from nowhere else.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors, heads
from relink_jax.privacy import banks, closed_form, norms, objectives, pair_clipping, units
from relink_jax.privacy.units import Batch, Records

__all__ = ["IMPLEMENTATIONS", "MEMORY", "Batch", "ClippedSum", "Records", "add", "block_sum", "clipped_sum", "lowered", "zero_sum"]

IMPLEMENTATIONS = ("auto", "closed_form", "vmap")
MEMORY = 48 * 2**20
_JOINT = ("per_pair", "none")


@dataclasses.dataclass(frozen=True)
class ClippedSum:
    """A sum of clipped gradients with the L2 sensitivity that its noise must cover.

    Attributes:
        value: trained leaves of the heads (`heads.partition`), float32, the sum over the units of one step.
        sensitivity: L2 distance the sum can move when one privacy unit changes by `relation`; infinite for an unsound objective.
        relation: neighboring relation, one of `accounting.RELATIONS`.
    """

    value: heads.Heads
    sensitivity: float
    relation: str


def clipped_sum(
    objective: objectives.Objective,
    params: heads.Heads,
    records: Records,
    batch: Batch,
    public: banks.Public,
    *,
    l2_norm_clip: float,
    implementation: str = "auto",
    chunk: int = 0,
    memory: int = MEMORY,
    relation: str = "add_remove",
) -> ClippedSum:
    """Returns the sum over the batch of gradients clipped to `l2_norm_clip` over all trained leaves of both heads jointly.

    What is clipped is a unit's, a group's, a pair's or a row's gradient, by the objective's decomposition.
    Sensitivity: `objective.sensitivity(relation, l2_norm_clip)`, where each privacy unit owns at most one row of slots (per record), one
    slot of one group (per group), or one row (per pair).
    Private: records and batch. Public: heads, bank and everything else, the shape of the batch included.

    Args:
        records: all training pairs; NumPy arrays are read row by row as needed.
        batch: rows int32 [U, m] and weights float32 [U, m], concrete arrays, see `Batch`.
        implementation: 'closed_form', 'vmap' (the reference) or 'auto', which is the closed form.
        chunk: units (for 'vmap' per pair, pairs) differentiated at once; 0 takes as many as `memory` bytes of temporaries allow.

    Raises:
        UsageError: unknown implementation, a clip norm that is not positive, or a negative chunk.
        DataError: rows and weights of different shape, features that do not fit the heads, or no trained leaf in either head.
        UnsoundError: a per-pair or in-batch objective with several slots a row, or more rows than its sensitivity was derived for.
    """
    _check(objective, params, batch, l2_norm_clip, implementation, chunk)
    how = "closed_form" if implementation == "auto" else implementation
    rows, weights, clip = np.asarray(batch.rows, np.int32), np.asarray(batch.weights, np.float32), np.float32(l2_norm_clip)
    if objective.decomposition in _JOINT:
        pairs_at_once = chunk or _units_at_once("vmap", params, records, 1, memory)
        value = _joint(objective, how, pairs_at_once, memory, params, *units.on_host(records, rows), weights, clip)
        return ClippedSum(value, objective.sensitivity(relation, l2_norm_clip), relation)
    blocks = max(1, -(-len(rows) // (chunk or _units_at_once(how, params, records, rows.shape[1], memory))))
    if blocks == 1 and len(rows):
        value = _one_block(objective, how, params, *units.on_host(records, rows), weights, public, clip)
        return ClippedSum(value, objective.sensitivity(relation, l2_norm_clip), relation)
    size, state, total = max(1, -(-len(rows) // blocks)), _public_state(objective, params, public), None
    for start in range(0, max(1, len(rows)), size):
        part = [np.pad(array[start : start + size], ((0, max(0, start + size - len(rows))), (0, 0))) for array in (rows, weights)]
        total = _add_block(objective, how, total, params, *units.on_host(records, part[0]), part[1], state, clip)
    return ClippedSum(total, objective.sensitivity(relation, l2_norm_clip), relation)  # type: ignore[arg-type]


def block_sum(objective: objectives.Objective, params: heads.Heads, records: Records, batch: Batch, public: banks.Public, *, l2_norm_clip: Any) -> heads.Heads:
    """Returns the value of `clipped_sum` by the closed form, in one block and as a pure function: heads and weights may be traced and mapped.

    It checks nothing and bounds no memory; it is for many small runs at once. A per-pair batch must respect the objective's cap.
    """
    if objective.decomposition in _JOINT:
        return _joint(objective, "closed_form", 1, MEMORY, params, records, batch.rows, batch.weights, l2_norm_clip)
    return _one_block(objective, "closed_form", params, records, batch.rows, batch.weights, public, l2_norm_clip)


def lowered(
    objective: objectives.Objective, params: heads.Heads, records: Records, batch: Batch, public: banks.Public, *, l2_norm_clip: float, memory: int = MEMORY
) -> Any:
    """Returns the lowered program of one block of the closed form of a per-record or per-group objective, to ask it for its memory."""
    rows, weights = np.asarray(batch.rows, np.int32), np.asarray(batch.weights, np.float32)
    size = min(len(rows), _units_at_once("closed_form", params, records, rows.shape[1], memory))
    block = units.on_host(records, rows[:size])
    return _one_block.lower(objective, "closed_form", params, *block, weights[:size], public, np.float32(l2_norm_clip))


def zero_sum(objective: objectives.Objective, params: heads.Heads, *, l2_norm_clip: float, relation: str = "add_remove") -> ClippedSum:
    """Returns the sum over no records, with the sensitivity of a full one: an empty batch, or the noise-only control."""
    trained, _ = heads.partition(params)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(np.shape(leaf), jnp.float32), trained)
    return ClippedSum(zeros, objective.sensitivity(relation, l2_norm_clip), relation)


def add(first: ClippedSum, second: ClippedSum) -> ClippedSum:
    """Returns the sum over two disjoint sets of units; sensitivity does not grow, since a unit is in one of them.

    Raises: UnsoundError: the two carry different sensitivities or relations.
    """
    if (first.sensitivity, first.relation) != (second.sensitivity, second.relation):
        raise errors.UnsoundError(
            errors.describe("sensitivity", "sum of clipped sums", f"{first.sensitivity:g} ({first.relation})", f"{second.sensitivity:g} ({second.relation})")
        )
    return dataclasses.replace(first, value=jax.tree.map(jnp.add, first.value, second.value))


def _check(objective: objectives.Objective, params: heads.Heads, batch: Batch, l2_norm_clip: float, implementation: str, chunk: int) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise errors.UsageError(
            errors.describe("clipping", "mechanism", f"one of {list(IMPLEMENTATIONS)}", repr(implementation)) + errors.suggest(implementation, IMPLEMENTATIONS)
        )
    if not 0 < l2_norm_clip < float("inf"):
        raise errors.UsageError(errors.describe("l2_norm_clip", "mechanism", "a positive number", f"{l2_norm_clip:g}"))
    if chunk < 0:
        raise errors.UsageError(errors.describe("chunk", "clipped sum", "a number of units, or 0 to choose by memory", str(chunk)))
    shape = np.shape(batch.rows)
    if len(shape) != 2 or shape != np.shape(batch.weights):
        raise errors.DataError(errors.describe("batch", "clipped sum", "rows and weights of one shape [U, m]", f"{shape} and {np.shape(batch.weights)}"))
    if not jax.tree.leaves(heads.partition(params)[0]):
        raise errors.DataError(errors.describe("heads", "clipped sum", "at least one trained parameter", "two heads of form 'none'"))
    cap = getattr(objective, "batch_cap", 0)
    if objective.decomposition in _JOINT and (shape[1] != 1 or (cap and shape[0] > cap)):
        expected = "one record a row" + (f" and at most batch_cap = {cap} rows, which the sensitivity is derived from" if cap else "")
        raise errors.UnsoundError(errors.describe("batch", f"objective {objective.name!r}", expected, f"shape {shape}"))


def _units_at_once(how: str, params: heads.Heads, records: Records, slots: int, memory: int) -> int:
    """Returns how many units' temporaries fit `memory`: two gradients each under vmap."""
    shapes = {side: (slots, *np.shape(array)[1:]) for side, array in zip(heads.SIDES, records[:2], strict=True)}
    each = closed_form.bytes_per_unit(params, shapes)
    if how == "vmap":
        each += 8 * sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(heads.partition(params)[0]))
    return max(1, memory // each)


@functools.partial(jax.jit, static_argnums=0)
def _public_state(objective: objectives.Objective, params: heads.Heads, public: banks.Public) -> Any:
    return objective.public_state(params, public)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _one_block(objective: Any, how: str, params: heads.Heads, records: Records, rows: Any, weights: Any, public: Any, clip: Any) -> heads.Heads:
    """Returns the clipped sum of a step that is one block, in one program with what the loss needs of the public bank."""
    block, state = units.gather(records, rows, weights), objective.public_state(params, public)
    return (_closed_form if how == "closed_form" else _vmap_grad)(objective, params, block, weights, state, clip)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _add_block(objective: Any, how: str, total: Any, params: heads.Heads, records: Records, rows: Any, weights: Any, state: Any, clip: Any) -> heads.Heads:
    """Returns `total` (or nothing) plus the clipped sum of one block of units."""
    block = units.gather(records, rows, weights)
    value = (_closed_form if how == "closed_form" else _vmap_grad)(objective, params, block, weights, state, clip)
    return value if total is None else jax.tree.map(jnp.add, total, value)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _joint(objective: Any, how: str, chunk: int, memory: int, params: heads.Heads, records: Records, rows: Any, weights: Any, clip: Any) -> heads.Heads:
    block = units.gather(records, rows, weights)
    if objective.decomposition == "per_pair":
        if how == "closed_form":
            return pair_clipping.pair_sum(objective, params, block, weights, clip, memory)
        return pair_clipping.pair_sum_by_autodiff(objective, params, block, weights, clip, chunk)
    block, weights = pair_clipping.row_cotangents(objective, params, block, weights)
    one = _closed_form if how == "closed_form" else _vmap_grad
    return one(units.Pullback(), params, units.gather(block, None, weights), weights, None, clip)


def _closed_form(objective: Any, params: heads.Heads, block: Records, weights: Any, state: Any, clip: Any) -> heads.Heads:
    parts = closed_form.slopes(objective, params, block, weights, state)
    factors = norms.clip_factors(closed_form.unit_norms(params, parts), clip, ~jnp.any(weights > 0, axis=1))
    return closed_form.weighted_sum(params, parts, factors)


def _vmap_grad(objective: Any, params: heads.Heads, block: Records, weights: Any, state: Any, clip: Any) -> heads.Heads:
    trained, fixed = heads.partition(params)

    def loss(trained: heads.Heads, unit: Records, weights: jax.Array) -> jax.Array:
        return units.loss(objective, heads.combine(trained, fixed), unit, weights, state)[0]

    gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(trained, block, weights)
    flat = jnp.concatenate([leaf.reshape(len(weights), -1) for leaf in jax.tree.leaves(gradients)], axis=-1)
    factors = norms.clip_factors(norms.norm(flat), clip, ~jnp.any(weights > 0, axis=1))

    def one(leaf: jax.Array) -> jax.Array:
        scale = factors.reshape((-1,) + (1,) * (leaf.ndim - 1))
        return jnp.sum(jnp.where(scale > 0, leaf * scale, 0.0), axis=0)

    return jax.tree.map(one, gradients)
