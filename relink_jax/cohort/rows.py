"""The rows of one archive or table made ready to be checked and joined: defaults filled in, cells as small integers, texts put together.

Every column becomes integers once (`codes`), so that the checks of `rules` and the joins of `assemble` are array operations.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from relink_jax import errors
from relink_jax.cohort import columns, reports
from relink_jax.cohort.pairs import Pairs
from relink_jax.cohort.paths import inside
from relink_jax.cohort.problems import Problem
from relink_jax.cohort.recipes import Recipe
from relink_jax.cohort.schema import BLANK, LABELS

UNKNOWN = -9  # code of a label cell that is none of the known ones
_LABEL_CODES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "-0.0": 0, "": BLANK}


@dataclasses.dataclass(frozen=True)
class Texts:
    """Distinct normalised texts and, int32 [rows], which one each row has: -1 for rows not kept, and for `unreadable` ones.

    `missing`, `outside` and `unreadable` are the rows, ascending, whose report file is not there (their text is ''), lies behind a link out of
    its root, or is no text.
    """

    distinct: list[str]
    codes: np.ndarray
    missing: np.ndarray
    outside: np.ndarray
    unreadable: np.ndarray

    @functools.cached_property
    def words(self) -> np.ndarray:
        """Int64 [rows]: words of each row's text, 0 where there is none."""
        counted = np.array([text.count(" ") + bool(text) for text in self.distinct] + [0])
        return counted[self.codes]


class Rows:
    """One part's columns by name, equally long, with defaults for those it lacks; `where` is how errors call it.

    Absent columns: image_id is image_path, report_id is study_id, split is 'test', pretrain_exposure is 'unknown' (a blank cell too),
    site and origin are ''.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.pairs, self.where, self.size = pairs, pairs.name, len(pairs)
        found = {name: cells for name, cells in pairs.columns.items()}
        found.setdefault("image_id", found["image_path"])
        found.setdefault("report_id", found["study_id"])
        found.setdefault("split", ["test"] * self.size)
        found["pretrain_exposure"] = [cell or "unknown" for cell in found.get("pretrain_exposure", [""] * self.size)]
        for column in ("site", "origin"):
            found.setdefault(column, [""] * self.size)
        self.found = found
        self._coded: dict[str, tuple[np.ndarray, list[str]]] = {}

    def codes(self, column: str) -> np.ndarray:
        """Returns int32 [rows]: cells of a column as integers in order of first appearance; equal cells have equal ones."""
        return self._coding(column)[0]

    def distinct(self, column: str) -> list[str]:
        """Returns the distinct cells of a column; `codes` are their places."""
        return self._coding(column)[1]

    def _coding(self, column: str) -> tuple[np.ndarray, list[str]]:
        if column not in self._coded:
            known: dict[str, int] = {}
            codes = np.array([known.setdefault(cell, len(known)) for cell in self.found[column]], np.int32)
            self._coded[column] = codes, list(known)
        return self._coded[column]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int8 [rows, 14]: 1, 0, -1, `BLANK`, or `UNKNOWN` for a cell that is none of these."""
        codes = np.full((self.size, len(LABELS)), BLANK, np.int8)
        for place, label in enumerate(LABELS):
            if label in self.found:
                codes[:, place] = [_LABEL_CODES.get(cell, UNKNOWN) for cell in self.found[label]]
        return codes

    @functools.cached_property
    def labelled(self) -> np.ndarray:
        """Bool [rows]: whether anybody labelled the row's study: it has a label source, or a label."""
        sources = np.array([bool(cell) for cell in self.found.get("label_source", [""] * self.size)], bool)
        return sources | (self.labels != BLANK).any(axis=1)

    def of_views(self, recipe: Recipe) -> np.ndarray:
        """Returns bool [rows]: rows of a kept view; all rows when the table has no column for it."""
        if "view" not in self.found:
            return np.ones(self.size, bool)
        return np.array([view in recipe.views for view in self.distinct("view")], bool)[self.codes("view")]

    def absent(self, column: str, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows among `keep` [rows] whose file of `column` is not there, and those whose file a link puts outside its root, ascending.

        Each file is looked for once.
        """
        root = self.pairs.image_root if column == "image_path" else self.pairs.report_root
        known: dict[str, str] = {}
        found: dict[str, list[int]] = {"there": [], "missing": [], "outside": []}
        cells = self.found[column]
        for row in np.flatnonzero(keep).tolist():
            state = known.get(cells[row])
            if state is None:
                state = known[cells[row]] = _state(root, cells[row])
            found[state].append(row)
        return np.array(found["missing"], np.int64), np.array(found["outside"], np.int64)

    def text_columns(self, text_field: str) -> tuple[str, ...]:
        """Returns the columns that a text is put together from; () where the table has none.

        With 'findings+impression', a table that has neither is read from report_text, and one that has no report_text from report_path.
        """
        has = [column for column in columns.TEXTS if column in self.found]
        wanted = tuple(column for column in text_field.split("+") if column in has)
        if wanted or text_field in ("findings", "impression", "labelled_text"):
            return wanted
        return next(((column,) for column in ("report_text", "report_path") if column in has), ())

    def texts(self, recipe: Recipe, keep: np.ndarray) -> Texts:
        """Returns the texts of the rows in `keep`, bool [rows], where there are `text_columns`; report files are read here, each once."""
        wanted = self.text_columns(recipe.text_field)
        files = wanted == ("report_path",)
        cells = [self.found[column] for column in wanted]
        named = keep & np.array([bool(cell) for cell in cells[0]], bool) if files else keep
        missing, outside = self.absent("report_path", named) if files else (np.zeros(0, np.int64),) * 2
        readable = named.copy()
        readable[missing] = readable[outside] = False
        known: dict[object, int] = {}
        distinct: dict[str, int] = {}
        codes, bad = np.full(self.size, -1, np.int32), []
        raw = list(zip(*cells, strict=True)) if len(cells) > 1 else cells[0]
        for row in np.flatnonzero(readable).tolist():
            code = known.get(raw[row])
            if code is None:
                text = self._text(raw[row], files, recipe.mask_placeholders)
                code = known[raw[row]] = -1 if text is None else distinct.setdefault(text, len(distinct))
            codes[row] = code
            if code < 0:
                bad.append(row)
        codes[keep & ~readable] = distinct.setdefault("", len(distinct))
        return Texts(list(distinct), codes, missing, outside, np.array(bad, np.int64))

    def no_text(self, text_field: str) -> Problem:
        """Returns the problem of a table that has no column for a text field."""
        has = ", ".join(column for column in columns.TEXTS if column in self.found)
        expected = f"a column {text_field!r}" if text_field in columns.TEXTS[:2] + columns.TEXTS[3:4] else "a column 'report_text' or 'report_path'"
        return Problem(0, "", "text_field", expected, f"only {has}")

    def _text(self, raw: str | tuple[str, ...], files: bool, masked: bool) -> str | None:
        parts = (raw,) if isinstance(raw, str) else raw
        if files:
            try:
                parts = (pathlib.Path(inside(self.pairs.report_root, parts[0])).read_text(encoding="utf-8"),)
            except (UnicodeDecodeError, OSError, ValueError):
                return None
        if masked:
            parts = tuple(map(reports.mask_placeholders, parts))
        return reports.join_sections(*parts) if len(parts) > 1 else reports.normalise(parts[0])


def first_rows(codes: np.ndarray) -> np.ndarray:
    """Returns int64 [rows]: for each row the first row of the same code, which counts from 0."""
    first = np.zeros(int(codes.max(initial=-1)) + 1, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    return first[codes]


def _state(root: pathlib.Path, cell: str) -> str:
    try:
        return "there" if columns.is_file(inside(root, cell)) else "missing"
    except errors.DataError:
        return "outside" if columns.is_file(root / cell) else "missing"
