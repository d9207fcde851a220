"""A figure of the page with everything that belongs to it: pictures for desk and phone, words for those who see none, and its points as CSV."""

import base64
import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from relink_jax.report import figures, tables, words
from relink_jax.report.evidence import Cell, Evidence
from relink_jax.report.words import Fragments
from relink_jax.store import tables as stored

Point = tuple[float, float, float | None, float | None]
Record = tuple[str | float | int | None, ...]


@dataclasses.dataclass(frozen=True)
class Plot:
    """One figure: how it is drawn (for a phone or not), its caption and alternative text, its points, and tables printed under it.

    `below` holds (summary of a fold, or None for a table in the open; table).
    """

    id: str
    title: str
    caption: Fragments
    alt: str
    draw: Callable[[bool], str]
    header: tuple[str, ...]
    points: tuple[Record, ...]
    below: tuple[tuple[str | None, tables.Table], ...] = ()


def embedded(plot: Plot) -> dict[str, Any]:
    """Returns what the template needs of a figure; images and points as data: addresses."""
    return {
        "id": plot.id,
        "title": plot.title,
        "caption": plot.caption,
        "alt": plot.alt,
        "desktop": _address("image/svg+xml", image(plot.draw, False)),
        "phone": _address("image/svg+xml", image(plot.draw, True)),
        "csv": _address("text/csv;charset=utf-8", table_of_points(plot.header, plot.points)),
        "file": f"{plot.id}.csv",
        "below": plot.below,
    }


def image(draw: Callable[[bool], str], phone: bool) -> str:
    """Returns one picture as SVG text."""
    return draw(phone)


def table_of_points(header: Sequence[str], points: Iterable[Record]) -> str:
    """Returns points as CSV with all digits; where there is no interval the ends are empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(
        [["" if value is None else stored.cell(value.replace("\n", ", ")) if isinstance(value, str) else value for value in point] for point in points]
    )
    return stream.getvalue()


def line_plot(id: str, title: str, caption: Fragments, alt: str, panels: Sequence[figures.Panel], frame: figures.Frame, **more: Any) -> Plot | None:
    """Returns the plot of a line chart; None without any point."""
    kept = [panel for panel in panels if any(series.points for series in panel.series)]
    records: list[Record] = []
    for panel in kept:
        records += [(panel.title, series.label, *point) for series in panel.series for point in series.points]
        records += [(panel.title, frame.chance, x, y, None, None) for x, y in panel.chance]
    header = ("panel", "series", frame.x_label, frame.y_label, "low", "high")
    return Plot(id, title, caption, alt, lambda phone: figures.lines(kept, frame, phone), header, tuple(records), **more) if kept else None


def triple(cell: Cell) -> tuple[float, float | None, float | None]:
    """Returns a cell's value with the ends of its interval.

    Raises: ValueError: a cell without a value.
    """
    if cell.value is None or cell.value.value is None:
        raise ValueError("a plotted cell needs a value")
    return cell.value.value, cell.low.value if cell.low else None, cell.high.value if cell.high else None


def known(*cells: Cell) -> bool:
    """Returns whether every cell has a value."""
    return all(cell.value is not None and cell.value.value is not None for cell in cells)


def plotted(evidence: Evidence, file: str, pointer: str, label: str) -> float | None:
    """Returns a number that is drawn but not printed; it is listed and checked like every other."""
    return evidence.book.number("plotted", label, (file, pointer)).value


def mark(evidence: Evidence) -> str:
    """Returns what the titles of panels end with."""
    return " (synthetic)" if any(result["data"]["synthetic"] for result in evidence.results) else ""


def level(evidence: Evidence) -> str:
    """Returns the confidence level of the run's intervals."""
    levels = {entry["ci"]["level"] for result in evidence.results for entry in result["metrics"] if entry["ci"]}
    return " and ".join(f"{100 * one:g}%" for one in sorted(levels)) or "n/a"


def size_text(pool: int | str | None) -> str:
    """Returns a pool size for a panel's title."""
    return f"N = {pool:,}" if isinstance(pool, int) else "all candidates"


def _address(kind: str, content: str) -> str:
    return f"data:{kind};base64," + base64.b64encode(content.encode()).decode()


def heads_label(head: str) -> str:
    """Returns the legend's name of a set of heads, without what follows a comma."""
    return words.head_name(head).partition(",")[0]
