"""Every kind of figure is drawn: self-contained SVG, equal for equal data, on a transparent ground, no text as text."""

import re

import pytest

from relink_jax.report import figures, figures_bars, figures_scatter, plots

BLUE, ORANGE = figures.Style("#0b2f66", "o"), figures.Style("#d55e00", "s")
LINE = figures.Series("a", BLUE, ((10, 0.5, 0.4, 0.6), (100, 0.2, 0.1, 0.3)), True)
DRAWN = {
    "lines": lambda phone: figures.lines([figures.Panel("t", (LINE,), ((10, 0.1), (100, 0.01)))], figures.Frame("N", "y", True, True, True), phone),
    "pairs": lambda phone: figures.lines(
        [figures.Panel("t", (figures.Series("a", BLUE, ((0, 0.1, None, None), (100, 0.2, None, None))),), ((0, 0.01), (100, 0.01)))],
        figures.Frame("m", "y", True, True, True),
        phone,
    ),
    "shaded": lambda phone: figures.lines(
        [figures.Panel("t", (figures.Series("a", ORANGE, ((0.01, 0.1, None, None), (1, 0.2, None, None))),), shade=0.02)], figures.Frame("x", "y", x_log=True, y_log=True), phone
    ),
    "matched": lambda phone: figures_bars.matched_bars([("t", [figures_bars.Pair("a", (0.5, 0.4, 0.6), (0.2, None, None), 0.01)])], phone),
    "stacked": lambda phone: figures_bars.stacked([("t", [figures_bars.Parts("a", (0.5, 0.1, 0.4))])], phone),
    "slopes": lambda phone: figures_bars.slopes([("t", [figures_bars.Slope("a", BLUE, (0.5, 0.4, 0.6), (0.0, 0.0, 0.1))], 0.01)], phone),
    "trade": lambda phone: figures_scatter.trade_off([figures_scatter.Trade("t", "x", (figures_scatter.Point("a", BLUE, (0.7, 0.6, 0.8), (3, None, 4)),), 0.8)], phone),
}  # fmt: skip


@pytest.mark.parametrize("kind", DRAWN)
def test_each_kind_is_drawn_as_paths(kind):
    svg = DRAWN[kind](True)
    assert svg.lstrip().startswith("<?xml")
    assert "<text" not in svg
    assert "<dc:date>" not in svg
    assert not re.search(r'id="patch_1">\s*<path[^>]*style="fill: #ffffff"', svg)  # nothing behind the figure
    assert float(re.search(r'<svg[^>]* width="([\d.]+)pt"', svg).group(1)) == pytest.approx(270)


def test_equal_data_give_equal_bytes():
    assert DRAWN["slopes"](True) == DRAWN["slopes"](True)


def test_points_become_csv_with_all_digits():
    plot = plots.line_plot("x", "t", ["c"], "alt", [figures.Panel("p, q", (LINE,), ((10, 1 / 3),))], figures.Frame("N", "share"))
    text = plots.table_of_points(plot.header, plot.points)
    assert text.splitlines() == ["panel,series,N,share,low,high", '"p, q",a,10,0.5,0.4,0.6', '"p, q",a,100,0.2,0.1,0.3', f'"p, q",chance,10,{1 / 3!r},,']


def test_a_chart_without_points_is_left_out():
    assert plots.line_plot("x", "t", ["c"], "alt", [figures.Panel("p", ())], figures.Frame("N", "share")) is None


def test_unnamed_arms_keep_their_colour():
    assert figures.arm_style("rotation") == figures.arm_style("rotation")
    assert figures.arm_style("dp") != figures.arm_style("rotation")
