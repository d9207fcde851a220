"""The generic adapter: one table of image-report pairs (CSV or Parquet) becomes a `Cohort`.

One row per image-report pair, with image_path, patient_id, study_id and a text, and more where there is more (see
`columns` for the names). Every check runs over the whole table before anything is left out; each failure names the data
row (counted from 1, header not counted) and column and never the identifier or the text. What is left out is counted.
"""

import math
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from relink_jax import errors
from relink_jax.cohort import columns, reports
from relink_jax.cohort.schema import BLANK, EXPOSURES, LABELS, SPLITS, VIEWS, Cohort
from relink_jax.store import digests

_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}|")
_LABEL_CODES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "-0.0": 0, "": BLANK}


def read_pairs(
    path: pathlib.Path,
    image_root: pathlib.Path,
    *,
    text_field: str,
    views: Sequence[str],
    key: bytes,
    name: str,
    synthetic: bool = False,
    max_missing_share: float = 0.0,
) -> Cohort:
    """Returns the cohort of a pairs table.

    Absent columns: image_id is image_path, report_id is study_id, split is 'test', pretrain_exposure is 'unknown', site is
    '', view is '' and then no row is left out for its view; prior_image_id names no prior image. With text_field 'findings+impression' a table that has neither
    column is read from report_text or report_path instead. report_path is relative to the table's directory.
    Args: views: views kept; key: the workdir's secret for keyed pseudonyms; max_missing_share: in [0, 1), share of the rows
      of kept views whose image (or report file) may be missing.
    Raises: DataError: see the module; UsageError: unknown text_field or view.
    """
    path, image_root = pathlib.Path(path), pathlib.Path(image_root)
    if text_field not in reports.TEXT_FIELDS:
        raise errors.UsageError(
            errors.describe("text_field", "config field 'cohort.text_field'", f"one of {', '.join(reports.TEXT_FIELDS)}", repr(text_field))
            + errors.suggest(text_field, reports.TEXT_FIELDS)
        )
    unknown = [view for view in views if view not in VIEWS]
    if unknown:
        raise errors.UsageError(
            errors.describe("view", "config field 'cohort.views'", "PA, AP, LATERAL or OTHER", repr(unknown[0])) + errors.suggest(unknown[0], VIEWS)
        )
    rows = _Rows(columns.read_columns(path), f"pairs table {path.name!r}")
    rows.check_choices()
    rows.check_identities()
    rows.check_priors()
    labels, labelled = rows.labels()
    rows.check_within_study("labels", labels)
    keep = rows.keep_views(views)
    keep &= rows.present(image_root, "image_path", keep, max_missing_share)
    texts = rows.texts(text_field, path.parent, keep, max_missing_share)
    rows.check_within_study("report text", texts)
    keep &= np.array([bool(text) for text in texts])
    if not keep.any():
        raise errors.DataError(errors.describe("pairs left", rows.where, "at least one image with a report", f"none of {len(texts)} rows ({rows.told()})"))
    return _assemble(rows, np.flatnonzero(keep), texts, labels, labelled, key, name, synthetic, image_root)


class _Rows:
    """The table's columns with defaults filled in, and the checks over them."""

    def __init__(self, found: dict[str, list[str]], where: str) -> None:
        self.found, self.where = found, where
        self.size = len(found["image_path"])
        self.counts: dict[str, int] = {"rows_read": self.size}
        for column in columns.REQUIRED:
            self._no_blanks(column)
        found.setdefault("image_id", found["image_path"])
        found.setdefault("report_id", found["study_id"])
        found.setdefault("split", ["test"] * self.size)
        found.setdefault("pretrain_exposure", ["unknown"] * self.size)
        found.setdefault("site", [""] * self.size)
        for column in ("image_id", "report_id"):
            self._no_blanks(column)

    def at(self, row: int, column: str) -> str:
        """Returns how errors name a cell; `row` counts from 0."""
        return f"{self.where}, data row {row + 1}, column {column!r}"

    def told(self) -> str:
        """Returns the counts as words."""
        return ", ".join(f"{count} {name}" for name, count in self.counts.items())

    def check_choices(self) -> None:
        """Checks split, view and pretrain_exposure against their values, and site, which becomes part of file names."""
        exposures = ["unknown" if value == "" else value for value in self.found["pretrain_exposure"]]
        self.found["pretrain_exposure"] = exposures
        spellings: dict[str, str] = {}
        for row, site in enumerate(self.found["site"]):
            if not _SITE.fullmatch(site):
                expected = "blank, or at most 64 letters A to Z, digits, spaces, '.', '_' and '-' that start with a letter or digit"
                raise errors.DataError(errors.describe("site", self.at(row, "site"), expected, f"{len(site)} characters, some others or too many"))
            if spellings.setdefault(site.lower().replace(" ", "-"), site) != site:
                expected = "names that differ in more than case, spaces and '-'"
                raise errors.DataError(errors.describe("site", self.at(row, "site"), expected, "two spellings of one name"))
        for column, known in (("split", SPLITS), ("view", VIEWS), ("pretrain_exposure", EXPOSURES)):
            allowed = set(known)
            for row, value in enumerate(self.found.get(column, ())):
                if value not in allowed:
                    expected = ", ".join(word for word in known if word) + (" or blank" if "" in known else "")
                    raise errors.DataError(errors.describe("unknown value", self.at(row, column), expected, _kind(value)))

    def check_identities(self) -> None:
        """Checks that pairs are distinct and identifiers nest: one file and study per image, one patient per study, one split per patient."""
        found = self.found
        seen: dict[tuple[str, str], int] = {}
        for row, pair in enumerate(zip(found["image_id"], found["report_id"], strict=True)):
            if pair in seen:
                raise errors.DataError(
                    errors.describe(
                        "duplicate pair (image_id, report_id)", f"{self.where}, data row {row + 1}", "every pair once", f"the pair of data row {seen[pair] + 1}"
                    )
                )
            seen[pair] = row
        self._one("image_id", "image_path", "image", "file")
        self._one("image_path", "image_id", "image file", "image_id")
        self._one("image_id", "study_id", "image", "study")
        self._one("study_id", "patient_id", "study", "patient")
        self._one("patient_id", "split", "patient", "split")
        for column in ("site", "pretrain_exposure"):
            self._one("study_id", column, "study", column)
        for column in ("image_path", "report_path"):
            for row, value in enumerate(found.get(column, ())):
                relative = pathlib.PurePosixPath(value)
                if relative.is_absolute() or ".." in relative.parts:
                    raise errors.DataError(errors.describe("path", self.at(row, column), "one inside its root", "an absolute one or one with '..'"))

    def check_priors(self) -> None:
        """Checks that a prior image is another image of the same patient in the table, of no later study where study_order gives numbers."""
        found, row_of = self.found, dict[str, int]()
        if "prior_image_id" not in found:
            return
        self._one("image_id", "prior_image_id", "image", "prior image")
        for row, image in enumerate(found["image_id"]):
            row_of.setdefault(image, row)
        orders = [_number(cell) for cell in found.get("study_order", [""] * self.size)]
        for row, prior in enumerate(found["prior_image_id"]):
            if not prior:
                continue
            other = row_of.get(prior, -1)
            if other < 0:
                wrong = "an image of the table, or a blank", "one that is in no row"
            elif prior == found["image_id"][row]:
                wrong = "another image than the row's own", "its own"
            elif found["patient_id"][other] != found["patient_id"][row]:
                wrong = "an image of the same patient", f"another patient's, of data row {other + 1}"
            elif orders[other] > orders[row]:
                wrong = "an image of an earlier study", f"one of a later study_order, of data row {other + 1}"
            else:
                continue
            raise errors.DataError(errors.describe("prior image", self.at(row, "prior_image_id"), *wrong))

    def check_within_study(self, what: str, cells: Sequence[object]) -> None:
        """Checks that all rows of a study agree on `cells`, one per row; None is not compared."""
        first: dict[str, int] = {}
        for row, study in enumerate(self.found["study_id"]):
            if cells[row] is None:
                continue
            start = first.setdefault(study, row)
            if cells[start] != cells[row]:
                where = f"{self.where}, data row {row + 1}"
                raise errors.DataError(errors.describe(f"{what} of one study", where, "the same in all its rows", f"another than in data row {start + 1}"))

    def labels(self) -> tuple[list[tuple[int, ...]], list[bool]]:
        """Returns each row's 14 codes and whether anybody labelled it."""
        blank, codes = [BLANK] * self.size, []
        for label in LABELS:
            cells = self.found.get(label)
            codes.append(blank if cells is None else [self._code(row, label, cell) for row, cell in enumerate(cells)])
        rows = list(zip(*codes, strict=True))
        sources = self.found.get("label_source", [""] * self.size)
        return rows, [bool(source) or any(code != BLANK for code in row) for source, row in zip(sources, rows, strict=True)]

    def keep_views(self, views: Sequence[str]) -> np.ndarray:
        """Returns bool [rows]: rows of a kept view; all rows when the table does not say."""
        if "view" not in self.found:
            self.found["view"] = [""] * self.size
            self.counts |= {"dropped_view": 0, "unknown_view": self.size}
            return np.ones(self.size, dtype=bool)
        keep = np.array([view in views for view in self.found["view"]])
        self.counts["dropped_view"] = int((~keep).sum())
        return keep

    def present(self, root: pathlib.Path, column: str, keep: np.ndarray, max_missing_share: float) -> np.ndarray:
        """Returns bool [rows]: the file of `column` is there (rows outside `keep` are not looked at)."""
        there = keep.copy()
        for row in np.flatnonzero(keep):
            there[row] = columns.is_file(root / self.found[column][row])
        lost = np.flatnonzero(keep & ~there)
        self.counts["missing_files" if column == "image_path" else "missing_reports"] = len(lost)
        if len(lost) > max_missing_share * int(keep.sum()):
            found = f"{len(lost)} of {int(keep.sum())} missing, the first at data row {lost[0] + 1}"
            raise errors.DataError(
                errors.describe("missing files", f"{self.where}, column {column!r}", f"a missing share of at most {max_missing_share:g}", found)
            )
        return there

    def texts(self, text_field: str, root: pathlib.Path, keep: np.ndarray, max_missing_share: float) -> list[str | None]:
        """Returns each row's normalised text; '' where it is empty, None where the row is not kept."""
        found = self.found
        has = [column for column in columns.TEXTS if column in found]
        wanted = ("findings", "impression") if text_field == "findings+impression" else (text_field,)
        if not set(wanted) & set(has):
            if text_field in ("findings", "impression"):
                raise errors.DataError(errors.describe("text_field", self.where, f"a column {text_field!r}", f"only {', '.join(has)}"))
            wanted = ("report_text",) if "report_text" in has else ("report_path",)
            if wanted[0] not in has:
                raise errors.DataError(errors.describe("text_field", self.where, "a column 'report_text' or 'report_path'", f"only {', '.join(has)}"))
        blank = [""] * self.size
        if wanted == ("report_path",):
            there = self.present(root, "report_path", keep & np.array([bool(cell) for cell in found["report_path"]]), max_missing_share)
            texts = [self._report(root, row) if there[row] else "" for row in range(self.size)]
        elif len(wanted) == 2:
            texts = [reports.join_sections(*cells) for cells in zip(found.get("findings", blank), found.get("impression", blank), strict=True)]
        else:
            texts = [reports.normalise(cell) for cell in found[wanted[0]]]
        self.counts["empty_text"] = sum(1 for row in range(self.size) if keep[row] and not texts[row])
        return [text if keep[row] else None for row, text in enumerate(texts)]

    def _report(self, root: pathlib.Path, row: int) -> str:
        try:
            return reports.normalise((root / self.found["report_path"][row]).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, OSError) as error:
            raise errors.DataError(errors.describe("report file", self.at(row, "report_path"), "readable UTF-8 text", "other bytes")) from error

    def _code(self, row: int, label: str, cell: str) -> int:
        if cell not in _LABEL_CODES:
            raise errors.DataError(errors.describe("unknown label value", self.at(row, label), "1, 0, -1 or blank", _kind(cell)))
        return _LABEL_CODES[cell]

    def _no_blanks(self, column: str) -> None:
        if "" in self.found[column]:
            raise errors.DataError(errors.describe("identifier", self.at(self.found[column].index(""), column), "a value", "a blank"))

    def _one(self, column: str, of: str, what: str, thing: str) -> None:
        first: dict[str, int] = {}
        cells, values = self.found[column], self.found[of]
        for row, cell in enumerate(cells):
            start = first.setdefault(cell, row)
            if values[start] != values[row]:
                raise errors.DataError(
                    errors.describe(
                        f"{what} under two values of {of!r}",
                        f"{self.where}, data row {row + 1}",
                        f"one {thing} per {what}",
                        f"another than in data row {start + 1}",
                    )
                )


def _kind(value: str) -> str:
    """Returns what sort of cell this is, without repeating it."""
    if not value:
        return "a blank"
    return f"a word of {len(value)} characters" if math.isnan(_number(value)) else "another number"


def _number(cell: str) -> float:
    """Returns the number in a cell; NaN, which compares with nothing, for anything else."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _assemble(
    rows: _Rows, kept: np.ndarray, texts: list, labels: list, labelled: list[bool], key: bytes, name: str, synthetic: bool, image_root: pathlib.Path
) -> Cohort:
    found = rows.found
    image_of: dict[str, int] = {}
    study_of: dict[str, int] = {}
    patient_of: dict[str, int] = {}
    text_of: dict[str, int] = {}
    image_rows: list[int] = []
    study_rows: list[int] = []
    for row in kept.tolist():
        if found["image_id"][row] not in image_of:
            image_of[found["image_id"][row]] = len(image_of)
            image_rows.append(row)
        if found["study_id"][row] not in study_of:
            study_of[found["study_id"][row]] = len(study_of)
            study_rows.append(row)
            patient_of.setdefault(found["patient_id"][row], len(patient_of))
            text_of.setdefault(texts[row], len(text_of))
    rows.counts |= {"studies_without_labels": sum(not labelled[row] for row in study_rows), "images": len(image_of), "studies": len(study_of)}
    rows.counts |= {"patients": len(patient_of), "unique_texts": len(text_of)}
    priors = _priors(rows, image_of, image_rows)
    return Cohort(
        name=name,
        synthetic=synthetic,
        image_root=image_root,
        image_key=_keyed(key, image_of),
        image_study=np.array([study_of[found["study_id"][row]] for row in image_rows], dtype=np.int32),
        image_path=np.array([found["image_path"][row] for row in image_rows], dtype=object),
        image_view=np.array([found["view"][row] for row in image_rows], dtype=object),
        image_prior=priors,
        study_key=_keyed(key, study_of),
        study_patient=np.array([patient_of[found["patient_id"][row]] for row in study_rows], dtype=np.int32),
        study_split=np.array([found["split"][row] for row in study_rows], dtype=object),
        study_site=np.array([found["site"][row] for row in study_rows], dtype=object),
        study_exposure=np.array([found["pretrain_exposure"][row] for row in study_rows], dtype=object),
        study_text=np.array([text_of[texts[row]] for row in study_rows], dtype=np.int32),
        study_labels=np.array([labels[row] for row in study_rows], dtype=np.int8).reshape(-1, len(LABELS)),
        study_has_labels=np.array([labelled[row] for row in study_rows], dtype=bool),
        patient_key=_keyed(key, patient_of),
        text=list(text_of),
        text_key=_keyed(key, text_of),
        counts=rows.counts,
    )


def _priors(rows: _Rows, image_of: dict[str, int], image_rows: list[int]) -> np.ndarray:
    """Returns each image's prior, int32 [I], -1 for none, and counts the priors that are there and those whose own row was left out."""
    if "prior_image_id" not in rows.found:
        return np.full(len(image_rows), -1, np.int32)
    named = [rows.found["prior_image_id"][row] for row in image_rows]
    priors = np.array([image_of.get(image, -1) for image in named], np.int32)
    there = int(np.count_nonzero(priors >= 0))
    rows.counts |= {"images_with_prior": there, "dropped_prior": sum(map(bool, named)) - there}
    return priors


def _keyed(key: bytes, values: dict[str, int]) -> np.ndarray:
    return np.array([digests.keyed(key, value) for value in values])
