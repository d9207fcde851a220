"""Bars and slopes of the page: the same queries in two pools, right and wrong patients, and linkage before and after."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from relink_jax.report.figures import INK, Style, canvas, finish, legend, percent_axis, styled, svg

Triple = tuple[float, float | None, float | None]
_RANDOM, _MATCHED = "#9db8d6", "#0b2f66"
_PARTS = (("right study", "#0b2f66", ""), ("right patient, other study", "#e69f00", "///"), ("wrong patient", "#cfd6de", ""))


@dataclasses.dataclass(frozen=True)
class Pair:
    """One row of paired bars: the random and the matched pool of the same queries, each (value, low, high), with chance in it."""

    label: str
    random: Triple
    matched: Triple
    chance: float


@dataclasses.dataclass(frozen=True)
class Parts:
    """One stacked bar: the shares that hit the right study, the right patient's other study, and a wrong patient."""

    label: str
    shares: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Slope:
    """One line from before to after: (value, low, high) each."""

    label: str
    style: Style
    before: Triple
    after: Triple


@styled
def matched_bars(panels: Sequence[tuple[str, Sequence[Pair]]], phone: bool) -> str:
    """Draws Recall@1 in random and in matched pools of the same queries as paired bars with chance in each row."""
    height = 0.55 + (0.62 if phone else 0.56) * max(len(rows) for _, rows in panels)
    figure, axes = canvas(len(panels), phone, height, height, share=False)
    top = max(high or value for _, rows in panels for row in rows for value, _, high in (row.random, row.matched))
    for axis, (title, rows) in zip(axes, panels, strict=True):
        places = _places(axis, [row.label for row in rows], 1.22 * top, phone)
        for place, row in zip(places, rows, strict=True):
            for offset, triple, color, name in ((-0.19, row.random, _RANDOM, "random pool"), (0.19, row.matched, _MATCHED, "matched pool")):
                _bar(axis, place + offset, triple, color, name if place == places[0] else None, top)
            mark = {"color": "#d55e00", "linewidth": 2, "zorder": 4, "label": "chance" if place == places[0] else None}
            axis.plot([row.chance] * 2, [place - 0.4, place + 0.4], **mark)
        finish(axis, title, "images linked at rank 1", "")
        axis.grid(axis="y", visible=False)
    legend(figure, axes)
    return svg(figure)


@styled
def stacked(panels: Sequence[tuple[str, Sequence[Parts]]], phone: bool) -> str:
    """Draws where the first-ranked report belongs as one stacked bar per row."""
    height = 0.55 + (0.52 if phone else 0.4) * max(len(rows) for _, rows in panels)
    figure, axes = canvas(len(panels), phone, height, height, share=False)
    for axis, (title, rows) in zip(axes, panels, strict=True):
        places = _places(axis, [row.label for row in rows], 1.13, phone)
        for place, row in zip(places, rows, strict=True):
            left = 0.0
            for (name, color, hatch), share in zip(_PARTS, row.shares, strict=True):
                edge = {"hatch": hatch, "edgecolor": "white", "linewidth": 0}
                axis.barh(place, share, left=left, height=0.62, color=color, label=name if place == places[0] else None, zorder=2, **edge)
                left += share
            axis.text(1.01, place, _short(row.shares[0]), va="center", fontsize=8.5, color=INK)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
        finish(axis, title, "share of images; in figures: right study", "")
        axis.grid(axis="y", visible=False)
    legend(figure, axes)
    return svg(figure)


@styled
def slopes(panels: Sequence[tuple[str, Sequence[Slope], float]], phone: bool) -> str:
    """Draws linkage before and after on a log axis, one line per attacker with intervals; each panel is (title, lines, chance)."""
    figure, axes = canvas(len(panels), phone, 3.3, 3.1)
    for axis, (title, rows, chance) in zip(axes, panels, strict=True):
        lowest = min([chance, *[value for row in rows for value, *_ in (row.before, row.after) if value > 0]])
        for index, row in enumerate(rows):
            shift = 0.045 * (index - (len(rows) - 1) / 2)
            xs = [shift, 1 + shift]
            ys = [max(value, lowest / 2) for value, *_ in (row.before, row.after)]
            look = {"color": row.style.color, "marker": row.style.marker, "linestyle": row.style.dash}
            axis.plot(xs, ys, markersize=6.5, linewidth=1.8, zorder=3, label=row.label, **look)
            for x, (_, low, high) in zip(xs, (row.before, row.after), strict=True):
                if low is not None and high is not None:
                    axis.plot([x, x], [max(low, lowest / 2), high], color=row.style.color, linewidth=1.2, zorder=2)
        axis.axhline(chance, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1, label="chance")
        axis.set_yscale("log")
        axis.set_ylim(lowest / 2.2, 1.3)
        percent_axis(axis.yaxis)
        axis.set_xlim(-0.35, 1.35)
        axis.set_xticks([0, 1], ["before", "after"])
        finish(axis, title, "", "images linked at rank 1")
    legend(figure, axes)
    return svg(figure)


def _bar(axis: Any, y: float, triple: Triple, color: str, name: str | None, top: float) -> None:
    value, low, high = triple
    axis.barh(y, value, height=0.34, color=color, label=name, zorder=2)
    if low is not None and high is not None:
        axis.plot([low, high], [y] * 2, color=INK, linewidth=1, zorder=3)
    axis.text(max(value, high or 0) + 0.015 * top, y, _short(value), va="center", fontsize=8.5, color=INK)


def _places(axis: Any, labels: Sequence[str], right: float, phone: bool) -> list[float]:
    """Returns where on the y axis rows stand: named beside the axis on a desk, above their bars on a phone."""
    step = 1.5 if phone else 1.0
    places = [step * index for index in range(len(labels))]
    axis.set_ylim(places[-1] + 0.55, -0.95 if phone else -0.55)
    axis.set_xlim(0, right)
    axis.locator_params(axis="x", nbins=5)
    percent_axis(axis.xaxis)
    axis.tick_params(axis="y", length=0)
    axis.set_yticks(places, [""] * len(labels) if phone else labels, fontsize=8.5)
    for place, label in zip(places, labels, strict=True) if phone else ():
        axis.text(0, place - 0.46, label.replace("\n", ", "), va="bottom", fontsize=8.5, color=INK)
    return places


def _short(value: float) -> str:
    return f"{100 * value:.0f}%" if value >= 0.0995 else f"{100 * value:.1f}%"
