"""Reads a pairs table, CSV or Parquet, into columns of strings, and checks its header.

Both formats give the same strings for the same table: identifiers keep their leading zeros, an empty cell, a null and a
NaN are all blank. Columns that nobody asked for are left out, unless they look like a misspelt known one; those that the run names as
facts are kept.
"""

import csv
import difflib
import pathlib
from collections.abc import Iterator, Sequence
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from relink_jax import errors
from relink_jax.cohort.problems import Problem, refuse
from relink_jax.cohort.schema import LABELS

REQUIRED = ("image_path", "patient_id", "study_id")
TEXTS = ("findings", "impression", "report_text", "labelled_text", "report_path")
OPTIONAL = (
    *("image_id", "report_id", "prior_image_id", "view", "split", "pretrain_exposure", "origin", "site"),
    *("study_order", "study_date", "age_years", "sex", "label_source"),
)
ALIASES = {"Airspace Opacity": "Lung Opacity", "No Findings": "No Finding"}
_WHOLE = ("findings", "impression", "report_text", "report_path")  # a table has one of them
_ANY_TYPE = ("study_order", "study_date", "age_years", "sex")  # a cell that says nothing sensible is as good as blank
_KNOWN = (*REQUIRED, *TEXTS, *OPTIONAL, *LABELS)
_FIELD_LIMIT = 10_000_000
_MISSPELT = 0.85  # similarity from which an unknown column is taken for a known one that is not there


def called(path: pathlib.Path) -> str:
    """Returns how errors name a table."""
    return f"pairs table {pathlib.Path(path).name!r}"


def read_columns(path: pathlib.Path, facts: Sequence[str] = ()) -> dict[str, list[str]]:
    """Returns the known columns of a table, and those named in `facts`, as equally long lists of stripped strings.

    Raises: DataError: no such file or another format, not UTF-8, ragged or damaged rows, a required or named column missing
    or misspelt, a column twice, a Parquet column of another type than text or integers (labels: or floats); names the table's
    file name, column and data row.
    """
    columns, problems = survey(path, facts)
    refuse(problems, called(path))
    return columns


def survey(path: pathlib.Path, facts: Sequence[str] = ()) -> tuple[dict[str, list[str]], list[Problem]]:
    """Returns what `read_columns` does, and everything that it would refuse, which is then not all there.

    A column that is there twice or misspelt is left out, and a row of too many or too few cells is blank.
    Raises: DataError: a file that cannot be read or parsed as a table, or one without rows.
    """
    path = pathlib.Path(path)
    where = called(path)
    if not is_file(path):
        raise errors.DataError(errors.describe("table missing", where, "a CSV or Parquet file", "no file"))
    if path.suffix == ".csv":
        columns, problems = _read_csv(path, where, facts)
    elif path.suffix in (".parquet", ".pq"):
        columns, problems = _read_parquet(path, where, facts)
    else:
        raise errors.DataError(errors.describe("table format", where, "a name ending in .csv or .parquet", repr(path.suffix)))
    if not problems and not next(iter(columns.values())):
        problems = [Problem(0, "", "rows", "at least one data row", "none")]
    return columns, problems


def is_file(path: pathlib.Path) -> bool:
    """Whether there is a file that can be looked at; a name too long or no name, a loop of links or a closed directory hide it."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _spelt(header: list[str]) -> list[str]:
    return [ALIASES.get(name.strip(), name.strip()) for name in header]


def _kept(header: list[str], facts: Sequence[str]) -> dict[int, str]:
    """Returns the known or asked-for name of each column position that is read; of a column that is there twice, the first."""
    names = _spelt(header)
    return {position: name for position, name in enumerate(names) if (name in _KNOWN or name in facts) and names.index(name) == position}


def _header_problems(header: list[str], facts: Sequence[str]) -> Iterator[Problem]:
    names = _spelt(header)
    others = [name for name in names if name not in _KNOWN and name not in facts]
    hints = others if len(others) < len(names) else []  # a first row without any known name may be data
    for name in sorted({name for name in names if name not in others and names.count(name) > 1}):
        yield Problem(0, "", "header", "every column once", f"column {name!r} twice")
    for name in (*REQUIRED, *facts):
        if name not in names:
            yield Problem(0, "", f"column {name!r}", "it in the header", "no such column" + errors.suggest(name, hints))
    if not set(_WHOLE) & set(names):
        found = "none of them" + errors.suggest("report_text", hints)
        yield Problem(0, "", "report text", "a column report_text, findings and impression, or report_path", found)
    folded = {name.lower().replace(" ", "_"): name for name in _KNOWN if name not in names}
    for name in others:
        near = difflib.get_close_matches(name.lower().replace(" ", "_")[:100], folded, n=1, cutoff=_MISSPELT)
        if near:
            meant = folded[near[0]]
            yield Problem(0, "", "header", f"column {meant!r}", f"{name!r}, which is spelt otherwise; did you mean {meant!r}?")


def _read_csv(path: pathlib.Path, where: str, facts: Sequence[str]) -> tuple[dict[str, list[str]], list[Problem]]:
    csv.field_size_limit(_FIELD_LIMIT)
    at = [0]
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return _parsed(stream, facts, at)
    except UnicodeDecodeError as error:
        raise errors.DataError(errors.describe("encoding", where, "UTF-8", f"other bytes after data row {at[0]}")) from error
    except OSError as error:
        raise errors.DataError(errors.describe("table unreadable", where, "a readable file", type(error).__name__)) from error
    except csv.Error as error:
        raise errors.DataError(
            errors.describe("damaged CSV", f"{where}, after data row {at[0]}", "quoted cells that close", "a row that cannot be parsed")
        ) from error


def _parsed(stream: TextIO, facts: Sequence[str], at: list[int]) -> tuple[dict[str, list[str]], list[Problem]]:
    """Returns the columns and problems of an open CSV file; `at[0]` counts the data rows as they come."""
    reader = csv.reader(stream, strict=True)
    header = next(reader, [])
    problems, kept = list(_header_problems(header, facts)), _kept(header, facts)
    columns: dict[str, list[str]] = {name: [] for name in kept.values()}
    for row in reader:
        if not row:
            continue
        at[0] += 1
        if len(row) != len(header):
            problems.append(Problem(at[0], "", "cells", str(len(header)), str(len(row))))
            row = [""] * len(header)
        for position, name in kept.items():
            columns[name].append(row[position].strip())
    return columns, problems


def _read_parquet(path: pathlib.Path, where: str, facts: Sequence[str]) -> tuple[dict[str, list[str]], list[Problem]]:
    try:
        parquet = pq.ParquetFile(path)
        header = parquet.schema_arrow.names
        problems, kept = list(_header_problems(header, facts)), _kept(header, facts)
        if any(header.count(header[position]) > 1 for position in kept):
            return {}, problems
        table = parquet.read(columns=[header[position] for position in kept])
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise errors.DataError(errors.describe("damaged Parquet", where, "a readable file", "one that cannot be parsed")) from error
    columns: dict[str, list[str]] = {}
    for position, name in kept.items():
        column = table.column(header[position])
        floats = name in LABELS or (name in facts and name not in _KNOWN)
        expected = "strings, integers or floats" if floats else "strings or integers"
        if name not in _ANY_TYPE and not _is_plain(column.type, floats=floats, nulls=name not in REQUIRED):
            problems.append(Problem(0, "", f"type of column {name!r}", expected, str(column.type)))
        else:
            columns[name] = [_cell(value) for value in column.to_pylist()]
    return columns, problems


def _is_plain(kind: pa.DataType, *, floats: bool, nulls: bool) -> bool:
    """Whether cells of this type have one spelling as text, the same as in a CSV file."""
    return pa.types.is_integer(kind) or _is_text(kind) or (floats and pa.types.is_floating(kind)) or (nulls and pa.types.is_null(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _cell(value: object) -> str:
    if value is None or value != value:
        return ""
    return str(value).strip()
