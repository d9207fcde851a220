"""Reads the tables that archives publish, CSV (plain or gzip) or Parquet, by the names of their columns, and lays rows out as pairs.

Other than a pairs table of one's own, a published table has columns of its own names, cells with line breaks in them and
hundreds of thousands of rows: cells are read once, stripped, and equal cells share one string.
"""

import pathlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from relink_jax import errors
from relink_jax.cohort import csv_tables
from relink_jax.cohort.pairs import Pairs
from relink_jax.cohort.schema import LABELS

_TEXTS = ("findings", "impression", "report_text", "labelled_text")
_IDS = ("image_path", "image_id", "patient_id", "study_id", "report_id")
_OTHERS = ("view", "split", "origin", "site", "study_order", "study_date", "age_years", "sex", "label_source")
COLUMNS = (*_IDS, *_TEXTS, *_OTHERS, *LABELS)
_MOST_LINE, _MOST_TABLE = 10_000_000, 2**33  # characters; whole reports stand in a cell, on each row of a study


def read_table(path: pathlib.Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Returns the columns `names` of a table as equally long lists of stripped strings; nulls are ''. Other columns are not read.

    Args: path: file ending in .csv, .csv.gz, .parquet or .pq.
    Raises: DataError: no such file or another format, a column that is not there or there twice, ragged, damaged or no rows.
    """
    path = pathlib.Path(path)
    where = f"table {path.name!r}"
    try:
        if not path.is_file():
            raise errors.DataError(errors.describe("table missing", where, "a CSV or Parquet file", "no file"))
        if path.suffix in (".parquet", ".pq"):
            columns = _read_parquet(path, names, where)
        elif path.name.endswith((".csv", ".csv.gz")):
            columns = csv_tables.read(path, names, where, most_line=_MOST_LINE, most_table=_MOST_TABLE)
        else:
            raise errors.DataError(errors.describe("table format", where, "a name ending in .csv, .csv.gz or .parquet", "another ending"))
    except OSError as error:
        raise errors.DataError(errors.describe("table unreadable", where, "a readable file", type(error).__name__)) from error
    if not columns[names[0]]:
        raise errors.DataError(errors.describe("rows", where, "at least one data row", "none"))
    return columns


def pairs(name: str, columns: dict[str, list[str]], image_root: pathlib.Path, counts: dict[str, int]) -> Pairs:
    """Returns the rows of an archive under all the names of the pairs table; columns not given are blank."""
    size = len(columns["image_path"])
    whole = {column: columns.get(column) or [""] * size for column in COLUMNS}
    return Pairs(name, whole, pathlib.Path(image_root), pathlib.Path(image_root), counts)


def _read_parquet(path: pathlib.Path, names: Sequence[str], where: str) -> dict[str, list[str]]:
    try:
        with pq.ParquetFile(path) as parquet:
            csv_tables.positions(parquet.schema_arrow.names, names, where)
            table = parquet.read(columns=list(names))
        table.validate(full=True)
        return {name: _cells(table.column(name)) for name in names}
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise errors.DataError(errors.describe("damaged Parquet", where, "a readable file", "one that cannot be parsed")) from error


def _cells(column: pa.ChunkedArray) -> list[str]:
    shared: dict[str, str] = {}
    cells = ("" if value is None or value != value else str(value).strip() for value in column.to_pylist())
    return [shared.setdefault(cell, cell) for cell in cells]
