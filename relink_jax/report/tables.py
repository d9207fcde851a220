"""The page's tables as plain rows of cells; a template lays them out as a grid on a desk and as cards on a phone."""

import dataclasses
from collections.abc import Sequence

from relink_jax.report import values, words
from relink_jax.report.evidence import EMPTY, MATCHED, PAIRED_POOL, Cell, Evidence, Row
from relink_jax.report.words import Fragments


@dataclasses.dataclass(frozen=True)
class Entry:
    """One table cell: the number, the smaller lines under it, and the column's name for the phone layout."""

    main: Fragments
    small: tuple[Fragments, ...]
    column: str


@dataclasses.dataclass(frozen=True)
class Line:
    """One table row: its name, what stands under the name, and its cells."""

    name: str
    under: Fragments
    entries: tuple[Entry, ...]
    reference: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Caption, header (spanning titles with their widths, then column titles) and groups of rows under a title each."""

    caption: Fragments
    corner: str
    spans: tuple[tuple[str, int], ...]
    columns: tuple[Fragments, ...]
    groups: tuple[tuple[str, tuple[Line, ...]], ...]


def linkage(evidence: Evidence, dataset: str) -> Table:
    """Returns the main table of one dataset: every model and head arm, with chance as the last row."""
    pools: list[int | str] = [*evidence.pools(dataset), "full"]
    subject = evidence.document(dataset)
    headline, matched = evidence.headline(dataset) or "full", evidence.matched_pool(dataset)
    columns: list[Fragments] = [_pool_title(evidence, dataset, pool) for pool in pools]
    columns += [["log", "\N{SUBSCRIPT TWO}", " lift at ", *_pool_title(evidence, dataset, headline), ", bits"]]
    columns += [["same labels, ", *_pool_title(evidence, dataset, matched, MATCHED)]] if matched else []
    probed = any(evidence.probe(row, dataset).value is not None for _, rows in _groups(evidence, dataset) for row in rows)
    columns += [["AUC within query"], ["probe macro AUROC"]] if probed else [["AUC within query"]]
    titles = [_plain(column) for column in columns]
    groups = []
    for title, rows in _groups(evidence, dataset):
        lines = []
        for row in rows:
            cells = [_entry(evidence.recall(row, dataset, pool)) for pool in pools]
            cells += [_entry(evidence.bits(row, dataset, headline))]
            cells += [_matched(evidence, row, dataset, matched)] if matched else []
            cells += [_entry(evidence.auc(row, dataset))]
            cells += [_entry(evidence.probe(row, dataset))] if probed else []
            named = tuple(Entry(cell.main, cell.small, name) for cell, name in zip(cells, titles, strict=True))
            under: Fragments = [words.own_heads(evidence, row)] if row.baseline else _guarantee(evidence, row, dataset)
            draws = evidence.redraws(dataset, headline)[1] if row.head == "noise_only" else None
            under = ["first of ", draws, " draws"] if draws is not None else under
            lines.append(Line(row.model if row.baseline else words.head_name(row.head), under, named))
        groups.append((title, tuple(lines)))
    first = next(row for row in evidence.rows if evidence.file(row, dataset))
    chances: list[Fragments] = [_number(evidence.single(first, dataset, "chance", "chance", pool)) for pool in pools]
    chances += [["0"]]
    chances += [_number(evidence.single(first, dataset, "chance", "chance", matched, MATCHED))] if matched else []
    chances += [_at(evidence, first, dataset, what) for what in (("auc", "probe") if probed else ("auc",))]
    chance = Line("chance", [], tuple(Entry(main, (), name) for main, name in zip(chances, titles, strict=True)), reference=True)
    groups.append(("", (chance,)))
    data = subject[1]["data"]
    counted = [
        evidence.book.number("count", f"{name}, {dataset}", (subject[0], f"/data/{name}")) for name in ("n_images", "n_studies", "n_patients") if name in data
    ]
    caption: Fragments = [f"Image to report on {dataset}"]
    if len(counted) == 3:
        caption += [": ", counted[0], " images as queries, ", counted[1], " studies as candidates, ", counted[2], " patients"]
    spans = (("images linked at rank 1 (Recall@1), by number of candidates N", len(pools)), ("", len(columns) - len(pools)))
    return Table([*caption, "."], "Model and heads", spans, tuple(columns), tuple(groups))


def reverse(evidence: Evidence, dataset: str) -> Table | None:
    """Returns Recall@1 from report to image; None when that direction was not audited."""
    pools: list[int | str] = [*evidence.pools(dataset), "full"]
    columns: list[Fragments] = [_pool_title(evidence, dataset, pool) for pool in pools]
    groups = []
    for title, rows in _groups(evidence, dataset):
        lines = []
        for row in rows:
            cells = [_entry(evidence.recall(row, dataset, pool, direction="r2i")) for pool in pools]
            named = tuple(Entry(cell.main, cell.small, _plain(column)) for cell, column in zip(cells, columns, strict=True))
            lines.append(Line(row.model if row.baseline else words.head_name(row.head), [], named))
        groups.append((title, tuple(lines)))
    if not any(entry.main != ["n/a"] for _, lines in groups for line in lines for entry in line.entries):
        return None
    spans = (("reports linked at rank 1 (Recall@1), by number of candidates N", len(pools)),)
    return Table([f"Report to image on {dataset}."], "Model and heads", spans, tuple(columns), tuple(groups))


def probe(evidence: Evidence) -> Table | None:
    """Returns macro AUROC of the linear probe before the head and after each arm's head, on every dataset; None without probes."""
    subject, datasets = evidence.subject, evidence.datasets
    rows: list[tuple[str, Row, str | None]] = [("before the head", subject, "pre_head"), (f"after the {words.head_name(subject.head)}", subject, None)]
    rows += [(f"after {words.head_name(row.head)}", row, None) for row in evidence.arms if row.model == subject.model]
    lines = []
    for name, row, features in rows:
        entries = []
        for dataset in datasets:
            entries.append(dataclasses.replace(_entry(evidence.probe(row, dataset, features)), column=f"{dataset}: macro AUROC"))
            change = EMPTY if row == subject else evidence.paired_probe(row, dataset)
            missing = "" if features or row != subject else "reference"
            entries.append(dataclasses.replace(_entry(change, missing), column=f"{dataset}: minus original"))
        if any(entry.main not in (["n/a"], [""]) for entry in entries[::2]):
            lines.append(Line(name, [], tuple(entries)))
    if not lines:
        return None
    chances = [entry for dataset in datasets for entry in (Entry(_at(evidence, subject, dataset, "probe"), (), f"{dataset}: macro AUROC"), Entry([""], (), ""))]
    groups = (("", tuple(lines)), ("", (Line("chance", [], tuple(chances), reference=True),)))
    columns: list[Fragments] = [title for _ in datasets for title in (["macro AUROC"], ["minus original heads"])]  # type: ignore[misc]
    caption: Fragments = [f"14-label linear probe on the images of {subject.model}."]
    return Table(caption, "Features", tuple((dataset, 2) for dataset in datasets), tuple(columns), groups)


def per_label(evidence: Evidence) -> Table | None:
    """Returns the probe's AUROC per label on the first dataset, one column per set of features; None without probes."""
    subject, dataset = evidence.subject, evidence.datasets[0]
    wanted: list[tuple[str, Row, str | None]] = [("before the head", subject, "pre_head"), (words.head_name(subject.head), subject, None)]
    wanted += [(words.head_name(row.head), row, None) for row in evidence.arms if row.model == subject.model]
    places = [(name, *evidence.probe_at(row, dataset, features)) for name, row, features in wanted]
    kept = [(name, file, at) for name, file, at in places if file is not None and at is not None]
    if not kept:
        return None
    labels = list(dict.fromkeys(label for _, file, at in kept for label in values.resolve(evidence.documents[file], f"{at}/per_label")))
    lines = []
    for label in labels:
        entries = []
        for name, file, at in kept:
            known = label in values.resolve(evidence.documents[file], f"{at}/per_label")
            pointer = f"{at}/per_label/{values.escape(label)}"
            entries.append(
                Entry([evidence.book.number("auroc", f"probe AUROC of {label}, {name}, {dataset}", (file, pointer))] if known else ["n/a"], (), name)
            )
        lines.append(Line(label, [], tuple(entries)))
    caption: Fragments = [f"Probe AUROC per label on {dataset}; n/a where a label has too few cases of one class."]
    return Table(caption, "Label", (("", len(kept)),), tuple([name] for name, _, _ in kept), (("", tuple(lines)),))


def _groups(evidence: Evidence, dataset: str) -> list[tuple[str, list[Row]]]:
    ladder = [row for row in evidence.ladder if evidence.file(row, dataset)]
    groups = [("Models in rising specialisation" if len(ladder) > 1 else "", ladder)]
    for name, one in evidence.ensembles.items():
        groups.append((f"Members of {name}, each by itself", [row for row in evidence.members if row.model in one["members"] and evidence.file(row, dataset)]))
    for model in dict.fromkeys(row.model for row in evidence.arms):
        groups.append((f"Other heads of {model}", [row for row in evidence.arms if row.model == model and evidence.file(row, dataset)]))
    return [(title, rows) for title, rows in groups if rows]


def _entry(cell: Cell, missing: str = "n/a") -> Entry:
    if cell.value is None:
        return Entry([missing], (), "")
    if cell.low is None or cell.high is None:
        return Entry([cell.value], (), "")
    return Entry([cell.value], (["[", cell.low, ", ", cell.high, "]"],), "")


def _matched(evidence: Evidence, row: Row, dataset: str, pool: int | None) -> Entry:
    entry, beside = _entry(evidence.recall(row, dataset, pool, MATCHED)), evidence.recall(row, dataset, pool, PAIRED_POOL)
    return entry if beside.value is None else Entry(entry.main, (*entry.small, ["random: ", beside.value]), "")


def _guarantee(evidence: Evidence, row: Row, dataset: str) -> Fragments:
    file = evidence.file(row, dataset)
    if file is None or evidence.documents[file]["model"]["dp"] is None:
        return []
    pointers = [("epsilon", "\N{GREEK SMALL LETTER EPSILON} = "), ("delta", ", \N{GREEK SMALL LETTER DELTA} = ")]
    return [part for name, symbol in pointers for part in (symbol, evidence.book.number("small", f"{name} of {row.model}", (file, f"/model/dp/{name}")))]


def _pool_title(evidence: Evidence, dataset: str, pool: int | str | None, stratum: str = "other_patient") -> Fragments:
    row = next(row for row in evidence.rows if evidence.file(row, dataset))
    number = evidence.single(row, dataset, "count", "N", pool, stratum)
    if pool == "full":
        return ["all"] if number is None else ["all\N{NO-BREAK SPACE}", number]
    return ["N\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}", number] if number is not None else [f"N\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{pool}"]


def _at(evidence: Evidence, row: Row, dataset: str, what: str) -> Fragments:
    if what == "auc":
        file = evidence.file(row, dataset)
        at = evidence.pointer(file, "auc_within_query", k=None)
    else:
        file, at = evidence.probe_at(row, dataset)
    return ["n/a"] if file is None or at is None else [evidence.book.number("small", f"chance of {what}, {dataset}", (file, f"{at}/chance"))]


def _number(number: object) -> Fragments:
    return ["n/a"] if number is None else [number]  # type: ignore[list-item]


def _plain(parts: Sequence[object]) -> str:
    return "".join(part if isinstance(part, str) else part.text for part in parts)  # type: ignore[attr-defined]
