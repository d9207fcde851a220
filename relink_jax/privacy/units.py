"""Records of one step as blocks of privacy units, and the loss of a unit as a function of heads or of taps inside them.

A unit is one row of slots: a patient's pairs of this step, the members of a group, or one pair. Slots of weight 0 are filler; their
features are replaced by zeros and their embeddings by a constant, so that whatever they held can reach neither value nor gradient.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import heads


class Records(NamedTuple):
    """Private records, one row per pair, as NumPy or jax arrays.

    Attributes:
        images: [N, F_i], or maps [N, P, F_i] for a patch head.
        texts: [N, F_t], the text features of the same pairs.
        labels: float32 [N, L] for the prototype objective, or None.
    """

    images: Any
    texts: Any
    labels: Any = None


class Batch(NamedTuple):
    """One step's records: rows int32 [U, m] of `Records` and weights float32 [U, m], 0 for filler slots.

    Per record: one row of slots per drawn unit, weights 1 / (its pairs in the step). Per group: one row of slots per group, weights 1 for
    members. Per pair and for the unsound objective: m = 1, and all rows of the step.
    """

    rows: Any
    weights: Any


class Pullback:
    """A loss whose gradient is that of cotangents pulled back through each record alone; a unit's `labels` are the cotangents [m, D], [m, D]."""

    def unit_loss(self, images: jax.Array, texts: jax.Array, labels: Any, weights: jax.Array, state: Any) -> jax.Array:
        """Returns the inner product of embeddings and cotangents."""
        return jnp.sum(images * labels[0]) + jnp.sum(texts * labels[1])


def on_host(records: Records, rows: np.ndarray) -> tuple[Records, Any]:
    """Returns (records, rows) for `gather`; of NumPy records (such as memory maps) only `rows` are read, and rows is then None."""
    if isinstance(records.images, np.ndarray):
        return Records(*(None if array is None else np.asarray(array)[rows] for array in records)), None
    return Records(*(None if array is None else jnp.asarray(array) for array in records)), rows


def gather(records: Records, rows: Any, weights: jax.Array) -> Records:
    """Returns `rows` of the records as [U, m, ...] (or the records themselves where rows is None), with zeros in slots of weight 0."""

    def taken(array: Any) -> Any:
        chosen = array if rows is None else array[rows]
        return jnp.where((weights > 0).reshape(weights.shape + (1,) * (chosen.ndim - 2)), chosen, jnp.zeros((), chosen.dtype))

    gathered: Records = jax.tree.map(taken, records)
    return gathered


def embed(params: heads.Heads, unit: Records, weights: jax.Array, taps: Any = None) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Returns one unit's embeddings {side: [m, D]} and the inputs of its dense layers {side: {name: [m, .., F]}}."""
    embeddings, inputs = {}, {}
    for side, features in zip(heads.SIDES, unit[:2], strict=True):
        outputs, inputs[side] = heads.tapped(params[side], features, None if taps is None else taps[side])
        embeddings[side] = heads.unit_norm(jnp.where((weights > 0)[:, None], outputs, 1.0))
    return embeddings, inputs


def loss(objective: Any, params: heads.Heads, unit: Records, weights: jax.Array, state: Any, taps: Any = None) -> tuple[jax.Array, dict[str, Any]]:
    """Returns (one unit's scalar loss, inputs of its dense layers)."""
    embeddings, inputs = embed(params, unit, weights, taps)
    return objective.unit_loss(embeddings["image"], embeddings["text"], unit.labels, weights, state), inputs
