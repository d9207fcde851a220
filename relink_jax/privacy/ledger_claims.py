"""From the facts in a ledger to its claims: mechanism, events, epsilons, composition and the flat document that everyone reads."""

import fractions
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax.privacy import accounting, statement
from relink_jax.privacy.ledger_chain import Run

RELATION = "zero_out"
OWNED = (2, 5)  # pairs of a patient for whom a pair-level ledger states epsilon


def mechanism_of(ledger: Mapping[str, Any]) -> accounting.Mechanism:
    """Returns the mechanism that a flat ledger describes, with the steps its events count: planned ones while none is charged, else the charged."""
    steps = ledger["steps"]["planned"] if ledger["steps"]["status"] == "planned" else ledger["steps"]["executed"]
    return planned_mechanism(ledger, steps)


def planned_mechanism(ledger: Mapping[str, Any], steps: int) -> accounting.Mechanism:
    """Returns the mechanism of `steps` steps of a run, from its static fields."""
    sampling, units = ledger["sampling"], ledger["dataset"]["n_units_declared"]
    q, cap = fractions.Fraction(sampling["q"]), sampling["physical_cap"]
    stated = ledger["objective"]["sensitivity"]["add_remove"]
    capped = ledger["objective"]["decomposition"] == "per_pair"
    overflow = accounting.overflow_delta(q, units, cap, steps) if capped and ledger["data_used"] else 0.0
    return accounting.Mechanism(
        q,
        ledger["noise"]["std_absolute"],
        math.inf if stated is None else stated,
        steps,
        RELATION,
        ledger["data_used"],
        ledger["noise"]["seed_disclosed"],
        bounded=stated is not None,
        overflow_delta=overflow,
        truncated_batch=cap if sampling["truncation"] == "uniform" else None,
        n_units=units,
        batch_cap=cap if overflow else None,
    )


def events_of(mechanism: accounting.Mechanism) -> list[dict[str, Any]]:
    """Returns the events of a mechanism, one per accountant that bounds it, JSON-ready."""
    events = {view: accounting.build_event(mechanism, view) for view in accounting.VIEWS}
    return [
        {"relation": mechanism.relation, "accountant_view": view, "dp_event": accounting.event_to_json(event), "count": 1}
        for view, event in events.items()
        if event is not None
    ]


@functools.lru_cache(maxsize=64)
def _epsilons(mechanism: accounting.Mechanism, unit: str, delta: float, owned: tuple[int, ...]) -> dict[str, Any]:
    priced = accounting.price(mechanism, delta, accounting.DELTA_GRID)
    return {
        "delta": delta,
        "overflow_delta": mechanism.overflow_delta,
        "infinite": any(value is not None and math.isinf(value) for value in (priced.rdp, priced.pld)),
        "rdp": finite(priced.rdp),
        "rdp_order": priced.rdp_order,
        "pld": finite(priced.pld),
        "pld_grid": accounting.pld_grid(accounting.build_event(mechanism, "pld")),
        "gdp_clt_approximation": accounting.gaussian_clt(mechanism, delta),
        "at_delta": [{"delta": at, "rdp": finite(rdp), "pld": finite(pld)} for at, rdp, pld in priced.at_delta],
        "other_unit": accounting.other_unit(mechanism, unit, delta, owned),
    }


def epsilon_of(ledger: Mapping[str, Any], mechanism: accounting.Mechanism) -> dict[str, Any]:
    """Returns the `epsilon` field of a run: headline, the grid of deltas, the approximation, and what the other privacy unit gets."""
    dataset, epsilon = ledger["dataset"], ledger["epsilon"]
    k_max = dataset.get("k_max")
    owned = OWNED if type(k_max) is not int or k_max in (1, *OWNED) else tuple(sorted({*OWNED, k_max}))
    return {"target": epsilon["target"], **_epsilons(mechanism, dataset["unit"], epsilon["delta"], owned)}


def document(runs: Sequence[Run], schema_version: str) -> dict[str, Any]:
    """Returns the flat ledger of the newest of `runs`, with the earlier ones folded in: facts, epsilons of the charged steps, statement."""
    return _stated(runs, schema_version, audited=True)


def _stated(runs: Sequence[Run], schema_version: str, *, audited: bool) -> dict[str, Any]:
    newest = runs[-1]
    flat = {"schema_version": schema_version, **newest.planned, **_progress(newest)}
    flat["clipping"] = {**flat["clipping"], "self_test": "not run" if newest.released is None else newest.released["self_test"]}
    mechanism = mechanism_of(flat)
    flat |= {"events": events_of(mechanism), "epsilon": epsilon_of(flat, mechanism), "earlier": [_trace(run) for run in runs[:-1]]}
    flat["epsilon_all_runs"] = composed(flat)
    flat["audit"] = newest.audits[-1] if newest.audits and audited else None
    return {**flat, "statement": statement.text(flat)}


def at_release(runs: Sequence[Run], schema_version: str) -> dict[str, Any]:
    """Returns what the 'released' entry of the newest run must say of its claims: the composed epsilon and the statement, before any audit."""
    stated = _stated(runs, schema_version, audited=False)
    return {"epsilon_all_runs": stated["epsilon_all_runs"], "statement": stated["statement"]}


def _progress(run: Run) -> dict[str, Any]:
    status = "complete" if run.released else "interrupted" if run.charged else "planned"
    steps = {"planned": run.planned["steps"]["planned"], "executed": run.charged, "status": status, "resumed_from": list(run.resumed_from)}
    return {"steps": steps, "released": run.released["released"] if run.released else []}


def _trace(run: Run) -> dict[str, Any]:
    """Returns what stays of an earlier run: who, when, what it released, and the events of its steps."""
    progress = _progress(run)
    steps = run.planned["steps"]["planned"] if progress["steps"]["status"] == "planned" else run.charged
    mechanism = planned_mechanism(run.planned, steps)
    return {
        **{key: run.planned[key] for key in ("run_id", "created", "data_used")},
        "events": events_of(mechanism),
        "overflow_delta": mechanism.overflow_delta,
        "released": progress["released"],
        "unit": run.planned["dataset"]["unit"],
        "status": progress["steps"]["status"],
        "steps": steps,
    }


def composed(ledger: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `epsilon_all_runs`: this run and the earlier ones that released something of the data, by composing their events.

    Runs of another privacy unit do not compose and are marked; what each loses to its batch cap adds up. An accountant without a bound for one
    of the runs has none for all.
    """
    counted = [run for run in ledger["earlier"] if run["data_used"] and run["released"]]
    mixed = any(run["unit"] != ledger["dataset"]["unit"] for run in counted)
    delta = ledger["epsilon"]["delta"]
    lost = sum(run["overflow_delta"] for run in counted) + ledger["epsilon"]["overflow_delta"]
    total: dict[str, float | None] = {}
    for view in accounting.VIEWS:
        events = [entry["dp_event"] for run in [*counted, ledger] for entry in run["events"] if entry["accountant_view"] == view]
        known = len(events) == len(counted) + 1 and not mixed
        total[view] = _together(events, view, delta, lost) if known else None
    infinite = any(value is not None and math.isinf(value) for value in total.values())
    summed = {view: finite(value) for view, value in total.items()}
    return {"runs": len(counted) + 1, "delta": delta, "mixed_units": mixed, "infinite": infinite, **summed}


def _together(events: list[dict[str, Any]], view: str, delta: float, lost: float) -> float | None:
    event = accounting.compose([accounting.event_from_json(one) for one in events])
    if not accounting.is_private(event):
        lost = 0.0
    return accounting.epsilon_of(event, view, RELATION, [delta - lost])[0][0] if lost < delta else None


def finite(value: float | None) -> float | None:
    """Returns `value`, or None for infinity, which JSON cannot hold and `infinite: true` marks."""
    return None if value is None or math.isinf(value) else float(value)
