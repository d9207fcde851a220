"""`relink bench curve`: its counts can be, its references are exact, and its table says what was measured."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest

from relink_jax import cli
from relink_jax.retrieval import expectation
from relink_jax.stages import bench_curve


def test_the_command_prints_and_writes_its_figures(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_curve, "_UNIVERSES", (2000,))
    path = tmp_path / "curve.json"
    assert cli.main(["bench", "curve", "--candidates=300", "--queries=200", "--rounds=1", f"--json={path}"]) == 0
    told, values = capsys.readouterr().out, json.loads(path.read_text())
    assert [row["stratum"] for row in values["curves"]] == ["other_patient", "label_matched"]
    assert [row["M"] for row in values["errors"]] == [299, 2000]
    for row in values["errors"]:
        assert row["largest"] < 1e-11
        assert f"largest error at M = {row['M']:,}: " in told
        assert f"of {row['values']:,} values" in told
    assert cli.main(["bench", "curve", "--candidates=1"]) == 2
    assert "flag --candidates: expected at least 2 for a curve, found 1" in capsys.readouterr().err


def test_the_error_is_of_what_is_compared(monkeypatch):
    """An offset of one metric is found, and without scipy its column is left out."""
    monkeypatch.setattr(bench_curve, "_UNIVERSES", ())
    honest = expectation.pool_metrics

    def off(*counts):
        found = honest(*counts)
        found["mrr"].expected[-2:] += 1e-3
        return found

    monkeypatch.setattr(expectation, "pool_metrics", off)
    (error,) = bench_curve.errors(50)
    assert error.largest == pytest.approx(1e-3, rel=1e-6)
    monkeypatch.setattr(bench_curve, "scipy_seconds", lambda *_: None)
    text = bench_curve.table(bench_curve.measure(50, 20, 1), [error], "here")
    assert "not installed, skipped: scipy" in text
    assert "1.0e-03" in text


def test_references_are_sums_over_ties():
    M, n = 12, 5

    def law(K, j):
        return Fraction(math.comb(K, j) * math.comb(M - K, n - j), math.comb(M, n))

    for g, t in ((0, 0), (3, 0), (2, 5), (0, 12), (11, 1)):
        wanted = [sum(law(K, j) for K in range(g, g + t + 1) for j in range(k)) / (t + 1) for k in (1, 2, 4)]
        assert bench_curve.exact_recalls(M, g, t, n, (1, 2, 4)) == [float(value) for value in wanted]
        reciprocal = sum(law(K, j) / (j + 1) for K in range(g, g + t + 1) for j in range(n + 1)) / (t + 1)
        assert bench_curve.exact_mrr(M, g, t, n) == pytest.approx(float(reciprocal), rel=1e-15)


def test_drawn_counts_can_be():
    for candidates in (2, 43793):
        for counted in bench_curve.draw(candidates, 1000).values():
            assert counted.M.min() >= 1
            assert counted.M.max() < candidates
            assert (counted.g + counted.t <= counted.M).all()
            assert min(counted.g.min(), counted.t.min()) >= 0
    other, matched = bench_curve.draw(43793, 5000).values()
    assert len(np.unique(other.M)) > 5
    assert len(np.unique(matched.M)) > 200
    assert other.t.max() > 1000
    assert bench_curve.pool_sizes(43792)[0::29] == [2, 43793]
