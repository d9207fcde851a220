"""Reads a pairs table, CSV or Parquet, into columns of strings, and checks its header.

Both formats give the same strings for the same table: identifiers keep their leading zeros, an empty cell, a null and a
NaN are all blank. Columns that nobody asked for are left out, unless they look like a misspelt known one.
"""

import csv
import difflib
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

from relink_jax import errors
from relink_jax.cohort.schema import LABELS

REQUIRED = ("image_path", "patient_id", "study_id")
TEXTS = ("findings", "impression", "report_text", "report_path")
OPTIONAL = (
    *("image_id", "report_id", "prior_image_id", "view", "split", "pretrain_exposure", "site"),
    *("study_order", "study_date", "age_years", "sex", "label_source"),
)
ALIASES = {"Airspace Opacity": "Lung Opacity", "No Findings": "No Finding"}
_UNREAD = ("study_order", "study_date", "age_years", "sex")
_KNOWN = (*REQUIRED, *TEXTS, *OPTIONAL, *LABELS)
_FIELD_LIMIT = 10_000_000
_MISSPELT = 0.85  # similarity from which an unknown column is taken for a known one that is not there


def read_columns(path: pathlib.Path) -> dict[str, list[str]]:
    """Returns the known columns of a table as equally long lists of stripped strings.

    Raises: DataError: no such file or another format, not UTF-8, ragged or damaged rows, a required column missing or
    misspelt, a column twice, a Parquet column of another type than text or integers (labels: or floats); names the table's
    file name, column and data row.
    """
    path = pathlib.Path(path)
    where = f"pairs table {path.name!r}"
    if not is_file(path):
        raise errors.DataError(errors.describe("table missing", where, "a CSV or Parquet file", "no file"))
    if path.suffix == ".csv":
        columns = _read_csv(path, where)
    elif path.suffix in (".parquet", ".pq"):
        columns = _read_parquet(path, where)
    else:
        raise errors.DataError(errors.describe("table format", where, "a name ending in .csv or .parquet", repr(path.suffix)))
    if not next(iter(columns.values())):
        raise errors.DataError(errors.describe("rows", where, "at least one data row", "none"))
    return columns


def is_file(path: pathlib.Path) -> bool:
    """Whether there is a file that can be looked at; a name too long, a loop of links or a closed directory hide it."""
    try:
        return path.is_file()
    except OSError:
        return False


def _names(header: list[str], where: str) -> dict[int, str]:
    """Returns the known name of each column position that is kept, after checking the header."""
    names = [ALIASES.get(name.strip(), name.strip()) for name in header]
    known = {position: name for position, name in enumerate(names) if name in _KNOWN}
    others = [name for name in names if name not in _KNOWN]
    twice = sorted({name for name in known.values() if names.count(name) > 1})
    if twice:
        raise errors.DataError(errors.describe("header", where, "every column once", f"column {twice[0]!r} twice"))
    for name in REQUIRED:
        if name not in names:
            raise errors.DataError(errors.describe(f"column {name!r}", where, "it in the header", "no such column") + errors.suggest(name, others))
    if not set(TEXTS) & set(names):
        raise errors.DataError(
            errors.describe("report text", where, "a column report_text, findings and impression, or report_path", "none of them")
            + errors.suggest("report_text", others)
        )
    folded = {name.lower().replace(" ", "_"): name for name in _KNOWN if name not in names}
    for name in others:
        near = difflib.get_close_matches(name.lower().replace(" ", "_"), folded, n=1, cutoff=_MISSPELT)
        if near:
            meant = folded[near[0]]
            raise errors.DataError(errors.describe("header", where, f"column {meant!r}", f"{name!r}, which is spelt otherwise; did you mean {meant!r}?"))
    return known


def _read_csv(path: pathlib.Path, where: str) -> dict[str, list[str]]:
    csv.field_size_limit(_FIELD_LIMIT)
    row_number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            kept = _names(header, where)
            columns: dict[str, list[str]] = {name: [] for name in kept.values()}
            for row in reader:
                if not row:
                    continue
                row_number += 1
                if len(row) != len(header):
                    raise errors.DataError(errors.describe("cells", f"{where}, data row {row_number}", str(len(header)), str(len(row))))
                for position, name in kept.items():
                    columns[name].append(row[position].strip())
    except UnicodeDecodeError as error:
        raise errors.DataError(errors.describe("encoding", where, "UTF-8", f"other bytes after data row {row_number}")) from error
    except OSError as error:
        raise errors.DataError(errors.describe("table unreadable", where, "a readable file", type(error).__name__)) from error
    except csv.Error as error:
        raise errors.DataError(
            errors.describe("damaged CSV", f"{where}, after data row {row_number}", "quoted cells that close", "a row that cannot be parsed")
        ) from error
    return columns


def _read_parquet(path: pathlib.Path, where: str) -> dict[str, list[str]]:
    try:
        parquet = pq.ParquetFile(path)
        header = parquet.schema_arrow.names
        kept = _names(header, where)
        table = parquet.read(columns=[header[position] for position in kept])
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise errors.DataError(errors.describe("damaged Parquet", where, "a readable file", "one that cannot be parsed")) from error
    columns: dict[str, list[str]] = {}
    for position, name in kept.items():
        column = table.column(header[position])
        expected = "strings, integers or floats" if name in LABELS else "strings or integers"
        if name not in _UNREAD and not _is_plain(column.type, floats=name in LABELS, nulls=name not in REQUIRED):
            raise errors.DataError(errors.describe(f"type of column {name!r}", where, expected, str(column.type)))
        columns[name] = [_cell(value) for value in column.to_pylist()]
    return columns


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
