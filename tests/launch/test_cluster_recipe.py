"""The figures and commands that BUILD.md gives for clusters: worked out again, and known to the command line."""

import re

import pytest
from fakes import ROOT

from relink_jax.retrieval import layout
from relink_jax.stages import catalogue

SECTION = (ROOT / "BUILD.md").read_text().split("## On clusters\n")[1].split("\n## ")[0]
PAIRS, DIM, PASSES, EMBEDDING = 406_241, 512, 68, 32.9e15
PEAKS = {"H100": 67e12, "v5e": 197e12 / 6}  # FLOP/s in float32


def cells():
    """Returns the numbers of the recipe's rows by device count; times in seconds."""
    found = {}
    for line in SECTION.split("### What ends")[0].splitlines():
        words = [cell.strip() for cell in line.strip("|").split("|")]
        if words[0].isdecimal():
            scale = {"GiB": 1, "s": 1, "min": 60}
            found[int(words[0])] = [[float(n) * scale[unit] for n, unit in re.findall(r"([\d.]+) (GiB|s|min)", cell)] for cell in words[1:]]
    return found


def test_memory_and_floors_follow_from_their_formulas():
    assert set(cells()) == {1, 4, 8, 16, 32}
    for devices, (memory, *times) in cells().items():
        size = layout.Size(PAIRS, 4 * DIM, codes=9, blocks=32, devices=devices, platform="gpu")
        assert memory == [round(layout.taken(size, layout.Layout(split)).total / 2**30, 1) for split in (layout.IMAGES, layout.STUDIES)]
        work = 2 * PAIRS**2 * DIM
        for found, flop in zip(times, (work, PASSES * work, EMBEDDING), strict=True):
            assert found == pytest.approx([flop / devices / peak for peak in PEAKS.values()], rel=0.2)  # minutes are rounded


def test_commands_are_stages_and_scripts_exist():
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", SECTION, re.DOTALL))
    stages = set(re.findall(r"^(?:relink|RUN) (\w+)", blocks, re.MULTILINE))
    assert {"cohort", "convert", "embed", "heads", "audit", "probe", "report", "plan", "cluster", "sweep"} == stages
    assert stages <= set(catalogue.STAGES)
    for name in re.findall(r"launch/cluster/([\w.]+)|`(\w+\.(?:yaml|sh))`", SECTION):
        assert (ROOT / "launch" / "cluster" / (name[0] or name[1])).exists(), name


def test_every_exit_code_has_a_row():
    rows = re.findall(r"^\| ([\d, ]+?)(?:, others)? \|", SECTION.split("| exit code |")[1], re.MULTILINE)
    assert {int(code) for row in rows for code in row.split(",")} == {0, 2, 65, 70, 74, 75, 134, 137}
