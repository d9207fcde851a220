"""The privacy statement of one run as plain sentences, generated from its ledger and from nothing else.

It says who is protected, by what and how much, and as plainly what is not covered. The precedent is TensorFlow Privacy's
`compute_dp_sgd_privacy_statement`.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from relink_jax.privacy import accounting

_LARGEST_RATIO = 1e6


def text(ledger: Mapping[str, Any]) -> str:
    """Returns the statement as one paragraph per topic, separated by newlines."""
    if not ledger["data_used"]:
        return "\n".join([*_control(ledger), *_earlier(ledger), _released(ledger)])
    return "\n".join([*_guarantee(ledger), *_earlier(ledger), *_mechanism(ledger), _released(ledger), _selection(ledger), *_not_covered(ledger)])


def _control(ledger: Mapping[str, Any]) -> list[str]:
    noise = ledger["noise"]["std_absolute"]
    return [
        f"Noise-only control: {_counted(ledger)} steps of the same noise (standard deviation {noise:.4g} per entry of the sum), "
        "the same step size and optimizer, every gradient set to zero.",
        "No private record was read, so epsilon is 0 with respect to the training set. What these heads do to linkage, noise alone does.",
    ]


def _counted(ledger: Mapping[str, Any]) -> str:
    steps = ledger["steps"]
    return f"{steps['planned']} planned" if steps["status"] == "planned" else f"{steps['executed']} executed of {steps['planned']} planned"


def _guarantee(ledger: Mapping[str, Any]) -> list[str]:
    unit, count, epsilon = ledger["dataset"]["unit"], ledger["dataset"]["n_units_declared"], ledger["epsilon"]
    delta, headline = epsilon["delta"], epsilon["rdp"]
    if epsilon["infinite"]:
        why = "its random seed was fixed and is known" if ledger["noise"]["seed_disclosed"] else "no noise was added"
        return [f"NOT PRIVATE: {why}, so epsilon is infinite and nothing is promised to any {unit}."]
    ratio = f"{math.exp(headline):.3f} times" if headline <= math.log(_LARGEST_RATIO) else f"e^{headline:.4g} (more than {_LARGEST_RATIO:.0e}) times"
    advantage = accounting.membership_advantage(headline, delta)
    verdict = "below 1, as it should be" if delta * count < 1 else "not below 1, so this delta would permit publishing a whole record"
    lines = [
        f"Privacy unit: one {unit}. The number of {unit}s N is treated as public, so the guarantee is about whether a {unit}'s data was used or blanked "
        f"(zero-out), at the same epsilon as add/remove for this mechanism; it does not hide N.",
        f"Epsilon {headline:.4g} at delta {delta:g} by Renyi DP ({epsilon['pld']:.4g} by PLD), for the {_counted(ledger)} steps.",
        f"For any event computed from the heads after these steps, its probability with that {unit}'s data is at most {ratio} that with it blanked, "
        f"plus {delta:g}, and vice versa; a membership test gains at most {advantage:.3f} in true minus false positive rate.",
        f"With N = {count} {unit}s, delta x N = {delta * count:.2g}, {verdict}; delta bounds the chance that the epsilon bound fails, not how badly.",
    ]
    if unit == "pair":
        lines.append("A patient who owns several pairs is protected less than this: the guarantee is per pair, and degrades with the number of pairs.")
    return lines


def _earlier(ledger: Mapping[str, Any]) -> list[str]:
    """Returns what earlier runs in the same place add, and which of them add nothing."""
    total, lines = ledger["epsilon_all_runs"], []
    if total["mixed_units"]:
        lines.append("Earlier released runs on these people used another privacy unit; they add to what can be learned and are not part of this run's epsilon.")
    elif total["runs"] > 1:
        shown = "infinite" if total["infinite"] else f"{total['rdp']:.4g} by Renyi DP"
        lines.append(f"Together with {total['runs'] - 1} earlier released run(s) on these people, epsilon is {shown} at the same delta.")
    quiet = Counter(run["status"] if run["data_used"] else "noise-only" for run in ledger["earlier"] if not (run["data_used"] and run["released"]))
    if quiet:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(quiet.items()))
        lines.append(f"Earlier runs in this place that released nothing or used no data are listed and add nothing to epsilon: {kinds}.")
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
        f"Objective: {objective['id']} ({objective['decomposition']}), sensitivity {sensitivity['zero_out']:g}: {sensitivity['derivation']}.",
        f"Public: q, steps, clip norm, noise, the numbers of {unit}s and pairs, the frozen encoders, the initial heads and "
        f"{anchors['count']} anchor texts ({anchors['provenance']}). That the anchors hold no private text is their author's word: only features equal "
        "to the last bit are detected, so a paraphrased or reformatted private report would pass.",
        f"Randomness: {noise['rng_mode']} mode, {'a fixed seed known to the tester' if noise['seed_disclosed'] else entropy}.",
    ]


def _released(ledger: Mapping[str, Any]) -> str:
    steps = ledger["steps"]
    return {
        "planned": "Released: nothing so far; this ledger was written before the first step.",
        "interrupted": f"Released: nothing; training ended after {steps['executed']} of {steps['planned']} steps and no heads left it.",
        "complete": "Released: the final heads only; no loss, gradient norm, batch size or intermediate head leaves training.",
    }[steps["status"]]


def _selection(ledger: Mapping[str, Any]) -> str:
    selection = ledger["selection"]
    if all(value is None for value in selection.values()):
        return "Settings: not recorded how they were chosen; what a choice by private results reveals is not part of epsilon."
    tries = "a number of tries that is not recorded" if selection["n_trials"] is None else f"{selection['n_trials']} tries"
    tuned = {None: "whether they were tuned is not recorded", True: f"declared as tuned in {tries}", False: "declared as not tuned on private data"}
    public = selection["public_tuning_data"]
    origin = "" if public is None else f" Chosen on public data: {public}."
    return f"Settings: {tuned[selection['tuned']]}; what a choice by private results reveals is not part of epsilon.{origin}"


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
