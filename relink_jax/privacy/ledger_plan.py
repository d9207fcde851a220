"""What a run writes into its ledger before the first step: everything that its guarantee depends on, and what all its steps will cost."""

import datetime
import importlib.metadata
import math
import platform
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import relink_jax
from relink_jax.privacy import accounting, ledger_claims, modes

if TYPE_CHECKING:
    from relink_jax.privacy import banks, objectives

PER = {"per_record": "unit", "per_group": "group", "per_pair": "pair", "none": "row"}
UNIT_MAPS = {"patient": "all pairs of one patient", "study": "all pairs of one study", "pair": "one image with its report"}


def planned(
    *,
    objective: "objectives.Objective",
    bank: "banks.PublicBank | None",
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
    selection: Mapping[str, Any],
    pairs_per_unit: int = 1,
    rng_mode: str = "research",
) -> dict[str, Any]:
    """Returns the plan of a run about to start: its facts, with events and epsilons for all planned steps, JSON-ready.

    Args:
        bank: public anchors, None where the objective compares with none.
        mechanism: with `iterations` the planned number of steps; disclosed randomness makes the mode 'test' whatever `rng_mode` says.
        physical_cap: units of one physical batch; for an objective whose decomposition is per_pair the most that a step keeps, for which the
            ledger pays (`accounting.overflow_delta`).
        pairs_per_unit: pairs of a drawn unit whose gradients are averaged, at most.
        optimizer: name, learning_rate, schedule and whatever else is done to the heads after a step (post-processing).
        device: kind, count and processes of the accelerators.
        dataset: JSON-ready public description of the cohort (name, split, site, synthetic, unit_map, overlap_group, k_max); no identifiers,
            and none of the fields the ledger fills itself, which stay true. overlap_group names the people, by default the cohort: runs of one
            group compose.
        selection: how the settings were chosen, as declared: tuned, n_trials, public_tuning_data, each None where not recorded.
    """
    packages = {name: importlib.metadata.version(name) for name in ("jax", "optax", "dp-accounting", "numpy")}
    mode = modes.TEST if mechanism.disclosed else rng_mode
    bounds = {name: ledger_claims.finite(objective.sensitivity(name, l2_norm_clip)) for name in accounting.RELATIONS}
    plan: dict[str, Any] = {
        "run_id": secrets.token_hex(6),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "code": {"relink_jax": relink_jax.__version__, "python": platform.python_version(), **packages},
        "device": dict(device),
        "dataset": {
            "name": None,
            "unit_map": UNIT_MAPS.get(unit, unit),
            "overlap_group": dataset.get("name") or "not named",
            **dataset,
            "n_records_declared": n_records,
            "n_units_declared": n_units,
            "n_is_public": True,
            "unit": unit,
            "pairs_per_unit_per_step": pairs_per_unit,
        },
        "objective": {
            "id": objective.name,
            "decomposition": objective.decomposition,
            "settings": objective.settings(),
            "anchors": None if bank is None else _anchors(bank),
            "sensitivity": {**bounds, "derivation": objective.derivation},
        },
        "clipping": {"norm": l2_norm_clip, "mode": "global", "per": PER[objective.decomposition], "impl": implementation},
        "sampling": {
            "kind": "poisson",
            "q": str(mechanism.sampling_probability),
            "expected": expected_batch_size,
            "physical_cap": physical_cap,
            "truncation": "none" if mechanism.truncated_batch is None else "uniform",
            "overflow_delta": mechanism.overflow_delta if mechanism.data_used else 0.0,
            "seed_disclosed": mechanism.disclosed,
        },
        "noise": {
            "std_absolute": mechanism.noise_stddev,
            "multiplier_vs_sensitivity": 0.0 if math.isinf(mechanism.sensitivity) else mechanism.noise_multiplier,
            "multiplier_vs_clip": mechanism.noise_stddev / l2_norm_clip,
            "dtype": "float32",
            "draws_per_step": modes.DRAWS[mode],
            "release_grid": modes.GRIDS[mode],
            "rng_impl": "threefry2x32",
            "rng_mode": mode,
            "seed_disclosed": mechanism.disclosed,
            "applied": "once to the whole sum, before division by the public expected batch size",
        },
        "optimizer": {"schedule": "constant", **optimizer, "n_parameters": n_parameters, "initial_heads_sha256": initial_heads_sha256},
        "data_used": mechanism.data_used,
        "private_metrics_logged": False,
        "selection": dict(selection),
        "steps": {"planned": mechanism.iterations},
        "epsilon": {"delta": delta, "target": target_epsilon},
    }
    described = ledger_claims.planned_mechanism(plan, mechanism.iterations)
    return {**plan, "events": ledger_claims.events_of(described), "epsilon": ledger_claims.epsilon_of(plan, described)}


def _anchors(bank: "banks.PublicBank") -> dict[str, Any]:
    images = getattr(bank, "image_features", None)
    return {
        "sha256": bank.sha256,
        "count": len(bank.features),
        "image_count": 0 if images is None else len(images),
        "provenance": bank.provenance,
        "licence": bank.licence,
        "private": False,
    }
