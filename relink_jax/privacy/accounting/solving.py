"""Which noise, steps, batch or epsilon go together: any one of them from the other three."""

import dataclasses
import fractions
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.privacy.accounting.events import build_event
from relink_jax.privacy.accounting.mechanism import MULTIPLIERS, STEPS, VIEWS, Mechanism, remaining_delta
from relink_jax.privacy.accounting.pricing import epsilon_at, price, quiet

_TOLERANCE = {"rdp": 1e-5, "pld": 1e-4}
_UNKNOWNS = ("expected_batch_size", "iterations", "noise_multiplier", "epsilon")


@dataclasses.dataclass(frozen=True)
class Solution:
    """One consistent plan of a Poisson-subsampled Gaussian run.

    Attributes:
        n_units, delta: as given.
        expected_batch_size, iterations, noise_multiplier, epsilon: three as given, the one named by `solved_for` found. A given `epsilon` is
            a target: whole numbers may stay below it.
        accountant: whose epsilon was solved for.
        rdp, pld: what the plan costs by each accountant.
    """

    n_units: int
    delta: float
    expected_batch_size: int
    iterations: int
    noise_multiplier: float
    epsilon: float
    solved_for: str
    accountant: str
    rdp: float
    pld: float


@functools.lru_cache(maxsize=64)
def calibrate(
    sampling_probability: fractions.Fraction,
    iterations: int,
    target_epsilon: float,
    target_delta: float,
    accountant: str = "rdp",
    overflow_delta: float = 0.0,
) -> float:
    """Returns the smallest noise multiplier (to 1e-5; 1e-4 by PLD) whose add/remove (and zero-out) epsilon is at most the target at `target_delta`.

    Args:
        accountant: 'rdp', the headline, or 'pld', which needs less noise for the same guarantee and takes longer.
        overflow_delta: part of delta that batches above a cap cost, see `overflow_delta`; the accountant gets the rest.

    Raises: UsageError: targets that are not positive and finite, or out of reach of a noise multiplier within `MULTIPLIERS`.
    """
    import dp_accounting

    _check_accountant(accountant)
    if not (0 < target_epsilon < math.inf and 0 < target_delta < 1 and iterations >= 1):
        found = f"epsilon {target_epsilon:g}, delta {target_delta:g}, {iterations} iterations"
        raise errors.UsageError(errors.describe("privacy target", "mechanism", "a finite epsilon > 0, 0 < delta < 1 and at least one iteration", found))
    left = remaining_delta(target_delta, overflow_delta)
    low, high = MULTIPLIERS
    if accountant == "pld":
        high = min(high, calibrate(sampling_probability, iterations, target_epsilon, target_delta, "rdp", overflow_delta) + _TOLERANCE["pld"])
        low = _below(high, low, lambda multiplier: _epsilon(sampling_probability, iterations, multiplier, left, "pld") > target_epsilon)

    def event(multiplier: float) -> Any:
        return build_event(Mechanism(sampling_probability, float(multiplier), 1.0, iterations), accountant)

    try:
        with quiet():
            return float(
                dp_accounting.calibrate_dp_mechanism(
                    lambda: _fresh(accountant), event, target_epsilon, left, dp_accounting.ExplicitBracketInterval(low, high), tol=_TOLERANCE[accountant]
                )
            )
    except (ValueError, dp_accounting.mechanism_calibration.NoBracketIntervalFoundError) as error:
        found = f"epsilon {target_epsilon:g} at delta {target_delta:g}"
        raise errors.UsageError(errors.describe("privacy target", "mechanism", f"one that a noise multiplier in {list(MULTIPLIERS)} reaches", found)) from error


def _fresh(view: str) -> Any:
    from dp_accounting import pld, rdp

    return rdp.RdpAccountant() if view == "rdp" else pld.PLDAccountant()


def _below(high: float, lowest: float, exceeds: Callable[[float], bool]) -> float:
    """Returns a multiplier at which the epsilon exceeds the target, in steps of a quarter down from `high`: little noise is slow to price."""
    low = high
    while low > lowest:
        low = max(lowest, low / 1.25)
        if exceeds(low):
            break
    return low


def _epsilon(q: fractions.Fraction, iterations: int, multiplier: float, delta: float, view: str) -> float:
    found = epsilon_at(Mechanism(q, float(multiplier), 1.0, iterations), view, delta)
    return math.inf if found is None else found


def _check_accountant(name: str) -> None:
    if name not in VIEWS:
        raise errors.UsageError(errors.describe("accountant", "mechanism", f"one of {list(VIEWS)}", repr(name)) + errors.suggest(str(name), VIEWS))


def solve(
    *,
    n_units: int,
    delta: float,
    expected_batch_size: int | None = None,
    iterations: int | None = None,
    noise_multiplier: float | None = None,
    epsilon: float | None = None,
    accountant: str = "rdp",
) -> Solution:
    """Returns the plan with the one value that is None found: the smallest noise, or the largest whole batch or steps, within `epsilon`.

    The claim is add/remove or zero-out with Poisson sampling at q = expected_batch_size / n_units; noise is relative to the sensitivity.

    Raises: UsageError: not exactly one value missing, a value out of range, or a target that nothing reaches.
    """
    values = (expected_batch_size, iterations, noise_multiplier, epsilon)
    given: dict[str, Any] = dict(zip(_UNKNOWNS, values, strict=True))
    missing = [name for name, value in given.items() if value is None]
    if len(missing) != 1:
        raise errors.UsageError(errors.describe("plan", "mechanism", f"three of {list(_UNKNOWNS)}, to find the fourth", f"{4 - len(missing)} of them"))
    _check_accountant(accountant)
    _check_given(n_units, delta, given)
    return _solved(int(n_units), float(delta), given, missing[0], accountant)


def _solved(n_units: int, delta: float, plan: dict[str, Any], missing: str, accountant: str) -> Solution:
    def cost(batch: int, steps: int) -> float:
        return _epsilon(fractions.Fraction(batch, n_units), steps, plan["noise_multiplier"], delta, accountant)

    if missing == "noise_multiplier":
        q = fractions.Fraction(plan["expected_batch_size"], n_units)
        plan["noise_multiplier"] = calibrate(q, plan["iterations"], plan["epsilon"], delta, accountant)
    elif missing == "iterations":
        plan["iterations"] = _largest(STEPS, lambda steps: cost(plan["expected_batch_size"], steps) <= plan["epsilon"], missing)
    elif missing == "expected_batch_size":
        plan["expected_batch_size"] = _largest(n_units, lambda batch: cost(batch, plan["iterations"]) <= plan["epsilon"], missing)
    batch, steps, multiplier = int(plan["expected_batch_size"]), int(plan["iterations"]), float(plan["noise_multiplier"])
    priced = price(Mechanism(fractions.Fraction(batch, n_units), multiplier, 1.0, steps), delta)
    spent = {"rdp": float(priced.rdp or 0.0), "pld": float(priced.pld or 0.0)}
    wanted = spent[accountant] if missing == "epsilon" else float(plan["epsilon"])
    return Solution(n_units, delta, batch, steps, multiplier, wanted, missing, accountant, **spent)


def _check_given(n_units: int, delta: float, given: dict[str, Any]) -> None:
    limits: dict[str, tuple[float, float]] = {
        "expected_batch_size": (1, n_units),
        "iterations": (1, STEPS),
        "noise_multiplier": MULTIPLIERS,
        "epsilon": (1e-12, 1e6),
    }
    for name, value, (low, high) in [("n_units", n_units, (1, 2**53)), *((name, value, limits[name]) for name, value in given.items())]:
        if value is not None and not low <= value <= high:
            raise errors.UsageError(errors.describe(name, "mechanism", f"{low:g} to {high:g}", f"{value:g}"))
    if not 0 < delta < 1:
        raise errors.UsageError(errors.describe("delta", "mechanism", "a number strictly between 0 and 1", f"{delta:g}"))


def _largest(limit: int, fits: Callable[[int], bool], name: str) -> int:
    """Returns the largest whole number up to `limit` that fits, found by doubling and halving."""
    if not fits(1):
        raise errors.UsageError(errors.describe(name, "mechanism", "at least 1 within the target epsilon", "none; add noise or allow more epsilon"))
    low, high = 1, 2
    while high < limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def steps_of(n_units: int, expected_batch_size: int, epochs: float) -> int:
    """Returns the steps of `epochs` passes: ceil(epochs x N / B)."""
    return max(1, math.ceil(epochs * n_units / expected_batch_size - 1e-9))


def sigma_table(n_units: int, epsilon: float, delta: float, batches: Sequence[int], epochs: Sequence[float], accountant: str = "rdp") -> list[dict[str, Any]]:
    """Returns the noise multiplier for every batch and number of epochs: rows of expected_batch_size, epochs, iterations, noise_multiplier.

    Batches above `n_units` are left out. Raises: UsageError: see `calibrate`.
    """
    rows: list[dict[str, Any]] = []
    for batch in batches:
        for passes in epochs if batch <= n_units else ():
            steps = steps_of(n_units, batch, passes)
            multiplier = calibrate(fractions.Fraction(batch, n_units), steps, epsilon, delta, accountant)
            rows.append({"expected_batch_size": batch, "epochs": passes, "iterations": steps, "noise_multiplier": multiplier})
    return rows
