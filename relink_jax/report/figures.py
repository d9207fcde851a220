"""The page's figures as self-contained SVG text: the same data and look at desktop and at phone width.

Text becomes paths, ids are salted and dates left out, so equal data give equal bytes. Colours are from Okabe and Ito (2008)
for head arms and one hue of rising darkness for the ladder; markers and dashes repeat what colour says.
"""

import dataclasses
import functools
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

INK, MUTED, _GRID = "#1b1f24", "#57606a", "#d8dee4"
_LADDER = ("#8aa5c4", "#5c89b8", "#2f6cab", "#0b2f66")
_ARMS = {"dp": "#d55e00", "noise_only": "#8a5aa8", "random": "#6e7781", "original": "#0b2f66", "none": "#0b2f66"}
_ARM_MARKS = {"dp": "s", "noise_only": "^", "random": "X", "original": "o", "none": "o"}
_OTHERS = (("#009e73", "D"), ("#b08900", "p"), ("#cc79a7", "h"), ("#00635a", "d"), ("#56b4e9", ">"))
_LADDER_MARKS = ("v", "D", "P", "o")
LOOK: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "axes.edgecolor": MUTED, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "text.color": INK, "axes.linewidth": 0.8,
    "svg.fonttype": "path", "svg.hashsalt": "relink_jax", "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white",
    "text.parse_math": False,  # a name with two dollar signs is no formula
}  # fmt: skip
_MARKED = 14  # points of a line that still get a marker each
_LETTERS = 13.5  # of a legend that fit into an inch
_DASHES = {"noise_only": (0, (4, 2)), "random": (0, (1, 1.5))}


@dataclasses.dataclass(frozen=True)
class Style:
    """Colour, marker and dash of one series."""

    color: str
    marker: str
    dash: Any = "-"


@dataclasses.dataclass(frozen=True)
class Series:
    """One line: `points` are (x, y, low, high) with None where there is no interval; `last_is_full` marks N = all; `thin` is drawn in the background."""

    label: str
    style: Style
    points: tuple[tuple[float, float, float | None, float | None], ...]
    last_is_full: bool = False
    thin: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """One dataset's part of a figure; `chance` is a dashed line of (x, y), and what lies below x = `shade` is marked as not resolved."""

    title: str
    series: tuple[Series, ...]
    chance: tuple[tuple[float, float], ...] = ()
    shade: float | None = None


@dataclasses.dataclass(frozen=True)
class Frame:
    """Axes of a line chart: x is a number of candidates or pairs (`count`), or a share, on a log or plain axis; y is a share."""

    x_label: str
    y_label: str
    x_count: bool = False
    x_log: bool = False
    y_log: bool = False
    chance: str = "chance"
    height: float = 3.15


def ladder_style(position: int, count: int) -> Style:
    """Returns the style of rung `position` of `count`: darker with specialisation."""
    index = round(position * (len(_LADDER) - 1) / max(1, count - 1)) if count > 1 else len(_LADDER) - 1
    return Style(_LADDER[index], _LADDER_MARKS[position % len(_LADDER_MARKS)] if count > len(_LADDER) else _LADDER_MARKS[index])


def arm_style(head: str) -> Style:
    """Returns the style of a head arm; arms that are not named here take one of `_OTHERS`, the same for the same name."""
    color, marker = _OTHERS[sum(map(ord, head)) % len(_OTHERS)]
    return Style(_ARMS.get(head, color), _ARM_MARKS.get(head, marker), _DASHES.get(head, "-"))


def styled(draw: Callable[..., str]) -> Callable[..., str]:
    """Runs a drawing function under this module's look, leaving the caller's matplotlib settings alone."""

    @functools.wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> str:
        import matplotlib

        with matplotlib.rc_context(LOOK):
            return draw(*args, **kwargs)

    return drawn


@styled
def lines(panels: Sequence[Panel], frame: Frame, phone: bool) -> str:
    """Draws one panel per dataset: lines with interval bands, full-database points hollow, chance dashed, what is not resolved shaded."""
    figure, axes = canvas(len(panels), phone, frame.height + 0.35, frame.height)
    for axis, panel in zip(axes, panels, strict=False):
        floor = _floor(panel) if frame.y_log else 0.0
        xs = sorted({x for series in panel.series for x, *_ in series.points} | {x for x, _ in panel.chance})
        edge = _edge(xs) if frame.x_count else None
        for series in panel.series:
            _line(axis, series, floor, edge, frame)
        if panel.chance:
            ends = [_at(x, edge) for x, _ in panel.chance], [y for _, y in panel.chance]
            axis.plot(*ends, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=2, label=frame.chance)
        _axes(axis, frame, xs, floor)
        if panel.shade is not None:
            axis.axvspan(axis.get_xlim()[0], panel.shade, color=MUTED, alpha=0.13, linewidth=0, zorder=0, label="not resolved")
        finish(axis, panel.title, frame.x_label, frame.y_label)
    legend(figure, axes)
    return svg(figure)


def _line(axis: Any, series: Series, floor: float, edge: float | None, frame: Frame) -> None:
    drawn = [point for point in series.points if point[1] > 0 or not frame.y_log]
    if not drawn:
        return
    xs, ys = [_at(point[0], edge) for point in drawn], [point[1] for point in drawn]
    marked = len(drawn) <= _MARKED
    look = {"color": series.style.color, "marker": series.style.marker if marked else "", "markersize": 4 if series.thin else 5.5}
    axis.plot(
        xs, ys, linestyle=series.style.dash, linewidth=1.1 if series.thin else 1.7, zorder=3, label=series.label, alpha=0.75 if series.thin else 1, **look
    )
    if series.last_is_full and marked:
        axis.plot(xs[-1], ys[-1], markerfacecolor="white", zorder=4, **look)
    banded = [point for point in drawn if point[2] is not None and point[3] is not None] if not series.thin else []
    ends = [max(p[2] or 0.0, floor) for p in banded], [p[3] for p in banded]
    axis.fill_between([_at(p[0], edge) for p in banded], *ends, color=series.style.color, alpha=0.15, linewidth=0)


def _axes(axis: Any, frame: Frame, xs: Sequence[float], floor: float) -> None:
    if frame.x_log:
        axis.set_xscale("log")
    if frame.x_count:
        _count_ticks(axis, xs)
    else:
        percent_axis(axis.xaxis)
    if frame.y_log:
        axis.set_yscale("log")
        axis.set_ylim(floor, 1.25)
    else:
        axis.set_ylim(bottom=0)
    percent_axis(axis.yaxis)


def _floor(panel: Panel) -> float:
    """Returns the lower end of a log axis: half of chance, or of the smallest value where chance is not drawn."""
    shown = [y for _, y in panel.chance] or [y for series in panel.series for _, y, *_ in series.points if y > 0] or [1e-4]
    return min(shown) / 2


def _edge(xs: Iterable[float]) -> float:
    """Returns where on a log axis a count of 0 is drawn."""
    return min([x for x in xs if x > 0], default=1.0) / 4


def _at(x: float, edge: float | None) -> float:
    return x if edge is None or x > 0 else edge


def canvas(panels: int, phone: bool, phone_height: float, desktop_height: float, share: bool = True) -> tuple[Any, Any]:
    """Returns a figure and its axes, as many as panels: stacked and 3.75 in wide (phone), or up to two side by side and up to 10.8 in wide.

    `share`: panels side by side have one y axis.
    """
    from matplotlib.figure import Figure

    if phone:
        figure = Figure(figsize=(3.75, phone_height * panels + 0.95), layout="constrained")
        return figure, figure.subplots(panels, 1, squeeze=False)[:, 0]
    across = min(panels, 2)
    down = -(-panels // across)
    figure = Figure(figsize=(5.4 * across if across > 1 else 7.2, desktop_height * down + 0.75), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey=share and across > 1).ravel()
    for axis in axes[panels:]:
        axis.set_visible(False)
    return figure, axes[:panels]


def finish(axis: Any, title: str, x_label: str, y_label: str) -> None:
    """Gives an axis its title, grid and labels; the y label only in the first column."""
    axis.set_title(title, loc="left", fontweight="bold", pad=8, y=1)  # a given y saves matplotlib the search for one
    axis.set_xlabel(x_label)
    first = axis.get_subplotspec().is_first_col()
    axis.set_ylabel(y_label if first else "")
    axis.grid(color=_GRID, linewidth=0.7)
    axis.set_axisbelow(True)


def _count_ticks(axis: Any, counts: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    edge = _edge(counts)
    shown = _spaced([_at(count, edge) for count in counts])
    labels = {_at(count, edge): f"{int(count):,}" for count in counts}
    axis.set_xticks(shown, [labels[one] for one in shown])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(min(shown) / 1.25, max(_at(count, edge) for count in counts) * 1.35)


def _spaced(counts: Sequence[float]) -> list[float]:
    """Drops counts that would print over the next smaller one on a log axis: fewer of them the wider the axis is."""
    kept: list[float] = []
    gap = max(2.2, (max(counts) / min(counts)) ** 0.15)
    for count in counts:
        if not kept or count > gap * kept[-1]:
            kept.append(count)
    return kept


def percent_axis(axis: Any) -> None:
    """Writes an axis of shares in percent."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}%"))
    axis.set_minor_locator(NullLocator())


def legend(figure: Any, axes: Iterable[Any]) -> None:
    """Puts one legend of all axes above them, chance and what is not resolved last."""
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    labels = sorted(found, key=lambda label: label in ("chance", "not resolved"))
    longest = max(map(len, labels))
    columns = max(1, min(len(labels), int(_LETTERS * figure.get_figwidth() / (longest + 8))))
    figure.get_layout_engine().set(h_pad=0.09, hspace=0.04)
    figure.legend(
        [found[label] for label in labels], labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9, handlelength=2.4, columnspacing=1.3, borderpad=0.1
    )  # fmt: skip


def svg(figure: Any) -> str:
    """Returns a figure as SVG text on a transparent ground, so that a dark page shows through."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return stream.getvalue()
