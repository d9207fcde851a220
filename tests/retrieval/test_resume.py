"""A count that is stopped, damaged, given other data on the way, or gone on with on other devices."""

import dataclasses

import numpy as np
import pytest
from test_counts import flat, records

from relink_jax import errors
from relink_jax.retrieval import counts, engine, loop, resume
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import stopping
from relink_jax.store import files

DATA = records(860, 300, 4, seed=3, blocks=3, codes=1)
FLOATS = records(860, 300, 24, seed=5, grid=False, codes=0)


@pytest.fixture
def pieces(monkeypatch):
    """Returns (count into a directory, how many images each step so far had); on two devices 7 batches in parts of two."""
    monkeypatch.setattr(resume, "PARTS", 4)
    monkeypatch.setattr(loop, "LONG", 1)
    taken, honest = [], engine.Engine.batch
    monkeypatch.setattr(engine.Engine, "batch", lambda self, number, *given: (taken.append(int((number >= 0).sum())), honest(self, number, *given))[1])

    def count(directory, data=DATA, split="images", devices=2, query_block=64, k=4, **options):
        layout = Layout(split, query_block, 128, **options)
        return flat(counts.count(data, mesh=meshes.make_mesh(devices), top_k=k, layout=layout, lists=("i2r",), directory=directory))

    return count, taken


@pytest.fixture(scope="module")
def whole():
    """The integers of an uninterrupted count, which for small whole numbers are those of any mesh and layout."""
    return flat(counts.count(DATA, mesh=meshes.make_mesh(2), top_k=4, layout=Layout("images", 64, 128), lists=("i2r",)))


def equal(found, wanted):
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def stopped(count, directory, after):
    """Counts into `directory` until the durable write number `after` fails."""
    with files.fail_at(after), pytest.raises(errors.StoreError, match="injected"):
        count(directory)


def test_a_stopped_count_goes_on_and_ends_with_the_same_integers(tmp_path, pieces, whole):
    count, taken = pieces
    stopped(count, tmp_path / "a", 8)
    taken.clear()
    equal(count(tmp_path / "a"), whole)
    assert 0 < sum(taken) < 860 - 64
    taken.clear()
    equal(count(tmp_path / "a"), whole)
    assert not taken


@pytest.mark.parametrize("after", [1, 2, 5, 6, 17, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4, *range(7, 17)))])
def test_any_failed_write_leaves_a_count_that_can_go_on(tmp_path, pieces, whole, after):
    count, taken = pieces
    stopped(count, tmp_path / "a", after)
    taken.clear()
    equal(count(tmp_path / "a"), whole)
    parts = max(0, (after - 2) // 4)  # a part is written in four, after what it depends on
    assert 860 - 256 * parts <= sum(taken) <= 860 - 248 * parts


@pytest.mark.parametrize(
    ("split", "then"),
    [
        ("images", 1),
        ("images", 3),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("images", 2), ("studies", 1), ("studies", 3), ("ring", 2), ("ring", 3))),
    ],
)
def test_parts_of_eight_devices_are_gone_on_with_on_fewer(quick, tmp_path, pieces, whole, split, then):
    count, taken = pieces
    stopped(lambda directory: count(directory, split=split, devices=8), tmp_path / "a", 8)
    taken.clear()
    equal(count(tmp_path / "a", split=split, devices=then, query_block=640), whole)
    assert 0 < sum(taken) < 860 - 64


@pytest.mark.parametrize(
    ("split", "then"), [("images", 3), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("images", 1), ("studies", 3), ("ring", 2)))]
)
def test_scores_have_the_same_bits_on_other_devices(tmp_path, pieces, split, then):
    count, taken = pieces
    expected = count(None, FLOATS, split, devices=8, k=0)
    stopped(lambda directory: count(directory, FLOATS, split, devices=8, k=0), tmp_path / "a", 8)
    taken.clear()
    equal(count(tmp_path / "a", FLOATS, split, devices=then, query_block=640, k=0), expected)
    assert 0 < sum(taken) < 860 - 64


def test_parts_of_one_device_are_gone_on_with_on_more(tmp_path, pieces, whole, capsys):
    count, taken = pieces
    stopped(lambda directory: count(directory, devices=1), tmp_path / "a", 8)
    stopped(lambda directory: count(directory, devices=2), tmp_path / "a", 5)
    taken.clear()
    equal(count(tmp_path / "a", devices=1), whole)
    assert 0 < sum(taken) < 860 - 256 - 128
    assert "begins again" not in capsys.readouterr().err


def test_a_pass_stopped_at_ninety_percent_repeats_nothing_and_a_killed_one_a_part(monkeypatch, tmp_path, pieces, whole):
    count, taken = pieces
    monkeypatch.setattr(resume, "PARTS", 40)
    written, honest = [], resume.Parts.write

    def asking(self, index, *given):
        if len(written) == 12:  # of 14 batches
            stopping.ask()
        written.append(index)
        honest(self, index, *given)

    monkeypatch.setattr(resume.Parts, "write", asking)
    with pytest.raises(errors.StoppedError, match="count links stopped as asked"):
        count(tmp_path / "a", devices=1)
    stopping.forget()
    assert 800 < sum(taken) < 860
    equal(count(tmp_path / "a", devices=1), whole)
    assert sum(taken) == 860
    taken.clear()
    stopped(lambda directory: count(directory, devices=1), tmp_path / "b", 4 * 13)
    equal(count(tmp_path / "b", devices=1), whole)
    assert 860 < sum(taken) <= 860 + 64


@pytest.mark.parametrize(("name", "value", "why"), [("device_kind", "abacus", "with device kind abacus, which here is cpu"), ("jax", "0.0", "with jax 0.0")])
def test_parts_of_other_devices_begin_again_and_that_is_said(tmp_path, pieces, whole, capsys, name, value, why):
    count, taken = pieces
    count(tmp_path / "a")
    for path in (tmp_path / "a").glob("*/panel-000/started.json"):
        started = files.read_json(path)
        files.write_json(path, {**started, "made": {**started["made"], name: value}})
    taken.clear()
    equal(count(tmp_path / "a"), whole)
    assert sum(taken) == 860
    assert f"count links: its finished parts were made {why}" in capsys.readouterr().err


def test_parts_that_do_not_fit_begin_again_and_so_do_those_between_other_scores(tmp_path, pieces, whole, capsys):
    count, taken = pieces
    count(tmp_path / "a", devices=1)
    taken.clear()
    equal(count(tmp_path / "a", devices=1, memory=490_000), whole)
    assert sum(taken) == 3 * 860  # three panels
    assert "a shape that does not fit the memory of these devices" in capsys.readouterr().err
    for path in (tmp_path / "a").glob("links/*/started.json"):
        files.write_json(path, {**files.read_json(path), "scores": "of other bits"})
    equal(count(tmp_path / "a", devices=1, memory=490_000), whole)
    assert "between scores of the true pairs that have other bits here" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["sums", "part"])
def test_damaged_parts_are_counted_again(tmp_path, pieces, whole, what):
    count, taken = pieces
    count(tmp_path / "a")
    path = max((tmp_path / "a" / "links" / "panel-000").glob(f"{what}-*.safetensors"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    taken.clear()
    equal(count(tmp_path / "a"), whole)
    assert sum(taken) == (860 if what == "sums" else 102)


def test_parts_left_behind_a_damaged_one_are_not_taken_for_those_of_another_number_of_devices(quick, tmp_path, pieces, whole):
    count, taken = pieces
    count(tmp_path / "a")
    (tmp_path / "a" / "links" / "panel-000" / "part-00000.ok").write_text("damaged")
    stopped(lambda directory: count(directory, devices=3), tmp_path / "a", 5)  # after one part, which ends inside the old second
    taken.clear()
    equal(count(tmp_path / "a", devices=3), whole)
    assert 0 < sum(taken) < 860 - 192


def test_parts_of_other_data_are_refused(tmp_path, pieces):
    count, _ = pieces
    count(tmp_path / "a")
    changed = dataclasses.replace(DATA, exclusion=np.roll(DATA.exclusion, 1))
    with pytest.raises(errors.StoreError, match=r"inputs changed in parts 'panel-000'.*different .*records"):
        count(tmp_path / "a", changed)
