"""A shard of records whose bytes changed is refused when its first picture is read, and no shard is read for its digest twice."""

import concurrent.futures
import shutil

import archives
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.cohort import examples, record_shards, records
from relink_jax.store import digests


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    source = archives.source(tmp_path_factory.mktemp("archive"))
    job = record_shards.Build(source, examples.Settings(shard_rows=4), tmp_path_factory.mktemp("made") / "records")
    return source.cohort(), job.directory, record_shards.build(job, processes=1)


def test_a_flipped_bit_is_found_before_a_picture_of_its_shard_is_used(built, tmp_path):
    cohort, directory, manifest = built
    shutil.copytree(directory, tmp_path / "records")
    number = next(place for place, shard in enumerate(manifest["shards"]) if shard["split"] == "train") + 1
    shard = tmp_path / "records" / manifest["shards"][number]["file"]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1  # behind the records, where no reader looks
    shard.write_bytes(bytes(content))
    opened, whole = records.Pictures(tmp_path / "records", cohort), records.Pictures(directory, cohort)
    for row, key in enumerate(cohort.image_key.tolist()):
        split, position = whole._at[key]
        if split == "train" and 4 <= position < 8:
            with pytest.raises(errors.StoreError, match="shard corrupted in shard 2 of the records' split 'train': expected SHA-256"):
                opened.read(row)
        else:
            np.testing.assert_array_equal(opened.read(row), whole.read(row))


def test_threads_read_every_shard_once_for_its_digest(built, monkeypatch):
    cohort, directory, manifest = built
    seen, honest = [], digests.stored_digest
    monkeypatch.setattr(digests, "stored_digest", lambda path, where="": (seen.append(path.name), honest(path, where))[1])
    opened = records.Pictures(directory, cohort)
    seen.clear()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(opened.read, [*range(len(cohort.image_key))] * 2))
    assert sorted(seen) == sorted(shard["file"] for shard in manifest["shards"])
