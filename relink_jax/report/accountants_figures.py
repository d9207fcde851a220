"""The figures of the accountants page as self-contained SVG text, in the look of the audit's page; one panel per run.

Points are those of the comparison's document: lists that begin with x; an epsilon is a number, None, or a word where nothing is promised,
and only numbers are drawn.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relink_jax.report import figures, values

_RDP, _PLD = figures.Style("#0b2f66", "o"), figures.Style("#d55e00", "s", (0, (4, 2)))
_PLAIN, _ATTACK = figures.Style("#009e73", "", (0, (1, 1.5))), figures.Style("#d55e00", "X", "none")
_ACROSS = 3
_Draw = Callable[[Any, Mapping[str, Any]], None]
_Panel = tuple[str, Mapping[str, Any]]


def epsilon_of_delta(panels: Sequence[_Panel], phone: bool) -> str:
    """Draws epsilon against delta (log axis) by both accountants; each panel is (run's name, its curves)."""
    return _drawn(panels, phone, lambda axis, curves: _both(axis, curves["epsilon_of_delta"], "delta", "epsilon", log_x=True))


def over_steps(panels: Sequence[_Panel], phone: bool) -> str:
    """Draws epsilon against the number of noisy steps by both accountants."""
    return _drawn(panels, phone, lambda axis, curves: _both(axis, curves["over_steps"], "noisy steps", "epsilon"))


def noise_needed(panels: Sequence[_Panel], phone: bool) -> str:
    """Draws the noise multiplier that each accountant asks for against epsilon (log axes)."""

    def draw(axis: Any, curves: Mapping[str, Any]) -> None:
        points = [[[point[view], point[0]] for point in curves["over_noise"]] for view in (1, 2)]
        for pairs, style, label in zip(points, (_RDP, _PLD), ("RDP", "PLD"), strict=True):
            _line(axis, pairs, style, label)
        axis.set_xscale("log")
        axis.set_yscale("log")
        _plain_ticks(axis.xaxis)
        _plain_ticks(axis.yaxis)
        figures.finish(axis, "", "epsilon", "noise multiplier")

    return _drawn(panels, phone, draw)


def trade_off(panels: Sequence[_Panel], phone: bool) -> str:
    """Draws the least false negative rate of any membership test against its false positive rate, with guessing, the Gaussian
    approximation and measured attacks."""

    def draw(axis: Any, curves: Mapping[str, Any]) -> None:
        axis.plot([0, 1], [1, 0], color=figures.INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1, label="guessing")
        _line(axis, curves["trade_off"], figures.Style(_RDP.color, ""), "best test the promise allows")
        if curves["gaussian"] is not None:
            _line(axis, curves["gaussian"]["points"], _PLAIN, "Gaussian approximation, no bound")
        for index, attack in enumerate(curves["attacks"]):
            spot = [[attack["false_positive_rate"], attack["false_negative_rate"]]]
            _line(axis, spot, _ATTACK, "measured attack" if index == 0 else None)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.set_aspect("equal")
        figures.finish(axis, "", "false positive rate", "false negative rate")

    return _drawn(panels, phone, draw)


def _both(axis: Any, points: Sequence[Sequence[Any]], x_label: str, y_label: str, log_x: bool = False) -> None:
    for view, style, label in ((1, _RDP, "RDP"), (2, _PLD, "PLD")):
        _line(axis, [[point[0], point[view]] for point in points], style, label)
    if log_x:
        axis.set_xscale("log")
    else:
        axis.locator_params(axis="x", nbins=5, integer=True)
    axis.set_ylim(bottom=0)
    figures.finish(axis, "", x_label, y_label)


def _line(axis: Any, points: Sequence[Sequence[Any]], style: figures.Style, label: str | None) -> None:
    drawn = [point for point in points if all(isinstance(value, int | float) for value in point)]
    if drawn:
        xs, ys = zip(*drawn, strict=True)
        axis.plot(xs, ys, color=style.color, marker=style.marker or None, markersize=4.5, linestyle=style.dash, linewidth=1.6, zorder=3, label=label)


def _plain_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _drawn(panels: Sequence[_Panel], phone: bool, draw: _Draw) -> str:
    """Returns the panels as SVG: stacked (phone) or up to three side by side, one legend above."""
    import matplotlib
    from matplotlib.figure import Figure

    across = 1 if phone else min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    width = 3.75 if phone else max(3.6 * across, 5.4)
    with matplotlib.rc_context(figures.LOOK | {"text.parse_math": True}):  # ticks of log axes are formulas
        figure = Figure(figsize=(width, 3.1 * down + 1.0), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for axis, (name, curves) in zip(axes, panels, strict=False):
            draw(axis, curves)
            axis.set_title(values.seen(name), loc="left", fontweight="bold", pad=8, parse_math=False)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        labelled = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(labelled.values(), labelled.keys(), loc="outside upper left", ncols=1 if phone else 2, frameon=False, fontsize=9)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
