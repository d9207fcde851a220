"""The compiled step: one batch of images against every tile of reports on the devices, in one pass over each tile of scores.

A step holds one tile of scores per device and nothing of size images x studies. From each tile it takes, as asked,
    - per image, the integers of every stratum, per jackknife block of studies;
    - per study, the integers of every stratum, per jackknife block of images, added up over steps;
    - per image, the best groups of neighbours, of which the top list is made (`toplists`).
What is not asked for is not in the program.

Three ways to share the work (`layout.SPLITS`); integers add up over devices and top lists merge in order of place, so all give the numbers
of one device:
    images   each device has its own images and every report: nothing is sent between devices
    studies  each device has its own reports and every image of the batch: counts and lists are sent, never vectors
    ring     each device has its own images and its own reports, and the reports go round with their counts
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from relink_jax.retrieval import kernels, tally, toplists
from relink_jax.retrieval.layout import IMAGES, RING, STUDIES, group_size
from relink_jax.retrieval.product import product
from relink_jax.retrieval.sides import Images, PerImage, Studies, Wanted
from relink_jax.runtime import mesh as meshes


def empty_studies(wanted: Wanted, n_devices: int, n_tiles: int, width: int) -> np.ndarray:
    """Returns the state before the first step: int32 [n_devices, J, n_tiles, n_answers + 1, T]; without tiles when it is not counted."""
    devices = n_devices if wanted.split == IMAGES else 1
    return np.zeros((devices, wanted.blocks, n_tiles if wanted.studies else 0, wanted.study_answers + 1, width), np.int32)


def state_axis(split: str) -> int:
    """Returns the axis of the state that the devices share: copies of all tiles, or tiles."""
    return 0 if split == IMAGES else 2


@functools.lru_cache(maxsize=32)
def program(mesh: Mesh, wanted: Wanted) -> Callable[..., tuple[PerImage, jax.Array]]:
    """Returns jitted f(images: Images, studies: Studies, state) -> (PerImage, state), which consumes `state`."""
    rows, whole = PartitionSpec(meshes.DATA), PartitionSpec()
    last, third = PartitionSpec(None, meshes.DATA), PartitionSpec(None, None, meshes.DATA)
    own_images = Images(rows, rows, rows, rows, rows, last, rows, rows, rows)
    own_found = PerImage(third, rows, rows, rows)
    every: dict[str, tuple[Callable[..., Any], Any, Any, Any, Any]] = {
        IMAGES: (_apart, own_images, whole, rows, own_found),
        STUDIES: (_joined, whole, rows, third, PerImage(whole, whole, whole, whole)),
        RING: (_round, own_images, rows, third, own_found),
    }
    step, images, studies, state, found = every[wanted.split]
    shared = jax.shard_map(functools.partial(step, wanted=wanted), mesh=mesh, in_specs=(images, studies, state), out_specs=(found, state), check_vma=False)
    placed = jax.tree.map(lambda spec: NamedSharding(mesh, spec if jax.process_count() == 1 else whole), found)
    return jax.jit(shared, donate_argnums=2, out_shardings=(placed, meshes.split(mesh, state_axis(wanted.split))))


def _apart(images: Images, studies: Studies, state: jax.Array, *, wanted: Wanted) -> tuple[PerImage, jax.Array]:
    """Runs one device's images over all tiles."""
    found, kept, state = _pass(images, studies, state[0], wanted)
    score, place, left_behind = listed(kept, images, studies, wanted)
    return PerImage(found, score, place, settled(score, left_behind)), state[None]


def _joined(images: Images, studies: Studies, state: jax.Array, *, wanted: Wanted) -> tuple[PerImage, jax.Array]:
    """Runs all images over one device's tiles and joins what the devices found; places rise with the device."""
    found, kept, here = _pass(images, studies, state[0], wanted)
    score, place, left_behind = listed(kept, images, studies, wanted)
    if wanted.k:
        scores, places = (lax.all_gather(array, meshes.DATA, axis=1, tiled=True) for array in (score, place))
        score, place = toplists.merge(scores, places, wanted.k)
    return PerImage(lax.psum(found, meshes.DATA), score, place, settled(score, lax.pmax(left_behind, meshes.DATA))), here[None]


def _round(images: Images, studies: Studies, state: jax.Array, *, wanted: Wanted) -> tuple[PerImage, jax.Array]:
    """Runs one device's images over its own tiles, then over those of each device before it; tiles and their counts come home at the end."""
    n, me = lax.axis_size(meshes.DATA), lax.axis_index(meshes.DATA)
    onward = [(device, (device + 1) % n) for device in range(n)]

    def visit(carried: tuple[Studies, jax.Array], _: None) -> tuple[tuple[Studies, jax.Array], Any]:
        there, state = carried
        found, kept, state = _pass(images, there, state, wanted)
        return jax.tree.map(lambda array: lax.ppermute(array, meshes.DATA, onward), (there, state)), (found, kept)

    (_, here), (found, kept) = lax.scan(visit, (studies, state[0]), None, length=n)
    kept = jax.tree.map(lambda part: part[(me - jnp.arange(n)) % n].reshape(-1, *part.shape[2:]), kept)  # in order of device again
    score, place, left_behind = listed(kept, images, studies, wanted)
    return PerImage(jnp.sum(found, axis=0), score, place, settled(score, left_behind)), here[None]


def settled(score: jax.Array, left_behind: jax.Array) -> jax.Array:
    """Returns whether lists [R, k] are exact when no score that was left behind is above `left_behind` [R], -inf for none."""
    return (left_behind == -jnp.inf) | (left_behind < jnp.min(score, axis=1, initial=jnp.inf))


def listed(kept: toplists.Kept | None, images: Images, studies: Studies, wanted: Wanted) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (scores [R, k], places [R, k], a bound [R] of every score that is left behind and matters) of kept groups [n_tiles, R, n]."""
    n = len(images.study)
    nothing = jnp.full(n, -jnp.inf)
    if kept is None:
        return jnp.zeros((n, 0), jnp.float32), jnp.zeros((n, 0), jnp.int32), nothing
    joined = toplists.Kept(*(jnp.moveaxis(part, 0, 1).reshape(n, -1, *part.shape[3:]) for part in kept))
    score, place = toplists.select(joined, wanted.k)
    if wanted.kernel:
        return score, place, kernels.doubt(joined)
    if wanted.kept >= min(wanted.k, studies.study.shape[1] // kept.scores.shape[3]):
        return score, place, nothing
    return score, place, jnp.max(kept.left, axis=0)


def _pass(images: Images, studies: Studies, state: jax.Array, wanted: Wanted) -> tuple[jax.Array, toplists.Kept | None, jax.Array]:
    """Returns (counts of images [J, n_answers + 1, R], kept groups by tile, counts of studies) after every tile, each met part by part of the images."""
    if wanted.kernel:
        return kernels.count(images, studies, state, wanted)
    parts = _in_parts(images, wanted.height or len(images.study))
    n_tiles, n_parts = len(studies.study), len(parts.study)
    shapes = jax.eval_shape(functools.partial(_meet, wanted=wanted), *jax.tree.map(lambda one: one[0], (parts, studies)))
    meet = _meet if n_parts == 1 else functools.partial(_meet_any, shapes=shapes)
    room = jax.tree.map(lambda one: lax.empty((n_tiles, n_parts, *one.shape), one.dtype), list(shapes[:2]))  # every place is written once

    def one_tile(carried: Any, given: tuple[jax.Array, Studies]) -> tuple[Any, None]:
        index, tile = given

        def one_part(carried: Any, given: tuple[jax.Array, Images]) -> tuple[Any, None]:
            (state, room), (number, part) = carried, given
            *found, of_studies = meet(part, tile, wanted)
            room = jax.tree.map(lambda whole, one: whole.at[index, number].set(one), room, found)
            return (state if of_studies is None else tally.add_studies(state, index, of_studies, part.block, wanted), room), None

        return lax.scan(one_part, carried, (jnp.arange(n_parts, dtype=jnp.int32), parts))[0], None

    (state, (found, kept)), _ = lax.scan(one_tile, (state, room), (jnp.arange(n_tiles, dtype=jnp.int32), studies))
    joined = jnp.moveaxis(found, 1, -2).reshape(n_tiles, *found.shape[2:-1], -1)
    return tally.by_block(joined, studies.block[:, 0], wanted), jax.tree.map(lambda one: one.reshape(n_tiles, -1, *one.shape[3:]), kept), state


def _in_parts(images: Images, height: int) -> Images:
    """Returns a batch as parts of `height` images, [n_parts, ...] each."""
    n = len(images.study) // height
    parts = {name: one.reshape(n, len(one) // n, *one.shape[1:]) for name, one in images._asdict().items() if name != "codes"}
    return Images(codes=images.codes.reshape(len(images.codes), n, height).swapaxes(0, 1), **parts)


def _meet_any(images: Images, tile: Studies, wanted: Wanted, shapes: Any) -> tuple[jax.Array, toplists.Kept | None, jax.Array | None]:
    """Returns what `_meet` does, of `shapes`, without computing anything where there is no image."""
    nothing = jax.tree.map(lambda one: jnp.full(one.shape, -jnp.inf if one.dtype == jnp.float32 else 0, one.dtype), shapes)
    return lax.cond(jnp.any(images.study >= 0), functools.partial(_meet, images, tile, wanted), lambda: nothing)


def _meet(images: Images, tile: Studies, wanted: Wanted) -> tuple[jax.Array, toplists.Kept | None, jax.Array | None]:
    """Returns what one tile of scores gives: counts of images [spans, n_answers + 1, H], kept groups, and counts of studies, None where not wanted."""
    scores = jnp.where((tile.study >= 0)[None, :], product(images.vectors, tile.vectors, wanted.precision), -jnp.inf)
    maxima, found = tally.count_images(scores, images, tile, wanted)
    of_studies = tally.count_studies(scores, images, tile, wanted) if wanted.studies else None
    if not wanted.k:
        return found, None, of_studies
    listed = tally.within(scores, images, tile) if wanted.within else scores
    return found, toplists.keep(listed, maxima, wanted.kept, tile.first, group_size(wanted.k)), of_studies
