"""Facts about studies that travel to the audit: by them it tells who is at risk, and whom a hard negative is alike.

A fact is a category (a short word, '' where not recorded) or a number (NaN where not recorded), never a text. Facts are quasi-identifiers:
they stay in the workdir, whose files only their owner can read, and reach results as shares of groups large enough to be shown.

  sex           M, F or O
  age_years     whole years; 90 and older are 90, as the HIPAA Safe Harbor rule has it (45 CFR 164.514(b)(2)(i)(C))
  views         views of the study's images as a sorted set, such as AP or LATERAL+PA
  report_words  words of its report, as white space divides them
  sentences     sentences of its report, see `words.sentences`
  rare_words    how rare the words of its report are among the cohort's reports, in bits, see `words.rarity`
and columns of the pairs table that the run names.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from relink_jax.cohort import words
from relink_jax.cohort.rows import Rows, first_rows

SEX, AGE, VIEWS, REPORT_WORDS, SENTENCES, RARE_WORDS = "sex", "age_years", "views", "report_words", "sentences", "rare_words"
BUILT_IN = (SEX, AGE, VIEWS, REPORT_WORDS, SENTENCES, RARE_WORDS)
OLDEST, _IMPOSSIBLE = 90, 121
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O", "": "", "u": "", "unknown": ""}
_AGE = re.compile(r"(>?) ?(\d{1,3})(?:\.\d*)?(\+?)([YMWDymwd]?)")  # '61', '62.0', DICOM's '045Y', '>89', '90+'


def of_rows(rows: Rows, names: Sequence[str], kept: np.ndarray, study: np.ndarray, counts: dict[str, int]) -> dict[str, np.ndarray]:
    """Returns sex, age, views and the columns `names` of one part's studies, [n] each; a column that the part lacks is not recorded.

    Of rows that disagree the first that says something counts. How many studies had such rows, and how many rows an unreadable cell, is added to
    `counts`, which hold nothing of it where there are none.

    Args: kept: rows that are kept, ascending. study: int32 [kept], 0 .. n - 1, the study of each, numbered by first row.
    """
    readers: dict[str, Callable[[str], str | None]] = {SEX: sex, AGE: age, **{name: str for name in names}}
    n, out = int(study.max(initial=-1)) + 1, {}
    for name, read in readers.items():
        cells, disagreeing, unread = _first(rows, name, read, kept, study, n)
        for what, count in ((f"studies_disagreeing_on_{name}", disagreeing), (f"unreadable_{name}", unread)):
            if count:
                counts[what] = counts.get(what, 0) + count
        out[name] = np.array([float(cell or "nan") for cell in cells]) if name == AGE else cells
    return out | {VIEWS: _views(rows, kept, study, n)}


def of_texts(texts: Sequence[str], study_text: np.ndarray) -> dict[str, np.ndarray]:
    """Returns report_words, sentences and rare_words of the studies, float64 [S] each, from distinct texts and the number of each study's."""
    counted = np.array([[len(text.split()), words.sentences(text)] for text in texts], np.float64).reshape(-1, 2)
    rarity = words.rarity(words.numbered(texts), np.bincount(study_text, minlength=len(texts)))
    return dict(zip((REPORT_WORDS, SENTENCES, RARE_WORDS), (column[study_text] for column in (*counted.T, rarity)), strict=True))


def recorded(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the facts that are recorded for at least one study."""
    return {name: values for name, values in found.items() if ((values == values) & (values != "")).any()}


def sex(cell: str) -> str | None:
    """Returns 'M', 'F', 'O' or '' for a cell; None for one that says none of these."""
    return _SEXES.get(cell.lower())


def age(cell: str) -> str | None:
    """Returns whole years of age as a number in a string, 90 for all from 90 on, '' for a blank; None for what is no age."""
    if not cell:
        return ""
    found = _AGE.fullmatch(cell)
    if not found:
        return None
    above, number, _, unit = found.groups()
    years = int(number) + bool(above) if unit in "Yy" else int(number) // {"m": 12, "w": 52, "d": 365}[unit.lower()]
    return str(min(years, OLDEST)) if years < _IMPOSSIBLE else None


def _first(rows: Rows, column: str, read: Callable[[str], str | None], kept: np.ndarray, study: np.ndarray, n: int) -> tuple[np.ndarray, int, int]:
    """Returns (value of each study, object [n], '' where none; studies whose rows disagree; rows with an unreadable cell)."""
    out = np.full(n, "", object)
    if column not in rows.found:
        return out, 0, 0
    values = [read(cell) for cell in rows.distinct(column)]
    number: dict[str | None, int] = {"": -1, None: -2}
    of_cell = np.array([number[value] if value in number else number.setdefault(value, len(number)) for value in values], np.int64)
    code = of_cell[rows.codes(column)[kept]]
    told = np.flatnonzero(code >= 0)
    code_told, owner = code[told], study[told]
    first = first_rows(owner)
    names = np.array([name for name in number if name], object)
    chosen = np.flatnonzero(first == np.arange(len(told)))
    out[owner[chosen]] = names[code_told[chosen] - 2]
    return out, len(np.unique(owner[code_told[first] != code_told])), int((code == -2).sum())


def _views(rows: Rows, kept: np.ndarray, study: np.ndarray, n: int) -> np.ndarray:
    """Returns the views of each study's kept images as a sorted set, object [n]; '' where none is recorded."""
    if "view" not in rows.found:
        return np.full(n, "", object)
    names = sorted(view for view in rows.distinct("view") if view)
    place = {name: number for number, name in enumerate(names)}
    bit = np.array([1 << place[view] if view else 0 for view in rows.distinct("view")], np.int64)
    held = np.zeros(n, np.int64)
    np.bitwise_or.at(held, study, bit[rows.codes("view")[kept]])
    sets, which = np.unique(held, return_inverse=True)
    return np.array(["+".join(name for name in names if one >> place[name] & 1) for one in sets.tolist()], object)[which]
