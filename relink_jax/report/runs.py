"""Several runs on one page: a row per run, model, heads and dataset at the pool sizes they share, and their recall curves in one figure.

Runs that were measured by other rules stand under their own heading with the rules that differ, so that no reader takes them for one table.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.report import attackers, check, figures, page, plots, plots_linkage, schema, values
from relink_jax.report.evidence import BEST, Evidence, Row
from relink_jax.report.tables import Entry, Line, Table, entry, plain, with_best
from relink_jax.report.words import Fragments, head_name

Runs = Mapping[str, Sequence[dict[str, Any]]]
_COLORS = ("#0b2f66", "#d55e00", "#009e73", "#8a5aa8", "#b08900", "#56b4e9", "#cc79a7", "#6e7781")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_SHOWN = 5  # pool sizes shared by all runs that get a column


def render(runs: Runs, path: pathlib.Path, title: str = "Linkage audits side by side", check_command: str = "relink report RUN ... --check") -> pathlib.Path:
    """Writes one page over several runs, and beside it `STEM.numbers.json` with every number and its source, and returns the page's path.

    Args:
        runs: results documents of `schema.load_results` by the run's name, which begins the file names of its numbers.
        path: the page; its directory is made when absent.
    Raises: StoreError: no run, one without results, or a document outside the schema.
    """
    if not runs:
        raise errors.StoreError(errors.describe("runs missing", "comparison of runs", "at least one run", "none"))
    for name, results in runs.items():
        for result in results:
            schema.validate(result, f"results of run {name!r}")
    documents = documents_of(runs)
    book = values.Book(documents)
    evidence = {name: Evidence(results, {}, _headline(results), prefix=f"{name}/", book=book) for name, results in runs.items()}
    made = _curves(evidence)
    context = {
        "title": title,
        "synthetic": any(result["data"]["synthetic"] for results in runs.values() for result in results),
        "runs": [(name, _about(one)) for name, one in evidence.items()],
        "rules": _differences(runs),
        "tables": [table for table in _tables(evidence, runs) if table is not None],
        "figures": [plots.embedded(made)] if made is not None else [],
        "check_command": check_command,
        "numbers": numbers_of(path),
    }
    path = pathlib.Path(path)
    page.write({path.name: page.html("runs.html.j2", context)}, path.parent, numbers_of(path), book, documents, title=title)
    return path


def check_runs(runs: Runs, path: pathlib.Path) -> int:
    """Recomputes every number of a page of several runs from their results and returns how many there are.

    Raises: StoreError: no page, a number that does not come out again, an edited page, or one made from other results.
    """
    path = pathlib.Path(path)
    return check.check_pages(documents_of(runs), path.parent, numbers_of(path), (path.name,))


def documents_of(runs: Runs) -> dict[str, Any]:
    """Returns all results documents as `RUN/results/FILE`."""
    return {f"{name}/results/{schema.stem(result)}.json": result for name, results in runs.items() for result in results}


def numbers_of(path: pathlib.Path) -> str:
    """Returns the name of the file that lists a page's numbers."""
    return f"{pathlib.Path(path).stem}.numbers.json"


def _headline(results: Sequence[dict[str, Any]]) -> int:
    return max((entry["N"] for result in results for entry in result["metrics"] if entry["N"] and not entry["full"]), default=1)


def _about(evidence: Evidence) -> str:
    run = evidence.results[0]["run"]
    return f"run {run['id']}, {run['created_utc'][:10]}, {', '.join(evidence.datasets)}"


def _rules(results: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Returns the rules of a run as text, those of recall and that of the probe."""
    found = {name: str(results[0]["protocol"].get(name, "not recorded")) for name in schema.PROTOCOL}
    probe = next((str(one["utility"].get("protocol", "not recorded")) for one in results if one["utility"]["probe"]), "no probe")
    return found | {"probe": probe}


def _groups(runs: Runs) -> list[tuple[dict[str, str], list[str]]]:
    """Returns (rules, names of the runs that follow them), the first run's rules first."""
    groups: list[tuple[dict[str, str], list[str]]] = []
    for name, results in runs.items():
        rules = _rules(results)
        for known, names in groups:
            if known == rules:
                names.append(name)
                break
        else:
            groups.append((rules, [name]))
    return groups


def _differences(runs: Runs) -> list[tuple[str, str]]:
    """Returns (runs, in which rules they differ from the first run); empty where all follow the same."""
    (usual, first), *others = _groups(runs)
    told = []
    for rules, names in others:
        parts = [f"{name.replace('_', ' ')} is {rules[name]}, not {usual[name]}" for name in usual if rules[name] != usual[name]]
        told.append((", ".join(names), f"{'; '.join(parts)} as in {first[0]}"))
    return told


def _tables(evidence: Mapping[str, Evidence], runs: Runs) -> list[Table | None]:
    groups = _groups(runs)
    titles = ["" if place == 0 else f"Under other rules: {', '.join(names)}" for place, (_, names) in enumerate(groups)]
    datasets = list(dict.fromkeys(name for one in evidence.values() for name in one.datasets))
    return [_table(evidence, dataset, [(title, names) for title, (_, names) in zip(titles, groups, strict=True)]) for dataset in datasets]


def _table(evidence: Mapping[str, Evidence], dataset: str, groups: Sequence[tuple[str, Sequence[str]]]) -> Table | None:
    held = [one for one in evidence.values() if dataset in one.datasets]
    shared = sorted(set.intersection(*[set(one.pools(dataset)) for one in held]))[-_SHOWN:]
    pools: list[int | str] = [*shared, "full"]
    columns: list[Fragments] = [_title(held[0], dataset, pool) for pool in pools]
    columns += [["log\N{SUBSCRIPT TWO} lift, bits, at ", *columns[-2 if shared else -1]], ["zero-shot AUROC"], ["probe AUROC"]]
    titles, made = [plain(column) for column in columns], []
    for title, names in groups:
        lines = []
        for name in names:
            one = evidence[name]
            for row in one.rows if dataset in one.datasets else ():
                if one.file(row, dataset):
                    cells = _cells(one, row, dataset, pools, shared[-1] if shared else "full")
                    lines.append(_line(name, one, row, dataset, [dataclasses.replace(cell, column=at) for cell, at in zip(cells, titles, strict=True)]))
        if lines:
            made.append((title, tuple(lines)))
    attacked = any(attackers.tried(one, file) for one in held for file in one.files.values())
    caption: Fragments = [
        f"Images linked at rank 1 on {dataset}, at the pool sizes that all runs share",
        "; first plain cosine, under it the best attack." if attacked else ".",
    ]
    return Table(caption, "Run, model and heads", (("", len(columns)),), tuple(columns), tuple(made)) if made else None


def _title(evidence: Evidence, dataset: str, pool: int | str) -> Fragments:
    row = next(row for row in evidence.rows if evidence.file(row, dataset))
    number = evidence.single(row, dataset, "count", "N", pool)
    return ["all candidates"] if pool == "full" or number is None else ["N\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}", number]


def _cells(evidence: Evidence, row: Row, dataset: str, pools: Sequence[int | str], largest: int | str) -> list[Entry]:
    cells = [with_best(entry(evidence.recall(row, dataset, pool)), evidence.recall(row, dataset, pool, attack=BEST)) for pool in pools]
    size = evidence.single(row, dataset, "count", "N", "full")
    if size is not None:
        cells[-1] = dataclasses.replace(cells[-1], small=(*cells[-1].small, ["of ", size]))
    best = evidence.bits(row, dataset, largest, attack=BEST)
    cells.append(entry(best if best.value is not None else evidence.bits(row, dataset, largest)))
    return [*cells, *(entry(evidence.probe(row, dataset, task=task)) for task in ("zero_shot", "probe"))]


def _line(name: str, evidence: Evidence, row: Row, dataset: str, cells: Sequence[Entry]) -> Line:
    best = attackers.best_name(evidence, row, dataset)
    return Line(f"{name}: {row.model}", [head_name(row.head), *(["; best: ", *best] if best else [])], tuple(cells))


def _curves(evidence: Mapping[str, Evidence]) -> plots.Plot | None:
    """Returns the figure of all runs' recall curves: each run's subject by its best attack, and dashed its mitigated heads."""
    panels = []
    for dataset in dict.fromkeys(name for one in evidence.values() for name in one.datasets):
        drawn: list[figures.Series] = []
        chance: dict[float, float] = {}
        for place, (name, one) in enumerate(evidence.items()):
            for row, dash in ((one.subject, "-"), (one.mitigation, (0, (4, 2)))):
                if row is None or dataset not in one.datasets:
                    continue
                points, guess, full = plots_linkage.curve(one, row, dataset, BEST)
                if not points:
                    points, guess, full = plots_linkage.curve(one, row, dataset, None)
                chance |= guess
                style = figures.Style(_COLORS[place % len(_COLORS)], _MARKERS[place % len(_MARKERS)], dash)
                drawn.append(figures.Series(f"{values.seen(name)}: {row.model}, {plots.heads_label(row.head)}", style, points, full))
        panels.append(figures.Panel(dataset, tuple(one for one in drawn if one.points), tuple(sorted(chance.items()))))
    caption: Fragments = [
        "Recall@1 by the best attack of each run, plain cosine where no other was tried, on log axes; dashed lines are mitigated heads. Runs under other rules "
    ]
    caption += ["are drawn with the rest and named in the section on rules. Dashed black: chance."]
    alt = f"Line chart on log axes: share of images linked at rank 1 against the number of candidates, for {', '.join(evidence)}. Values in the table and in the CSV file."
    return plots.line_plot("runs", "Linkage against the number of candidates", caption, alt, panels, plots_linkage.POOLS)
