"""A run's directory: its identity, its secret key and where each artifact lies.

`run.json` records what defines the data of the run; a second run with another cohort is refused rather than mixed in.
The key of keyed pseudonyms is 32 bytes of OS entropy in a 0600 file; it never leaves the workdir.

Of several processes of one command one opens the workdir (`opened`), locks and records it; the others then join it (`joined`).
"""

import contextlib
import dataclasses
import datetime
import fcntl
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import relink_jax
from relink_jax import errors
from relink_jax.store import digests, files

_RECORD, _SETTINGS = "run.json", "config.json"
_OWN = (_RECORD, _SETTINGS, "key", ".lock")
_BESIDE = ("logs", "together", "xla_cache")  # directories of what a command leaves beside its artifacts; a process may log before one is opened


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths of one run."""

    root: pathlib.Path
    run_id: str
    key: bytes

    @property
    def cohort(self) -> pathlib.Path:
        """Directory of the cohort tables."""
        return self.root / "cohort"

    def model(self, model: str) -> pathlib.Path:
        """Directory of a converted model's checkpoint."""
        return self.root / "models" / model

    def features(self, model: str, what: str) -> pathlib.Path:
        """Shard directory of frozen features; `what` is images, texts or anchors."""
        return self.root / "features" / model / what

    def heads(self, model: str, arm: str) -> pathlib.Path:
        """Directory of one arm's heads."""
        return self.root / "heads" / model / arm

    def embeddings(self, model: str, arm: str, what: str) -> pathlib.Path:
        """Shard directory of unit-norm embeddings; `what` is images or texts."""
        return self.root / "embeddings" / model / arm / what

    @property
    def results(self) -> pathlib.Path:
        """Directory of results JSON and Parquet files."""
        return self.root / "results"

    @property
    def report(self) -> pathlib.Path:
        """Directory of the page."""
        return self.root / "report"


@contextlib.contextmanager
def opened(root: str | pathlib.Path, identity: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[Workdir]:
    """Holds `root` for one command of a run with the given data-defining `identity`, creating it when empty.

    `settings` (JSON-ready, like `identity`) are recorded as config.json, so that a later command finds them. A command that is
    refused leaves the recorded settings as they were, and of a workdir it made itself nothing; one that stopped as asked is not refused.

    Raises:
        UsageError: no directory named, one that cannot be, or a non-empty directory that is not a workdir.
        StoreError: a workdir of another run (names the identity fields that differ), a damaged one, or one in use.
    """
    path = _named(root)
    if not (path / _RECORD).exists() and path.exists() and (not path.is_dir() or any(entry.name not in (".lock", "key", *_BESIDE) for entry in path.iterdir())):
        raise errors.UsageError(errors.describe("not a workdir", f"directory {path.name!r}", "an empty directory or one with run.json", "other files"))
    made = [parent for parent in (path, *path.parents) if not parent.exists()]
    beside = [name for name in _BESIDE if not (path / name).exists()]
    files.make_dir(path)
    with _locked(path):
        fresh, recorded = not (path / _RECORD).exists(), path / _SETTINGS
        before = files.read_bytes(recorded) if recorded.is_file() else None
        try:
            found = _claim(path, identity)
            if before is None or before != files.json_bytes(settings):
                files.write_json(recorded, settings)
            yield found
        except errors.StoppedError:
            raise
        except Exception:
            if fresh and all(entry.name in (*_OWN, *_BESIDE) or _hollow(entry) for entry in path.iterdir()):
                with contextlib.suppress(OSError):  # somebody else put a file there meanwhile
                    _empty(path, beside)
                    for directory in made:
                        directory.rmdir()
            elif before is not None:
                files.write_bytes(recorded, before)
            raise


def joined(root: str | pathlib.Path, identity: Mapping[str, Any], settings: Mapping[str, Any]) -> Workdir:
    """Returns the workdir that another process of this command holds open, which this one only reads.

    Raises: StoreError: none there, one of another run, or one that records other settings than this process has.
    """
    path = _named(root)
    if not (path / _RECORD).is_file():
        expected = "the workdir that process 0 opened; all processes must see one file system"
        raise errors.StoreError(errors.describe("workdir not shared", f"directory {path.name!r}", expected, "none"))
    found = _read(path, identity)
    if files.read_bytes(path / _SETTINGS) != files.json_bytes(settings):
        expected = "the settings of process 0 on every process"
        raise errors.StoreError(errors.describe("settings of a process", f"directory {path.name!r}", expected, "others; give all processes one command line"))
    return found


def _named(root: str | pathlib.Path) -> pathlib.Path:
    """Returns the path that `root` names; `UsageError` when none can be there."""
    if not isinstance(root, str | os.PathLike):
        raise errors.UsageError(errors.describe("workdir", "argument 'workdir'", "the path of a directory", type(root).__name__))
    if not str(root):
        raise errors.UsageError("workdir missing on the command line: expected --workdir=DIR, found nothing")
    try:
        path = pathlib.Path(root).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
        return path
    except (OSError, ValueError, RuntimeError) as error:
        found = error.strerror if isinstance(error, OSError) and error.strerror else "none"
        raise errors.UsageError(errors.describe("workdir", "--workdir", "a path that a directory can have", found)) from error


def _hollow(entry: pathlib.Path) -> bool:
    """Whether `entry` is a directory without any file under it."""
    return entry.is_dir() and not entry.is_symlink() and all(_hollow(inner) for inner in entry.iterdir())


def _empty(path: pathlib.Path, beside: Sequence[str]) -> None:
    """Removes a workdir's own files, those of its directories `beside` the artifacts that this command made, and hollow directories."""
    for name in _OWN:
        (path / name).unlink(missing_ok=True)
    for name in beside:
        shutil.rmtree(path / name, ignore_errors=True)
    for directory in sorted((entry for entry in path.rglob("*") if entry.is_dir()), reverse=True):
        directory.rmdir()


def _claim(path: pathlib.Path, identity: Mapping[str, Any]) -> Workdir:
    """Returns the workdir at `path`, written when there is none, after comparing identities."""
    record, key = path / _RECORD, path / "key"
    if not record.exists():
        files.write_bytes(key, secrets.token_bytes(32))
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        files.write_json(record, {"run_id": secrets.token_hex(6), "created_utc": created, "relink_jax": relink_jax.__version__, "identity": dict(identity)})
    return _read(path, identity)


def _read(path: pathlib.Path, identity: Mapping[str, Any]) -> Workdir:
    """Returns the workdir that is at `path`, after comparing identities."""
    record, key = path / _RECORD, path / "key"
    found = files.read_object(record, {"run_id": str, "created_utc": str, "identity": dict})
    before = found["identity"]
    if digests.value_digest(before) != digests.value_digest(dict(identity)):
        raise errors.StoreError(
            errors.describe(
                "workdir of another run", f"directory {path.name!r}", "the data it was made with", f"{_changes(before, identity)}; use a fresh --workdir"
            )
        )
    if not key.exists() or key.stat().st_size != 32:
        raise errors.StoreError(errors.describe("key damaged", "workdir file 'key'", "32 bytes", "something else"))
    return Workdir(path, found["run_id"], files.read_bytes(key))


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Holds the directory's lock, so that two commands never write one workdir; `StoreError` when another holds it."""
    with files.open_private(path / ".lock") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise errors.StoreError(
                errors.describe("workdir in use", f"directory {path.name!r}", "one run at a time", "a lock held by another process")
            ) from error
        yield


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns which fields differ; of fields that only one kind of run has, such as a table's path, only that there are others."""
    changed = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
    if changed:
        return "changed " + ", ".join(f"{name} {_short(before[name])} (now {_short(now[name])})" for name in changed)
    return f"data defined by {', '.join(sorted(now.keys() - before.keys()) or sorted(before.keys() - now.keys()))}"


def _short(value: Any) -> str:
    """Returns a value as a message shows it: short, and of a path only the last part."""
    text = repr(pathlib.PurePath(value).name if isinstance(value, str) and "/" in value else value)
    return text if len(text) <= 24 else text[:21] + "..."
