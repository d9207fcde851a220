"""What is wrong with a table or an archive, all of it and row by row, before anything is computed.

The rules are those by which `assemble` refuses (`columns`, `rules`): what passes here without a problem is assembled, and the other way
round, except that a recipe may leave nothing over. Like every message, a problem holds no identifier, no text and no path.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from relink_jax.cohort import columns, rules
from relink_jax.cohort.pairs import Pairs
from relink_jax.cohort.problems import Problem
from relink_jax.cohort.recipes import Recipe
from relink_jax.cohort.rows import Rows


def check(pairs: Pairs, recipe: Recipe, *, look: bool = True) -> list[Problem]:
    """Returns every problem of the rows: those of the whole part first, then by row and column.

    Files are looked for where `look` says so and paths are safe; an image root that is no directory is one problem, not one per row.
    """
    rows = Rows(pairs)
    found = list(rules.of_rows(rows, recipe))
    keep = rows.of_views(recipe)
    keep[[problem.row - 1 for problem in found if problem.column == "view"]] = True  # whatever the view turns out to be
    keep[[problem.row - 1 for problem in found if problem.what == "path"]] = False
    if look:
        found += _absent_images(rows, keep)
    if not rows.text_columns(recipe.text_field):
        found.append(rows.no_text(recipe.text_field))
    else:
        texts = rows.texts(recipe, keep)
        found += [_missing(row, "report_path") for row in texts.missing.tolist()]
        found += rules.of_texts(rows, texts)
    return sorted(found, key=lambda problem: (problem.row, problem.column))


def check_table(path: pathlib.Path, image_root: pathlib.Path, recipe: Recipe, *, look: bool = True, facts: Sequence[str] = ()) -> list[Problem]:
    """Returns every problem of a pairs table: its header and the shape of its rows, then its rows as `check` does.

    Where columns are missing or there twice, or rows have another number of cells, the rows' contents cannot be told and are not checked.
    Raises: DataError: a file that cannot be read or parsed as a table at all.
    """
    path = pathlib.Path(path)
    found, problems = columns.survey(path, facts)
    misspelt = [problem for problem in problems if problem.what == "header" and "twice" not in problem.found]
    if len(misspelt) < len(problems) or not all(column in found for column in (*columns.REQUIRED, *facts)):
        return problems
    return problems + check(Pairs(columns.called(path), found, pathlib.Path(image_root), path.parent, {}, tuple(facts)), recipe, look=look)


def told(problems: Sequence[Problem], where: str, limit: int = 20) -> str:
    """Returns the problems as text: how many there are of each kind, then the first `limit` of them one by one.

    Args: where: the table's or archive's name, as `Pairs.name` or `columns.called` give it.
    """
    if not problems:
        return f"{where}: nothing wrong"
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.what, problem.column), []).append(problem)
    lines = [f"{where}: {len(problems):,} problem{'s' * (len(problems) > 1)} of {len(kinds)} kind{'s' * (len(kinds) > 1)}"]
    for (what, column), alike in sorted(kinds.items(), key=lambda item: -len(item[1])):
        place = (f", column {column!r}" if column else "") + (f", first at data row {alike[0].row}" if alike[0].row else "")
        lines.append(f"  {len(alike):>9,}  {what}{place}")
    lines += ["", *(problem.told(where) for problem in problems[:limit])]
    if len(problems) > limit:
        lines.append(f"... and {len(problems) - limit:,} more")
    return "\n".join(lines)


def _absent_images(rows: Rows, keep: np.ndarray) -> list[Problem]:
    if not rows.pairs.image_root.is_dir():
        return [Problem(0, "image_path", "image root", "a directory", "none that can be read")]
    missing, outside = rows.absent("image_path", keep)
    return [*rules.leading_out("image_path", outside), *(_missing(row, "image_path") for row in missing.tolist())]


def _missing(row: int, column: str) -> Problem:
    return Problem(row + 1, column, "missing file", "a file under its root", "none")
