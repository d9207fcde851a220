"""`relink bench retrieval` and `relink bench growth`: what is timed is checked first, and figures and picture hold what was measured."""

import dataclasses
import json

import numpy as np
import pytest

from relink_jax import cli, errors
from relink_jax.report import growth
from relink_jax.retrieval import loop, peers, probe, sides
from relink_jax.runtime import mesh as meshes
from relink_jax.stages import bench_check, bench_growth, bench_memory, bench_profile, bench_retrieval


def placed(precision="float32", blocks=False, studies=False, k=7):
    data, mesh = probe.records(500, 24, 96), meshes.make_mesh(2)
    if blocks:
        data = dataclasses.replace(data, block=(data.exclusion % 5).astype(np.int32))
    wanted = sides.Wanted(codes=1, near=False, studies=studies, k=k)
    return probe.placed(data, mesh, wanted, precision=precision, around=bench_check.around(data, precision))


@pytest.mark.parametrize("precision", ["float32", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bf16x3", "tf32", "bf16"))])
def test_an_honest_pass_is_found_right(precision):
    assert bench_check.check(placed(precision), 9) == 9


def test_blocks_and_studies_are_counted_again_too():
    assert bench_check.check(placed(blocks=True, studies=True), 9) == 18
    assert bench_check.check(placed("bf16", blocks=True, studies=True), 9) == 18


@pytest.mark.parametrize(
    ("field", "index", "told"),
    [
        ("per_image", (0, 0, 95), "bench check of images, other_patient"),
        ("per_image", (0, 3, 0), "bench check of images, label_matched"),
        ("per_study", (4, 1, slice(None)), "bench check of studies, other_patient"),
        ("top_id", (0, 3), "top list differs"),
        ("top_score", (95, 0), "top list differs"),
    ],
)
def test_a_wrong_integer_or_list_is_refused(monkeypatch, field, index, told):
    honest = loop.run

    def wrong(*given, **named):
        found = honest(*given, **named)
        parts = {name: np.array(getattr(found, name)) for name in ("per_image", "per_study", "top_id", "top_score")}
        parts[field][index] += 1
        return loop.Found(**parts)

    one = placed(blocks=True, studies=True)
    bench_check.check(one, 9)
    monkeypatch.setattr(loop, "run", wrong)
    with pytest.raises(errors.UnsoundError, match=told):
        bench_check.check(one, 9)


def test_counts_moved_between_blocks_are_refused(monkeypatch):
    honest = loop.run

    def moved(*given, **named):
        found = honest(*given, **named)
        return loop.Found(np.roll(found.per_image, 1, axis=0), found.per_study, found.top_id, found.top_score)

    monkeypatch.setattr(loop, "run", moved)
    with pytest.raises(errors.UnsoundError, match="in every jackknife block"):
        bench_check.check(placed(blocks=True, studies=True), 9)


def test_integers_of_a_faster_precision_are_compared(monkeypatch):
    data, mesh = probe.records(700, 24, 96), meshes.make_mesh(2)
    found = bench_check.settled(data, mesh, "bf16", 7, 9)
    assert (found.equal, found.queries) == (96, 96)
    assert found.settling["queries_inside"] > 0
    honest = bench_check.faster.Pass.links

    def wrong(self, *given):
        linked = honest(self, *given)
        linked.per_image[0, 1, 95] += 1
        return linked

    monkeypatch.setattr(bench_check.faster.Pass, "links", wrong)
    with pytest.raises(errors.UnsoundError, match="counts differ from float64"):
        bench_check.settled(data, mesh, "bf16", 7, 9)


@pytest.mark.slow
def test_the_command_refuses_to_time_a_wrong_pass(monkeypatch, capsys):
    monkeypatch.setattr(loop, "run", lambda *given: loop.Found(np.ones((1, 5, 64), int), np.zeros((1, 5, 0), int), np.zeros((64, 5), int), np.zeros((64, 5))))
    assert cli.main(["bench", "retrieval", "--candidates=300", "--dim=16", "--k=5", "--queries=64", "--rounds=1", "--peers=none"]) == 70
    assert "counts differ from float64 in bench check of images" in capsys.readouterr().err


@pytest.mark.slow
def test_ratios_of_a_faster_precision(tmp_path, capsys):
    path = tmp_path / "bench.json"
    words = ["--candidates=300", "--dim=16", "--k=5", "--queries=64", "--rounds=2", "--precision=bf16", "--peers=openblas,numpy"]
    assert cli.main(["bench", "retrieval", *words, f"--json={path}"]) == 0
    told, (case,) = capsys.readouterr().out, json.loads(path.read_text())["cases"]
    assert case["precision"] == "bf16"
    ours = {"everything", "bank statistics", "impostors", "float32 pass", "exact count", "exact count, float32"}
    assert set(case["ratios"]) == {*ours, "OpenBLAS product", "NumPy, same answer"}
    assert all(ratio > 0 for ratio in (*case["ratios"].values(), case["share"], case["product_share"], case["seconds"], case["rate"]))
    assert case["checked"] == bench_check.SAMPLE
    assert case["beyond"] <= case["beyond_all"]
    assert case["settled"]["equal"] == case["queries"] == 64
    assert "checked 16 queries against float64" in told
    assert "integers equal to those of float32 for 64 of 64 queries" in told
    assert "no GPU here: on one this command measures float32, bf16x3, bf16" in told


def test_a_ratio_is_of_seconds(monkeypatch, tmp_path):
    """Nothing is divided out: with invented seconds the ratios are theirs."""
    seconds = {"plain": [2.0, 4.0, 1.0], "product": [1.0, 3.0, 0.9], "everything": [3.0, 5.0, 1.2], "bank statistics": [2.0, 2.0, 1.0]}
    seconds |= {"impostors": [4.0, 8.0, 2.0], "OpenBLAS product": [0.5, 3.0, 1.8]}
    monkeypatch.setattr(bench_retrieval.timing, "alternating", lambda calls, rounds: list(seconds.values())[: len(calls)])
    case = bench_retrieval.measure(bench_retrieval.Asked(300, 16, 5), 64, 3, ["openblas"])
    assert case.seconds == 2.0
    assert case.share == 0.75
    assert case.ratios == {"everything": 1.25, "bank statistics": 1.0, "impostors": 2.0, "OpenBLAS product": 0.75}
    assert case.product_share == 1.0
    assert case.whole is None
    assert case.settled is None


def test_seconds_are_extrapolated_on_a_gpu(monkeypatch):
    monkeypatch.setattr(bench_retrieval, "has_gpu", lambda: True)
    case = bench_retrieval.measure(bench_retrieval.Asked(300, 16, 5), 64, 1, [])
    assert case.whole == pytest.approx(case.seconds * 406_241**2 / (64 * 300))
    told = bench_retrieval.table([case], "here")
    assert "extrapolated to 406,241 x 406,241" in told
    assert "no GPU here" not in told


def test_peers_that_are_missing_are_named(monkeypatch):
    def missing(task):
        raise ImportError

    monkeypatch.setitem(peers.PEERS, "torch", peers.Peer("torch, same answer", missing))
    case = bench_retrieval.measure(bench_retrieval.Asked(300, 16, 5), 64, 1, ["torch"])
    assert case.skipped == ["torch, same answer"]
    assert "not installed, skipped: torch, same answer" in bench_retrieval.table([case], "here")


def test_memory_of_a_case_is_its_own():
    first = bench_memory.Memory()
    held = np.ones(20_000_000)
    assert first.beyond() >= held.nbytes * 0.95
    del held
    assert bench_memory.Memory().beyond() < 80_000_000


@pytest.mark.slow
def test_growth_measures_and_draws_each_thing_varied(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_growth, "_FACTORS", {"candidates": (1, 4), "queries": (1,), "dim": (1, 2)})
    monkeypatch.setattr(bench_growth, "_STRATA", (1,))
    monkeypatch.setattr(bench_growth, "_K", (0,))
    monkeypatch.setattr(bench_growth.jax, "device_count", lambda: 2)
    plot, path = tmp_path / "growth.png", tmp_path / "growth.json"
    words = ["--candidates=320", "--queries=64", "--dim=16", "--k=5", "--rounds=1", f"--plot={plot}", f"--json={path}"]
    assert cli.main(["bench", "growth", *words]) == 0
    told, values = capsys.readouterr().out, json.loads(path.read_text())
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert values["base"] == {"candidates": 320, "queries": 64, "dim": 16, "k": 5, "strata": 2, "devices": 2}
    varied = {}
    for point in values["points"]:
        varied.setdefault(point["varied"], []).append(point["value"])
        assert min(point["seconds"], point["times"], point["compiled"], point["planned"], point["memory"]) > 0
    assert varied == {"candidates": [320, 1280], "queries": [64], "dim": [16, 32], "strata": [1, 2], "k": [0, 5], "devices": [1, 2]}
    few, many = (point["compiled"] for point in values["points"] if point["varied"] == "candidates")
    assert many > few + 960 * 16 * 4
    assert "candidates^" in told
    assert "base case: 64 queries, 320 candidates, D = 16, 2 strata, top-5 lists, 2 devices" in told


def test_growth_varies_everything_from_small_to_large():
    varied = {}
    for name, value in bench_growth.cases(bench_growth.Pass(43793, 1024, 512, 10, 2, 3)):
        varied.setdefault(name, []).append(value)
    assert varied == {
        "candidates": [5474, 10948, 21896, 43793, 87586, 175172],
        "queries": [256, 512, 1024, 2048, 4096],
        "dim": [64, 128, 256, 512, 768, 1152],
        "strata": [1, 2, 3, 5, 9],
        "k": [0, 1, 10, 100, 1000],
        "devices": [1, 2, 3],
    }


def test_an_exponent_is_the_slope_of_the_logarithms():
    points = [bench_growth.Point("k", value, 1.0, float(max(value, 1)) ** 1.5, 1, 1, 2.0) for value in (0, 1, 10, 100)]
    assert bench_growth.exponent(points, "times") == pytest.approx(1.5)
    assert bench_growth.exponent(points, "memory") == pytest.approx(0.0, abs=1e-12)
    assert bench_growth.exponent(points[:2], "times") is None


def test_a_picture_has_a_panel_for_each_thing(tmp_path):
    panel = growth.Panel("candidates", 10, ((5, 0.5), (10, 1.0)), ((5, 0.6), (10, 1.0)))
    assert len(growth.png([panel] * 4, "base")) > len(growth.png([panel], "base")) > 1000


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["retrieval", "--precision=float32,bf61"],
            "flag --precision: expected of float32, bf16x3, tf32, bf16, commas between, found 'bf61'; did you mean 'bf16'?",
        ),
        (
            ["retrieval", "--peers=touch"],
            "flag --peers: expected of openblas, faiss, numpy, torch, argsort, commas between, or none, found 'touch'; did you mean",
        ),
        (["retrieval", "--candidates=50", "--k=51"], "flag --k: expected at most the candidates, 50, found 51"),
        (["retrieval", "--queries=5,6"], "flag --queries: expected one whole number of at least 1, found '5,6'"),
        (["retrieval", "--plot=x.png"], "flag of another benchmark in 'relink bench retrieval'"),
        (["growth", "--plot=x.pdf"], "flag --plot: expected a file name that ends in .png, found 'x.pdf'"),
        (["growth", "--peers=none"], "flag of another benchmark in 'relink bench growth': expected --candidates, --dim, --k, --queries, --plot"),
        (["growth", "--candidates=40", "--k=10"], "flag --k: expected at most 5"),
        (["growth", "--candidates=4,5"], "flag --candidates: expected one whole number"),
    ],
)
def test_wrong_flags_are_one_sentence(capsys, words, told):
    assert cli.main(["bench", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line


def test_the_help_teaches_every_flag(capsys):
    assert cli.main(["bench", "--help"]) == 0
    told = capsys.readouterr().out
    for flag in ("rounds", "model", "batch", "candidates", "dim", "k", "queries", "precision", "peers", "plot", "json"):
        assert f"--{flag}=VALUE" in told
    for subject in ("embed", "retrieval", "curve", "growth"):
        assert f"  relink bench {subject}" in told


def test_a_profile_names_the_operations_of_the_pass_and_of_the_product(tmp_path, capsys):
    path = tmp_path / "profile.json"
    assert cli.main(["bench", "profile", "--candidates=3000", "--dim=32", "--k=5", "--queries=64", f"--json={path}"]) == 0
    values = json.loads(path.read_text())
    assert len(values["whole"]) > len(values["product"]) >= 1
    assert list(values["whole"].values()) == sorted(values["whole"].values(), reverse=True)
    assert "the bare product" in capsys.readouterr().out


def test_what_only_waits_is_no_operation():
    names = ("ynn_fusion.2", "ynn_fusion.7", "while.3", "$probe.py:40 call", "ThunkExecutor::Execute (wait for completion)", "custom-call")
    spent = bench_profile._spent([{"ph": "X", "name": name, "dur": 1000} for name in names] + [{"ph": "M", "name": "thread_name"}])
    assert spent == {"ynn_fusion": 2.0, "custom-call": 1.0}
