"""Rows on disk read as an array's are, each shard checked once and not before it is needed, by any number of threads."""

import concurrent.futures
import shutil

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.store import digests, rows, shards

SHARDS = [f"shard-{index:05d}.safetensors" for index in range(5)]  # of 5, 5, 5, 5 and 3 rows


@pytest.fixture
def stored(tmp_path):
    """An array of 23 rows, and the directory that holds it beside another array."""
    array = np.random.default_rng(0).standard_normal((23, 3)).astype(np.float32)
    shards.write_all(tmp_path / "s", {"embeddings": array, "index": np.arange(23, dtype=np.int32), "wide": array.astype(np.float64)}, 5, {})
    return array, tmp_path / "s"


@pytest.fixture
def checked(monkeypatch):
    """The shards whose SHA-256 was taken so far, in order."""
    taken, honest = [], digests.stored_digest
    monkeypatch.setattr(digests, "stored_digest", lambda path, where="": (taken.append(path.name), honest(path, where))[1])
    return taken


def opened(found):
    """Waits until every part was opened ahead, or one was refused."""
    found.parts._ahead.join(10)
    assert not found.parts._ahead.is_alive()


@pytest.mark.parametrize(
    "index",
    [
        slice(None),
        slice(3, 17),
        slice(20, 2, -3),
        slice(4, 4),
        7,
        -1,
        np.int32(22),
        np.array([], int),
        np.array([9, 0, 22, 9, -23]),
        np.array([[1, 21], [6, 6]], np.int32),
        np.arange(23) % 4 == 1,
        [2, 19],
    ],
)
def test_rows_are_indexed_as_an_array_is(stored, index):
    array, directory = stored
    found = shards.mapped(directory, "embeddings")
    got = found[index]
    assert (got.shape, got.dtype) == (array[index].shape, np.float32)
    np.testing.assert_array_equal(got, array[index])
    got += 1  # a copy
    np.testing.assert_array_equal(found[index], array[index])


def test_rows_have_the_shape_of_an_array_and_become_one(stored):
    array, directory = stored
    found = shards.mapped(directory, "embeddings")
    assert (len(found), found.shape, found.dtype) == (23, (23, 3), np.float32)
    np.testing.assert_array_equal(np.asarray(found), array)
    assert np.array(found, np.float64).dtype == np.float64
    with pytest.raises(IndexError):
        found[23]


def test_chosen_rows_are_chosen_again_and_an_array_gives_the_same(stored):
    array, directory = stored
    for source in (array, shards.mapped(directory, "embeddings")):
        chosen = rows.select(rows.select(source, np.array([22, 3, 3, 11, 0])), np.array([3, 0, 1]))
        assert chosen.shape == (3, 3)
        np.testing.assert_array_equal(chosen[:], array[[11, 22, 3]])


def test_no_shard_is_checked_before_a_row_is_read_and_none_twice(stored, checked):
    array, directory = stored
    found = rows.select(shards.mapped(directory, "embeddings"), np.arange(23)[::-1])
    assert checked == []
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        orders = [np.random.default_rng(seed).integers(0, 23, 40) for seed in range(64)]
        for order, got in zip(orders, pool.map(found.__getitem__, orders), strict=True):
            np.testing.assert_array_equal(got, array[::-1][order])
    opened(found)
    assert sorted(checked) == SHARDS


def test_the_shards_after_the_first_that_is_read_are_checked_ahead_in_order(stored, checked):
    found = shards.mapped(stored[1], "embeddings")
    assert found.shape == (23, 3)
    opened(found)
    assert checked == SHARDS


@pytest.mark.parametrize("damage", ["flipped", "gone", "directory"])
def test_a_damaged_shard_is_refused_where_it_is_read_in_the_words_of_a_whole_read(stored, damage):
    array, directory = stored
    path = directory / SHARDS[2]
    content = path.read_bytes()
    path.unlink()
    if damage == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    if damage == "directory":
        path.mkdir()
    with pytest.raises(errors.StoreError) as whole:
        shards.read(directory)
    found = shards.mapped(directory, "embeddings")
    for _ in range(2):
        np.testing.assert_array_equal(found[[0, 22]], array[[0, 22]])
        for index in (12, slice(None), [0, 14]):
            with pytest.raises(errors.StoreError) as raised:
                found[index]
            assert str(raised.value) == str(whole.value)
    opened(found)
    shutil.rmtree(path) if damage == "directory" else path.unlink(missing_ok=True)
    path.write_bytes(content)
    np.testing.assert_array_equal(found[:], array)


@pytest.mark.parametrize("change", [{"rows": 24}, {"rows": 22}, {"rows": 26}, {"rows": 20}, {"shard_rows": 6}, {"shard_rows": 0}, {"shard_rows": -5}])
def test_other_rows_than_the_manifest_says_are_refused(stored, monkeypatch, change):
    described = {**shards.manifest(stored[1]), **change}
    monkeypatch.setattr(shards, "manifest", lambda directory: described)
    with pytest.raises(errors.StoreError, match=f"rows missing in shards 's': expected {described['rows']} rows of every array"):
        shards.mapped(stored[1], "embeddings")[:]


@pytest.mark.parametrize("name", ["wide", "index", "none"])
def test_only_float32_arrays_that_are_there_are_read(stored, name):
    with pytest.raises(errors.StoreError, match=f"file unreadable in s/{SHARDS[0]}: expected a safetensors file with float32 '{name}'"):
        shards.mapped(stored[1], name)[0]


def test_no_shard_at_all_is_refused(stored, monkeypatch):
    monkeypatch.setattr(shards, "manifest", lambda directory: {"rows": 0, "shard_rows": 5, "shards": []})
    with pytest.raises(errors.StoreError, match="no rows in shards 's'"):
        shards.mapped(stored[1], "embeddings")


@pytest.mark.parametrize(("n", "dim"), [(0, 5), (1, 1), (1000, 600), (3, 10**6), (4, 0)])
def test_blocks_cover_every_row_once(n, dim):
    source = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (n, dim), (0, 0))
    found = list(rows.blocks(source))
    assert [row for part in found for row in range(n)[part]] == list(range(n))
    assert all(1 <= part.stop - part.start <= max(1, rows._BLOCK_BYTES // (8 * max(dim, 1))) for part in found)
