"""What a privacy ledger must hold, as two tables: the kind of every field, and what fields must say about each other.

A digest over a ledger shows that nobody edited it by hand, not that its author was right; these rules refuse a ledger that was sealed
with a field missing, of another type, or at odds with the rest, in one sentence that names the field and never its value.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from relink_jax import errors
from relink_jax.privacy import accounting

_MISSING = object()
_CLOSE = 1e-9
_LARGEST = 1e300
_LARGEST_COUNT = 2**53


class Kind(NamedTuple):
    """What a field must be, in words and as a test of one JSON value."""

    words: str
    holds: Callable[[Any], bool]


def _real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _one_of(*allowed: Any) -> Kind:
    return Kind(f"one of {list(allowed)}", lambda value: any(type(value) is type(one) and value == one for one in allowed))


def _or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.holds(value))


_TEXT = Kind("a text", lambda value: isinstance(value, str) and value.strip() != "")
_ANY_TEXT = Kind("a text, possibly empty", lambda value: isinstance(value, str))
_FLAG = Kind("true or false", lambda value: isinstance(value, bool))
_COUNT = Kind("a whole number of at least 1", _whole(1, _LARGEST_COUNT))
_NATURAL = Kind("a whole number of at least 0", _whole(0, _LARGEST_COUNT))
_STEPS = Kind(f"a whole number of 1 to {accounting.STEPS:,}", _whole(1, accounting.STEPS))
_POSITIVE = Kind("a positive number", lambda value: _real(value) and value > 0)
_NOT_NEGATIVE = Kind("a number of at least 0", lambda value: _real(value) and value >= 0)
_DELTA = Kind("a number between 0 and 1", lambda value: _real(value) and 0 < value < 1)
_DIGEST = Kind("64 hexadecimal digits", lambda value: isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None)
_RATIO = Kind("a fraction such as '1/4'", lambda value: isinstance(value, str) and re.fullmatch(r"[1-9]\d{0,17}(/[1-9]\d{0,17})?", value) is not None)
_LIST = Kind("a list", lambda value: isinstance(value, list))
_SOME = Kind("a list with entries", lambda value: isinstance(value, list) and len(value) > 0)
_OBJECT = Kind("an object", lambda value: isinstance(value, dict))
_RELATION = _one_of("zero_out")  # the one reading of epsilon that publishing the exact N allows
_STATUS = _one_of("planned", "complete", "interrupted")
_UNIT = _one_of("patient", "pair")

FIELDS: tuple[tuple[Kind, str], ...] = (
    (_TEXT, "run_id created statement objective/id objective/anchors/provenance objective/sensitivity/derivation optimizer/name"),
    (_TEXT, "code/relink_jax code/python code/jax code/optax code/dp-accounting code/numpy device/kind clipping/impl noise/rng_impl noise/applied"),
    (_ANY_TEXT, "objective/anchors/licence"),
    (_COUNT, "device/count device/processes dataset/n_records_declared dataset/n_units_declared objective/anchors/count"),
    (_COUNT, "sampling/expected sampling/physical_cap optimizer/n_parameters"),
    (_STEPS, "steps/planned"),
    (_NATURAL, "steps/executed"),
    (_POSITIVE, "objective/temperature objective/sensitivity/add_remove objective/sensitivity/zero_out objective/sensitivity/replace_one"),
    (_POSITIVE, "clipping/norm optimizer/learning_rate"),
    (_NOT_NEGATIVE, "noise/std_absolute noise/multiplier_vs_sensitivity"),
    (_RATIO, "sampling/q"),
    (_DELTA, "epsilon/delta"),
    (_or_null(_POSITIVE), "epsilon/target epsilon/rdp_order"),
    (_or_null(_NOT_NEGATIVE), "epsilon/rdp"),
    (_DIGEST, "objective/anchors/sha256 optimizer/initial_heads_sha256"),
    (_FLAG, "data_used noise/seed_disclosed sampling/seed_disclosed epsilon/infinite"),
    (_or_null(_FLAG), "selection/tuned"),
    (_or_null(_COUNT), "selection/n_trials"),
    (_or_null(_TEXT), "selection/public_tuning_data dataset/name"),
    (_one_of(True), "dataset/n_is_public"),
    (_one_of(False), "objective/anchors/private private_metrics_logged"),
    (_one_of(1), "dataset/pairs_per_unit_per_step noise/draws_per_step"),
    (_UNIT, "dataset/unit"),
    (_one_of("per_record"), "objective/decomposition"),
    (_one_of("global"), "clipping/mode"),
    (_one_of("record"), "clipping/per"),
    (_one_of("not run", "passed"), "clipping/self_test"),
    (_one_of("poisson"), "sampling/kind"),
    (_one_of("none"), "sampling/truncation"),
    (_one_of("float32"), "noise/dtype"),
    (_one_of("research", "test"), "noise/rng_mode"),
    (_STATUS, "steps/status"),
    (_SOME, "events"),
    (_RELATION, "events/*/relation"),
    (_one_of([]), "steps/resumed_from"),
    (_LIST, "released earlier earlier/*/released"),
    (_TEXT, "released/*/artifact earlier/*/released/*/artifact"),
    (_DIGEST, "released/*/sha256 earlier/*/released/*/sha256"),
    (_COUNT, "released/*/step earlier/*/released/*/step"),
    (_TEXT, "earlier/*/run_id earlier/*/created"),
    (_STATUS, "earlier/*/status"),
    (_NATURAL, "earlier/*/steps"),
    (_UNIT, "earlier/*/unit"),
    (_FLAG, "earlier/*/data_used"),
    (_SOME, "earlier/*/events"),
    (_RELATION, "earlier/*/events/*/relation"),
    (_one_of(*accounting.VIEWS), "earlier/*/events/*/accountant_view"),
    (_one_of(1), "earlier/*/events/*/count"),
    (_OBJECT, "earlier/*/events/*/dp_event"),
)


def _same(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=_CLOSE)


def _steps(ledger: Mapping[str, Any]) -> bool:
    steps, released, tested = ledger["steps"], [one["step"] for one in ledger["released"]], ledger["clipping"]["self_test"] == "passed"
    return {
        "planned": steps["executed"] == 0 and not released,
        "interrupted": steps["executed"] <= steps["planned"] and not released and tested,
        "complete": steps["executed"] == steps["planned"] and set(released) == {steps["planned"]} and tested,
    }[steps["status"]]


def _earlier(ledger: Mapping[str, Any]) -> bool:
    return all(
        (run["status"] == "complete") == bool(run["released"]) and sorted(entry["accountant_view"] for entry in run["events"]) == sorted(accounting.VIEWS)
        for run in ledger["earlier"]
    )


def _target(ledger: Mapping[str, Any]) -> bool:
    target, rdp = ledger["epsilon"]["target"], ledger["epsilon"]["rdp"]
    return target is None or rdp is None or rdp <= target * (1 + 1e-6)


def _sensitivity(ledger: Mapping[str, Any]) -> bool:
    stated, norm = ledger["objective"]["sensitivity"], ledger["clipping"]["norm"]
    return all(_same(stated[relation], accounting.relation_factor(relation) * norm) for relation in accounting.RELATIONS)


def _noise(ledger: Mapping[str, Any]) -> bool:
    noise, sensitivity = ledger["noise"], ledger["objective"]["sensitivity"]["add_remove"]
    return _same(noise["std_absolute"], noise["multiplier_vs_sensitivity"] * sensitivity)


def _randomness(ledger: Mapping[str, Any]) -> bool:
    disclosed = ledger["noise"]["seed_disclosed"]
    return ledger["sampling"]["seed_disclosed"] is disclosed and (ledger["noise"]["rng_mode"] == "test") is disclosed


def _sampling(ledger: Mapping[str, Any]) -> bool:
    above, _, below = ledger["sampling"]["q"].partition("/")
    expected, units = ledger["sampling"]["expected"], ledger["dataset"]["n_units_declared"]
    return expected <= units and int(above) * units == expected * int(below or 1)


def _units(ledger: Mapping[str, Any]) -> bool:
    dataset = ledger["dataset"]
    units, records = dataset["n_units_declared"], dataset["n_records_declared"]
    return units == records if dataset["unit"] == "pair" else units <= records


RELATIONS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], bool]], ...] = (
    ("steps", "a status that fits the executed steps, the self-test and what was released", _steps),
    ("earlier runs", "one event per accountant, and releases of complete runs only", _earlier),
    ("target", "an epsilon of at most the target", _target),
    ("number of units", "at most one unit per pair, and one per pair where the unit is a pair", _units),
    ("sampling probability", "the expected batch size divided by the number of units", _sampling),
    ("sensitivity", "the clip norm, and twice that under replace-one, as for every per-record objective", _sensitivity),
    ("noise", "a standard deviation of the multiplier times the sensitivity", _noise),
    ("randomness", "one account of whether its seed is known", _randomness),
)


def check(ledger: Mapping[str, Any], where: str) -> None:
    """Raises `StoreError` for the first field of `ledger` that is missing, of another kind, or at odds with the others."""
    for kind, pointers in FIELDS:
        for pointer in pointers.split():
            for value in _values(ledger, pointer.split("/")):
                if value is _MISSING or not kind.holds(value):
                    found = "nothing" if value is _MISSING else f"another value of type {type(value).__name__}"
                    raise errors.StoreError(errors.describe(f"ledger field {pointer}", where, kind.words, found))
    for what, expected, holds in RELATIONS:
        if not holds(ledger):
            raise errors.StoreError(errors.describe(f"ledger {what}", where, expected, "fields that disagree"))


def agree(stored: Any, again: Any, tolerances: Mapping[str, float], key: str = "") -> bool:
    """Returns whether two JSON values have the same keys and texts, and numbers within 1e-6 of each other or the key's absolute tolerance."""
    if isinstance(stored, dict) and isinstance(again, dict):
        return stored.keys() == again.keys() and all(agree(stored[name], again[name], tolerances, name) for name in again)
    if isinstance(stored, list) and isinstance(again, list):
        return len(stored) == len(again) and all(agree(one, other, tolerances, key) for one, other in zip(stored, again, strict=True))
    if _real(stored) and _real(again):
        return math.isclose(stored, again, rel_tol=1e-6, abs_tol=tolerances.get(key, 0.0))
    return type(stored) is type(again) and bool(stored == again)


def _values(node: Any, pointer: list[str]) -> Iterator[Any]:
    """Yields what `pointer` names in nested objects, with '*' for every entry of a list; `_MISSING` where a part is absent."""
    if not pointer:
        yield node
    elif pointer[0] == "*" and isinstance(node, list):
        for one in node:
            yield from _values(one, pointer[1:])
    else:
        yield from _values(node[pointer[0]], pointer[1:]) if isinstance(node, dict) and pointer[0] in node else (_MISSING,)
