"""What a kernel reads of a batch and of a tile beside their vectors: rows of integers and of limits, in one order for every device."""

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax.retrieval import packed, tally
from relink_jax.retrieval.sides import Images, Studies, Wanted


def of_images(images: Images, wanted: Wanted, unit: int) -> tuple[jax.Array, jax.Array]:
    """Returns integers [n, R'] and limits [2, R'] of a batch, R padded to a multiple of `unit` with places that ask nothing."""
    spans = jnp.repeat(images.block - tally.first_span(images.block, wanted), packed.GROUP)
    lacking = (0, 0), (0, -len(images.study) % unit)
    integers = jnp.pad(jnp.stack([images.number, images.study, images.key, images.text, spans, *images.codes]), lacking, constant_values=-1)
    return integers, jnp.pad(jnp.stack([images.low, images.high]), lacking, constant_values=np.inf)


def of_studies(tile: Studies) -> tuple[jax.Array, jax.Array]:
    """Returns integers [n, T] and limits [2, T] of a tile."""
    spans = jnp.repeat(tile.block - tile.block[0], packed.GROUP)
    return jnp.stack([tile.best_image, tile.study, tile.key, tile.text, spans, *tile.codes]), jnp.stack([tile.low, tile.high])
