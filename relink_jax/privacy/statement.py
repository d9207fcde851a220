"""The privacy statement of one run as plain sentences, generated from its flat ledger and from nothing else.

It says who is protected, by what and how much, and as plainly what is not covered. The precedent is TensorFlow Privacy's
`compute_dp_sgd_privacy_statement`.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from relink_jax.privacy import accounting, statement_limits

_LARGEST_RATIO = 1e6


def text(ledger: Mapping[str, Any]) -> str:
    """Returns the statement as one paragraph per topic, separated by newlines."""
    if not ledger["data_used"]:
        return "\n".join([*_control(ledger), *_earlier(ledger), statement_limits.released(ledger)])
    parts = [*_guarantee(ledger), *_earlier(ledger), *_mechanism(ledger), statement_limits.released(ledger), *statement_limits.audit(ledger)]
    return "\n".join([*parts, statement_limits.selection(ledger), *statement_limits.not_covered(ledger)])


def _control(ledger: Mapping[str, Any]) -> list[str]:
    noise = ledger["noise"]["std_absolute"]
    return [
        f"Noise-only control: {_counted(ledger)} steps of the same noise (standard deviation {noise:.4g} per entry of the sum), "
        "the same step size and optimizer, every gradient set to zero.",
        "No private record was read, so epsilon is 0 with respect to the training set. What these heads do to linkage, noise alone does.",
    ]


def _counted(ledger: Mapping[str, Any]) -> str:
    steps = ledger["steps"]
    return f"{steps['planned']} planned" if steps["status"] == "planned" else f"{steps['executed']} charged of {steps['planned']} planned"


def _guarantee(ledger: Mapping[str, Any]) -> list[str]:
    unit, count, epsilon = ledger["dataset"]["unit"], ledger["dataset"]["n_units_declared"], ledger["epsilon"]
    if epsilon["infinite"]:
        return [f"NOT PRIVATE: {_why_infinite(ledger)}, so epsilon is infinite and nothing is promised to any {unit}."]
    delta = epsilon["delta"]
    headline = epsilon["pld"] if epsilon["rdp"] is None else epsilon["rdp"]
    ratio = f"{math.exp(headline):.3f} times" if headline <= math.log(_LARGEST_RATIO) else f"e^{headline:.4g} (more than {_LARGEST_RATIO:.0e}) times"
    verdict = "below 1, as it should be" if delta * count < 1 else "not below 1, so this delta would permit publishing a whole record"
    return [
        f"Privacy unit: one {unit} ({ledger['dataset']['unit_map']}). The number of {_many(unit)} N is treated as public, so the guarantee is about whether a "
        f"{unit}'s data was used or blanked (zero-out), at the same epsilon as add/remove for this mechanism; it does not hide N.",
        f"Epsilon {_both(epsilon, delta)}, for the {_counted(ledger)} steps; dp-accounting {ledger['code']['dp-accounting']}.",
        f"For any event computed from the heads after these steps, its probability with that {unit}'s data is at most {ratio} that with it blanked, "
        f"plus {delta:g}, and vice versa; a membership test gains at most {accounting.membership_advantage(headline, delta):.3f} in true minus false "
        "positive rate.",
        f"With N = {count} {_many(unit)}, delta x N = {delta * count:.2g}, {verdict}; delta bounds the chance that the epsilon bound fails, not how badly.",
        *_other_unit(ledger),
    ]


def _why_infinite(ledger: Mapping[str, Any]) -> str:
    if ledger["objective"]["sensitivity"]["add_remove"] is None:
        return "its objective has no bounded sensitivity (one record changes every other record's gradient, so clipping bounds nothing)"
    return "its random seed was fixed and is known" if ledger["noise"]["seed_disclosed"] else "no noise was added"


def _both(epsilon: Mapping[str, Any], delta: float) -> str:
    if epsilon["rdp"] is None:
        return f"{epsilon['pld']:.4g} at delta {delta:g} by PLD (Renyi DP has no bound for this sampling)"
    return f"{epsilon['rdp']:.4g} at delta {delta:g} by Renyi DP ({epsilon['pld']:.4g} by PLD)"


def _many(unit: str) -> str:
    return "studies" if unit == "study" else f"{unit}s"


def _other_unit(ledger: Mapping[str, Any]) -> list[str]:
    """Returns what the run gives the units it was not built for."""
    unit, other = ledger["dataset"]["unit"], ledger["epsilon"]["other_unit"]
    lines: list[str] = []
    owners = [row for row in other["rows"] if row["unit"] == "patient"]
    if owners:
        shown = ", ".join(f"{_value(row['pld'])} with {row['owns']}" for row in owners)
        lines.append(f"A patient who owns several {_many(unit)} is protected less than this: epsilon by PLD is {shown}; {other['explanation']}.")
    for row in other["rows"]:
        if row["unit"] == "pair":
            lines.append(f"One pair of a {unit} that owns others: epsilon at most {_value(row['pld'])} by PLD under replace-one; {other['explanation']}.")
    return lines


def _value(epsilon: float | None) -> str:
    return "not bounded" if epsilon is None else f"{epsilon:.4g}"


def _earlier(ledger: Mapping[str, Any]) -> list[str]:
    """Returns what earlier runs in the same place add, and which of them add nothing."""
    total, lines = ledger["epsilon_all_runs"], []
    if total["mixed_units"]:
        lines.append("Earlier released runs on these people used another privacy unit; they add to what can be learned and are not part of this run's epsilon.")
    elif total["runs"] > 1:
        lines.append(f"Together with {total['runs'] - 1} earlier released run(s) on these people, epsilon is {_all(total)} at the same delta.")
    quiet = Counter(run["status"] if run["data_used"] else "noise-only" for run in ledger["earlier"] if not (run["data_used"] and run["released"]))
    if quiet:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(quiet.items()))
        lines.append(f"Earlier runs in this place that released nothing or used no data are listed and add nothing to epsilon: {kinds}.")
    return lines


def _all(total: Mapping[str, Any]) -> str:
    if total["infinite"]:
        return "infinite"
    if total["rdp"] is not None:
        return f"{total['rdp']:.4g} by Renyi DP"
    return "not bounded" if total["pld"] is None else f"{total['pld']:.4g} by PLD"


def _mechanism(ledger: Mapping[str, Any]) -> list[str]:
    sampling, noise, objective, clipping = ledger["sampling"], ledger["noise"], ledger["objective"], ledger["clipping"]
    sensitivity = objective["sensitivity"]
    bound = "unbounded" if sensitivity["zero_out"] is None else f"{sensitivity['zero_out']:g}"
    return [
        f"Mechanism: Poisson sampling with q = {sampling['q']} per step, {_cap(ledger)}; {_contribution(ledger)}; "
        f"Gaussian noise of standard deviation {noise['std_absolute']:.4g} on the sum, once per step; division by the public {sampling['expected']}; "
        f"clip norm {clipping['norm']:g} over both heads.",
        f"Objective: {objective['id']} ({objective['decomposition']}), sensitivity {bound}: {sensitivity['derivation']}.{_proven(sensitivity['derivation'])}",
        _public(ledger),
        f"Randomness: {noise['rng_mode']} mode, {_RANDOMNESS[noise['rng_mode']]}.",
    ]


_RANDOMNESS = {
    "test": "a fixed seed known to the tester",
    "research": "fresh operating-system entropy, one float32 Gaussian draw per step from a generator that is not cryptographic; the finite set of values "
    "such a draw can take would betray a record if one noisy gradient became known, so only final heads may leave",
    "careful": "fresh operating-system entropy, four float32 Gaussian draws summed per step from a generator that is not cryptographic, and heads rounded to "
    "a public grid on release; no proof covers floating-point noise",
}


def _proven(derivation: str) -> str:
    return (
        " This bound is this project's own derivation, checked by a search for records that break it and by nobody else."
        if "own derivation" in derivation.lower()
        else ""
    )


def _cap(ledger: Mapping[str, Any]) -> str:
    sampling, lost = ledger["sampling"], ledger["epsilon"]["overflow_delta"]
    if sampling["truncation"] == "uniform":
        return f"batches above {sampling['physical_cap']} truncated at random and accounted as such"
    if lost > 0:
        return f"at most {sampling['physical_cap']} drawn {_many(ledger['dataset']['unit'])} kept, which costs {lost:.2g} of delta (own derivation)"
    return "executed without truncation"


def _contribution(ledger: Mapping[str, Any]) -> str:
    unit, pairs = ledger["dataset"]["unit"], ledger["dataset"]["pairs_per_unit_per_step"]
    several = f"one random pair of each drawn {unit}" if pairs == 1 else f"up to {pairs} random pairs of each drawn {unit}, averaged"
    drawn = "each drawn pair" if unit == "pair" else several
    clipped = {
        "unit": "its gradient clipped",
        "group": "records drawn into small groups independently, each group's gradient clipped",
        "pair": "every image-report combination's gradient clipped",
        "row": "every row of the batch loss clipped, which bounds nothing here",
    }
    return f"{drawn}; {clipped[ledger['clipping']['per']]}"


def _public(ledger: Mapping[str, Any]) -> str:
    unit, anchors = ledger["dataset"]["unit"], ledger["objective"]["anchors"]
    counts = "the number of pairs" if unit == "pair" else f"the numbers of {_many(unit)} and pairs"
    known = f"Public: q, steps, clip norm, noise, {counts}, the frozen encoders, the initial heads"
    if anchors is None:
        return f"{known}; no public records are compared with."
    images = f", {anchors['image_count']} anchor images" if anchors["image_count"] else ""
    return (
        f"{known} and {anchors['count']} anchor texts{images} ({anchors['provenance']}). That the anchors hold no private text is their author's word: "
        "only features equal to the last bit are detected, so a paraphrased or reformatted private report would pass."
    )
