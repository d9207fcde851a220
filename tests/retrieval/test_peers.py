"""What the counting pass is timed against gives the same answer, and the benchmark's table says what it measured."""

import dataclasses
import json

import numpy as np
import pytest

from relink_jax import cli
from relink_jax.retrieval import counts, peers
from relink_jax.retrieval.counted import LABEL_MATCHED, OTHER_PATIENT, Records
from relink_jax.runtime import mesh as meshes
from relink_jax.stages import bench, catalogue


@pytest.fixture(scope="module")
def task():
    draw = np.random.default_rng(0)
    candidates = draw.integers(-3, 4, (700, 5)).astype(np.float32)
    own = draw.permutation(700)[:600].astype(np.int32)
    number = np.arange(700, dtype=np.int32)
    queries = candidates[own] + draw.integers(-1, 2, (600, 5)).astype(np.float32)
    return peers.Task(queries, candidates, own, number // 2, draw.integers(0, 4, 700).astype(np.int32), 6)


@pytest.fixture(scope="module")
def ours(task):
    number = np.arange(700, dtype=np.int32)
    data = Records(task.queries, task.own, task.candidates, number, task.key, {LABEL_MATCHED: task.code})
    return counts.count(data, mesh=meshes.make_mesh(2), top_k=6, directions=("i2r",))["i2r"]


@pytest.mark.parametrize("name", ["numpy_counts", "torch_counts"])
def test_the_same_answer(task, ours, name):
    if name == "torch_counts":
        pytest.importorskip("torch")
    found = [np.asarray(part) for part in getattr(peers, name)(task)()]
    whole = [np.concatenate(found[place::5]) for place in range(5)]
    wanted = [getattr(ours.strata[stratum], field) for stratum in (OTHER_PATIENT, LABEL_MATCHED) for field in "gt"]
    for got, expected in zip(whole, wanted, strict=False):
        np.testing.assert_array_equal(got, expected)
    scores = task.queries @ task.candidates.T
    np.testing.assert_array_equal(np.take_along_axis(scores, whole[4], axis=1), ours.top_score)


@pytest.mark.parametrize("name", ["numpy_counts", "torch_counts"])
def test_the_same_answer_in_blocks_of_any_height(task, name, monkeypatch):
    """Blocks as low as a large database makes them give what high ones give, and a list may be as long as the database."""
    if name == "torch_counts":
        pytest.importorskip("torch")
    long = dataclasses.replace(task, k=len(task.candidates))
    high = [np.concatenate([np.asarray(part) for part in getattr(peers, name)(long)()[place::5]]) for place in range(4)]
    monkeypatch.setattr(peers, "_SCORES", 100 * len(task.candidates))
    parts = [np.asarray(part) for part in getattr(peers, name)(long)()]
    assert {len(part) for part in parts[:-5]} == {64}
    for place in range(4):
        np.testing.assert_array_equal(np.concatenate(parts[place::5]), high[place])
    assert sorted(parts[4][0].tolist()) == list(range(len(task.candidates)))


def test_peers_on_a_gpu_say_so():
    assert peers.Peer("FAISS", peers.faiss_lists, lambda: True).name == "FAISS (GPU)"
    assert [peer.name for peer in peers.PEERS.values()] == [
        peer.told + (" (GPU)" if on_gpu else "")
        for peer, on_gpu in zip(peers.PEERS.values(), (False, peers.faiss_on_gpu(), False, peers.torch_on_gpu(), False), strict=True)
    ]


def test_ranks_by_sorting_lie_between_the_ties(task):
    rank = np.concatenate(peers.numpy_argsort(task)())
    scores = (task.queries @ task.candidates.T).astype(np.float64)
    truth = scores[np.arange(600), task.own][:, None]
    assert ((scores > truth).sum(axis=1) <= rank).all()
    assert (rank < (scores >= truth).sum(axis=1)).all()


def test_the_products_blocks_cover_every_score(task):
    wide = peers.Task(task.queries, np.repeat(task.candidates, 30, 0), task.own, task.key, task.code, 6)
    first = [wide.queries[rows] @ wide.candidates[::8832].T for rows in (0, 512)]
    assert peers.openblas_product(wide)() == pytest.approx(float(sum(part.sum() for part in first)))


def test_lists_of_faiss_hold_the_same_scores(task, ours):
    pytest.importorskip("faiss")
    np.testing.assert_array_equal(peers.faiss_lists(task)()[0], ours.top_score)


def test_the_command_prints_and_writes_what_it_measured(tmp_path, capsys):
    path = tmp_path / "bench.json"
    assert cli.main(["bench", "retrieval", "--candidates=300", "--dim=16", "--k=5", "--queries=64", "--rounds=1", f"--json={path}"]) == 0
    told = capsys.readouterr().out
    cases = json.loads(path.read_text())["cases"]
    assert [case["candidates"] for case in cases] == [300]
    for case in cases:
        assert {"everything", "OpenBLAS product", "NumPy, same answer", "argsort ranks"} <= set(case["ratios"])
        assert case["share"] > 0
        assert f"{case['candidates']} " in told
    if cases[0]["skipped"]:
        assert f"not installed, skipped: {', '.join(sorted(cases[0]['skipped']))}" in told


@pytest.mark.parametrize(("words", "told"), [(["retrival"], "did you mean 'retrieval'"), ([], "embed or retrieval"), (["retrieval", "--k=0"], "flag --k")])
def test_what_cannot_be_measured_is_one_sentence(capsys, words, told):
    assert cli.main(["bench", *words]) == 2
    assert told in capsys.readouterr().err


def test_subjects_are_those_of_the_help():
    assert tuple(bench.SUBJECTS) == tuple(catalogue.STAGES["bench"].positional.split(" | "))
