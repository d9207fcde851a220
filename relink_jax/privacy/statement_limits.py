"""The part of a privacy statement that says what left training, how its settings were chosen, and what no epsilon here covers."""

from collections.abc import Mapping
from typing import Any


def released(ledger: Mapping[str, Any]) -> str:
    """Returns what left training."""
    steps = ledger["steps"]
    return {
        "planned": "Released: nothing so far; this ledger was written before the first step.",
        "interrupted": f"Released: nothing; training ended after at most {steps['executed']} of {steps['planned']} steps and no heads left it.",
        "complete": "Released: the final heads only; no loss, gradient norm, batch size or intermediate head leaves training.",
    }[steps["status"]]


def audit(ledger: Mapping[str, Any]) -> list[str]:
    """Returns the empirical audit of this run, if one was recorded."""
    found = ledger["audit"]
    if found is None:
        return ["Empirical audit: none recorded for this run."]
    claim = "no finite claim" if found["claim"] is None else f"a claim of {found['claim']:.4g}"
    verdict = "" if found["claim"] is None or found["lower_bound"] <= found["claim"] else " THE CLAIM IS REFUTED."
    power = "".join(
        f" {name.replace('_', ' ')}: {'none' if value is None else format(value, '.3g')}." for name, value in sorted((found["power"] or {}).items())
    )
    return [
        f"Empirical audit ({found['method']}, {found['canaries']} canaries, {found['threat_model']}): epsilon is at least {found['lower_bound']:.3g} with "
        f"confidence {found['confidence']:g}, against {claim}.{verdict} A low value is not evidence of privacy.{' What it would have found,' if power else ''}{power}"
    ]


def selection(ledger: Mapping[str, Any]) -> str:
    """Returns how the settings were chosen, as declared."""
    chosen = ledger["selection"]
    if all(value is None for value in chosen.values()):
        return "Settings: not recorded how they were chosen; what a choice by private results reveals is not part of epsilon."
    tries = "a number of tries that is not recorded" if chosen["n_trials"] is None else f"{chosen['n_trials']} tries"
    tuned = {None: "whether they were tuned is not recorded", True: f"declared as tuned in {tries}", False: "declared as not tuned on private data"}
    public = chosen["public_tuning_data"]
    origin = "" if public is None else f" Chosen on public data: {public}."
    return f"Settings: {tuned[chosen['tuned']]}; what a choice by private results reveals is not part of epsilon.{origin}"


def not_covered(ledger: Mapping[str, Any]) -> list[str]:
    """Returns what no epsilon of this run bounds."""
    unit = ledger["dataset"]["unit"]
    return [
        "Not covered: people who were never in the training set. Re-linking held-out pairs is not bounded by epsilon and can stay high or fall; "
        f"epsilon bounds only what one training {unit} adds.",
        "Not covered: the pretraining of the encoders and of the initial heads, which may have seen the same people; an attacker who keeps the "
        "original heads or the features before them; and one who fits a new map between released embeddings.",
        "Not covered: choices made by looking at private or held-out results (settings, number of tries, validation splits), reports that name two people, "
        "and any metric computed on private data outside this ledger, such as training loss or the share of clipped gradients.",
    ]
