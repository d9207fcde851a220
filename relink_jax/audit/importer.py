"""Precomputed embeddings of any model, read from a directory; `relink_jax.audit(**load_embeddings(directory))` audits them.

Five things must be found, under the names that `relink_jax.audit` uses; three more are optional:
  images [Q, D], texts [S, D]            embeddings, one text row per study
  image_study [Q], text_study [S]        study ids; rows are joined by id, never by position
  patient [S]                            patient id of each text row's study
  labels [S, 14]                         optional, 1, 0, -1, blank (empty, NaN or -2)
  image_patient [Q], image_id [Q]        optional, to check and to name images

They may lie in any mix of these files, each name once:
  embeddings.npz, embeddings.safetensors     arrays under the names above
  NAME.npy                                   one array each, such as images.npy or text_study.npy
  images.parquet | images.csv                columns study_id, [patient_id, image_id], [embedding: a list column, Parquet only]
  texts.parquet | texts.csv                  columns study_id, patient_id, [embedding, labels: list columns, Parquet only]
  labels.parquet | labels.csv                columns study_id and one per label (subject_id and patient_id are ignored)
or in the layout of clip-retrieval and LAION, where row i of everything is one image-report pair:
  img_emb/img_emb_0.npy, text_emb/text_emb_0.npy, metadata/metadata_0.parquet (study_id, patient_id, [image_id, labels]), then _1, ...
A study with several images repeats its text row there; the repeats must be equal.

Ids are compared as text, so 12 and '12' are one id. Nothing is unpickled.
"""

import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from relink_jax import errors

REQUIRED = ("images", "texts", "image_study", "text_study", "patient")
OPTIONAL = ("labels", "image_patient", "image_id")
_IDS = ("image_study", "text_study", "patient", "image_patient", "image_id")
_COLUMNS = {
    "images": {"study_id": "image_study", "patient_id": "image_patient", "image_id": "image_id", "embedding": "images"},
    "texts": {"study_id": "text_study", "patient_id": "patient", "embedding": "texts", "labels": "labels"},
    "metadata": {"study_id": "study", "patient_id": "patient", "image_id": "image_id", "labels": "labels"},
}
_NOT_LABELS = ("study_id", "subject_id", "patient_id")


def load_embeddings(directory: str | pathlib.Path) -> dict[str, Any]:
    """Returns the arguments of `relink_jax.audit` (or `audit.inputs.prepare`) found in `directory`; ids are strings.

    Raises: DataError: no directory, unreadable or pickled files, something missing or given twice, unequal lengths.
    """
    root = pathlib.Path(directory)
    if not root.is_dir():
        raise errors.DataError(
            errors.describe("no such directory", f"embeddings {root.name!r}", "a directory of embeddings", "a file" if root.exists() else "nothing")
        )
    paired = [folder for folder in ("img_emb", "text_emb", "metadata") if (root / folder).is_dir()]
    found = _paired_layout(root) if paired else _named_files(root)
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        hints = "".join(errors.suggest(f"{name}.npy", [entry.name for entry in root.iterdir()]) for name in missing[:1])
        raise errors.DataError(errors.describe("embeddings incomplete", f"directory {root.name!r}", ", ".join(REQUIRED), f"no {', '.join(missing)}{hints}"))
    return {name: _as_text(name, found[name]) if name in _IDS else found[name] for name in (*REQUIRED, *OPTIONAL) if name in found}


def _named_files(root: pathlib.Path) -> dict[str, Any]:
    """Returns every known array of bundles, .npy files and tables; refuses a name that two files give."""
    found: dict[str, Any] = {}
    source: dict[str, str] = {}

    def add(arrays: dict[str, Any], file: str) -> None:
        for name, array in arrays.items():
            if name in found:
                raise errors.DataError(errors.describe("given twice", f"file {file!r}", f"{name!r} in one file", f"also in {source[name]!r}"))
            found[name], source[name] = array, file

    known = (*REQUIRED, *OPTIONAL)
    for path in sorted(root.iterdir()):
        if path.name == "embeddings.npz":
            bundle = _read(path, lambda file: dict(np.load(file, allow_pickle=False)))
            add({name: bundle[name] for name in known if name in bundle}, path.name)
        elif path.name == "embeddings.safetensors":
            bundle = _read(path, _load_safetensors)
            add({name: bundle[name] for name in known if name in bundle}, path.name)
        elif path.suffix == ".npy" and path.stem in known:
            add({path.stem: _load_npy(path)}, path.name)
        elif path.suffix in (".parquet", ".csv") and path.stem in ("images", "texts"):
            add(_table(path, _COLUMNS[path.stem]), path.name)
    for path in sorted(root.glob("labels.*")):
        if path.suffix in (".parquet", ".csv"):
            add({"labels": _label_table(path, found.get("text_study"))}, path.name)
    return found


def _paired_layout(root: pathlib.Path) -> dict[str, Any]:
    """Returns the arrays of the img_emb/ text_emb/ metadata/ layout, with one text row per study."""
    parts = {folder: _numbered(root, folder, suffix) for folder, suffix in (("img_emb", ".npy"), ("text_emb", ".npy"), ("metadata", ".parquet"))}
    images, texts = (np.concatenate([_load_npy(path) for path in parts[folder]]) for folder in ("img_emb", "text_emb"))
    tables = [_table(path, _COLUMNS["metadata"]) for path in parts["metadata"]]
    absent = [name for name in ("study", "patient") if any(name not in table for table in tables)]
    if absent:
        raise errors.DataError(
            errors.describe("columns missing", "metadata tables", "study_id and patient_id in each", f"no {', '.join(name + '_id' for name in absent)}")
        )
    merged = {name: np.concatenate([table[name] for table in tables]) for name in tables[0] if all(name in table for table in tables)}
    lengths = {len(images), len(texts), len(merged["study"])}
    if len(lengths) > 1:
        sizes = f"{len(images)} images, {len(texts)} texts, {len(merged['study'])} metadata rows"
        raise errors.DataError(errors.describe("lengths differ", "img_emb, text_emb and metadata", "one row of each per pair", sizes))
    studies, patients = _as_text("study_id", merged["study"]), _as_text("patient_id", merged["patient"])
    first: dict[Any, int] = {}
    head = np.array([first.setdefault(study, row) for row, study in enumerate(studies)])
    if not np.array_equal(texts[head], texts, equal_nan=True):
        raise errors.DataError(
            errors.describe(
                "texts of one study differ", "text_emb", "equal rows for equal study_id", f"{int((texts[head] != texts).any(axis=1).sum())} other rows"
            )
        )
    rows = np.array(list(first.values()))
    arrays: dict[str, Any] = {
        "images": images,
        "texts": texts[rows],
        "image_study": studies,
        "text_study": [studies[row] for row in rows],
        "image_patient": patients,
    }
    arrays["patient"] = [patients[row] for row in rows]
    return arrays | {name: merged[name] if name == "image_id" else merged[name][rows] for name in ("image_id", "labels") if name in merged}


def _numbered(root: pathlib.Path, folder: str, suffix: str) -> list[pathlib.Path]:
    """Returns folder/folder_0, folder_1, ... in numeric order; refuses gaps."""
    directory = root / folder
    matches = [
        (int(match[1]), path)
        for path in (directory.iterdir() if directory.is_dir() else ())
        if (match := re.fullmatch(rf"{folder}_(\d+){re.escape(suffix)}", path.name))
    ]
    paths = [path for _, path in sorted(matches)]
    if not paths or sorted(number for number, _ in matches) != list(range(len(paths))):
        raise errors.DataError(
            errors.describe("files missing", f"folder {folder!r}", f"{folder}_0{suffix}, {folder}_1{suffix}, ... without gaps", f"{len(paths)} of them")
        )
    return paths


def _table(path: pathlib.Path, columns: dict[str, str]) -> dict[str, Any]:
    """Returns the known columns of a table under their argument names; list columns become 2-D arrays."""
    table = _read_table(path)
    if "study_id" not in table.column_names:
        raise errors.DataError(
            errors.describe(
                "column missing", f"table {path.name!r}", "column study_id", f"{len(table.column_names)} others{errors.suggest('study_id', table.column_names)}"
            )
        )
    out = {}
    for column, name in columns.items():
        if column in table.column_names:
            values = table.column(column).to_pylist()
            out[name] = _matrix(values, path.name, column) if column in ("embedding", "labels") else np.array(values, dtype=object)
    return out


def _label_table(path: pathlib.Path, text_study: Any) -> np.ndarray:
    """Returns labels [S, L] in the order of `text_study`, rows of studies that are not in the table all NaN."""
    table = _read_table(path)
    if "study_id" not in table.column_names or text_study is None:
        expected = "column study_id" if text_study is not None else "text_study to join it to"
        raise errors.DataError(errors.describe("labels without ids", f"table {path.name!r}", expected, f"none{errors.suggest('study_id', table.column_names)}"))
    names = [name for name in table.column_names if name not in _NOT_LABELS]
    values = np.stack([_numbers(table.column(name).to_pylist(), path.name, name) for name in names], axis=1) if names else np.zeros((table.num_rows, 0))
    ids = _as_text("study_id", table.column("study_id").to_pylist())
    rows = {study: row for row, study in enumerate(ids)}
    if len(rows) < len(ids) or not names:
        raise errors.DataError(
            errors.describe(
                "unusable labels",
                f"table {path.name!r}",
                "each study_id once, and at least one label column",
                f"{len(ids) - len(rows)} repeats, {len(names)} label columns",
            )
        )
    # A study in the table without any mention is labelled, all blank; NaN throughout would mean it has no row at all.
    values[np.isnan(values).all(axis=1)] = -2
    padded = np.concatenate([values, np.full((1, len(names)), np.nan)])
    return padded[[rows.get(study, len(values)) for study in _as_text("text_study", text_study)]]


def _matrix(values: list[Any], file: str, column: str) -> np.ndarray:
    widths = {len(row) if row is not None else 0 for row in values}
    if len(widths) != 1:
        raise errors.DataError(errors.describe("ragged lists", f"column {column!r} of {file!r}", "lists of one length in every row", f"{len(widths)} lengths"))
    return np.stack([_numbers(row, file, column) for row in values])


def _numbers(values: list[Any], file: str, column: str) -> np.ndarray:
    """Returns float64 numbers; None and empty strings are NaN."""
    try:
        return np.array([np.nan if value is None or value == "" else float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise errors.DataError(errors.describe("not a number", f"column {column!r} of {file!r}", "numbers or blanks", "text")) from error


def _read_table(path: pathlib.Path) -> Any:
    """Returns a pyarrow table; CSV columns are read as text, so that ids keep their leading zeros."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    if path.suffix == ".parquet":
        return _read(path, parquet.read_table)
    names = _read(path, lambda file: csv.open_csv(file).schema.names)
    as_text = csv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=True, null_values=[""])
    return _read(path, lambda file: csv.read_csv(file, convert_options=as_text))


def _load_npy(path: pathlib.Path) -> np.ndarray:
    array: np.ndarray = _read(path, lambda file: np.load(file, allow_pickle=False))
    return array


def _load_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    from safetensors import numpy as safetensors_numpy

    return safetensors_numpy.load_file(str(path))


def _read(path: pathlib.Path, reader: Callable[[pathlib.Path], Any]) -> Any:
    """Returns reader(path), with any parse failure as one sentence that names the file."""
    try:
        return reader(path)
    except Exception as error:
        raise errors.DataError(
            errors.describe("file unreadable", f"file {path.name!r}", f"a valid {path.suffix} file without pickled objects", type(error).__name__)
        ) from error


def _as_text(name: str, values: Any) -> list[str | None]:
    """Returns ids as strings; None and NaN stay None."""
    plain = values.tolist() if hasattr(values, "tolist") else list(values)
    if plain and isinstance(plain[0], list):
        raise errors.DataError(errors.describe("wrong shape", f"ids {name!r}", "one id per row", "several"))
    return [None if value is None or value != value else (value.decode() if isinstance(value, bytes) else str(value)) for value in plain]
