"""ReXGradient-160K: the three metadata files with view positions as rows of pairs.

`{train,valid,test}_metadata_view_position.json` are each one object: study key -> ImagePath and ImageViewPosition (lists, one
entry per image), Findings, Impression, Indication, Comparison, PatientID, PatientAge, PatientSex, StudyDate.

Not verified: the dataset is gated, and these fields and the spellings of views are those that public code written against it
uses (its card describes them only in part). Fields are therefore read by name, and one that is not there is told by name.
Reference: Zhang et al. (2025), arXiv 2505.00228; huggingface.co/datasets/rajpurkarlab/ReXGradient-160K.
"""

import json
import pathlib
from collections import Counter
from typing import Any

from relink_jax import errors
from relink_jax.cohort import published
from relink_jax.cohort.columns import is_file
from relink_jax.cohort.pairs import Pairs

NAME = "ReXGradient"
PARTS = {"train": "train", "valid": "validate", "test": "test"}
_SECTIONS = ("Indication", "Comparison", "Findings", "Impression")
_FIELDS = (*_SECTIONS, "ImagePath", "ImageViewPosition", "PatientID", "PatientAge", "PatientSex", "StudyDate")
_PREFIX, _FOLDER = "../", "deid_png/"
_VIEWS = {
    **dict.fromkeys(("PA", "POSTERO_ANTERIOR"), "PA"),
    **dict.fromkeys(("AP", "ANTERO_POSTERIOR", "AP (KUB)"), "AP"),
    **dict.fromkeys(("LATERAL", "LAT", "LL", "RL"), "LATERAL"),
    **dict.fromkeys(("", "UNKNOWN", "N/A", "NONE", "ERECT", "SUPINE"), ""),
}


def read(metadata: pathlib.Path, images: pathlib.Path) -> Pairs:
    """Returns the rows of ReXGradient-160K: train, valid and test in this order, each in the order of its file.

    A part whose file is not there is left out and counted. A view that names no projection (UNKNOWN, ERECT, ...) is blank; one
    that names another (LAO, DECUBITUS, AP AXIAL, ...) is OTHER and counted. Nobody labelled the studies. `labelled_text` is
    the impression, or else the findings. `study_date` is the archive's.
    Args:
      metadata: directory of the three files, or its parent.
      images: directory that the archive's image parts were unpacked in: deid_png itself or its parent.
    Raises: DataError: none of the files, not JSON, a study without one of the fields, lists of unequal length; by study number.
    """
    metadata, images = pathlib.Path(metadata), pathlib.Path(images)
    folder = metadata if any(is_file(metadata / _file(part)) for part in PARTS) else metadata / "metadata"
    keep_folder = (images / _FOLDER).is_dir()
    counts: Counter[str] = Counter()
    columns: dict[str, list[str]] = {name: [] for name in published.COLUMNS}
    for part in PARTS:
        if not is_file(folder / _file(part)):
            counts[f"absent_part_{part}"] = 1
            continue
        for number, (key, study) in enumerate(_studies(folder / _file(part)).items(), start=1):
            _append(columns, key, study, part, f"study {number} of {_file(part)!r}", keep_folder, counts)
    if not columns["image_path"]:
        raise errors.DataError(errors.describe("studies", "ReXGradient metadata", f"{_file('train')}, {_file('valid')} or {_file('test')} with images", "none"))
    counts["rows_read"] = len(columns["image_path"])
    return published.pairs(NAME, columns, images, dict(counts))


def _file(part: str) -> str:
    return f"{part}_metadata_view_position.json"


def _studies(path: pathlib.Path) -> dict[str, Any]:
    where = f"metadata {path.name!r}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.DataError(errors.describe("metadata unreadable", where, "a readable file", type(error).__name__)) from error
    except (ValueError, RecursionError) as error:
        raise errors.DataError(errors.describe("metadata damaged", where, "one JSON object in UTF-8", "something else")) from error
    if not isinstance(found, dict):
        raise errors.DataError(errors.describe("metadata", where, "named studies", "another JSON value"))
    return found


def _append(columns: dict[str, list[str]], key: str, study: Any, part: str, where: str, keep_folder: bool, counts: Counter[str]) -> None:
    """Adds a study's rows, one per image."""
    paths, positions = _list(study, "ImagePath", where), _list(study, "ImageViewPosition", where)
    if len(paths) != len(positions):
        raise errors.DataError(errors.describe("ImageViewPosition", where, f"{len(paths)} entries, one for each ImagePath", str(len(positions))))
    texts = {name: _text(study, name, where) for name in _SECTIONS}
    patient = _text(study, "PatientID", where)
    whole = "\n".join(f"{name.upper()}: {text}" for name, text in texts.items() if text)
    shared = {"study_id": key, "report_id": key, "patient_id": patient, "findings": texts["Findings"], "impression": texts["Impression"]}
    shared |= {"report_text": whole, "labelled_text": texts["Impression"] or texts["Findings"], "site": NAME}
    shared |= {"split": PARTS[part], "origin": f"rexgradient/{part}"}
    shared |= {"age_years": _cell(study.get("PatientAge")), "sex": _cell(study.get("PatientSex")), "study_date": _cell(study.get("StudyDate"))}
    counts["archive_studies"] += 1
    counts["studies_without_image"] += not paths
    for path, position in zip(paths, positions, strict=True):
        view = _VIEWS.get(position.upper(), "OTHER")
        counts["views_unknown"] += view == ""
        counts["views_other"] += view == "OTHER"
        bare = path.removeprefix(_PREFIX)
        row = shared | {"image_path": bare if keep_folder else bare.removeprefix(_FOLDER), "image_id": bare, "view": view}
        for name, cells in columns.items():
            cells.append(row.get(name, ""))


def _field(study: Any, name: str, where: str) -> Any:
    if not isinstance(study, dict) or name not in study:
        known = [other for other in study if other not in _FIELDS] if isinstance(study, dict) else []
        raise errors.DataError(errors.describe(f"field {name!r}", where, "it among the study's fields", "no such field") + errors.suggest(name, known))
    return study[name]


def _text(study: Any, name: str, where: str) -> str:
    value = _field(study, name, where)
    if isinstance(value, dict | list | bool):
        raise errors.DataError(errors.describe(f"field {name!r}", where, "text", "another JSON value"))
    return _cell(value)


def _list(study: Any, name: str, where: str) -> list[str]:
    value = _field(study, name, where)
    if not isinstance(value, list) or not all(entry is None or isinstance(entry, str) for entry in value):
        raise errors.DataError(errors.describe(f"field {name!r}", where, "a list of texts", "another JSON value"))
    return [_cell(entry) for entry in value]


def _cell(value: Any) -> str:
    """Returns a value as stripped text; null, NaN and the word None, which the files also use, are ''."""
    text = "" if value is None or value != value else str(value).strip()
    return "" if text == "None" else text
