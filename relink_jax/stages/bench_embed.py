"""`relink bench embed`: our towers against transformers' in torch, and against the bare matrix product.

Both sides get random weights of the model's geometry, the same batch and padding, float32, and as many threads. A plain matrix product is
timed in the same rounds: the share of its speed that a tower reaches says how much is left to gain.
"""

import dataclasses
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax.encoders import blocks, cost, peers, specs, towers
from relink_jax.runtime import timing

_PRODUCT = (2048, 768, 3072)  # rows, inputs and outputs of the plain product: a ViT-B's widest layer


@dataclasses.dataclass(frozen=True)
class Row:
    """One side of one model: items per second of ours and of the peer, how often ours is faster in the median of per-round ratios, and
    the share of our matrix product's speed that each reaches, by the FLOP of `encoders.cost`."""

    model: str
    side: str
    ours: float
    peer: float
    ratio: float
    our_share: float
    peer_share: float


def measure(spec: specs.VLMSpec, side: str, batch: int, rounds: int) -> Row:
    """Returns the timing of one tower, `side` image or text."""
    params = jax.block_until_ready(towers.init(spec, jax.random.key(0))[side])
    draw = np.random.default_rng(0)
    if side == "image":
        inputs = draw.standard_normal((batch, *towers.image_shape(spec))).astype(np.float32)
        encode, peer = towers.image_features, peers.image_peer(spec.image)
    else:
        inputs = draw.integers(3, spec.text.vocab_size - 1, (batch, towers.text_length(spec))).astype(np.int32)
        encode, peer = towers.text_features, peers.text_peer(spec.text)
    given = jax.device_put(inputs)
    left, right = (jnp.ones(shape, jnp.float32) for shape in (_PRODUCT[:2], _PRODUCT[1:]))
    own, other, plain = timing.alternating([lambda: encode(spec, params, given), lambda: peer(inputs), lambda: _product(left, right)], rounds)
    work, product = batch * cost.of(spec)[side].flop, 2 * _PRODUCT[0] * _PRODUCT[1] * _PRODUCT[2]
    shares = [statistics.median((work / one) / (product / bare) for one, bare in zip(times, plain, strict=True)) for times in (own, other)]
    ratio = statistics.median(theirs / ours for ours, theirs in zip(own, other, strict=True))
    return Row(spec.name, side, batch / statistics.median(own), batch / statistics.median(other), ratio, *shares)


@jax.jit
def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=blocks.PRECISION)
