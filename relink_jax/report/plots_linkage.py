"""Figures 1 to 6: linkage against the number of candidates, before and after, known pairs, matched pools, and right patients."""

import dataclasses
from collections.abc import Sequence

from relink_jax.report import attackers, figures, figures_bars, plots, words
from relink_jax.report.evidence import BEST, MATCHED, OTHER, PAIRED_POOL, Evidence, Row
from relink_jax.report.plots import Plot, Point, heads_label, known, plotted, triple
from relink_jax.report.tables import STRATA
from relink_jax.report.words import Fragments

_LINKED, _SIZE = "images linked at rank 1", "candidate reports N"
POOLS = figures.Frame(_SIZE, _LINKED, x_count=True, x_log=True, y_log=True)
_PAIRS = figures.Frame("known image-report pairs m", _LINKED, x_count=True, x_log=True, y_log=True)
_SOLID, _DOTS, _LONG = "-", (0, (1.4, 1.6)), (0, (6, 2, 1, 2))


def every(evidence: Evidence) -> list[Plot]:
    """Returns those of the six figures that the results allow."""
    found = [_ladder(evidence), _before_after(evidence), _slopes(evidence), _pairs(evidence), _matched(evidence), _patients(evidence)]
    return [plot for plot in found if plot is not None]


def curve(evidence: Evidence, row: Row, dataset: str, attack: str | None) -> tuple[tuple[Point, ...], dict[float, float], bool]:
    """Returns (points, chance by N, last point is the full database) of Recall@1 against N; `attack` None is plain cosine, BEST the best one.

    Points come from the recorded curve with its simultaneous band, else from the single pool sizes with their own intervals.
    """
    file = evidence.file(row, dataset)
    if file is None:
        return (), {}, False
    recorded = _recorded(evidence, file, attack or "cosine")
    if recorded[0]:
        return recorded
    points, chance = [], {}
    pools: list[int | str] = [*evidence.pools(dataset), "full"]
    for pool in pools:
        cell = evidence.recall(row, dataset, pool, attack=attack)
        size, guess = (evidence.single(row, dataset, kind, field, pool, attack=attack) for kind, field in (("count", "N"), ("chance", "chance")))
        if known(cell) and size is not None and size.value is not None:
            points.append((size.value, *triple(cell)))
            if guess is not None and guess.value is not None:
                chance[size.value] = guess.value
    return tuple(points), chance, evidence.pointer(file, "recall", pool="full", attack=attack) is not None


def _recorded(evidence: Evidence, file: str, name: str) -> tuple[tuple[Point, ...], dict[float, float], bool]:
    curves = evidence.documents[file].get("curve", [])
    place = next((index for index, one in enumerate(curves) if one["attack"] == name), None)
    if place is None:
        return (), {}, False
    points: list[Point] = []
    chance: dict[float, float] = {}
    full = False
    for index, one in enumerate(curves[place]["points"]):
        at, label = f"/curve/{place}/points/{index}", f"curve of {name}, {file}, N={one['N']}"
        size, value, guess = (plotted(evidence, file, f"{at}/{field}", f"{label}, {field}") for field in ("N", "value", "chance"))
        ends = [
            next((plotted(evidence, file, f"{at}/{field}", f"{label}, {field}") for field in (f"band_{end}", end) if one.get(field) is not None), None)
            for end in ("low", "high")
        ]
        if size is not None and value is not None:
            points.append((size, value, ends[0], ends[1]))
            chance[size] = guess or 0.0
            full = bool(one["full"])
    return tuple(points), chance, full


def _panels(evidence: Evidence, wanted: Sequence[tuple[str, figures.Style, Row, str | None, bool]]) -> list[figures.Panel]:
    """Returns a panel per dataset of series (label, style, row, attack, thin)."""
    panels = []
    for dataset in evidence.datasets:
        drawn: list[figures.Series] = []
        chance: dict[float, float] = {}
        for label, style, row, attack, thin in wanted:
            points, guess, full = curve(evidence, row, dataset, attack)
            chance |= guess
            if points:
                drawn.append(figures.Series(label, style, points, full, thin))
        panels.append(figures.Panel(dataset + plots.mark(evidence), tuple(drawn), tuple(sorted(chance.items()))))
    return panels


def _band(evidence: Evidence) -> str:
    simultaneous = any("curve" in result for result in evidence.results)
    return f"simultaneous over N, {plots.level(evidence)}" if simultaneous else f"pointwise {plots.level(evidence)}"


def _ladder(evidence: Evidence) -> Plot | None:
    count = len(evidence.ladder)
    wanted = [(row.model, figures.ladder_style(place, count), row, None, False) for place, row in enumerate(evidence.ladder)]
    caption = f"Recall@1 of the models with their original heads by plain cosine, on log axes. Shaded: intervals over patients, {_band(evidence)}. "
    caption += "Hollow: every study as a candidate. Dashed: chance, 1/N."
    alt = (
        f"Line chart on log axes: share of images linked at rank 1 against the number of candidates, for {count} models with their original heads, with chance."
    )
    alt = f"{alt} The share falls as candidates are added; values in the tables and in the CSV file."
    return plots.line_plot("pool", "Linkage against the number of candidates", [caption], alt, _panels(evidence, wanted), POOLS)


def _before_after(evidence: Evidence) -> Plot | None:
    subject, after = evidence.subject, evidence.mitigation
    arms = [row for row in evidence.arms if row.model == subject.model]
    if not arms:
        return None
    attacked = any(attackers.tried(evidence, file) for file in evidence.documents if file in evidence.files.values())
    wanted: list[tuple[str, figures.Style, Row, str | None, bool]] = []
    for row in [subject, *([after] if after else [])]:
        style, name = figures.arm_style(row.head), heads_label(row.head)
        if attacked:
            wanted.append((f"{name}, best attack", dataclasses.replace(style, dash=_SOLID), row, BEST, False))
        raw = dataclasses.replace(style, dash=_DOTS if attacked else _SOLID)
        wanted.append((f"{name}, plain cosine" if attacked else name, raw, row, None, False))
    wanted += [(heads_label(row.head), figures.arm_style(row.head), row, None, True) for row in arms if row != after]
    panels = [_with_label_only(evidence, dataset, panel) for dataset, panel in zip(evidence.datasets, _panels(evidence, wanted), strict=True)]
    caption = (
        f"Recall@1 of the heads of {subject.model}. Shaded: intervals over patients, {_band(evidence)}. Hollow: every study as a candidate. Dashed: chance."
    )
    caption += " Grey line: an attacker who knows only the labels." if any(one.label == "labels only" for panel in panels for one in panel.series) else ""
    alt = f"Line chart on log axes: share of images linked at rank 1 against the number of candidates, for the heads of {subject.model} before and after"
    alt = f"{alt}{', by the best attack and by plain cosine' if attacked else ''}, with chance. Values in the tables and in the CSV file."
    return plots.line_plot("arms", f"Before and after: the heads of {subject.model}", [caption], alt, panels, POOLS)


def _with_label_only(evidence: Evidence, dataset: str, panel: figures.Panel) -> figures.Panel:
    file = evidence.file(evidence.subject, dataset)
    points = _recorded(evidence, file, "label_only")[0] if file else ()
    line = figures.Series("labels only", figures.Style(figures.MUTED, "", _LONG), points, thin=True)
    return dataclasses.replace(panel, series=(*panel.series, line)) if points else panel


def _slopes(evidence: Evidence) -> Plot | None:
    before, after = evidence.subject, evidence.mitigation
    panels: list[tuple[str, list[figures_bars.Slope], float]] = []
    records: list[plots.Record] = []
    kinds = (("plain cosine", "#5c89b8", "o", "-"), ("best attack", "#0b2f66", "s", "-"), ("re-aligned on known pairs", "#d55e00", "^", (0, (4, 2))))
    for dataset in evidence.datasets if after is not None else ():
        pool = evidence.headline(dataset) or "full"
        rows = []
        for name, color, marker, dash in kinds:
            cells = [_by_kind(evidence, row, dataset, pool, name) for row in (before, after) if row is not None]
            if known(*cells):
                rows.append(figures_bars.Slope(name, figures.Style(color, marker, dash), triple(cells[0]), triple(cells[1])))
        chance = evidence.single(before, dataset, "chance", "chance", pool)
        if len(rows) > 1 and chance is not None and chance.value is not None:
            title = f"{dataset}{plots.mark(evidence)}\n{plots.size_text(pool)}"
            panels.append((title, rows, chance.value))
            records += [(title, row.label, when, *value) for row in rows for when, value in (("before", row.before), ("after", row.after))]
            records.append((title, "chance", None, chance.value, None, None))
    if not panels or after is None:
        return None
    caption = (
        f"Recall@1 before and after ({heads_label(after.head)}), log axis, with intervals over patients. Best and re-aligned are each chosen on calibration "
    )
    caption += "patients, before and after apart. A line that stays up where plain cosine falls is linkage that the new heads only hide."
    alt = "Slope chart: share of images linked at rank 1 before and after the mitigation, one line each for plain cosine, the best attack and re-alignment."
    header = ("panel", "attacker", "heads", _LINKED, "low", "high")
    draw = lambda phone: figures_bars.slopes(panels, phone)  # noqa: E731
    return Plot("slopes", "What the mitigation does to each attacker", [caption], f"{alt} Values in the CSV file.", draw, header, tuple(records))


def _by_kind(evidence: Evidence, row: Row, dataset: str, pool: int | str, kind: str) -> plots.Cell:
    if kind == "plain cosine":
        return evidence.recall(row, dataset, pool)
    if kind == "best attack":
        return evidence.recall(row, dataset, pool, attack=BEST)
    place = attackers.realignment(evidence, evidence.file(row, dataset))
    return plots.Cell() if place is None else evidence.recall(row, dataset, pool, attack=place)


def _pairs(evidence: Evidence) -> Plot | None:
    rows = [evidence.subject, *[row for row in evidence.arms if row.model == evidence.subject.model]]
    panels = []
    for dataset in evidence.datasets:
        pool, series = evidence.headline(dataset) or "full", []
        for row in rows:
            series.append(figures.Series(heads_label(row.head), figures.arm_style(row.head), _by_pairs(evidence, row, dataset, pool, "embeddings")))
        before = _by_pairs(evidence, evidence.subject, dataset, pool, "before_head")
        series.append(figures.Series("before the head", figures.Style("#009e73", "*", _LONG), before))
        kept = tuple(one for one in series if len(one.points) > 1)
        chance = evidence.single(evidence.subject, dataset, "chance", "chance", pool)
        ends = sorted({x for one in kept for x, *_ in one.points})
        line = tuple((x, chance.value) for x in (ends[0], ends[-1])) if kept and chance is not None and chance.value is not None else ()
        panels.append(figures.Panel(f"{dataset}{plots.mark(evidence)}\n{plots.size_text(pool)}", kept, line))
    caption = "Recall@1 of an attacker who holds m image-report pairs of other patients and fits a map between the two sides (at 0: plain cosine). Of several maps the one "
    caption += "that calibration patients find best. Before the head: new heads trained by him on what the public encoder gives, which no change of the heads can prevent."
    alt = "Line chart: share of images linked at rank 1 against the number of known pairs, for each set of heads and for features before the head, with chance."
    return plots.line_plot("pairs", "An attacker with known pairs", [caption], f"{alt} Values in the CSV file.", panels, _PAIRS)


def _by_pairs(evidence: Evidence, row: Row, dataset: str, pool: int | str, features: str) -> tuple[Point, ...]:
    cells = {
        pairs: evidence.recall(row, dataset, pool, attack=place)
        for pairs, place in attackers.realigned(evidence, evidence.file(row, dataset), features).items()
    }
    if features == "embeddings" and cells:
        cells = {0: evidence.recall(row, dataset, pool), **cells}
    return tuple((float(pairs), *triple(cell)) for pairs, cell in sorted(cells.items()) if known(cell))


def _matched(evidence: Evidence) -> Plot | None:
    panels: list[tuple[str, list[figures_bars.Pair]]] = []
    records: list[plots.Record] = []
    told: Fragments = ["Each pair asks the same queries twice: among random candidates, and among candidates that match in what is named. Eligible queries: "]
    for dataset in evidence.datasets:
        pairs = _bars(evidence, dataset)
        if not pairs:
            continue
        share = evidence.single(evidence.subject, dataset, "share", "n_eligible_share", evidence.matched_pool(dataset, MATCHED, evidence.subject), MATCHED)
        told += ["; " if panels else "", f"{dataset} ", share if share is not None else "n/a", " with the same labels"]
        panels.append((dataset + plots.mark(evidence), pairs))
        for pair in pairs:
            name = pair.label.replace("\n", ", ")
            records += [(dataset, name, "random", *pair.random), (dataset, name, "matched", *pair.matched), (dataset, name, "chance", pair.chance, None, None)]
    if not panels:
        return None
    alt = "Paired bars: share of images linked at rank 1 in random and in matched pools of the same queries, for each model and each kind of matching, with chance."
    header = ("panel", "row", "pool", _LINKED, "low", "high")
    draw = lambda phone: figures_bars.matched_bars(panels, phone)  # noqa: E731
    told += [". The share in each label is that of eligible queries; orange marks chance."]
    return Plot("matched", "Same queries, random against matched candidates", told, f"{alt} Values in the CSV file.", draw, header, tuple(records))


def _bars(evidence: Evidence, dataset: str) -> list[figures_bars.Pair]:
    """Returns the pairs of every row in label-matched pools, then those of the subject in every other kind of matching."""
    shared, pairs = words.shared_prefix([row.model for row in evidence.ladder]), []
    wanted = [(row, MATCHED) for row in (*evidence.ladder, *evidence.arms)] + [(evidence.subject, name) for name in _strata(evidence, dataset)]
    for row, stratum in wanted:
        pool, paired = evidence.matched_pool(dataset, stratum, row), PAIRED_POOL if stratum == MATCHED else f"{OTHER}@{stratum}"
        cells = [evidence.recall(row, dataset, pool, one) for one in (paired, stratum)]
        chance = evidence.single(row, dataset, "chance", "chance", pool, stratum)
        share = evidence.single(row, dataset, "share", "n_eligible_share", pool, stratum)
        if pool is None or not known(*cells) or chance is None or chance.value is None:
            continue
        name = row.model.removeprefix(shared) if row.baseline else heads_label(row.head)
        label = f"{name}\n{_stratum_name(stratum)}, N = {pool:,}" + (f", {share.text}" if share is not None else "")
        pairs.append(figures_bars.Pair(label, triple(cells[0]), triple(cells[1]), chance.value))
    return pairs


def _strata(evidence: Evidence, dataset: str) -> list[str]:
    """Returns the strata besides the labels that the subject was audited in, label policies left to the appendix."""
    file = evidence.file(evidence.subject, dataset)
    names = dict.fromkeys(m["stratum"] for m in evidence.documents[file]["metrics"]) if file else {}
    return [name for name in names if f"{OTHER}@{name}" in names and name != MATCHED and (not name.startswith("label_") or name == "label_view")]


def _stratum_name(name: str) -> str:
    return STRATA.get(name, f"same {name.replace('_', ' ')}")


def _patients(evidence: Evidence) -> Plot | None:
    rows = [evidence.subject, *[row for row in evidence.arms if row.model == evidence.subject.model]]
    panels: list[tuple[str, list[figures_bars.Parts]]] = []
    records: list[plots.Record] = []
    guessed: list[Fragments] = []
    for dataset in evidence.datasets:
        bars = []
        for row in rows:
            file = evidence.file(row, dataset)
            for index, one in enumerate(evidence.documents[file].get("right_patient", ()) if file else ()):
                if not one["full"] and one["N"] != (evidence.headline(dataset) or one["N"]):
                    continue
                label = f"right patients, {row.model} ({row.head}), {dataset}, N={one['N']}"
                parts = [plotted(evidence, file or "", f"/right_patient/{index}/{name}/value", f"{label}, {name}") for name in _WHOSE]
                size = "all" if one["full"] else f"N = {one['N']:,}"
                if None not in parts:
                    bars.append(figures_bars.Parts(f"{heads_label(row.head)}, {size}", (parts[0] or 0.0, parts[1] or 0.0, parts[2] or 0.0)))
                if row == evidence.subject and file:
                    count = evidence.book.number("count", f"{label}, candidates", (file, f"/right_patient/{index}/N"))
                    guessed.append(
                        [evidence.book.number("chance", f"{label}, chance", (file, f"/right_patient/{index}/chance_patient")), f" ({dataset}, N = ", count, ")"]
                    )
        if bars:
            panels.append((dataset + plots.mark(evidence), bars))
            records += [(dataset, bar.label, whose.replace("_", " "), share) for bar in bars for whose, share in zip(_WHOSE, bar.shares, strict=True)]
    if not panels:
        return None
    alt = "Stacked bars: share of images whose first-ranked report belongs to the right study, to another study of the right patient, or to a wrong patient, per heads."
    told: Fragments = [
        "Whose report is ranked first by plain cosine. A right patient's other study is an identification, too. Guessing finds the right patient in "
    ]
    for place, one in enumerate(guessed):
        told += [", " if place else "", *one]
    draw = lambda phone: figures_bars.stacked(panels, phone)  # noqa: E731
    header = ("panel", "heads and N", "report of", "share of images")
    return Plot("patients", "Right study, right patient, wrong patient", [*told, "."], f"{alt} Values in the CSV file.", draw, header, tuple(records))


_WHOSE = ("right_study", "right_patient", "wrong_patient")
