"""What the page's sentences are made of: fragments, which are text or numbers, and the reader's names of things."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from relink_jax.report import values
from relink_jax.report.evidence import Cell, Evidence, Row


@dataclasses.dataclass(frozen=True)
class Strong:
    """A number printed in bold."""

    number: values.Number


Fragments = list[str | values.Number | Strong]

HEADS = {"original": "original heads", "none": "as given", "dp": "DP-SGD heads", "noise_only": "noise only, no data", "random": "random heads"}


def head_name(head: str) -> str:
    """Returns the reader's name of a head arm."""
    return HEADS.get(head, f"{head.replace('_', ' ')} heads")


def own_heads(evidence: Evidence, row: Row) -> str:
    """Returns what a model's own heads are called; of an ensemble, how its members' scores become one."""
    ensemble = evidence.ensembles.get(row.model)
    return f"ensemble, {ensemble['rule']}" if ensemble else head_name(row.head)


def with_interval(cell: Cell, strong: bool = False) -> Fragments:
    """Returns `value [low, high]`, or the value alone without an interval, or n/a; the value in bold when `strong`."""
    if cell.value is None:
        return ["n/a"]
    shown: str | values.Number | Strong = Strong(cell.value) if strong else cell.value
    if cell.low is None or cell.high is None:
        return [shown]
    return [shown, " [", cell.low, ", ", cell.high, "]"]


def guarantee(evidence: Evidence, arm: Row, dataset: str) -> Fragments:
    """Returns epsilon and delta of an arm in brackets, with what earlier releases add; empty where it has none."""
    file = evidence.file(arm, dataset)
    if file is None or evidence.documents[file]["model"]["dp"] is None:
        return []
    described = evidence.documents[file]["model"]["dp"]
    epsilon = evidence.book.number("small", f"epsilon of {arm.model}", (file, "/model/dp/epsilon"))
    delta = evidence.book.number("small", f"delta of {arm.model}", (file, "/model/dp/delta"))
    earlier: Fragments = []
    if described.get("runs", 1) > 1:  # an earlier release on the same people adds to this one
        runs = evidence.book.number("count", f"released runs of {arm.model}", (file, "/model/dp/runs"))
        total = described["epsilon_all_runs"]
        spent: Fragments = (
            ["not bounded"] if total is None else [evidence.book.number("small", f"epsilon of all runs of {arm.model}", (file, "/model/dp/epsilon_all_runs"))]
        )
        earlier = ["; ", *spent, " over the ", runs, " runs released on these people"]
    return [" (\N{GREEK SMALL LETTER EPSILON} = ", epsilon, ", \N{GREEK SMALL LETTER DELTA} = ", delta, f" per {described['unit']}", *earlier, ")"]


def must(number: values.Number | None) -> str | values.Number:
    """Returns a number, n/a where there is none."""
    return "n/a" if number is None else number


def value_of(number: Any) -> float:
    """Returns a number's value, NaN where there is none."""
    return float("nan") if isinstance(number, str) or number.value is None else float(number.value)


def shared_prefix(names: Sequence[str]) -> str:
    """Returns the hyphenated words that all names begin with; empty for a single name."""
    shared: list[str] = []
    for words_at in zip(*[name.split("-")[:-1] for name in names], strict=False) if len(names) > 1 else ():
        if len(set(words_at)) > 1:
            break
        shared.append(f"{words_at[0]}-")
    return "".join(shared)
