"""The rules that rows have to keep, each in one place: `assemble` refuses the first row that breaks one, `check` lists them all.

A rule takes the `Rows` of one part and yields a `Problem` per breach, in row order. No problem holds a cell.
"""

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from relink_jax.cohort import columns
from relink_jax.cohort.problems import Problem
from relink_jax.cohort.recipes import Recipe
from relink_jax.cohort.rows import UNKNOWN, Rows, Texts, first_rows
from relink_jax.cohort.schema import EXPOSURES, LABELS, ORIGINS, SPLITS, VIEWS

_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}|")
_FACT, _FACTS = 64, 1000  # characters of a fact, and values of one; more identify people
_UP = re.compile(r"(?:^|/)\.\.(?:/|$)")


def of_rows(rows: Rows, recipe: Recipe) -> Iterator[Problem]:
    """Yields everything wrong with the rows that can be told before anything is left out; split and site only as far as the recipe uses them."""
    for column in (*columns.REQUIRED, "image_id", "report_id"):
        yield from blanks(rows, column)
    yield from unencodable(rows)
    yield from sites(rows)
    for column, known in (("split", SPLITS), ("view", VIEWS), ("pretrain_exposure", EXPOSURES), ("origin", ORIGINS)):
        if column in rows.found and (column != "split" or recipe.split == "source"):
            yield from choices(rows, column, known)
    yield from identities(rows, recipe)
    for column in ("image_path", "report_path"):
        if column in rows.found:
            yield from unsafe_paths(rows, column)
    yield from priors(rows)
    yield from facts(rows)
    yield from labels(rows)
    yield from within_study(rows, "labels", rows.labels)


def blanks(rows: Rows, column: str) -> Iterator[Problem]:
    """Yields identifiers and paths that are blank."""
    for row, cell in enumerate(rows.found[column]):
        if not cell:
            yield Problem(row + 1, column, "identifier", "a value", "a blank")


def unencodable(rows: Rows) -> Iterator[Problem]:
    """Yields cells with half a surrogate pair, as broken JSON brings, which no file can hold."""
    for column, cells in rows.found.items():
        for row, cell in enumerate(cells):
            if not (cell.isascii() or _encodable(cell)):
                yield Problem(row + 1, column, "characters", "text that UTF-8 can hold", "half of a surrogate pair")


def sites(rows: Rows) -> Iterator[Problem]:
    """Yields sites that cannot be part of a file name, or that would share one."""
    spellings: dict[str, str] = {}
    for row, site in enumerate(rows.found["site"]):
        if not _SITE.fullmatch(site):
            expected = "blank, or at most 64 letters A to Z, digits, spaces, '.', '_' and '-' that start with a letter or digit"
            yield Problem(row + 1, "site", "site", expected, f"{len(site)} characters, some others or too many")
        elif spellings.setdefault(site.lower().replace(" ", "-"), site) != site:
            yield Problem(row + 1, "site", "site", "names that differ in more than case, spaces and '-'", "two spellings of one name")


def choices(rows: Rows, column: str, known: Sequence[str]) -> Iterator[Problem]:
    """Yields cells that are none of the known words."""
    allowed = set(known)
    for row, cell in enumerate(rows.found[column]):
        if cell not in allowed:
            expected = ", ".join(word for word in known if word) + (" or blank" if "" in known else "")
            yield Problem(row + 1, column, "unknown value", expected, kind(cell))


def identities(rows: Rows, recipe: Recipe) -> Iterator[Problem]:
    """Yields pairs that are there twice and identifiers that do not nest: one file and study per image, one patient per study, one split per patient."""
    reports = rows.codes("report_id").astype(np.int64)
    pair = rows.codes("image_id").astype(np.int64) * (int(reports.max(initial=0)) + 1) + reports
    first = first_rows(np.unique(pair, return_inverse=True)[1])
    for row in np.flatnonzero(first != np.arange(rows.size)).tolist():
        yield Problem(row + 1, "", "duplicate pair (image_id, report_id)", "every pair once", f"the pair of data row {first[row] + 1}")
    yield from one(rows, "image_id", "image_path", "image", "file")
    yield from one(rows, "image_path", "image_id", "image file", "image_id")
    yield from one(rows, "image_id", "study_id", "image", "study")
    yield from one(rows, "study_id", "patient_id", "study", "patient")
    if recipe.split == "source":
        yield from one(rows, "patient_id", "split", "patient", "split")
    for column in ("site", "pretrain_exposure", "origin"):
        yield from one(rows, "study_id", column, "study", column)


def one(rows: Rows, column: str, of: str, what: str, thing: str) -> Iterator[Problem]:
    """Yields rows whose cell of `of` is another than in the first row of the same `column`."""
    first, values = first_rows(rows.codes(column)), rows.codes(of)
    for row in np.flatnonzero(values[first] != values).tolist():
        yield Problem(row + 1, "", f"{what} under two values of {of!r}", f"one {thing} per {what}", f"another than in data row {first[row] + 1}")


def unsafe_paths(rows: Rows, column: str) -> Iterator[Problem]:
    """Yields paths that are absolute or have '..'."""
    for row, cell in enumerate(rows.found[column]):
        if cell.startswith("/") or (".." in cell and _UP.search(cell)):
            yield Problem(row + 1, column, "path", "one inside its root", "an absolute one or one with '..'")


def leading_out(column: str, outside: np.ndarray) -> Iterator[Problem]:
    """Yields the rows `outside` of `Rows.absent`."""
    for row in outside.tolist():
        yield Problem(row + 1, column, "path", "one inside its root", "a link that leads out of it")


def priors(rows: Rows) -> Iterator[Problem]:
    """Yields prior images that are not another image of the same patient in the table, or are of a later study where study_order gives numbers."""
    found, row_of = rows.found, dict[str, int]()
    if "prior_image_id" not in found:
        return
    yield from one(rows, "image_id", "prior_image_id", "image", "prior image")
    for row, image in enumerate(found["image_id"]):
        row_of.setdefault(image, row)
    orders = [number(cell) for cell in found.get("study_order", [""] * rows.size)]
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
        yield Problem(row + 1, "prior_image_id", "prior image", *wrong)


def facts(rows: Rows) -> Iterator[Problem]:
    """Yields cells of named facts that are texts rather than categories, and columns that tell nearly every study apart from every other."""
    for column in rows.pairs.facts:
        for row, cell in enumerate(rows.found[column]):
            if len(cell) > _FACT or not cell.isprintable():
                yield Problem(row + 1, column, "fact", f"at most {_FACT} printable characters", f"{len(cell):,} characters, some others or too many")
        if len(rows.distinct(column)) > _FACTS:
            yield Problem(0, column, "distinct values of a fact", f"at most {_FACTS:,}, as categories have", f"{len(rows.distinct(column)):,}")


def labels(rows: Rows) -> Iterator[Problem]:
    """Yields label cells that are no label."""
    for row, place in np.argwhere(rows.labels == UNKNOWN).tolist():
        yield Problem(row + 1, LABELS[place], "unknown label value", "1, 0, -1 or blank", kind(rows.found[LABELS[place]][row]))


def within_study(rows: Rows, what: str, values: np.ndarray, keep: np.ndarray | None = None) -> Iterator[Problem]:
    """Yields rows in `keep` whose `values` [rows, ...] are others than in the first such row of the study."""
    kept = np.arange(rows.size) if keep is None else np.flatnonzero(keep)
    first = kept[first_rows(rows.codes("study_id")[kept])]
    differs = values[first] != values[kept]
    for place in np.flatnonzero(differs if differs.ndim == 1 else differs.any(axis=1)).tolist():
        found = f"another than in data row {first[place] + 1}"
        yield Problem(int(kept[place]) + 1, "", f"{what} of one study", "the same in all its rows", found)


def of_texts(rows: Rows, texts: Texts) -> Iterator[Problem]:
    """Yields report files outside their root or that are no text, and studies with two texts."""
    yield from leading_out("report_path", texts.outside)
    for row in texts.unreadable.tolist():
        yield Problem(row + 1, "report_path", "report file", "readable UTF-8 text", "other bytes")
    yield from within_study(rows, "report text", texts.codes, texts.codes >= 0)


def kind(cell: str) -> str:
    """Returns what sort of cell this is, without repeating it."""
    if not cell:
        return "a blank"
    return f"a word of {len(cell)} characters" if math.isnan(number(cell)) else "another number"


def number(cell: str) -> float:
    """Returns the number in a cell; NaN, which compares with nothing, for anything else."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _encodable(cell: str) -> bool:
    try:
        cell.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
