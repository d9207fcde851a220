"""More figures than a first reading needs: every attack, every label policy, and the measures beyond recall, as folded tables."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from relink_jax.report import attackers, values
from relink_jax.report.evidence import BEST, MATCHED, OTHER, PAIRED_POOL, Cell, Evidence, Row
from relink_jax.report.tables import STRATA, Entry, Line, Table, entry, groups_of, plain
from relink_jax.report.words import Fragments, head_name

_NONE = Entry(["n/a"], (), "")
Reader = Callable[[str, str], Entry]  # (file, label) to a cell


@dataclasses.dataclass(frozen=True)
class Fold:
    """A summary line with the tables that open under it."""

    summary: str
    note: str
    tables: tuple[Table, ...]


def folds(evidence: Evidence) -> list[Fold]:
    """Returns the folds whose measures the results have."""
    found = [
        Fold("Every attack", "Gain is Recall@1 minus that of plain cosine on the same queries. Passes count passes over all images and reports, the counting itself not included.",
             _tables(evidence, _attacks)),
        Fold("Label policies and other matched pools", "Random pools are of the same queries. Chance is that of guessing among N.", _tables(evidence, _policies)),
        Fold("The full database with both sides varied", "Two-sided intervals leave out blocks of patients as queries and as candidates together.", _tables(evidence, _two_sided)),
        Fold("Bits, hubs, anonymity sets and other measures", "", _tables(evidence, _measures)),
        Fold("Verification: one image, one report, same study or not?", "The share of claimed links that are true falls as candidates are added: it is printed for each N.",
             _tables(evidence, _verification)),
    ]  # fmt: skip
    return [fold for fold in found if fold.tables]


def _tables(evidence: Evidence, build: Callable[[Evidence, str], Table | None]) -> tuple[Table, ...]:
    return tuple(table for table in (build(evidence, dataset) for dataset in evidence.datasets) if table is not None)


def _by_row(evidence: Evidence, dataset: str, caption: str, columns: Sequence[tuple[Fragments, Reader]]) -> Table | None:
    """Returns a table with the page's rows and those columns that any row has; None where none has."""
    groups = groups_of(evidence, dataset)
    rows = [row for _, some in groups for row in some]
    named = [(title, read, plain(title)) for title, read in columns]
    cells = {(row, name): read(evidence.file(row, dataset) or "", f"{name}, {row.model} ({row.head}), {dataset}") for row in rows for _, read, name in named}
    kept = [(title, name) for title, _, name in named if any(cells[row, name].main != ["n/a"] for row in rows)]
    if not kept:
        return None

    def line(row: Row) -> Line:
        return Line(row.model if row.baseline else head_name(row.head), [], tuple(dataclasses.replace(cells[row, name], column=name) for _, name in kept))

    made = tuple((title, tuple(line(row) for row in some)) for title, some in groups)
    return Table([caption], "Model and heads", (("", len(kept)),), tuple(title for title, _ in kept), made)


def _reader(evidence: Evidence, at: str, kind: str, field: str = "value") -> Reader:
    """Returns what reads the number at a pointer, with the interval beside it where there is one."""

    def read(file: str, label: str) -> Entry:
        document = evidence.documents[file]
        if not values.has(document, f"{at}/{field}"):
            return _NONE
        held = values.resolve(document, at)
        if isinstance(held, dict) and "ci" in held and field == "value":
            return entry(evidence.cell(file, at, kind, label))
        return Entry([evidence.book.number(kind, label, (file, f"{at}/{field}"))], (), "")

    return read


def _attacks(evidence: Evidence, dataset: str) -> Table | None:
    pool = evidence.headline(dataset) or "full"
    groups = []
    columns = ("Recall@1", "gain", "same labels", "passes", "calibration MRR", "setting")
    for row in evidence.rows:
        file, lines = evidence.file(row, dataset), []
        for place, one in enumerate(attackers.tried(evidence, file)):
            cells = _attack_cells(evidence, row, dataset, pool, place, one)
            named = tuple(dataclasses.replace(cell, column=name) for cell, name in zip(cells, columns, strict=True))
            called = attackers.NAMES.get(one["name"], one["name"].replace("_", " "))
            lines.append(Line(called + (" (best)" if place == evidence.attack_at(file, BEST) else ""), _needs(evidence, file or "", place, one), named))
        if len(lines) > 1:
            groups.append((f"{row.model}, {head_name(row.head)}", tuple(lines)))
    if not groups:
        return None
    first = evidence.subject if evidence.file(evidence.subject, dataset) else evidence.rows[0]
    size = evidence.single(first, dataset, "count", "N", pool)
    caption: Fragments = [f"Every attack on {dataset}, N = ", size if size is not None else "n/a", "."]
    return Table(caption, "Attack", (("", len(columns)),), tuple([name] for name in columns), tuple(groups))


def _needs(evidence: Evidence, file: str, place: int, one: dict[str, Any]) -> Fragments:
    """Returns what an attacker has to hold: known pairs, an image bank, more than the released embeddings."""
    told: list[Fragments] = (
        [["known pairs: ", evidence.book.number("count", f"known pairs of {one['name']}", (file, f"/attacks/{place}/pairs"))]] if one.get("pairs") else []
    )
    told += [[f"{one['bank']} bank"]] if one.get("bank") else []
    told += [["not from the released embeddings"]] if one.get("features", "embeddings") != "embeddings" else []
    return [part for index, some in enumerate(told) for part in ([", ", *some] if index else some)]


def _attack_cells(evidence: Evidence, row: Row, dataset: str, pool: int | str, place: int, one: dict[str, Any]) -> list[Entry]:
    file, label = evidence.file(row, dataset) or "", f"attack {place} ({one['name']}), {row.model} ({row.head}), {dataset}"
    passes = _reader(evidence, f"/attacks/{place}", "small", "passes")(file, f"passes, {label}")
    mrr = _reader(evidence, f"/attacks/{place}/calibration", "small", "mrr")(file, f"calibration MRR, {label}") if one.get("calibration") else _NONE
    setting: Fragments = []
    for name, value in one.get("params", {}).items():
        told: Fragments = [str(value)]
        if isinstance(value, int | float) and not isinstance(value, bool):
            told = [evidence.book.number("small", f"{name}, {label}", (file, f"/attacks/{place}/params/{values.escape(name)}"))]
        setting += [", " if setting else "", f"{name.replace('_', ' ')} ", *told]
    gain = attackers.gain(evidence, row, dataset, pool, place)
    matched = evidence.matched_pool(dataset)
    return [
        entry(evidence.recall(row, dataset, pool, attack=place)),
        entry(gain) if place else Entry(["reference"], (), ""),
        entry(evidence.recall(row, dataset, matched, MATCHED, attack=place)) if matched else _NONE,
        passes,
        mrr,
        Entry(setting or ["none"], (), ""),
    ]


def _policies(evidence: Evidence, dataset: str) -> Table | None:
    row, lines = evidence.subject, []
    file = evidence.file(row, dataset)
    columns = ("N", "matched pools", "random pools", "chance", "eligible queries", "labels alone", "bits kept")
    entries = evidence.documents[file]["metrics"] if file else []
    for index, one in enumerate(entries):
        wanted = one["name"] == "recall" and one["k"] == 1 and one["direction"] == "i2r" and one["stratum"].partition("@")[0] != OTHER
        if file is None or not wanted or one["value"] is None:
            continue
        stratum, at, label = one["stratum"], f"/metrics/{index}", f"{one['stratum']}, {row.model} ({row.head}), {dataset}, N={one['N']}"
        pool: int | str = "full" if one["full"] else one["N"]
        paired = PAIRED_POOL if stratum == MATCHED else f"{OTHER}@{stratum}"
        cells = [
            _reader(evidence, at, "count", "N")(file, label),
            entry(evidence.cell(file, at, "percent", label)),
            entry(evidence.recall(row, dataset, pool, paired)),
            _reader(evidence, at, "chance", "chance")(file, label),
            _reader(evidence, at, "share", "n_eligible_share")(file, label),
            *_labels_alone(evidence, file, stratum, one, label),
        ]
        named = tuple(dataclasses.replace(cell, column=name) for cell, name in zip(cells, columns, strict=True))
        lines.append(Line(STRATA.get(stratum, f"same {stratum.replace('_', ' ')}"), ["all candidates"] if one["full"] else [], named))
    tiered = _tiered(evidence, file, dataset, columns)
    if not lines and not tiered:
        return None
    groups = [("", tuple(lines))] + ([("Nearest labels where there are too few twins", tuple(tiered))] if tiered else [])
    caption: Fragments = [f"Matched pools of {row.model} on {dataset}, plain cosine."]
    return Table(caption, "Candidates", (("", len(columns)),), tuple([name] for name in columns), tuple(groups))


def _labels_alone(evidence: Evidence, file: str, stratum: str, one: dict[str, Any], label: str) -> list[Entry]:
    entries = evidence.documents[file].get("matched", [])
    place = next((place for place, held in enumerate(entries) if (held["stratum"], held["N"], held["full"]) == (stratum, one["N"], one["full"])), None)
    if place is None:
        return [_NONE, _NONE]
    at, kept = f"/matched/{place}", entries[place].get("retained_share")
    alone = _reader(evidence, at, "percent", "label_only")(file, f"label-only attacker, {label}")
    if not kept or kept.get("value") is None:
        return [alone, _NONE]
    numbers = [evidence.book.number("share", f"bits kept, {name}, {label}", (file, f"{at}/retained_share/{name}")) for name in ("value", "low", "high")]
    return [alone, entry(Cell(*numbers))]


def _tiered(evidence: Evidence, file: str | None, dataset: str, columns: Sequence[str]) -> list[Line]:
    lines = []
    for place, one in enumerate(evidence.documents[file].get("tiered", []) if file else []):
        at, label = f"/tiered/{place}", f"tiered pools, {dataset}, N={one['N']}"
        cells = [
            _reader(evidence, at, "count", "N")(file or "", label),
            entry(evidence.cell(file, f"{at}/value", "percent", label)),
            _NONE,
            _reader(evidence, at, "chance", "chance")(file or "", label),
            _NONE,
            _NONE,
            _NONE,
        ]
        filled = evidence.book.number("share", f"share of the pool filled, {label}", (file or "", f"{at}/filled_share"))
        named = tuple(dataclasses.replace(cell, column=name) for cell, name in zip(cells, columns, strict=True))
        lines.append(Line("nearest labels", [_unnumbered(one["tiers"]), "; ", filled, " filled from further tiers"], named))
    return lines


def _unnumbered(tiers: str) -> str:
    return tiers.replace(">=", "\N{GREATER-THAN OR EQUAL TO}")


def _two_sided(evidence: Evidence, dataset: str) -> Table | None:
    def one_sided(file: str, label: str) -> Entry:
        return entry(evidence.cell(file, evidence.pointer(file, "recall", pool="full"), "percent", label))

    def both(file: str, label: str) -> Entry:
        at = evidence.pointer(file, "recall", pool="full")
        held = values.resolve(evidence.documents[file], at).get("ci_two_sided") if at else None
        if not held or None in (held["low"], held["high"]):
            return _NONE
        value = evidence.book.number("percent", label, (file, f"{at}/value"))
        kind = values.end_kind("percent", value.value or 0.0)
        ends = [evidence.book.number(kind, f"{label}, {end} end", (file, f"{at}/ci_two_sided/{end}")) for end in ("low", "high")]
        return Entry(["[", ends[0], ", ", ends[1], "]"], (), "")

    table = _by_row(
        evidence, dataset, f"Recall@1 among all candidates of {dataset}.", [(["queries varied"], one_sided), (["queries and candidates varied"], both)]
    )
    return table if table is not None and len(table.columns) > 1 else None


def _measures(evidence: Evidence, dataset: str) -> Table | None:
    def auc(file: str, label: str) -> Entry:
        return entry(evidence.cell(file, evidence.pointer(file, "auc_within_query", k=None), "auroc", label))

    columns: list[tuple[Fragments, Reader]] = [
        (["AUC within query"], auc),
        (["InfoNCE bits"], _reader(evidence, "/bits/infonce", "bits")),
        (["rank bits, chance taken off"], _reader(evidence, "/bits/rank_corrected", "bits")),
        (["hub skewness"], _reader(evidence, "/attacks/0/hubness", "small", "n10_skew")),
        (["most images that one report is first for"], _reader(evidence, "/attacks/0/hubness", "count", "max_n1")),
        (["told apart by score"], _reader(evidence, "/anonymity/by_score", "share", "unique_share")),
        (["largest set by score"], _reader(evidence, "/anonymity/by_score", "count", "max")),
        (["told apart by text"], _reader(evidence, "/anonymity/by_text", "share", "unique_share")),
        (["pooled AUC"], _reader(evidence, "/verification", "auroc", "auc_pooled")),
        (["label retrieval, first ten"], _reader(evidence, "/utility/label_retrieval/precision_at_10", "percent")),
        (["report probe AUROC"], lambda file, label: _report_probe(evidence, file, label)),
    ]
    return _by_row(evidence, dataset, f"Further measures on {dataset}.", columns)


def _report_probe(evidence: Evidence, file: str, label: str) -> Entry:
    document = evidence.documents[file]
    for index, one in enumerate(document["utility"].get("report_probe", [])):
        if one["features"] == document["model"]["head"]:
            return entry(evidence.cell(file, f"/utility/report_probe/{index}", "auroc", label, "macro_auroc"))
    return _NONE


def _verification(evidence: Evidence, dataset: str) -> Table | None:
    file = evidence.file(evidence.subject, dataset)
    points = evidence.documents[file].get("verification", {}).get("points", []) if file else []
    columns: list[tuple[Fragments, Reader]] = []
    for index, one in enumerate(points):
        at = f"/verification/points/{index}"
        rate = evidence.book.number("chance", f"false match rate, {dataset}", (file or "", f"{at}/fpr"))
        columns.append((["accepted at ", rate, " false", "" if one["resolved"] else " (not resolved)"], _reader(evidence, f"{at}/tpr", "percent")))
        for place in range(len(one["ppv"])):
            size = evidence.book.number("count", f"candidates of verification, {dataset}", (file or "", f"{at}/ppv/{place}/N"))
            columns.append((["true among accepted at ", rate, ", N = ", size], _reader(evidence, f"{at}/ppv/{place}", "percent")))
    return _by_row(evidence, dataset, f"Accepting every pair above a threshold, on {dataset}, conservative at ties.", columns)
