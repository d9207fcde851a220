"""RELIABILITY.md: every fault of the registry has its figure, every row of the matrix a fault or tests that exist; and the soak's own figures."""

import pathlib
import re

import pytest

from relink_jax import cli, errors
from relink_jax.stages import bench_faults, bench_soak, faults, faults_judge

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROWS = (
    *("kill -9 while a checkpoint is saved", "kill -9 while a shard is written", "disk full", "read-only", "SIGTERM", "peer killed", "peer stuck"),
    *("bit flip in a checkpoint", "bit flip in a shard", "truncated", "missing chunk", "two runs in one workdir", "other number of devices"),
    *("changed configuration or data", "NaN", "zero-norm", "not unit norm", "dimensions differ", "duplicate", "identical report texts", "all ties"),
    *("k > N", "patient in both splits", "truncated JPEG", "decompression bomb", "16-bit", "CMYK", "DICOM", "malformed CSV", "label table", "pickled"),
    *("Python file", "path traversal", "HTML", "patient data in logs", "small cells", "seed", "ledger edited", "ledger forked", "delta"),
)


@pytest.fixture(scope="module")
def text():
    return (ROOT / "RELIABILITY.md").read_text()


def tables(text):
    """Returns the cells of every row of every table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ") and "---" not in line]


def test_every_fault_has_its_figure_and_none_was_lost(text):
    found = {row[0].strip("`"): row for row in tables(text) if len(row) == 6 and row[0].startswith("`")}
    assert list(found) == list(faults.FAULTS)
    for name, fault in faults.FAULTS.items():
        _, injury, expected, tried, survived, lost = found[name]
        assert (injury, expected) == (fault.injury, fault.expected)
        assert int(tried) == int(survived) + int(lost)
        assert int(lost) == 0
        assert int(tried) > 0 or f"not tried, {name}: " in text


def test_every_row_of_the_matrix_has_a_fault_or_tests_that_exist(text):
    rows = [row for row in tables(text) if len(row) == 4 and row[0] != "fault or input"]
    for title in ROWS:
        assert any(title.lower() in row[0].lower() for row in rows), title
    for title, _, _, shown in rows:
        named = re.findall(r"`([^`]+)`", shown)
        assert named or shown.startswith("not ours"), title
        for name in named:
            path, _, test = name.partition("::")
            if path.endswith(".py"):
                assert (ROOT / path).exists(), name
                assert not test or f"def {test}(" in (ROOT / path).read_text(), name
            else:
                assert name in faults.FAULTS or name in faults.FAMILIES, name


def test_faults_are_chosen_by_name_or_family():
    assert [one.name for one in faults.chosen(["term-embed", "input"])] == ["term-embed", "input-vectors"]
    assert len(faults.chosen([])) == len(faults.FAULTS) == len({one.injury for one in faults.chosen([])})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["faults", "--only=kill-embd"], "did you mean 'kill-embed'?"),
        (["faults", "--tries=none"], "flag --tries: expected"),
        (["faults", "--minutes=3"], "flag of another benchmark in 'relink bench faults': expected --only, --tries, --seed"),
        (["soak", "--minutes=0"], "flag --minutes: expected"),
    ],
)
def test_wrong_flags_are_one_sentence(capsys, words, told):
    assert cli.main(["bench", *words]) == 2
    assert told in capsys.readouterr().err


def test_tallies_count_survivors_losses_and_skips(capsys):
    def some(scene, draw, tries):
        yield from ["", "gone"] * tries

    def none(scene, draw, tries):
        raise faults_judge.SkippedError("no such place")
        yield

    fault = faults_judge.Fault("a", "b", "c", some)
    tallies = [faults.tallied(fault, None, 1, 2), faults.tallied(faults_judge.Fault("d", "e", "f", none), None, 1, 2)]
    text = bench_faults.table(tallies, "here")
    assert "| `a` | b | c | 4 | 2 | 2 |" in text
    assert "4 tried, 2 lost; here" in text
    assert "not tried, d: no such place" in text
    assert text.count("lost, a: gone") == 2
    assert bench_faults.values(tallies, "here")["faults"][0]["lost"] == 2


def test_the_soaks_table_tells_growth():
    soak = bench_soak.Soak({"audit": 3}, {"SIGKILL": 2, "SIGTERM": 1}, ["audit: x"], 4, {"audit": [2**20, 2 * 2**20, 3 * 2**20]}, 90.0)
    assert bench_soak.slope(soak.peaks["audit"]) == pytest.approx(2**20)
    assert bench_soak.slope([5]) == 0
    text = bench_soak.table(soak, "here")
    assert "1.5 minutes: 3 runs, 3 faults (2 SIGKILL, 1 SIGTERM), 1 lost; here" in text
    assert "| audit | 3 | 1 | 3 | 3 | +1.00 |" in text
    assert text.endswith("lost, audit: x")


def test_an_unknown_fault_is_refused_before_anything_is_made():
    with pytest.raises(errors.UsageError, match="--only"):
        bench_faults.measure(["nothing"], 1, 1)
