"""The counting pass's inner step as one Pallas kernel for TPUs: product, comparisons, counts and maxima, without a tile of scores in memory.

A program of the grid holds `IMAGES` images and some hundred studies, and goes through the studies a strip of `STRIP` at a time: the strip's
scores [STRIP, IMAGES], studies down, are compared, counted and forgotten. Studies lie along sublanes, where neighbours are maximised and
their packed answers (`packed`) added at no cost in relayouts; what belongs to a study is turned from lanes to sublanes once for all images.

Every product here has the one shape [STRIP, width] x [width, IMAGES], so that a score has the same bits in a tile, as a threshold
(`pair_scores` of the own reports) and in a list (`pair_scores` of the kept groups). Images are padded to that shape.

On a TPU integers are not reduced along lanes: those counts are float32 within a strip, at most `IMAGES`, and int32 across strips.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from relink_jax.retrieval import kernel_sides, packed, tally
from relink_jax.retrieval.sides import Images, Studies, Wanted

STRIP, IMAGES = 128, 256
_BLOCKS = 512, 256, 128  # studies of one program; the first that divides a tile
_MEMORY = 32 << 20  # bytes of on-chip memory a program may take
_NUMBER, _STUDY, _KEY, _TEXT, _SPAN, _CODES = range(6)  # rows of the integers of either side; a study's number is that of its best image


def tile_counts(images: Images, tile: Studies, wanted: Wanted, *, interpret: Any = False) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns (maxima float32 [R, T // GROUP], counts of images int32 [spans, n_answers + 1, R], those of studies or None) of one tile.

    They are what `tally.count_images` and `tally.count_studies` give, the latter None where it is not wanted.

    Args: interpret: as `pallas_call` takes it; True runs the kernel's program step by step on any device.
    """
    n, width = images.vectors.shape
    image_integers, image_limits = kernel_sides.of_images(images, wanted, IMAGES)
    vectors = jnp.pad(images.vectors, ((0, image_integers.shape[1] - len(images.vectors)), (0, 0)))
    rows, columns = len(vectors), tile.study.shape[0]
    block = _block(columns)
    n_found, n_given = wanted.spans * (wanted.image_answers + 1), wanted.image_spans * (wanted.study_answers + 1)
    integers, limits = kernel_sides.of_studies(tile)
    specs = [((IMAGES, width), lambda j, i: (i, 0)), ((len(image_integers), IMAGES), lambda j, i: (0, i)), ((2, IMAGES), lambda j, i: (0, i))]
    specs += [(shape, lambda j, i: (0, j)) for shape in ((width, block), (len(integers), block), (2, block))]
    out = [((block // packed.GROUP, IMAGES), lambda j, i: (j, i)), ((1, n_found, IMAGES), lambda j, i: (j, 0, i))]
    shapes = [jax.ShapeDtypeStruct((columns // packed.GROUP, rows), jnp.float32), jax.ShapeDtypeStruct((columns // block, n_found, rows), jnp.int32)]
    if wanted.studies:
        out.append(((n_given, block), lambda j, i: (0, j)))
        shapes.append(jax.ShapeDtypeStruct((n_given, columns), jnp.int32))
    scratch = [(block, width), (block, len(integers)), (block, 2)]
    dtypes = vectors.dtype, jnp.int32, jnp.float32
    maxima, found, *given = pl.pallas_call(
        functools.partial(_count, wanted=wanted, widen=bool(interpret)),
        grid=(columns // block, rows // IMAGES),
        in_specs=[pl.BlockSpec(*spec) for spec in specs],
        out_specs=[pl.BlockSpec(*spec) for spec in out],
        out_shape=shapes,
        scratch_shapes=[pltpu.VMEM(shape, dtype) for shape, dtype in zip(scratch, dtypes, strict=True)],
        compiler_params=_params("parallel", "arbitrary"),
        interpret=interpret,
        name="tile_counts",
    )(vectors, image_integers, image_limits, tile.vectors, integers, limits)
    by_span = jnp.sum(found, axis=0).reshape(wanted.spans, -1, rows)[:, :, :n]
    return maxima.T[:n], by_span, given[0].reshape(wanted.image_spans, -1, columns) if given else None


def pair_scores(vectors: jax.Array, candidates: jax.Array, *, interpret: Any = False) -> jax.Array:
    """Returns float32 scores [R, c] of images [R, width] against c candidates each, [R c, width], those of one image side by side.

    Every score has the bits it has in `tile_counts`.
    """
    n, width = vectors.shape
    each = len(candidates) // n
    vectors, candidates = (jnp.pad(rows, ((0, -n % IMAGES * times), (0, 0))) for rows, times in ((vectors, 1), (candidates, each)))
    block = _block(IMAGES * each)
    steps = IMAGES * each // block
    scores = pl.pallas_call(
        functools.partial(_pairs, each=each, widen=bool(interpret)),
        grid=(len(vectors) // IMAGES, steps),
        in_specs=[pl.BlockSpec((IMAGES, width), lambda i, j: (i, 0)), pl.BlockSpec((block, width), lambda i, j: (i * steps + j, 0))],
        out_specs=pl.BlockSpec((1, block), lambda i, j: (0, i * steps + j)),
        out_shape=jax.ShapeDtypeStruct((1, len(candidates)), jnp.float32),
        compiler_params=_params("parallel", "parallel"),
        interpret=interpret,
        name="pair_scores",
    )(vectors, candidates)
    return scores.reshape(-1, each)[:n]


def _count(*refs: Any, wanted: Wanted, widen: bool) -> None:
    """One program: `IMAGES` images against some strips of studies."""
    vectors, image_integers, image_limits, columns, integers, limits, maxima, found, *given, rows, numbers, bounds = refs

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        rows[...], numbers[...], bounds[...] = columns[...].T, integers[...].T, limits[...].T
        for counts in given:
            counts[...] = jnp.zeros_like(counts)

    found[...] = jnp.zeros_like(found)

    def strip(number: jax.Array, _: None) -> None:
        here = pl.ds(pl.multiple_of(number * STRIP, STRIP), STRIP)
        study, image = numbers[here, :], image_integers[...]
        scores = jnp.where(_column(study, _STUDY) >= 0, _scores(rows[here, :], vectors[...], widen), -jnp.inf)
        groups = STRIP // packed.GROUP
        at = pl.ds(pl.multiple_of(number * groups, groups), groups)
        maxima[at, :] = jnp.max(scores.reshape(groups, packed.GROUP, IMAGES), axis=1)
        found[0] += _for_images(scores, image, image_limits[...], study, wanted)
        for counts in given:
            counts[:, here] += _for_studies(scores, image, study, bounds[here, :], wanted)

    lax.fori_loop(0, rows.shape[0] // STRIP, strip, None)


def _for_images(scores: jax.Array, image: jax.Array, limits: jax.Array, study: jax.Array, wanted: Wanted) -> jax.Array:
    """Returns int32 [spans * (n_answers + 1), IMAGES], the counts of a strip [STRIP, IMAGES] of scores; as `tally.count_images` counts."""
    high = limits[1:]
    low = limits[:1] if wanted.banded else high
    found = _answers(scores, low, high, image, study)
    tied = ~found[0] & found[1]
    if wanted.near:
        found += [scores > high + tally.DELTA, scores >= low - tally.DELTA]
    counted = (image[_KEY][None] != _column(study, _KEY)) & (image[_TEXT][None] != _column(study, _TEXT))
    words = packed.pack(found, counted, tied & (image[_STUDY][None] == _column(study, _STUDY)))
    by_group = packed.unpack([jnp.sum(word.reshape(-1, packed.GROUP, IMAGES), axis=1) for word in words], len(found))
    if wanted.spans == 1:
        return jnp.concatenate([jnp.sum(count, axis=0, keepdims=True) for count in by_group])
    spans = jnp.max(_column(study, _SPAN).reshape(-1, packed.GROUP, 1), axis=1)
    members = [spans == span for span in range(wanted.spans)]
    return jnp.concatenate([jnp.sum(jnp.where(member, count, 0), axis=0, keepdims=True) for member in members for count in by_group])


def _for_studies(scores: jax.Array, image: jax.Array, study: jax.Array, limits: jax.Array, wanted: Wanted) -> jax.Array:
    """Returns int32 [image_spans * (n_answers + 1), STRIP], the counts of a strip's studies; as `tally.count_studies` counts."""
    high = limits[:, 1:]
    found = _answers(scores, limits[:, :1] if wanted.banded else high, high, image, study)
    counted = (image[_KEY][None] != _column(study, _KEY)) & (image[_STUDY][None] >= 0)
    check = ~found[0] & found[1] & ~counted & (image[_NUMBER][None] == _column(study, _NUMBER))
    kept = [answer & counted for answer in found] + [check]
    spans = image[_SPAN][None]
    members = [answer & (spans == span) for span in range(wanted.image_spans) for answer in kept] if wanted.image_spans > 1 else kept
    summed = [jnp.sum(jnp.where(member, 1.0, 0.0), axis=1, keepdims=True) for member in members]
    return jnp.concatenate([_across(count) for count in summed]).astype(jnp.int32)


def _answers(scores: jax.Array, low: jax.Array, high: jax.Array, image: jax.Array, study: jax.Array) -> list[jax.Array]:
    """Returns what `tally.answers` asks, with studies down and images across."""
    above, reached = scores > high, scores >= low
    found = [above, reached]
    for code in range(_CODES, len(image)):
        same = image[code][None] == _column(study, code)
        found += [above & same, reached & same]
    return found


def _pairs(vectors: Any, candidates: Any, out: Any, *, each: int, widen: bool) -> None:
    """One program of `pair_scores`: takes from each strip of scores those of a candidate and the image it belongs to."""
    first = pl.program_id(1) * candidates.shape[0]

    def strip(number: jax.Array, _: None) -> None:
        here = pl.ds(pl.multiple_of(number * STRIP, STRIP), STRIP)
        scores = _scores(candidates[here, :], vectors[...], widen)
        down, image = (lax.broadcasted_iota(jnp.int32, scores.shape, axis) for axis in (0, 1))
        own = lax.div(first + number * STRIP + down, jnp.int32(each)) == image
        out[:, here] = _across(jnp.max(jnp.where(own, scores, -jnp.inf), axis=1, keepdims=True))

    lax.fori_loop(0, candidates.shape[0] // STRIP, strip, None)


def _scores(rows: jax.Array, vectors: jax.Array, widen: bool) -> jax.Array:
    """Returns scores [STRIP, IMAGES] of studies [STRIP, width] and images [IMAGES, width]; `widen` for CPUs, which lack products of bfloat16."""
    if widen:
        rows, vectors = rows.astype(jnp.float32), vectors.astype(jnp.float32)
    how = None if rows.dtype == jnp.bfloat16 else lax.Precision.HIGHEST
    return lax.dot_general(rows, vectors, (((1,), (1,)), ((), ())), precision=how, preferred_element_type=jnp.float32)


def _column(values: jax.Array, number: int) -> jax.Array:
    return values[:, number : number + 1]


def _across(values: jax.Array) -> jax.Array:
    """Returns a column [STRIP, 1] as a row [1, STRIP]."""
    down, across = (lax.broadcasted_iota(jnp.int32, (STRIP, STRIP), axis) for axis in (0, 1))
    return jnp.max(jnp.where(down == across, values, -jnp.inf), axis=0, keepdims=True)


def _block(columns: int) -> int:
    return next(size for size in _BLOCKS if columns % size == 0)


def _params(*semantics: Any) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=_MEMORY)
