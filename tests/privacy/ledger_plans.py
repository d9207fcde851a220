"""Plans and whole ledgers of small runs, without training anything."""

import dataclasses
import fractions
import json
import math
import types
from typing import Any

import numpy as np

from relink_jax.privacy import accounting, ledger, ledger_chain

HEADS, STATE = "d" * 64, "c" * 64
FACTORS = {"per_record": 1.0, "per_group": 2.0, "per_pair": 3.0, "none": math.inf}
NAMES = {"per_record": "anchor_infonce", "per_group": "group_infonce", "per_pair": "pair_sigmoid", "none": "inbatch_infonce_unsound"}
BANK = types.SimpleNamespace(sha256="b" * 64, features=np.zeros((20, 3)), image_features=None, provenance="synthetic texts of a test", licence="")


def objective(decomposition: str = "per_record", cap: int = 40) -> Any:
    """Returns what a ledger asks of an objective, for one of the decompositions."""
    settings = {"temperature": 0.1, "batch_cap": cap} if decomposition == "per_pair" else {"temperature": 0.1}
    own = "own derivation: " if decomposition in ("per_pair", "per_group") else ""
    return types.SimpleNamespace(
        name=NAMES[decomposition],
        decomposition=decomposition,
        derivation=f"{own}what one record can change is clipped",
        settings=lambda: settings,
        sensitivity=lambda relation, clip: accounting.relation_factor(relation) * FACTORS[decomposition] * clip,
    )


def plan(decomposition: str = "per_record", *, unit: str = "patient", multiplier: float = 4.0, steps: int = 4, cap: int = 40, **changes: Any) -> dict[str, Any]:
    """Returns the plan of a run of 40 units, 10 expected per step; `changes` are of the mechanism or of `ledger.planned`."""
    bound = FACTORS[decomposition]
    units, q = 40, fractions.Fraction(1, 4)
    lost = accounting.overflow_delta(q, units, cap, steps) if decomposition == "per_pair" else 0.0
    scale = bound if math.isfinite(bound) else 1.0
    of_mechanism = {field.name for field in dataclasses.fields(accounting.Mechanism)}
    made = accounting.Mechanism(q, multiplier * scale, bound, steps, "zero_out", bounded=math.isfinite(bound), overflow_delta=lost, n_units=units)
    made = dataclasses.replace(made, **{name: value for name, value in changes.items() if name in of_mechanism and name != "n_units"})
    given: dict[str, Any] = {
        "objective": objective(decomposition, cap),
        "bank": BANK if decomposition == "per_record" else None,
        "mechanism": made,
        "unit": unit,
        "n_units": units,
        "n_records": units if unit == "pair" else 100,
        "l2_norm_clip": 1.0,
        "implementation": "auto",
        "expected_batch_size": 10,
        "physical_cap": cap,
        "target_epsilon": None,
        "delta": 1e-5,
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "n_parameters": 12,
        "initial_heads_sha256": "a" * 64,
        "device": {"kind": "cpu", "count": 1, "processes": 1},
        "dataset": {"name": "toy", "synthetic": True},
        "selection": {"tuned": None, "n_trials": None, "public_tuning_data": None},
        "pairs_per_unit": 1 if unit == "pair" else 4,
        "rng_mode": "careful",
    }
    return ledger.planned(**{**given, **{name: value for name, value in changes.items() if name in given}})


def run(path: Any, planned: dict[str, Any] | None = None, through: int | None = None, artifact: str = HEADS) -> dict[str, Any]:
    """Runs a plan at `path` as training does, to its release or only `through` some steps, and returns the flat ledger."""
    planned = plan() if planned is None else planned
    total, unsound = planned["steps"]["planned"], planned["objective"]["decomposition"] == "none"
    tested = ledger_chain.UNTESTABLE if unsound else "passed"
    with ledger.opened(path, planned) as opened:
        opened.charge(total if through is None else through)
        if through is None:
            opened.release([{"artifact": "heads", "sha256": artifact, "step": total}], tested)
    return opened.document()


def rewrite(path: Any, change: Any) -> None:
    """Applies `change` to the list of entries at `path` and makes the chain fit again, as a forger of the whole file would."""
    entries, fresh = json.loads(path.read_text())["entries"], []
    change(entries)
    for one in entries:
        fresh.append(ledger_chain.entry(fresh, one["kind"], one["content"], one["created"]))
    path.write_text(json.dumps({"schema_version": ledger.SCHEMA_VERSION, "entries": fresh}))
