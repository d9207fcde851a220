"""What a guarantee for one privacy unit means for another: pairs, studies and patients."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from relink_jax import errors
from relink_jax.privacy.accounting.events import build_event
from relink_jax.privacy.accounting.mechanism import Mechanism, overflow_delta, remaining_delta
from relink_jax.privacy.accounting.pricing import epsilon_at, epsilon_of, is_private

UNITS = ("patient", "study", "pair")
GROUP_PLD_GRID = 1e-3
_GROUP_ERROR = 1e-3


def group_epsilon(mechanism: Mechanism, pairs: int, delta: float) -> float:
    """Returns the PLD epsilon that a pair-level run gives a patient who owns `pairs` pairs, at the same delta.

    Exact for pair-wise Poisson sampling of a per-record objective: the patient contributes Binomial(pairs, q) clipped gradients per step, a
    mixture of Gaussians (Charles et al. 2024, arXiv 2407.07737), up to the accountant's grid, which rounds up. For other objectives it is a bound,
    since k added records move the sum by at most k sensitivities. Infinity without a guarantee, 0 without data.

    Raises: UnsoundError: batches that are truncated, or capped at a number that the mechanism does not state, have no such bound here.
    """
    from dp_accounting import dp_event

    plain = build_event(mechanism, "pld")
    if not is_private(plain):
        return epsilon_of(plain, "pld", "add_remove", [delta])[0][0]
    left = remaining_delta(delta, _overflow(mechanism, pairs))
    if pairs == 1:
        relation = mechanism.relation if mechanism.truncated_batch is not None else "add_remove"
        return epsilon_of(plain, "pld", relation, [left])[0][0]
    q = float(mechanism.sampling_probability)
    weights = [math.comb(pairs, k) * q**k * (1 - q) ** (pairs - k) for k in range(pairs + 1)]
    event: Any = dp_event.MixtureOfGaussiansDpEvent(mechanism.noise_multiplier, tuple(range(pairs + 1)), tuple(weights))
    if q == 1:
        event = dp_event.GaussianDpEvent(mechanism.noise_multiplier / pairs)
    grid = max(GROUP_PLD_GRID, math.sqrt(_GROUP_ERROR / mechanism.iterations))  # rounding adds about 2 x iterations x grid^2 to epsilon, here 0.002
    return epsilon_of(dp_event.SelfComposedDpEvent(event, mechanism.iterations), "pld", "add_remove", [left], grid)[0][0]


def _overflow(mechanism: Mechanism, pairs: int) -> float:
    if mechanism.truncated_batch is not None and pairs > 1:
        raise errors.UnsoundError(errors.describe("patient-level epsilon", "mechanism", "batches without truncation", "truncated batches"))
    if pairs == 1 or mechanism.overflow_delta == 0:
        return mechanism.overflow_delta
    if mechanism.batch_cap is None or mechanism.n_units is None:
        raise errors.UnsoundError(errors.describe("patient-level epsilon", "mechanism", "a stated batch cap and number of units", "none"))
    return overflow_delta(mechanism.sampling_probability, mechanism.n_units, mechanism.batch_cap, mechanism.iterations, pairs)


def own_pair_epsilon(mechanism: Mechanism, delta: float) -> float | None:
    """Returns the PLD epsilon that a patient-level (or study-level) run gives one pair of a unit that also owns others.

    Own derivation. The unit is drawn with the same probability whether or not it owns that pair; what changes is its clipped average, from one
    vector of norm at most C to another, so a step's sum moves by at most twice the sensitivity in the steps that draw the unit: the replace-one
    neighbors of the same mechanism, recomputed by PLD (per-record norm bound C, doubled by the accountant). The number is larger than the unit's own
    zero-out epsilon because it is only a bound that holds for any average; it is never above what composing the unit's removal
    with its return would give, (2 epsilon, (1 + e^epsilon) delta). A pair that is all its unit owns has the unit's epsilon.
    """
    return epsilon_at(dataclasses.replace(mechanism, relation="replace_one"), "pld", delta)


def other_unit(mechanism: Mechanism, unit: str, delta: float, owned: Sequence[int] = (2, 5)) -> dict[str, Any]:
    """Returns what a run at `unit` gives the other unit: JSON-ready {'unit', 'explanation', 'rows': [{unit, owns, relation, pld}]}.

    Args:
        unit: 'pair' gives the table of patients who own k pairs, 'patient' the pair of a patient who owns others, 'study' both.
        owned: the numbers k of pairs (or studies) that a patient owns.

    Values are None where there is no guarantee or no bound.
    """
    rows: list[dict[str, Any]] = []
    if unit in ("pair", "study"):
        rows += [{"unit": "patient", "owns": k, "relation": mechanism.relation, "pld": _or_none(mechanism, k, delta)} for k in owned]
    if unit in ("patient", "study"):
        found = own_pair_epsilon(mechanism, delta)
        rows.append({"unit": "pair", "owns": 1, "relation": "replace_one", "pld": None if found is None or math.isinf(found) else found})
    return {"unit": "pair" if unit == "patient" else "patient", "explanation": _EXPLANATIONS[unit], "rows": rows}


def _or_none(mechanism: Mechanism, owned: int, delta: float) -> float | None:
    try:
        found = group_epsilon(mechanism, owned, delta)
    except errors.RelinkError:
        return None
    return None if math.isinf(found) else found


_EXPLANATIONS = {
    "pair": "a patient is in a step as often as any of their pairs is drawn, so what one pair is promised weakens with every pair they own",
    "patient": "one of several pairs of a patient changes that patient's clipped average by at most twice the bound, as if the patient were replaced; "
    "the number is a bound for any average and never above the guarantee of removing the patient and putting them back",
    "study": "a patient with several studies is drawn with each of them; one of several pairs of a study changes its clipped average as if it were replaced",
}
