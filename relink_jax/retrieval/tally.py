"""What is counted in one tile of scores [R, T]: images down, studies across.

Every condition is a pair of yes/no answers, "above the upper limit" and "not below the lower one", asked of all candidates and of those of
each label code. In float32 both limits are the score of the truth, so the answers are greater, and greater or tied. Precisions that round
more have a band between their limits, outside of which they decide as float32 would (`faster`).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from relink_jax.retrieval import packed
from relink_jax.retrieval.sides import Images, Studies, Wanted

DELTA = np.float32(1e-6)


def answers(scores: jax.Array, limits: tuple[jax.Array, jax.Array], images: Images, tile: Studies) -> list[jax.Array]:
    """Returns whether each score is above the upper and not below the lower limit, among all candidates and then those of each code."""
    above, reached = scores > limits[1], scores >= limits[0]
    found = [above, reached]
    for number in range(len(images.codes)):
        same = images.codes[number][:, None] == tile.codes[number][None, :]
        found += [above & same, reached & same]
    return found


def image_limits(images: Images, wanted: Wanted) -> tuple[jax.Array, jax.Array]:
    """Returns (lower, upper) limits [R, 1] of the images; one and the same where the precision has no band."""
    high = images.high[:, None]
    return (images.low[:, None] if wanted.banded else high), high


def counted_for_images(images: Images, tile: Studies) -> jax.Array:
    """Returns whether a study is counted for an image, bool [R, T]: another exclusion key and another text.

    Studies with the image's own text are left to the host, which knows that they tie.
    """
    return (images.key[:, None] != tile.key[None, :]) & (images.text[:, None] != tile.text[None, :])


def count_images(scores: jax.Array, images: Images, tile: Studies, wanted: Wanted) -> tuple[jax.Array, jax.Array]:
    """Returns (maxima of groups of listed studies [R, T // GROUP], counts [spans, n_answers + 1, R])."""
    limits = image_limits(images, wanted)
    found = answers(scores, limits, images, tile)
    tied = ~found[0] & found[1]
    if wanted.near:
        found += [scores > limits[1] + DELTA, scores >= limits[0] - DELTA]
    words = packed.pack(found, counted_for_images(images, tile), tied & (images.study[:, None] == tile.study[None, :]))
    grouped = (len(scores), -1, packed.GROUP)
    listed = within(scores, images, tile) if wanted.within else scores
    maxima, summed = packed.maximum_and_sums(listed.reshape(grouped), [word.reshape(grouped) for word in words], axis=2)
    by_group = packed.unpack(summed, len(found))
    if wanted.spans == 1:
        return maxima, jnp.stack(packed.sums(by_group, axis=1))[None]
    number = tile.block - tile.block[0]

    def one_span(span: jax.Array) -> jax.Array:
        members = [jnp.where(number == span, word, 0) for word in summed]
        return jnp.stack(packed.sums(packed.unpack(members, len(found)), axis=1))

    return maxima, lax.map(one_span, jnp.arange(wanted.spans, dtype=jnp.int32))


def within(scores: jax.Array, images: Images, tile: Studies) -> jax.Array:
    """Returns the scores of counted studies inside the limits of their image, -inf for all others."""
    inside = (scores >= images.low[:, None]) & (scores <= images.high[:, None]) & counted_for_images(images, tile)
    return jnp.where(inside, scores, -jnp.inf)


def count_studies(scores: jax.Array, images: Images, tile: Studies, wanted: Wanted) -> jax.Array:
    """Returns the counts of each study, [image_spans, n_answers + 1, T], by the jackknife blocks that the images span."""
    high = tile.high[None, :]
    found = answers(scores, (tile.low[None, :] if wanted.banded else high, high), images, tile)
    counted = (images.key[:, None] != tile.key[None, :]) & (images.study[:, None] >= 0)
    words = packed.pack(found, counted, ~found[0] & found[1] & (images.number[:, None] == tile.best_image[None, :]))
    grouped = (-1, packed.GROUP, scores.shape[1])
    by_group = packed.unpack(packed.sums([word.reshape(grouped) for word in words], axis=1), wanted.study_answers)
    spans = [by_group]
    if wanted.image_spans > 1:
        number = (images.block - first_span(images.block, wanted))[:, None]
        spans = [[jnp.where(number == span, count, 0) for count in by_group] for span in range(wanted.image_spans)]
    return jnp.stack(packed.sums([count for span in spans for count in span], axis=0)).reshape(wanted.image_spans, len(by_group), -1)


def by_block(found: jax.Array, first: jax.Array, wanted: Wanted) -> jax.Array:
    """Returns counts [J, n_answers + 1, R] of tiles [n_tiles, spans, n_answers + 1, R] whose spans start at block `first` [n_tiles]."""
    if wanted.blocks == 1:
        return jnp.sum(found, axis=0)
    out = jnp.zeros((wanted.blocks, *found.shape[2:]), jnp.int32)
    return out.at[first[:, None] + jnp.arange(wanted.spans)].add(found, mode="drop")  # spans past the last block are empty


def add_studies(state: jax.Array, index: jax.Array, found: jax.Array, block: jax.Array, wanted: Wanted) -> jax.Array:
    """Returns the state [J, n_tiles, n_answers + 1, T] with the counts of one tile added, [image_spans, n_answers + 1, T] of images of `block`."""
    start = (first_span(block, wanted), index, 0, 0)
    added = found[:, None]
    here = lax.dynamic_slice(state, start, added.shape)
    return lax.dynamic_update_slice(state, here + added, start)


def first_span(block: jax.Array, wanted: Wanted) -> jax.Array:
    """Returns the first of `image_spans` jackknife blocks that hold those of image groups, int32 [H // GROUP] and ascending."""
    return jnp.minimum(block[0], wanted.blocks - wanted.image_spans)
