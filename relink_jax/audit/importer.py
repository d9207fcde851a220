"""Precomputed embeddings of any model, read from a directory; `relink_jax.audit(**load_embeddings(directory))` audits them.

Five things must be found, under the names that `relink_jax.audit` uses; three more are optional:
  images [Q, D], texts [S, D]            embeddings, one text row per study
  image_study [Q], text_study [S]        study ids; rows are joined by id, never by position
  patient [S]                            patient id of each text row's study
  labels [S, 14]                         optional, 1, 0, -1, blank (NaN or -2), columns in the order of `strata.LABELS`
  image_patient [Q], image_id [Q]        optional, to check and to name images

They may lie in any mix of these files, each name once:
  embeddings.npz, embeddings.safetensors     arrays under the names above
  NAME.npy                                   one array each, such as images.npy or text_study.npy
  images.parquet | images.csv                columns study_id, [patient_id, image_id], [embedding: a list column, Parquet only]
  texts.parquet | texts.csv                  columns study_id, patient_id, [embedding, labels: list columns, Parquet only]
  labels.parquet | labels.csv                columns study_id and the 14 CheXpert observations by name, in any order, empty where
                                             blank (subject_id and patient_id are ignored)
or in the layout of clip-retrieval and LAION, where row i of everything is one image-report pair:
  img_emb/img_emb_0.npy, text_emb/text_emb_0.npy, metadata/metadata_0.parquet (study_id, patient_id, [image_id, labels]), then _1, ...
A study with several images repeats its text row, patient and labels there; the repeats must be equal.

Ids are whole numbers or text and are compared as text, so 12 and '12' are one id. Nothing is unpickled.
"""

import difflib
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.audit import inputs, strata

REQUIRED = ("images", "texts", "image_study", "text_study", "patient")
OPTIONAL = ("labels", "image_patient", "image_id")
_IDS = ("image_study", "text_study", "patient", "image_patient", "image_id")
_COLUMNS = {
    "images": {"study_id": "image_study", "patient_id": "image_patient", "image_id": "image_id", "embedding": "images"},
    "texts": {"study_id": "text_study", "patient_id": "patient", "embedding": "texts", "labels": "labels"},
    "metadata": {"study_id": "study", "patient_id": "patient", "image_id": "image_id", "labels": "labels"},
}
_NOT_LABELS = ("study_id", "subject_id", "patient_id")
_BUNDLES = ("embeddings.npz", "embeddings.safetensors")
_KNOWN = (*REQUIRED, *OPTIONAL)
_KNOWN_FILES = {
    *_BUNDLES,
    *(f"{name}.npy" for name in _KNOWN),
    *(f"{name}{suffix}" for name in ("images", "texts", "labels") for suffix in (".parquet", ".csv")),
}
_FORMATS = (".npy", ".npz", ".safetensors", ".parquet", ".csv")


def load_embeddings(directory: str | pathlib.Path) -> dict[str, Any]:
    """Returns the arguments of `relink_jax.audit` (or `audit.inputs.prepare`) found in `directory`; ids are strings.

    Raises: DataError: no directory, unreadable or pickled files, something missing or given twice, unequal lengths.
    """
    root = pathlib.Path(directory)
    if not os.path.isdir(root):
        raise errors.DataError(
            errors.describe("no such directory", f"embeddings {root.name!r}", "a directory of embeddings", "a file" if os.path.exists(root) else "nothing")
        )
    try:
        names = sorted(path.name for path in root.iterdir())
    except OSError as error:
        raise errors.DataError(errors.describe("directory unreadable", f"embeddings {root.name!r}", "one that can be listed", type(error).__name__)) from error
    known = [name for name in names if name in _KNOWN_FILES]
    paired = [folder for folder in ("img_emb", "text_emb", "metadata") if (root / folder).is_dir()]
    if paired and known:
        raise errors.DataError(errors.describe("two layouts", f"directory {root.name!r}", f"either {paired[0]!r} or {known[0]!r}", "both"))
    found, unused = _paired_layout(root) if paired else _named_files(root, known)
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        others = {pathlib.PurePath(name).stem: name for name in names if name not in _KNOWN_FILES and name.endswith(_FORMATS)}
        near = [one for name in missing for one in difflib.get_close_matches(name, [*others, *unused], n=1, cutoff=0.5)]
        found_none = f"no {', '.join(missing)}" + (f"; did you mean {others.get(near[0], near[0])!r}?" if near else "")
        raise errors.DataError(errors.describe("embeddings incomplete", f"directory {root.name!r}", ", ".join(REQUIRED), found_none))
    return {name: _as_text(name, found[name]) if name in _IDS else found[name] for name in _KNOWN if name in found}


def _named_files(root: pathlib.Path, names: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns (every known array of bundles, .npy files and tables, names of unknown arrays in bundles); refuses a name that two files give."""
    found: dict[str, Any] = {}
    source: dict[str, str] = {}
    unused: list[str] = []

    def add(arrays: dict[str, Any], file: str) -> None:
        for name, array in arrays.items():
            if name in found:
                raise errors.DataError(errors.describe("given twice", f"file {file!r}", f"{name!r} in one file", f"also in {source[name]!r}"))
            found[name], source[name] = array, file

    label_tables = [name for name in names if name in ("labels.csv", "labels.parquet")]
    for name in (name for name in names if name not in label_tables):
        path = root / name
        if name in _BUNDLES:
            bundle = _read(path, _load_npz if path.suffix == ".npz" else _load_safetensors)
            unused += [array for array in bundle if array not in _KNOWN]
            add({array: bundle[array] for array in _KNOWN if array in bundle}, name)
        elif path.suffix == ".npy":
            add({path.stem: _load_npy(path)}, name)
        else:
            add(_table(path, _COLUMNS[path.stem]), name)
    for name in label_tables:
        add({"labels": _label_table(root / name, found.get("text_study"))}, name)
    return found, unused


def _paired_layout(root: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
    """Returns (the arrays of the img_emb/ text_emb/ metadata/ layout, one text row per study; no unknown names)."""
    parts = {folder: _numbered(root, folder, suffix) for folder, suffix in (("img_emb", ".npy"), ("text_emb", ".npy"), ("metadata", ".parquet"))}
    images, texts = (_joined(folder, [_load_npy(path) for path in parts[folder]]) for folder in ("img_emb", "text_emb"))
    tables = [_table(path, _COLUMNS["metadata"]) for path in parts["metadata"]]
    absent = [name for name in ("study", "patient") if any(name not in table for table in tables)]
    if absent or any(table.keys() != tables[0].keys() for table in tables):
        found = f"no {', '.join(name + '_id' for name in absent)}" if absent else "others in some"
        raise errors.DataError(errors.describe("columns missing", "metadata tables", "study_id, patient_id and the same further ones in each", found))
    columns = {name: [table[name] for table in tables] for name in tables[0]}
    merged = {name: _joined(name, parts_of) if name == "labels" else np.concatenate(parts_of) for name, parts_of in columns.items()}
    if len({len(images), len(texts), len(merged["study"])}) > 1:
        sizes = f"{len(images)} images, {len(texts)} texts, {len(merged['study'])} metadata rows"
        raise errors.DataError(errors.describe("lengths differ", "img_emb, text_emb and metadata", "one row of each per pair", sizes))
    studies, patients = _as_text("study_id", merged["study"]), np.array(_as_text("patient_id", merged["patient"]), dtype=object)
    blank = sum(study is None for study in studies)
    if blank:
        raise errors.DataError(errors.describe("missing id", "column 'study_id' of metadata", "an id in every row", f"{blank} blanks"))
    first: dict[Any, int] = {}
    head = np.array([first.setdefault(study, row) for row, study in enumerate(studies)], np.int64)
    for name, where, values in (("texts", "text_emb", texts), ("patients", "metadata", patients[:, None]), ("labels", "metadata", merged.get("labels"))):
        differs = np.zeros(0, bool) if values is None else ((values[head] != values) & ~((values[head] != values[head]) & (values != values))).any(axis=1)
        if differs.any():
            raise errors.DataError(
                errors.describe(f"{name} of one study differ", where, "equal ones in all rows of a study_id", f"{int(differs.sum())} other rows")
            )
    rows = np.array(list(first.values()), np.int64)
    arrays: dict[str, Any] = {"images": images, "texts": texts[rows], "image_study": studies, "image_patient": patients.tolist()}
    arrays |= {"text_study": [studies[row] for row in rows], "patient": patients[rows].tolist()}
    return arrays | {name: merged[name] if name == "image_id" else merged[name][rows] for name in ("image_id", "labels") if name in merged}, []


def _joined(folder: str, parts: list[np.ndarray]) -> np.ndarray:
    """Returns the rows of all parts; refuses parts that are not [rows, D] numbers of one D."""
    for part in parts:
        inputs.real_array(f"folder {folder!r}", part)
    if len({part.shape[1:] for part in parts}) > 1 or parts[0].ndim != 2:
        shapes = " and ".join(str(list(shape)) for shape in sorted({part.shape for part in parts})[:2])
        raise errors.DataError(errors.describe("wrong shape", f"folder {folder!r}", "[rows, dims] arrays of equal dims", shapes))
    return np.concatenate(parts)


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
    out = {}
    for column, name in columns.items():
        if column in table.column_names:
            values = table.column(column).to_pylist()
            out[name] = _matrix(values, path.name, column) if column in ("embedding", "labels") else np.array([*values, None], dtype=object)[:-1]
    return out


def _label_table(path: pathlib.Path, text_study: Any) -> np.ndarray:
    """Returns labels [S, 14] in the order of `text_study` and `strata.LABELS`, rows of studies that are not in the table all NaN."""
    table, where = _read_table(path), f"table {path.name!r}"
    if text_study is None:
        raise errors.DataError(errors.describe("labels without ids", where, "text_study to join it to", "none"))
    columns = {name: strata.ALIASES.get(name, name) for name in table.column_names if name not in _NOT_LABELS}
    missing = [label for label in strata.LABELS if label not in columns.values()]
    for name, label in columns.items():
        if label not in strata.LABELS or list(columns.values()).count(label) > 1:
            expected = "the 14 CheXpert observations, each once"
            raise errors.DataError(errors.describe("label columns", where, expected, f"column {name!r}") + errors.suggest(name, missing))
    if missing:
        raise errors.DataError(errors.describe("label columns", where, "the 14 CheXpert observations", f"no {', '.join(missing)}"))
    named = {label: _numbers(table.column(name).to_pylist(), path.name, name) for name, label in columns.items()}
    values = np.stack([named[label] for label in strata.LABELS], axis=1)
    ids = _as_text("study_id", table.column("study_id").to_pylist())
    rows = {study: row for row, study in enumerate(ids)}
    if len(rows) < len(ids) or None in rows:
        found = f"{len(ids) - len(rows)} repeats, {ids.count(None)} blanks"
        raise errors.DataError(errors.describe("study_id of labels", where, "each study_id once", found))
    # A study in the table without any mention is labelled, all blank; NaN throughout would mean it has no row at all.
    values[np.isnan(values).all(axis=1)] = strata.BLANK
    padded = np.concatenate([values, np.full((1, len(strata.LABELS)), np.nan)])
    place = [rows.get(study, len(values)) for study in _as_text("text_study", text_study)]
    if min(place, default=0) == len(values):
        raise errors.DataError(errors.describe("labels of other studies", where, "a study_id of 'text_study'", f"none in {len(ids)} rows"))
    return padded[place]


def _matrix(values: list[Any], file: str, column: str) -> np.ndarray:
    where, others = f"column {column!r} of {file!r}", [row for row in values if not isinstance(row, list)]
    widths = {len(row) for row in values if isinstance(row, list)}
    if others or len(widths) != 1 or 0 in widths:
        found = _kind(others[0]) if others else f"{len(widths)} lengths" if len(widths) > 1 else "an empty list" if values else "no row"
        raise errors.DataError(errors.describe("ragged lists", where, "lists of one length in every row", found))
    return np.stack([_numbers(row, file, column, text=False) for row in values])


def _numbers(values: list[Any], file: str, column: str, *, text: bool = True) -> np.ndarray:
    """Returns float64 numbers; None and empty strings are NaN; `text` says whether cells may spell their numbers."""
    value: Any = None
    numbers = []
    try:
        for value in values:
            if not text and isinstance(value, str):
                raise TypeError
            numbers.append(np.nan if value is None or value == "" else float(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise errors.DataError(errors.describe("not a number", f"column {column!r} of {file!r}", "numbers or blanks", _kind(value))) from error
    return np.array(numbers)


def _kind(value: Any) -> str:
    """Returns what a table's value is, as a message says it."""
    kinds = {str: "text", list: "a list", dict: "a record", type(None): "a blank", float: "a number", int: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _read_table(path: pathlib.Path) -> Any:
    """Returns a pyarrow table with a column study_id; CSV columns are read as text, so that ids keep their leading zeros."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    if path.suffix == ".parquet":
        table = _read(path, lambda file: parquet.ParquetFile(file).read())
        _read(path, lambda _: table.validate(full=True))
    else:
        names = _read(path, lambda file: csv.open_csv(file).schema.names)
        as_text = csv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=True, null_values=[""])
        table = _read(path, lambda file: csv.read_csv(file, convert_options=as_text))
    names = table.column_names
    if "study_id" not in names:
        found = f"{len(names)} others{errors.suggest('study_id', names)}"
        raise errors.DataError(errors.describe("column missing", f"table {path.name!r}", "column study_id", found))
    if len(set(names)) < len(names):
        raise errors.DataError(errors.describe("column twice", f"table {path.name!r}", "every column once", f"{len(names) - len(set(names))} repeats"))
    return table


def _load_npy(path: pathlib.Path) -> np.ndarray:
    def read(file: pathlib.Path) -> np.ndarray:
        with file.open("rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    array: np.ndarray = _read(path, read)
    return array


def _load_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as bundle:
        return dict(bundle)


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
    """Returns ids as strings; None and NaN stay None. Refuses fractions, which round long ids, and anything but one id per row."""
    plain = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(plain, list):
        raise errors.DataError(errors.describe("wrong shape", f"ids {name!r}", "one id per row", "a single one"))
    ids: list[str | None] = []
    for value in plain:
        if value is None or value != value:
            ids.append(None)
        elif isinstance(value, str | int):
            ids.append(str(value))
        elif isinstance(value, bytes) and value.isascii():
            ids.append(value.decode())
        else:
            raise errors.DataError(errors.describe("wrong type", f"ids {name!r}", "whole numbers or text", f"a {type(value).__name__}"))
    return ids
