"""Finds and reads what published archives hand out: tables, gzipped or plain, and report files in a directory or still inside a zip.

Nothing is unpacked to disk; a report beyond what such a file can hold stops the read before memory does. No error tells a path or the name of
a member.
"""

import contextlib
import lzma
import os
import pathlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from relink_jax import errors
from relink_jax.cohort import paths

MOST_REPORT = 2**20  # bytes; the longest published report has a few thousand
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError)


class Source(Protocol):
    """Report files by their names relative to one place, with '/' between folders."""

    def names(self) -> Sequence[str]:
        """Returns the files' names as far as they are known without looking at the disk: those of a zip, none of a directory."""

    def read(self, name: str, where: str) -> bytes | None:
        """Returns a file's bytes, None when there is none; `where` is how errors call it. Raises: DataError: see the functions that open a source."""


@contextlib.contextmanager
def directory(root: pathlib.Path) -> Iterator[Source]:
    """Opens the files below `root`; reading one that leads out of it by a link, is longer than `MOST_REPORT` or not readable is a `DataError`."""
    yield _Directory(root)


@contextlib.contextmanager
def zipped(path: pathlib.Path, what: str) -> Iterator[Source]:
    """Opens a zip, whose list of members is checked before any of them is read.

    Args: what: how errors call it, such as 'archive of reports'.
    Raises: DataError: not a whole zip; a member with an absolute name, '..', a backslash, a link, an encrypted one, one name
        twice. While reading: a member longer than `MOST_REPORT`, longer than declared, or damaged.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise errors.DataError(errors.describe("damaged zip", what, "a whole zip file", "one that cannot be opened")) from error
    with archive:
        yield _Zip(archive, what)


def text(content: bytes, where: str) -> str:
    """Returns a report's UTF-8 bytes as text with '\\n' line ends; `DataError` for other bytes."""
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise errors.DataError(errors.describe("encoding", where, "UTF-8 text", "other bytes")) from error


def find_table(folder: pathlib.Path, name: str, archive: str) -> tuple[pathlib.Path, str]:
    """Returns the file of table `name` ('x.csv'), gzipped ('x.csv.gz') or plain, and how errors call it.

    Raises: DataError: neither is there; names the table, which is the same for everybody.
    """
    for path in (folder / f"{name}.gz", folder / name):
        with contextlib.suppress(OSError):
            if path.is_file():
                return path, f"{archive} table {path.name!r}"
    raise errors.DataError(errors.describe("table missing", f"{archive} table {name!r}", "it, or it with '.gz', at the top of the image root", "no such file"))


class _Directory:
    def __init__(self, root: pathlib.Path) -> None:
        self._root = root

    def names(self) -> Sequence[str]:
        return ()

    def read(self, name: str, where: str) -> bytes | None:
        path = paths.inside(self._root, name, where)
        if not os.path.isfile(path):
            return None
        try:
            with open(path, "rb") as stream:
                content = stream.read(MOST_REPORT + 1)
        except OSError as error:
            raise errors.DataError(errors.describe("report file", where, "a readable file", error.strerror or type(error).__name__)) from error
        return _bounded(content, where)


class _Zip:
    def __init__(self, archive: zipfile.ZipFile, what: str) -> None:
        self._archive = archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        for number, member in enumerate(archive.infolist(), 1):
            wrong = _wrong(member) or ("a name twice" if member.filename in self._members else "")
            if wrong:
                raise errors.DataError(errors.describe("zip member", f"{what}, member {number}", "plain files with names inside the archive, each once", wrong))
            self._members[member.filename] = member

    def names(self) -> Sequence[str]:
        return tuple(self._members)

    def read(self, name: str, where: str) -> bytes | None:
        member = self._members.get(name)
        if member is None:
            return None
        try:
            with self._archive.open(member) as stream:
                content = stream.read(MOST_REPORT + 1)
        except _DAMAGED as error:
            raise errors.DataError(errors.describe("damaged zip", where, "a member as long as declared, with the right checksum", "another")) from error
        return _bounded(content, where)


def _wrong(member: zipfile.ZipInfo) -> str:
    """Returns what is wrong with a member by the list of the archive, '' when nothing is."""
    name = pathlib.PurePosixPath(member.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in member.orig_filename or "\0" in member.orig_filename:
        return "a name that leads elsewhere"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    return "an encrypted one" if member.flag_bits & 1 else ""


def _bounded(content: bytes, where: str) -> bytes:
    if len(content) > MOST_REPORT:
        raise errors.DataError(errors.describe("report file", where, f"at most {MOST_REPORT:,} bytes", "more"))
    return content
