"""Whoever computes them, features are the same: processes that share the shards, runs that stop and go on under other devices."""

import math
import shutil

import numpy as np
import pytest
import test_embed_sharded as tiny
from test_embed_sharded import pictures  # noqa: F401

from relink_jax import errors
from relink_jax.encoders import embed, steps
from relink_jax.runtime import stopping
from relink_jax.store import shards

pytestmark = pytest.mark.usefixtures("quick_module")
SIDES = {"vectors": ("image", "vit"), "maps": ("image", "map"), "texts": ("text", "clip")}
SIZES = {"batch_size": 16, "shard_rows": 16}


@pytest.fixture(autouse=True)
def asked_for_nothing():
    yield
    stopping.forget()


@pytest.fixture
def features(tmp_path, request, monkeypatch):
    """Returns the features of one of `SIDES` in the directory of a name."""

    def made(what, name, devices, **changes):
        side, model = SIDES[what]
        if side == "text":
            return tiny.texts(tmp_path, monkeypatch, model, name, devices, **{**SIZES, **changes})
        return tiny.images(tmp_path, request.getfixturevalue("pictures"), model, name, devices, **{**SIZES, **changes})

    return made


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("what", SIDES)
def test_two_processes_of_four_devices_write_the_bytes_of_one_of_eight(tmp_path, features, what):
    alone = features(what, "alone", 8, shard_rows=6)
    waiting = embed.Crew(1, 2, 8, first=lambda work: None)
    with pytest.raises(errors.StoreError, match="unfinished shards"):  # process 0 has not been there
        features(what, "both", 4, shard_rows=6, crew=waiting)
    assert sorted(path.name for path in (tmp_path / "both").glob("*.ok")) == ["shard-00001.ok", "shard-00003.ok"]
    calls = []
    leading = embed.Crew(0, 2, 8, first=lambda work: (calls.append(1), work())[1])
    np.testing.assert_array_equal(features(what, "both", 4, shard_rows=6, crew=leading), alone)
    assert len(calls) == 2
    assert content(tmp_path / "both") == content(tmp_path / "alone")


@pytest.mark.parametrize("what", SIDES)
def test_an_unfinished_run_of_eight_devices_is_finished_by_others(tmp_path, features, what, monkeypatch):
    monkeypatch.setattr(embed, "SHARD_BYTES", 7 * 4 * math.prod(tiny.IMAGE["map"].features))  # seven maps, of which a batch of five fits once
    sizes = {"batch_size": 5, "shard_rows": 8}
    whole = features(what, "whole", 8, **sizes)
    stopping.ask()
    with pytest.raises(errors.StoppedError, match=r"embed \w+ stopped as asked"):
        features(what, "begun", 8, **sizes)
    stopping.forget()
    assert [path.name for path in (tmp_path / "begun").glob("*.safetensors")] == ["shard-00000.safetensors"]
    for devices in (2, 3, 8):
        shutil.copytree(tmp_path / "begun", tmp_path / str(devices))
        found = features(what, str(devices), devices, **sizes)
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())
        first = [(tmp_path / name / "shard-00000.safetensors").read_bytes() for name in (str(devices), "whole")]
        assert first[0] == first[1]
        np.testing.assert_array_equal(*(shards.read(tmp_path / name)["index"] for name in (str(devices), "whole")))
    assert content(tmp_path / "8") == content(tmp_path / "whole")


def test_parts_of_a_group_are_as_long_as_the_group():
    lengths = np.array([16, 64, 16, 32, 16, 16, 32, 16, 16])
    whole = steps.planned([(0, 0, 9)], 8, lengths=lengths)
    parts = steps.planned([(0, 0, 9)], 8, part=4, lengths=lengths)
    assert [step.length for step in whole] == [64, 16]
    assert [(step.length, len(step.places), step.last) for step in parts] == [(64, 4, False), (64, 4, False), (16, 1, True)]
    np.testing.assert_array_equal(np.concatenate([step.places for step in parts]), np.concatenate([step.places for step in whole]))


def test_another_process_that_failed_stops_this_one_after_its_shard(tmp_path, features):
    def failed():
        raise errors.DataError("told elsewhere")

    class Arriving:
        def __enter__(self):
            return failed

        def __exit__(self, *_):
            return False

    with pytest.raises(errors.DataError, match="told elsewhere"):
        features("vectors", "run", 4, shard_rows=6, crew=embed.Crew(0, 2, 8, arriving=Arriving))
    assert [path.name for path in (tmp_path / "run").glob("*.ok")] == ["shard-00000.ok"]
