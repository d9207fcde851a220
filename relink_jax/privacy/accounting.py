"""Privacy accounting of the Poisson-subsampled Gaussian mechanism; the only module that imports dp_accounting, and lazily.

Headline epsilons come from Renyi DP (Mironov 2017; Canonne, Kamath & Steinke 2020, arXiv 2004.00010, proposition 12), with the
privacy loss distribution (PLD) beside them, which is tighter. Both are upper bounds on the same guarantee.

Design note: dp_accounting's two accountants read one event differently under replace-one. RDP takes the noise multiplier relative to
the actual sensitivity (2C), PLD relative to the per-record norm bound (C) and doubles it itself; feeding both one event makes RDP
look tighter than PLD. So events are built per accountant from (noise stddev, sensitivity), and stored under that view.
"""

import contextlib
import dataclasses
import fractions
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from relink_jax import errors

RELATIONS = ("add_remove", "zero_out", "replace_one")
VIEWS = ("rdp", "pld")
PLD_GRID = 1e-4
GROUP_PLD_GRID = 1e-3
DELTA_GRID = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
MULTIPLIERS = (1e-2, 1e5)  # nonzero noise multipliers with a price; one full step at the smallest has an epsilon near 5,000
STEPS = 10**7
_CLT_MU = 10.0


def _number_in(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


_EVENTS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "SelfComposedDpEvent": {"event": lambda value: isinstance(value, dict), "count": lambda value: type(value) is int and 1 <= value <= STEPS},
    "ComposedDpEvent": {"events": lambda value: isinstance(value, list) and len(value) > 0},
    "PoissonSampledDpEvent": {"sampling_probability": _number_in(0, 1), "event": lambda value: isinstance(value, dict)},
    "GaussianDpEvent": {"noise_multiplier": _number_in(MULTIPLIERS[0] / 2, MULTIPLIERS[1])},
    "NonPrivateDpEvent": {},
    "NoOpDpEvent": {},
}


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """What the guarantee of one training run depends on.

    Attributes:
        sampling_probability: exact inclusion probability q of a unit per step.
        noise_stddev: standard deviation of the noise on the clipped sum.
        sensitivity: add/remove (and zero-out) L2 sensitivity of that sum, as declared by the objective.
        iterations: noisy steps.
        relation: neighboring relation of the claim, one of `RELATIONS`.
        data_used: false for the noise-only control, whose output is independent of the private data.
        disclosed: true when the randomness is known (a fixed seed), which voids any guarantee.
    """

    sampling_probability: fractions.Fraction
    noise_stddev: float
    sensitivity: float
    iterations: int
    relation: str = "add_remove"
    data_used: bool = True
    disclosed: bool = False

    @property
    def noise_multiplier(self) -> float:
        """Noise stddev relative to the add/remove sensitivity."""
        return self.noise_stddev / self.sensitivity


@dataclasses.dataclass(frozen=True)
class Epsilons:
    """Epsilons at one delta; None where an accountant does not support the event, infinity when there is no guarantee.

    Attributes:
        rdp, pld: epsilon by each accountant.
        rdp_order: Renyi order that gave `rdp`.
        at_delta: (delta, rdp, pld) over a grid of deltas.
    """

    delta: float
    rdp: float | None
    rdp_order: float | None
    pld: float | None
    at_delta: tuple[tuple[float, float | None, float | None], ...] = ()


def relation_factor(relation: str) -> float:
    """Returns how many clip norms a per-record sum moves by: 1 for add_remove and zero_out, 2 for replace_one."""
    if relation not in RELATIONS:
        raise errors.UsageError(
            errors.describe("neighboring relation", "mechanism", f"one of {list(RELATIONS)}", repr(relation)) + errors.suggest(relation, RELATIONS)
        )
    return 2.0 if relation == "replace_one" else 1.0


def build_event(mechanism: Mechanism, view: str) -> Any:
    """Returns the DpEvent that accountant `view` ('rdp' or 'pld') must be given, or None where it has no bound for it.

    No-noise mechanisms and disclosed randomness give `NonPrivateDpEvent`; controls without data and zero steps give `NoOpDpEvent`.
    Raises: UnsoundError: noise that is neither 0 nor within `MULTIPLIERS` of the sensitivity, or a sensitivity that is not positive and finite.
    """
    import dp_accounting

    factor = relation_factor(mechanism.relation)
    if not mechanism.data_used or mechanism.iterations == 0:
        return dp_accounting.NoOpDpEvent()
    bounded = 0 < mechanism.sensitivity < math.inf
    if not (bounded and (mechanism.noise_stddev == 0 or MULTIPLIERS[0] * (1 - 1e-9) <= mechanism.noise_multiplier <= MULTIPLIERS[1])):
        found = f"noise {mechanism.noise_stddev:g}, sensitivity {mechanism.sensitivity:g}"
        expected = f"a positive finite sensitivity, and noise of 0 or {MULTIPLIERS[0]:g} to {MULTIPLIERS[1]:g} times it"
        raise errors.UnsoundError(errors.describe("noise or sensitivity", "mechanism", expected, found))
    if mechanism.disclosed or mechanism.noise_stddev == 0:
        return dp_accounting.NonPrivateDpEvent()
    q = float(mechanism.sampling_probability)
    relative = mechanism.noise_multiplier
    if view == "rdp" and factor != 1:
        if q < 1:
            return None
        relative /= factor
    gaussian = dp_accounting.GaussianDpEvent(relative)
    return dp_accounting.SelfComposedDpEvent(dp_accounting.PoissonSampledDpEvent(q, gaussian) if q < 1 else gaussian, mechanism.iterations)


def compose(events: Sequence[Any]) -> Any:
    """Returns the event of releasing the results of several runs on overlapping people; never a sum of epsilons."""
    import dp_accounting

    return events[0] if len(events) == 1 else dp_accounting.ComposedDpEvent(tuple(events))


def epsilon_of(event: Any, view: str, relation: str, deltas: Sequence[float], grid: float = PLD_GRID) -> list[tuple[float, float | None]]:
    """Returns (epsilon, best Renyi order or None) at each delta by one accountant; infinity for a non-private event.

    Raises: UnsoundError: the accountant gives NaN or infinity for an event with noise, or refuses the event.
    """
    names = _class_names(event)
    if "NonPrivateDpEvent" in names:
        return [(math.inf, None)] * len(deltas)
    if names == {"NoOpDpEvent"}:
        return [(0.0, None)] * len(deltas)
    found: list[tuple[float, float | None]] = []
    for delta in deltas:
        with _quiet():
            accountant = _accountant(event, view, relation, pld_grid(event, grid))
            epsilon, order = accountant.get_epsilon_and_optimal_order(delta) if view == "rdp" else (accountant.get_epsilon(delta), None)
        epsilon, order = float(epsilon), None if order is None else float(order)
        if not math.isfinite(epsilon) or epsilon < 0:
            raise errors.UnsoundError(errors.describe("epsilon", f"{view} accountant at delta {delta:g}", "a finite number of at least 0", f"{epsilon:g}"))
        found.append((epsilon, order))
    return found


@functools.lru_cache(maxsize=64)
def _accountant(event: Any, view: str, relation: str, grid: float) -> Any:
    """Returns an accountant that has composed `event`; kept, because comparing runs asks for one event at many deltas."""
    import dp_accounting
    from dp_accounting import pld, rdp

    relations = dp_accounting.NeighboringRelation
    neighbors = {"add_remove": relations.ADD_OR_REMOVE_ONE, "replace_one": relations.REPLACE_ONE, "zero_out": relations.REPLACE_SPECIAL}[relation]
    accountant = rdp.RdpAccountant(neighboring_relation=neighbors) if view == "rdp" else pld.PLDAccountant(neighbors, grid)
    if not accountant.supports(event):
        raise errors.UnsoundError(errors.describe("event", f"{view} accountant", "an event it bounds", type(event).__name__))
    return accountant.compose(event)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back dp_accounting's log lines on Renyi orders it leaves out; leaving one out can only raise epsilon."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def pld_grid(event: Any, finest: float = PLD_GRID) -> float:
    """Returns the spacing of privacy losses for `event`: `finest`, or wider where little noise makes losses so large that it would take minutes.

    Any spacing gives an upper bound; the widest changes epsilons in the thousands by less than 0.1 percent.
    """
    step, total = _loss_reach(event)
    return max(finest, step / 1e6, total / 1e8)


def _loss_reach(event: Any) -> tuple[float, float]:
    """Returns the range of losses of the noisiest single step and, growing with the root of their number, of all steps."""
    if hasattr(event, "events"):
        steps, totals = zip(*map(_loss_reach, event.events), strict=True)
        return max(steps), math.hypot(*totals)
    if hasattr(event, "event"):
        step, total = _loss_reach(event.event)
        return step, total * math.sqrt(getattr(event, "count", 1))
    noise = getattr(event, "noise_multiplier", getattr(event, "standard_deviation", math.inf))
    shift = max(getattr(event, "sensitivities", (1,))) / noise
    return (shift**2 + 20 * shift,) * 2


def price(mechanism: Mechanism, delta: float, deltas: Sequence[float] = ()) -> Epsilons:
    """Returns the epsilons of a mechanism by both accountants at `delta`, and over the grid `deltas`.

    Raises: UnsoundError: see `build_event` and `epsilon_of`; also when RDP says 0 for a run that used data, which only means
        that `delta` is too large to resolve it.
    """
    events = {view: build_event(mechanism, view) for view in VIEWS}
    return price_events(events, mechanism.relation, delta, deltas)


def price_events(events: dict[str, Any], relation: str, delta: float, deltas: Sequence[float] = ()) -> Epsilons:
    """Returns the epsilons of events keyed by accountant view; see `price`."""
    wanted = [delta, *deltas]
    unknown: list[tuple[float | None, float | None]] = [(None, None)] * len(wanted)
    rdp, pld = (unknown if events.get(view) is None else epsilon_of(events[view], view, relation, wanted) for view in VIEWS)
    if rdp[0][0] == 0 and _class_names(events["rdp"]) != {"NoOpDpEvent"}:
        raise errors.UnsoundError(
            errors.describe("epsilon", f"rdp accountant at delta {delta:g}", "a positive number for a run on data", "0; choose a smaller delta")
        )
    grid = tuple((at, a[0], b[0]) for at, a, b in zip(deltas, rdp[1:], pld[1:], strict=True))
    return Epsilons(delta, rdp[0][0], rdp[0][1], pld[0][0], grid)


@functools.lru_cache(maxsize=64)
def calibrate(sampling_probability: fractions.Fraction, iterations: int, target_epsilon: float, target_delta: float) -> float:
    """Returns the smallest noise multiplier (to 1e-5) whose add/remove (and zero-out) RDP epsilon is at most `target_epsilon` at `target_delta`.

    Raises: UsageError: targets that are not positive and finite, or out of reach of a noise multiplier within `MULTIPLIERS`.
    """
    import dp_accounting
    from dp_accounting import rdp

    if not (0 < target_epsilon < math.inf and 0 < target_delta < 1 and iterations >= 1):
        found = f"epsilon {target_epsilon:g}, delta {target_delta:g}, {iterations} iterations"
        raise errors.UsageError(errors.describe("privacy target", "mechanism", "a finite epsilon > 0, 0 < delta < 1 and at least one iteration", found))

    def event(multiplier: float) -> Any:
        return build_event(Mechanism(sampling_probability, float(multiplier), 1.0, iterations), "rdp")

    bracket = dp_accounting.ExplicitBracketInterval(*MULTIPLIERS)
    try:
        with _quiet():
            return float(dp_accounting.calibrate_dp_mechanism(rdp.RdpAccountant, event, target_epsilon, target_delta, bracket, tol=1e-5))
    except (ValueError, dp_accounting.mechanism_calibration.NoBracketIntervalFoundError) as error:
        found = f"epsilon {target_epsilon:g} at delta {target_delta:g}"
        raise errors.UsageError(errors.describe("privacy target", "mechanism", f"one that a noise multiplier in {list(MULTIPLIERS)} reaches", found)) from error


def group_epsilon(mechanism: Mechanism, pairs: int, delta: float) -> float:
    """Returns the PLD epsilon that a pair-level run gives a patient who owns `pairs` pairs, at the same delta.

    Exact for pair-wise Poisson sampling: the patient contributes Binomial(pairs, q) clipped gradients per step, a mixture of Gaussians
    (Charles et al. 2024, arXiv 2407.07737), up to the accountant's grid, which rounds up. Infinity without a guarantee, 0 without data.
    """
    from dp_accounting import dp_event

    plain = build_event(mechanism, "pld")
    if pairs == 1 or type(plain).__name__ in ("NoOpDpEvent", "NonPrivateDpEvent"):
        return epsilon_of(plain, "pld", "add_remove", [delta])[0][0]
    q = float(mechanism.sampling_probability)
    weights = [math.comb(pairs, k) * q**k * (1 - q) ** (pairs - k) for k in range(pairs + 1)]
    event: Any = dp_event.MixtureOfGaussiansDpEvent(mechanism.noise_multiplier, tuple(range(pairs + 1)), tuple(weights))
    if q == 1:
        event = dp_event.GaussianDpEvent(mechanism.noise_multiplier / pairs)
    return epsilon_of(dp_event.SelfComposedDpEvent(event, mechanism.iterations), "pld", "add_remove", [delta], GROUP_PLD_GRID)[0][0]


def gaussian_clt(mechanism: Mechanism, delta: float) -> float | None:
    """Returns the central-limit (Gaussian DP) epsilon, an approximation and never a bound; None without a guarantee or far from the limit.

    It understates where the noise exceeds the sensitivity and can overstate below; a Gaussian parameter above 10 is not reported.
    """
    import dp_accounting

    if type(build_event(mechanism, "pld")).__name__ in ("NoOpDpEvent", "NonPrivateDpEvent"):
        return None
    q, steps = float(mechanism.sampling_probability), mechanism.iterations
    exponent = min(mechanism.noise_multiplier**-2, 100.0)
    mu = math.sqrt(steps) / mechanism.noise_multiplier if q == 1 else q * math.sqrt(steps * math.expm1(exponent))
    return float(dp_accounting.get_epsilon_gaussian(1 / mu, delta)) if mu <= _CLT_MU else None


def membership_advantage(epsilon: float, delta: float) -> float:
    """Returns the largest true-positive minus false-positive rate of any membership test: (e^eps - 1 + 2 delta)/(e^eps + 1)."""
    return 1.0 if epsilon > 700 else (math.expm1(epsilon) + 2 * delta) / (math.exp(epsilon) + 1)


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


def _class_names(event: Any) -> set[str]:
    """Returns the class names of an event's leaves."""
    if hasattr(event, "events"):
        return {name for one in event.events for name in _class_names(one)} - {"NoOpDpEvent"} or {"NoOpDpEvent"}
    return _class_names(event.event) if hasattr(event, "event") else {type(event).__name__}
