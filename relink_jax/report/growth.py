"""The picture of `relink bench growth`: how time and memory grow with each thing varied, in the look of the page's figures."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from relink_jax.report import figures

_TIME, _MEMORY = figures.Style("#0b2f66", "o"), figures.Style("#d55e00", "s", (0, (4, 2)))
_ACROSS = 3


@dataclasses.dataclass(frozen=True)
class Panel:
    """One thing varied.

    Attributes:
        title: its name. base: its value in the base case, at which both lines are 1.
        times, memory: (value, multiple of the base case's); a value 0 is drawn at the left edge.
        inverse: whether time should fall in proportion, as with devices.
    """

    title: str
    base: int
    times: tuple[tuple[int, float], ...]
    memory: tuple[tuple[int, float], ...]
    inverse: bool = False


def png(panels: Sequence[Panel], title: str) -> bytes:
    """Returns a PNG of the panels, log axes, with the line of proportional growth (or fall) through the base case dashed."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(figures.LOOK | {"text.parse_math": True}):
        down = -(-len(panels) // _ACROSS)
        figure = Figure(figsize=(3.6 * _ACROSS, 2.9 * down + 0.8), layout="constrained")
        axes = figure.subplots(down, _ACROSS, squeeze=False, sharey=True).ravel()
        drawn = [multiple for panel in panels for points in (panel.times, panel.memory) for _, multiple in points if multiple > 0]
        axes[0].set_ylim(min([*drawn, 0.5]) / 1.6, max([*drawn, 2]) * 1.6)
        for axis, panel in zip(axes, panels, strict=False):
            _draw(axis, panel)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), frameon=False)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
    return stream.getvalue()


def _draw(axis: Any, panel: Panel) -> None:
    values = sorted({value for value, _ in panel.times})
    least = min([value for value in values if value > 0], default=1)
    edge = least / 4  # where a value 0 is drawn
    for points, style, label in ((panel.times, _TIME, "time"), (panel.memory, _MEMORY, "memory of one device")):
        xs, ys = [max(value, edge) for value, _ in points], [multiple for _, multiple in points]
        axis.plot(xs, ys, color=style.color, marker=style.marker, markersize=4.5, linestyle=style.dash, linewidth=1.6, zorder=3, label=label)
    if panel.base > 0 and max(values) > 0:
        ends = [least, max(values)]
        axis.plot(
            ends,
            [panel.base / end if panel.inverse else end / panel.base for end in ends],
            color=figures.INK,
            linewidth=1.1,
            linestyle=(0, (5, 3)),
            zorder=2,
            label="proportional",
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    _ticks(axis, values, edge)
    figures.finish(axis, panel.title, "", "multiple of the base case")


def _ticks(axis: Any, values: Sequence[int], edge: float) -> None:
    """Puts a tick at every value that was measured, and plain multiples on the other axis."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axis.set_xticks([max(value, edge) for value in values], [_short(value) for value in values])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _short(value: int) -> str:
    """Returns a tick's number. Example: >>> _short(43793)  ->  '44k'"""
    return f"{value / 1000:.0f}k" if value >= 10_000 else f"{value / 1000:.1f}k" if value > 2000 else str(value)
