"""Every number of the page: where it comes from, how it is computed and how it is written.

A number is a formula over JSON pointers into the run's files. `Book.number` resolves and formats it and remembers it, so that
`numbers.json` lists each one with its sources and the page can be checked against the files without trusting this run.
"""

import dataclasses
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relink_jax import errors

Source = tuple[str, str]
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

FORMULAS: dict[str, Callable[..., float]] = {
    "value": lambda a: a,
    "product": lambda a, b: a * b,
    "bits": lambda value, chance: math.log2(value / chance),
    "log2": lambda lift: math.log2(lift),
    "excess_reduction": lambda before, after, chance: (before - after) / (before - chance),
    "residual_risk": lambda seen, unseen: (seen - unseen) / (1 - unseen),
    "count": lambda *draws: len(draws),
    "mean": lambda *draws: statistics.fmean(draws),
    "another_low": lambda *draws: max(0.0, statistics.fmean(draws) - _reach(draws)),
    "another_high": lambda *draws: min(1.0, statistics.fmean(draws) + _reach(draws)),
    "explained": lambda before, after, *draws: (before - statistics.fmean(draws)) / (before - after),
}


def _reach(draws: Sequence[float]) -> float:
    """Returns half the width of the normal-theory 95% prediction interval for one more draw (Student t, n - 1 degrees of freedom)."""
    from scipy import special

    return float(special.stdtrit(len(draws) - 1, 0.975)) * statistics.stdev(draws) * math.sqrt(1 + 1 / len(draws))


@dataclasses.dataclass(frozen=True)
class Number:
    """One number of the page: `text` is what is printed, `value` what it stands for (None is printed as n/a)."""

    id: str
    label: str
    value: float | None
    text: str
    kind: str
    formula: str
    sources: tuple[Source, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of `numbers.json`."""
        return {**dataclasses.asdict(self), "sources": [{"file": file, "pointer": pointer} for file, pointer in self.sources]}


class Book:
    """Resolves numbers in `documents` (workdir-relative file name -> parsed JSON) and keeps each one once."""

    def __init__(self, documents: Mapping[str, Any]) -> None:
        self._documents = documents
        self._numbers: dict[tuple[str, str, tuple[Source, ...]], Number] = {}

    def number(self, kind: str, label: str, *sources: Source, formula: str = "value") -> Number:
        """Returns the number `formula(*sources)` written as `kind` (see `write`); asking twice gives the same number."""
        key = (kind, formula, sources)
        if key not in self._numbers:
            value = evaluate(self._documents, formula, sources)
            self._numbers[key] = Number(f"n{len(self._numbers) + 1}", label, value, write(kind, value), kind, formula, sources)
        return self._numbers[key]

    def entries(self) -> list[dict[str, Any]]:
        """Returns all numbers asked for so far, in order."""
        return [number.to_json() for number in self._numbers.values()]


def seen(text: str) -> str:
    """Returns text with U+FFFD for what no reader sees: control characters, marks that turn the reading direction, lone surrogates."""
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)


def resolve(document: Any, pointer: str) -> Any:
    """Returns the value at a JSON pointer (RFC 6901); `StoreError` when there is none."""
    value = document
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(name)] if isinstance(value, list) else value[name]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise errors.StoreError(errors.describe("number missing", f"pointer {pointer!r}", "an entry of the file", "nothing")) from error
    return value


def has(document: Any, pointer: str) -> bool:
    """Returns whether `document` has an entry at a JSON pointer."""
    try:
        resolve(document, pointer)
    except errors.StoreError:
        return False
    return True


def escape(name: str) -> str:
    """Returns `name` as one part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def evaluate(documents: Mapping[str, Any], formula: str, sources: Sequence[Source]) -> float | None:
    """Returns `formula` over the values at `sources`; None when one is null or the formula is undefined there (0/0, log 0)."""
    values = []
    for file, pointer in sources:
        if file not in documents:
            raise errors.StoreError(errors.describe("source missing", f"file {file!r}", "a file of this run", "nothing"))
        values.append(resolve(documents[file], pointer))
    if any(value is None for value in values):
        return None
    try:
        result = FORMULAS[formula](*[_plain(value) for value in values])
    except (ZeroDivisionError, ValueError):
        return None
    return result if math.isfinite(result) else None


def write(kind: str, value: float | None) -> str:
    """Returns `value` as printed, n/a for None.

    An end of an interval in bits that stands for a lift of 0 is written as minus infinity.
    Kinds: percent, chance, share, points (percentage points), times, bits, auroc, auroc_difference, count, small, plotted (all digits); and
    `percent_end:D`, `points_end`, `bits_end`, the ends of an interval without their unit, percent with D decimals.
    """
    if value is None:
        return "\N{MINUS SIGN}\N{INFINITY}" if kind == "bits_end" else "n/a"
    name, _, digits = kind.partition(":")
    return f"{100 * value:.{int(digits)}f}" if name == "percent_end" else _WRITERS[kind](value)


def end_kind(kind: str, value: float) -> str:
    """Returns the kind in which the ends of an interval around `value` are written: the unit once, the decimals of the value."""
    if kind == "percent":
        return f"percent_end:{_percent_digits(100 * value)}"
    return "points_end" if kind == "points" else kind


def _plain(value: Any) -> float:
    if isinstance(value, str):
        top, _, bottom = value.partition("/")
        return float(top) / float(bottom) if bottom else float(top)
    return value if isinstance(value, (int, float)) else float(value)


def _percent(value: float) -> str:
    return f"{100 * value:.{_percent_digits(100 * value)}f}%"


def _percent_digits(shown: float) -> int:
    size = abs(shown)
    if size == 0:
        return 2
    return 1 if size >= 9.995 else 2 if size >= 0.0995 else min(8, 1 - math.floor(math.log10(size)))


def _times(value: float) -> str:
    digits = 0 if value >= 99.5 else 1 if value >= 9.95 else 2
    return f"{value:,.{digits}f}\N{MULTIPLICATION SIGN}"


def _signed(value: float, digits: int, unit: str) -> str:
    rounded = round(value, digits)
    sign = "\N{MINUS SIGN}" if rounded < 0 else "+" if rounded > 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}{unit}"


def _small(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


_WRITERS: dict[str, Callable[[float], str]] = {
    "percent": _percent,
    "chance": lambda value: f"{100 * value:.3g}%",
    "share": lambda value: f"{100 * value:.0f}%".replace("-", "\N{MINUS SIGN}"),
    "points": lambda value: _signed(100 * value, 2, " pp"),
    "points_end": lambda value: _signed(100 * value, 2, ""),
    "times": _times,
    "bits": lambda value: f"{value:.2f}".replace("-", "\N{MINUS SIGN}"),
    "bits_end": lambda value: f"{value:.2f}".replace("-", "\N{MINUS SIGN}"),
    "auroc": lambda value: f"{value:.3f}",
    "auroc_difference": lambda value: _signed(value, 3, ""),
    "count": lambda value: f"{round(value):,}",
    "small": _small,
    "plotted": repr,
}
