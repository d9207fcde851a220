"""The compiled step: one batch of images against every tile of reports, in one pass over each tile of scores.

A step holds one tile of scores per device and nothing of size images x studies. From each tile it takes, as asked,
    - per image, the integers of every stratum, per jackknife block of studies;
    - per study, the integers of every stratum, per jackknife block of images, added up over steps;
    - per image, the best groups of neighbours, of which the top list is made (`toplists`).
What is not asked for is not in the program.

Images are split over the mesh and reports are whole on every device, or reports are split and images whole (`SPLITS`); integers add up
over devices and top lists merge in order of place, so both give the same numbers as one device.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from relink_jax.retrieval import packed, toplists
from relink_jax.runtime import mesh as meshes

DELTA = np.float32(1e-6)
SPLITS = ("images", "studies")


class Images(NamedTuple):
    """A batch of R images; places without one have study and number -1."""

    vectors: Any  # float32 [R, D]
    number: Any  # int32 [R]
    study: Any  # int32 [R]
    key: Any  # int32 [R]; a study with an equal key is no candidate
    text: Any  # int32 [R], text group of the image's own report
    codes: Any  # int32 [n_codes, R], -1 asks for nothing
    threshold: Any  # float32 [R], score of the own report
    block: Any  # int32 [R // GROUP]


class Studies(NamedTuple):
    """Candidate studies in tiles [n_tiles, ..., T]; places without one have study -1."""

    vectors: Any  # float32 [n_tiles, D, T]
    study: Any  # int32 [n_tiles, T]
    key: Any  # int32 [n_tiles, T]
    text: Any  # int32 [n_tiles, T]
    codes: Any  # int32 [n_tiles, n_codes, T], -2 for no code
    threshold: Any  # float32 [n_tiles, T], best score of the study's own images, +inf without one
    best_image: Any  # int32 [n_tiles, T], number of that image, -2 without one
    block: Any  # int32 [n_tiles, T // GROUP]
    first: Any  # int32 [n_tiles], number of the tile's first group of neighbours


class PerImage(NamedTuple):
    """What a step finds for its images."""

    counts: Any  # int32 [J, n_answers + 1, R], see `Wanted.image_answers`
    top_score: Any  # float32 [R, k]
    top_place: Any  # int32 [R, k], place of the study among all tiles
    settled: Any  # bool [R], whether the top list is exact


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a pass computes, and in which shape; part of the compiled program.

    Attributes:
        codes: label codes per record, each a further stratum.
        near: whether scores within `DELTA` of the threshold are counted.
        studies: whether the direction from report to image is counted.
        k: length of the top lists, 0 for none. kept: groups kept of each tile; k or more make every list exact.
        blocks: jackknife blocks J, 1 for none. spans, image_spans: largest number of them in one tile, and in one batch per device.
        split: what is split over the mesh, one of `SPLITS`.
    """

    codes: int = 1
    near: bool = True
    studies: bool = True
    k: int = 10
    kept: int = 10
    blocks: int = 1
    spans: int = 1
    image_spans: int = 1
    split: str = SPLITS[0]

    @property
    def image_answers(self) -> int:
        """Conditions counted per image: greater and tied in each stratum, then, if asked, above the band and not below it."""
        return 2 * (1 + self.codes) + 2 * self.near

    @property
    def study_answers(self) -> int:
        """Conditions counted per study: greater and tied in each stratum."""
        return 2 * (1 + self.codes)


def empty_studies(wanted: Wanted, n_devices: int, n_tiles: int, width: int) -> np.ndarray:
    """Returns the state before the first step: int32 [n_devices, J, n_tiles, n_answers + 1, T]; without tiles when it is not counted."""
    devices = n_devices if wanted.split == SPLITS[0] else 1
    return np.zeros((devices, wanted.blocks, n_tiles if wanted.studies else 0, wanted.study_answers + 1, width), np.int32)


@functools.lru_cache(maxsize=32)
def program(mesh: Mesh, wanted: Wanted) -> Callable[..., tuple[PerImage, jax.Array]]:
    """Returns jitted f(images: Images, studies: Studies, state) -> (PerImage, state), which consumes `state`."""
    rows, whole = PartitionSpec(meshes.DATA), PartitionSpec()
    last, third = PartitionSpec(None, meshes.DATA), PartitionSpec(None, None, meshes.DATA)
    given: tuple[Any, Any, Any]
    if wanted.split == SPLITS[0]:
        given = (Images(rows, rows, rows, rows, rows, last, rows, rows), whole, rows)
        found = (PerImage(third, rows, rows, rows), rows)
        local = functools.partial(_step, wanted=wanted)
    else:
        given = (whole, rows, third)
        found = (PerImage(whole, whole, whole, whole), third)
        local = functools.partial(_joined, wanted=wanted)
    kept = meshes.split(mesh, 0 if wanted.split == SPLITS[0] else 2)
    shared = jax.shard_map(local, mesh=mesh, in_specs=given, out_specs=found, check_vma=False)
    return jax.jit(shared, donate_argnums=2, out_shardings=(meshes.replicated(mesh), kept))


@functools.lru_cache(maxsize=8)
def own_scores(mesh: Mesh) -> Callable[[Any, Any], jax.Array]:
    """Returns jitted f(images [R, D], own reports [D, R]) -> scores [R], the diagonal of the product; one batch per device.

    The same product as a tile's: a product of rows alone rounds differently, and every duplicate of the right report would then count
    as better or worse by a rounding error. A step verifies that its tiles hold the same bits.
    """
    rows = PartitionSpec(meshes.DATA)
    local = lambda images, reports: jnp.diagonal(product(images, reports))  # noqa: E731
    shared = jax.shard_map(local, mesh=mesh, in_specs=(rows, PartitionSpec(None, meshes.DATA)), out_specs=rows, check_vma=False)
    return jax.jit(shared, out_shardings=meshes.replicated(mesh))


@functools.lru_cache(maxsize=8)
def bare_product(mesh: Mesh) -> Callable[[Any, Any], jax.Array]:
    """Returns jitted f(images [R, D], tiles [n_tiles, D, T]) that computes every score and keeps next to nothing: the limit of a step."""

    def local(images: jax.Array, tiles: jax.Array) -> jax.Array:
        def one_tile(seen: jax.Array, tile: jax.Array) -> tuple[jax.Array, None]:
            scores = product(images, tile)
            return seen + scores[0, 0] + scores[-1, -1], None

        return lax.scan(one_tile, jnp.float32(0), tiles)[0][None]

    rows = PartitionSpec(meshes.DATA)
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows, check_vma=False))


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Returns scores [R, T] of [R, D] and [D, T], float32 at HIGHEST precision."""
    return lax.dot_general(left, right, (((1,), (0,)), ((), ())), precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _step(images: Images, studies: Studies, state: jax.Array, *, wanted: Wanted) -> tuple[PerImage, jax.Array]:
    """Runs one device's images over its tiles."""
    found, kept, state = _pass(images, studies, state[0], wanted)
    score, place, left_behind = _listed(kept, images, studies, wanted)
    return PerImage(found, score, place, _settled(score, left_behind)), state[None]


def _joined(images: Images, studies: Studies, state: jax.Array, *, wanted: Wanted) -> tuple[PerImage, jax.Array]:
    """Runs all images over one device's tiles and joins what the devices found; places rise with the device."""
    found, kept, here = _pass(images, studies, state[0], wanted)
    score, place, left_behind = _listed(kept, images, studies, wanted)
    if wanted.k:
        scores, places = (lax.all_gather(array, meshes.DATA, axis=1, tiled=True) for array in (score, place))
        score, place = toplists.merge(scores, places, wanted.k)
    settled = _settled(score, lax.pmax(left_behind, meshes.DATA))
    return PerImage(lax.psum(found, meshes.DATA), score, place, settled), here[None]


def _settled(score: jax.Array, left_behind: jax.Array) -> jax.Array:
    """Returns whether lists [R, k] are exact when no score that was left behind is above `left_behind` [R], -inf for none."""
    return (left_behind == -jnp.inf) | (left_behind < jnp.min(score, axis=1, initial=jnp.inf))


def _listed(kept: toplists.Kept | None, images: Images, studies: Studies, wanted: Wanted) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (scores [R, k], places [R, k], a bound [R] of every score that is left behind and matters) of kept groups [n_tiles, R, n]."""
    n = len(images.study)
    nothing = jnp.full(n, -jnp.inf)
    if kept is None:
        return jnp.zeros((n, 0), jnp.float32), jnp.zeros((n, 0), jnp.int32), nothing
    joined = toplists.Kept(*(jnp.moveaxis(part, 0, 1).reshape(n, -1, *part.shape[3:]) for part in kept))
    score, place = toplists.select(joined, wanted.k)
    if wanted.kept >= min(wanted.k, studies.study.shape[1] // packed.GROUP):
        return score, place, nothing
    return score, place, jnp.max(jnp.min(kept.best, axis=2), axis=0)


def _pass(images: Images, studies: Studies, state: jax.Array, wanted: Wanted) -> tuple[jax.Array, toplists.Kept | None, jax.Array]:
    """Returns (counts of images [J, n_answers + 1, R], kept groups by tile, counts of studies) after every tile."""
    n_groups = studies.study.shape[1] // packed.GROUP
    kept_groups = min(wanted.kept, n_groups)

    def one_tile(state: jax.Array, given: tuple[jax.Array, Studies]) -> tuple[jax.Array, Any]:
        index, tile = given
        scores = jnp.where((tile.study >= 0)[None, :], product(images.vectors, tile.vectors), -jnp.inf)
        maxima, found = _count_images(scores, images, tile, wanted)
        if wanted.studies:
            state = _add_studies(state, index, _count_studies(scores, images, tile, wanted), images.block, wanted)
        return state, (found, toplists.keep(scores, maxima, kept_groups, tile.first) if wanted.k else None)

    state, (found, kept) = lax.scan(one_tile, state, (jnp.arange(len(studies.study), dtype=jnp.int32), studies))
    return _by_block(found, studies.block[:, 0], wanted), kept, state


def _by_block(found: jax.Array, first: jax.Array, wanted: Wanted) -> jax.Array:
    """Returns counts [J, n_answers + 1, R] of tiles [n_tiles, spans, n_answers + 1, R] whose spans start at block `first` [n_tiles]."""
    if wanted.blocks == 1:
        return jnp.sum(found, axis=0)
    by_block = jnp.zeros((wanted.blocks, *found.shape[2:]), jnp.int32)
    return by_block.at[first[:, None] + jnp.arange(wanted.spans)].add(found, mode="drop")  # spans past the last block are empty


def _answers(scores: jax.Array, limit: jax.Array, images: Images, tile: Studies) -> list[jax.Array]:
    """Returns whether each score [R, T] is above and at its limit, for all candidates and then for those of each code, bool [R, T]."""
    greater, tied = scores > limit, scores == limit
    answers = [greater, tied]
    for number in range(len(images.codes)):
        same = images.codes[number][:, None] == tile.codes[number][None, :]
        answers += [greater & same, tied & same]
    return answers


def _count_images(scores: jax.Array, images: Images, tile: Studies, wanted: Wanted) -> tuple[jax.Array, jax.Array]:
    """Returns (maxima of groups of studies [R, T // GROUP], counts [spans, n_answers + 1, R]) of scores [R, T].

    Studies with the image's own text are left to the host, which knows that they tie.
    """
    limit = images.threshold[:, None]
    answers = _answers(scores, limit, images, tile)
    if wanted.near:
        answers += [scores > limit + DELTA, scores >= limit - DELTA]
    counted = (images.key[:, None] != tile.key[None, :]) & (images.text[:, None] != tile.text[None, :])
    words = packed.pack(answers, counted, answers[1] & (images.study[:, None] == tile.study[None, :]))
    grouped = (len(scores), -1, packed.GROUP)
    maxima, summed = packed.maximum_and_sums(scores.reshape(grouped), [word.reshape(grouped) for word in words], axis=2)
    by_group = packed.unpack(summed, len(answers))
    if wanted.spans == 1:
        return maxima, jnp.stack(packed.sums(by_group, axis=1))[None]
    spans = jnp.arange(wanted.spans, dtype=jnp.int32)
    member = (tile.block[:, None] - tile.block[0] == spans[None, :]).astype(jnp.float32)
    stacked = jnp.stack(by_group).astype(jnp.float32)  # sums stay below 2**24, which float32 holds
    by_span = lax.dot_general(stacked, member, (((2,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)
    return maxima, jnp.moveaxis(by_span, 2, 0).astype(jnp.int32)


def _count_studies(scores: jax.Array, images: Images, tile: Studies, wanted: Wanted) -> list[jax.Array]:
    """Returns the counts of each study, one [R // GROUP, T] per answer and for the check, of scores [R, T]."""
    answers = _answers(scores, tile.threshold[None, :], images, tile)
    counted = (images.key[:, None] != tile.key[None, :]) & (images.study[:, None] >= 0)
    words = packed.pack(answers, counted, answers[1] & (images.number[:, None] == tile.best_image[None, :]))
    grouped = (-1, packed.GROUP, scores.shape[1])
    return packed.unpack(packed.sums([word.reshape(grouped) for word in words], axis=1), wanted.study_answers)


def _add_studies(state: jax.Array, index: jax.Array, found: list[jax.Array], block: jax.Array, wanted: Wanted) -> jax.Array:
    """Returns the state [J, n_tiles, n_answers + 1, T] with one tile's counts added to the blocks of the image groups they come from."""
    first = jnp.minimum(block[0], wanted.blocks - wanted.image_spans)
    spans = [found]
    if wanted.image_spans > 1:
        spans = [[jnp.where((block - first == span)[:, None], count, 0) for count in found] for span in range(wanted.image_spans)]
    summed = packed.sums([count for span in spans for count in span], axis=0)
    added = jnp.stack(summed).reshape(wanted.image_spans, 1, len(found), -1)
    start = (first, index, 0, 0)
    here = lax.dynamic_slice(state, start, added.shape)
    return lax.dynamic_update_slice(state, here + added, start)
