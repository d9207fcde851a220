"""What the page does not show, what privacy was spent and what the run warned of, in words beside their numbers."""

from collections.abc import Callable, Sequence
from typing import Any

from relink_jax.report import attackers, values
from relink_jax.report.evidence import Evidence
from relink_jax.report.words import Fragments

_RELATIONS = {"zero_out": "zero-out (N is public)", "add_remove": "add/remove", "replace_one": "replace-one"}
_DECOMPOSITIONS = {
    "per_record": "its own gradient only",
    "per_group": "the gradient of its own group",
    "per_pair": "the gradients of its own pairs",
    "none": "every gradient of its batch: no bound",
}
SAME_PATIENT = {
    "exclude": "Other studies of the query's patient were left out of the candidates. Recognising the patient but not the study counts neither for nor against.",
    "negative": "Other studies of the query's patient were candidates and counted as wrong: strict study linkage.",
    "positive": "A hit on any study of the query's patient counted as right.",
}


def limits(evidence: Evidence) -> list[tuple[str, Fragments]]:
    """Returns the items of the box 'What this does not show' as (heading, fragments)."""
    dataset = evidence.datasets[0]
    file, document = evidence.document(dataset)
    data, protocol = document["data"], document["protocol"]
    items: list[tuple[str, Fragments]] = []
    if any(result["data"]["synthetic"] for result in evidence.results):
        items.append(
            (
                "A real archive",
                [
                    "The patients, images and reports are generated. These numbers show how the measurement behaves; they say nothing about any hospital or any published model."
                ],
            )
        )
    items.append(("A stronger attacker", _attackers(evidence)))
    if evidence.arms:
        items.append(("An attacker who keeps the original", [
            "New heads protect only embeddings made with them. Whoever holds the original heads, or the features before the head, has the risk of the original row."]))  # fmt: skip
        items.append(("Protection of the audited patients", _dp_scope(evidence)))
    items.append(("Memory against generalisation", _memory(evidence, dataset)))
    if data.get("text_field"):
        items.append(("Other text", [f"The report text used is {data['text_field']}. Other sections carry other identifying detail and give other numbers."]))
    items.append(("Same patient", [SAME_PATIENT[protocol["same_patient"]]]))
    ties: Fragments = [
        "A study is one candidate, and equal reports are ranked as equal. Tied candidates count by chance (their expectation); best and worst cases are in the results files."
    ]
    if "n_unique_texts" in data and "n_studies" in data:
        counted = [evidence.book.number("count", f"{name}, {dataset}", (file, f"/data/{name}")) for name in ("n_unique_texts", "n_studies")]
        ties += [" The ", counted[1], " studies hold ", counted[0], " different texts."]
    items.append(("Ties", ties))
    items.append(("Independent labels", [
        "The 14 labels describe the same reports that are being linked. Matched pools remove what the labels say; what is left may be severity, place, devices, wording or anatomy, "
        "and is correspondence beyond labels, not proof of identity. The probe predicts these labels, not a radiologist's reading."]))  # fmt: skip
    two_sided = any(entry.get("ci_two_sided") for result in evidence.results for entry in result["metrics"])
    told = "Intervals resample patients as queries and keep the candidate set as it is. A different archive would vary more, above all for the full database. "
    told += "Its figures have a second interval that lets the candidates vary too, under 'More figures'." if two_sided else "The candidate side was not varied."
    items.append(("New candidates", [told]))
    items.append(("The patients most at risk", ["Recall is an average. A patient with an unusual study can be found almost surely while the average is low."]))
    return items


def _attackers(evidence: Evidence) -> Fragments:
    """Returns which attacks were tried, in their families, and which known ones were not."""
    tried = list(dict.fromkeys(one["name"] for file in evidence.files.values() for one in attackers.tried(evidence, file)))
    if not tried:
        return [
            "One attacker was tried: ranking the candidates by plain cosine similarity. Score normalisation, assignment over all pairs, a map re-fitted on a few known pairs and "
            "several images of one study were not. An attacker uses whichever works best, so read every figure as a lower bound on the risk."
        ]
    missing = [called for name, called in attackers.NAMES.items() if name not in tried]
    told = f"Tried were {', '.join(attackers.NAMES.get(name, name) for name in tried)}. "
    told += f"Not tried were {', '.join(missing)}. " if missing else ""
    told += "The best attack is the one that calibration patients choose. Nobody knows the attacks that are not listed, so read every figure as a lower bound on the risk."
    return [told]


def _dp_scope(evidence: Evidence) -> Fragments:
    body: Fragments = ["Epsilon bounds what the released heads reveal about a person in their training set"]
    for name, ledger in evidence.ledgers.items():
        if ledger.get("data_used", True) and "n_units_declared" in ledger.get("dataset", {}):
            body += [
                " (",
                evidence.book.number("count", f"training units, {name}", (name, "/dataset/n_units_declared")),
                f" {ledger['dataset'].get('unit', 'unit')}s)",
            ]
            break
    return [
        *body,
        ". The people audited here were never in it: no epsilon limits how well their images can be linked, and the encoders and original heads carry no guarantee at all.",
    ]


def warnings(evidence: Evidence) -> list[tuple[str, int]]:
    """Returns the distinct warnings of all results with how many files carry each, in first-seen order."""
    seen: dict[str, int] = {}
    for result in evidence.results:
        for line in dict.fromkeys(result["warnings"]):
            seen[line] = seen.get(line, 0) + 1
    return list(seen.items())


def ledger_rows(evidence: Evidence, name: str) -> list[tuple[str, Fragments]]:
    """Returns (term, value) pairs of one privacy ledger; terms it lacks are left out."""
    ledger = evidence.ledgers[name]

    def number(kind: str, label: str, *pointers: str, formula: str = "value") -> Fragments:
        if not all(values.has(ledger, pointer) for pointer in pointers):
            return []
        return [evidence.book.number(kind, f"{label}, {name}", *[(name, pointer) for pointer in pointers], formula=formula)]

    def epsilon(view: str) -> Fragments:
        if ledger.get("epsilon", {}).get("infinite"):
            return ["infinite, no guarantee"]
        return number("small", f"epsilon {view.upper()}", f"/epsilon/{view}")

    mechanism: list[tuple[str, Fragments]] = [
        ("expected batch", number("count", "expected batch", "/sampling/expected")),
        ("noise multiplier, \N{GREEK SMALL LETTER SIGMA}", number("small", "noise multiplier", "/noise/multiplier_vs_sensitivity")),
        ("clipping norm, C", number("small", "clipping norm", "/clipping/norm")),
        ("noisy steps, T", number("count", "steps", "/steps/executed")),
    ]
    if not ledger.get("data_used", True):
        return [("private records read", ["none, so nothing was spent"]), *[(term, value) for term, value in mechanism if value]]
    events: Sequence[dict[str, Any]] = ledger.get("events") or [{}]
    rows: list[tuple[str, Fragments]] = [
        ("\N{GREEK SMALL LETTER EPSILON} (R\N{LATIN SMALL LETTER E WITH ACUTE}nyi DP)", epsilon("rdp")),
        ("\N{GREEK SMALL LETTER EPSILON} (PLD)", epsilon("pld")),
        ("\N{GREEK SMALL LETTER DELTA}", number("small", "delta", "/epsilon/delta")),
        *_other_units(ledger, number),
        *_all_runs(ledger, number),
        (
            "\N{GREEK SMALL LETTER DELTA} \N{MULTIPLICATION SIGN} N",
            number("small", "delta times N", "/epsilon/delta", "/dataset/n_units_declared", formula="product"),
        ),
        ("privacy unit", [str(ledger.get("dataset", {}).get("unit", "not recorded"))]),
        ("pairs of a unit in a step, at most", number("count", "pairs per unit", "/dataset/pairs_per_unit_per_step")),
        ("neighbouring relation", [_RELATIONS.get(str(events[0].get("relation")), "not recorded")]),
        ("units in training, N", number("count", "units", "/dataset/n_units_declared")),
        ("objective", [str(ledger.get("objective", {}).get("id", "not recorded"))]),
        ("what one record changes", [_DECOMPOSITIONS.get(str(ledger.get("objective", {}).get("decomposition")), "not recorded")]),
        ("sampling probability, q", number("small", "q", "/sampling/q")),
        *mechanism,
    ]
    return [(term, value) for term, value in rows if value]


def _other_units(ledger: dict[str, Any], number: Callable[..., Fragments]) -> list[tuple[str, Fragments]]:
    """Returns what the run promises the other privacy unit: a patient with several pairs, or one pair of a patient with others."""
    rows = ledger.get("epsilon", {}).get("other_unit", {}).get("rows", [])
    epsilon = "\N{GREEK SMALL LETTER EPSILON} (PLD)"
    found: list[tuple[str, Fragments]] = []
    for place, row in enumerate(rows):
        term = f"{epsilon} of a patient who owns {row['owns']}" if row["unit"] == "patient" else f"{epsilon} of one pair among others of its owner, at most"
        found.append((term, number("small", term, f"/epsilon/other_unit/rows/{place}/pld") if row["pld"] is not None else ["not bounded"]))
    return found


def _all_runs(ledger: dict[str, Any], number: Callable[..., Fragments]) -> list[tuple[str, Fragments]]:
    """Returns the row of what earlier released runs on the same people and this one spent together; none when it is the first."""
    total = ledger.get("epsilon_all_runs", {})
    if total.get("runs", 1) < 2:
        return []
    spent = number("small", "epsilon of all runs", "/epsilon_all_runs/rdp") if total["rdp"] is not None else ["not bounded"]
    return [("\N{GREEK SMALL LETTER EPSILON} with earlier runs", [*spent, " over ", *number("count", "released runs", "/epsilon_all_runs/runs"), " runs"])]


def _memory(evidence: Evidence, dataset: str) -> Fragments:
    """Returns what the subject's training has seen of the studies, and Recall@1 of seen and unseen ones where it has seen some."""
    file = evidence.file(evidence.subject, dataset) or evidence.document(dataset)[0]
    document = evidence.documents[file]
    model, exposure = document["model"]["name"], document["data"].get("exposure") or {}
    if not exposure:
        return ["Whether the encoders saw these studies in pretraining was not recorded. It changes what the numbers mean."]
    told: Fragments = [f"Whether an encoder saw these studies in pretraining changes what the numbers mean. Studies by what is known of {model}: "]
    for place, name in enumerate(exposure):
        number = evidence.book.number("count", f"studies with exposure {name}, {dataset}", (file, f"/data/exposure/{values.escape(name)}"))
        told += [", " if place else "", name, " ", number]
    told.append(".")
    pool = evidence.headline(dataset)
    wanted = [(index, entry) for index, entry in enumerate(document.get("by_exposure", [])) if entry["k"] == 1 and entry["value"] is not None]
    wanted = [(index, entry) for index, entry in wanted if (entry["N"] == pool and not entry["full"] if pool else entry["full"])]
    for index, entry in wanted:
        cell = evidence.cell(file, f"/by_exposure/{index}", "percent", f"Recall@1 of studies with exposure {entry['exposure']}, {model}, {dataset}, N={pool}")
        told += [f" Recall@1 where they are {entry['exposure']}: ", cell.value] if cell.value else []
        told += [" (", cell.low, " to ", cell.high, ")."] if cell.value and cell.low and cell.high else ["."] if cell.value else []
    return [*told, *_residual(evidence, file, dataset, wanted)]


def _residual(evidence: Evidence, file: str, dataset: str, wanted: Sequence[tuple[int, dict[str, Any]]]) -> Fragments:
    """Returns the residual risk of studies that training has seen, (seen - unseen) / (1 - unseen), after Giomi et al. (2022); empty without both kinds."""
    seen = [index for index, entry in wanted if entry["exposure"] == "seen"]
    unseen = [index for index, entry in wanted if entry["exposure"] == "unseen"]
    if len(seen) != 1 or len(unseen) != 1:
        return []
    sources = [(file, f"/by_exposure/{index}/value") for index in (seen[0], unseen[0])]
    number = evidence.book.number("percent", f"residual risk of studies seen in training, {dataset}", *sources, formula="residual_risk")
    return [" Residual risk of having been seen: ", number, " (the difference over what was left to find)."]
