"""The CheXbert labels that come with CheXpert Plus: JSON Lines, one object per image, 14 findings by name.

Despite their names, `report_fixed.json` and the others hold one object a line: `path_to_image` and 1.0, 0.0, -1.0 (uncertain)
or null (not mentioned) for each finding, `No Finding` last. An image without a line was not labelled.
"""

import json
import pathlib
from collections import Counter
from collections.abc import Sequence

from relink_jax import errors
from relink_jax.cohort.schema import LABELS

_CODES = {1: "1", 0: "0", -1: "-1", None: ""}
_LONGEST_LINE = 1_000_000


def read(directory: pathlib.Path, source: str, images: Sequence[str], first: Sequence[int], counts: Counter[str]) -> dict[str, list[str]]:
    """Returns label columns and `label_source` of the rows: the labels of the first image of each study that has any.

    Args: directory: holds {source}_fixed.json, or has a folder chexbert_labels that does; images: each row's path_to_image;
      first: each row's first row of its study; counts: is added to.
    Raises: DataError: no such file, a line that is no object, lacks a finding or has another value, an image twice; by line.
    """
    name = f"{source}_fixed.json"
    path = next((path for path in (directory / name, directory / "chexbert_labels" / name) if path.is_file()), None)
    where = f"label file {name!r}"
    if path is None:
        raise errors.DataError(errors.describe("labels missing", where, "JSON Lines of CheXbert labels", "no file"))
    found = _lines(path, where)
    codes: dict[int, tuple[str, ...]] = {}
    differing = set()
    for image, start in zip(images, first, strict=True):
        line = found.get(image)
        if line is not None and codes.setdefault(start, line) != line:
            differing.add(start)
    counts["studies_unlabelled"] = len(set(first)) - len(codes)
    counts["studies_with_differing_labels"] = len(differing)
    counts["label_lines_unused"] = len(found.keys() - set(images))
    blank = ("",) * len(LABELS)
    rows = [codes.get(start, blank) for start in first]
    columns = {label: [row[position] for row in rows] for position, label in enumerate(LABELS)}
    return columns | {"label_source": [f"chexbert/{source}" if start in codes else "" for start in first]}


def _lines(path: pathlib.Path, where: str) -> dict[str, tuple[str, ...]]:
    """Returns the 14 codes of each image of the file; equal ones are one tuple."""
    found: dict[str, tuple[str, ...]] = {}
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as stream:
            while text := stream.readline(_LONGEST_LINE):
                number += 1
                if not text.strip():
                    continue
                image, codes = _parsed(text, f"{where}, line {number}")
                if image in found:
                    raise errors.DataError(errors.describe("labels", f"{where}, line {number}", "every image once", "an image of an earlier line"))
                found[image] = shared.setdefault(codes, codes)
    except UnicodeDecodeError as error:
        raise errors.DataError(errors.describe("encoding", where, "UTF-8", f"other bytes after line {number}")) from error
    except OSError as error:
        raise errors.DataError(errors.describe("label file unreadable", where, "a readable file", type(error).__name__)) from error
    return found


def _parsed(text: str, where: str) -> tuple[str, tuple[str, ...]]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict) or not isinstance(line.get("path_to_image"), str):
        raise errors.DataError(errors.describe("labels", where, "one JSON object with path_to_image", "something else")) from None
    codes = []
    for label in LABELS:
        value = line.get(label, text)
        if isinstance(value, str | bool | list | dict) or value not in _CODES:
            found = "another value" if label in line else "no such field"
            raise errors.DataError(errors.describe(f"label {label!r}", where, "1, 0, -1 or null", found))
        codes.append(_CODES[value])
    return line["path_to_image"].strip(), tuple(codes)
