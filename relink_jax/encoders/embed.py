"""Frozen features of images and texts, in batches over a mesh, written shard by shard.

What is cached is the tower's output before the projection head, per image and per unique text, so that heads can be
trained and replaced without touching a pixel again: a vector [F], or a map [P, F] where the head works on patches. The
batch is split over the mesh and the parameters are copied to every device; the last batch is padded and the padding cut
off. Decoding and preprocessing of the next batches run in threads while the device computes. A run that stops keeps its
finished shards and computes the others on the next call.

Grey levels travel to the device as 8-bit numbers and become pixels there through the recipe's table of the 256 normalised
values, bit for bit those of `Recipe.pixels`; planes of a recipe without a table travel as float32. Texts whose features do not depend on padding are sorted by
length within a shard and cut to one of at most five lengths (`bucket_lengths`), so that short reports do not pay for
long ones and a run compiles a handful of programs; rows are written in the order they were asked for.

Guarantee: the features of a row depend on that row alone, whatever the batch size, the shard size, the length it was
padded to or the number of devices, up to the rounding of the device's matrix product.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from relink_jax import errors
from relink_jax.cohort import images as cohort_images
from relink_jax.encoders import preprocess, specs, text, tokenize, towers
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress
from relink_jax.store import digests, shards

PRECISIONS: dict[str, Any] = {"float32": jnp.float32, "bf16": jnp.bfloat16}
MAP_DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16}
SHARD_BYTES = 2**28  # of maps in one shard, which is read as a whole
_AHEAD = 2
_SHORTEST, _BUCKETS = 16, 5
_WORTH = 4  # steps that must share a length for it to be worth a compilation


def embed_images(
    spec: specs.VLMSpec,
    params: Mapping[str, Any],
    cohort: Any,
    image_rows: np.ndarray,
    directory: pathlib.Path,
    mesh: Mesh,
    *,
    batch_size: int,
    shard_rows: int,
    identity: Mapping[str, Any],
    precision: str = "float32",
    map_dtype: str = "float32",
) -> str:
    """Writes features [n, F] or [n, P, F] of the cohort's images `image_rows` [n] and returns the manifest's digest.

    Args:
        params: `Converted.params`; only 'image' is used.
        cohort: a `cohort.schema.Cohort`; its `image_root` and `image_path` are read.
        batch_size: images per device step over all devices, rounded up to a multiple of the device count.
        shard_rows: rows per shard; fewer for maps, of which a shard holds at most `SHARD_BYTES`.
        identity: what the features depend on (weights, cohort); a resume under another identity is refused.
        precision: 'float32', or 'bf16' for a tower whose weights, pixels and activations are bfloat16; features are float32 in both.
        map_dtype: what maps are stored in, 'float32' or 'float16'; vectors are always float32.

    Raises: DataError: an unreadable image, or features that are not finite. StoreError: shards of another run.
        UsageError: an unknown precision or dtype.
    """
    recipe, root, side = preprocess.recipe_for(spec), pathlib.Path(cohort.image_root), spec.image.image_size

    def load(row: int) -> np.ndarray:
        where = f"image {row + 1} of the cohort, counted from 1"
        image = cohort_images.read_image(root / cohort.image_path[row], where)
        try:
            plane = recipe.plane(image)
        except errors.DataError as error:
            raise errors.DataError(f"{where}: {error}") from error
        if plane.shape != (side, side):
            raise errors.DataError(
                errors.describe(
                    "preprocessed size", f"preprocessing of {spec.name!r}", f"{side} x {side} pixels as in config.json", f"{plane.shape[0]} x {plane.shape[1]}"
                )
            )
        return plane

    inputs = {"params": params["image"]} | ({} if recipe.levels is None else {"levels": recipe.levels})
    identity = {**identity, "preprocess": digests.value_digest(dataclasses.asdict(recipe))}
    dtype = _chosen("map_dtype", map_dtype, MAP_DTYPES) if len(spec.image.features) > 1 else np.float32
    run = _Run(spec, "image", directory, mesh, batch_size, shard_rows, precision, np.dtype(dtype))
    return run.embed(inputs, load, image_rows, None, identity)


def embed_texts(
    spec: specs.VLMSpec,
    params: Mapping[str, Any],
    texts: Sequence[str],
    indices: np.ndarray,
    directory: pathlib.Path,
    mesh: Mesh,
    *,
    batch_size: int,
    shard_rows: int,
    identity: Mapping[str, Any],
    precision: str = "float32",
) -> str:
    """Writes features [n, F] of `texts[i]` for i in `indices` [n] and returns the manifest's digest; see `embed_images`.

    Raises: DataError: a tokenizer with more ids than the tower has embeddings, or features that are not finite.
    """
    tokenizer = tokenize.tokenizer_for(spec)
    table = tokenizer([texts[index] for index in indices])
    if table.max(initial=0) >= spec.text.vocab_size:
        raise errors.DataError(
            errors.describe("token id", f"tokenizer of {spec.name!r}", f"below the vocabulary size {spec.text.vocab_size}", str(table.max()))
        )
    ids = dict(zip(np.asarray(indices).tolist(), table, strict=True))
    identity = {**identity, "tokens": digests.arrays_digest({"ids": table})}
    needed = needed_tokens(spec.text, table) if tokenizer.rule.bucketed else None
    lengths = None if needed is None else padded_lengths(needed, table.shape[1], batch_size)
    run = _Run(spec, "text", directory, mesh, batch_size, shard_rows, precision, np.dtype(np.float32))
    return run.embed({"params": params["text"]}, ids.__getitem__, indices, lengths, identity)


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


@functools.lru_cache(maxsize=16)
def program(spec: specs.VLMSpec, side: str, mesh: Mesh) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns the compiled step of one tower: ({'params'[, 'levels']}, planes [B, H, W] or ids [B, L]) to float32 features.

    Planes are 8-bit numbers of rows of `levels` [256, 3], or, where there is none, pixels that are the same in every channel. The batch
    is split over the mesh on the way in and out, the first argument is on every device. Computes in the dtype of the parameters.
    """

    def encode(inputs: Any, batch: jax.Array) -> jax.Array:
        if side == "text":
            return towers.text_features(spec, inputs["params"], batch).astype(jnp.float32)
        return towers.image_features(spec, inputs["params"], _pixels(inputs, batch)).astype(jnp.float32)

    split = meshes.rows(mesh)
    return jax.jit(encode, in_shardings=(meshes.replicated(mesh), split), out_shardings=split)


def _pixels(inputs: Any, planes: jax.Array) -> jax.Array:
    if "levels" in inputs:
        return inputs["levels"][planes.astype(jnp.int32)]
    return jnp.repeat(planes[..., None], 3, axis=-1).astype(jax.tree.leaves(inputs["params"])[0].dtype)


@dataclasses.dataclass(frozen=True)
class _Batch:
    """One device step: rows `places` of the run, all in rows `start` to `stop` of shard `shard`; texts are cut to `length` tokens."""

    shard: int
    start: int
    stop: int
    places: np.ndarray
    length: int | None
    last: bool


@dataclasses.dataclass(frozen=True)
class _Run:
    """Where and how the features of one tower are computed and kept."""

    spec: specs.VLMSpec
    side: str
    directory: pathlib.Path
    mesh: Mesh
    batch_size: int
    shard_rows: int
    precision: str
    dtype: np.dtype[Any]

    @property
    def what(self) -> str:
        return f"embed {self.side}s"

    def embed(self, inputs: Any, load: Callable[[int], np.ndarray], rows: np.ndarray, lengths: np.ndarray | None, identity: Mapping[str, Any]) -> str:
        """Writes the features of `rows`, whose inputs `load` gives, cut to `lengths` tokens, and returns the manifest's digest."""
        rows = np.asarray(rows, np.int32)
        if not len(rows):
            raise errors.DataError(errors.describe("nothing to embed", self.what, "at least one row", "none"))
        working = _chosen("precision", self.precision, PRECISIONS)
        stored = {"precision": self.precision, "dtype": self.dtype.name, "rows_sha256": digests.arrays_digest({"index": rows})}
        per_shard = self._rows_per_shard(len(rows))
        writer = shards.ShardWriter(self.directory, len(rows), per_shard, {**identity, **stored})
        size = meshes.padded(min(self.batch_size, per_shard, len(rows)), self.mesh.size)
        left = list(writer.missing())
        inputs = jax.device_put(jax.tree.map(lambda array: np.asarray(array, working), inputs), meshes.replicated(self.mesh))
        table: np.ndarray | None = None
        with progress.bar(len(rows), self.what, first=len(rows) - sum(stop - start for _, start, stop in left)) as bar:
            for batch, computed in self._computed(inputs, load, rows, _batches(left, lengths, size), size):
                with np.errstate(over="ignore"):  # becomes an infinity, which is refused
                    features = computed.astype(self.dtype)
                _check_finite(features, batch.places, self.what)
                if table is None:
                    table = np.empty((batch.stop - batch.start, *features.shape[1:]), self.dtype)
                table[batch.places - batch.start] = features
                if batch.last:
                    writer.write(batch.shard, {"features": table, "index": rows[batch.start : batch.stop]})
                    table = None
                bar.update(len(batch.places))
        return writer.finish()

    def _rows_per_shard(self, rows: int) -> int:
        shape = getattr(self.spec, self.side).features
        if len(shape) < 2:
            return self.shard_rows
        fitting = max(1, SHARD_BYTES // (math.prod(shape) * self.dtype.itemsize))
        size = meshes.padded(min(self.batch_size, rows), self.mesh.size)
        return min(self.shard_rows, fitting - fitting % size or fitting)

    def _computed(
        self, inputs: Any, load: Callable[[int], np.ndarray], rows: np.ndarray, batches: Sequence[_Batch], size: int
    ) -> Iterator[tuple[_Batch, np.ndarray]]:
        """Yields (batch, its features [b, ...]) in order; the device starts on a batch before the one before it is fetched."""
        compiled, split = program(self.spec, self.side, self.mesh), meshes.rows(self.mesh)
        running: collections.deque[tuple[_Batch, jax.Array]] = collections.deque()
        for batch, loaded in zip(batches, _loaded(load, rows, batches), strict=True):
            cut = loaded if batch.length is None else loaded[:, : batch.length]
            padding = np.zeros((size - len(cut), *cut.shape[1:]), cut.dtype)
            running.append((batch, compiled(inputs, jax.device_put(np.concatenate([cut, padding]), split))))
            if len(running) > 1:
                before, features = running.popleft()
                yield before, np.asarray(features)[: len(before.places)]
        for before, features in running:
            yield before, np.asarray(features)[: len(before.places)]


def _batches(left: Sequence[tuple[int, int, int]], lengths: np.ndarray | None, size: int) -> list[_Batch]:
    """Returns the device steps of the shards that are left; the longest texts go first, so that the last, padded step is of the shortest."""
    batches = []
    for shard, start, stop in left:
        places = np.arange(start, stop)
        if lengths is not None:
            places = places[np.argsort(-lengths[places], kind="stable")]
        for first in range(0, len(places), size):
            chosen = places[first : first + size]
            longest = None if lengths is None else int(lengths[chosen[0]])
            batches.append(_Batch(shard, start, stop, chosen, longest, first + size >= len(places)))
    return batches


def _loaded(load: Callable[[int], np.ndarray], rows: np.ndarray, batches: Sequence[_Batch]) -> Iterator[np.ndarray]:
    """Yields the stacked inputs of each batch, loading the next ones in threads meanwhile."""
    waiting: collections.deque[list[concurrent.futures.Future[np.ndarray]]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for number in range(len(batches) + _AHEAD):
                if number < len(batches):
                    waiting.append([pool.submit(load, int(row)) for row in rows[batches[number].places]])
                if number >= _AHEAD:
                    yield np.stack([future.result() for future in waiting.popleft()])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _chosen(name: str, value: str, known: Mapping[str, Any]) -> Any:
    if value not in known:
        raise errors.UsageError(errors.describe(name, "embed", f"one of {', '.join(known)}", repr(value)) + errors.suggest(value, known))
    return known[value]


def _check_finite(features: np.ndarray, places: np.ndarray, what: str) -> None:
    bad = np.flatnonzero(~np.isfinite(features).reshape(len(features), -1).all(axis=1))
    if len(bad):
        found = f"{len(bad)} bad rows in a batch" + (", which may be too large for float16" if features.dtype == np.float16 else "")
        raise errors.DataError(errors.describe("features not finite", f"{what}, row {places[int(bad[0])]}", "finite numbers", found))
