"""Reads a cohort's records: pictures by image for the encoders, and each host's share of a split for training loops of other frameworks.

The files are an ordinary TFDS dataset. `tfds.builder_from_directory(DIR).as_data_source('train')` reads them without TensorFlow, and
`grain.MapDataset.source(...)` takes that. Of several hosts each reads `host_rows(n, host, hosts)`, which loses no record; a loop that needs
equal shares fills the short ones up with masked records. `grain.DataLoader` with `ShardOptions(drop_remainder=False)` (grain 0.2.18) does
lose some: of 50 records on 3 hosts it gives 48, for example

    sampler = grain.samplers.SequentialSampler(50, grain.sharding.ShardOptions(host, 3, drop_remainder=False))   # 16 + 16 + 16

where `grain.MapDataset.source(source)[host::3]` gives 17 + 17 + 16. Whatever reads, `check_count` with the sum over hosts says whether
all was read.
"""

import bisect
import collections
import dataclasses
import itertools
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.cohort import examples, record_shards, schema
from relink_jax.store import digests, files, tables

_MANIFEST_FIELDS = {"class": str, "identity": dict, "records": int, "changed": dict, "decisions": dict, "shards": list}


class Pictures:
    """The pictures of a cohort out of its records, joined by pseudonym: what lies at a position is asked for its name before it is used.

    Every shard's SHA-256 is compared with the manifest's when its first picture is read.

    Attributes:
        decisions: what was done to pictures while they were decoded here, by what.
        changed: what was done to them before, see `record_shards.changed`; empty where every picture is the archive's own bytes.
    """

    def __init__(self, directory: pathlib.Path, cohort: schema.Cohort, *, dicom: str = "standard") -> None:
        """Opens finished records. `dicom` is the mode that the caller wants DICOM pictures in.

        Raises: StoreError: unfinished or damaged records, those of another cohort, or DICOM pictures redrawn in another mode.
        """
        found = manifest(directory)
        settings = {field.name: found["identity"][field.name] for field in dataclasses.fields(examples.Settings) if field.name in found["identity"]}
        if found["identity"] != record_shards.identity(cohort, examples.Settings()) | settings:
            raise errors.StoreError(errors.describe("records of other inputs", "records", "this cohort's", "another's; build them again"))
        if found["decisions"].get(examples.DICOM_REDRAWN) and settings["dicom"] != dicom:
            expected = f"DICOM mode {dicom!r}, the caller's"
            raise errors.StoreError(errors.describe("pictures redrawn", "records", expected, f"mode {settings['dicom']!r}; build them again"))
        index = tables.read_table(directory / record_shards.INDEX)
        self._at = dict(zip(index["image_key"].tolist(), zip(index["split"].tolist(), index["position"].tolist(), strict=True), strict=True))
        self._cohort, self._dicom = cohort, dicom
        self._sources = {str(split): source(directory, str(split)) for split in dict.fromkeys(index["split"].tolist())}
        self._shards = {split: _Shards(directory, [one for one in found["shards"] if one["split"] == split]) for split in self._sources}
        self.decisions: collections.Counter[str] = collections.Counter()
        self.changed: dict[str, Any] = found["changed"]

    @property
    def identity(self) -> dict[str, str]:
        """What features of these pictures depend on beside the archive's files: empty where they are those files, else how they were redrawn."""
        if not self.changed:
            return {}
        resized = f"short side {self.changed['short_side']} by {self.changed['resample']}" if "short_side" in self.changed else "DICOM as 16-bit PNG"
        return {"pictures": f"records, {resized}"} | ({"dicom": self.changed["dicom"]} if "dicom" in self.changed else {})

    def read(self, row: int) -> np.ndarray:
        """Returns float32 [H, W] in [0, 1] of image `row` of the cohort; threads may share this.

        Raises: StoreError: no such record, another where it should be, or a damaged shard; DataError: a damaged picture.
        """
        return examples.brightness(self.record(row), schema.called(row), dicom=self._dicom, decisions=self.decisions)

    def record(self, row: int) -> dict[str, Any]:
        """Returns the whole record of image `row`, see `examples.plain`."""
        key, where = str(self._cohort.image_key[row]), schema.called(row)
        if key not in self._at:
            raise errors.StoreError(errors.describe("record missing", where, "one in the index", "none"))
        split, position = self._at[key]
        found = _read(self._sources[split], position, where)
        if found["image_key"] != key:
            raise errors.StoreError(errors.describe("records moved", where, "the record of this image", "another's; build them again"))
        self._shards[split].check(position)
        return found


def manifest(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the manifest of finished records; `StoreError` when there is none, or one that is damaged."""
    path = pathlib.Path(directory) / record_shards.MANIFEST
    if not path.exists():
        raise errors.StoreError(errors.describe("unfinished records", "records", f"a {record_shards.MANIFEST}", "none; build them to the end"))
    return files.read_object(path, _MANIFEST_FIELDS, "the manifest of the records")


def verify(directory: pathlib.Path) -> int:
    """Reads every shard again and returns the number of records whose bytes are those of the manifest.

    Raises: StoreError: a shard that is not as it was written, by its number.
    """
    found = manifest(directory)
    for number, shard in enumerate(found["shards"]):
        _verify(directory, shard, f"shard {number + 1} of the records")
    return int(found["records"])


class _Shards:
    """The shards of one split, each read once for its digest; threads may share it."""

    def __init__(self, directory: pathlib.Path, described: list[dict[str, Any]]) -> None:
        self._directory, self._described = directory, described
        self._ends = list(itertools.accumulate(shard["records"] for shard in described))
        self._checked: set[int] = set()
        self._lock = threading.Lock()

    def check(self, position: int) -> None:
        """Raises `StoreError` unless the shard that holds record `position` of the split is as it was written."""
        number = bisect.bisect_right(self._ends, position)
        if number in self._checked or number == len(self._ends):  # past the end: reading it says so
            return
        with self._lock:
            if number not in self._checked:
                _verify(self._directory, self._described[number], f"shard {number + 1} of the records' split {self._described[number]['split']!r}")
                self._checked.add(number)


def _verify(directory: pathlib.Path, shard: dict[str, Any], where: str) -> None:
    now = digests.stored_digest(pathlib.Path(directory) / pathlib.PurePath(shard["file"]).name, where)
    if now != shard["sha256"]:
        raise errors.StoreError(errors.describe("shard corrupted", where, f"SHA-256 {shard['sha256'][:12]}", now[:12]))


def source(directory: pathlib.Path, split: str) -> Any:
    """Returns a split as a TFDS data source: `len`, and records by number; see `examples.plain` for what is in one.

    Raises: StoreError: no such split, or files that TFDS cannot open.
    """
    import tensorflow_datasets as tfds

    def opened(path: pathlib.Path) -> Any:
        return tfds.builder_from_directory(str(path)).as_data_source(split)

    return files.read_with(pathlib.Path(directory), opened, f"records with a split {split!r}", "records")


def host_rows(n: int, process_index: int, process_count: int) -> range:
    """Returns the numbers of [0, n) that a host reads: consecutive, disjoint over hosts, together all, and of sizes that differ by one at most.

    Raises: UsageError: no such host.
    """
    if not 0 <= process_index < process_count:
        raise errors.UsageError(errors.describe("process_index", "host_rows", f"0 to {process_count - 1}", str(process_index)))
    return range(n * process_index // process_count, n * (process_index + 1) // process_count)


def host_records(directory: pathlib.Path, split: str, process_index: int, process_count: int) -> Iterator[dict[str, Any]]:
    """Yields a host's records of a split, see `host_rows`; the picture as bytes, which `examples.brightness` decodes."""
    opened = source(directory, split)
    for number in host_rows(len(opened), process_index, process_count):
        yield _read(opened, number, f"record {number + 1} of split {split!r}")


def check_count(counted: int, directory: pathlib.Path, split: str) -> None:
    """Refuses a sweep that did not read every record; `counted` is the sum over all hosts, as `jax.lax.psum` gives it.

    Raises: StoreError: another number than the manifest's.
    """
    expected = sum(shard["records"] for shard in manifest(directory)["shards"] if shard["split"] == split)
    if counted != expected:
        raise errors.StoreError(errors.describe("records read", f"split {split!r} over all hosts", str(expected), str(counted)))


def _read(opened: Any, number: int, where: str) -> dict[str, Any]:
    try:
        return examples.plain(opened[number])
    except Exception as error:  # array_record and protobuf have their own for damaged bytes
        failed = type(error).__name__
    raise errors.StoreError(errors.describe("record unreadable", where, "a record as it was written", failed))
