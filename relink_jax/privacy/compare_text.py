"""The comparison of `compare.comparison` as text: runs as columns, quantities as rows, and in words what may not be compared."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_COLUMNS = 4
_Cell = Callable[[Mapping[str, Any]], str]


def text(document: Mapping[str, Any]) -> str:
    """Returns the tables, conversions, compositions, ranking and warnings of a comparison."""
    runs, delta = document["runs"], document["common_delta"]
    blocks = [_table("Runs as recorded", runs, _FACTS), _table(f"Epsilon priced again at the common delta {delta:g}", runs, _COMMON)]
    blocks += [_conversions(runs), _per_patient(runs), _tuning(runs), _totals(document["compositions"]), _ranking(document), _flags(document)]
    blocks.append(
        "Epsilon bounds what one training unit adds to the released heads; it bounds nothing about people outside the training set.\n"
        "exact: the accountant's bound for the same mechanism; bound: follows from epsilon and delta alone, may be loose; CLT: an approximation, no bound."
    )
    return "\n\n".join(block for block in blocks if block) + "\n"


def number(value: float | str | None, digits: int = 4) -> str:
    """Returns a number of the document as text: '-' where there is none, 'infinite' where nothing is promised."""
    return "-" if value is None else value if isinstance(value, str) else f"{value:.{digits}g}"


def _table(title: str, runs: Sequence[Mapping[str, Any]], rows: Sequence[tuple[str, _Cell]]) -> str:
    """Returns quantities as rows and runs as columns, at most four columns side by side."""
    blocks: list[str] = []
    for start in range(0, len(runs), _COLUMNS):
        some = runs[start : start + _COLUMNS]
        blocks.append(grid([["", *[run["name"] for run in some]], *[[label, *[cell(run) for run in some]] for label, cell in rows]]))
    return f"{title}\n" + "\n\n".join(blocks)


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of cells as aligned columns, the first row ruled off."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _fact(name: str) -> _Cell:
    def cell(run: Mapping[str, Any]) -> str:
        value = run["facts"][name]
        return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)

    return cell


def _epsilon(which: str, view: str) -> _Cell:
    return lambda run: number(run["epsilon"][which][view])


def _all_runs(run: Mapping[str, Any]) -> str:
    total = run["all_runs"]
    if total["mixed_units"]:
        return "other unit earlier"
    return "infinite" if total["infinite"] else f"{number(total['rdp'])} | {number(total['pld'])} ({total['runs']})"


def _promise(run: Mapping[str, Any]) -> str:
    promise = run["promise"]
    return "as recorded" if promise is None else f"{number(promise['rdp'])} | {number(promise['pld'])} {promise['unit']}"


_FACTS: list[tuple[str, _Cell]] = [
    ("run id", _fact("run_id")),
    ("uses private data", lambda run: "yes" if run["facts"]["data_used"] else "no (noise-only control)"),
    ("privacy unit", _fact("unit")),
    ("number of units N", _fact("n_units")),
    ("pairs per unit and step", _fact("pairs_per_unit")),
    ("neighboring relation", _fact("relation")),
    ("objective", _fact("objective")),
    ("decomposition", _fact("decomposition")),
    ("sampling", lambda run: f"{run['facts']['sampling']}, q = {run['facts']['sampling_probability']}"),
    ("expected batch B", _fact("expected_batch_size")),
    ("l2_norm_clip C", _fact("l2_norm_clip")),
    ("noise_multiplier sigma", _fact("noise_multiplier")),
    ("noise norm per step / B", _fact("noise_per_signal")),
    ("iterations T", lambda run: f"{run['facts']['iterations_counted']} of {run['facts']['iterations_planned']} ({run['facts']['status']})"),
    ("delta", lambda run: f"{run['facts']['delta']:g}"),
    ("delta x N", lambda run: f"{run['facts']['delta_times_units']:.2g}"),
    ("epsilon, RDP (headline)", _epsilon("own", "rdp")),
    ("epsilon, PLD", _epsilon("own", "pld")),
    ("epsilon, CLT (no bound)", _epsilon("own", "clt")),
    ("RDP / PLD", lambda run: number(run["epsilon"]["gap"], 3)),
    ("with earlier runs (count)", _all_runs),
    ("randomness", _fact("randomness")),
]
_COMMON: list[tuple[str, _Cell]] = [
    ("RDP", _epsilon("common", "rdp")),
    ("PLD", _epsilon("common", "pld")),
    ("CLT (no bound)", _epsilon("common", "clt")),
    ("as one promise, RDP | PLD", _promise),
]


def _conversions(runs: Sequence[Mapping[str, Any]]) -> str:
    labels = list(dict.fromkeys(row["to"] for run in runs for row in run["conversions"]))
    if not labels:
        return ""

    def cell(label: str) -> _Cell:
        def of(run: Mapping[str, Any]) -> str:
            found = next((row for row in run["conversions"] if row["to"] == label), None)
            if found is None:
                return "-"
            at = "" if found["delta"] in (None, run["facts"]["delta"]) else f", delta {found['delta']:.3g}"
            return f"{number(found['value'])} ({found['kind']}{at})"

        return of

    return _table("The same promise in other words, at each run's delta", runs, [(label, cell(label)) for label in labels])


def _per_patient(runs: Sequence[Mapping[str, Any]]) -> str:
    some = [run for run in runs if run["per_patient"]]
    counts = sorted({row["count"] for run in some for row in run["per_patient"]})

    def cell(count: int) -> _Cell:
        def of(run: Mapping[str, Any]) -> str:
            found = next((row for row in run["per_patient"] if row["count"] == count), None)
            return "-" if found is None else f"{number(found['epsilon'])} ({found['kind']})"

        return of

    title = "What a pair- or study-level run gives a patient who owns k of them (PLD epsilon at the run's delta)"
    return _table(title, some, [(f"k = {count}", cell(count)) for count in counts]) if some else ""


def _tuning(runs: Sequence[Mapping[str, Any]]) -> str:
    some = [run for run in runs if run["tuning"]]

    def cell(index: int) -> _Cell:
        return lambda run: number(run["tuning"][index]["epsilon"])

    rows = [(f"{row['distribution']}, mean {row['mean_trials']} trials", cell(index)) for index, row in enumerate(some[0]["tuning"])] if some else []
    return _table("Publishing the best of a random number of such runs (RDP epsilon, arXiv 2110.03620)", some, rows) if some else ""


def _totals(totals: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"  {one['group']}: {one['why_not']}"
        if one["why_not"]
        else f"  {one['group']}: {one['count']} runs, {number(one['rdp'])} by RDP | {number(one['pld'])} by PLD at delta {one['delta']:g} ({', '.join(one['runs'])})"
        for one in totals
    ]
    return "\n".join(["Runs that touch the same people, released together (their events composed, epsilons are never added)", *lines]) if lines else ""


def _ranking(document: Mapping[str, Any]) -> str:
    if document["not_ranked"]:
        return f"No ranking. {document['not_ranked']}"
    rows = document["ranking"]["rows"]
    if len(rows) < 2:
        return ""
    lines = [f"  {place}. {row['name']}: {number(row['epsilon'])}" + (f", {row['label']}" if row["label"] else "") for place, row in enumerate(rows, 1)]
    title = f"Strongest promise first, by {document['ranking']['accountant'].upper()} at delta {document['common_delta']:g} (a promise about training records, not a measured linkage)"
    return "\n".join([title, *lines])


def _flags(document: Mapping[str, Any]) -> str:
    found = [(flag["severity"], flag["text"]) for flag in document["flags"]]
    found += [(flag["severity"], f"{run['name']}: {flag['text']}") for run in document["runs"] for flag in run["flags"]]
    if not found:
        return "No red flags."
    return "\n".join(
        [
            "Red flags (!! the number promises nothing, ! do not read it alone)",
            *[f"  {'!!' if severity == 'void' else '! '} {line}" for severity, line in found],
        ]
    )
