"""The trade-off of the page: what is left of linkage against what is left of use."""

import dataclasses
from collections.abc import Sequence

from relink_jax.report.figures import INK, MUTED, Style, canvas, finish, legend, styled, svg


@dataclasses.dataclass(frozen=True)
class Point:
    """One mark of the trade-off: x and y with their intervals (None where unknown)."""

    label: str
    style: Style
    x: tuple[float, float | None, float | None]
    y: tuple[float, float | None, float | None]


@dataclasses.dataclass(frozen=True)
class Trade:
    """One panel: `before` is the AUROC before the head, drawn as a line; `guess` that of guessing."""

    title: str
    x_label: str
    points: tuple[Point, ...]
    before: float | None = None


@styled
def trade_off(panels: Sequence[Trade], phone: bool) -> str:
    """Draws bits of linkage against macro AUROC with both intervals; the best corner is below on the right."""
    figure, axes = canvas(len(panels), phone, 3.4, 3.1)
    for axis, panel in zip(axes, panels, strict=True):
        for point in panel.points:
            (x, x_low, x_high), (y, y_low, y_high) = point.x, point.y
            whisker = {"color": point.style.color, "linewidth": 1.2, "alpha": 0.8, "zorder": 2}
            if x_low is not None and x_high is not None:
                axis.plot([x_low, x_high], [y, y], **whisker)
            if y_high is not None:
                axis.plot([x, x], [y_low if y_low is not None else 0, y_high], **whisker)
            axis.plot(
                x, y, marker=point.style.marker, markersize=8, color=point.style.color, linestyle="none", label=point.label, zorder=4, markeredgecolor="white"
            )
        if panel.before is not None:
            axis.axvline(panel.before, color=MUTED, linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=1, label="probe before the head")
        axis.axhline(0, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1, label="chance")
        axis.margins(x=0.12, y=0.1)
        axis.locator_params(axis="x", nbins=6)
        finish(axis, panel.title, panel.x_label, "linkage, bits over chance")
    legend(figure, axes)
    return svg(figure)
