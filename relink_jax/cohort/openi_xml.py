"""Reads the XML reports of the Open-I collection, from a directory or from NLMCXR_reports.tgz, and nothing more than them.

A report file is a few thousand bytes of plain elements. Document types, entities, deep nesting and large files have no
place in one and are refused, so that no file can make the parser open another or fill the memory; of an archive, only
regular files inside it are read, never written to disk, and it may not swell beyond what the collection can be.
References: Demner-Fushman et al. (2016), doi 10.1093/jamia/ocv080; openi.nlm.nih.gov.
"""

import dataclasses
import gzip
import io
import pathlib
import re
import tarfile
import zlib
from collections.abc import Iterator
from xml.parsers import expat

from relink_jax import errors

SECTIONS = ("COMPARISON", "INDICATION", "FINDINGS", "IMPRESSION")
_LARGEST = 1 << 20  # bytes of one report; the published ones have at most 9 KB
_LARGEST_ARCHIVE = 1 << 28  # bytes of all of them together; the published ones have 20 MB
_DEEPEST = 32
_UID = re.compile(r"CXR[0-9]{1,9}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_NUMBER = re.compile(r"([0-9]{1,9})\.xml")


@dataclasses.dataclass(frozen=True)
class Report:
    """One report: `uid` such as 'CXR1', the four sections in the order of `SECTIONS` ('' when empty), and its image names in order."""

    uid: str
    sections: tuple[str, ...]
    images: tuple[str, ...]


def read_reports(source: pathlib.Path) -> list[Report]:
    """Returns the reports of a directory of `<number>.xml`, or of a .tgz of such files, in the order of their numbers.

    Raises: DataError: no reports, an unsafe or damaged file or archive, a report twice; files are named by their number in order.
    """
    where = "Open-I report archive" if source.is_file() else "Open-I report directory"
    files = dict(_archived(source, where) if source.is_file() else _loose(source, where))
    if not files:
        raise errors.DataError(errors.describe("reports", where, "files named as <number>.xml", "none"))
    found, seen = [], set[str]()
    for position, number in enumerate(sorted(files), start=1):
        place = f"{where}, report {position} of {len(files)}"
        found.append(parse(files[number], place))
        if found[-1].uid in seen:
            raise errors.DataError(errors.describe("uId", place, "every report once", "that of an earlier report"))
        seen.add(found[-1].uid)
    return found


def parse(content: bytes, where: str) -> Report:
    """Returns the report that the bytes of one XML file hold; `where` is how errors call it.

    Raises: DataError: a document type or an entity, nesting or size beyond what a report has, no well-formed XML, no uId.
    """
    if len(content) > _LARGEST:
        raise errors.DataError(errors.describe("report", where, f"at most {_LARGEST:,} bytes", f"{len(content):,}"))
    reader = _Reader(where)
    parser = expat.ParserCreate()
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = reader.refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = reader.start, reader.end, reader.text
    parser.buffer_text = True
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise errors.DataError(errors.describe("report", where, "well-formed XML", "something else")) from error
    return reader.report()


class _Reader:
    """Collects what a report needs from the events of the parser."""

    def __init__(self, where: str) -> None:
        self._where, self._depth, self._section = where, 0, ""
        self._uid, self._parts, self._images = "", {name: list[str]() for name in SECTIONS}, list[str]()

    def refuse(self, *_: object) -> int:
        raise errors.DataError(errors.describe("report", self._where, "plain XML elements", "a document type or an entity"))

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise errors.DataError(errors.describe("report", self._where, f"elements nested at most {_DEEPEST} deep", "deeper ones"))
        if tag == "uId":
            self._uid = attributes.get("id", "").strip()
        elif tag == "AbstractText":
            label = attributes.get("Label", "").strip().upper()
            self._section = label if label in self._parts else ""
        elif tag == "parentImage":
            self._images.append(attributes.get("id", "").strip())

    def end(self, tag: str) -> None:
        self._depth -= 1
        if tag == "AbstractText" and self._section:
            self._parts[self._section].append("\n")
            self._section = ""

    def text(self, text: str) -> None:
        if self._section:
            self._parts[self._section].append(text)

    def report(self) -> Report:
        if not _UID.fullmatch(self._uid):
            raise errors.DataError(errors.describe("uId", self._where, "CXR and a number", "another or none"))
        if not all(_IMAGE.fullmatch(image) for image in self._images):
            raise errors.DataError(errors.describe("image name", self._where, "letters, digits, '_' and '-'", "another"))
        return Report(self._uid, tuple("".join(self._parts[name]).strip() for name in SECTIONS), tuple(self._images))


def _loose(directory: pathlib.Path, where: str) -> Iterator[tuple[int, bytes]]:
    try:
        for path in directory.iterdir():
            match = _NUMBER.fullmatch(path.name)
            if match is None:
                continue
            if path.is_symlink() or not path.is_file():
                raise errors.DataError(errors.describe("report", where, "regular files", "a link or another kind"))
            with path.open("rb") as stream:
                yield int(match[1]), stream.read(_LARGEST + 1)
    except OSError as error:
        raise errors.DataError(errors.describe("reports unreadable", where, "a directory of readable files", type(error).__name__)) from error


def _archived(archive: pathlib.Path, where: str) -> Iterator[tuple[int, bytes]]:
    try:
        with gzip.open(archive) as packed, tarfile.open(fileobj=_Limited(packed, where), mode="r|") as opened:
            for member in opened:
                name = pathlib.PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                    raise errors.DataError(errors.describe("member", where, "regular files inside the archive", "a link, a device or a path out of it"))
                match = _NUMBER.fullmatch(name.name)
                stream = opened.extractfile(member) if match and member.isfile() else None
                if match and stream:
                    if member.size > _LARGEST:
                        raise errors.DataError(errors.describe("report", where, f"at most {_LARGEST:,} bytes", f"{member.size:,}"))
                    yield int(match[1]), stream.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise errors.DataError(errors.describe("damaged archive", where, "a whole .tgz of XML files", "one that cannot be read")) from error


class _Limited(io.RawIOBase):
    """The unpacked bytes of an archive, up to the most that the collection can have."""

    def __init__(self, stream: gzip.GzipFile, where: str) -> None:
        self._stream, self._where, self._left = stream, where, _LARGEST_ARCHIVE

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(block)
        if self._left < 0:
            raise errors.DataError(errors.describe("size", self._where, f"at most {_LARGEST_ARCHIVE:,} unpacked bytes", "more"))
        return block
