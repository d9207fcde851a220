"""Row-range safetensors shards with a SHA-256 manifest, resumable shard by shard.

A sharded array set is a directory of `shard-00000.safetensors`, each holding the same named arrays for one range of
rows, an `.ok` record per finished shard (its digest, and what was decided about its rows), and `manifest.json` written last. A directory without a manifest
is unfinished: `ShardWriter` keeps its verified shards and asks only for the missing rows; a reader refuses it.
"""

import collections
import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors import numpy as safetensors_numpy

from relink_jax import errors
from relink_jax.store import digests, files
from relink_jax.store.rows import Parts, Rows, RowSource

_MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class ShardWriter:
    """Writes `rows` rows in ranges of `shard_rows`; `identity` names the inputs and must match on resume.

    Several processes may write the shards of one directory, each its own (`ranges`), once one of them has begun it, and one finishes it.
    """

    directory: pathlib.Path
    rows: int
    shard_rows: int
    identity: Mapping[str, Any]

    def __post_init__(self) -> None:
        files.make_dir(self.directory)
        started = self.directory / "started.json"
        wanted = {"rows": self.rows, "shard_rows": self.shard_rows, "identity": dict(self.identity)}
        if started.exists():
            found = files.read_object(started, {"rows": int, "shard_rows": int, "identity": dict}, f"shards '{self.directory.name}/{started.name}'")
            if digests.value_digest(found) != digests.value_digest(wanted):
                changed = sorted(k for k in {**self.identity, **found["identity"]} if self.identity.get(k) != found["identity"].get(k))
                what = ", ".join(changed) or "row count or shard size"
                raise errors.StoreError(
                    errors.describe(
                        "inputs changed", f"shards {self.directory.name!r}", "the inputs it was started with", f"different {what}; use a fresh workdir"
                    )
                )
        else:
            files.write_json(started, wanted)

    def ranges(self, process: int = 0, processes: int = 1) -> Iterator[tuple[int, int, int]]:
        """Yields (shard index, first row, past-last row) of every shard, of several processes those whose index modulo their number is `process`."""
        for index in range(process, _count(self.rows, self.shard_rows), processes):
            yield index, index * self.shard_rows, min((index + 1) * self.shard_rows, self.rows)

    def missing(self, process: int = 0, processes: int = 1) -> Iterator[tuple[int, int, int]]:
        """Yields those of `ranges` whose shard is absent or fails its digest."""
        for index, start, stop in self.ranges(process, processes):
            ok = self.directory / f"shard-{index:05d}.ok"
            shard = self.directory / f"shard-{index:05d}.safetensors"
            if not (ok.exists() and shard.exists() and _record(ok)[0] == digests.stored_digest(shard)):
                yield index, start, stop

    def write(self, index: int, arrays: Mapping[str, np.ndarray], decisions: Mapping[str, int] | None = None) -> None:
        """Writes one shard and then its record: the digest and how often each decision was made about its rows, which the manifest adds up."""
        shard = self.directory / f"shard-{index:05d}.safetensors"
        plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        files.write_with(shard, lambda temporary: safetensors_numpy.save_file(plain, str(temporary)))
        told = json.dumps(dict(sorted(decisions.items()))) + "\n" if decisions else ""
        files.write_text(shard.with_suffix(".ok"), digests.file_digest(shard) + "\n" + told)

    def finish(self) -> str:
        """Writes the manifest once every shard is there and returns its digest."""
        left = [index for index, _, _ in self.missing()]
        if left:
            raise errors.StoreError(
                errors.describe("shards missing", f"shards {self.directory.name!r}", f"{_count(self.rows, self.shard_rows)} shards", f"{len(left)} missing")
            )
        names = [f"shard-{index:05d}" for index in range(_count(self.rows, self.shard_rows))]
        records = [_record(self.directory / f"{name}.ok") for name in names]
        shards = [{"file": f"{name}.safetensors", "sha256": sha256} for name, (sha256, _) in zip(names, records, strict=True)]
        manifest = {"rows": self.rows, "shard_rows": self.shard_rows, "identity": dict(self.identity), "shards": shards}
        decisions = sum((counted for _, counted in records), collections.Counter[str]())
        if decisions:
            manifest["decisions"] = dict(sorted(decisions.items()))
        path = self.directory / _MANIFEST
        if not path.exists() or files.read_json(path) != manifest:
            files.write_json(path, manifest)
        return digests.value_digest(manifest)


def manifest(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the manifest of a finished directory; `StoreError` when there is none, or one that is damaged."""
    if not (directory / _MANIFEST).exists():
        raise errors.StoreError(
            errors.describe("unfinished shards", f"workdir entry {directory.name!r}", "a manifest.json", "none; run the stage that writes it to the end")
        )
    where = f"shards '{directory.name}/{_MANIFEST}'"
    found = files.read_object(directory / _MANIFEST, {"rows": int, "shard_rows": int, "identity": dict, "shards": list}, where)
    entries = [entry if isinstance(entry, dict) else {} for entry in found["shards"]]
    if not all(isinstance(entry.get("file"), str) and isinstance(entry.get("sha256"), str) for entry in entries):
        raise errors.StoreError(errors.describe("field 'shards'", where, "a file and its sha256 per shard", "others"))
    return found


def finished(directory: pathlib.Path) -> bool:
    """Returns whether a manifest is there."""
    return (directory / _MANIFEST).exists()


def digest(directory: pathlib.Path) -> str:
    """Returns the digest of the manifest, which covers every shard's SHA-256."""
    return digests.value_digest(manifest(directory))


def parts(directory: pathlib.Path) -> Iterator[dict[str, np.ndarray]]:
    """Yields the arrays of one shard after another, each after checking its SHA-256.

    Raises: StoreError: unfinished directory, missing shard, corrupted shard (names the shard and both digests), or other rows than
        the manifest says, which shows only at the end.
    """
    described = manifest(directory)
    rows: dict[str, int] = {}
    for entry in described["shards"]:
        path, where = _verified(directory, entry)
        part = files.read_with(path, safetensors_numpy.load_file, "a safetensors file", where)
        for name, array in part.items():
            rows[name] = rows.get(name, 0) + len(array)
        yield part
    if not described["shards"]:
        raise _no_rows(directory)
    if set(rows.values()) != {described["rows"]}:
        raise _rows_missing(directory, described)


def read(directory: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns all rows of all arrays; raises what `parts` does."""
    every = list(parts(directory))
    return {name: np.concatenate([part[name] for part in every]) for name in every[0]}


def mapped(directory: pathlib.Path, name: str) -> Rows:
    """Returns the rows of the float32 array `name`, of which a shard is mapped into memory, after checking its SHA-256, when one of its rows is first read.

    Raises: StoreError: unfinished directory, or too few shards for its rows; on reading, what `parts` raises of the shards that are read.
    """
    described = manifest(directory)
    entries, size = described["shards"], described["shard_rows"]
    if not entries:
        raise _no_rows(directory)
    if size < 1 or len(entries) != _count(described["rows"], size):
        raise _rows_missing(directory, described)

    def opened(index: int) -> np.ndarray:
        path, where = _verified(directory, entries[index])
        part = files.read_with(path, functools.partial(_map, name), f"a safetensors file with float32 {name!r}", where)
        if len(part) != min(size, described["rows"] - index * size):
            raise _rows_missing(directory, described)
        return part

    return Rows(Parts(len(entries), size, opened), np.arange(described["rows"]))


def discard(directory: pathlib.Path) -> None:
    """Removes a sharded array set that was derived from something that is gone, if it is there."""
    if directory.exists():
        files.check_writing(directory)
        shutil.rmtree(directory)


def write_all(directory: pathlib.Path, arrays: Mapping[str, RowSource], shard_rows: int, identity: Mapping[str, Any]) -> str:
    """Writes arrays of equal length, read a shard at a time, as shards (resuming) and returns the manifest digest."""
    rows = len(next(iter(arrays.values())))
    writer = ShardWriter(directory, rows, shard_rows, identity)
    for index, start, stop in writer.missing():
        writer.write(index, {name: array[start:stop] for name, array in arrays.items()})
    return writer.finish()


def _record(ok: pathlib.Path) -> tuple[str, collections.Counter[str]]:
    """Returns the digest and the decisions of a finished shard; no digest where the record is damaged."""
    sha256, _, told = files.read_text(ok).partition("\n")
    try:
        return sha256.strip(), collections.Counter({str(name): int(count) for name, count in json.loads(told or "{}").items()})
    except (ValueError, TypeError, AttributeError):
        return "", collections.Counter()


def _count(rows: int, shard_rows: int) -> int:
    return -(-rows // shard_rows)


def _verified(directory: pathlib.Path, entry: Mapping[str, str]) -> tuple[pathlib.Path, str]:
    """Returns a shard of the manifest, and how messages name it, after checking its SHA-256; `StoreError` for a missing or corrupted one."""
    path = directory / pathlib.PurePath(entry["file"]).name
    where = f"{directory.name}/{path.name}"
    found = digests.stored_digest(path, where) if path.exists() else "no file"
    if found != entry["sha256"]:
        raise errors.StoreError(errors.describe("shard corrupted", where, f"SHA-256 {entry['sha256'][:12]}", found[:12]))
    return path, where


def _map(name: str, path: pathlib.Path) -> np.ndarray:
    """Returns a float32 array of a safetensors file as pages of the file, which the system reads when they are touched and may drop again."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        described = json.loads(stream.read(length))[name]
    if described["dtype"] != "F32":
        raise TypeError(described["dtype"])
    return np.memmap(path, "<f4", "r", 8 + length + described["data_offsets"][0], tuple(described["shape"])).view(np.ndarray)


def _no_rows(directory: pathlib.Path) -> errors.StoreError:
    return errors.StoreError(errors.describe("no rows", f"shards {directory.name!r}", "at least one shard", "none"))


def _rows_missing(directory: pathlib.Path, described: Mapping[str, Any]) -> errors.StoreError:
    return errors.StoreError(errors.describe("rows missing", f"shards {directory.name!r}", f"{described['rows']} rows of every array", "another number"))
