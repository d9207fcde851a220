"""Reads columns of a published CSV table by name, gzipped or plain, line by line.

A line or a table beyond what such a file can hold stops the read before memory does. No error tells a path or a cell.
"""

import csv
import gzip
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO, cast

from relink_jax import errors

MOST_LINE = 100_000
MOST_TABLE = 2**29  # characters once unpacked


def read(
    path: pathlib.Path,
    names: Sequence[str],
    where: str,
    *,
    aliases: Mapping[str, str] | None = None,
    most_line: int = MOST_LINE,
    most_table: int = MOST_TABLE,
) -> dict[str, list[str]]:
    """Returns the columns `names` of a CSV table with a header, as equally long lists of stripped strings, equal cells shared.

    Args:
        path: gzipped when its name ends in '.gz'.
        where: how errors call the table.
        aliases: other spellings of names, by spelling.
        most_line, most_table: characters that a line, and the whole table once unpacked, may have.

    Raises: DataError: a column missing or there twice, rows of another length than the header, no rows, not UTF-8, damaged gzip
        or CSV, or a line or table too long to be one; names the data row.
    """
    csv.field_size_limit(max(csv.field_size_limit(), most_line))
    row_number = 0
    try:
        with _open(path) as stream:
            reader = csv.reader(_lines(stream, where, most_line, most_table), strict=True)
            header = [(aliases or {}).get(name.strip(), name.strip()) for name in next(reader, [])]
            places = positions(header, names, where)
            lists = [(places[name], list[str](), dict[str, str]()) for name in names]
            for row in reader:
                if not row:
                    continue
                row_number += 1
                if len(row) != len(header):
                    raise errors.DataError(errors.describe("cells", f"{where}, data row {row_number}", str(len(header)), str(len(row))))
                for position, cells, shared in lists:
                    cell = row[position].strip()
                    cells.append(shared.setdefault(cell, cell))
    except UnicodeDecodeError as error:
        raise errors.DataError(errors.describe("encoding", where, "UTF-8", f"other bytes after data row {row_number}")) from error
    except csv.Error as error:
        raise errors.DataError(
            errors.describe("damaged CSV", f"{where}, after data row {row_number}", "quoted cells that close", "a row that cannot be parsed")
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise errors.DataError(
            errors.describe("damaged table", f"{where}, after data row {row_number}", "a whole, readable file", "one that ends or breaks")
        ) from error
    if not row_number:
        raise errors.DataError(errors.describe("rows", where, "at least one data row", "none"))
    return {name: cells for name, (_, cells, _) in zip(names, lists, strict=True)}


def positions(header: Sequence[str], names: Sequence[str], where: str) -> dict[str, int]:
    """Returns where each of `names` stands in the header; `DataError` for one that is missing or there twice."""
    for name in names:
        if header.count(name) > 1:
            raise errors.DataError(errors.describe("header", where, "every column once", f"column {name!r} twice"))
        if name not in header:
            others = [other for other in header if other not in names]
            raise errors.DataError(errors.describe(f"column {name!r}", where, "it in the header", "no such column") + errors.suggest(name, others))
    return {name: header.index(name) for name in names}


def _open(path: pathlib.Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _lines(stream: TextIO, where: str, most_line: int, most_table: int) -> Iterator[str]:
    total = 0
    while line := stream.readline(most_line):
        total += len(line)
        if len(line) == most_line or total > most_table:
            limits = f"lines under {most_line:,} and in all at most {most_table:,} characters"
            raise errors.DataError(errors.describe("size of the table", where, limits, "more"))
        yield line
