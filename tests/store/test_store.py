"""Durable writes, shards, tables, checkpoints and workdirs: nothing half-written is ever read."""

import json
import os
import stat

import numpy as np
import pytest

from relink_jax import errors, heads
from relink_jax.store import checkpoints, digests, files, shards, tables, workdir


def test_writes_are_private_and_leave_no_temporary_files(tmp_path):
    target = tmp_path / "deep" / "a.json"
    files.write_json(target, {"a": 1})
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
    assert os.listdir(target.parent) == ["a.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    files.write_json(target, {"a": 1})
    with files.fail_at(1), pytest.raises(errors.StoreError, match=r"a\.json.*free space"):
        files.write_json(target, {"a": 2})
    assert files.read_json(target) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_nan_is_refused_in_json(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert os.listdir(tmp_path) == []


def test_keyed_pseudonyms_depend_on_key_and_text():
    assert digests.keyed(b"k", "a") == digests.keyed(b"k", "a")
    assert len({digests.keyed(b"k", "a"), digests.keyed(b"l", "a"), digests.keyed(b"k", "b")}) == 3


@pytest.mark.parametrize("rows", [1, 5, 6, 13])
def test_shards_resume_after_a_failure_at_every_write_and_end_equal(tmp_path, rows):
    data = {"x": np.arange(rows * 3, dtype=np.float32).reshape(rows, 3), "index": np.arange(rows, dtype=np.int32)}
    whole = shards.write_all(tmp_path / "whole", data, 3, {"a": 1})
    for n in range(1, 30):
        directory = tmp_path / f"fail{n}"
        try:
            with files.fail_at(n):
                shards.write_all(directory, data, 3, {"a": 1})
            break
        except errors.StoreError:
            if directory.exists() and not shards.finished(directory):
                with pytest.raises(errors.StoreError, match="unfinished"):
                    shards.read(directory)
            assert shards.write_all(directory, data, 3, {"a": 1}) == whole
    assert n >= 4
    found = shards.read(tmp_path / "whole")
    np.testing.assert_array_equal(found["x"], data["x"])


def test_a_flipped_bit_in_a_shard_is_named(tmp_path):
    shards.write_all(tmp_path / "s", {"x": np.ones((4, 2), np.float32)}, 2, {})
    path = tmp_path / "s" / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(errors.StoreError, match=r"shard corrupted in s/shard-00001\.safetensors: expected SHA-256 \w+, found \w+"):
        shards.read(tmp_path / "s")
    assert [index for index, _, _ in shards.ShardWriter(tmp_path / "s", 4, 2, {}).missing()] == [1]


def test_shards_of_other_inputs_are_refused(tmp_path):
    shards.write_all(tmp_path / "s", {"x": np.ones((4, 2), np.float32)}, 2, {"model": "a"})
    with pytest.raises(errors.StoreError, match="different model"):
        shards.ShardWriter(tmp_path / "s", 4, 2, {"model": "b"})
    for rows, shard_rows in ((5, 2), (4, 3)):
        with pytest.raises(errors.StoreError, match="different row count or shard size"):
            shards.ShardWriter(tmp_path / "s", rows, shard_rows, {"model": "a"})


def test_arrays_of_other_lengths_than_the_manifest_says_are_refused(tmp_path):
    for name, index in (("one", 3), ("both", 4)):
        shards.write_all(tmp_path / name, {"x": np.ones((4, 2), np.float32), "index": np.arange(index)}, 2, {})
    path = tmp_path / "both" / "manifest.json"
    files.write_json(path, {**files.read_json(path), "rows": 5})
    for name in ("one", "both"):
        with pytest.raises(errors.StoreError, match=f"rows missing in shards '{name}'"):
            shards.read(tmp_path / name)


def test_a_manifest_is_of_the_shards_that_are_there(tmp_path):
    kept = {fill: shards.write_all(tmp_path / str(fill), {"x": np.full((4, 2), fill, np.float32)}, 2, {}) for fill in (1, 2)}
    assert kept[1] != kept[2]
    assert kept == {fill: shards.digest(tmp_path / str(fill)) for fill in kept}
    writer, path = shards.ShardWriter(tmp_path / "1", 4, 2, {}), tmp_path / "1" / "manifest.json"
    files.write_json(path, {**files.read_json(path), "shards": []})
    assert writer.finish() == shards.digest(tmp_path / "1") == kept[1]
    (tmp_path / "1" / "shard-00001.safetensors").write_bytes(b"others")
    with pytest.raises(errors.StoreError, match="shards missing in shards '1': expected 2 shards, found 1 missing"):
        writer.finish()


def test_tables_round_trip_and_detect_corruption(tmp_path):
    path = tmp_path / "t.parquet"
    tables.write_table(path, {"a": np.arange(3), "s": ["x", "y", "z"]})
    found = tables.read_table(path)
    assert list(found["s"]) == ["x", "y", "z"]
    content = bytearray(path.read_bytes())
    content[20] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(errors.StoreError, match="table corrupted"):
        tables.read_table(path)
    with pytest.raises(errors.StoreError, match="table missing"):
        tables.read_table(tmp_path / "none.parquet")


PROVENANCE = {"source_sha256": "a", "config_sha256": "b", "parameters": 8, "layout": "test", "ignored": [], "model": {}}


def test_checkpoints_round_trip_and_detect_a_changed_array(tmp_path):
    tree = {"image": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "text": {"b": np.ones(2, np.float32)}}
    checkpoints.save(tmp_path / "m", tree, PROVENANCE)
    found, provenance = checkpoints.restore(tmp_path / "m")
    assert provenance["layout"] == "test"
    assert checkpoints.provenance_of(tmp_path / "m") == provenance
    assert checkpoints.tree_digest(found) == checkpoints.tree_digest(tree)
    tree["text"]["b"] = np.full(2, 2, np.float32)
    checkpoints.save(tmp_path / "other", tree, PROVENANCE)
    recorded = files.read_json(tmp_path / "m" / "provenance.json")
    for files_of in ("m", "other"):
        described = files.read_json(tmp_path / files_of / "provenance.json")
        files.write_json(tmp_path / "other" / "provenance.json", {**recorded, "tree_files": described["tree_files"]})
        with pytest.raises(errors.StoreError, match="checkpoint corrupted"):
            checkpoints.restore(tmp_path / "other")


def test_flatten_and_unflatten_are_inverse():
    tree = {"a": {"b": np.ones(1), "c": {"d": np.zeros(2)}}, "e": np.ones(3)}
    assert checkpoints.tree_digest(checkpoints.unflatten(checkpoints.flatten(tree))) == checkpoints.tree_digest(tree)


def enter(root, identity, settings=None):
    with workdir.opened(root, identity, settings or {}) as found:
        return found


def test_workdir_of_another_run_is_refused_with_what_changed_and_no_path(tmp_path):
    first = enter(tmp_path / "w", {"cohort": "a", "seed": 1, "table": "/home/me/one.csv"})
    again = enter(tmp_path / "w", {"cohort": "a", "seed": 1, "table": "/home/me/one.csv"})
    assert first.key == again.key
    assert first.run_id == again.run_id
    with pytest.raises(errors.StoreError, match=r"changed seed 1 \(now 2\), table 'one.csv' \(now 'two.csv'\)") as raised:
        enter(tmp_path / "w", {"cohort": "a", "seed": 2, "table": "/home/me/two.csv"})
    assert "/home" not in str(raised.value)
    with pytest.raises(errors.StoreError, match="found data defined by embeddings; use"):
        enter(tmp_path / "w", {"embeddings": "/home/me/vectors"})


def refused(root, settings, artifact=None):
    """Opens a workdir for a command that writes `artifact` and then fails."""

    def command():
        with workdir.opened(root, {"a": 1}, settings) as found:
            if artifact:
                files.write_text(found.root / artifact, "made before the failure")
            raise errors.DataError("wrong rows")

    with pytest.raises(errors.DataError):
        command()


def test_a_refused_command_leaves_no_workdir_behind_and_no_settings(tmp_path):
    refused(tmp_path / "deep" / "w", {"k": 1})
    assert os.listdir(tmp_path) == []
    enter(tmp_path / "w", {"a": 1}, {"k": 1})
    refused(tmp_path / "w", {"k": 2})
    assert files.read_json(tmp_path / "w" / "config.json") == {"k": 1}
    with pytest.raises(KeyboardInterrupt), workdir.opened(tmp_path / "w", {"a": 1}, {"k": 3}):
        raise KeyboardInterrupt
    assert files.read_json(tmp_path / "w" / "config.json") == {"k": 3}


def test_a_refused_command_keeps_what_an_earlier_one_made(tmp_path):
    refused(tmp_path / "w", {}, "phantom/pairs.csv")
    assert (tmp_path / "w" / "run.json").exists()
    enter(tmp_path / "w", {"a": 1})


def test_a_directory_with_other_files_is_no_workdir(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    for root in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(errors.UsageError, match="not a workdir"):
            enter(root, {})
    with pytest.raises(errors.StoreError, match="directory not made in directory 'w'"):
        enter(tmp_path / "mine.txt" / "w", {})
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_two_runs_do_not_share_a_workdir(tmp_path):
    with workdir.opened(tmp_path / "w", {}, {}), pytest.raises(errors.StoreError, match="workdir in use"), workdir.opened(tmp_path / "w", {}, {}):
        pass
    enter(tmp_path / "w", {})


@pytest.mark.parametrize("content", ["{}", "[]", '{"identity": 3}', '{"run_id": "a", "identity": {}}', "not json"])
def test_a_damaged_run_record_is_refused(tmp_path, content):
    enter(tmp_path / "w", {})
    (tmp_path / "w" / "run.json").write_text(content)
    with pytest.raises(errors.StoreError):
        enter(tmp_path / "w", {})


def test_heads_round_trip_and_detect_damage(tmp_path):
    original = {"image": {"kernel": np.eye(4, 3, dtype=np.float32)}, "text": {"kernel": np.ones((5, 3), np.float32)}}
    heads.save(tmp_path / "h", original, {"arm": "original"})
    found, card = heads.load(tmp_path / "h")
    assert card["arm"] == "original"
    np.testing.assert_array_equal(found["image"]["kernel"], original["image"]["kernel"])
    damaged = json.loads((tmp_path / "h" / "card.json").read_text()) | {"heads_sha256": "0" * 64}
    (tmp_path / "h" / "card.json").write_text(json.dumps(damaged))
    with pytest.raises(errors.StoreError, match="heads corrupted"):
        heads.load(tmp_path / "h")


def test_projection_is_unit_norm_and_matches_float64():
    generator = np.random.default_rng(0)
    kernel, features = generator.standard_normal((7, 5)).astype(np.float32), generator.standard_normal((9, 7)).astype(np.float32)
    found = np.asarray(heads.project({"kernel": kernel}, features))
    exact = features.astype(np.float64) @ kernel.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(found, exact, atol=1e-6)
    other = heads.random_heads(1, {"image": {"kernel": kernel}, "text": {"kernel": kernel}})
    assert abs(np.var(other["image"]["kernel"]) * 7 - 1) < 0.6


def test_array_digest_covers_dtype_and_shape():
    zeros = np.zeros(2, np.float32)
    assert digests.arrays_digest({"a": zeros}) != digests.arrays_digest({"a": zeros.view(np.int32)})
    assert digests.arrays_digest({"a": zeros}) != digests.arrays_digest({"a": zeros[None]})
