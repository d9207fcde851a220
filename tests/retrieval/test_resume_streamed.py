"""Streamed passes that are stopped: statistics over a bank, impostor scores and tiers go on from their finished parts, on these devices or others."""

import functools

import numpy as np
import pytest
from test_counts import records

from relink_jax import errors
from relink_jax.retrieval import engine, impostors, loop, resume, statistics, tiers
from relink_jax.retrieval.kept import Item, Kept
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes
from relink_jax.store import files

pytestmark = pytest.mark.usefixtures("quick_module")  # scores are whole numbers

DATA = records(860, 300, 4, seed=3, codes=1)
CODE = DATA.codes["label_matched"] + 1
NEAR = np.array([[0, 1, 1, 2], [1, 0, 2, 1], [1, 2, 0, 1], [2, 1, 1, 0]], np.int8)
BLOCK = {"query_block": 64, "tile": 128}


def of_bank(place, devices):
    kept = None if place is None else Kept(place.directory, place.identity)
    found = statistics.over_bank(
        DATA.images, DATA.texts, meshes.make_mesh(devices), (1.0,), 3, offset=np.arange(len(DATA.texts)) / 16, layout=Layout(**BLOCK), kept=kept
    )
    return [found.top_id, found.top_score, found.logsumexp.round(4)]


def of_impostors(place, devices):
    found = impostors.count(DATA, meshes.make_mesh(devices), tail_share=0.01, bins=256, layout=Layout(**BLOCK), kept=place)
    return [found.histogram, found.score, found.image, found.study]


def of_tiers(place, devices):
    found = tiers.count(DATA, CODE, NEAR, 3, mesh=meshes.make_mesh(devices), layout=Layout(**BLOCK, panel=128), kept=place)
    return [array for one in found for array in (one.M, one.g, one.t)]


PASSES = {"statistics": of_bank, "impostors": of_impostors, "tiers": of_tiers}


@pytest.fixture
def taken(monkeypatch):
    """Returns how many images each step so far had; parts of a quarter."""
    monkeypatch.setattr(resume, "PARTS", 4)
    monkeypatch.setattr(loop, "LONG", 1)
    taken, honest = [], engine.Engine.batch
    monkeypatch.setattr(engine.Engine, "batch", lambda self, number, *given: (taken.append(int((number >= 0).sum())), honest(self, number, *given))[1])
    return taken


@functools.cache
def whole(kind):
    return PASSES[kind](None, 2)


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("then", [2, 1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_stopped_pass_goes_on_from_its_parts_on_other_devices_too(tmp_path, taken, kind, then):
    count, kept = PASSES[kind], resume.Place(tmp_path / "a", "these data")
    expected = whole(kind)
    taken.clear()
    count(resume.Place(tmp_path / "b", "these data"), 2)
    everything = sum(taken)
    with files.fail_at({"statistics": 7, "impostors": 13, "tiers": 15}[kind]), pytest.raises(errors.StoreError, match="injected"):
        count(kept, 2)
    taken.clear()
    for found, wanted in zip(count(kept, then), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    part = 860 / 4 + 64 * then
    assert 0 < sum(taken) <= everything / 2 + part
    taken.clear()
    count(kept, then)
    assert sum(taken) <= (64 * then if kind == "impostors" else 0)  # the sample that a floor is guessed from


@pytest.mark.parametrize("kind", ["statistics", "impostors", pytest.param("tiers", marks=pytest.mark.slow)])
def test_any_failed_write_of_a_pass_leaves_one_that_can_go_on(tmp_path, taken, kind):
    after = 0
    while True:
        after += 1
        kept = resume.Place(tmp_path / str(after), "these data")
        try:
            with files.fail_at(after):
                PASSES[kind](kept, 2)
            break
        except errors.StoreError:
            for found, wanted in zip(PASSES[kind](kept, 2), whole(kind), strict=True):
                np.testing.assert_array_equal(found, wanted)
    assert after > 8


def test_a_result_is_taken_where_it_depends_on_the_same_and_is_whole(tmp_path):
    made = []

    def once(identity="a", depends=1, value=3):
        found = Kept(tmp_path, identity).once("one", lambda: made.append(1) or Item({"x": np.arange(value)}, {"y": [0.1]}), depends)
        return found.arrays["x"].tolist(), found.told["y"]

    assert once() == once() == ([0, 1, 2], [0.1])
    assert len(made) == 1
    (tmp_path / "one.safetensors").write_bytes(b"?" + (tmp_path / "one.safetensors").read_bytes()[1:])
    once()
    files.write_json(tmp_path / "one.json", {**files.read_json(tmp_path / "one.json"), "told": {"y": [2.0]}})
    assert once() == ([0, 1, 2], [0.1])
    once(depends=2)
    once("b", 2, value=4)
    assert len(made) == 5
    assert once("b", 2) == ([0, 1, 2, 3], [0.1])
    with files.fail_at(2), pytest.raises(errors.StoreError):
        once("c")
    assert once("b", 2) == ([0, 1, 2], [0.1])  # its arrays were overwritten
    assert len(made) == 7
    memory = Kept()
    memory.keep("one", {"x": np.arange(2)}, depends=1)
    assert memory.take("one", 2) is None
    assert memory.take("one", 1) is not None
