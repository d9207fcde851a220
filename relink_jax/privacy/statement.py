"""The privacy statement of one run as plain sentences, generated from its ledger and from nothing else.

It says who is protected, by what and how much, and as plainly what is not covered. The precedent is TensorFlow Privacy's
`compute_dp_sgd_privacy_statement`.
"""

import math
from collections.abc import Mapping
from typing import Any

from relink_jax.privacy import accounting

_RELATIONS = {
    "add_remove": "whether a {unit} was in the training set at all (add/remove)",
    "zero_out": "whether a {unit}'s data was used or blanked (zero-out)",
    "replace_one": "a {unit}'s data being exchanged for any other (replace-one)",
}


def text(ledger: Mapping[str, Any]) -> str:
    """Returns the statement as one paragraph per topic, separated by newlines."""
    if not ledger["data_used"]:
        return "\n".join(_control(ledger))
    return "\n".join([*_guarantee(ledger), *_mechanism(ledger), *_not_covered(ledger)])


def _control(ledger: Mapping[str, Any]) -> list[str]:
    noise = ledger["noise"]["std_absolute"]
    return [
        f"Noise-only control: {ledger['steps']['planned']} steps of the same noise (standard deviation {noise:.4g} per entry of the sum), "
        "the same step size and optimizer, every gradient set to zero.",
        "No private record was read, so epsilon is 0 with respect to the training set. What these heads do to linkage, noise alone does.",
    ]


def _guarantee(ledger: Mapping[str, Any]) -> list[str]:
    unit, count, epsilon = ledger["dataset"]["unit"], ledger["dataset"]["n_units_declared"], ledger["epsilon"]
    delta = epsilon["delta"]
    if epsilon["infinite"]:
        why = "its random seed was fixed and is known" if ledger["noise"]["seed_disclosed"] else "no noise was added"
        return [f"NOT PRIVATE: {why}, so epsilon is infinite and nothing is promised to any {unit}."]
    relation = _RELATIONS[ledger["events"][0]["relation"]].format(unit=unit)
    headline = epsilon["rdp"] if epsilon["rdp"] is not None else epsilon["pld"]
    beside = "not available" if epsilon["pld"] is None else f"{epsilon['pld']:.4g}"
    steps = ledger["steps"]
    counted = f"{steps['planned']} planned" if steps["status"] == "planned" else f"{steps['executed']} executed of {steps['planned']} planned"
    advantage = accounting.membership_advantage(headline, delta)
    verdict = "below 1, as it should be" if delta * count < 1 else "not below 1, so this delta would permit publishing a whole record"
    lines = [
        f"Privacy unit: one {unit}. The guarantee is about {relation}.",
        f"Epsilon {headline:.4g} at delta {delta:g} by Renyi DP ({beside} by PLD), for the {counted} steps.",
        f"For any event computed from the released heads, its probability with that {unit} is at most {math.exp(headline):.3f} times that without, "
        f"plus {delta:g}, and vice versa; a membership test gains at most {advantage:.3f} in true minus false positive rate.",
        f"With N = {count} {unit}s, delta x N = {delta * count:.2g}, {verdict}; delta bounds the chance that the epsilon bound fails, not how badly.",
    ]
    if unit == "pair":
        lines.append("A patient who owns several pairs is protected less than this: the guarantee is per pair, and degrades with the number of pairs.")
    total = ledger["epsilon_all_runs"]
    if total["mixed_units"]:
        lines.append("Earlier released runs on these people used another privacy unit; they add to what can be learned and are not part of the epsilon above.")
    elif total["runs"] > 1:
        shown = f"{total['rdp']:.4g} by Renyi DP" if total["rdp"] is not None else f"{total['pld']:.4g} by PLD" if total["pld"] is not None else "infinite"
        lines.append(f"Together with {total['runs'] - 1} earlier released run(s) on these people, epsilon is {shown} at the same delta.")
    return lines


def _mechanism(ledger: Mapping[str, Any]) -> list[str]:
    sampling, noise, objective, clipping = ledger["sampling"], ledger["noise"], ledger["objective"], ledger["clipping"]
    anchors, unit, sensitivity = objective["anchors"], ledger["dataset"]["unit"], objective["sensitivity"]
    one = "one random pair of each drawn patient" if unit == "patient" else "each drawn pair"
    entropy = "fresh operating-system entropy, float32 Gaussians from a generator that is not cryptographic"
    return [
        f"Mechanism: Poisson sampling with q = {sampling['q']} per step, executed without truncation; {one}; "
        f"gradient clipped to {clipping['norm']:g} over both heads; Gaussian noise of standard deviation {noise['std_absolute']:.4g} on the sum, "
        f"once per step; division by the public {sampling['expected']}.",
        f"Objective: {objective['id']} ({objective['decomposition']}), sensitivity {sensitivity['add_remove']:g}: {sensitivity['derivation']}.",
        f"Public: q, steps, clip norm, noise, the numbers of {unit}s and pairs, the frozen encoders, the initial heads and "
        f"{anchors['count']} anchor texts ({anchors['provenance']}).",
        "Released: the final heads only; no loss, gradient norm, batch size or intermediate head leaves training.",
        f"Randomness: {noise['rng_mode']} mode, {'a fixed seed known to the tester' if noise['seed_disclosed'] else entropy}.",
    ]


def _not_covered(ledger: Mapping[str, Any]) -> list[str]:
    unit = ledger["dataset"]["unit"]
    return [
        "Not covered: people who were never in the training set. Re-linking held-out pairs is not bounded by epsilon and can stay high or fall; "
        f"epsilon bounds only what one training {unit} adds.",
        "Not covered: the pretraining of the encoders and of the initial heads, which may have seen the same people; an attacker who keeps the "
        "original heads or the features before them; and one who fits a new map between released embeddings.",
        "Not covered: choices made by looking at private or held-out results (settings, number of tries), reports that name two people, "
        "and any metric computed on private data outside this ledger.",
    ]
