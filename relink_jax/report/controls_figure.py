"""The controls in one figure: utility lost against linkage removed, for both attackers and both prices.

Each family has its own marker and colour, so that the figure reads without colour; the published heads stand at the origin, the doses of DP and
of noise only are joined by lines in the order of epsilon, and what noise alone does is drawn largest.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from relink_jax.report import figures
from relink_jax.report.controls_table import ATTACKERS

PRICES = {"zero_shot": "zero-shot macro AUROC lost", "probe": "linear-probe macro AUROC lost"}
STYLES = {
    "baseline": ("as published", figures.Style("#1b1f24", "o")),
    "no_noise": ("trained without noise", figures.Style("#009e73", "P")),
    "noise_only": ("noise only, reads no data", figures.Style("#8a5aa8", "*", (0, (4, 2)))),
    "broken": ("rotated or random heads", figures.Style("#6e7781", "X")),
    "shuffled": ("shuffled pairs", figures.Style("#56b4e9", ">")),
    "label_matched": ("label-matched partner", figures.Style("#b08900", "p")),
    "output_noise": ("noise on embeddings", figures.Style("#cc79a7", "v", (0, (1, 1.5)))),
    "reduction": ("fewer dimensions or bits", figures.Style("#2f6cab", "d")),
    "unlinking": ("unlinking loss", figures.Style("#00635a", "h")),
    "dp": ("DP, sound objective", figures.Style("#d55e00", "s")),
    "unsound": ("same noise, unsound (epsilon infinite)", figures.Style("#d55e00", "1", (0, (2, 2)))),
}
_JOINED = ("noise_only", "dp", "output_noise", "unsound")
_SIZES = {"noise_only": 13.0, "unsound": 10.0}
_LABELLED = {"noise_only": (7, 6), "dp": (6, -11)}


@dataclasses.dataclass(frozen=True)
class _Panel:
    title: str
    attacker: str
    price: str


def panels(document: dict[str, Any]) -> list[str]:
    """Returns the titles of the panels, in rows."""
    return [one.title for one in _panels(document)]


def png(document: dict[str, Any]) -> bytes:
    """Returns the figure as a PNG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(figures.LOOK):
        wanted = _panels(document)
        down = len(wanted) // len(ATTACKERS)
        figure: Any = Figure(figsize=(11.5, 3.9 * down + 1.4), layout="constrained")
        axes = figure.subplots(down, len(ATTACKERS), sharey="col", squeeze=False).ravel()
        for axis, panel in zip(axes, wanted, strict=True):
            _draw(axis, panel, document)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.get_layout_engine().set(h_pad=0.09, hspace=0.04)
        figure.legend(handles, labels, loc="outside lower left", ncols=4, frameon=False, fontsize=9, handlelength=2.4)
        mark = " (synthetic data)" if document["synthetic"] else ""
        draws = f"means and standard deviations of {document['seeds']} draws"
        figure.suptitle(f"Controls of {document['model']} on {document['set']}{mark}: {draws}, N = {document['pool']:,}", fontsize=11, x=0.01, ha="left")
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()


def _panels(document: dict[str, Any]) -> list[_Panel]:
    """Returns a panel for each attacker and each price that was measured, zero-shot if none was."""
    known = [price for price in PRICES if any(entry[f"{price}_lost"]["mean"] is not None for entry in document["conditions"])] or ["zero_shot"]
    return [
        _Panel(f"{name[0].upper()}{name[1:]}, price in {PRICES[price].removesuffix(' lost')}", attacker, price)
        for price in known
        for attacker, name in ATTACKERS.items()
    ]


def _draw(axis: Any, panel: _Panel, document: dict[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter

    whole = document["conditions"][0][panel.attacker]["mean"]
    for family in STYLES:
        entries = [entry for entry in document["conditions"] if entry["family"] == family]
        _family(axis, family, [entry for entry in entries if entry[f"{panel.price}_lost"]["mean"] is not None], panel, whole)
    axis.axhline(whole - document["chance"], color=figures.INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1, label="linkage at chance")
    axis.axhline(0, color="#57606a", linewidth=0.7, zorder=1)
    axis.axvline(0, color="#57606a", linewidth=0.7, zorder=1)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
    axis.margins(x=0.1, y=0.08)
    figures.finish(axis, panel.title, PRICES[panel.price], "")
    axis.set_ylabel("Recall@1 removed, percentage points")


def _family(axis: Any, family: str, entries: Sequence[dict[str, Any]], panel: _Panel, whole: float) -> None:
    """Draws the conditions of one family; those near the origin, where `whole` is all linkage there is to remove, go without their epsilon."""
    name, style = STYLES[family]
    points = [(entry, entry[f"{panel.price}_lost"], entry[f"{panel.attacker}_lost"]) for entry in entries]
    if family in _JOINED:
        line = [(x["mean"], y["mean"]) for entry, x, y in points if not entry["unit"]]
        axis.plot(*zip(*line, strict=True) if line else ((), ()), color=style.color, linewidth=1.2, linestyle=style.dash, alpha=0.7, zorder=2)
    for number, (entry, x, y) in enumerate(points):
        axis.errorbar(
            x["mean"],
            y["mean"],
            xerr=x["sd"],
            yerr=y["sd"],
            fmt=style.marker,
            color=style.color,
            markersize=_SIZES.get(family, 8.0),
            markeredgecolor=style.color if style.marker in "1234" else "black",
            markeredgewidth=2.0 if style.marker in "1234" else 0.6,
            markerfacecolor="white" if entry["unit"] else style.color,
            elinewidth=0.9,
            zorder=6 if family == "noise_only" else 4,
            label=name if number == 0 else None,
        )
        if family in _LABELLED and not entry["unit"] and y["mean"] > 0.06 * whole:
            axis.annotate(
                f"{entry['target_epsilon']:g}",
                (x["mean"], y["mean"]),
                xytext=_LABELLED[family],
                textcoords="offset points",
                fontsize=7.5,
                color=style.color,
                zorder=7,
            )
