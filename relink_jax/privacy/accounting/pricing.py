"""Epsilons of events and mechanisms by Renyi DP and by the privacy loss distribution.

The headline is Renyi DP (Mironov 2017; Canonne, Kamath & Steinke 2020, arXiv 2004.00010, proposition 12), with the
privacy loss distribution (PLD) beside it, which is tighter. Both are upper bounds on the same guarantee.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.privacy.accounting.events import build_event, class_names
from relink_jax.privacy.accounting.mechanism import VIEWS, Mechanism, remaining_delta

PLD_GRID = 1e-4


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


def epsilon_of(event: Any, view: str, relation: str, deltas: Sequence[float], grid: float = PLD_GRID) -> list[tuple[float, float | None]]:
    """Returns (epsilon, best Renyi order or None) at each delta by one accountant; infinity for a non-private event.

    Raises: UnsoundError: the accountant gives NaN or infinity for an event with noise, or refuses the event.
    """
    names = class_names(event)
    if "NonPrivateDpEvent" in names:
        return [(math.inf, None)] * len(deltas)
    if names == {"NoOpDpEvent"}:
        return [(0.0, None)] * len(deltas)
    found: list[tuple[float, float | None]] = []
    for delta in deltas:
        with quiet():
            accountant = accountant_of(event, view, relation, pld_grid(event, grid))
            epsilon, order = accountant.get_epsilon_and_optimal_order(delta) if view == "rdp" else (accountant.get_epsilon(delta), None)
        epsilon, order = float(epsilon), None if order is None else float(order)
        if not math.isfinite(epsilon) or epsilon < 0:
            raise errors.UnsoundError(errors.describe("epsilon", f"{view} accountant at delta {delta:g}", "a finite number of at least 0", f"{epsilon:g}"))
        found.append((epsilon, order))
    return found


@functools.lru_cache(maxsize=64)
def accountant_of(event: Any, view: str, relation: str, grid: float) -> Any:
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
def quiet() -> Iterator[None]:
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

    Batches above a cap (`Mechanism.overflow_delta`) are paid first: the accountants get what they leave of each delta, and grid entries of
    which nothing is left are None.

    Raises: UsageError: `delta` is not above the overflow; UnsoundError: see `build_event` and `epsilon_of`; also when RDP says 0 for a run
        that used data, which only means that `delta` is too large to resolve it.
    """
    events = {view: build_event(mechanism, view) for view in VIEWS}
    return price_events(events, mechanism.relation, delta, deltas, mechanism.overflow_delta)


def price_events(events: dict[str, Any], relation: str, delta: float, deltas: Sequence[float] = (), overflow: float = 0.0) -> Epsilons:
    """Returns the epsilons of events keyed by accountant view; see `price`."""
    spent = overflow if is_private(events["pld"]) else 0.0
    wanted = [remaining_delta(delta, spent), *(at - spent for at in deltas if at > spent)]
    rdp, pld = ([(None, None)] * len(wanted) if events.get(view) is None else epsilon_of(events[view], view, relation, wanted) for view in VIEWS)
    if rdp[0][0] == 0 and is_private(events["rdp"]):
        raise errors.UnsoundError(
            errors.describe("epsilon", f"rdp accountant at delta {delta:g}", "a positive number for a run on data", "0; choose a smaller delta")
        )
    found = iter(zip(rdp[1:], pld[1:], strict=True))
    nothing: Any = ((None, None), (None, None))
    rows = ((at, *(next(found) if at > spent else nothing)) for at in deltas)
    return Epsilons(delta, rdp[0][0], rdp[0][1], pld[0][0], tuple((at, first[0], second[0]) for at, first, second in rows))


def epsilon_at(mechanism: Mechanism, view: str, delta: float, grid: float = PLD_GRID) -> float | None:
    """Returns one accountant's epsilon at `delta`, None where it has no bound; see `price` for what is raised."""
    event = build_event(mechanism, view)
    if event is None:
        return None
    left = remaining_delta(delta, mechanism.overflow_delta if is_private(event) else 0.0)
    return epsilon_of(event, view, mechanism.relation, [left], grid)[0][0]


def is_private(event: Any) -> bool:
    """Returns whether an event has noise and data: neither `NonPrivateDpEvent` (epsilon infinite) nor `NoOpDpEvent` (0)."""
    names = class_names(event)
    return names != {"NoOpDpEvent"} and "NonPrivateDpEvent" not in names
