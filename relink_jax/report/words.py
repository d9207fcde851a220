"""The page's sentences. Each is a list of fragments, text or numbers, and each verdict is computed from the numbers it cites."""

import dataclasses
from typing import Any

from relink_jax.report import values
from relink_jax.report.evidence import EMPTY, MATCHED, PAIRED_POOL, Cell, Evidence, Row


@dataclasses.dataclass(frozen=True)
class Strong:
    """A number printed in bold."""

    number: values.Number


Fragments = list[str | values.Number | Strong]

HEADS = {"original": "original heads", "none": "as given", "dp": "DP-SGD heads", "noise_only": "noise only, no data", "random": "random heads"}
MARGIN = 0.01  # a loss of macro AUROC below one point counts as none, when the whole interval is below it
ONE_DRAW = "Each arm is one draw of the noise; the interval is over patients, and another draw would move both. "


@dataclasses.dataclass(frozen=True)
class Answer:
    """A question, the computed one-word verdict and the evidence in a sentence or two."""

    question: str
    verdict: str
    body: Fragments


def head_name(head: str) -> str:
    """Returns the reader's name of a head arm."""
    return HEADS.get(head, f"{head.replace('_', ' ')} heads")


def own_heads(evidence: Evidence, row: Row) -> str:
    """Returns what a model's own heads are called; of an ensemble, how its members' scores become one."""
    ensemble = evidence.ensembles.get(row.model)
    return f"ensemble, {ensemble['rule']}" if ensemble else head_name(row.head)


def with_interval(cell: Cell, strong: bool = False) -> Fragments:
    """Returns `value [low, high]`, or the value alone without an interval, or n/a; the value in bold when `strong`."""
    if cell.value is None:
        return ["n/a"]
    shown: str | values.Number | Strong = Strong(cell.value) if strong else cell.value
    if cell.low is None or cell.high is None:
        return [shown]
    return [shown, " [", cell.low, ", ", cell.high, "]"]


def finding(evidence: Evidence) -> Fragments:
    """Returns the one sentence that opens the page: linkage before, after the mitigation and by noise alone, and the probe."""
    dataset, row, dp = evidence.datasets[0], evidence.subject, evidence.arm("dp")
    pool: int | str = evidence.headline(dataset) or "full"
    before = evidence.recall(row, dataset, pool)
    if before.value is None:
        return ["No Recall@1 of ", row.model, " was recorded on ", dataset, "."]
    size, chance = (_must(evidence.single(row, dataset, kind, field, pool)) for kind, field in (("count", "N"), ("chance", "chance")))
    lift = _must(evidence.single(row, dataset, "times", "lift", pool))
    sentence: Fragments = [
        "At N = ",
        size,
        f" candidates, {row.model} links ",
        *with_interval(before, True),
        " of the images to their report (chance ",
        chance,
        ", lift ",
        lift,
        ")",
    ]
    after, noise = evidence.recall(dp, dataset, pool) if dp else EMPTY, evidence.arm("noise_only")
    if dp is not None and after.value is not None:
        lift = _must(evidence.single(dp, dataset, "times", "lift", pool))
        sentence += ["; after DP-SGD on its projection heads", *_guarantee(evidence, dp, dataset), ", ", *with_interval(after, True)]
        sentence += [" (", lift, " chance remains)"]
    alone, draws, _ = evidence.redraws(dataset, pool)
    if alone.value is not None:
        sentence += ["; with noise of the same size and no data, ", Strong(alone.value), " (mean of ", _must(draws), " draws)"]
    elif noise is not None:
        sentence += ["; with noise of the same size and no data, ", *with_interval(evidence.recall(noise, dataset, pool), True)]
    probes = [evidence.probe(one, dataset).value for one in (row, dp) if one is not None]
    if len(probes) == 2 and probes[0] is not None and probes[1] is not None:
        sentence += ["; and a linear probe's macro AUROC goes from ", Strong(probes[0]), " to ", Strong(probes[1])]
    return [*sentence, "."]


def answers(evidence: Evidence) -> list[Answer]:
    """Returns the computed answers below the finding; those without data are left out."""
    found = [_ladder(evidence), _labels(evidence), _external(evidence), _removed(evidence), _noise(evidence), _price(evidence)]
    return [answer for answer in found if answer is not None]


def _guarantee(evidence: Evidence, arm: Row, dataset: str) -> Fragments:
    file = evidence.file(arm, dataset)
    if file is None or evidence.documents[file]["model"]["dp"] is None:
        return []
    described = evidence.documents[file]["model"]["dp"]
    epsilon = evidence.book.number("small", f"epsilon of {arm.model}", (file, "/model/dp/epsilon"))
    delta = evidence.book.number("small", f"delta of {arm.model}", (file, "/model/dp/delta"))
    earlier: Fragments = []
    if described.get("runs", 1) > 1:  # an earlier release on the same people adds to this one
        runs = evidence.book.number("count", f"released runs of {arm.model}", (file, "/model/dp/runs"))
        total = described["epsilon_all_runs"]
        spent: Fragments = (
            ["not bounded"] if total is None else [evidence.book.number("small", f"epsilon of all runs of {arm.model}", (file, "/model/dp/epsilon_all_runs"))]
        )
        earlier = ["; ", *spent, " over the ", runs, " runs released on these people"]
    return [" (\N{GREEK SMALL LETTER EPSILON} = ", epsilon, ", \N{GREEK SMALL LETTER DELTA} = ", delta, f" per {described['unit']}", *earlier, ")"]


def _ladder(evidence: Evidence) -> Answer | None:
    dataset = evidence.datasets[0]
    pool: int | str = evidence.headline(dataset) or "full"
    rows = [row for row in evidence.ladder if row.rung is not None]
    cells = [evidence.recall(row, dataset, pool) for row in rows]
    lifts = [evidence.single(row, dataset, "times", "lift", pool) for row in rows]
    if len(rows) < 2 or any(lift is None or lift.value is None for lift in lifts):
        return None
    numbers = [_must(lift) for lift in lifts]
    steps = list(zip(rows, rows[1:], numbers, numbers[1:], cells, cells[1:], strict=False))
    rises = all(_value(upper) > _value(lower) for _, _, lower, upper, _, _ in steps)
    overlaps = [(a.model, b.model) for a, b, _, _, below, above in steps if below.high is None or above.low is None or _value(above.low) <= _value(below.high)]
    body: Fragments = ["Lift over chance at N = ", _must(evidence.single(rows[0], dataset, "count", "N", pool)), ", in rising specialisation: "]
    for index, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        body += [", " if index else "", f"{row.model} ", number]
    if not rises:
        falls = [b.model for _, b, lower, upper, _, _ in steps if _value(upper) <= _value(lower)]
        return Answer("Does linkage rise with specialisation?", "No", [*body, f". It does not rise at {', '.join(falls)}."])
    note = ". The intervals of neighbouring models do not overlap."
    if overlaps:
        note = f". The intervals of {overlaps[0][0]} and {overlaps[0][1]} overlap{', as do others' if len(overlaps) > 1 else ''}."
    return Answer("Does linkage rise with specialisation?", "On the whole" if overlaps else "Yes", [*body, note])


def _labels(evidence: Evidence) -> Answer | None:
    dataset, row = evidence.datasets[0], evidence.subject
    pool = evidence.matched_pool(dataset)
    matched = evidence.recall(row, dataset, pool, MATCHED) if pool else EMPTY
    if matched.value is None or matched.value.value is None:
        return None
    beside = evidence.recall(row, dataset, pool, PAIRED_POOL)
    chance = _must(evidence.single(row, dataset, "chance", "chance", pool, MATCHED))
    above = matched.low is not None and _value(matched.low) > _value(chance)
    body: Fragments = [
        "Among N = ", _must(evidence.single(row, dataset, "count", "N", pool, MATCHED)), " candidates that all carry the same 14 labels, ", row.model, " still links "
        if above else " links ", *with_interval(matched), " (chance ", chance, "); the same queries in random pools of that size: ", *with_interval(beside), ". ",
        _must(evidence.single(row, dataset, "share", "n_eligible_share", pool, MATCHED)), " of the queries have enough label twins to count.",
    ]  # fmt: skip
    return Answer("Is it more than the disease labels?", "Yes" if above else "Not shown", body)


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
    chance = _must(evidence.single(row, dataset, "chance", "chance", pool))
    above = before.low is not None and _value(before.low) > _value(chance)
    body: Fragments = [
        f"On {dataset}, at N = ", _must(evidence.single(row, dataset, "count", "N", pool)), f", {row.model} links ", *with_interval(before), " (chance ", chance, ")",
    ]  # fmt: skip
    verdict = "Yes" if above else "Not shown"
    if dp is not None and evidence.recall(dp, dataset, pool).value is not None:
        body += ["; with the DP-SGD heads, used there without retraining, ", *with_interval(evidence.recall(dp, dataset, pool))]
    return Answer("Does the risk carry over to another site?", verdict, [*body, "."])


def _removed(evidence: Evidence) -> Answer | None:
    dataset, row, dp = evidence.datasets[0], evidence.subject, evidence.arm("dp")
    pool: int | str = evidence.headline(dataset) or "full"
    if dp is None:
        return None
    change = evidence.paired(dp, row, dataset, pool)
    before, left = evidence.bits(row, dataset, pool), evidence.bits(dp, dataset, pool)
    if change.low is None or change.high is None or before.value is None or left.value is None:
        return None
    reduction, removed = (evidence.paired(dp, row, dataset, pool, form) for form in ("reduction", "bits_removed"))
    body: Fragments = ["Recall@1 at N = ", _must(evidence.single(row, dataset, "count", "N", pool)), " changes by ", *with_interval(change)]
    body += [", a fall of ", *with_interval(reduction)] if reduction.value is not None else []
    body += [". In bits over chance: ", before.value, " before, ", *with_interval(left), " left"]
    body += [", ", *with_interval(removed), " removed"] if removed.value is not None else []
    at_chance = left.low is not None and not _value(left.low) > 0
    verdict = "No" if _value(change.high) >= 0 else "Down to chance" if at_chance else "In part"
    return Answer("Did the DP heads remove the linkage?", verdict, [*body, "."])


def _noise(evidence: Evidence) -> Answer | None:
    dataset, dp, noise = evidence.datasets[0], evidence.arm("dp"), evidence.arm("noise_only")
    pool: int | str = evidence.headline(dataset) or "full"
    if dp is None or noise is None:
        return None
    question = "Did DP training do more than its noise?"
    after, paired = evidence.recall(dp, dataset, pool), evidence.paired(dp, noise, dataset, pool)
    drawn, count, share = evidence.redraws(dataset, pool)
    if drawn.value is not None and after.value is not None:
        above, below = _value(after.value) > _value(drawn.high), _value(after.value) < _value(drawn.low)
        body: Fragments = ["Recall@1 with the DP-SGD heads is ", after.value, ". Noise of the same size with no data leaves ", *with_interval(drawn)]
        body += [" on the same queries: mean of ", _must(count), " draws and the 95% prediction interval for another. "]
        body += ["Noise alone accounts for ", share, " of the fall. "] if share is not None else []
    elif paired.low is not None and paired.high is not None:
        above, below = _value(paired.low) > 0, _value(paired.high) < 0
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
    dataset, row, dp = evidence.datasets[0], evidence.subject, evidence.arm("dp")
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
        low, high = _value(difference.low), _value(difference.high)
        unresolved = "No loss of a point or more" if low > -MARGIN else "Not resolved to a point"
        verdict = "A measurable loss" if high < 0 else "A measurable gain" if low > 0 else unresolved
    pre, random = evidence.probe(row, dataset, "pre_head"), evidence.arm("random")
    if pre.value is not None:
        body += ["Before the head it is ", pre.value, " in every arm, because the encoder is frozen. "]
    chance = evidence.probe(random, dataset) if random else EMPTY
    if chance.value is not None:
        body += [
            "Heads of random numbers keep ",
            chance.value,
            ": judge by that how much of a head a probe can see. It sees nothing of the text side or of zero-shot use.",
        ]
    return Answer("What did it cost?", verdict, body)


def _must(number: values.Number | None) -> str | values.Number:
    return "n/a" if number is None else number


def _value(number: Any) -> float:
    return float("nan") if isinstance(number, str) or number.value is None else float(number.value)
