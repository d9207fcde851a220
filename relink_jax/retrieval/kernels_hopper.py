"""The counting pass's inner step as one Mosaic GPU kernel for Hopper: `kernels_tpu` for NVIDIA's tensor cores, which multiply bfloat16 alone.

A program, one warpgroup, multiplies `IMAGES` images with `STRIP` studies: TMA brings both by `DEPTH` columns of their rows to shared memory, a few
steps ahead of the tensor cores (wgmma). Their scores stay in registers, where they are compared, counted and maximised, and are forgotten.
What a program counts of an image or a study is at most `STRIP`, so four counts are added as the bytes of one word (`_words`), and written as
that word; XLA takes the words apart and adds those of all programs.

Every product here has the one shape [IMAGES, width] x [width, STRIP], as in `kernels_tpu`. Rows are padded by zeros to a multiple of `DEPTH`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from relink_jax.retrieval import kernel_sides, packed, tally
from relink_jax.retrieval.sides import Images, Studies, Wanted

IMAGES, STRIP, DEPTH = 64, 128, 64
_STAGES = 4  # products on their way to shared memory
_FIELDS, _BITS = 4, 8  # counts of a word, and bits of each; those of a program are at most STRIP
_NUMBER, _STUDY, _KEY, _TEXT, _SPAN, _CODES = range(6)  # rows of the integers of either side; a study's number is that of its best image
_DOWN, _ACROSS = plgpu.Layout.WGMMA.reduce(1), plgpu.Layout.WGMMA.reduce(0)  # of one number per image, or per study, in registers


def tile_counts(images: Images, tile: Studies, wanted: Wanted, *, interpret: Any = False) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns (maxima float32 [R, T // GROUP], counts of images int32 [spans, n_answers + 1, R], those of studies or None) of one tile.

    They are what `tally.count_images` and `tally.count_studies` give, the latter None where it is not wanted. Vectors are bfloat16,
    so limits are always two.

    Args: interpret: as Mosaic GPU's `kernel` takes it: parameters of its interpreter, or False.
    """
    n, columns = len(images.study), len(tile.study)
    integers, limits = kernel_sides.of_images(images, wanted, IMAGES)
    rows = integers.shape[1]
    strips, blocks = columns // STRIP, rows // IMAGES
    n_found, n_given = wanted.image_answers + 1, wanted.study_answers + 1
    out = [jax.ShapeDtypeStruct((columns // packed.GROUP, rows), jnp.float32), _counts(strips, wanted.spans, n_found, rows)]
    if wanted.studies:
        out.append(_counts(blocks, wanted.image_spans, n_given, columns))
    maxima, found, *given = _kernel(functools.partial(_count, wanted=wanted, read=_reader(interpret)), out, (blocks, strips), interpret)(
        _padded(images.vectors, IMAGES, DEPTH), integers, limits, _padded(tile.vectors, DEPTH, 1), *kernel_sides.of_studies(tile)
    )
    of_studies = _added(given[0], n_given) if given else None
    return maxima.T[:n], _added(found, n_found)[:, :, :n], of_studies


def pair_scores(vectors: jax.Array, candidates: jax.Array, *, interpret: Any = False) -> jax.Array:
    """Returns float32 scores [R, c] of images [R, width] against c candidates each, [R c, width], those of one image side by side.

    Every score has the bits it has in `tile_counts`.
    """
    n = len(vectors)
    each = len(candidates) // n
    vectors, candidates = _padded(vectors, IMAGES, DEPTH), _padded(candidates, IMAGES * each, DEPTH)
    blocks, width = len(vectors) // IMAGES, vectors.shape[1]
    by_block = candidates.reshape(blocks, IMAGES * each, width)
    by_block = jnp.pad(by_block, ((0, 0), (0, -IMAGES * each % STRIP), (0, 0)))
    steps = by_block.shape[1] // STRIP
    out = [jax.ShapeDtypeStruct((blocks * steps * STRIP,), jnp.float32)]
    kernel = _kernel(functools.partial(_pairs, each=each, steps=steps), out, (blocks, steps), interpret)
    (scores,) = kernel(vectors, by_block.reshape(-1, width).T)
    return scores.reshape(blocks, -1)[:, : IMAGES * each].reshape(-1, each)[:n]


def _count(*refs: Any, wanted: Wanted, read: Callable[..., jax.Array]) -> None:
    """One program: `IMAGES` images against a strip of studies."""
    vectors, image_integers, image_limits, columns, integers, limits, maxima, found, *given = refs
    i, j = lax.axis_index("rows"), lax.axis_index("columns")
    down, across = pl.ds(i * IMAGES, IMAGES), pl.ds(j * STRIP, STRIP)
    image = functools.partial(read, image_integers, down, 0)
    study = functools.partial(read, integers, across, 1)
    scores = _scores(vectors, columns, down, across)
    scores = jnp.where(study(_STUDY) >= 0, scores, -jnp.inf)
    for group in range(STRIP // packed.GROUP):
        neighbours = scores[:, group * packed.GROUP : (group + 1) * packed.GROUP]
        maxima[j * (STRIP // packed.GROUP) + group, down] = jnp.max(neighbours, axis=1)
    n_codes = image_integers.shape[0] - _CODES
    same = [image(_CODES + code) == study(_CODES + code) for code in range(n_codes)]
    image_limit = functools.partial(read, image_limits, down, 0)
    words = _for_images(scores, (image_limit(0), image_limit(1)), same, image, study, wanted)
    members = [study(_SPAN) == span for span in range(wanted.spans)] if wanted.spans > 1 else [None]
    _write(found, j, down, words, members, axis=1)
    for counts in given:
        study_limit = functools.partial(read, limits, across, 1)
        words = _for_studies(scores, (study_limit(0), study_limit(1)), same, image, study)
        members = [image(_SPAN) == span for span in range(wanted.image_spans)] if wanted.image_spans > 1 else [None]
        _write(counts, i, across, words, members, axis=0)


def _for_images(scores: jax.Array, limits: tuple[jax.Array, jax.Array], same: Sequence[jax.Array], image: Any, study: Any, wanted: Wanted) -> list[jax.Array]:
    """Returns words of what `tally.count_images` counts in the scores [IMAGES, STRIP]."""
    low, high = limits
    found = _answers(scores, low, high, same)
    tied = found[1] & (scores <= high)
    if wanted.near:
        found += [scores > high + tally.DELTA, scores >= low - tally.DELTA]
    counted = (image(_KEY) != study(_KEY)) & (image(_TEXT) != study(_TEXT))
    return _words(found, counted, tied & (image(_STUDY) == study(_STUDY)))


def _for_studies(scores: jax.Array, limits: tuple[jax.Array, jax.Array], same: Sequence[jax.Array], image: Any, study: Any) -> list[jax.Array]:
    """Returns words of what `tally.count_studies` counts in the scores [IMAGES, STRIP]."""
    low, high = limits
    found = _answers(scores, low, high, same)
    counted = (image(_KEY) != study(_KEY)) & (image(_STUDY) >= 0)
    return _words(found, counted, found[1] & (scores <= high) & (image(_NUMBER) == study(_NUMBER)))


def _answers(scores: jax.Array, low: jax.Array, high: jax.Array, same: Sequence[jax.Array]) -> list[jax.Array]:
    """Returns what `tally.answers` asks, given which pairs share each code."""
    above, reached = scores > high, scores >= low
    return [above, reached, *(answer & code for code in same for answer in (above, reached))]


def _words(answers: Sequence[jax.Array], counted: jax.Array, check: jax.Array) -> list[jax.Array]:
    """Returns int32 words of `answers` where `counted` holds, then of `check` where it does not, `_FIELDS` to a word."""
    kept = [*answers, check]
    words = []
    for first in range(0, len(kept), _FIELDS):
        fields = list(enumerate(kept[first : first + _FIELDS]))
        inside = [_field(place, answer) for place, answer in fields if first + place < len(answers)]
        outside = [_field(place, answer) for place, answer in fields if first + place == len(answers)]
        words.append(jnp.where(counted, sum(inside, np.int32(0)), sum(outside, np.int32(0))))
    return words


def _field(place: int, answer: jax.Array) -> jax.Array:
    return jnp.where(answer, np.int32(1 << (_BITS * place)), np.int32(0))


def _write(out: Any, program: jax.Array, here: Any, words: Sequence[jax.Array], members: Sequence[jax.Array | None], *, axis: int) -> None:
    """Writes the sums of words along an axis, those of each span's members."""
    for span, member in enumerate(members):
        for number, word in enumerate(words):
            kept = word if member is None else jnp.where(member, word, np.int32(0))
            out[program, span * len(words) + number, here] = jnp.sum(kept, axis=axis)


def _pairs(vectors: Any, candidates: Any, out: Any, *, each: int, steps: int) -> None:
    """One program of `pair_scores`: takes from a strip of scores those of a candidate and the image it belongs to."""
    i, j = lax.axis_index("rows"), lax.axis_index("columns")
    across = pl.ds((i * steps + j) * STRIP, STRIP)
    scores = _scores(vectors, candidates, pl.ds(i * IMAGES, IMAGES), across)
    image, candidate = (lax.broadcasted_iota(jnp.int32, (IMAGES, STRIP), axis) for axis in (0, 1))
    first = image * each
    number = candidate + j * STRIP
    own = (number >= first) & (number < first + each)
    out[across] = jnp.max(jnp.where(own, scores, -jnp.inf), axis=0)


def _scores(vectors: Any, columns: Any, down: Any, across: Any) -> jax.Array:
    """Returns scores float32 [IMAGES, STRIP], in registers."""
    tiles = plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)
    block = functools.partial(plgpu.BlockSpec, transforms=tiles, delay_release=1)  # a step's product ends during the next one
    specs = [block((IMAGES, DEPTH), lambda k: (0, k)), block((DEPTH, STRIP), lambda k: (k, 0))]

    def product(sums: Any) -> jax.Array:
        def one_step(_: Any, left: Any, right: Any) -> None:
            plgpu.wgmma(sums, left, right)
            plgpu.wgmma_wait(1)

        steps = (vectors.shape[1] // DEPTH,)
        plgpu.emit_pipeline(one_step, grid=steps, in_specs=specs, max_concurrent_steps=_STAGES)(vectors.at[down, :], columns.at[:, across])
        return sums[...]

    return pl.run_scoped(product, plgpu.ACC((IMAGES, STRIP), jnp.float32))


def _reader(interpret: Any) -> Callable[..., jax.Array]:
    """Returns f(ref [n, :], places, axis, number), numbers of one side spread over [IMAGES, STRIP]; the interpreter knows no layouts."""

    def read(ref: Any, here: Any, axis: int, number: int) -> jax.Array:
        row = ref.at[number]
        values = row[here] if interpret else plgpu.load(row, (here,), layout=_ACROSS if axis else _DOWN, optimized=False)
        return lax.broadcast_in_dim(values, (IMAGES, STRIP), (axis,))

    return read


def _kernel(body: Callable[..., None], out: Sequence[Any], grid: tuple[int, int], interpret: Any) -> Callable[..., Sequence[jax.Array]]:
    how = plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup)
    return plgpu.kernel(body, out_type=out, grid=grid, grid_names=("rows", "columns"), compiler_params=how, interpret=interpret or None)


def _counts(programs: int, spans: int, answers: int, places: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((programs, spans * -(-answers // _FIELDS), places), jnp.int32)


def _added(words: jax.Array, n: int) -> jax.Array:
    """Returns int32 counts [spans, n, places] from the words [programs, spans * n_words, places] of all programs."""
    n_words = -(-n // _FIELDS)
    plain = lax.bitcast_convert_type(words, jnp.uint32).reshape(len(words), -1, n_words, 1, words.shape[2])
    shifts = (np.arange(_FIELDS, dtype=np.uint32) * np.uint32(_BITS))[:, None]
    fields = ((plain >> shifts) & np.uint32((1 << _BITS) - 1)).astype(jnp.int32)
    return jnp.sum(fields, axis=0).reshape(plain.shape[1], n_words * _FIELDS, -1)[:, :n]


def _padded(rows: jax.Array, down: int, across: int) -> jax.Array:
    """Returns [n, m] with zeros up to multiples of two sizes."""
    return jnp.pad(rows, [(0, -length % size) for length, size in zip(rows.shape, (down, across), strict=True)])
