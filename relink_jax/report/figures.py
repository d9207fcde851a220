"""The page's figures as self-contained SVG text: the same data and look at desktop and at phone width.

Text becomes paths, ids are salted and dates left out, so equal data give equal bytes. Colours are from Okabe and Ito (2008)
for head arms and one hue of rising darkness for the ladder; markers and dashes repeat what colour says.
"""

import dataclasses
import functools
import io
from collections.abc import Callable, Sequence
from typing import Any

INK, _MUTED, _GRID = "#1b1f24", "#57606a", "#d8dee4"
_LADDER = ("#8aa5c4", "#5c89b8", "#2f6cab", "#0b2f66")
_ARMS = {"dp": "#d55e00", "noise_only": "#8a5aa8", "random": "#6e7781", "original": "#0b2f66", "none": "#0b2f66"}
_ARM_MARKS = {"dp": "s", "noise_only": "^", "random": "X", "original": "o", "none": "o"}
_LADDER_MARKS = ("v", "D", "P", "o")
LOOK: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "axes.edgecolor": _MUTED, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "text.color": INK, "axes.linewidth": 0.8,
    "svg.fonttype": "path", "svg.hashsalt": "relink_jax", "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white",
}  # fmt: skip
_DASHES = {"noise_only": (0, (4, 2)), "random": (0, (1, 1.5))}


@dataclasses.dataclass(frozen=True)
class Style:
    """Colour, marker and dash of one series."""

    color: str
    marker: str
    dash: Any = "-"


@dataclasses.dataclass(frozen=True)
class Series:
    """One line or group of points: `points` are (x, y, low, high) with None where there is no interval; `last_is_full` marks N = all."""

    label: str
    style: Style
    points: tuple[tuple[float, float, float | None, float | None], ...]
    last_is_full: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """One dataset's part of a figure."""

    title: str
    series: tuple[Series, ...]
    chance: tuple[tuple[float, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Bars:
    """One dataset's paired bars: per row (label, random, matched), each (value, low, high) in [0, 1]; `chance` is drawn as a line."""

    title: str
    rows: tuple[tuple[str, tuple[float, float | None, float | None], tuple[float, float | None, float | None]], ...]
    chance: float


@dataclasses.dataclass(frozen=True)
class Point:
    """One mark of the trade-off: x and y with their intervals (None where unknown)."""

    label: str
    style: Style
    x: tuple[float, float | None, float | None]
    y: tuple[float, float | None, float | None]


def ladder_style(position: int, count: int) -> Style:
    """Returns the style of rung `position` of `count`: darker with specialisation."""
    index = round(position * (len(_LADDER) - 1) / max(1, count - 1)) if count > 1 else len(_LADDER) - 1
    return Style(_LADDER[index], _LADDER_MARKS[position % len(_LADDER_MARKS)] if count > len(_LADDER) else _LADDER_MARKS[index])


def arm_style(head: str) -> Style:
    """Returns the style of a head arm."""
    return Style(_ARMS.get(head, "#009e73"), _ARM_MARKS.get(head, "D"), _DASHES.get(head, "-"))


def _styled(draw: Callable[..., str]) -> Callable[..., str]:
    """Runs a drawing function under this module's look, leaving the caller's matplotlib settings alone."""

    @functools.wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> str:
        import matplotlib

        with matplotlib.rc_context(LOOK):
            return draw(*args, **kwargs)

    return drawn


@_styled
def recall_curves(panels: Sequence[Panel], phone: bool) -> str:
    """Draws Recall@1 against pool size on log axes with interval bands and the chance line; full-database points are hollow."""
    figure, axes = _canvas(len(panels), phone, 3.5, 3.15)
    for axis, panel in zip(axes, panels, strict=True):
        floor = min([y for _, y in panel.chance] or [1e-4]) / 2
        for series in panel.series:
            drawn = [point for point in series.points if point[1] > 0]
            xs, ys = [point[0] for point in drawn], [point[1] for point in drawn]
            look = {"color": series.style.color, "marker": series.style.marker, "markersize": 5.5}
            axis.plot(xs, ys, linestyle=series.style.dash, linewidth=1.7, zorder=3, label=series.label, **look)
            if series.last_is_full and drawn:
                axis.plot(xs[-1], ys[-1], markerfacecolor="white", zorder=4, **look)
            banded = [point for point in drawn if point[2] is not None and point[3] is not None]
            axis.fill_between(
                [p[0] for p in banded], [max(p[2] or 0, floor) for p in banded], [p[3] for p in banded], color=series.style.color, alpha=0.16, linewidth=0
            )
        axis.plot([x for x, _ in panel.chance], [y for _, y in panel.chance], color=INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=2, label="chance")
        axis.set_xscale("log")
        axis.set_yscale("log")
        _pool_ticks(axis, sorted({x for x, _ in panel.chance}))
        _percent_axis(axis.yaxis)
        axis.set_ylim(floor, 1.25)
        finish(axis, panel.title, "candidate reports N", "images linked at rank 1")
    _legend(figure, axes[0], phone)
    return _svg(figure)


@_styled
def matched_bars(panels: Sequence[Bars], phone: bool) -> str:
    """Draws, per model, Recall@1 in random and in label-matched pools of the same queries as paired bars with chance."""
    figure, axes = _canvas(len(panels), phone, 0.55 + 0.5 * max(len(panel.rows) for panel in panels), 0.55 + 0.5 * max(len(panel.rows) for panel in panels))
    top = max(high or value for panel in panels for _, *pair in panel.rows for value, _, high in pair)
    for axis, panel in zip(axes, panels, strict=True):
        for index, (_, random_pool, matched) in enumerate(panel.rows):
            for offset, (value, low, high), color, name in ((-0.19, random_pool, "#9db8d6", "random pool"), (0.19, matched, "#0b2f66", "label-matched pool")):
                axis.barh(index + offset, value, height=0.34, color=color, label=name if index == 0 else None, zorder=2)
                if low is not None and high is not None:
                    axis.plot([low, high], [index + offset] * 2, color=INK, linewidth=1, zorder=3)
                axis.text(
                    max(value, high or 0) + 0.015 * top,
                    index + offset,
                    f"{100 * value:.0f}%" if value >= 0.0995 else f"{100 * value:.1f}%",
                    va="center",
                    fontsize=8.5,
                    color=INK,
                )
        axis.axvline(panel.chance, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=4, label="chance")
        axis.set_yticks(range(len(panel.rows)), [row[0] for row in panel.rows])
        axis.set_ylim(len(panel.rows) - 0.45, -0.55)
        axis.set_xlim(0, 1.22 * max(top, panel.chance))
        axis.locator_params(axis="x", nbins=5)
        _percent_axis(axis.xaxis)
        finish(axis, panel.title, "images linked at rank 1", "")
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
    _legend(figure, axes[0], phone)
    return _svg(figure)


@_styled
def trade_off(panels: Sequence[tuple[str, Sequence[Point], float | None]], phone: bool) -> str:
    """Draws bits of linkage against probe macro AUROC with both intervals; each panel is (title, points, AUROC before the head)."""
    figure, axes = _canvas(len(panels), phone, 3.4, 3.1)
    for axis, (title, points, before) in zip(axes, panels, strict=True):
        for point in points:
            (x, x_low, x_high), (y, y_low, y_high) = point.x, point.y
            whisker = {"color": point.style.color, "linewidth": 1.2, "alpha": 0.8, "zorder": 2}
            if x_low is not None and x_high is not None:
                axis.plot([x_low, x_high], [y, y], **whisker)
            if y_high is not None:
                axis.plot([x, x], [y_low if y_low is not None else 0, y_high], **whisker)
            axis.plot(
                x, y, marker=point.style.marker, markersize=8, color=point.style.color, linestyle="none", label=point.label, zorder=4, markeredgecolor="white"
            )
        if before is not None:
            axis.axvline(before, color=_MUTED, linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=1, label="probe before the head")
        axis.axhline(0, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1, label="chance")
        axis.margins(x=0.12, y=0.1)
        finish(axis, title, "linear-probe macro AUROC", "linkage, bits over chance")
    _legend(figure, axes[0], phone)
    return _svg(figure)


def _canvas(panels: int, phone: bool, phone_height: float, desktop_height: float) -> tuple[Any, Any]:
    """Returns a figure 3.75 in wide with stacked panels (phone) or 10.8 in with panels side by side, and its axes."""
    from matplotlib.figure import Figure

    if phone:
        figure = Figure(figsize=(3.75, phone_height * panels + 0.95), layout="constrained")
        return figure, figure.subplots(panels, 1, squeeze=False)[:, 0]
    figure = Figure(figsize=(5.4 * max(panels, 1) if panels > 1 else 7.2, desktop_height + 0.75), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False, sharey=panels > 1)[0]


def finish(axis: Any, title: str, x_label: str, y_label: str) -> None:
    """Gives an axis its title, grid and labels; the y label only in the first column."""
    axis.set_title(title, loc="left", fontweight="bold", pad=8)
    axis.set_xlabel(x_label)
    first = axis.get_subplotspec().is_first_col()
    axis.set_ylabel(y_label if first else "")
    axis.grid(color=_GRID, linewidth=0.7)
    axis.set_axisbelow(True)


def _pool_ticks(axis: Any, pools: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    axis.set_xticks(_spaced(pools), [f"{int(pool):,}" for pool in _spaced(pools)])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(min(pools) / 1.25, max(pools) * 1.35)


def _spaced(pools: Sequence[float]) -> list[float]:
    """Drops pool sizes that would print over the next smaller one on a log axis."""
    kept: list[float] = []
    for pool in pools:
        if not kept or pool > 2.2 * kept[-1]:
            kept.append(pool)
    return kept


def _percent_axis(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}%"))
    axis.set_minor_formatter(NullFormatter())


def _legend(figure: Any, axis: Any, phone: bool) -> None:
    handles, labels = axis.get_legend_handles_labels()
    handles, labels = zip(*sorted(zip(handles, labels, strict=True), key=lambda pair: pair[1] == "chance"), strict=True)
    columns = 2 if phone else min(6, len(labels))
    figure.get_layout_engine().set(h_pad=0.09, hspace=0.04)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9, handlelength=1.9, columnspacing=1.3, borderpad=0.1)


def _svg(figure: Any) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
