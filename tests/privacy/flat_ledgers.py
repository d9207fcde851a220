"""Ledgers as `ledger.load` returns them, made by formula for the tests of the comparison: no training, no files."""

import fractions
import functools
import math

from relink_jax.privacy import accounting
from relink_jax.privacy.compare import Run


def mechanism(q, sigma, steps, relation="zero_out", **changes):
    return accounting.Mechanism(fractions.Fraction(q), sigma, 1.0, steps, relation, **changes)


@functools.cache
def priced_of(made, delta):
    """Returns (price, approximation) of a mechanism, computed once for the many ledgers of one mechanism."""
    return accounting.price(made, delta, accounting.DELTA_GRID), accounting.gaussian_clt(made, delta)


def flat(run_id="run", *, q="1/40", sigma=2.0, steps=20, delta=1e-5, unit="patient", n_units=4000, relation="zero_out", data_used=True, **changes):
    """Returns a flat ledger; `changes` replace fields by name with double underscores between the levels."""
    disclosed, unbounded = changes.pop("disclosed", False), changes.pop("unbounded", False)
    made = mechanism(q, sigma, steps, relation, data_used=data_used, disclosed=disclosed, bounded=not unbounded)
    events = {view: accounting.build_event(made, view) for view in accounting.VIEWS}
    priced, approximation = priced_of(made, delta)
    infinite = any(value is not None and math.isinf(value) for value in (priced.rdp, priced.pld))
    at_delta = [{"delta": at, "rdp": finite(rdp), "pld": finite(pld)} for at, rdp, pld in priced.at_delta]
    sensitivity = None if unbounded else 1.0
    ledger = {
        "run_id": run_id,
        "created": "2030-01-02T03:04:05+00:00",
        "dataset": {
            "name": "toy", "overlap_group": "toy", "unit": unit, "n_units_declared": n_units, "n_records_declared": 3 * n_units, "pairs_per_unit_per_step": 1,
            "k_max": None,
            "unit_map": "all pairs of one patient",
        },
        "objective": {
            "id": "inbatch_infonce_unsound" if unbounded else "anchor_infonce",
            "decomposition": "none" if unbounded else "per_record",
            "sensitivity": {"add_remove": sensitivity, "zero_out": sensitivity, "replace_one": None if unbounded else 2.0, "derivation": "by a test"},
        },
        "clipping": {"norm": 1.0, "self_test": "passed"},
        "sampling": {"kind": "poisson", "q": q, "expected": int(fractions.Fraction(q) * n_units), "truncation": "none", "overflow_delta": 0.0, "physical_cap": 99},
        "noise": {"std_absolute": sigma, "multiplier_vs_sensitivity": sigma, "rng_mode": "test" if disclosed else "research", "seed_disclosed": disclosed},
        "optimizer": {"n_parameters": 10_000},
        "data_used": data_used,
        "private_metrics_logged": False,
        "selection": {"tuned": None, "n_trials": None, "public_tuning_data": None},
        "released": [{"artifact": "final heads", "sha256": "0" * 64, "step": steps}],
        "earlier": [],
        "steps": {"planned": steps, "executed": steps, "status": "complete", "resumed_from": []},
        "events": [
            {"relation": relation, "accountant_view": view, "dp_event": accounting.event_to_json(event), "count": 1}
            for view, event in events.items()
            if event is not None
        ],
        "epsilon": {
            "delta": delta, "target": None, "infinite": infinite, "rdp": finite(priced.rdp), "pld": finite(priced.pld), "rdp_order": priced.rdp_order,
            "gdp_clt_approximation": approximation, "at_delta": at_delta,
        },
        "epsilon_all_runs": {"runs": 1, "delta": delta, "mixed_units": False, "infinite": infinite, "rdp": finite(priced.rdp), "pld": finite(priced.pld)},
        "statement": f"A statement about {run_id}.",
    }  # fmt: skip
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = ledger
        for name in parents:
            place = place[name]
        place[last] = value
    return ledger


def run(name="toy/dp", **changes):
    """Returns a named run whose id is its name."""
    return Run(name, flat(name, **changes))


def finite(value):
    return None if value is None or math.isinf(value) else value


def three():
    """Returns the runs of the golden files: one per patient, one per pair that was audited, and a noise-only control."""
    audit = {
        "method": "paired datasets, one step",
        "claim": 2.0,
        "lower_bound": 0.4,
        "confidence": 0.95,
        "false_positive_rate": 0.1,
        "false_negative_rate": 0.86,
    }
    return [
        run("model/dp", q="1/4", sigma=6.0, steps=12),
        run("model/pair", q="1/8", sigma=4.0, steps=12, unit="pair", n_units=12000, delta=1e-6, dataset__k_max=3, audit=audit),
        run("model/noise_only", q="1/4", sigma=6.0, steps=12, data_used=False),
    ]
