"""The questions below the finding. Each verdict is computed from the numbers it cites; those without data are left out."""

import dataclasses

from relink_jax.report import attackers, values
from relink_jax.report.evidence import BEST, COMPARISONS, EMPTY, MATCHED, PAIRED_POOL, Evidence
from relink_jax.report.words import Fragments, must, value_of, with_interval

NULL_Z = 4  # standard errors from chance up to which shuffled pairs count as unlinked
MARGIN = 0.01  # a loss of macro AUROC below one point counts as none, when the whole interval is below it
ONE_DRAW = "Each arm is one draw of the noise; the interval is over patients, and another draw would move both. "


@dataclasses.dataclass(frozen=True)
class Answer:
    """A question, the computed one-word verdict and the evidence in a sentence or two."""

    question: str
    verdict: str
    body: Fragments


def answers(evidence: Evidence) -> list[Answer]:
    """Returns the computed answers below the finding; those without data are left out."""
    wanted = (_ladder, _attack, _labels, _external, _removed, _noise, _price, _null)
    return [answer for answer in (one(evidence) for one in wanted) if answer is not None]


def _ladder(evidence: Evidence) -> Answer | None:
    dataset = evidence.datasets[0]
    pool: int | str = evidence.headline(dataset) or "full"
    rows = [row for row in evidence.ladder if row.rung is not None]
    cells = [evidence.recall(row, dataset, pool) for row in rows]
    lifts = [evidence.single(row, dataset, "times", "lift", pool) for row in rows]
    if len(rows) < 2 or any(lift is None or lift.value is None for lift in lifts):
        return None
    numbers = [must(lift) for lift in lifts]
    steps = list(zip(rows, rows[1:], numbers, numbers[1:], cells, cells[1:], strict=False))
    rises = all(value_of(upper) > value_of(lower) for _, _, lower, upper, _, _ in steps)
    overlaps = [
        (a.model, b.model) for a, b, _, _, below, above in steps if below.high is None or above.low is None or value_of(above.low) <= value_of(below.high)
    ]
    body: Fragments = ["Lift over chance at N = ", must(evidence.single(rows[0], dataset, "count", "N", pool)), ", in rising specialisation: "]
    for index, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        body += [", " if index else "", f"{row.model} ", number]
    body += _order(evidence, dataset)
    if not rises:
        falls = [b.model for _, b, lower, upper, _, _ in steps if value_of(upper) <= value_of(lower)]
        return Answer("Does linkage rise with specialisation?", "No", [*body, f". It does not rise at {', '.join(falls)}."])
    note = ". The intervals of neighbouring models do not overlap."
    if overlaps:
        note = f". The intervals of {overlaps[0][0]} and {overlaps[0][1]} overlap{', as do others' if len(overlaps) > 1 else ''}."
    return Answer("Does linkage rise with specialisation?", "On the whole" if overlaps else "Yes", [*body, note])


def _order(evidence: Evidence, dataset: str) -> Fragments:
    """Returns how sure the order is, from the file of comparisons; empty without it."""
    entries = evidence.documents.get(COMPARISONS, {"datasets": []})["datasets"]
    place = next((index for index, one in enumerate(entries) if one["dataset"] == dataset and "order" in one), None)
    if place is None:
        return []
    at, order = f"/datasets/{place}/order", entries[place]["order"]
    share = evidence.book.number("percent", f"resamples with the whole order, {dataset}", (COMPARISONS, f"{at}/share_of_resamples_in_order"))
    told: Fragments = [". Drawing patients anew keeps the whole order in ", share, " of draws"]
    unsure = [one for one in order["adjacent"] if one["low"] is None or one["low"] <= 0]
    if not unsure:
        return [*told, ", and each step up is above zero in intervals that hold for all steps at once"]
    return [*told, f"; the step from {unsure[0]['lower']} to {unsure[0]['upper']} is not resolved in intervals that hold for all steps at once"]


def _attack(evidence: Evidence) -> Answer | None:
    dataset, row = evidence.datasets[0], evidence.subject
    file, pool = evidence.file(row, dataset), evidence.headline(dataset) or "full"
    best = evidence.attack_at(file, BEST)
    if file is None or best is None:
        return None
    question, tried = "Does a cleverer attacker find more?", len(attackers.tried(evidence, file)) - 1
    if best == 0:
        return Answer(question, "Not among those tried", ["Calibration patients find no attack better than plain cosine."]) if tried else None
    gain, cell = attackers.gain(evidence, row, dataset, pool, best), evidence.recall(row, dataset, pool, attack=best)
    body: Fragments = [f"On {row.model}, ", *attackers.name(evidence, file, best), " is the best on calibration patients. It links ", *with_interval(cell)]
    body += [
        " at N = ",
        must(evidence.single(row, dataset, "count", "N", pool)),
        " against ",
        *with_interval(evidence.recall(row, dataset, pool)),
        " by plain cosine",
    ]
    body += [", a difference of ", *with_interval(gain)] if gain.value is not None else []
    if gain.low is None or gain.high is None:
        return Answer(question, "Not tested", [*body, "."])
    verdict = "Yes" if value_of(gain.low) > 0 else "No, it finds less" if value_of(gain.high) < 0 else "Not distinguishable"
    return Answer(question, verdict, [*body, "."])


def _labels(evidence: Evidence) -> Answer | None:
    dataset, row = evidence.datasets[0], evidence.subject
    pool = evidence.matched_pool(dataset)
    matched = evidence.recall(row, dataset, pool, MATCHED) if pool else EMPTY
    if matched.value is None or matched.value.value is None:
        return None
    beside = evidence.recall(row, dataset, pool, PAIRED_POOL)
    chance = must(evidence.single(row, dataset, "chance", "chance", pool, MATCHED))
    above = matched.low is not None and value_of(matched.low) > value_of(chance)
    body: Fragments = [
        "Among N = ", must(evidence.single(row, dataset, "count", "N", pool, MATCHED)), " candidates that all carry the same 14 labels, ", row.model, " still links "
        if above else " links ", *with_interval(matched), " (chance ", chance, "); the same queries in random pools of that size: ", *with_interval(beside), ". ",
        must(evidence.single(row, dataset, "share", "n_eligible_share", pool, MATCHED)), " of the queries have enough label twins to count.",
    ]  # fmt: skip
    body += _retained(evidence, dataset, pool)
    return Answer("Is it more than the disease labels?", "Yes" if above else "Not shown", body)


def _retained(evidence: Evidence, dataset: str, pool: int | None) -> Fragments:
    """Returns how much of the linkage in bits is left in label-matched pools, and what the labels alone would link."""
    file = evidence.file(evidence.subject, dataset)
    entries = evidence.documents[file].get("matched", []) if file else []
    place = next((index for index, one in enumerate(entries) if one["stratum"] == MATCHED and one["N"] == pool and not one["full"]), None)
    if file is None or place is None:
        return []
    told: Fragments = []
    kept = entries[place].get("retained_share")
    if kept and None not in kept.values():
        parts = [
            evidence.book.number("share", f"bits retained, {dataset}, {name}", (file, f"/matched/{place}/retained_share/{name}"))
            for name in ("value", "low", "high")
        ]
        told += [" Of the linkage in bits, ", parts[0], " [", parts[1], ", ", parts[2], "] is left."]
    if entries[place].get("label_only") is not None:
        number = evidence.book.number("percent", f"label-only attacker, {dataset}", (file, f"/matched/{place}/label_only"))
        told += [" An attacker who knows only the labels links ", number, " in the random pools."]
    return told


def _external(evidence: Evidence) -> Answer | None:
    row, dp = evidence.subject, evidence.arm("dp")
    names = [name for name in evidence.datasets[1:] if evidence.file(row, name)]
    if not names:
        return None
    dataset = names[0]
    pool: int | str = evidence.headline(dataset) or "full"
    before = evidence.recall(row, dataset, pool)
    if before.value is None:
        return None
    chance = must(evidence.single(row, dataset, "chance", "chance", pool))
    above = before.low is not None and value_of(before.low) > value_of(chance)
    body: Fragments = [
        f"On {dataset}, at N = ", must(evidence.single(row, dataset, "count", "N", pool)), f", {row.model} links ", *with_interval(before), " (chance ", chance, ")",
    ]  # fmt: skip
    verdict = "Yes" if above else "Not shown"
    if dp is not None and evidence.recall(dp, dataset, pool).value is not None:
        body += ["; with the DP-SGD heads, used there without retraining, ", *with_interval(evidence.recall(dp, dataset, pool))]
    return Answer("Does the risk carry over to another site?", verdict, [*body, "."])


def _removed(evidence: Evidence) -> Answer | None:
    dataset, row, after = evidence.datasets[0], evidence.subject, evidence.mitigation
    pool: int | str = evidence.headline(dataset) or "full"
    if after is None:
        return None
    how, attack = ("best", BEST) if evidence.paired(after, row, dataset, pool, attack=BEST).low is not None else ("cosine", None)
    change = evidence.paired(after, row, dataset, pool, attack=how)
    before, left = evidence.bits(row, dataset, pool, attack=attack), evidence.bits(after, dataset, pool, attack=attack)
    if change.low is None or change.high is None or before.value is None or left.value is None:
        return None
    reduction, removed = (evidence.paired(after, row, dataset, pool, form, how) for form in ("reduction", "bits_removed"))
    lead = "By the best attack on each, Recall@1 at N = " if attack else "Recall@1 at N = "
    body: Fragments = [lead, must(evidence.single(row, dataset, "count", "N", pool)), " changes by ", *with_interval(change)]
    body += [", a fall of ", *with_interval(reduction)] if reduction.value is not None else []
    body += [". In bits over chance: ", before.value, " before, ", *with_interval(left), " left"]
    body += [", ", *with_interval(removed), " removed"] if removed.value is not None else []
    cosine = evidence.paired(after, row, dataset, pool, "reduction") if attack else EMPTY
    body += [". By plain cosine the fall is ", *with_interval(cosine)] if cosine.value is not None else []
    at_chance = left.low is not None and not value_of(left.low) > 0
    verdict = "No" if value_of(change.high) >= 0 else "Down to chance" if at_chance else "In part"
    heads = "DP heads" if after.head == "dp" else "new heads"
    return Answer(f"Did the {heads} remove the linkage?", verdict, [*body, "."])


def _noise(evidence: Evidence) -> Answer | None:
    dataset, dp, noise = evidence.datasets[0], evidence.arm("dp"), evidence.arm("noise_only")
    pool: int | str = evidence.headline(dataset) or "full"
    if dp is None or noise is None:
        return None
    question = "Did DP training do more than its noise?"
    after, paired = evidence.recall(dp, dataset, pool), evidence.paired(dp, noise, dataset, pool)
    drawn, count, share = evidence.redraws(dataset, pool)
    if drawn.value is not None and after.value is not None:
        above, below = value_of(after.value) > value_of(drawn.high), value_of(after.value) < value_of(drawn.low)
        body: Fragments = ["Recall@1 with the DP-SGD heads is ", after.value, ". Noise of the same size with no data leaves ", *with_interval(drawn)]
        body += [" on the same queries: mean of ", must(count), " draws and the 95% prediction interval for another. "]
        body += ["Noise alone accounts for ", share, " of the fall. "] if share is not None else []
    elif paired.low is not None and paired.high is not None:
        above, below = value_of(paired.low) > 0, value_of(paired.high) < 0
        body = ["Recall@1 with DP-SGD heads minus noise-only heads, on the same queries: ", *with_interval(paired), ". ", ONE_DRAW]
    else:
        return None
    if above:
        return Answer(question, "It kept linkage", [*body, "The fall comes from the noise; the gradients give part of the linkage back."])
    if below:
        return Answer(question, "Yes", [*body, "Training on the data lowered linkage beyond what noise alone does."])
    told = "At this cohort size DP gradients cannot be told from noise: nothing here shows that learning, rather than noise, lowered the linkage."
    return Answer(question, "Not distinguishable", [*body, told])


def _price(evidence: Evidence) -> Answer | None:
    dataset, row, dp = evidence.datasets[0], evidence.subject, evidence.mitigation
    if dp is None:
        return None
    before, after = evidence.probe(row, dataset), evidence.probe(dp, dataset)
    if before.value is None or after.value is None:
        return None
    difference = evidence.paired_probe(dp, dataset)
    body: Fragments = ["Macro AUROC of a linear probe on the image embeddings goes from ", *with_interval(before), " to ", *with_interval(after)]
    if difference.value is not None:
        body += [" (difference ", *with_interval(difference), ")"]
    body += [". "]
    verdict = "Not tested"
    if difference.low is not None and difference.high is not None:
        low, high = value_of(difference.low), value_of(difference.high)
        unresolved = "No loss of a point or more" if low > -MARGIN else "Not resolved to a point"
        verdict = "A measurable loss" if high < 0 else "A measurable gain" if low > 0 else unresolved
    body += _equivalence(evidence, dataset)
    pre, random = evidence.probe(row, dataset, "pre_head"), evidence.arm("random")
    if pre.value is not None:
        body += ["Before the head it is ", pre.value, " in every arm, because the encoder is frozen. "]
    chance = evidence.probe(random, dataset) if random else EMPTY
    if chance.value is not None:
        body += [
            "Heads of random numbers keep ",
            chance.value,
            ": judge by that how much of a head a probe can see. It sees nothing of the text side or of zero-shot use. ",
        ]
    body += _zero_shot(evidence, dataset)
    return Answer("What did it cost?", verdict, body)


def _equivalence(evidence: Evidence, dataset: str) -> Fragments:
    """Returns the verdict of the equivalence test of the probe with its margin; empty where none was made."""
    if evidence.mitigation is None:
        return []
    file, at = evidence.paired_at(evidence.mitigation, dataset)
    if file is None or at is None or not values.has(evidence.documents[file], f"{at}/equivalence"):
        return []
    held = values.resolve(evidence.documents[file], f"{at}/equivalence")
    margin = evidence.book.number("small", f"margin of equivalence, {dataset}", (file, f"{at}/equivalence/margin"))
    return ["Within a margin of ", margin, " declared beforehand, the two are ", "" if held["equivalent"] else "not shown to be ", "equivalent. "]


def _zero_shot(evidence: Evidence, dataset: str) -> Fragments:
    """Returns the price in zero-shot use, which the same prompts before and after measure; empty where it was not."""
    row, after = evidence.subject, evidence.mitigation
    before, left = (evidence.probe(one, dataset, task="zero_shot") if one is not None else EMPTY for one in (row, after))
    if after is None or before.value is None or left.value is None:
        return []
    change = evidence.paired_probe(after, dataset, "zero_shot")
    told: Fragments = ["Zero-shot macro AUROC, which does need both sides, goes from ", *with_interval(before), " to ", *with_interval(left)]
    return [*told, *([" (difference ", *with_interval(change), ")"] if change.value is not None else []), "."]


def _null(evidence: Evidence) -> Answer | None:
    """Returns whether the measurement finds linkage where pairs were shuffled within their labels, so that there is none."""
    dataset = evidence.datasets[0]
    file = evidence.file(evidence.subject, dataset)
    points = evidence.documents[file].get("null", {}).get("points", []) if file else []
    if file is None or not points:
        return None
    place = max(range(len(points)), key=lambda index: points[index]["N"])
    label = f"shuffled pairs, {dataset}, N={points[place]['N']}"
    found, chance = (
        evidence.book.number(kind, f"{label}, {field}", (file, f"/null/points/{place}/{field}")) for kind, field in (("percent", "value"), ("chance", "chance"))
    )
    size = evidence.book.number("count", f"{label}, candidates", (file, f"/null/points/{place}/N"))
    z = points[place]["z"]
    body: Fragments = [
        "With pairs shuffled among studies with the same labels, so that nothing but the labels can link them, Recall@1 at N = ",
        size,
        " is ",
        found,
        " (chance ",
    ]
    away = evidence.book.number("small", f"{label}, z", (file, f"/null/points/{place}/z"))
    body += [chance, ", ", away, " standard errors away)."] if z is not None else [chance, ")."]
    verdict = "Not tested" if z is None else "No, as it should be" if abs(z) <= NULL_Z else "Yes: distrust these numbers"
    return Answer("Does the measurement see links where there are none?", verdict, body)
