"""Parquet tables with a digest beside them, and CSV files for spreadsheets."""

import csv
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from relink_jax import errors
from relink_jax.store import digests, files

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet takes for the start of a formula, or strips to find one
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")


def write_csv(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of equal keys as UTF-8 CSV with a header; None becomes an empty cell.

    A text that a spreadsheet would run as a formula gets an apostrophe in front; numbers, and texts that are one, stay as they are.
    """
    stream = io.StringIO()
    writer = csv.writer(stream)  # ends lines with CR LF, so that cells with either are quoted
    names = list(rows[0]) if rows else []
    writer.writerow([cell(name) for name in names])
    writer.writerows([cell(row[name]) for name in names] for row in rows)
    files.write_text(path, stream.getvalue())


def cell(value: Any) -> str:
    """Returns a value as a cell of CSV, with an apostrophe before a text that a spreadsheet would run as a formula; None is an empty cell."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def write_table(path: pathlib.Path, columns: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> str:
    """Writes named columns of equal length as zstd Parquet, with `path.sha256` beside it; returns the digest."""
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    table = table.replace_schema_metadata(dict(metadata or {}))
    files.write_with(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    digest = digests.file_digest(path)
    files.write_text(_digest_path(path), digest + "\n")
    return digest


def read_table(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the columns of a table written by `write_table` as NumPy arrays (strings as object arrays).

    Raises: StoreError: missing or unreadable file, or bytes that do not match the digest beside it.
    """
    path = pathlib.Path(path)
    if not path.exists() or not _digest_path(path).exists():
        raise errors.StoreError(
            errors.describe("table missing", f"workdir entry {path.name!r}", "a Parquet file with its .sha256", "none; run the stage that writes it")
        )
    expected, found = files.read_text(_digest_path(path)).strip(), digests.stored_digest(path)
    if expected != found:
        raise errors.StoreError(errors.describe("table corrupted", f"workdir entry {path.name!r}", f"SHA-256 {expected[:12]}", found[:12]))
    table = files.read_with(path, pq.read_table, "a Parquet table")
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def _digest_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".sha256")
