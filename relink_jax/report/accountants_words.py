"""What the accountants page says in words: the plain box, what each run promises, and the rows of its tables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

_Run = Mapping[str, Any]
_WEAK, _VOID = 3.0, 10.0  # epsilons from which the page calls a promise weak, and next to nothing


def number(value: float | str | None, digits: int = 4) -> str:
    """Returns a number of the document as text; 'n/a' where there is none, the word itself where nothing is promised."""
    return "n/a" if value is None else value if isinstance(value, str) else f"{value:.{digits}g}"


def percent(value: float | str | None) -> str:
    """Returns a share as a percentage, a word as it is."""
    return f"{100 * value:.1f}%" if isinstance(value, int | float) else number(value)


def relation(name: str) -> str:
    """Returns a neighboring relation in words."""
    return {"zero_out": "used or blanked (zero-out)", "add_remove": "in or out (add/remove)", "replace_one": "this one or another (replace-one)"}.get(
        name, name
    )


def lead(document: Mapping[str, Any]) -> list[str]:
    """Returns the sentences of the plain box: what epsilon is, and what it says here."""
    sentences = [
        "Epsilon says how hard it is to tell, from the released heads, whether one patient (or whatever each run protects, its unit) was used to train them. "
        "A smaller epsilon means harder to tell; at 0 it cannot be told at all, and above about 10 the number promises next to nothing.",
        "Delta is the chance that the bound fails. An accountant is a way to compute epsilon; RDP and PLD are two that bound the same thing, so the "
        "smaller of the two numbers is the tighter bound and not a safer run.",
    ]
    return [*sentences, *(f"Here, {run['name']}: {reading(run)}" for run in document["runs"])]


def reading(run: _Run) -> str:
    """Returns what one run promises, in one or two sentences."""
    facts, own = run["facts"], run["epsilon"]["own"]
    if not facts["data_used"]:
        return "a control that adds the same noise and reads no data; nothing about anyone can be told from it (epsilon 0)."
    if run["infinite"]:
        void = next((flag["text"] for flag in run["flags"] if flag["severity"] == "void"), "nothing is promised.")
        return f"epsilon is infinite, {void}"
    value = own["rdp"] if own["rdp"] is not None else own["pld"]
    verdict = "a strong promise" if value <= 1 else "a moderate promise" if value <= _WEAK else "a weak promise" if value <= _VOID else "next to no promise"
    sure = next((row["value"] for row in run["conversions"] if row["to"].startswith("posterior")), None)
    told = (
        f" Someone who thought it even odds that a given {facts['unit']} was used becomes at most {percent(sure)} sure on average." if sure is not None else ""
    )
    limit = f" It speaks of one {facts['unit']}; a patient who owns several {'pairs' if facts['unit'] == 'pair' else 'studies'} gets less, see below."
    return f"epsilon {number(value)} at delta {own['delta']:g} for one {facts['unit']}, {verdict}.{told}{limit if facts['unit'] != 'patient' else ''}"


def ranking(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the ranking as {title, refusal, caption, columns, rows}: the strongest promise first, or why there is none."""
    columns = ["run", "epsilon", "how it was priced"]
    caption = "A ranking of promises about training records. It is no ranking of measured linkage."
    if document["not_ranked"]:
        return {"title": "No ranking", "refusal": document["not_ranked"], "caption": caption, "columns": columns, "rows": []}
    found = document["ranking"]
    title = f"Strongest promise first, by {found['accountant'].upper()} at delta {document['common_delta']:g}"
    rows = [(row["name"], number(row["epsilon"]), row["label"] or "as recorded") for row in found["rows"]]
    return {"title": title, "refusal": "", "caption": caption, "columns": columns, "rows": rows if len(rows) > 1 else []}


def flags(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the red flags as (of what, kind, text), those that void a number first."""
    found = [(run["name"], flag["severity"], flag["text"]) for run in document["runs"] for flag in run["flags"]]
    found += [("these runs", flag["severity"], flag["text"]) for flag in document["flags"]]
    named = {"void": "promises nothing", "caution": "do not read alone"}
    return [(name, named[severity], text) for name, severity, text in sorted(found, key=lambda row: row[1] != "void")]


def facts(run: _Run) -> list[tuple[str, str]]:
    """Returns what one run did and what it cost as (term, value)."""
    of, own, common = run["facts"], run["epsilon"]["own"], run["epsilon"]["common"]
    chance = "below 1, as it should be" if of["delta_times_units"] < 1 else "not below 1: too large"
    total = run["all_runs"]
    together = "infinite" if total["infinite"] else f"{number(total['rdp'])} by RDP, {number(total['pld'])} by PLD"
    rows = [
        ("who is protected", f"one {of['unit']} of {of['n_units']:,}, {relation(of['relation'])}"),
        ("pairs of a unit per step", f"at most {of['pairs_per_unit']}"),
        ("objective", f"{of['objective']} ({of['decomposition']})"),
        ("sampling", f"{of['sampling']}, each unit with probability {of['sampling_probability']} per step; about {of['expected_batch_size']:,} per step"),
        ("overflowing batches", {"none": "never cut"}.get(of["truncation"], f"cut ({of['truncation']})")),
        ("clip norm C", number(of["l2_norm_clip"])),
        ("noise multiplier", number(of["noise_multiplier"])),
        ("noise against signal, sigma C sqrt(d) / B", number(of["noise_per_signal"])),
        ("steps", f"{of['iterations_counted']:,} of {of['iterations_planned']:,} planned ({of['status']})"),
        ("delta", f"{of['delta']:g}; times the number of units {number(of['delta_times_units'], 2)}, {chance}"),
        ("epsilon at its own delta", f"{number(own['rdp'])} by RDP, {number(own['pld'])} by PLD"),
        (f"epsilon at delta {common['delta']:g}", f"{number(common['rdp'])} by RDP, {number(common['pld'])} by PLD"),
        ("central-limit approximation", f"{number(own['clt'])} (not a bound)"),
        ("RDP over PLD", number(run["epsilon"]["gap"], 3)),
        ("with earlier runs in its place", "they used another unit" if total["mixed_units"] else f"{together} ({total['runs']} in all)"),
        ("randomness", str(of["randomness"])),
    ]
    return [*rows, *_needed(run), *(("empirical audit", _audit(one)) for one in run["audit"])]


def _needed(run: _Run) -> list[tuple[str, str]]:
    found = (run.get("curves") or {}).get("noise_needed")
    if not found:
        return []
    return [(f"noise for epsilon {number(found['epsilon'])}", f"{number(found['rdp'])} by RDP, {number(found['pld'])} by PLD")]


def _audit(audit: Mapping[str, Any]) -> str:
    level = audit.get("confidence")
    sure = f" at confidence {level:g}" if isinstance(level, int | float) and math.isfinite(level) else ""
    return f"{audit.get('method', 'audit')}: epsilon at least {number(audit['lower_bound'], 3)}{sure}, claimed {number(audit.get('claim'), 3)}"


def overview(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the table that sets the runs side by side, as {caption, columns, rows}."""
    columns = ["run", "unit", "adjacency", "objective", "noise multiplier", "steps", "epsilon, RDP", "epsilon, PLD"]
    rows = [
        [
            run["name"], run["facts"]["unit"], relation(run["facts"]["relation"]), run["facts"]["objective"], number(run["facts"]["noise_multiplier"]),
            f"{run['facts']['iterations_counted']:,}", number(run["epsilon"]["common"]["rdp"]), number(run["epsilon"]["common"]["pld"]),
        ]
        for run in document["runs"]
    ]  # fmt: skip
    if document["converted"]:
        columns.append("as one promise, PLD")
        rows = [[*row, "" if run["promise"] is None else number(run["promise"]["pld"])] for row, run in zip(rows, document["runs"], strict=True)]
    caption = f"Epsilons of these rows are at one delta, {document['common_delta']:g}. Rows with another unit or adjacency are other promises."
    return {"caption": caption, "columns": columns, "rows": rows}


def tables(run: _Run) -> list[dict[str, Any]]:
    """Returns the tables of one run as {caption, columns, rows, summary}; those with a summary are folded away under it."""
    of = run["facts"]
    found: list[dict[str, Any]] = []
    if run["conversions"]:
        caption = (
            "The same promise in other words. Exact: an accountant's bound for the same mechanism. Bound: follows from epsilon and delta alone, may be loose."
        )
        rows = [(row["to"], _converted(row), "n/a" if row["delta"] is None else f"{row['delta']:.3g}", row["kind"], row["how"]) for row in run["conversions"]]
        found.append(_table(caption, ("in terms of", "value", "delta", "kind", "how"), rows))
    if run["per_patient"]:
        owned = {"study": "studies"}.get(of["unit"], f"{of['unit']}s")
        caption = f"What a patient who owns several {owned} gets, at delta {of['delta']:g}, by PLD."
        owners = [(str(row["count"]), number(row["epsilon"]), row["kind"]) for row in run["per_patient"]]
        found.append(_table(caption, (f"{owned} of the patient", "epsilon of the patient", "kind"), owners))
    if run["tuning"]:
        caption = (
            "Epsilon by RDP of publishing only the best of a number of such runs that was drawn at random beforehand (arXiv 2110.03620), where the score "
            "that chose it is private itself or of other people."
        )
        trials = [(row["distribution"], str(row["mean_trials"]), number(row["epsilon"])) for row in run["tuning"]]
        found.append(_table(caption, ("number of trials", "mean", "epsilon"), trials, "If this run was the best of several"))
    return found


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], summary: str = "") -> dict[str, Any]:
    return {"caption": caption, "columns": list(columns), "rows": rows, "summary": summary}


def _converted(row: Mapping[str, Any]) -> str:
    return percent(row["value"]) if row["to"].startswith(("membership", "posterior")) else number(row["value"])
