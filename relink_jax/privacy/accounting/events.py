"""DpEvents of the mechanisms, one per accountant, and their JSON form.

dp_accounting's two accountants read one event differently under replace-one. RDP takes the noise multiplier relative to the actual
sensitivity (2C), PLD relative to the per-record norm bound (C) and doubles it itself; feeding both one event makes RDP
look tighter than PLD. So events are built per accountant from (noise stddev, sensitivity), and stored under that view.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.privacy.accounting.mechanism import MULTIPLIERS, STEPS, Mechanism, relation_factor


def _number_in(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _whole_in(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


_EVENTS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "SelfComposedDpEvent": {"event": lambda value: isinstance(value, dict), "count": _whole_in(1, STEPS)},
    "ComposedDpEvent": {"events": lambda value: isinstance(value, list) and len(value) > 0},
    "PoissonSampledDpEvent": {"sampling_probability": _number_in(0, 1), "event": lambda value: isinstance(value, dict)},
    "GaussianDpEvent": {"noise_multiplier": _number_in(MULTIPLIERS[0] / 2, MULTIPLIERS[1])},
    "TruncatedSubsampledGaussianDpEvent": {
        "dataset_size": _whole_in(1, 2**53),
        "sampling_probability": _number_in(0, 1),
        "truncated_batch_size": _whole_in(1, 2**53),
        "noise_multiplier": _number_in(MULTIPLIERS[0] / 2, MULTIPLIERS[1]),
    },
    "NonPrivateDpEvent": {},
    "NoOpDpEvent": {},
}


def build_event(mechanism: Mechanism, view: str) -> Any:
    """Returns the DpEvent that accountant `view` ('rdp' or 'pld') must be given, or None where it has no bound for it.

    No-noise mechanisms, unbounded objectives and disclosed randomness give `NonPrivateDpEvent`; controls without data and zero steps give
    `NoOpDpEvent`. RDP has no bound for replace-one with sampling, nor for truncated batches (Ganesh et al. 2025, arXiv 2508.15089; PLD, N public).

    Raises: UnsoundError: noise that is neither 0 nor within `MULTIPLIERS` of the sensitivity, a sensitivity that is not positive and
        finite, or truncated batches without a public N or under add/remove, which hides N.
    """
    import dp_accounting

    factor = relation_factor(mechanism.relation)
    if not mechanism.data_used or mechanism.iterations == 0:
        return dp_accounting.NoOpDpEvent()
    if not mechanism.bounded:
        return dp_accounting.NonPrivateDpEvent()
    _check_noise(mechanism)
    if mechanism.disclosed or mechanism.noise_stddev == 0:
        return dp_accounting.NonPrivateDpEvent()
    if mechanism.truncated_batch is not None:
        return None if view == "rdp" else _truncated(mechanism)
    q = float(mechanism.sampling_probability)
    relative = mechanism.noise_multiplier
    if view == "rdp" and factor != 1:
        if q < 1:
            return None
        relative /= factor
    gaussian = dp_accounting.GaussianDpEvent(relative)
    return dp_accounting.SelfComposedDpEvent(dp_accounting.PoissonSampledDpEvent(q, gaussian) if q < 1 else gaussian, mechanism.iterations)


def _check_noise(mechanism: Mechanism) -> None:
    bounded = 0 < mechanism.sensitivity < math.inf
    if not (bounded and (mechanism.noise_stddev == 0 or MULTIPLIERS[0] * (1 - 1e-9) <= mechanism.noise_multiplier <= MULTIPLIERS[1])):
        found = f"noise {mechanism.noise_stddev:g}, sensitivity {mechanism.sensitivity:g}"
        expected = f"a positive finite sensitivity, and noise of 0 or {MULTIPLIERS[0]:g} to {MULTIPLIERS[1]:g} times it"
        raise errors.UnsoundError(errors.describe("noise or sensitivity", "mechanism", expected, found))


def _truncated(mechanism: Mechanism) -> Any:
    import dp_accounting

    if mechanism.n_units is None or mechanism.relation == "add_remove":
        raise errors.UnsoundError(
            errors.describe(
                "truncated batches", "mechanism", "a public number of units and zero_out or replace_one", f"{mechanism.n_units}, {mechanism.relation}"
            )
        )
    q = float(mechanism.sampling_probability)
    event = dp_accounting.TruncatedSubsampledGaussianDpEvent(mechanism.n_units, q, mechanism.truncated_batch, mechanism.noise_multiplier)
    return dp_accounting.SelfComposedDpEvent(event, mechanism.iterations)


def compose(events: Sequence[Any]) -> Any:
    """Returns the event of releasing the results of several runs on overlapping people; never a sum of epsilons."""
    import dp_accounting

    return events[0] if len(events) == 1 else dp_accounting.ComposedDpEvent(tuple(events))


def event_to_json(event: Any) -> dict[str, Any]:
    """Returns a DpEvent as nested JSON-ready dicts with dp_accounting's class and field names."""
    return _plain(event.to_named_tuple())


def event_from_json(value: Any) -> Any:
    """Returns the DpEvent of `event_to_json`; `StoreError` for anything but the event classes written here."""
    from dp_accounting import dp_event

    name = value.get("class_name") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in _EVENTS:
        raise errors.StoreError(errors.describe("event", "privacy ledger", f"one of {list(_EVENTS)}", repr(name)))
    fields = {key: item for key, item in value.items() if key not in ("class_name", "module_name")}
    rules = _EVENTS[name]
    if set(fields) != set(rules) or not all(rule(fields[key]) for key, rule in rules.items()):
        raise errors.StoreError(errors.describe("event", "privacy ledger", f"{name} with {sorted(rules) or 'no fields'} in range", "other fields or values"))
    event = getattr(dp_event, name)(**{key: _event_or_value(item) for key, item in fields.items()})
    if event_to_json(event) != value:
        raise errors.StoreError(errors.describe("event", "privacy ledger", f"{name} of {dp_event.__name__}", "one of another module"))
    return event


def _event_or_value(item: Any) -> Any:
    if isinstance(item, dict):
        return event_from_json(item)
    return tuple(event_from_json(one) for one in item) if isinstance(item, list) else item


def _plain(named: Any) -> dict[str, Any]:
    fields: dict[str, Any] = named._asdict()
    for key, item in fields.items():
        if hasattr(item, "_asdict"):
            fields[key] = _plain(item)
        elif isinstance(item, list | tuple):
            fields[key] = [_plain(one) for one in item]
    return fields


def class_names(event: Any) -> set[str]:
    """Returns the class names of an event's leaves."""
    if hasattr(event, "events"):
        return {name for one in event.events for name in class_names(one)} - {"NoOpDpEvent"} or {"NoOpDpEvent"}
    return class_names(event.event) if hasattr(event, "event") else {type(event).__name__}
