"""The grid of counts: how many pairs, studies and patients each recipe, text field and length filter makes of the archives at hand.

Published counts rarely say by which recipe they came about. Here everything is counted from the tables, without a look at any image file, and
set beside the counts of "Cross-modal linkage risk in clinical vision-language models" (arXiv 2606.02276, abstract).
"""

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from relink_jax.cohort import recipes, rules
from relink_jax.cohort.assemble import by_length, by_study, split_of
from relink_jax.cohort.pairs import Pairs
from relink_jax.cohort.problems import refuse
from relink_jax.cohort.recipes import Recipe
from relink_jax.cohort.reports import TEXT_FIELDS
from relink_jax.cohort.rows import Rows, Texts
from relink_jax.cohort.schema import SPLITS

MIN_WORDS = (0, 3, 5)
ALL_PARTS = "all parts"
_UNITS = {"pairs": "image_id", "studies": "study_id", "patients": "patient_id"}
_PRESETS = tuple(map(recipes.named, recipes.PRESETS))
_WIDTH = 160


@dataclasses.dataclass(frozen=True)
class Figure:
    """A published count: of `unit` ('pairs' or 'patients') at `site` ('' for both sites together), in one of `splits` ('' for all of them)."""

    count: int
    unit: str
    site: str
    splits: tuple[str, ...]
    told: str


PAPER = (
    Figure(43_793, "pairs", "MIMIC-CXR", ("test",), "held-out pairs of MIMIC-CXR"),
    Figure(29_296, "pairs", "CheXpert-Plus", ("test", ""), "pairs of CheXpert Plus, external; all or a part of them"),
    Figure(406_241, "pairs", "", ("",), "pairs of both"),
    Figure(126_804, "patients", "", ("",), "patients of both"),
)


@dataclasses.dataclass(frozen=True)
class Count:
    """What recipes make of a part with one text field and filter.

    Attributes:
        recipes: names of the recipes that differ in nothing else than text field and filter, so that they count alike.
        counts: by 'pairs', 'studies' and 'patients': int [4], in all, then in each of `SPLITS`.
        ceiling: strict Recall@1, among all studies of the test split, of an oracle that knows the exact text; None without any.
    """

    part: str
    site: str
    recipes: tuple[str, ...]
    text_field: str
    min_words: int
    counts: dict[str, tuple[int, ...]]
    ceiling: float | None

    def of(self, unit: str, split: str) -> int:
        """Returns the count of a unit in a split, '' for all."""
        return self.counts[unit][SPLITS.index(split) + 1 if split else 0]


@dataclasses.dataclass(frozen=True)
class Grid:
    """All counts, and the recipes behind them by name."""

    rows: tuple[Count, ...]
    recipes: dict[str, Recipe]

    def cells(self) -> list[dict[str, Any]]:
        """Returns one flat row per recipe and count, for `store.tables.write_csv`."""
        flat = []
        for row in self.rows:
            numbers = {f"{unit}{'_' + split if split else ''}": row.of(unit, split) for unit in _UNITS for split in ("", *SPLITS)}
            for name in row.recipes:
                named = {"part": row.part, "recipe": name, "recipe_sha256": self._exact(name, row).digest()}
                flat.append({**named, "text_field": row.text_field, "min_words": row.min_words, **numbers, "test_ceiling": row.ceiling})
        return flat

    def text(self) -> str:
        """Returns the grid as text of at most 160 columns, ending with what comes closest to the paper."""
        head = f"    {'text':<20}{'words':>6}" + "".join(f"{unit:>9}{'train':>9}{'validate':>9}{'test':>9}" for unit in _UNITS) + f"{'ceiling':>9}"
        lines: list[str] = []
        before: tuple[str, tuple[str, ...]] = ("", ())
        for row in self.rows:
            if (row.part, row.recipes) != before:
                first = self.recipes[row.recipes[0]]
                lines += (
                    [""] * bool(lines) + textwrap.wrap(f"{row.part}: {', '.join(row.recipes)} ({_choices(first)})", _WIDTH, subsequent_indent="  ") + [head]
                )
                before = (row.part, row.recipes)
            numbers = "".join(f"{count:>9,}" for unit in _UNITS for count in row.counts[unit])
            ceiling = "-" if row.ceiling is None else f"{row.ceiling:.3f}"
            lines.append(f"    {row.text_field:<20}{f'>= {max(1, row.min_words)}':>6}{numbers}{ceiling:>9}")
        note = "ceiling: strict Recall@1 of an oracle that knows the exact text, among all studies of the test split"
        return "\n".join([*lines, "", note, "", *self.closest()])

    def closest(self) -> list[str]:
        """Returns, for each count of the paper, a line on which row comes closest to it."""
        lines = ["beside the counts in the abstract of arXiv 2606.02276:"]
        sites = {figure.site for figure in PAPER if figure.site}
        both = ALL_PARTS if sites <= {row.site for row in self.rows} else ""
        for figure in PAPER:
            what = f"  {figure.count:>7,} {figure.told}: "
            rows = [row for row in self.rows if (row.site == figure.site if figure.site else row.part == both)]
            counted = [(row, split, row.of(figure.unit, split)) for row in rows for split in figure.splits]
            best = min((one for one in counted if one[2]), key=lambda one: abs(one[2] - figure.count), default=None)
            if best is None:
                lines.append(what + "nothing to compare with")
                continue
            row, split, count = best
            named = f"{' = '.join(row.recipes)}, {row.text_field}, at least {max(1, row.min_words)} words, {f'split {split}' if split else 'all splits'}"
            lines += textwrap.wrap(f"{what}closest is {count:,} ({count / figure.count - 1:+.1%}): {named}", _WIDTH, subsequent_indent="      ")
        return [*lines, "A count that is near, or equal, does not make the cohort the same one: the paper's recipe and patient lists are not known here."]

    def _exact(self, name: str, row: Count) -> Recipe:
        return _with(self.recipes[name], row.text_field, row.min_words)


def report(
    parts: Sequence[Pairs],
    chosen: Sequence[Recipe] = _PRESETS,
    text_fields: Sequence[str] = TEXT_FIELDS,
    min_words: Sequence[int] = MIN_WORDS,
) -> Grid:
    """Returns the counts of every recipe x text field x filter for each part, and for several parts together.

    A recipe's own text field and smallest number of words give way to those of the grid; text fields that a part does not have are left out.
    Raises: DataError: rows that break a rule, see `assemble`.
    """
    rows: list[Count] = []
    for part in parts:
        rows += _of_part(part, chosen, text_fields, min_words)
    if len(parts) > 1:
        rows += _together(rows, len(parts))
    return Grid(tuple(rows), {recipe.name: recipe for recipe in chosen})


def _of_part(part: Pairs, chosen: Sequence[Recipe], text_fields: Sequence[str], min_words: Sequence[int]) -> list[Count]:
    rows = Rows(part)
    refuse(rules.of_rows(rows, Recipe()), rows.where)
    alike: dict[str, list[Recipe]] = {}
    for recipe in chosen:
        alike.setdefault(_with(recipe, TEXT_FIELDS[0], 0).digest(), []).append(recipe)
    sorted_by = [(group, rows.of_views(group[0]), split_of(rows, group[0])) for group in alike.values()]
    made: dict[tuple[int, int, int], Count] = {}
    for place, field in enumerate(text_fields):
        if not rows.text_columns(field):
            continue
        read: dict[bool, Texts] = {}
        for number, (group, views, split) in enumerate(sorted_by):
            masked = group[0].mask_placeholders
            if masked not in read:
                read[masked] = rows.texts(dataclasses.replace(group[0], text_field=field), np.ones(rows.size, bool))
            for words in min_words:
                exact = _with(group[0], field, words)
                keep = by_study(rows, by_length(views, read[masked], exact, {}), read[masked], split, exact, {})
                counts, ceiling = _counted(rows, read[masked], split, np.flatnonzero(keep))
                named = tuple(one.name for one in group)
                made[number, place, words] = Count(part.name, part.columns.get("site", [""])[0], named, field, words, counts, ceiling)
    return [made[key] for key in sorted(made)]


def _counted(rows: Rows, texts: Texts, split: np.ndarray, kept: np.ndarray) -> tuple[dict[str, tuple[int, ...]], float | None]:
    """Returns the counts of the rows `kept` by unit, and the ceiling of those in the test split."""
    counts = {}
    for unit, column in _UNITS.items():
        codes = rows.codes(column)
        place = np.full(int(codes.max(initial=-1)) + 1, -1, np.int8)  # of what is left: its split; the rules let it have one only
        place[codes[kept]] = split[kept]
        each = np.bincount(place[place >= 0], minlength=len(SPLITS)).tolist()
        counts[unit] = (sum(each), *each)
    return counts, _ceiling(rows, texts, kept[split[kept] == SPLITS.index("test")])


def _ceiling(rows: Rows, texts: Texts, kept: np.ndarray) -> float | None:
    """Returns the mean over the rows `kept` of 1 / (studies among them with the row's text)."""
    if not len(kept):
        return None
    studies = rows.codes("study_id")
    text_of = np.full(int(studies.max()) + 1, -1, np.int64)
    text_of[studies[kept]] = texts.codes[kept]
    alike = np.bincount(text_of[text_of >= 0], minlength=len(texts.distinct))
    return float((1 / alike[texts.codes[kept]]).mean())


def _together(rows: Sequence[Count], parts: int) -> list[Count]:
    """Returns the sums over parts of the rows that every part has; no person, study or image is in two parts."""
    alike: dict[tuple[tuple[str, ...], str, int], list[Count]] = {}
    for row in rows:
        alike.setdefault((row.recipes, row.text_field, row.min_words), []).append(row)
    summed = []
    for (named, field, words), each in alike.items():
        if len(each) == parts:
            counts = {unit: tuple(map(sum, zip(*(row.counts[unit] for row in each), strict=True))) for unit in _UNITS}
            summed.append(Count(ALL_PARTS, "", named, field, words, counts, None))
    return summed


def _with(recipe: Recipe, text_field: str, words: int) -> Recipe:
    return dataclasses.replace(recipe, text_field=text_field, min_words=words)


def _choices(recipe: Recipe) -> str:
    views = ", ".join(view or "not said" for view in recipe.views)
    images = "all images of a study" if recipe.images == "all" else "first image of a study"
    duplicates = ", one study per text" if recipe.deduplicate == "text" else ""
    split = {"source": "the archive's split", "none": "all test", "hash": f"own split {', '.join(f'{share:g}' for share in recipe.shares)}"}
    return f"views {views}; {images}{duplicates}; {split[recipe.split]}"
