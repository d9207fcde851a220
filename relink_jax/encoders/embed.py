"""Frozen features of images and texts, in batches over a mesh, written shard by shard.

What is cached is the tower's output before the projection head, per image and per unique text, so that heads can be
trained and replaced without touching a pixel again: a vector [F], or a map [P, F] where the head works on patches. The
batch is split over the mesh and the parameters are copied to every device; the last batch is padded and the padding cut
off. Decoding and preprocessing of the next batches run in threads while the device computes; `steps` says how rows are
grouped. A run that stops keeps its finished shards and computes the others on the next call.

A model that compares images (BioViL-T) can be shown each image beside its prior one. Its maps are then [P, 2 J] for every
image: the current image's J channels beside the temporal pooler's, or, where an image has no prior, beside the J of the
learned stand-in `missing`, as upstream. `missing` belongs to the head as published, from which no mitigation moves it
(`heads.trainable`), so the features may hold it, and a head projects them as it would have completed them itself.

Guarantee: the features of a row depend on that row alone, whatever the batch size, the shard size, the length it was
padded to or the number of devices, up to the rounding of the device's matrix product. Several processes share the shards
(`Crew`); rows are grouped as one process with all the devices would, and every device computes as many of them at a time.
"""

import collections
import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from relink_jax import errors
from relink_jax.cohort import pictures as pictures_lib
from relink_jax.cohort import schema
from relink_jax.encoders import preprocess, specs, steps, tokenize, towers
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress, stopping
from relink_jax.store import digests, files, shards

PRECISIONS: dict[str, Any] = {"float32": jnp.float32, "bf16": jnp.bfloat16}
MAP_DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16}
SHARD_BYTES = 2**28  # of maps in one shard, which is read as a whole


@dataclasses.dataclass(frozen=True)
class Crew:
    """The processes that share a run: each computes the shards whose number modulo `processes` is its `process`; one alone by default.

    Attributes:
        devices: of all processes together; 0 for those of the mesh, which is of the process's own devices.
        first: does a piece of work on one process while the others wait for it.
        arriving: a context at whose end every process waits for all; it gives what to call after every shard, which raises when another has failed.
    """

    process: int = 0
    processes: int = 1
    devices: int = 0
    first: Callable[[Callable[[], Any]], Any] = lambda work: work()
    arriving: Callable[[], contextlib.AbstractContextManager[Callable[[], None]]] = lambda: contextlib.nullcontext(lambda: None)


ALONE = Crew()


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
    missing: np.ndarray | None = None,
    pictures: Any = None,
    crew: Crew = ALONE,
) -> str:
    """Writes features [n, F] or [n, P, F] of the cohort's images `image_rows` [n] and returns the manifest's digest.

    Args:
        params: `Converted.params`; only 'image' is used.
        cohort: a `cohort.schema.Cohort`; the image files that it names are read, and with `missing` its `image_prior`.
        batch_size: images (or images with their priors) per device step over all devices, rounded up to a multiple of the device count.
        shard_rows: rows per shard; fewer for maps, of which a shard holds at most `SHARD_BYTES`.
        identity: what the features depend on (weights, cohort); a resume under another identity is refused.
        precision: 'float32', or 'bf16' for a tower whose weights, pixels and activations are bfloat16; features are float32 in both.
        map_dtype: what maps are stored in, 'float32' or 'float16'; vectors are always float32.
        missing: `missing` [J] of the model's image head as published; with it every image is compared with its prior, see the module,
            and the identity says so.
        pictures: gives image i by `read(i)`; default, the cohort's files (`cohort.pictures.Files`) with DICOM read as the model's authors do.
            For others, such as records built once, `identity` says what they are.
        crew: the processes that share the work, all of which call this.

    What was decided about the images of this run's rows (depth, inversion, windows) is added up over resumes in the manifest's 'decisions'.
    Raises: DataError: an unreadable image, or features that are not finite. StoreError: shards of another run.
        UsageError: an unknown precision or dtype, or `missing` for a model that compares no images. StoppedError: asked to, after a shard.
    """
    recipe, side = preprocess.recipe_for(spec), spec.image.image_size
    if pictures is None:
        pictures = pictures_lib.Files(cohort, dicom=preprocess.dicom_mode(spec))
    source: dict[str, str] = pictures.identity if isinstance(pictures, pictures_lib.Files) else {}
    counted = pictures.of if isinstance(pictures, pictures_lib.Files) else None

    def load(row: int) -> np.ndarray:
        image = pictures.read(row)
        try:
            plane = recipe.plane(image)
        except errors.DataError as error:
            raise errors.DataError(f"{schema.called(row)}: {error}") from error
        if plane.shape != (side, side):
            raise errors.DataError(
                errors.describe(
                    "preprocessed size", f"preprocessing of {spec.name!r}", f"{side} x {side} pixels as in config.json", f"{plane.shape[0]} x {plane.shape[1]}"
                )
            )
        return plane

    def load_both(row: int) -> np.ndarray:
        prior = cohort.image_prior[row]
        return load(row) if prior < 0 else np.stack([load(row), load(prior)])

    inputs = {"params": params["image"]} | ({} if recipe.levels is None else {"levels": recipe.levels})
    identity = {**identity, **source, "preprocess": digests.value_digest(dataclasses.asdict(recipe))}
    dtype = _chosen("map_dtype", map_dtype, MAP_DTYPES) if len(spec.image.features) > 1 else np.float32
    run = _Run(spec, "image", directory, mesh, batch_size, shard_rows, precision, np.dtype(dtype), missing, crew)
    if missing is None:
        return run.embed(inputs, load, image_rows, identity, counted=counted)
    if missing.shape != towers.prior_shape(spec):
        expected = f"a stand-in of shape {towers.prior_shape(spec)}" if towers.prior_shape(spec) else "none, since the model compares no images"
        raise errors.UsageError(errors.describe("prior images", f"model {spec.name!r}", expected, f"one of shape {missing.shape}"))
    priors = cohort.image_prior[image_rows]
    paired = priors >= 0
    seen = {"prior": "table", "images_with_prior": int(paired.sum()), "prior_sha256": digests.arrays_digest({"index": priors, "missing": missing})}
    return run.embed(inputs, load_both, image_rows, {**identity, **seen}, paired=paired, counted=counted)


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
    crew: Crew = ALONE,
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
    needed = steps.needed_tokens(spec.text, table) if tokenizer.rule.bucketed else None
    lengths = None if needed is None else steps.padded_lengths(needed, table.shape[1], batch_size)
    run = _Run(spec, "text", directory, mesh, batch_size, shard_rows, precision, np.dtype(np.float32), crew=crew)
    return run.embed({"params": params["text"]}, ids.__getitem__, indices, identity, lengths=lengths)


@dataclasses.dataclass(frozen=True)
class _Run:
    """Where and how the features of one tower are computed and kept; `missing` completes the maps of images without a prior."""

    spec: specs.VLMSpec
    side: str
    directory: pathlib.Path
    mesh: Mesh
    batch_size: int
    shard_rows: int
    precision: str
    dtype: np.dtype[Any]
    missing: np.ndarray | None = None
    crew: Crew = ALONE

    @property
    def devices(self) -> int:
        return self.crew.devices or self.mesh.size

    @property
    def what(self) -> str:
        return f"embed {self.side}s"

    def embed(
        self,
        inputs: Any,
        load: Callable[[int], np.ndarray],
        rows: np.ndarray,
        identity: Mapping[str, Any],
        *,
        lengths: np.ndarray | None = None,
        paired: np.ndarray | None = None,
        counted: Callable[[np.ndarray], Mapping[str, int]] | None = None,
    ) -> str:
        """Writes the features of `rows`, whose inputs `load` gives, and returns the manifest's digest; `lengths` and `paired` as in `steps.planned`.

        `counted` gives the decisions made about some rows that are loaded.
        """
        rows = np.asarray(rows, np.int32)
        if not len(rows):
            raise errors.DataError(errors.describe("nothing to embed", self.what, "at least one row", "none"))
        working = _chosen("precision", self.precision, PRECISIONS)
        stored = {"precision": self.precision, "dtype": self.dtype.name, "rows_sha256": digests.arrays_digest({"index": rows})}
        begin = functools.partial(shards.ShardWriter, self.directory, len(rows), self._rows_per_shard(len(rows)), {**identity, **stored})
        self.crew.first(begin)
        writer, mine = begin(), (self.crew.process, self.crew.processes)
        size = meshes.padded(min(self.batch_size, writer.shard_rows, len(rows)), self.devices)
        part = size // self.devices * self.mesh.size
        planned = steps.planned(list(writer.missing(*mine)), size, part=part, lengths=lengths, paired=paired)
        own, left = sum(stop - start for _, start, stop in writer.ranges(*mine)), sum(len(step.places) for step in planned)
        inputs = jax.device_put(jax.tree.map(lambda array: np.asarray(array, working), inputs), meshes.replicated(self.mesh))
        with self.crew.arriving() as check, progress.bar(own, self.what, first=own - left) as bar:
            for step, table in self._tables(self._computed(inputs, load, rows, planned, part), bar):
                index = rows[step.start : step.stop]
                with files.writing_own():
                    writer.write(step.shard, {"features": table, "index": index}, counted(index) if counted else None)
                stopping.check_here(self.what)
                check()
        self.crew.first(writer.finish)
        return shards.digest(self.directory)

    def _tables(self, computed: Iterator[tuple[steps.Step, np.ndarray]], bar: Any) -> Iterator[tuple[steps.Step, np.ndarray]]:
        """Yields (its last step, the features of all its rows) of one shard after another."""
        table: np.ndarray | None = None
        for step, found in computed:
            with np.errstate(over="ignore"):  # becomes an infinity, which is refused
                features = self._completed(step, found).astype(self.dtype)
            _check_finite(features, step.places, self.what)
            if table is None:
                table = np.empty((step.stop - step.start, *features.shape[1:]), self.dtype)
            table[step.places - step.start] = features
            bar.update(len(step.places))
            if step.last:
                yield step, table
                table = None

    def _rows_per_shard(self, rows: int) -> int:
        shape = getattr(self.spec, self.side).features
        if len(shape) < 2:
            return self.shard_rows
        halves = 1 if self.missing is None else 2
        fitting = max(1, SHARD_BYTES // (halves * math.prod(shape) * self.dtype.itemsize))
        size = min(self.batch_size, rows)
        return min(self.shard_rows, fitting - fitting % size or fitting)

    def _computed(
        self, inputs: Any, load: Callable[[int], np.ndarray], rows: np.ndarray, planned: Sequence[steps.Step], size: int
    ) -> Iterator[tuple[steps.Step, np.ndarray]]:
        """Yields (step, its features [b, ...]) in order; the device starts on a step before the one before it is fetched."""
        alike = self.spec.bare()  # models that differ in their weights only share a program
        split = meshes.rows(self.mesh)
        running: collections.deque[tuple[steps.Step, jax.Array]] = collections.deque()
        for step, loaded in zip(planned, steps.loaded(load, rows, planned), strict=True):
            cut = loaded if step.length is None else loaded[:, : step.length]
            padding = np.zeros((size - len(cut), *cut.shape[1:]), cut.dtype)
            compiled = steps.program(alike, steps.PAIR if step.paired else self.side, self.mesh)
            running.append((step, compiled(inputs, jax.device_put(np.concatenate([cut, padding]), split))))
            if len(running) > 1:
                before, features = running.popleft()
                yield before, np.asarray(features)[: len(before.places)]
        for before, features in running:
            yield before, np.asarray(features)[: len(before.places)]

    def _completed(self, step: steps.Step, features: np.ndarray) -> np.ndarray:
        """Returns the features of a step, with `missing` [J] behind every patch [b, P, J] of images that have no prior where others may."""
        if self.missing is None or step.paired:
            return features
        return np.concatenate([features, np.broadcast_to(self.missing, features.shape)], axis=-1)


def _chosen(name: str, value: str, known: Mapping[str, Any]) -> Any:
    if value not in known:
        raise errors.UsageError(errors.describe(name, "embed", f"one of {', '.join(known)}", repr(value)) + errors.suggest(value, known))
    return known[value]


def _check_finite(features: np.ndarray, places: np.ndarray, what: str) -> None:
    bad = np.flatnonzero(~np.isfinite(features).reshape(len(features), -1).all(axis=1))
    if len(bad):
        found = f"{len(bad)} bad rows in a batch" + (", which may be too large for float16" if features.dtype == np.float16 else "")
        raise errors.DataError(errors.describe("features not finite", f"{what}, row {places[int(bad[0])]}", "finite numbers", found))
