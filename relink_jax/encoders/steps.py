"""The device steps of embedding: which rows share one, the threads that load them, and the compiled program that encodes them.

Grey levels travel to the device as 8-bit numbers and become pixels there through the recipe's table of the 256 normalised
values, bit for bit those of `Recipe.pixels`; planes of a recipe without a table travel as float32. Texts whose features do not depend on
padding are sorted by length within a shard and cut to one of at most five lengths (`bucket_lengths`), so that short reports do not pay
for long ones and a run compiles a handful of programs. Images that are compared with a prior one share no step with those that are not.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from relink_jax.encoders import specs, text, towers
from relink_jax.runtime import mesh as meshes

PAIR = "image and prior"
_AHEAD = 2
_SHORTEST, _BUCKETS = 16, 5
_WORTH = 4  # steps that must share a length for it to be worth a compilation


@dataclasses.dataclass(frozen=True)
class Step:
    """One device step: rows `places` of the run, all in rows `start` to `stop` of shard `shard`.

    Texts are cut to `length` tokens; `paired`: each image comes with its prior; `last`: the shard ends with this step.
    """

    shard: int
    start: int
    stop: int
    places: np.ndarray
    length: int | None
    paired: bool
    last: bool


def planned(
    left: Sequence[tuple[int, int, int]], size: int, *, part: int | None = None, lengths: np.ndarray | None = None, paired: np.ndarray | None = None
) -> list[Step]:
    """Returns the steps of the shards (number, first row, past-last row) that are left.

    Rows are grouped by `size`; a step is a group, or `part` rows of one, so that what a row is padded to does not depend on the part. The longest
    texts (`lengths` [n]) and the images with a prior (`paired` bool [n]) go first, so that the last, padded step is a short one.
    """
    part = part or size
    steps = []
    for shard, start, stop in left:
        places = np.arange(start, stop)
        if lengths is not None:
            places = places[np.argsort(-lengths[places], kind="stable")]
        alike = [places] if paired is None else [places[paired[places]], places[~paired[places]]]
        groups = [one[first : first + size] for one in alike for first in range(0, len(one), size)]
        chosen = [(group, group[first : first + part]) for group in groups for first in range(0, len(group), part)]
        for number, (group, rows) in enumerate(chosen, start=1):
            length = None if lengths is None else int(lengths[group[0]])
            steps.append(Step(shard, start, stop, rows, length, paired is not None and bool(paired[rows[0]]), number == len(chosen)))
    return steps


def loaded(load: Callable[[int], np.ndarray], rows: np.ndarray, steps: Sequence[Step]) -> Iterator[np.ndarray]:
    """Yields the stacked inputs [b, ...] of each step, loading the next ones in threads meanwhile."""
    waiting: collections.deque[list[concurrent.futures.Future[np.ndarray]]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for number in range(len(steps) + _AHEAD):
                if number < len(steps):
                    waiting.append([pool.submit(load, int(row)) for row in rows[steps[number].places]])
                if number >= _AHEAD:
                    yield np.stack([future.result() for future in waiting.popleft()])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@functools.lru_cache(maxsize=16)
def program(spec: specs.VLMSpec, kind: str, mesh: Mesh) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns the compiled step of one tower: ({'params'[, 'levels']}, batch) to float32 features.

    `kind` says what the batch holds: 'text' ids [B, L], 'image' planes [B, H, W], or `PAIR` planes [B, 2, H, W] of images and their priors.
    Planes are 8-bit numbers of rows of `levels` [256, 3], or, where there is none, pixels that are the same in every channel. The batch
    is split over the mesh on the way in and out, the first argument is on every device. Computes in the dtype of the parameters.
    """

    def encode(inputs: Any, batch: jax.Array) -> jax.Array:
        if kind == "text":
            return towers.text_features(spec, inputs["params"], batch).astype(jnp.float32)
        pixels = _pixels(inputs, batch)
        shown = (pixels[:, 0], pixels[:, 1]) if kind == PAIR else (pixels,)
        return towers.image_features(spec, inputs["params"], *shown).astype(jnp.float32)

    split = meshes.rows(mesh)
    return jax.jit(encode, in_shardings=(meshes.replicated(mesh), split), out_shardings=split)


def _pixels(inputs: Any, planes: jax.Array) -> jax.Array:
    if "levels" in inputs:
        return inputs["levels"][planes.astype(jnp.int32)]
    return jnp.repeat(planes[..., None], 3, axis=-1).astype(jax.tree.leaves(inputs["params"])[0].dtype)


def needed_tokens(tower: specs.ReportSpec, ids: np.ndarray) -> np.ndarray | None:
    """Returns how many leading tokens [n] of ids [n, L] decide the features; None where padding takes part in them.

    A causal tower sees nothing after the token it pools, and BERT masks its padding unless it averages over it. SigLIP reads its
    padding and MedCLIP and GLoRIA average over theirs, so their texts keep the one length they were trained with.
    """
    if isinstance(tower, specs.TextSpec) and tower.causal and tower.pool == "eos":
        return np.asarray(text.eos_position(jnp.asarray(ids), tower.eos_token_id)) + 1
    if isinstance(tower, specs.BertSpec) and tower.pool in ("cls", "sep"):
        return ids.shape[1] - np.argmax(ids[:, ::-1] != tower.pad_id, axis=1)
    return None


def bucket_lengths(longest: int) -> list[int]:
    """Returns the lengths that texts are padded to: 16, 32, 64 and so on below `longest`, then `longest`; the last five of them."""
    lengths = [_SHORTEST * 2**power for power in range(longest.bit_length()) if _SHORTEST * 2**power < longest]
    return [*lengths, longest][-_BUCKETS:]


def padded_lengths(needed: np.ndarray, longest: int, batch_size: int) -> np.ndarray:
    """Returns the length [n] of `bucket_lengths` that each text is padded to; one that few texts have is left to the next longer one."""
    buckets = np.asarray(bucket_lengths(longest))
    lengths = buckets[np.searchsorted(buckets, needed)]
    for short, longer in itertools.pairwise(buckets):
        if np.count_nonzero(lengths == short) < _WORTH * batch_size:
            lengths[lengths == short] = longer
    return lengths
