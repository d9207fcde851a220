"""`privacy_ledger.json`: what one training run spent, of whose privacy, by which mechanism, and what it does not promise.

A ledger is written before the first step, when it accounts for the planned steps, and again at the end with the executed ones. The events
in it are the truth; epsilons are caches that `load` recomputes, and a ledger whose numbers disagree is refused.

Never in a ledger: seeds or keys, batch indices, realised batch sizes, gradient norms, losses on private data, identifiers.
"""

import datetime
import fractions
import importlib.metadata
import math
import pathlib
import platform
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import relink_jax
from relink_jax import errors
from relink_jax.privacy import accounting, statement
from relink_jax.store import digests, files

if TYPE_CHECKING:
    from relink_jax.privacy import objectives

SCHEMA_VERSION = "1.0"
FILE_NAME = "privacy_ledger.json"
_TOLERANCE = {"rdp": 5e-5, "pld": 2e-4}
_SECTIONS = (
    "run_id",
    "created",
    "code",
    "device",
    "dataset",
    "objective",
    "clipping",
    "sampling",
    "noise",
    "optimizer",
    "steps",
    "events",
    "epsilon",
    "released",
    "statement",
)


def planned(
    *,
    objective: "objectives.Objective",
    bank: "objectives.PublicBank",
    mechanism: accounting.Mechanism,
    unit: str,
    n_units: int,
    n_records: int,
    l2_norm_clip: float,
    implementation: str,
    expected_batch_size: int,
    physical_cap: int,
    target_epsilon: float | None,
    delta: float,
    optimizer: Mapping[str, Any],
    n_parameters: int,
    initial_heads_sha256: str,
    device: Mapping[str, Any],
    dataset: Mapping[str, Any],
    settings: Mapping[str, Any],
    public_tuning_data: str | None = None,
) -> dict[str, Any]:
    """Returns the ledger of a run about to start: status 'planned', events and epsilons for all planned steps.

    Args:
        mechanism: with `iterations` the planned number of steps.
        device: kind, count and processes of the accelerators.
        dataset: JSON-ready public description of the cohort (name, split, site, synthetic, overlap_group); no identifiers.
        settings: JSON-ready parameters of the objective, such as its temperature.
        public_tuning_data: what public data the settings were chosen on, None when on none.
    """
    packages = {name: importlib.metadata.version(name) for name in ("jax", "optax", "dp-accounting", "numpy")}
    ledger: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run_id": secrets.token_hex(6),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "code": {"relink_jax": relink_jax.__version__, "python": platform.python_version(), **packages},
        "device": dict(device),
        "dataset": {"n_records_declared": n_records, "n_units_declared": n_units, "n_is_public": True, "unit": unit, "pairs_per_unit_per_step": 1, **dataset},
        "objective": {
            "id": objective.name,
            "decomposition": objective.decomposition,
            **settings,
            "anchors": {"sha256": bank.sha256, "count": len(bank.features), "provenance": bank.provenance, "licence": bank.licence, "private": False},
            "sensitivity": {**{name: objective.sensitivity(name, l2_norm_clip) for name in accounting.RELATIONS}, "derivation": objective.derivation},
        },
        "clipping": {"norm": l2_norm_clip, "mode": "global", "per": "record", "impl": implementation, "self_test": "not run"},
        "sampling": {
            "kind": "poisson",
            "q": str(mechanism.sampling_probability),
            "expected": expected_batch_size,
            "physical_cap": physical_cap,
            "truncation": "none",
            "seed_disclosed": mechanism.disclosed,
        },
        "noise": {
            "std_absolute": mechanism.noise_stddev,
            "multiplier_vs_sensitivity": mechanism.noise_multiplier,
            "dtype": "float32",
            "draws_per_step": 1,
            "rng_impl": "threefry2x32",
            "rng_mode": "test" if mechanism.disclosed else "research",
            "seed_disclosed": mechanism.disclosed,
            "applied": "once to the whole sum, before division by the public expected batch size",
        },
        "optimizer": {**optimizer, "n_parameters": n_parameters, "initial_heads_sha256": initial_heads_sha256},
        "data_used": mechanism.data_used,
        "private_metrics_logged": False,
        "selection": {"tuned": False, "n_trials": 1, "public_tuning_data": public_tuning_data, "event": None},
        "released": [],
        "earlier": [],
        "steps": {"planned": mechanism.iterations, "executed": 0, "status": "planned", "resumed_from": []},
    }
    return _priced(ledger, mechanism.iterations, mechanism.relation, delta, target_epsilon)


def executed(ledger: Mapping[str, Any], steps: int, released: list[dict[str, Any]], self_test: str) -> dict[str, Any]:
    """Returns the ledger after training: events and epsilons for `steps`, and what left training (artifact, sha256, step)."""
    status = "complete" if steps == ledger["steps"]["planned"] else "interrupted"
    after = {
        **ledger,
        "released": released,
        "steps": {**ledger["steps"], "executed": steps, "status": status},
        "clipping": {**ledger["clipping"], "self_test": self_test},
    }
    return _priced(after, steps, ledger["events"][0]["relation"], ledger["epsilon"]["delta"], ledger["epsilon"]["target"])


def mechanism_of(ledger: Mapping[str, Any]) -> accounting.Mechanism:
    """Returns the mechanism a ledger describes, with the steps its events count; `StoreError` when a field is missing or malformed."""
    try:
        steps = ledger["steps"]["planned"] if ledger["steps"]["status"] == "planned" else ledger["steps"]["executed"]
        sensitivity, relation = ledger["objective"]["sensitivity"]["add_remove"], ledger["events"][0]["relation"]
        q = fractions.Fraction(ledger["sampling"]["q"])
        return accounting.Mechanism(q, ledger["noise"]["std_absolute"], sensitivity, steps, relation, ledger["data_used"], ledger["noise"]["seed_disclosed"])
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise errors.StoreError(
            errors.describe("ledger damaged", "privacy ledger", f"schema {SCHEMA_VERSION}", f"{type(error).__name__} in its mechanism")
        ) from error


def save(path: pathlib.Path, ledger: Mapping[str, Any]) -> None:
    """Writes a ledger atomically as JSON without NaN or infinity, sealed with the SHA-256 of its content."""
    files.write_json(path, sealed(ledger))


def sealed(ledger: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the ledger with `content_sha256` over everything else."""
    content = {key: value for key, value in ledger.items() if key != "content_sha256"}
    return {**content, "content_sha256": digests.value_digest(content)}


def load(path: pathlib.Path) -> dict[str, Any]:
    """Returns a ledger after checking its digest, its mechanism against its events, and its epsilons against a new computation.

    Raises: StoreError: missing, not JSON, another schema, a missing section, edited by hand, or epsilons that its events do not give.
    """
    ledger = files.read_json(path)
    if not isinstance(ledger, dict) or ledger.get("schema_version") != SCHEMA_VERSION:
        found = repr(ledger.get("schema_version")) if isinstance(ledger, dict) else type(ledger).__name__
        raise errors.StoreError(errors.describe("ledger schema", f"file {path.name!r}", f"schema_version {SCHEMA_VERSION!r}", found))
    missing = [name for name in _SECTIONS if name not in ledger]
    if missing:
        raise errors.StoreError(errors.describe("ledger damaged", f"file {path.name!r}", "all sections", f"no {', '.join(missing)}"))
    if sealed(ledger)["content_sha256"] != ledger.get("content_sha256"):
        raise errors.StoreError(errors.describe("ledger edited", f"file {path.name!r}", "the content its SHA-256 covers", "other content"))
    mechanism = mechanism_of(ledger)
    for entry in ledger["events"]:
        event = accounting.build_event(mechanism, entry["accountant_view"])
        if event is None or accounting.event_to_json(event) != entry["dp_event"]:
            raise errors.StoreError(
                errors.describe("event", f"file {path.name!r}", f"the {entry['accountant_view']} event of its noise, sampling and steps", "another event")
            )
    _check_epsilons(path, ledger)
    return ledger


def carry_earlier(ledger: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """Returns the ledger with the released runs of a ledger already at `path` carried along, and epsilons of all of them composed.

    A second run on the same people adds to the first; retraining in place must not make the first one disappear.
    """
    if not path.exists():
        return dict(ledger)
    before = load(path)
    runs = list(before["earlier"])
    if before["data_used"] and before["released"]:
        runs.append({**{key: before[key] for key in ("run_id", "created", "events", "released")}, "unit": before["dataset"]["unit"]})
    return _composed({**ledger, "earlier": runs})


def _priced(ledger: Mapping[str, Any], steps: int, relation: str, delta: float, target: float | None) -> dict[str, Any]:
    described = mechanism_of({**ledger, "events": [{"relation": relation}]})
    events = {view: accounting.build_event(described, view) for view in accounting.VIEWS}
    priced = accounting.price_events(events, relation, delta, accounting.DELTA_GRID)
    rows = [
        {"relation": relation, "accountant_view": view, "dp_event": accounting.event_to_json(event), "count": 1}
        for view, event in events.items()
        if event is not None
    ]
    infinite = any(value is not None and math.isinf(value) for value in (priced.rdp, priced.pld))
    epsilon = {
        "delta": delta,
        "target": target,
        "infinite": infinite,
        "rdp": finite(priced.rdp),
        "rdp_order": priced.rdp_order,
        "pld": finite(priced.pld),
        "pld_grid": accounting.PLD_GRID,
        "gdp_clt_approximation": accounting.gaussian_clt(described, delta),
        "at_delta": [{"delta": at, "rdp": finite(rdp), "pld": finite(pld)} for at, rdp, pld in priced.at_delta],
    }
    return _composed({**ledger, "events": rows, "epsilon": epsilon})


def _composed(ledger: Mapping[str, Any]) -> dict[str, Any]:
    """Fills `epsilon_all_runs` (this run and `earlier`) and the statement; runs of another privacy unit do not compose and are marked."""
    mixed = any(run["unit"] != ledger["dataset"]["unit"] for run in ledger["earlier"])
    runs = [run["events"] for run in ledger["earlier"]] + [ledger["events"]]
    views = {view: [accounting.event_from_json(e["dp_event"]) for events in runs for e in events if e["accountant_view"] == view] for view in accounting.VIEWS}
    relation, delta = ledger["events"][0]["relation"], ledger["epsilon"]["delta"]
    total = {
        view: accounting.epsilon_of(accounting.compose(events), view, relation, [delta])[0][0] if events and not mixed else None
        for view, events in views.items()
    }
    infinite = any(value is not None and math.isinf(value) for value in total.values())
    summed = {"runs": len(runs), "delta": delta, "mixed_units": mixed, "infinite": infinite, **{view: finite(value) for view, value in total.items()}}
    complete = {**ledger, "epsilon_all_runs": summed}
    return {**complete, "statement": statement.text(complete)}


def _check_epsilons(path: pathlib.Path, ledger: Mapping[str, Any]) -> None:
    stored = ledger["epsilon"]
    events = {entry["accountant_view"]: accounting.event_from_json(entry["dp_event"]) for entry in ledger["events"]}
    again = accounting.price_events(events, ledger["events"][0]["relation"], stored["delta"])
    for view, value in (("rdp", again.rdp), ("pld", again.pld)):
        cached = math.inf if stored["infinite"] else stored[view]
        same = value == cached if value is None or cached is None or math.isinf(value) or math.isinf(cached) else abs(value - cached) <= _TOLERANCE[view]
        if not same:
            shown = ["none" if number is None else f"{number:.5g}" for number in (value, cached)]
            raise errors.StoreError(errors.describe(f"{view} epsilon", f"file {path.name!r}", f"{shown[0]}, which its events give", shown[1]))


def finite(value: float | None) -> float | None:
    """Returns `value`, or None for infinity, which JSON cannot hold and `infinite: true` marks."""
    return None if value is None or math.isinf(value) else float(value)
