"""The bench stage: speed as ratios, two sides alternating in one process. `embed` times our towers against transformers' in torch.

Absolute times on shared machines mean little, so medians of alternating rounds are divided; rates are printed beside for orientation.
A plain matrix product is timed in the same rounds: the share of its speed that a tower reaches says how much is left to gain.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.encoders import blocks, cost, peers, specs, towers, zoo
from relink_jax.runtime import progress

SUBJECTS = ("embed",)
ROUNDS, BATCH = 7, 32
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


@dataclasses.dataclass(frozen=True)
class Bench:
    """The rows and the circumstances they were measured in."""

    rows: list[Row]
    where: str


def run(config: config_lib.RunConfig, workdir: str, words: Sequence[str] = (), *, model: str | None = None, rounds: str = "", batch: str = "") -> Bench:
    """Times both towers of `model` (a packaged or published name; default the four packaged ones) with random weights of its geometry.

    Same batch, same padded length, float32 on both sides, as many threads as CPUs on both; compilation is not timed.

    Raises: UsageError: another subject than `embed`, an unknown model, sizes that are not positive, or no torch.
    """
    config.validate()
    if list(words) != ["embed"]:
        raise errors.UsageError(errors.describe("what to measure", "'relink bench'", " or ".join(SUBJECTS), repr(" ".join(words))))
    names = [model] if model else list(config.models)
    n_rounds, size = _whole("rounds", rounds, ROUNDS), _whole("batch", batch, BATCH)
    chosen = [zoo.described(name) for name in names]
    torch_threads = peers.threads()
    rows = []
    with progress.bar(2 * len(chosen), "bench embed", "towers") as bar:
        for spec in chosen:
            for side in ("image", "text"):
                rows.append(_row(spec, side, size, n_rounds))
                bar.update(1)
    device = jax.devices()[0]
    where = f"{device.device_kind} x {jax.device_count()}, torch with {torch_threads} threads on the CPU, batch {size}, {n_rounds} alternating rounds, float32"
    return Bench(rows, where)


def describe(bench: Bench) -> str:
    """Returns the table."""
    lines = [f"  {'model':<28} {'side':<6} {'ours /s':>9} {'torch /s':>9} {'times faster':>13} {'share of product':>17} {'torch':>6}"]
    lines += [
        f"  {row.model:<28} {row.side:<6} {row.ours:>9.1f} {row.peer:>9.1f} {row.ratio:>13.2f} {row.our_share:>17.2f} {row.peer_share:>6.2f}"
        for row in bench.rows
    ]
    told = "share of product: FLOP per second as a share of our plain matrix product's, in the same rounds"
    return "\n".join([f"towers against transformers in torch ({bench.where}):", *lines, told])


def _row(spec: specs.VLMSpec, side: str, batch: int, rounds: int) -> Row:
    """Returns the timing of one tower."""
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
    own, other, plain = alternating([lambda: encode(spec, params, given), lambda: peer(inputs), lambda: _product(left, right)], rounds)
    work, product = batch * cost.of(spec)[side].flop, 2 * _PRODUCT[0] * _PRODUCT[1] * _PRODUCT[2]
    shares = [statistics.median((work / one) / (product / bare) for one, bare in zip(times, plain, strict=True)) for times in (own, other)]
    ratio = statistics.median(theirs / ours for ours, theirs in zip(own, other, strict=True))
    return Row(spec.name, side, batch / statistics.median(own), batch / statistics.median(other), ratio, *shares)


@jax.jit
def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=blocks.PRECISION)


def alternating(calls: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Returns seconds per round of each call, taken in turns after one warm-up of each."""
    spent: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for times, call in zip(spent, calls, strict=True):
            started = time.perf_counter()
            jax.block_until_ready(call())
            if number:
                times.append(time.perf_counter() - started)
    return spent


def _whole(name: str, text: str, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**6):
        raise errors.UsageError(errors.describe("size", f"flag --{name}", "a whole number of at least 1", repr(text)))
    return int(text)
