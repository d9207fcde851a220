"""`privacy_ledger.json`: what one training run spent, of whose privacy, by which mechanism, and what it does not promise.

A ledger is written before the first step, when it accounts for the planned steps, and again at the end with the executed ones. The events
in it are the truth; epsilons are caches that `load` recomputes, and a ledger whose numbers disagree is refused. It vouches for the heads
whose digest it lists as released and for no others: consumers of heads read it by `load_for`.

The claim is zero-out: q = B/N and N are published, so add/remove, under which neighbors differ in N, cannot be what the numbers mean.
For the Poisson-subsampled Gaussian mechanism both relations have the same epsilon by both accountants.

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
from relink_jax.privacy import accounting, ledger_rules, statement
from relink_jax.store import digests, files

if TYPE_CHECKING:
    from relink_jax.privacy import objectives

SCHEMA_VERSION = "1.1"
FILE_NAME = "privacy_ledger.json"
RELATION = "zero_out"
_TOLERANCE = {"rdp": 5e-5, "pld": 2e-4, "rdp_order": math.inf}  # the best order is no claim


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
    selection: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the ledger of a run about to start: status 'planned', events and epsilons for all planned steps.

    Args:
        mechanism: with `iterations` the planned number of steps.
        device: kind, count and processes of the accelerators.
        dataset: JSON-ready public description of the cohort (name, split, site, synthetic, overlap_group); no identifiers, and none of the
            fields the ledger fills itself, which stay true.
        settings: JSON-ready parameters of the objective, such as its temperature.
        selection: how the settings were chosen, as declared: tuned, n_trials, public_tuning_data, each None where not recorded.
    """
    packages = {name: importlib.metadata.version(name) for name in ("jax", "optax", "dp-accounting", "numpy")}
    ledger: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run_id": secrets.token_hex(6),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "code": {"relink_jax": relink_jax.__version__, "python": platform.python_version(), **packages},
        "device": dict(device),
        "dataset": {
            "name": None,
            **dataset,
            "n_records_declared": n_records,
            "n_units_declared": n_units,
            "n_is_public": True,
            "unit": unit,
            "pairs_per_unit_per_step": 1,
        },
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
        "selection": dict(selection),
        "released": [],
        "earlier": [],
        "steps": {"planned": mechanism.iterations, "executed": 0, "status": "planned", "resumed_from": []},
    }
    return _priced(ledger, mechanism.iterations, mechanism.relation, delta, target_epsilon)


def executed(ledger: Mapping[str, Any], steps: int, released: list[dict[str, Any]], self_test: str) -> dict[str, Any]:
    """Returns the ledger after training: events and epsilons for `steps`, and what left training (artifact, sha256, step).

    Its status is 'complete' only where something was released, so heads that were trained and then refused leave an interrupted run.
    """
    status = "complete" if released else "interrupted"
    after = {
        **ledger,
        "released": released,
        "steps": {**ledger["steps"], "executed": steps, "status": status},
        "clipping": {**ledger["clipping"], "self_test": self_test},
    }
    return _priced(after, steps, ledger["events"][0]["relation"], ledger["epsilon"]["delta"], ledger["epsilon"]["target"])


def mechanism_of(ledger: Mapping[str, Any]) -> accounting.Mechanism:
    """Returns the mechanism that a ledger from `load` or `planned` describes, with the steps its events count."""
    steps = ledger["steps"]["planned"] if ledger["steps"]["status"] == "planned" else ledger["steps"]["executed"]
    sensitivity, relation = ledger["objective"]["sensitivity"]["add_remove"], ledger["events"][0]["relation"]
    q = fractions.Fraction(ledger["sampling"]["q"])
    return accounting.Mechanism(q, ledger["noise"]["std_absolute"], sensitivity, steps, relation, ledger["data_used"], ledger["noise"]["seed_disclosed"])


def save(path: pathlib.Path, ledger: Mapping[str, Any]) -> None:
    """Writes a ledger atomically as JSON without NaN or infinity, sealed with the SHA-256 of its content."""
    files.write_json(path, digests.sealed(ledger))


def load(path: pathlib.Path) -> dict[str, Any]:
    """Returns a ledger after checking its digest, the kind of every field, its fields against each other, and its claims computed again.

    Computed again from noise, sampling and steps: the events, every epsilon, the composition with earlier runs; and the statement from all.

    Raises: StoreError: missing, not JSON, another schema, edited by hand, a field missing or of another kind, or claims it does not support.
    """
    where = f"file {path.name!r}"
    ledger = files.read_json(path)
    if not isinstance(ledger, dict) or ledger.get("schema_version") != SCHEMA_VERSION:
        found = repr(ledger.get("schema_version"))[:20] if isinstance(ledger, dict) else type(ledger).__name__
        raise errors.StoreError(errors.describe("ledger schema", where, f"schema_version {SCHEMA_VERSION!r}", found))
    if not digests.intact(ledger):
        raise errors.StoreError(errors.describe("ledger edited", where, "the content its SHA-256 covers", "other content"))
    ledger_rules.check(ledger, where)
    counted = mechanism_of(ledger)
    try:
        again = _priced(ledger, counted.iterations, counted.relation, ledger["epsilon"]["delta"], ledger["epsilon"]["target"])
    except errors.RelinkError as error:
        raise errors.StoreError(errors.describe("ledger damaged", where, "a mechanism that the accountants can price", str(error))) from error
    if ledger["events"] != again["events"]:
        raise errors.StoreError(errors.describe("ledger events", where, "the events of its noise, sampling and steps", "other events"))
    for name in ("epsilon", "epsilon_all_runs"):
        if not ledger_rules.agree(ledger.get(name), again[name], _TOLERANCE):
            raise errors.StoreError(errors.describe(f"ledger {name}", where, "the numbers its events give", "other numbers"))
    if ledger["statement"] != statement.text(ledger):
        raise errors.StoreError(errors.describe("ledger statement", where, "the sentences its fields give", "other sentences"))
    return ledger


def load_for(path: pathlib.Path, heads_sha256: str, *, data_used: bool) -> dict[str, Any]:
    """Returns the ledger at `path` after checking that it accounts for the heads it lies beside.

    Args:
        heads_sha256: digest of the heads, as `heads.save` returns it and their card records it.
        data_used: whether those heads were trained on data; false for the noise-only control.

    Raises: StoreError: see `load`; also a run that did not complete, one that released other heads, or one of the other kind.
    """
    ledger, where = load(path), f"file {path.name!r}"
    if ledger["steps"]["status"] != "complete":
        raise errors.StoreError(errors.describe("ledger of unfinished training", where, "status 'complete'", repr(ledger["steps"]["status"])))
    if heads_sha256 not in [one["sha256"] for one in ledger["released"]]:
        raise errors.StoreError(errors.describe("ledger of other heads", where, f"the release of heads with SHA-256 {heads_sha256[:12]}", "other heads"))
    if ledger["data_used"] is not data_used:
        kinds = {True: "training on data", False: "a noise-only control"}
        raise errors.StoreError(errors.describe("ledger of other heads", where, f"that of {kinds[data_used]}", f"that of {kinds[not data_used]}"))
    return ledger


def carry_earlier(ledger: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """Returns the ledger with a trace of every run at `path` before it, and epsilons of all that released something of the data composed.

    A second run on the same people adds to the first; retraining in place must not make the first one disappear. Runs that released
    nothing (planned, interrupted) or used no data stay listed and add nothing; `steps` of an earlier run are those its events count.
    """
    if not path.exists():
        return dict(ledger)
    before = load(path)
    trace = {key: before[key] for key in ("run_id", "created", "data_used", "events", "released")}
    described = {"unit": before["dataset"]["unit"], "status": before["steps"]["status"], "steps": mechanism_of(before).iterations}
    return _composed({**ledger, "earlier": [*before["earlier"], {**trace, **described}]})


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
        "pld_grid": accounting.pld_grid(events["pld"]),
        "gdp_clt_approximation": accounting.gaussian_clt(described, delta),
        "at_delta": [{"delta": at, "rdp": finite(rdp), "pld": finite(pld)} for at, rdp, pld in priced.at_delta],
    }
    return _composed({**ledger, "events": rows, "epsilon": epsilon})


def _composed(ledger: Mapping[str, Any]) -> dict[str, Any]:
    """Fills `epsilon_all_runs` (this run and the earlier ones that released something of the data) and the statement.

    Runs of another privacy unit do not compose and are marked.
    """
    parsed = [{entry["accountant_view"]: accounting.event_from_json(entry["dp_event"]) for entry in run["events"]} for run in [*ledger["earlier"], ledger]]
    counted = [bool(run["data_used"] and run["released"]) for run in ledger["earlier"]]
    mixed = any(run["unit"] != ledger["dataset"]["unit"] for run, counts in zip(ledger["earlier"], counted, strict=True) if counts)
    runs = [events for events, counts in zip(parsed, [*counted, True], strict=True) if counts]
    relation, delta = ledger["events"][0]["relation"], ledger["epsilon"]["delta"]
    total: dict[str, float | None] = {}
    for view in accounting.VIEWS:
        together = accounting.compose([events[view] for events in runs])
        total[view] = None if mixed else accounting.epsilon_of(together, view, relation, [delta])[0][0]
    infinite = any(value is not None and math.isinf(value) for value in total.values())
    summed = {"runs": len(runs), "delta": delta, "mixed_units": mixed, "infinite": infinite, **{view: finite(value) for view, value in total.items()}}
    complete = {**ledger, "epsilon_all_runs": summed}
    return {**complete, "statement": statement.text(complete)}


def finite(value: float | None) -> float | None:
    """Returns `value`, or None for infinity, which JSON cannot hold and `infinite: true` marks."""
    return None if value is None or math.isinf(value) else float(value)
