"""The empirical audit of one configuration, as the JSON-ready record that the stage prints and the ledger keeps.

Three attacks, from strongest position to weakest: the sensitivity search (noiseless sums), one noisy step on crafted datasets (white box),
and, where the caller can train, one run with canaries (black box). None of them can show a claim to be right.

Design note: infinities become null, since JSON has none: a null claim is no finite claim, a null sensitivity no bound.
"""

import dataclasses
import fractions
import math
from typing import Any

import numpy as np

from relink_jax import heads
from relink_jax.privacy import banks, clipping, objectives
from relink_jax.privacy.empirical import bounds, canaries, paired, search, steps

WHITE_BOX = "white box: knows both datasets, the heads and every setting, and sees the noisy sum of one full step"
BLACK_BOX = "black box: sees the initial and the final heads of a sibling run that holds the canaries"


def audit(
    objective: objectives.Objective,
    params: heads.Heads,
    records: clipping.Records,
    units: np.ndarray,
    public: banks.Public,
    *,
    l2_norm_clip: float,
    noise_multiplier: float,
    sampling_probability: fractions.Fraction,
    iterations: int,
    delta: float,
    train: canaries.Train | None = None,
    n_canaries: int = 1000,
    rows: int = 64,
    draws: int = 2000,
    confidence: float = bounds.CONFIDENCE,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns {objective, noise_multiplier, delta, confidence, search, one_step, one_run or None, refuted}, JSON-ready.

    The search and the one-step audit read only the shapes of `records`. The one-run audit trains on them, three times, once without noise:
    its numbers about canaries are not covered by the epsilon of the release.

    Args:
        records, units: the training pairs and the privacy unit of each, see `canaries.one_run`.
        noise_multiplier: of the configured run, positive; the one-step audit holds one step at it against what accountants say of one step.
        sampling_probability, iterations: of the configured run; its whole claim is what the one-run audit is held against.
        train: trains the configuration on given records, see `canaries.Train`; None leaves the one-run audit out.
        rows: records of a crafted dataset; less where the objective caps its batch.
        draws: noisy releases of each dataset.

    Raises: what `search`, `paired.audit` and `canaries.one_run` raise.
    """
    step = steps.Step(objective, params, public, l2_norm_clip)
    size = min(rows, int(objective.settings().get("batch_cap") or rows))
    found = search.neighbours(step, records, n=size, seed=seed)
    searched = search.summarise(step, found)
    one_step = paired.audit(step, found, noise_multiplier=noise_multiplier, draws=draws, delta=delta, confidence=confidence, seed=seed)
    result: dict[str, Any] = {
        "objective": objective.name,
        "noise_multiplier": noise_multiplier,
        "delta": delta,
        "confidence": confidence,
        "search": {**dataclasses.asdict(searched), "holds": searched.holds and math.isfinite(searched.declared_removed)},
        "one_step": {**dataclasses.asdict(one_step), "threat_model": WHITE_BOX, "refuted": one_step.refuted},
        "one_run": None,
    }
    if train is not None:
        settings: dict[str, Any] = {"n_canaries": n_canaries, "delta": delta, "confidence": confidence, "seed": seed}
        run = canaries.one_run(train, records, units, noise_multiplier=noise_multiplier, **settings)
        rdp, pld = paired.claimed(sampling_probability, noise_multiplier, iterations, delta)
        refuted = run.configured.lower_bound > rdp
        result["one_run"] = {"claim_rdp": rdp, "claim_pld": pld, **dataclasses.asdict(run), "threat_model": BLACK_BOX, "refuted": refuted}
    parts = [result["one_step"], result["one_run"] or {}]
    result["refuted"] = not searched.holds or any(part.get("refuted", False) for part in parts)
    plain: dict[str, Any] = _finite(result)
    return plain


def ledger_entries(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the ledger's records of an audit: method, claim, lower_bound, confidence, canaries, threat_model and power, one per attack.

    `claim` is the headline (RDP) epsilon that the bound is held against; None for an objective without a bounded sensitivity, which has none.
    `power` is what the same attack finds without noise and with half the noise; a single step reports what it could find at most.
    """
    step, run, bounded = result["one_step"], result["one_run"], result["search"]["declared_removed"] is not None
    entries = [
        {
            "method": "paired datasets, one step",
            "claim": step["claim_rdp"] if bounded else None,
            "lower_bound": step["bounds"]["clopper_pearson"],
            "confidence": result["confidence"],
            "canaries": 1,
            "threat_model": step["threat_model"],
            "power": {"ceiling": step["bounds"]["ceiling"]},
        }
    ]
    if run is not None:
        entries.append(
            {
                "method": "canaries, one run",
                "claim": run["claim_rdp"] if bounded else None,
                "lower_bound": run["configured"]["lower_bound"],
                "confidence": result["confidence"],
                "canaries": run["configured"]["canaries"],
                "threat_model": run["threat_model"],
                "power": {name: run[name]["lower_bound"] for name in ("noise_free", "undernoised")},
            }
        )
    return entries


def describe(result: dict[str, Any]) -> str:
    """Returns an audit of `audit` as lines of plain text."""
    found, step, run = result["search"], result["one_step"], result["one_run"]
    lines = [
        f"sensitivity: {_number(found['removed'])} C found in {found['tried']} crafted pairs of datasets, {_number(found['declared_removed'])} C declared "
        f"({_number(found['replaced'])} of {_number(found['declared_replaced'])} C replaced); worst: {found['worst']}",
        f"one noisy step: epsilon of at least {step['bounds']['clopper_pearson']:.2f} (Gaussian {step['bounds']['gaussian']:.2f}) found, "
        f"{_number(step['claim_rdp'])} claimed; {step['bounds']['ceiling']:.2f} is the most this many releases can show",
    ]
    if run is not None:
        configured = run["configured"]
        lines += [
            f"one run with {configured['canaries']} canaries: epsilon of at least {configured['lower_bound']:.2f} found (AUROC {configured['auroc']:.3f}), "
            f"{_number(run['claim_rdp'])} claimed; audited: {run['audited']}",
            f"its power: {run['noise_free']['lower_bound']:.2f} without noise, {run['undernoised']['lower_bound']:.2f} with half the noise",
        ]
        if run["undernoised"]["lower_bound"] <= (run["claim_rdp"] or math.inf):
            lines.append("half the noise would not have been noticed either: a bound below the claim is no evidence that the claim is right")
    lines.append("the claim is REFUTED" if result["refuted"] else "nothing here refutes the claim; no audit can confirm one")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "no bound" if value is None else f"{value:.3g}"


def _finite(value: Any) -> Any:
    """Returns nested dicts with infinities as None and NumPy scalars as Python numbers."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
