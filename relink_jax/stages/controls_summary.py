"""From the draws of all conditions to means, spreads, falls and what they say together."""

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from relink_jax.stages.controls_measure import MEASURES

LEAST_FALL = 0.01  # in Recall@1
_FALLS = ("raw", "refit")
_UTILITY = ("zero_shot", "probe")


def summary(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns {conditions, explained, monotone} of finished conditions, the published heads first.

    conditions: one entry each, with mean and standard deviation of every measure over draws, falls against the published heads, and the gap
        between people trained on and held-out ones.
    explained: the share of each DP condition's fall in held-out linkage that noise alone reproduces, see `explained`.
    monotone: whether linkage rises with epsilon, see `monotone`.
    """
    by_id = {one["condition"]["id"]: one for one in measured}
    original = by_id["original"]["draws"][0]
    entries = [_entry(one, original) for one in measured]
    return {"conditions": entries, "explained": explained(by_id), "monotone": monotone(entries)}


def explained(by_id: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns, for each epsilon that has both, (R0 - R of noise only) / (R0 - R of DP) for both attackers.

    `share` is that of the means; `sd`, `low`, `high` are over draws, paired by seed, since both conditions then add the same noise. They are
    None where the DP condition's linkage did not fall by at least `LEAST_FALL` and two standard errors: a share of next to nothing is noise.
    """
    before = by_id["original"]["draws"][0]
    found = []
    for name, one in by_id.items():
        beside = by_id.get(f"noise_only_{one['condition']['epsilon']:g}")
        if one["condition"]["family"] != "dp" or one["condition"]["unit"] or beside is None:
            continue
        for measure in _FALLS:
            falls = [before[measure] - draw[measure] for draw in one["draws"]]
            noise = [before[measure] - draw[measure] for draw in beside["draws"]]
            paired = [by_noise / fall for fall, by_noise in zip(falls, noise, strict=True) if fall > 0]
            whole = statistics.fmean(falls)
            fell = whole >= max(LEAST_FALL, 2 * _error(spread(falls)))
            told = {"id": name, "epsilon": one["condition"]["epsilon"], "measure": measure, "fall": whole, "draws": len(paired)}
            told |= {"share": statistics.fmean(noise) / whole if fell else None}
            found.append(told | ({"low": min(paired), "high": max(paired), "sd": _sd(paired)} if fell else dict.fromkeys(("low", "high", "sd"))))
    return found


def monotone(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns, for DP and noise-only conditions and both attackers, whether mean linkage never falls as epsilon rises.

    `within_noise` says whether every step down is smaller than two standard errors of the difference.
    """
    found = []
    for family in ("dp", "noise_only", "unsound"):
        ladder = sorted((one for one in entries if one["family"] == family and not one["unit"]), key=lambda one: one["target_epsilon"])
        for measure in _FALLS if len(ladder) > 1 else ():
            steps = [(above[measure]["mean"] - below[measure]["mean"], _error(above[measure], below[measure])) for below, above in itertools.pairwise(ladder)]
            told = {"family": family, "measure": measure, "epsilons": [one["target_epsilon"] for one in ladder]}
            found.append(told | {"monotone": all(step >= 0 for step, _ in steps), "within_noise": all(step >= -2 * error for step, error in steps)})
    return found


def _entry(one: dict[str, Any], original: dict[str, Any]) -> dict[str, Any]:
    condition, draws = one["condition"], one["draws"]
    entry = {name: condition[name] for name in ("id", "control", "family", "label", "unit", "random")}
    entry |= {"target_epsilon": condition["epsilon"], "epsilon": one["epsilon"], "draws": len(draws)}
    entry |= {"pairs_left_out": max((draw.get("pairs_left_out", 0) for draw in draws), default=0)}
    for measure in MEASURES:
        entry[measure] = spread([draw[measure] for draw in draws])
    for measure in (*_FALLS, *_UTILITY):
        before = original[measure]
        entry[f"{measure}_lost"] = spread([None if draw[measure] is None or before is None else before - draw[measure] for draw in draws])
    for attacker in _FALLS:
        entry[f"gap_{attacker}"] = spread([draw[f"members_{attacker}"] - draw[attacker] for draw in draws])
    return entry


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Returns {mean, sd, n} of the values that there are; mean None for none, sd None for fewer than two."""
    known = [value for value in values if value is not None]
    return {"mean": statistics.fmean(known) if known else None, "sd": _sd(known), "n": len(known)}


def _sd(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _error(*measures: dict[str, Any]) -> float:
    """Returns the standard error of a difference of means, 0 where there was one draw each."""
    return float(sum((one["sd"] or 0.0) ** 2 / one["n"] for one in measures)) ** 0.5
