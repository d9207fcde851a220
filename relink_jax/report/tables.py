"""The page's tables as plain rows of cells; a template lays them out as a grid on a desk and as cards on a phone."""

import dataclasses
from collections.abc import Callable, Sequence

from relink_jax.report import attackers, values, words
from relink_jax.report.evidence import BEST, EMPTY, MATCHED, PAIRED_POOL, Cell, Evidence, Row
from relink_jax.report.words import Fragments

_FROM = 100
STRATA = {
    MATCHED: "same labels", "label_ternary": "same labels, ternary", "label_quaternary": "same labels, blank apart from no", "label_u_one": "same labels, uncertain as yes",
    "label_u_zero": "same labels, uncertain as no", "view": "same view", "label_view": "same labels and view", "sex_age": "same sex and age band",
    "length": "same report length", "near_text": "near-duplicate text",
}  # fmt: skip


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


Column = tuple[Fragments, Callable[[Row], Entry], Fragments]  # title, a row's entry, what guessing gives


def linkage(evidence: Evidence, dataset: str) -> Table:
    """Returns the main table of one dataset: every model and head arm, with chance as the last row.

    Cells hold plain cosine and, under it, the best attack; bits are the best attack's. Columns without any measurement are left out.
    """
    pools: list[int | str] = [*_shown_pools(evidence, dataset), "full"]
    rows = [row for _, some in groups_of(evidence, dataset) for row in some]
    columns = [column for column in (*_pool_columns(evidence, dataset, pools), *_other_columns(evidence, dataset)) if _measured(column, rows)]
    groups = []
    for title, some in groups_of(evidence, dataset):
        lines = []
        for row in some:
            named = tuple(dataclasses.replace(entry_of(row), column=plain(column)) for column, entry_of, _ in columns)
            lines.append(Line(row.model if row.baseline else words.head_name(row.head), _under(evidence, row, dataset), named))
        groups.append((title, tuple(lines)))
    chance = Line("chance", [], tuple(Entry(guessed, (), plain(column)) for column, _, guessed in columns), reference=True)
    groups.append(("", (chance,)))
    first, data = evidence.document(dataset)
    counted = [
        evidence.book.number("count", f"{name}, {dataset}", (first, f"/data/{name}"))
        for name in ("n_images", "n_studies", "n_patients")
        if name in data["data"]
    ]
    caption: Fragments = [f"Image to report on {dataset}"]
    if len(counted) == 3:
        caption += [": ", counted[0], " images as queries, ", counted[1], " studies as candidates, ", counted[2], " patients"]
    attacked = any(attackers.tried(evidence, evidence.file(row, dataset)) for row in rows)
    caption += [". First plain cosine, under it the best attack, chosen on other patients."] if attacked else ["."]
    spans = (("images linked at rank 1 (Recall@1), by number of candidates N", len(pools)), ("", len(columns) - len(pools)))
    return Table(caption, "Model and heads", spans, tuple(column for column, _, _ in columns), tuple(groups))


def _pool_columns(evidence: Evidence, dataset: str, pools: Sequence[int | str]) -> list[Column]:
    first = next(row for row in evidence.rows if evidence.file(row, dataset))

    def column(pool: int | str) -> Column:
        def of(row: Row) -> Entry:
            return with_best(entry(evidence.recall(row, dataset, pool)), evidence.recall(row, dataset, pool, attack=BEST))

        return pool_title(evidence, dataset, pool), of, _number(evidence.single(first, dataset, "chance", "chance", pool))

    return [column(pool) for pool in pools]


def _other_columns(evidence: Evidence, dataset: str) -> list[Column]:
    first = next(row for row in evidence.rows if evidence.file(row, dataset))
    headline, matched = evidence.headline(dataset) or "full", evidence.matched_pool(dataset)
    title = pool_title(evidence, dataset, headline)

    def bits(row: Row) -> Entry:
        best = evidence.bits(row, dataset, headline, attack=BEST)
        return entry(best if best.value is not None else evidence.bits(row, dataset, headline))

    columns: list[Column] = [(["log", "\N{SUBSCRIPT TWO}", " lift at ", *title, ", bits"], bits, ["0"])]
    if matched:
        chance = _number(evidence.single(first, dataset, "chance", "chance", matched, MATCHED))
        columns.append((["same labels, ", *pool_title(evidence, dataset, matched, MATCHED)], lambda row: _matched(evidence, row, dataset, matched), chance))
    columns.append(_precision(evidence, dataset))
    for task, called in (("zero_shot", "zero-shot AUROC"), ("probe", "probe AUROC")):

        def priced(row: Row, task: str = task) -> Entry:
            found = entry(evidence.probe(row, dataset, task=task))
            random = next((one for one in evidence.arms if one.head == "random" and one.model == row.model and row.head != "random"), None)
            beside = evidence.probe(random, dataset, task=task).value if random is not None and task == "probe" else None
            return found if beside is None else dataclasses.replace(found, small=(*found.small, ["random heads ", beside]))

        columns.append(([called], priced, _at(evidence, first, dataset, task)))
    return columns


def _precision(evidence: Evidence, dataset: str) -> Column:
    """Returns the column of how often an attacker is right who asserts a link for the surest one in a hundred images only."""

    def place(row: Row) -> tuple[str | None, int | None]:
        file = evidence.file(row, dataset)
        points = evidence.documents[file].get("selective", {}).get("at_coverage", []) if file else []
        return file, next((index for index, one in enumerate(points) if one["coverage"] == 0.01), None)

    def of(row: Row) -> Entry:
        file, index = place(row)
        if file is None or index is None:
            return Entry(["n/a"], (), "")
        label = f"precision of the surest links, {row.model} ({row.head}), {dataset}"
        return entry(evidence.cell(file, f"/selective/at_coverage/{index}/precision", "percent", label))

    found = [place(row) for row in evidence.rows]
    file, index = next(((file, index) for file, index in found if file is not None and index is not None), (None, None))
    if file is None:
        return ["precision"], of, ["n/a"]
    share = evidence.book.number("chance", f"coverage, {dataset}", (file, f"/selective/at_coverage/{index}/coverage"))
    chance = evidence.book.number("chance", f"chance of a link, {dataset}", (file, "/selective/chance"))
    return ["right in the surest ", share], of, [chance]


def _measured(column: Column, rows: Sequence[Row]) -> bool:
    return any(column[1](row).main != ["n/a"] for row in rows)


def _under(evidence: Evidence, row: Row, dataset: str) -> Fragments:
    """Returns what stands under a row's name: which heads, what they promise, which attack is best."""
    told: Fragments = [words.own_heads(evidence, row)] if row.baseline else _guarantee(evidence, row, dataset)
    draws = evidence.redraws(dataset, evidence.headline(dataset) or "full")[1] if row.head == "noise_only" else None
    told = ["first of ", draws, " draws"] if draws is not None else told
    best = attackers.best_name(evidence, row, dataset)
    return [*told, *([" \N{MIDDLE DOT} " if told else "", "best: ", *best] if best else [])]


def with_best(raw: Entry, best: Cell) -> Entry:
    """Returns an entry with the best attack under plain cosine."""
    if best.value is None:
        return raw
    ends: tuple[Fragments, ...] = (["[", best.low, ", ", best.high, "]"],) if best.low is not None and best.high is not None else ()
    return dataclasses.replace(raw, small=(*raw.small, ["best ", words.Strong(best.value)], *ends))


def _shown_pools(evidence: Evidence, dataset: str) -> list[int]:
    """Returns the pool sizes of the main table: those from a hundred on where there are two of them."""
    pools = evidence.pools(dataset)
    large = [pool for pool in pools if pool >= _FROM]
    return large if len(large) > 1 else pools


def reverse(evidence: Evidence, dataset: str) -> Table | None:
    """Returns Recall@1 from report to image; None when that direction was not audited."""
    pools: list[int | str] = [*evidence.pools(dataset), "full"]
    columns: list[Fragments] = [pool_title(evidence, dataset, pool) for pool in pools]
    groups = []
    for title, rows in groups_of(evidence, dataset):
        lines = []
        for row in rows:
            cells = [entry(evidence.recall(row, dataset, pool, direction="r2i")) for pool in pools]
            named = tuple(Entry(cell.main, cell.small, plain(column)) for cell, column in zip(cells, columns, strict=True))
            lines.append(Line(row.model if row.baseline else words.head_name(row.head), [], named))
        groups.append((title, tuple(lines)))
    if not any(one.main != ["n/a"] for _, lines in groups for line in lines for one in line.entries):
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
            entries.append(dataclasses.replace(entry(evidence.probe(row, dataset, features)), column=f"{dataset}: macro AUROC"))
            change = EMPTY if row == subject else evidence.paired_probe(row, dataset)
            missing = "" if features or row != subject else "reference"
            entries.append(dataclasses.replace(entry(change, missing), column=f"{dataset}: minus original"))
        if any(one.main not in (["n/a"], [""]) for one in entries[::2]):
            lines.append(Line(name, [], tuple(entries)))
    if not lines:
        return None
    chances = [one for dataset in datasets for one in (Entry(_at(evidence, subject, dataset, "probe"), (), f"{dataset}: macro AUROC"), Entry([""], (), ""))]
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


def groups_of(evidence: Evidence, dataset: str) -> list[tuple[str, list[Row]]]:
    """Returns the rows of a dataset under a title each: the ladder, members of ensembles, each model's other heads."""
    ladder = [row for row in evidence.ladder if evidence.file(row, dataset)]
    groups = [("Models in rising specialisation" if len(ladder) > 1 else "", ladder)]
    for name, one in evidence.ensembles.items():
        groups.append((f"Members of {name}, each by itself", [row for row in evidence.members if row.model in one["members"] and evidence.file(row, dataset)]))
    for model in dict.fromkeys(row.model for row in evidence.arms):
        groups.append((f"Other heads of {model}", [row for row in evidence.arms if row.model == model and evidence.file(row, dataset)]))
    return [(title, rows) for title, rows in groups if rows]


def entry(cell: Cell, missing: str = "n/a") -> Entry:
    """Returns a table cell of a number with its interval under it."""
    if cell.value is None:
        return Entry([missing], (), "")
    if cell.low is None or cell.high is None:
        return Entry([cell.value], (), "")
    return Entry([cell.value], (["[", cell.low, ", ", cell.high, "]"],), "")


def _matched(evidence: Evidence, row: Row, dataset: str, pool: int | None) -> Entry:
    best = evidence.recall(row, dataset, pool, MATCHED, attack=BEST)
    found, beside = with_best(entry(evidence.recall(row, dataset, pool, MATCHED)), best), evidence.recall(row, dataset, pool, PAIRED_POOL)
    return found if beside.value is None else Entry(found.main, (*found.small, ["random: ", beside.value]), "")


def _guarantee(evidence: Evidence, row: Row, dataset: str) -> Fragments:
    file = evidence.file(row, dataset)
    if file is None or evidence.documents[file]["model"]["dp"] is None:
        return []
    pointers = [("epsilon", "\N{GREEK SMALL LETTER EPSILON} = "), ("delta", ", \N{GREEK SMALL LETTER DELTA} = ")]
    return [part for name, symbol in pointers for part in (symbol, evidence.book.number("small", f"{name} of {row.model}", (file, f"/model/dp/{name}")))]


def pool_title(evidence: Evidence, dataset: str, pool: int | str | None, stratum: str = "other_patient") -> Fragments:
    """Returns the column title of a pool size."""
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
        file, at = evidence.probe_at(row, dataset, task=what)
    return ["n/a"] if file is None or at is None else [evidence.book.number("small", f"chance of {what}, {dataset}", (file, f"{at}/chance"))]


def _number(number: object) -> Fragments:
    return ["n/a"] if number is None else [number]  # type: ignore[list-item]


def plain(parts: Sequence[object]) -> str:
    """Returns fragments as text."""
    return "".join(part if isinstance(part, str) else part.text for part in parts)  # type: ignore[attr-defined]
