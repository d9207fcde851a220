"""Atomic, private, durable file writes, and reads that end in one sentence: the only module that creates files.

A write goes to a temporary name in the same directory, is flushed to disk, renamed over the target, and the directory is
flushed; a reader therefore sees the old file or the whole new one. Files are 0600, directories 0700.

A process that does not lead the command it belongs to works inside `reading_only`, where every write is refused but those that it makes
inside `writing_own`.

Design note: `fail_at` makes the n-th write fail, so that tests can show that no stage leaves a half-written artifact.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, TypeVar

from safetensors import SafetensorError

from relink_jax import errors

T = TypeVar("T")
NAME_BYTES = 255  # longest file name that file systems take

_JSON_KINDS = {dict: "named fields", list: "a list", str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
_writes = {"count": 0, "fail_at": 0}
_guard = {"reading": False}


@contextlib.contextmanager
def fail_at(n: int) -> Iterator[None]:
    """Makes the n-th durable write from now (1-based) raise `OSError`, for fault tests."""
    _writes.update(count=0, fail_at=n)
    try:
        yield
    finally:
        _writes.update(count=0, fail_at=0)


@contextlib.contextmanager
def reading_only() -> Iterator[None]:
    """Refuses every write inside, on all threads: for a process that must leave a workdir's artifacts to another one."""
    with _guarded(True):
        yield


@contextlib.contextmanager
def writing_own() -> Iterator[None]:
    """Allows writes inside `reading_only`: for files that no other process writes."""
    with _guarded(False):
        yield


@contextlib.contextmanager
def _guarded(reading: bool) -> Iterator[None]:
    before, _guard["reading"] = _guard["reading"], reading
    try:
        yield
    finally:
        _guard["reading"] = before


def check_writing(path: pathlib.Path) -> None:
    """Raises `RelinkError` inside `reading_only`: whatever is about to change `path` should have been left to process 0."""
    if _guard["reading"]:
        raise errors.RelinkError(errors.describe("write refused", f"workdir entry {path.name!r}", "process 0 to write it", "another process"))


def make_dir(path: pathlib.Path) -> pathlib.Path:
    """Creates a private directory (0700) with its missing parents, which `mkdir` would leave readable, and returns it.

    Raises: StoreError: a file of that name is in the way, or the place is not writable; RelinkError: none there inside `reading_only`.
    """
    if not path.is_dir():
        check_writing(path)
    try:
        for missing in reversed([parent for parent in (path, *path.parents) if not parent.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise errors.StoreError(
            errors.describe("directory not made", f"directory {path.name!r}", "a writable place", error.strerror or type(error).__name__)
        ) from error
    return path


def open_private(path: pathlib.Path) -> IO[str]:
    """Returns `path` opened for writing as it stands, created 0600; `StoreError` when that is not permitted."""
    check_writing(path)
    try:
        return open(path, "a", opener=lambda name, flags: os.open(name, flags, 0o600), encoding="utf-8")
    except OSError as error:
        raise errors.StoreError(errors.describe("not writable", f"file {path.name!r}", "a writable workdir", error.strerror or type(error).__name__)) from error


def write_with(path: pathlib.Path, writer: Callable[[pathlib.Path], None]) -> None:
    """Calls `writer` with a temporary path, then moves the finished file to `path` durably.

    Raises: StoreError: the directory is not writable or the disk is full; names the file, not its directory. RelinkError: see `check_writing`.
    """
    path = pathlib.Path(path)
    check_writing(path)
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.tmp")
    make_dir(path.parent)
    try:
        _writes["count"] += 1
        if _writes["count"] == _writes["fail_at"]:
            raise OSError(28, "No space left on device (injected)")
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
        writer(temporary)
        _flush(temporary)
        temporary.chmod(0o600)
        temporary.replace(path)
        _flush(path.parent)
    except (OSError, SafetensorError) as error:  # a full disk is both
        with contextlib.suppress(OSError):
            temporary.unlink()
        found = getattr(error, "strerror", None) or type(error).__name__
        raise errors.StoreError(errors.describe("write failed", f"file {path.name!r}", "a writable workdir with free space", found)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes `content` to `path` atomically."""
    write_with(path, lambda temporary: _fill(temporary, content))


def write_text(path: pathlib.Path, content: str) -> None:
    """Writes UTF-8 text to `path` atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as indented JSON; NaN and infinity are refused (`ValueError`)."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Returns `value` as `write_json` writes it."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("utf-8")


def read_with(path: pathlib.Path, reader: Callable[[pathlib.Path], T], expected: str, where: str = "") -> T:
    """Returns `reader(path)`, with whatever a damaged file makes it raise as one sentence.

    Args:
        expected: what the file should be, as the message says it.
        where: its place, as the message says it; default, that it is a workdir entry of its name.

    Raises: StoreError: nothing there, a directory in its place, no permission, or content that the reader fails on.
    """
    place = where or f"workdir entry {path.name!r}"
    try:
        return reader(path)
    except (errors.RelinkError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise errors.StoreError(errors.describe("file missing", place, "the output of an earlier stage", "nothing; run that stage first")) from error
    except Exception as error:  # every library has its own error for a damaged file
        found = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise errors.StoreError(errors.describe("file unreadable", place, expected, found)) from error


def read_bytes(path: pathlib.Path) -> bytes:
    """Returns the bytes of `path`; `StoreError` as of `read_with`."""
    return read_with(path, pathlib.Path.read_bytes, "a readable file")


def read_text(path: pathlib.Path, where: str = "") -> str:
    """Returns the UTF-8 text of `path`; `StoreError` as of `read_with`."""
    return read_with(path, lambda file: file.read_text(encoding="utf-8"), "UTF-8 text", where)


def read_json(path: pathlib.Path, where: str = "") -> Any:
    """Returns the parsed JSON of `path`; `StoreError` when it is missing or not JSON."""
    return read_with(pathlib.Path(path), lambda file: json.loads(file.read_text(encoding="utf-8")), "valid JSON", where)


def read_object(path: pathlib.Path, fields: Mapping[str, type], where: str = "") -> dict[str, Any]:
    """Returns the JSON object of `path`, which has at least the `fields` given by name with their JSON kind (dict, list, str, int, float, bool).

    Raises: StoreError: see `read_json`; also another value than an object, or the first of the fields that is not there or of another kind.
    """
    place, found = where or f"workdir entry {path.name!r}", read_json(path, where)
    if not isinstance(found, dict):
        raise errors.StoreError(errors.describe("record damaged", place, "named fields", _JSON_KINDS[type(found)]))
    for name, kind in fields.items():
        if type(found.get(name)) is not kind:
            held = _JSON_KINDS[type(found[name])] if name in found else "no such field"
            raise errors.StoreError(errors.describe(f"field {name!r}", place, _JSON_KINDS[kind], held))
    return found


def _fill(path: pathlib.Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)


def _flush(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
