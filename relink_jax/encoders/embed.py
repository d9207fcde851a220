"""Frozen features of images and texts, in batches over a mesh, written shard by shard.

What is cached is the tower's output before the projection head, per image and per unique text, so that heads can be
trained and replaced without touching a pixel again. The batch is split over the mesh and the parameters are copied to
every device; the last batch is padded and the padding cut off. Decoding and preprocessing of the next batches run in
threads while the device computes. A run that stops keeps its finished shards and computes the others on the next call.

Grey levels travel to the device as 8-bit numbers and become pixels there through a table of the 256 normalised values,
so the pixels are bit for bit those of `preprocess.pixels`.

Guarantee: the features of a row depend on that row alone, whatever the batch size, the shard size or the number of
devices, up to the rounding of the device's matrix product.
"""

import collections
import concurrent.futures
import dataclasses
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
from relink_jax.encoders import convert, preprocess, specs, tokenize
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress
from relink_jax.store import digests, shards

_AHEAD = 2


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
) -> str:
    """Writes features [n, F] of the cohort's images `image_rows` [n] and returns the manifest's digest.

    Args:
        params: `Converted.params`; only 'image' is used.
        cohort: a `cohort.schema.Cohort`; its `image_root` and `image_path` are read.
        batch_size: images per device step over all devices, rounded up to a multiple of the device count.
        identity: what the features depend on (weights, cohort); a resume under another identity is refused.

    Raises: DataError: an unreadable image, or features that are not finite. StoreError: shards of another run.
    """
    recipe = preprocess.read_spec(spec.directory)
    side = spec.image.image_size
    root = pathlib.Path(cohort.image_root)

    def load(row: int) -> np.ndarray:
        grey = preprocess.resized(
            preprocess.to_uint8(cohort_images.read_image(root / cohort.image_path[row], f"image {row + 1} of the cohort, counted from 1")), recipe
        )
        if grey.shape != (side, side):
            raise errors.DataError(
                errors.describe("preprocessed size", preprocess.FILE, f"{side} x {side} pixels as in config.json", f"{grey.shape[0]} x {grey.shape[1]}")
            )
        return grey

    levels = preprocess.normalised(np.arange(256, dtype=np.uint8), recipe)

    def encode(inputs: Any, grey: jax.Array) -> jax.Array:
        return convert.image_features(spec, inputs["params"], inputs["levels"][grey.astype(jnp.int32)])

    inputs = {"params": params["image"], "levels": levels}
    identity = {**identity, "preprocess": digests.value_digest(dataclasses.asdict(recipe))}
    return _embed(encode, inputs, load, image_rows, directory, mesh, batch_size, shard_rows, identity, "embed images")


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
) -> str:
    """Writes features [n, F] of `texts[i]` for i in `indices` [n] and returns the manifest's digest; see `embed_images`.

    Raises: DataError: a tokenizer with more ids than the tower has embeddings, or features that are not finite.
    """
    table = tokenize.Tokenizer(spec.directory, spec.text.positions)([texts[index] for index in indices])
    if table.max(initial=0) >= spec.text.vocab_size:
        raise errors.DataError(
            errors.describe("token id", f"tokenizer of {spec.name!r}", f"below the vocabulary size {spec.text.vocab_size}", str(table.max()))
        )
    ids = dict(zip(np.asarray(indices).tolist(), table, strict=True))
    identity = {**identity, "tokens": digests.arrays_digest({"ids": table})}

    def encode(params: Any, ids: jax.Array) -> jax.Array:
        return convert.text_features(spec, params, ids)

    return _embed(encode, params["text"], ids.__getitem__, indices, directory, mesh, batch_size, shard_rows, identity, "embed texts")


def _embed(
    encode: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    load: Callable[[int], np.ndarray],
    rows: np.ndarray,
    directory: pathlib.Path,
    mesh: Mesh,
    batch_size: int,
    shard_rows: int,
    identity: Mapping[str, Any],
    what: str,
) -> str:
    rows = np.asarray(rows, np.int32)
    if not len(rows):
        raise errors.DataError(errors.describe("nothing to embed", what, "at least one row", "none"))
    writer = shards.ShardWriter(directory, len(rows), shard_rows, {**identity, "rows_sha256": digests.arrays_digest({"index": rows})})
    left = list(writer.missing())
    batch = meshes.padded(min(batch_size, max((stop - start for _, start, stop in left), default=1)), mesh.size)
    split, copied = meshes.rows(mesh), meshes.replicated(mesh)
    compiled = jax.jit(encode, in_shardings=(copied, split), out_shardings=split)
    params = jax.device_put(params, copied)
    done = len(rows) - sum(stop - start for _, start, stop in left)
    pieces = [(index, first, min(first + batch, stop), stop) for index, start, stop in left for first in range(start, stop, batch)]
    finished: list[np.ndarray] = []
    with progress.bar(len(rows), what, first=done) as bar:
        for (index, first, last, stop), inputs in zip(pieces, _loaded(load, rows, pieces), strict=True):
            padding = np.zeros((batch - len(inputs), *inputs.shape[1:]), inputs.dtype)
            features = np.asarray(compiled(params, jax.device_put(np.concatenate([inputs, padding]), split)))[: len(inputs)]
            _check_finite(features, first, what)
            finished.append(features)
            if last == stop:
                table = np.concatenate(finished)
                writer.write(index, {"features": table, "index": rows[stop - len(table) : stop]})
                finished = []
            bar.update(len(inputs))
    return writer.finish()


def _loaded(load: Callable[[int], np.ndarray], rows: np.ndarray, pieces: Sequence[tuple[int, int, int, int]]) -> Iterator[np.ndarray]:
    """Yields the stacked inputs of each piece, loading the next pieces in threads meanwhile."""
    waiting: collections.deque[list[concurrent.futures.Future[np.ndarray]]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for number in range(len(pieces) + _AHEAD):
                if number < len(pieces):
                    _, first, last, _ = pieces[number]
                    waiting.append([pool.submit(load, int(row)) for row in rows[first:last]])
                if number >= _AHEAD:
                    yield np.stack([future.result() for future in waiting.popleft()])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _check_finite(features: np.ndarray, first: int, what: str) -> None:
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise errors.DataError(
            errors.describe("features not finite", f"{what}, row {first + int(bad[0])}", "finite numbers", f"{len(bad)} bad rows in a batch")
        )
