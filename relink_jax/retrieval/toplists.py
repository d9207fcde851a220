"""The k best candidates of each query, exactly, without sorting or keeping its scores.

A tile's scores are seen as groups of `packed.GROUP` neighbours. Of every tile the groups with the greatest maxima are kept whole, and at
the end the k best groups of all tiles give the k best candidates. That is exact: a group that is not kept is preceded by k groups that
each hold a candidate preceding all of its own; equal maxima count in order of place, so equal scores come in order of place too.

Keeping fewer than k groups of each tile is cheaper and almost always enough. Whether it was is known: if every tile's last kept maximum is
below the k-th best score, nothing that was left behind can belong to the list. Such a query is `settled`; the others are computed again
with k groups kept.

Notes on XLA: the outputs of `lax.top_k` are never sliced, since on the CPU that turns its partial selection into a sort of whole rows,
and small lists of ids are sorted by `top_k` of their negatives for the same reason.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from relink_jax.retrieval import packed


class Kept(NamedTuple):
    """What one tile leaves for its R queries: the maxima [R, n], places [R, n] and scores [R, n, GROUP] of its best n groups."""

    best: jax.Array
    group: jax.Array
    scores: jax.Array


def keep(scores: jax.Array, maxima: jax.Array, n: int, first_group: jax.Array) -> Kept:
    """Returns the best `n` groups of a tile [R, T] with group maxima [R, T // GROUP]; its groups are numbered from `first_group`."""
    grouped = scores.reshape(*maxima.shape, packed.GROUP)
    best, where = lax.top_k(maxima, n)
    return Kept(best, where + first_group, jnp.take_along_axis(grouped, where[:, :, None], axis=1, mode="promise_in_bounds"))


def select(kept: Kept, k: int) -> tuple[jax.Array, jax.Array]:
    """Returns (scores [R, k], places int32 [R, k]) of the best k candidates in kept groups of one or more tiles, in order of tiles.

    Places that hold no candidate have score -inf and place -1; so have places past the last candidate.
    """
    width = min(k, kept.best.shape[1])
    _, chosen = lax.top_k(kept.best, width)
    group = jnp.take_along_axis(kept.group, chosen, axis=1)
    _, by_place = lax.top_k(-group.astype(jnp.float32), width)  # group numbers stay below 2**24
    chosen, group = jnp.take_along_axis(chosen, by_place, axis=1), jnp.take_along_axis(group, by_place, axis=1)
    scores = jnp.take_along_axis(kept.scores, chosen[:, :, None], axis=1, mode="promise_in_bounds").reshape(len(group), -1)
    score, inside = lax.top_k(scores, min(k, scores.shape[1]))
    place = jnp.take_along_axis(group, inside // packed.GROUP, axis=1) * packed.GROUP + inside % packed.GROUP
    short = ((0, 0), (0, k - score.shape[1]))
    score, place = jnp.pad(score, short, constant_values=-np.inf), jnp.pad(place, short, constant_values=-1)
    return score, jnp.where(score > -jnp.inf, place, -1)


def merge(score: jax.Array, place: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Returns the best k of lists [R, n] laid side by side, each sorted and all of its places before those of the next."""
    best, where = lax.top_k(score, k)
    return best, jnp.take_along_axis(place, where, axis=1)
