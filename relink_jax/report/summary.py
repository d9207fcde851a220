"""One printed page for a reader who governs data: the three questions of the Article 29 Working Party, in plain words, with the audit's own figures.

Source: WP29, Opinion 05/2014 on anonymisation techniques (WP216): singling out, linkability, inference.
"""

from typing import Any

from relink_jax.report import attackers, first_screen
from relink_jax.report.evidence import BEST, EMPTY, MATCHED, Cell, Evidence, Row
from relink_jax.report.plots_risk import risk_at
from relink_jax.report.words import Fragments, must, value_of


def context(evidence: Evidence) -> dict[str, Any]:
    """Returns the summary's parts as (heading, sentences), and the sentence of caution where plain comparison would mislead."""
    parts = [
        ("What was tested", _tested(evidence)),
        ("Singling out: can one person be picked out?", _singling(evidence)),
        ("Linkability: can an image be matched to its report?", _linkability(evidence)),
        ("Inference: what does an image give away without its report?", _inference(evidence)),
        ("What the protection changed", _changed(evidence)),
        ("What this does not show", _not_shown(evidence)),
        ("Who to ask", _ask(evidence)),
    ]
    return {"parts": [(heading, body) for heading, body in parts if body], "alarm": _alarm(evidence)}


def _tested(evidence: Evidence) -> Fragments:
    dataset, model = evidence.datasets[0], evidence.subject.model
    file = evidence.file(evidence.subject, dataset) or evidence.document(dataset)[0]
    data = evidence.documents[file]["data"]
    counted = [
        part
        for name, what in (("n_images", " chest X-rays"), ("n_studies", " reports"), ("n_patients", " patients"))
        if name in data
        for part in (", " if name != "n_images" else "", evidence.book.number("count", f"{name}, {dataset}", (file, f"/data/{name}")), what)
    ]
    others = [name for name in evidence.datasets[1:] if evidence.file(evidence.subject, name)]
    body: Fragments = [f"The computer model {model} turns an X-ray and a report into lists of numbers that lie close together when the two belong together. "]
    body += ["We played an attacker who holds X-rays without names and a stack of reports, and tries to put them back together"]
    body += [f". The test data are {dataset} (", *counted, ")"] if counted else [f". The test data are {dataset}"]
    return [*body, f"; the technical page also has {', '.join(others)}." if others else "."]


def _singling(evidence: Evidence) -> Fragments:
    dataset = evidence.datasets[0]
    found = risk_at(evidence, evidence.subject, dataset)
    body: Fragments = []
    if found is not None:
        file, place = found
        held, label = evidence.documents[file]["risk"][place], f"risk, {evidence.subject.model}, {dataset}"
        if "share_ge_050" in held:
            certain = evidence.book.number("percent", f"images linked with even odds or better, {label}", (file, f"/risk/{place}/share_ge_050/value"))
            size = evidence.book.number("count", f"candidates, {label}", (file, f"/risk/{place}/N"))
            body += ["For ", certain, " of the X-rays the attacker's first choice among ", size, " reports is more likely right than wrong. "]
        if "top10pct_share" in held:
            share = evidence.book.number("share", f"links of the tenth most at risk, {label}", (file, f"/risk/{place}/top10pct_share"))
            body += ["The risk is not even: the tenth of X-rays most at risk carries ", share, " of all expected matches. "]
    own = evidence.file(evidence.subject, dataset)
    if own and "by_text" in evidence.documents[own].get("anonymity", {}):
        unique = evidence.book.number("share", f"reports with a text of their own, {dataset}", (own, "/anonymity/by_text/unique_share"))
        body += [unique, " of the reports are worded like no other in the archive, so that their text alone points to one study. "]
    if not body:
        full = first_screen.strongest(evidence, evidence.subject, dataset, "full")
        body += ["Against every report of the archive, the attacker's first choice is right for ", full.value, " of the X-rays. "] if full.value else []
    return body


def _linkability(evidence: Evidence) -> Fragments:
    dataset, row = evidence.datasets[0], evidence.subject
    pool: int | str = evidence.headline(dataset) or "full"
    cell = first_screen.strongest(evidence, row, dataset, pool)
    if cell.value is None:
        return []
    body: Fragments = [
        "Given one X-ray and ",
        must(evidence.single(row, dataset, "count", "N", pool)),
        " reports, the attacker's first choice is the right report in ",
    ]
    body += [cell.value, *_between(cell), " of cases; blind guessing would be right in ", must(evidence.single(row, dataset, "chance", "chance", pool)), ". "]
    file = evidence.file(row, dataset)
    points = evidence.documents[file].get("selective", {}).get("at_coverage", []) if file else []
    place = next((index for index, one in enumerate(points) if one["precision"]["value"] is not None), None)
    if file and place is not None:
        share, right = (
            evidence.book.number(kind, f"surest links, {dataset}, {field}", (file, f"/selective/at_coverage/{place}/{field}"))
            for kind, field in (("chance", "coverage"), ("percent", "precision/value"))
        )
        body += ["If he names a match only for the ", share, " of X-rays he is surest of, ", right, " of his matches are right. "]
    size = evidence.matched_pool(dataset)
    matched = evidence.recall(row, dataset, size, MATCHED)
    chance = evidence.single(row, dataset, "chance", "chance", size, MATCHED) if matched.low is not None else None
    if matched.value is not None and chance is not None and value_of(matched.low) > value_of(chance):
        count = must(evidence.single(row, dataset, "count", "N", size, MATCHED))
        body += [
            "The diagnosis alone does not explain this: among ",
            count,
            " reports with the very same findings he is still right in ",
            matched.value,
            " of cases (guessing: ",
        ]
        body += [chance, "). "]
    return body


def _inference(evidence: Evidence) -> Fragments:
    dataset = evidence.datasets[0]
    file, at = evidence.probe_at(evidence.subject, dataset)
    if file is None or at is None:
        return []
    named = f"macro AUROC of the probe as a share of pairs, {dataset}"
    share = evidence.book.number("share", named, (file, f"{at}/macro_auroc"))
    guess = evidence.book.number("share", f"chance of the probe, {dataset}", (file, f"{at}/chance"))
    body: Fragments = [
        "The lists of numbers tell medical findings without any report: shown one patient with a finding and one without, a simple program picks the right one in "
    ]
    body += [
        share,
        " of pairs, on average over findings (guessing: ",
        guess,
        "). That is what such models are for, and it is also what a person who obtains the numbers can learn. ",
    ]
    return [*body, "Whether other traits, such as age or origin, can be read off was not tested."]


def _changed(evidence: Evidence) -> Fragments:
    dataset, row, after = evidence.datasets[0], evidence.subject, evidence.mitigation
    if after is None:
        return ["No protection was tried: the figures above are those of the model as it is."]
    pool: int | str = evidence.headline(dataset) or "full"
    before, left = (first_screen.strongest(evidence, one, dataset, pool) for one in (row, after))
    if before.value is None or left.value is None:
        return []
    how = (
        "trained again with differential privacy, which adds noise so that no single training patient shows"
        if after.head == "dp"
        else "replaced by the protected one"
    )
    body: Fragments = [
        f"The last part of the model was {how}. The attacker's first choice is then right in ",
        left.value,
        *_between(left),
        " of cases, before in ",
        before.value,
    ]
    times = evidence.single(after, dataset, "times", "lift", pool, attack=BEST) or evidence.single(after, dataset, "times", "lift", pool)
    body += [" (", times, " guessing is left). "] if times is not None else [". "]
    for task, named in (
        ("zero_shot", "Used without further training, the model tells findings apart in "),
        ("probe", "A program trained on its numbers tells them apart in "),
    ):
        was, now = (_used(evidence, one, dataset, task) for one in (row, after))
        body += [named, now.value, " of pairs, before in ", was.value, ". "] if was.value is not None and now.value is not None else []
    return body


def _used(evidence: Evidence, row: Row, dataset: str, task: str) -> Cell:
    file, at = evidence.probe_at(row, dataset, task=task)
    if file is None or at is None:
        return EMPTY
    return Cell(evidence.book.number("share", f"{task} macro AUROC as a share of pairs, {row.model} ({row.head}), {dataset}", (file, f"{at}/macro_auroc")))


def _not_shown(evidence: Evidence) -> Fragments:
    body: Fragments = []
    if any(result["data"]["synthetic"] for result in evidence.results):
        body += ["The data were generated by a program; no real patient is described. "]
    body += ["Only the attackers listed on the technical page were tried; a better one may exist. "]
    if evidence.mitigation is not None:
        body += [
            "The protection covers only numbers made with the protected model: whoever keeps the original model, or the images themselves, is not hindered. "
        ]
        body += ["Its mathematical promise is about the patients it was trained on, not about those whose images are matched here. "]
    return [*body, "Averages hide people: a patient with an unusual history can be found although the average is low."]


def _ask(evidence: Evidence) -> Fragments:
    run = evidence.results[0]["run"]
    return [
        "Ask whoever ran this audit and keeps its working directory, and name the run: ", str(run["id"]), ". They can recompute every figure. Contact: ", "_" * 44,
    ]  # fmt: skip


def _alarm(evidence: Evidence) -> Fragments:
    """Returns the warning where the simplest comparison would call a set of heads safe that are not; of controls only where no mitigation is fooled."""
    found = attackers.exposures(evidence)
    found = [one for one in found if one.row.head not in attackers.CONTROLS]
    if not found:
        return []
    one = found[0]
    body: Fragments = [
        "A simple test would call the protected model safe: it finds only ",
        one.by_cosine.value or "n/a",
        " of the matches. A better attacker, with the same numbers, finds ",
    ]
    return [*body, one.by_attack.value or "n/a", ". Do not rely on the simple test."]


def _between(cell: Cell) -> Fragments:
    """Returns the interval in words, without it nothing."""
    if cell.low is None or cell.high is None or value_of(cell.low) != value_of(cell.low):
        return []
    return [" (between ", cell.low, " and ", cell.high, " with the uncertainty of the sample)"]
