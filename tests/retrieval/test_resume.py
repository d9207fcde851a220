"""A count that is stopped, damaged or given other data on the way."""

import dataclasses

import numpy as np
import pytest
from test_counts import flat, records

from relink_jax import errors
from relink_jax.retrieval import counts, engine, resume
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes
from relink_jax.store import files


@pytest.fixture
def pieces(monkeypatch):
    """Returns (records, count into a directory, the steps taken so far); 7 batches in parts of two."""
    monkeypatch.setattr(resume, "PARTS", 4)
    data, taken, honest = records(860, 300, 4, seed=3, blocks=3), [], engine.Engine.batch
    monkeypatch.setattr(engine.Engine, "batch", lambda *given: (taken.append(1), honest(*given))[1])

    def count(directory, data=data, split="images"):
        return flat(counts.count(data, mesh=meshes.make_mesh(2), top_k=4, layout=Layout(split, 64, 128), directory=directory))

    return data, count, taken


def stopped(monkeypatch, count, directory, after):
    """Counts into `directory` until the durable write number `after` fails."""
    with files.fail_at(after), pytest.raises(errors.StoreError, match="injected"):
        count(directory)


@pytest.mark.parametrize("split", ["images", "studies"])
def test_a_stopped_count_goes_on_and_ends_with_the_same_integers(monkeypatch, tmp_path, pieces, split):
    _, count, taken = pieces
    whole = count(None, split=split)
    everything = len(taken)
    stopped(monkeypatch, lambda directory: count(directory, split=split), tmp_path / "a", 8)
    taken.clear()
    found = count(tmp_path / "a", split=split)
    assert 0 < len(taken) < everything - 1
    for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    taken.clear()
    count(tmp_path / "a", split=split)
    assert not taken


@pytest.mark.parametrize("after", range(1, 12))
def test_any_failed_write_leaves_a_count_that_can_go_on(monkeypatch, tmp_path, pieces, after):
    _, count, _ = pieces
    stopped(monkeypatch, count, tmp_path / "a", after)
    found = count(tmp_path / "a")
    for name, array in count(None).items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("what", ["state", "shard"])
def test_damaged_parts_are_counted_again(tmp_path, pieces, what):
    _, count, taken = pieces
    whole = count(tmp_path / "a")
    everything = len(taken)
    for path in (tmp_path / "a" / "links" / "panel-000").glob(f"{what}-*.safetensors"):
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
    taken.clear()
    found = count(tmp_path / "a")
    assert 0 < len(taken) < everything
    for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_parts_of_other_data_are_refused(tmp_path, pieces):
    data, count, _ = pieces
    count(tmp_path / "a")
    changed = dataclasses.replace(data, exclusion=np.roll(data.exclusion, 1))
    with pytest.raises(errors.StoreError, match=r"inputs changed in shards 'panel-000'.*different .*records"):
        count(tmp_path / "a", changed)
