"""What a privacy ledger must hold, as two tables: the kind of every field, and what fields must say about each other.

A digest over a ledger shows that nobody edited it by hand, not that its author was right; these rules refuse a ledger that was sealed
with a field missing, of another type, or at odds with the rest, in one sentence that names the field and never its value.
"""

import fractions
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
_SOME = Kind("a list with entries", lambda value: isinstance(value, list) and len(value) > 0)
_OBJECT = Kind("an object", lambda value: isinstance(value, dict))
_RELATION = _one_of("zero_out")  # the one reading of epsilon that publishing the exact N allows
TOLERANCES = {"rdp": 5e-5, "pld": 2e-4, "rdp_order": math.inf}  # the best order is no claim

FIELDS: tuple[tuple[Kind, str], ...] = (
    (_TEXT, "run_id created objective/id objective/sensitivity/derivation optimizer/name optimizer/schedule dataset/unit_map dataset/overlap_group"),
    (_TEXT, "code/relink_jax code/python code/jax code/optax code/dp-accounting code/numpy device/kind clipping/impl noise/rng_impl noise/applied"),
    (_COUNT, "device/count device/processes dataset/n_records_declared dataset/n_units_declared dataset/pairs_per_unit_per_step"),
    (_COUNT, "sampling/expected sampling/physical_cap optimizer/n_parameters"),
    (_STEPS, "steps/planned"),
    (_or_null(_POSITIVE), "objective/sensitivity/add_remove objective/sensitivity/zero_out objective/sensitivity/replace_one"),
    (_POSITIVE, "clipping/norm optimizer/learning_rate"),
    (_NOT_NEGATIVE, "noise/std_absolute noise/multiplier_vs_sensitivity noise/multiplier_vs_clip"),
    (_OBJECT, "objective/settings epsilon/other_unit"),
    (_RATIO, "sampling/q"),
    (_DELTA, "epsilon/delta"),
    (_or_null(_POSITIVE), "epsilon/target epsilon/rdp_order"),
    (_or_null(_NOT_NEGATIVE), "epsilon/rdp epsilon/pld"),
    (_NOT_NEGATIVE, "sampling/overflow_delta epsilon/overflow_delta"),
    (_DIGEST, "optimizer/initial_heads_sha256"),
    (_FLAG, "data_used noise/seed_disclosed sampling/seed_disclosed epsilon/infinite"),
    (_or_null(_FLAG), "selection/tuned"),
    (_or_null(_COUNT), "selection/n_trials"),
    (_or_null(_TEXT), "selection/public_tuning_data dataset/name noise/release_grid"),
    (_one_of(True), "dataset/n_is_public"),
    (_one_of(False), "private_metrics_logged"),
    (_one_of(1, 4), "noise/draws_per_step"),
    (_one_of(*accounting.UNITS), "dataset/unit"),
    (_one_of("per_record", "per_group", "per_pair", "none"), "objective/decomposition"),
    (_one_of("global"), "clipping/mode"),
    (_one_of("unit", "group", "pair", "row"), "clipping/per"),
    (_one_of("poisson"), "sampling/kind"),
    (_one_of("none", "uniform"), "sampling/truncation"),
    (_one_of("float32"), "noise/dtype"),
    (_one_of("research", "careful", "test"), "noise/rng_mode"),
    (_or_null(_OBJECT), "objective/anchors"),
    (_SOME, "events"),
    (_RELATION, "events/*/relation"),
)
ANCHORS: tuple[tuple[Kind, str], ...] = (
    (_TEXT, "provenance"),
    (_ANY_TEXT, "licence"),
    (_COUNT, "count"),
    (_NATURAL, "image_count"),
    (_DIGEST, "sha256"),
    (_one_of(False), "private"),
)
_PER = {"per_record": "unit", "per_group": "group", "per_pair": "pair", "none": "row"}
_FACTORS = {"per_record": 1.0, "per_group": 2.0, "pair_sigmoid": 3.0}
_FORBIDDEN = re.compile(r"(^|_)(seed|key|secret|indices|batch_sizes|realised|norms|loss|losses|patient_id|study_id)(s|$|_(?!disclosed))")
TOP = {
    *("run_id", "created", "code", "device", "dataset", "objective", "clipping", "sampling", "noise", "optimizer", "data_used", "private_metrics_logged"),
    *("selection", "steps", "epsilon", "events"),
}


def _same(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=_CLOSE)


def _target(plan: Mapping[str, Any]) -> bool:
    target, spent = plan["epsilon"]["target"], [value for value in (plan["epsilon"]["rdp"], plan["epsilon"]["pld"]) if value is not None]
    return target is None or not spent or min(spent) <= target * (1 + 1e-6)


def factor(objective: Mapping[str, Any]) -> float | None:
    """Returns the add/remove sensitivity in clip norms that the objective's decomposition and settings allow; None where it has none or is unknown."""
    settings, kind = objective["settings"], objective["decomposition"]
    if objective["id"] == "logit_dp":
        tau, cap = settings.get("temperature"), settings.get("batch_cap")
        if not (_real(tau) and tau > 1e-3 and type(cap) is int and cap >= 1):
            return None
        return 2 / float(tau) * (1 + (cap - 1) / (1 + (cap - 1) * math.exp(-2 / tau)))
    return _FACTORS.get(objective["id"] if kind == "per_pair" else kind)


def _sensitivity(plan: Mapping[str, Any]) -> bool:
    objective, norm = plan["objective"], plan["clipping"]["norm"]
    stated = [objective["sensitivity"][relation] for relation in accounting.RELATIONS]
    if objective["decomposition"] == "none":
        return stated == [None] * 3
    expected = factor(objective)
    return expected is not None and all(
        value is not None and _same(value, accounting.relation_factor(relation) * expected * norm)
        for value, relation in zip(stated, accounting.RELATIONS, strict=True)
    )


def _noise(plan: Mapping[str, Any]) -> bool:
    noise, sensitivity, norm = plan["noise"], plan["objective"]["sensitivity"]["add_remove"], plan["clipping"]["norm"]
    relative = 0.0 if sensitivity is None else noise["std_absolute"] / sensitivity
    return _same(noise["multiplier_vs_sensitivity"], relative) and _same(noise["multiplier_vs_clip"], noise["std_absolute"] / norm)


def _randomness(plan: Mapping[str, Any]) -> bool:
    noise = plan["noise"]
    careful = noise["rng_mode"] == "careful"
    agreed = plan["sampling"]["seed_disclosed"] is noise["seed_disclosed"] and (noise["rng_mode"] == "test") is noise["seed_disclosed"]
    return agreed and noise["draws_per_step"] == (4 if careful else 1) and (noise["release_grid"] is not None) is careful


def _sampling(plan: Mapping[str, Any]) -> bool:
    above, _, below = plan["sampling"]["q"].partition("/")
    expected, units = plan["sampling"]["expected"], plan["dataset"]["n_units_declared"]
    return expected <= units and int(above) * units == expected * int(below or 1)


def _overflow(plan: Mapping[str, Any]) -> bool:
    sampling, objective = plan["sampling"], plan["objective"]
    stated, capped = sampling["overflow_delta"], objective["decomposition"] == "per_pair"
    if not (capped and plan["data_used"]):
        return stated == 0
    if not (type(objective["settings"].get("batch_cap")) is int and objective["settings"]["batch_cap"] == sampling["physical_cap"]):
        return False
    above, _, below = sampling["q"].partition("/")
    q = fractions.Fraction(int(above), int(below or 1))
    cost = accounting.overflow_delta(q, plan["dataset"]["n_units_declared"], sampling["physical_cap"], plan["steps"]["planned"])
    return math.isclose(stated, cost, rel_tol=1e-6, abs_tol=1e-300)


def _truncation(plan: Mapping[str, Any]) -> bool:
    return plan["sampling"]["truncation"] == "none" or plan["objective"]["decomposition"] == "per_record"


def _clipping(plan: Mapping[str, Any]) -> bool:
    return bool(plan["clipping"]["per"] == _PER[plan["objective"]["decomposition"]])


def _units(plan: Mapping[str, Any]) -> bool:
    dataset = plan["dataset"]
    units, records = dataset["n_units_declared"], dataset["n_records_declared"]
    return units == records and dataset["pairs_per_unit_per_step"] == 1 if dataset["unit"] == "pair" else units <= records


def _allowed(plan: Mapping[str, Any]) -> bool:
    return set(plan) == TOP and not any(_FORBIDDEN.search(name) for name in names(plan))


RELATIONS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], bool]], ...] = (
    ("fields", "the fields of a plan, and no seed, key, batch, norm or identifier", _allowed),
    ("target", "an epsilon of at most the target", _target),
    ("number of units", "at most one unit per pair, and one per pair where the unit is a pair", _units),
    ("sampling probability", "the expected batch size divided by the number of units", _sampling),
    (
        "sensitivity",
        "what the objective's decomposition allows: 1, 2 or 3 clip norms or Logit-DP's constant, twice that under replace-one, or none",
        _sensitivity,
    ),
    ("clipping", "a bound on what its decomposition sums", _clipping),
    ("truncation", "truncated batches of per-record objectives only", _truncation),
    ("batch cap", "the cap of its settings, and the delta that batches above it cost", _overflow),
    ("noise", "a standard deviation of the multipliers times sensitivity and clip norm", _noise),
    ("randomness", "one account of whether its seed is known, and draws that fit its mode", _randomness),
)


def check_plan(plan: Mapping[str, Any], where: str) -> None:
    """Raises `StoreError` for the first field of a plan that is missing, of another kind, or at odds with the others."""
    _check_fields(plan, FIELDS, "", where)
    if plan["objective"]["anchors"] is not None:
        _check_fields(plan["objective"]["anchors"], ANCHORS, "objective/anchors/", where)
    for what, expected, holds in RELATIONS:
        if not holds(plan):
            raise errors.StoreError(errors.describe(f"ledger {what}", where, expected, "fields that disagree"))


def _check_fields(plan: Mapping[str, Any], fields: tuple[tuple[Kind, str], ...], prefix: str, where: str) -> None:
    for kind, pointers in fields:
        for pointer in pointers.split():
            for value in _values(plan, pointer.split("/")):
                if value is _MISSING or not kind.holds(value):
                    found = "nothing" if value is _MISSING else f"another value of type {type(value).__name__}"
                    raise errors.StoreError(errors.describe(f"ledger field {prefix}{pointer}", where, kind.words, found))


def names(node: Any) -> Iterator[str]:
    """Yields the name of every field in nested JSON."""
    for key, inner in node.items() if isinstance(node, Mapping) else ():
        yield str(key)
        yield from names(inner)
    for inner in node if isinstance(node, list) else ():
        yield from names(inner)


def agree(stored: Any, again: Any, tolerances: Mapping[str, float] = TOLERANCES, key: str = "") -> bool:
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
