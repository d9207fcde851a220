"""Builds sharded ArrayRecord files of a saved cohort that TFDS reads: fixed ranges, each written once, whole or not at all.

The plan follows from the cohort and the settings alone: the images of each split in cohort order, cut every `shard_rows`. A shard becomes
`cohort-train.array_record-00000-of-00012` and then its record `….json` (images, bytes, SHA-256, decisions). A shard whose record and size
are right is kept, so a build goes on where it was killed, and the same shard may be written twice at once by two workers. `finish` counts
every image exactly once, writes `index.parquet`, TFDS's `features.json` and `dataset_info.json`, and last `manifest.json`.

Workers need nothing but `Build`: the names of two directories, which every machine has to see (a shared file system), and the settings.
Report text and pseudonyms travel to no worker and no runner; each reads the cohort's tables itself.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.cohort import examples, schema
from relink_jax.store import digests, files, restricted, tables

DATASET, VERSION = "cohort", "1.0.0"
MANIFEST, INDEX = "manifest.json", "index.parquet"
_STARTED = "started.json"
_SAFE_PATH = "PYTHONSAFEPATH"
_SUFFIX = "array_record"
_GROUPS = "group_size:1,uncompressed"  # what random access wants; pictures are compressed already
_SHARD_FIELDS = {"records": int, "bytes": int, "sha256": str, "identity": str, "image_keys": list, "decisions": dict}


@dataclasses.dataclass(frozen=True)
class Source:
    """A saved cohort as another process finds it: the directory of its tables, and those of its images, one per archive."""

    directory: pathlib.Path
    image_roots: tuple[pathlib.Path, ...]

    def cohort(self) -> schema.Cohort:
        """Returns the cohort, read once per process; `StoreError` as of `schema.load`."""
        return _loaded(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Shard:
    """Number `number` of the whole plan: images `rows` int32 [n] of one split, the `place`-th of `of` files of it."""

    number: int
    split: str
    place: int
    of: int
    rows: np.ndarray

    @property
    def name(self) -> str:
        """Its file's name, as TFDS names them."""
        return f"{DATASET}-{self.split}.{_SUFFIX}-{self.place:05d}-of-{self.of:05d}"


@dataclasses.dataclass(frozen=True)
class Build:
    """One build: what is read, how, and the directory that the records go to. Travels to workers as it is."""

    source: Source
    settings: examples.Settings
    directory: pathlib.Path

    def shards(self) -> tuple[Shard, ...]:
        """Returns the plan, shards in order of their number."""
        return _planned(self.source, self.settings.shard_rows)

    def start(self) -> list[int]:
        """Makes the directory and returns the numbers of the shards that are not there yet.

        Raises: StoreError: a directory open to others, or records begun from another cohort or with other settings.
        """
        files.make_dir(self.directory)
        restricted.check_private(self.directory)
        wanted, started = identity(self.source.cohort(), self.settings), self.directory / _STARTED
        if started.exists():
            found = files.read_json(started, "records")
            if found != wanted:
                changed = ", ".join(sorted(name for name in wanted if not isinstance(found, dict) or found.get(name) != wanted[name]))
                raise errors.StoreError(
                    errors.describe("inputs changed", "records", "the inputs they were begun with", f"another {changed}; use a fresh directory")
                )
        else:
            files.write_json(started, wanted)
        return [shard.number for shard in self.shards() if self._finished(shard) is None]

    def write(self, number: int) -> int:
        """Writes one shard, unless it is there, and returns the number of its records.

        Raises: DataError: a picture that cannot be read; StoreError: a full disk or a directory that is not writable.
        """
        shard = self.shards()[number]
        if self._finished(shard) is None:
            cohort, decisions = self.source.cohort(), collections.Counter[str]()
            part = self.directory / f"{secrets.token_hex(8)}.part"  # of this worker alone: pids repeat over machines, and threads share one
            files.write_with(part, lambda temporary: _fill(temporary, cohort, shard.rows, self.settings, decisions))
            described = {
                **{"records": len(shard.rows), "bytes": part.stat().st_size, "sha256": digests.file_digest(part)},
                **{"identity": self._identity, "image_keys": cohort.image_key[shard.rows].tolist(), "decisions": dict(sorted(decisions.items()))},
            }
            part.replace(self.directory / shard.name)
            files.write_json(self._record(shard), described)
        return len(shard.rows)

    def finish(self) -> dict[str, Any]:
        """Checks the whole and returns the manifest, written last; running it again changes nothing.

        Raises: StoreError: shards missing, a file with another number of records than its plan, or an image that is not there exactly once.
        """
        cohort, shards = self.source.cohort(), self.shards()
        kept = [(shard, record) for shard in shards if (record := self._finished(shard)) is not None]
        if len(kept) < len(shards):
            found = f"{len(shards) - len(kept)} missing; build again"
            raise errors.StoreError(errors.describe("shards missing", "records", f"{len(shards)} shards", found))
        self._check(cohort, kept)
        for left in [*self.directory.glob("*.part"), *self.directory.glob(".*.tmp")]:  # of workers that were killed
            left.unlink(missing_ok=True)
        self._write_index(kept)
        _write_metadata(self.directory, kept)
        decisions = _summed(record["decisions"] for _, record in kept)
        manifest = {
            **{"class": restricted.RESTRICTED, "identity": identity(cohort, self.settings), "records": len(cohort.image_key)},
            **{"changed": changed(self.settings, decisions), "decisions": decisions},
            "shards": [
                {"file": shard.name, "split": shard.split, "records": record["records"], "bytes": record["bytes"], "sha256": record["sha256"]}
                for shard, record in kept
            ],
        }
        if not (self.directory / MANIFEST).exists() or files.read_json(self.directory / MANIFEST) != manifest:
            files.write_json(self.directory / MANIFEST, manifest)
        return manifest

    @functools.cached_property
    def _identity(self) -> str:
        return digests.value_digest(identity(self.source.cohort(), self.settings))

    def _record(self, shard: Shard) -> pathlib.Path:
        return self.directory / f"{shard.name}.json"

    def _finished(self, shard: Shard) -> dict[str, Any] | None:
        """Returns the record of a shard that is there, of this plan and of its recorded size; None for any other."""
        path, file = self._record(shard), self.directory / shard.name
        if not (path.exists() and file.exists()):
            return None
        try:
            found = files.read_object(path, _SHARD_FIELDS)
        except errors.StoreError:
            return None
        right = found["identity"] == self._identity and found["records"] == len(shard.rows) and found["bytes"] == file.stat().st_size
        return found if right else None

    def _check(self, cohort: schema.Cohort, kept: Sequence[tuple[Shard, dict[str, Any]]]) -> None:
        """Counts what the files hold and that every image is named once."""
        for shard, record in kept:
            counted = _count(self.directory / shard.name)
            if counted != record["records"]:
                raise errors.StoreError(
                    errors.describe("records", f"shard {shard.number + 1}", str(record["records"]), f"{counted}; remove it and build again")
                )
        keys = [key for _, record in kept for key in record["image_keys"]]
        if len(keys) != len(cohort.image_key) or set(keys) != set(cohort.image_key.tolist()):
            expected = f"each of {len(cohort.image_key)} images once"
            raise errors.StoreError(errors.describe("images", "records", expected, f"{len(keys)} records of {len(set(keys))} images"))

    def _write_index(self, kept: Sequence[tuple[Shard, dict[str, Any]]]) -> None:
        """Writes where each image lies: its split, and its number among the records of that split."""
        keys: list[str] = []
        splits: list[str] = []
        positions: list[int] = []
        counts: collections.Counter[str] = collections.Counter()
        for shard, record in kept:
            keys += record["image_keys"]
            splits += [shard.split] * record["records"]
            positions += range(counts[shard.split], counts[shard.split] + record["records"])
            counts[shard.split] += record["records"]
        tables.write_table(self.directory / INDEX, {"image_key": keys, "split": splits, "position": np.array(positions, np.int32)})


def identity(cohort: schema.Cohort, settings: examples.Settings) -> dict[str, Any]:
    """Returns what records depend on: the cohort, its pseudonyms (which its digest leaves out) and the settings."""
    keys = "\n".join([*cohort.image_key.tolist(), *cohort.study_key.tolist(), *cohort.patient_key.tolist()])
    keyed = digests.arrays_digest({"keys": np.frombuffer(keys.encode(), np.uint8)})
    return {"cohort": cohort.digest(), "pseudonyms": keyed, "version": VERSION, **dataclasses.asdict(settings)}


def changed(settings: examples.Settings, decisions: dict[str, int]) -> dict[str, Any]:
    """Returns what was done to pictures beyond copying their bytes, empty where nothing was; features embedded from them have to say so."""
    redrawn = sum(decisions.get(f"stored as {encoding}", 0) for encoding in (examples.GREY8, examples.GREY16))
    if not redrawn:
        return {}
    told: dict[str, Any] = {"pictures": redrawn} | ({"dicom": settings.dicom} if decisions.get(examples.DICOM_REDRAWN) else {})
    return told | ({"short_side": settings.short_side, "resample": settings.resample} if settings.short_side else {})


def build(job: Build, *, processes: int = 0, advanced: Callable[[int], None] = lambda records: None) -> dict[str, Any]:
    """Builds what is missing and returns the manifest.

    Args:
        processes: workers on this machine, each with the cohort in memory (half a GB at 377,000 images); 0 for one per CPU.
        advanced: called with the number of records of each shard as it becomes there, those of an earlier run first; for a progress bar.
    Raises: what `Build.start`, `write` and `finish` raise; a shard that fails leaves the others as they are.
    """
    missing = job.start()
    advanced(sum(len(shard.rows) for shard in job.shards()) - sum(len(job.shards()[number].rows) for number in missing))
    workers = min(processes or len(os.sched_getaffinity(0)), len(missing))
    if workers < 2:
        for number in missing:
            advanced(job.write(number))
        return job.finish()
    spawning = multiprocessing.get_context("spawn")  # jax, which the caller may hold, does not survive a fork
    with _safe_path(), concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawning) as pool:
        waiting = [pool.submit(job.write, number) for number in missing]
        try:
            for done in concurrent.futures.as_completed(waiting):
                advanced(done.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return job.finish()


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Lets processes started inside import nothing from the current directory, where `python -c`, which starts workers, looks first."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        os.environ.pop(_SAFE_PATH)
        if before is not None:
            os.environ[_SAFE_PATH] = before


@functools.lru_cache(maxsize=1)
def _loaded(source: Source) -> schema.Cohort:
    return schema.load(source.directory, source.image_roots)


@functools.lru_cache(maxsize=1)
def _planned(source: Source, shard_rows: int) -> tuple[Shard, ...]:
    cohort = source.cohort()
    image_split = cohort.study_split[cohort.image_study]
    shards: list[Shard] = []
    for split in schema.SPLITS:
        rows = np.flatnonzero(image_split == split).astype(np.int32)
        cuts = range(0, len(rows), shard_rows)
        shards += [Shard(len(shards) + place, split, place, len(cuts), rows[first : first + shard_rows]) for place, first in enumerate(cuts)]
    return tuple(shards)


def _fill(path: pathlib.Path, cohort: schema.Cohort, rows: np.ndarray, settings: examples.Settings, decisions: collections.Counter[str]) -> None:
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), _GROUPS)
    try:
        for row in rows.tolist():
            writer.write(examples.serialised(examples.example(cohort, row, settings, decisions), schema.called(row)))
    finally:
        writer.close()


def _count(path: pathlib.Path) -> int:
    from array_record.python import array_record_module

    def counted(file: pathlib.Path) -> int:
        reader = array_record_module.ArrayRecordReader(str(file))
        try:
            return int(reader.num_records())
        finally:
            reader.close()

    return files.read_with(path, counted, "an ArrayRecord file", "a shard of the records")


def _summed(counts: Any) -> dict[str, int]:
    total: collections.Counter[str] = sum((collections.Counter(one) for one in counts), collections.Counter())
    return dict(sorted(total.items()))


def _write_metadata(directory: pathlib.Path, kept: Sequence[tuple[Shard, dict[str, Any]]]) -> None:
    """Writes what `tfds.builder_from_directory` reads, as `tfds.folder_dataset.write_metadata` would, whose check needs TensorFlow."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import dataset_info, file_adapters, naming

    infos = []
    for split in dict.fromkeys(shard.split for shard, _ in kept):
        own = [record for shard, record in kept if shard.split == split]
        template = naming.ShardedFileTemplate(dataset_name=DATASET, data_dir=directory, split=split, filetype_suffix=_SUFFIX)
        lengths, size = [record["records"] for record in own], sum(record["bytes"] for record in own)
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template))
    about = dataset_info.DatasetIdentity(name=DATASET, version=tfds.core.Version(VERSION), data_dir=DATASET, module_name="")
    info = dataset_info.DatasetInfo(builder=about, features=examples.connector(), description="Radiographs and their reports; restricted data.")
    info.set_file_format(file_adapters.FileFormat.ARRAY_RECORD)
    info.set_splits(tfds.core.splits.SplitDict(infos))
    with tempfile.TemporaryDirectory(dir=directory) as made:
        info.write_to_directory(made)
        for path in sorted(pathlib.Path(made).iterdir()):
            files.write_bytes(directory / path.name, path.read_bytes())
