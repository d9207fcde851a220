"""The device program: one block of query images against a range of report tiles, counting in both directions.

Per tile: scores of distinct images against distinct report texts (float32, HIGHEST), copied to images and studies, then one
multi-operand reduction along each axis yields integer counts of greater and tied negatives, plain and label-matched;
running top-k of texts per image and of images per text. Only one tile of scores exists per device at a time.

Each side is a `Side`; images are split over the mesh axis 'data', report tiles are on every device, and the counts of report
queries (columns) are summed over devices with `psum`. Integer sums commute, so any mesh gives the same numbers.

Design notes: thresholds are read by this same compiled program (`own`), because another matmul rounds differently and would
turn exact ties into noise. XLA's CPU backend runs sibling reductions of one tile several times slower than one: so the counts
per image are one variadic integer `lax.reduce` (the own score rides along as its bits, exactly one study being its own), and
the counts per study are four 8-bit fields of one integer, summed over PACKED rows at a time. The outputs of `top_k` are never
sliced: that loses XLA's fast TopK.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from relink_jax.runtime import mesh as meshes

DELTA = np.float32(1e-6)
PACKED = 32


class Side(NamedTuple):
    """Distinct rows and members of one side; images: leading axis R, studies: leading axes [n_tiles, T].

    Padding has group, study, key and text -1; its threshold is +inf.
    """

    vectors: Any  # float32 [..., D], distinct rows
    lead: Any  # bool, first occurrence of its group
    group: Any  # int32, group number of the distinct row
    slot: Any  # int32, row of each member
    study: Any  # int32, study of the member
    key: Any  # int32, members with equal keys are not each other's candidates
    text: Any  # int32, text group of the member's own report
    code: Any  # int32, label code, -1 when unlabelled
    threshold: Any  # float32, score of the truth


class ImageState(NamedTuple):
    """Outputs per image of the block: own score, six counts, and top texts per distinct image."""

    own: Any  # int32 [R], bits of the float32 score against the own report, 0 before its tile was seen
    counts: Any  # int32 [R, 6]: greater, tied, greater matched, tied matched, above threshold + DELTA, not below threshold - DELTA
    top_score: Any  # float32 [R, k]
    top_group: Any  # int32 [R, k]


class StudyState(NamedTuple):
    """Running sums per study and top images per distinct text."""

    counts: Any  # int32 [n_tiles, T, 4]: greater, tied, greater matched, tied matched
    top_score: Any  # float32 [n_tiles, T, k]
    top_group: Any  # int32 [n_tiles, T, k]


def empty_studies(n_tiles: int, width: int, k: int) -> StudyState:
    """Returns the state before the first block, as NumPy arrays."""
    shape = (n_tiles, width, k)
    return StudyState(np.zeros((n_tiles, width, 4), np.int32), np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int32))


@functools.lru_cache(maxsize=32)
def program(mesh: Mesh, k: int, copy_images: bool, copy_studies: bool) -> Callable[..., tuple[ImageState, StudyState]]:
    """Returns jitted f(images: Side, studies: Side, state: StudyState, first, past_last) -> (ImageState, StudyState).

    Args:
        k: length of the top lists, at most the tile sizes; 0 leaves them out.
        copy_images, copy_studies: false when members and distinct rows coincide on that side (no duplicates), which saves the copy.
    """
    split, whole = PartitionSpec(meshes.DATA), PartitionSpec()
    local = functools.partial(_block, k=k, copy_images=copy_images, copy_studies=copy_studies)
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(split, whole, whole, whole, whole), out_specs=(split, whole), check_vma=False)
    return jax.jit(sharded, out_shardings=meshes.replicated(mesh))


def _block(
    images: Side, studies: Side, state: StudyState, first: Any, past_last: Any, *, k: int, copy_images: bool, copy_studies: bool
) -> tuple[ImageState, StudyState]:
    rows, distinct = images.slot.shape[0], images.vectors.shape[0]

    def one_tile(index: Any, carry: tuple[ImageState, StudyState]) -> tuple[ImageState, StudyState]:
        image_state, study_state = carry
        tile = Side(*(lax.dynamic_index_in_dim(array, index, keepdims=False) for array in studies))
        distinct_scores = lax.dot_general(
            images.vectors, tile.vectors, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
        )
        scores = distinct_scores[images.slot] if copy_images else distinct_scores
        scores = scores[:, tile.slot] if copy_studies else scores
        own, per_image, per_study = _count(scores, images, tile)
        top_score, top_group = image_state.top_score, image_state.top_group
        study_scores, study_groups = study_state.top_score, study_state.top_group
        if k:
            top_score, top_group = _merge(top_score, top_group, jnp.where(tile.lead[None, :], distinct_scores, -jnp.inf), tile.group, k)
            shown = jnp.where(images.lead[None, :], distinct_scores.T, -jnp.inf)
            merged = _merge(study_scores[index], study_groups[index], shown, images.group, k)
            study_scores, study_groups = study_scores.at[index].set(merged[0]), study_groups.at[index].set(merged[1])
        image_state = ImageState(image_state.own + own, image_state.counts + per_image, top_score, top_group)
        return image_state, StudyState(study_state.counts.at[index].add(per_study), study_scores, study_groups)

    fresh_images = ImageState(
        jnp.zeros(rows, jnp.int32), jnp.zeros((rows, 6), jnp.int32), jnp.full((distinct, k), -jnp.inf), jnp.full((distinct, k), -1, jnp.int32)
    )
    fresh_studies = StudyState(*(jnp.full_like(array, fill) for array, fill in zip(state, (0, -jnp.inf, -1), strict=True)))
    image_state, here = lax.fori_loop(first, past_last, one_tile, (fresh_images, fresh_studies))
    return image_state, _gather_studies(state, here, k)


def _count(scores: jax.Array, images: Side, tile: Side) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (bits of the own score [R], 0 where it is not in the tile; counts per image [R, 6]; counts per study [T, 4]) of scores [R, T]."""
    present = (images.study >= 0)[:, None] & (tile.study >= 0)[None, :]
    eligible = present & (images.key[:, None] != tile.key[None, :])
    matched = eligible & (images.code[:, None] == tile.code[None, :]) & (images.code >= 0)[:, None]
    other_text = images.text[:, None] != tile.text[None, :]
    own = present & (images.study[:, None] == tile.study[None, :])
    limit = images.threshold[:, None]
    greater, tied = (scores > limit) & other_text, (scores == limit) & other_text
    near = (eligible & other_text & (scores > limit + DELTA), eligible & other_text & (scores >= limit - DELTA))
    bits = jnp.where(own, lax.bitcast_convert_type(scores, jnp.int32), 0)
    own_bits, *per_image = _row_sums((bits, eligible & greater, eligible & tied, matched & greater, matched & tied, *near))
    return own_bits, jnp.stack(per_image, axis=1), _column_sums(scores, tile.threshold[None, :], eligible, matched)


def _row_sums(operands: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Returns the int32 sum of each operand [R, T] along axis 1, in one pass over the tile."""
    plain = tuple(operand.astype(jnp.int32) for operand in operands)
    zeros = (np.int32(0),) * len(plain)
    summed: tuple[jax.Array, ...] = lax.reduce(plain, zeros, lambda left, right: tuple(a + b for a, b in zip(left, right, strict=True)), (1,))
    return summed


def _column_sums(scores: jax.Array, limit: jax.Array, eligible: jax.Array, matched: jax.Array) -> jax.Array:
    """Returns counts [T, 4] (greater, tied, greater matched, tied matched) of a tile [R, T], R a multiple of PACKED."""
    flag = jnp.where(scores > limit, 1, 0) + jnp.where(scores == limit, 1 << 8, 0)
    packed = jnp.where(eligible, jnp.where(matched, flag * ((1 << 16) + 1), flag), 0)
    sums = jnp.sum(packed.reshape(-1, PACKED, packed.shape[1]), axis=1)
    return jnp.stack([jnp.sum((sums >> shift) & 255, axis=0) for shift in (0, 8, 16, 24)], axis=1)


def _merge(score: jax.Array, group: jax.Array, new_scores: jax.Array, new_groups: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Returns the best k of running lists [n, k] and new candidates [n, m] in ascending group order: score descending, group ascending."""
    best, where = lax.top_k(new_scores, k)
    joined, which = lax.top_k(jnp.concatenate([score, best], axis=1), k)
    return joined, jnp.take_along_axis(jnp.concatenate([group, new_groups[where]], axis=1), which, axis=1)


def _gather_studies(state: StudyState, here: StudyState, k: int) -> StudyState:
    """Returns the running state joined with this block's over all devices, in device order, which is ascending group order."""
    counts = state.counts + lax.psum(here.counts, meshes.DATA)
    if not k:
        return StudyState(counts, state.top_score, state.top_group)
    scores, groups = (lax.all_gather(array, meshes.DATA, axis=2, tiled=True) for array in (here.top_score, here.top_group))
    best, which = lax.top_k(jnp.concatenate([state.top_score, scores], axis=2), k)
    return StudyState(counts, best, jnp.take_along_axis(jnp.concatenate([state.top_group, groups], axis=2), which, axis=2))
