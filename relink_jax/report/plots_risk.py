"""Figures 7 to 9: how unevenly the risk lies, what an attacker gains who may abstain, and linkage when the true report may be absent."""

from collections.abc import Callable
from typing import Any

from relink_jax.report import figures, plots, tables_risk
from relink_jax.report.evidence import BEST, Evidence, Row
from relink_jax.report.plots import Plot, Point, heads_label, plotted
from relink_jax.report.words import Fragments

_LORENZ = figures.Frame("share of images, least at risk first", "share of expected links", chance="risk spread evenly")
_CERTAIN = figures.Frame("share of images for which a link is asserted", "asserted links that are right", x_log=True)
_OPEN = figures.Frame("false alarms: images without their report, linked", "images linked rightly and asserted", x_log=True, y_log=True)


def every(evidence: Evidence) -> list[Plot]:
    """Returns those of the three figures that the results allow."""
    return [plot for plot in (_lorenz(evidence), _certain(evidence), _open(evidence)) if plot is not None]


def _rows(evidence: Evidence) -> list[Row]:
    return [evidence.subject, *[row for row in evidence.arms if row.model == evidence.subject.model]]


def _drawn(evidence: Evidence, line: Callable[[Row, str], tuple[Point, ...]], chance: Callable[[str], Any], shade: Callable[[str], Any]) -> list[figures.Panel]:
    """Returns a panel per dataset with one series for each set of heads."""
    panels = []
    for dataset in evidence.datasets:
        series = [figures.Series(heads_label(row.head), figures.arm_style(row.head), line(row, dataset)) for row in _rows(evidence)]
        kept = tuple(one for one in series if one.points)
        panels.append(figures.Panel(dataset + plots.mark(evidence), kept, chance(dataset) if kept else (), shade(dataset)))
    return panels


def risk_at(evidence: Evidence, row: Row, dataset: str) -> tuple[str, int] | None:
    """Returns (file, place) of a row's entry of `risk` at the headline pool, by the best attack where it was recorded."""
    file, pool = evidence.file(row, dataset), evidence.headline(dataset)
    entries = evidence.documents[file].get("risk", []) if file else []
    places = [place for place, one in enumerate(entries) if (one["full"] if pool is None else one["N"] == pool and not one["full"])]
    places = places or list(range(len(entries)))
    best = [place for place in places if entries[place]["attack"] == BEST]
    return (file, (best or places)[0]) if file and places else None


def _lorenz(evidence: Evidence) -> Plot | None:
    def line(row: Row, dataset: str) -> tuple[Point, ...]:
        found = risk_at(evidence, row, dataset)
        if found is None or "lorenz" not in evidence.documents[found[0]]["risk"][found[1]]:
            return ()
        file, place = found
        count = len(evidence.documents[file]["risk"][place]["lorenz"]["records"])
        label = f"Lorenz curve, {row.model} ({row.head}), {dataset}"
        drawn = [
            [plotted(evidence, file, f"/risk/{place}/lorenz/{name}/{index}", f"{label}, {name}") for name in ("records", "hits")] for index in range(count)
        ]
        return tuple((x, y, None, None) for x, y in drawn if x is not None and y is not None)

    told: Fragments = ["The further a curve sags, the more of the risk lies with few images. "]
    for dataset in evidence.datasets:
        told += _concentration(evidence, dataset)
    alt = "Lorenz curves: share of all expected links against the share of images, least at risk first, for each set of heads, with the line of evenly spread risk."
    panels = _drawn(evidence, line, lambda _: ((0.0, 0.0), (1.0, 1.0)), lambda _: None)
    return plots.line_plot("risk", "Who is at risk", told, f"{alt} Values in the CSV file.", panels, _LORENZ, below=tables_risk.below(evidence))


def _concentration(evidence: Evidence, dataset: str) -> Fragments:
    found = risk_at(evidence, evidence.subject, dataset)
    if found is None or "top1pct_share" not in evidence.documents[found[0]]["risk"][found[1]]:
        return []
    file, place = found
    held = evidence.documents[file]["risk"][place]
    label = f"concentration, {evidence.subject.model}, {dataset}"
    told: Fragments = [
        f"On {dataset} the hundredth of images most at risk carries ",
        evidence.book.number("share", label, (file, f"/risk/{place}/top1pct_share")),
    ]
    told += (
        [" of the expected links, the tenth ", evidence.book.number("share", label, (file, f"/risk/{place}/top10pct_share"))]
        if "top10pct_share" in held
        else []
    )
    told += [" (Gini ", evidence.book.number("small", f"Gini, {label}", (file, f"/risk/{place}/gini")), ")"] if "gini" in held else []
    return [*told, ". "]


def _curve(evidence: Evidence, section: str, x: str, y: str) -> Callable[[Row, str], tuple[Point, ...]]:
    """Returns what reads a row's line from the list `curve` of a section."""

    def line(row: Row, dataset: str) -> tuple[Point, ...]:
        file = evidence.file(row, dataset)
        points = []
        for index, one in enumerate(evidence.documents[file].get(section, {}).get("curve", []) if file else []):
            label = f"{section}, {row.model} ({row.head}), {dataset}"
            at = [
                plotted(evidence, file or "", f"/{section}/curve/{index}/{name}", f"{label}, {name}") if name in one else None for name in (x, y, "low", "high")
            ]
            if at[0] is not None and at[1] is not None:
                points.append((at[0], at[1], at[2], at[3]))
        return tuple(points)

    return line


def _certain(evidence: Evidence) -> Plot | None:
    line = _curve(evidence, "selective", "coverage", "precision")

    def chance(dataset: str) -> tuple[tuple[float, float], ...]:
        file = evidence.file(evidence.subject, dataset)
        if not file or "selective" not in evidence.documents[file]:
            return ()
        guess = plotted(evidence, file, "/selective/chance", f"chance of a link, {dataset}") or 0.0
        xs = [x for x, *_ in line(evidence.subject, dataset)] or [0.001, 1.0]
        return ((min(xs), guess), (max(xs), guess))

    told: Fragments = [
        "An attacker who asserts a link only where he is surest is right far more often than his average says. Thresholds were fitted on other patients. "
    ]
    told += _size(evidence, "selective")
    alt = "Line chart: share of asserted links that are right against the share of images for which one is asserted, for each set of heads, with chance."
    panels = _drawn(evidence, line, chance, lambda _: None)
    return plots.line_plot("certain", "Can an attacker know when he is right?", told, f"{alt} Values in the CSV file.", panels, _CERTAIN)


def _open(evidence: Evidence) -> Plot | None:
    def resolution(dataset: str) -> float | None:
        file = evidence.file(evidence.subject, dataset)
        held = file is not None and "open_set" in evidence.documents[file]
        return plotted(evidence, file or "", "/open_set/resolution", f"resolution of false alarms, {dataset}") if held else None

    told: Fragments = [
        "When the true report may be missing, an attacker must also decide whether to link at all. Right: images linked to their report with a score above the "
    ]
    told += ["threshold; false alarms: images whose report is absent that are linked all the same. The shaded part has too few images to be resolved. "]
    told += _size(evidence, "open_set")
    alt = "Line chart on log axes: share of images linked rightly against the share of false alarms, for each set of heads; the part too few images resolve is shaded."
    panels = _drawn(evidence, _curve(evidence, "open_set", "fpir", "tpir"), lambda _: (), resolution)
    return plots.line_plot("open", "When the true report may be absent", told, f"{alt} Values in the CSV file.", panels, _OPEN)


def _size(evidence: Evidence, section: str) -> Fragments:
    told: Fragments = []
    for dataset in evidence.datasets:
        file = evidence.file(evidence.subject, dataset)
        if file and (evidence.documents[file].get(section) or {}).get("N"):
            number = evidence.book.number("count", f"candidates of {section}, {dataset}", (file, f"/{section}/N"))
            told += [", " if told else "N = ", number, f" on {dataset}"]
    return [*told, "."] if told else []
