"""One run's promise said in other words: another relation, another unit, a test's advantage, a guess, a search over settings.

Each conversion says whether it is exact (the accountant's own bound on the same mechanism, priced again) or a bound that follows
from epsilon and delta alone and may be loose.
"""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from relink_jax import errors
from relink_jax.privacy import accounting
from relink_jax.privacy import ledger as ledgers

INFINITE = "infinite"
PER_PATIENT = (1, 2, 3, 5, 10)
MEAN_TRIALS = (10, 20)
TARGET = ("patient", "zero_out")
_GENERIC_LIMIT = 10.0  # beyond this epsilon the generic replace-one delta exceeds any useful value


def shown(value: float | None) -> float | str | None:
    """Returns a number for the document: None stays, infinity becomes `INFINITE`, which JSON can hold."""
    return None if value is None else INFINITE if math.isinf(value) else float(value)


def mechanism_of(ledger: Mapping[str, Any]) -> accounting.Mechanism:
    """Returns the mechanism that a flat ledger describes, under the neighboring relation of its events."""
    return dataclasses.replace(ledgers.mechanism_of(ledger), relation=ledger["events"][0]["relation"])


def conversions(ledger: Mapping[str, Any], mechanism: accounting.Mechanism) -> list[dict[str, Any]]:
    """Returns what the recorded epsilon means elsewhere: rows of {to, value, delta, kind, how}; none without data or without a guarantee."""
    epsilon, delta = ledger["epsilon"], ledger["epsilon"]["delta"]
    if not ledger["data_used"] or epsilon["infinite"]:
        return []
    stated = epsilon["rdp"] if epsilon["rdp"] is not None else epsilon["pld"]
    rows = [*_relations(mechanism, stated, delta), *_other_unit(ledger)]
    advantage, posterior = accounting.membership_advantage(stated, delta), accounting.posterior(0.5, stated, delta)
    rows.append(_row("membership advantage", advantage, None, "bound", "largest true minus false positive rate of any test: (e^eps - 1 + 2 delta)/(e^eps + 1)"))
    rows.append(_row("posterior from a prior of 50%", posterior, None, "bound", "mean belief of an attacker who held it for even odds"))
    return rows


def _row(to: str, value: float, delta: float | None, kind: str, how: str) -> dict[str, Any]:
    return {"to": to, "value": shown(value), "delta": delta, "kind": kind, "how": how}


def _relations(mechanism: accounting.Mechanism, stated: float, delta: float) -> list[dict[str, Any]]:
    rows = []
    if mechanism.relation != "replace_one":
        twin = {"add_remove": "zero_out", "zero_out": "add_remove"}[mechanism.relation]
        same = accounting.price(dataclasses.replace(mechanism, relation=twin), delta) if mechanism.truncated_batch is None else None
        if same is not None:
            value = same.rdp if same.rdp is not None else same.pld
            if value is not None:
                rows.append(_row(f"epsilon, {twin.replace('_', '-').replace('add-remove', 'add/remove')}", value, delta, "exact", "same event, same number"))
        swapped = accounting.price(dataclasses.replace(mechanism, relation="replace_one"), delta).pld
        if swapped is not None:
            rows.append(_row("epsilon, replace-one", swapped, delta, "exact", "the same mechanism priced again by PLD"))
        if stated <= _GENERIC_LIMIT:
            generic, looser = accounting.replace_one_bound(stated, delta)
            rows.append(_row("epsilon, replace-one, generic", generic, looser, "bound", "2 eps at (1 + e^eps) delta, true of any mechanism"))
    return rows


def _other_unit(ledger: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the epsilon of one pair of a unit that owns several, as the ledger states it; patients of a pair-level run have their own table."""
    other = ledger["epsilon"].get("other_unit") or {}
    pairs = [row for row in other.get("rows", []) if row["unit"] == "pair" and row["pld"] is not None]
    how = "bound for any average of a unit's pairs: exchanging one is at most exchanging the unit (PLD, replace-one)"
    return [_row(f"epsilon of one pair of a {ledger['dataset']['unit']}", row["pld"], ledger["epsilon"]["delta"], "bound", how) for row in pairs]


def per_patient_table(ledger: Mapping[str, Any], mechanism: accounting.Mechanism) -> list[dict[str, Any]]:
    """Returns {count, epsilon, kind} of a patient who owns `count` of the run's units, by PLD at the run's delta; empty for patient-level runs.

    Each unit is drawn by its own coin, so the patient contributes a binomial number of clipped gradients per step: a mixture of
    Gaussians (Charles et al. 2024, arXiv 2407.07737), exact for per-record objectives and a bound for others. Counts for which no
    bound is known, as with truncated batches, are left out.
    """
    if ledger["dataset"]["unit"] == "patient" or not ledger["data_used"] or ledger["epsilon"]["infinite"]:
        return []
    delta, capped = ledger["epsilon"]["delta"], ledger["dataset"].get("k_max")
    rows = []
    for count in sorted({*PER_PATIENT, *([capped] if capped else [])}):
        with contextlib.suppress(errors.UnsoundError, errors.UsageError):
            rows.append({"count": count, "epsilon": shown(accounting.group_epsilon(mechanism, count, delta)), "kind": _group_kind(ledger)})
    return rows


def _group_kind(ledger: Mapping[str, Any]) -> str:
    return "exact" if ledger["objective"]["decomposition"] == "per_record" else "bound"


def tuning(mechanism: accounting.Mechanism, delta: float) -> list[dict[str, Any]]:
    """Returns {distribution, mean_trials, epsilon}: RDP epsilon of publishing the best of a random number of such runs.

    Papernot & Steinke 2021, arXiv 2110.03620. Holds only where the number of trials is drawn from the distribution beforehand and the
    score that selects is itself private or computed on other people. Empty where the mechanism has no such bound.
    """
    event = accounting.build_event(mechanism, "rdp")
    if event is None or not accounting.is_private(event) or mechanism.overflow_delta:
        return []
    return [
        {"distribution": name, "mean_trials": mean, "epsilon": shown(accounting.tuning_epsilon(mechanism, delta, name, mean))}
        for mean in MEAN_TRIALS
        for name in accounting.TRIALS
    ]


def promises(named: Mapping[str, Mapping[str, Any]], delta: float, per_patient: int | None) -> dict[str, dict[str, Any]]:
    """Returns each run's epsilon for one promise, zero-out of a patient at `delta`: {unit, relation, rdp, pld, label}; only PLD prices groups.

    Raises: UsageError: a pair- or study-level run, and neither `per_patient` nor a declared cap to convert it by.
    """
    return {name: _promise(name, ledger, delta, per_patient) for name, ledger in named.items() if ledger["data_used"]}


def _promise(name: str, ledger: Mapping[str, Any], delta: float, per_patient: int | None) -> dict[str, Any]:
    mechanism, unit = mechanism_of(ledger), ledger["dataset"]["unit"]
    labels: list[str] = []
    if mechanism.relation != TARGET[1]:
        labels.append(f"priced again as zero-out instead of {mechanism.relation.replace('_', '-')} (exact)")
        mechanism = dataclasses.replace(mechanism, relation=TARGET[1])
    if unit == TARGET[0]:
        priced = accounting.price(mechanism, delta)
        values = {"rdp": shown(priced.rdp), "pld": shown(priced.pld)}
    else:
        count = per_patient or ledger["dataset"].get("k_max")
        if not count:
            expected = f"--per_patient=K, the most {_plural(unit)} that a patient may own, or a ledger that declares it"
            raise errors.UsageError(errors.describe("conversion to patients", f"run {name!r}", expected, f"the unit {unit!r} and no number"))
        values = {"rdp": None, "pld": shown(accounting.group_epsilon(mechanism, count, delta))}
        labels.append(f"as a patient with {count} {_plural(unit)} ({_group_kind(ledger)} for that many, by PLD)")
    return {"unit": TARGET[0], "relation": TARGET[1], **values, "label": "; ".join(labels) or "as recorded"}


def _plural(unit: str) -> str:
    return {"study": "studies"}.get(unit, f"{unit}s")
