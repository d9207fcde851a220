"""What a results document may hold at one place: rules with the words an error says of them, and the checks that apply them."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from relink_jax import errors
from relink_jax.report import values

Rule = tuple[str, Callable[[Any], bool]]
METRICS = ("recall", "mrr", "mean_rank", "auc_within_query")
DIRECTIONS = ("i2r", "r2i")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # what steers a terminal, or is no character


def is_int(value: Any) -> bool:
    """Returns whether a value is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Returns whether a value is a finite number."""
    return is_int(value) or (isinstance(value, float) and math.isfinite(value))


TEXT: Rule = ("text", lambda value: isinstance(value, str) and bool(value))
COUNT: Rule = ("a count", lambda value: is_int(value) and value >= 0)
FLAG: Rule = ("true or false", lambda value: isinstance(value, bool))
NUMBER: Rule = ("a finite number", is_number)
SHARE: Rule = ("a number in [0, 1]", lambda value: is_number(value) and 0 <= value <= 1)
OBJECT: Rule = ("an object", lambda value: isinstance(value, dict))
LIST: Rule = ("a list", lambda value: isinstance(value, list))


def or_null(rule: Rule) -> Rule:
    """Returns a rule that null meets too."""
    return (f"{rule[0]} or null", lambda value: value is None or rule[1](value))


def one_of(*known: str) -> Rule:
    """Returns the rule that names the values a place may have."""
    return (f"one of {', '.join(known)}", lambda value: value in known)


CI: dict[str, Rule] = {"method": TEXT, "level": SHARE, "low": or_null(NUMBER), "high": or_null(NUMBER)}
_METRIC: dict[str, Rule] = {
    "name": one_of(*METRICS), "k": or_null(COUNT), "N": or_null(COUNT), "full": FLAG, "direction": one_of(*DIRECTIONS), "stratum": TEXT,
    "value": or_null(NUMBER), "chance": or_null(NUMBER), "lift": or_null(NUMBER), "log2_lift": or_null(NUMBER), "optimistic": or_null(NUMBER),
    "pessimistic": or_null(NUMBER), "n_queries": COUNT, "n_eligible_share": or_null(SHARE), "n_patients": COUNT, "ci": or_null(OBJECT),
    "mc_check": or_null(OBJECT),
}  # fmt: skip


def metric(entry: Any, where: str, at: str, explained: bool) -> None:
    """Checks one entry of `metrics`; a null value needs a reason among the warnings (`explained`)."""
    fields(entry, where, at, _METRIC)
    if entry["name"] == "recall" and (entry["k"] is None or entry["N"] is None):
        fail(at, where, "k and N of a recall", "null")
    if entry["value"] is None:
        if not explained:
            fail(f"{at}/value", where, "a reason in warnings when a value is null", "no warning")
        return
    if entry["chance"] is None:
        fail(f"{at}/chance", where, "chance beside every value", "null")
    if entry["name"] != "mean_rank":
        for name in ("value", "chance"):
            check(entry[name], where, SHARE, f"{at}/{name}")
    interval(entry["ci"], where, f"{at}/ci", B=COUNT)
    interval(entry.get("ci_two_sided"), where, f"{at}/ci_two_sided", blocks=COUNT)


def once_each(entries: list[Any], where: str, at: str) -> None:
    """Refuses a list of metrics in which one comes twice."""
    seen = set()
    for index, entry in enumerate(entries):
        key = tuple(entry[name] for name in ("name", "k", "N", "full", "direction", "stratum"))
        if key in seen:
            fail(f"{at}/{index}", where, "each metric once", f"{key} again")
        seen.add(key)


def interval(ci: Any, where: str, at: str, **more: Rule) -> None:
    """Checks an interval, which may be null; `more` are fields it has besides method, level and ends."""
    if ci is not None:
        fields(ci, where, at, CI | more)
        ordered_ends(ci, where, at)


def ordered_ends(value: Mapping[str, Any], where: str, at: str) -> None:
    """Refuses an interval whose low end is above its high end."""
    if value["low"] is not None and value["high"] is not None and value["low"] > value["high"]:
        fail(at, where, "low <= high", f"{value['low']:g} > {value['high']:g}")


def estimate(value: Any, where: str, at: str, rule: Rule = NUMBER) -> None:
    """Checks a mean over queries with its interval and the number of queries and patients behind it."""
    fields(value, where, at, {"value": or_null(rule), "ci": or_null(OBJECT), "n_queries": COUNT, "n_patients": COUNT})
    interval(value["ci"], where, f"{at}/ci")


def fields(value: Any, where: str, at: str, rules: Mapping[str, Rule]) -> None:
    """Checks that an object has every field of `rules`, and each as its rule says."""
    check(value, where, OBJECT, at)
    for name, rule in rules.items():
        if name not in value:
            fail(f"{at}/{name}", where, rule[0], "nothing")
        check(value[name], where, rule, f"{at}/{name}")


def present(value: Any, where: str, at: str, rules: Mapping[str, Rule]) -> None:
    """Checks those fields of `rules` that an object has."""
    fields(value, where, at, {name: rule for name, rule in rules.items() if name in value})


def each(value: Any, where: str, at: str, check_one: Callable[[Any, str], None]) -> None:
    """Checks every entry of a list."""
    check(value, where, LIST, at)
    for index, entry in enumerate(value):
        check_one(entry, f"{at}/{index}")


def legible(value: Any, where: str, at: str) -> None:
    """Refuses NaN, infinity, control characters and lone surrogates anywhere in a document."""
    if isinstance(value, float) and not math.isfinite(value):
        fail(at, where, "a finite number or null", str(value))
    texts = value if isinstance(value, dict) else [value] if isinstance(value, str) else []
    if any(_CONTROL.search(text) for text in texts):
        fail(at, where, "text without control characters", "some")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in items:
        legible(entry, where, f"{at}/{name}")


def check(value: Any, where: str, rule: Rule, at: str) -> None:
    """Checks one value."""
    if not rule[1](value):
        fail(at, where, rule[0], f"{value!r}"[:60] if is_number(value) or value is None else f"a value of type {type(value).__name__}")


def fail(at: str, where: str, expected: str, found: str) -> None:
    """Raises the `StoreError` that names a place of a document by its JSON pointer."""
    raise errors.StoreError(errors.describe(f"schema violated at {values.seen(at) or '/'}", where, expected, found))
