"""The k best candidates of each query, exactly, without sorting or keeping its scores.

A tile's scores are seen as groups of neighbours. Of every tile the groups with the greatest maxima are kept whole, and at the end the k
best groups of all tiles give the k best candidates. That is exact: a group that is not kept is preceded by k groups that each hold a
candidate preceding all of its own; equal maxima count in order of place, so equal scores come in order of place too.

Keeping fewer than k groups of each tile is cheaper and almost always enough. Whether it was is known: if the greatest maximum that a tile
leaves behind is below the k-th best score in every tile, nothing that was left behind can belong to the list. Such a query is `settled`; the others are computed again
with k groups kept.

Notes on XLA: on the CPU `lax.top_k` is a heap whose cost lies in the candidates that enter it, so scores that cannot be listed are
lowered to -inf first; and its outputs are sliced behind a barrier only, since that turns it into a sort of whole rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from relink_jax.retrieval import packed


class Kept(NamedTuple):
    """What one tile leaves for its R queries: the maxima [R, n], numbers [R, n] and scores [R, n, group] of its best n groups, and the greatest
    maximum [R] that is not among them, -inf when every group is."""

    best: jax.Array
    group: jax.Array
    scores: jax.Array
    left: jax.Array


def keep(scores: jax.Array, maxima: jax.Array, n: int, first: jax.Array, size: int) -> Kept:
    """Returns the best `n` groups, or all, of `size` neighbours of a tile [R, T] whose first place is `first`.

    Args: maxima: of `packed.GROUP` neighbours, [R, T // packed.GROUP].
    """
    coarse = jnp.max(maxima.reshape(len(maxima), -1, size // packed.GROUP), axis=2)
    grouped = scores.reshape(*coarse.shape, size)
    if n < coarse.shape[1]:
        best, where = (lax.optimization_barrier(part) for part in lax.top_k(coarse, n + 1))
        left, best, where = best[:, n], best[:, :n], where[:, :n]
    else:
        best, where = lax.top_k(coarse, coarse.shape[1])
        left = jnp.full(len(coarse), -jnp.inf)
    return Kept(best, where + first // size, jnp.take_along_axis(grouped, where[:, :, None], axis=1, mode="promise_in_bounds"), left)


def select(kept: Kept, k: int) -> tuple[jax.Array, jax.Array]:
    """Returns (scores [R, k], places int32 [R, k]) of the best k candidates in kept groups of one or more tiles, in order of tiles.

    Places that hold no candidate have score -inf and place -1; so have places past the last candidate.
    """
    size = kept.scores.shape[2]
    best, chosen = lax.top_k(kept.best, min(k, kept.best.shape[1]))
    group, chosen = lax.sort((jnp.take_along_axis(kept.group, chosen, axis=1), chosen), num_keys=1)
    scores = jnp.take_along_axis(kept.scores, chosen[:, :, None], axis=1, mode="promise_in_bounds").reshape(len(group), -1)
    least = jnp.min(best, axis=1, keepdims=True) if best.shape[1] == k else -jnp.inf  # k groups have a candidate that is no worse
    score, inside = lax.top_k(jnp.where(scores >= least, scores, -jnp.inf), min(k, scores.shape[1]))
    place = jnp.take_along_axis(group, inside // size, axis=1) * size + inside % size
    short = ((0, 0), (0, k - score.shape[1]))
    score, place = jnp.pad(score, short, constant_values=-np.inf), jnp.pad(place, short, constant_values=-1)
    return score, jnp.where(score > -jnp.inf, place, -1)


def merge(score: jax.Array, place: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Returns the best k of lists [R, n] laid side by side, each sorted and all of its places before those of the next."""
    best, where = lax.top_k(score, k)
    return best, jnp.take_along_axis(place, where, axis=1)


def joined(left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best of two pairs of (scores, places) on the host, [R, k] as those of `left`; all places of `right` come after those of `left`."""
    score, place = (np.concatenate(pair, axis=1) for pair in zip(left, right, strict=True))
    best = np.argsort(-score, axis=1, kind="stable")[:, : left[0].shape[1]]
    return np.take_along_axis(score, best, axis=1), np.take_along_axis(place, best, axis=1)
