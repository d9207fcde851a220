"""A checkpoint in shards is one checkpoint: the same tree as in one file, and nothing that its index and its shards do not agree on."""

import collections
import dataclasses
import functools
import json
import tracemalloc

import numpy as np
import published
import pytest
import torch_zip
from safetensors import numpy as safetensors_numpy

from relink_jax import cli, errors
from relink_jax.encoders import convert, formats, sources, zoo
from relink_jax.store import checkpoints, digests

CASE = published.CASES["hf-clip"]
WRITERS = {
    "safetensors": ("model", ".safetensors", lambda path, state: safetensors_numpy.save_file({k: np.array(a, order="C") for k, a in state.items()}, str(path))),
    "torch": ("pytorch_model", ".bin", lambda path, state: torch_zip.write(path, state)),
}


@pytest.fixture(autouse=True)
def _no_tokenizer(monkeypatch):
    monkeypatch.setattr(convert, "check_inputs", lambda spec: None)
    monkeypatch.setattr(convert, "target_shapes", functools.cache(convert.target_shapes))


def write(directory, state, kind="safetensors", count=3):
    """Writes `state` in `count` shards, keys dealt out in turn, and returns the index."""
    directory.mkdir(exist_ok=True)
    stem, suffix, save = WRITERS[kind]
    named = {key: f"{stem}-{place % count + 1:05d}-of-{count:05d}{suffix}" for place, key in enumerate(sorted(state))}
    for name in set(named.values()):
        save(directory / name, {key: state[key] for key in state if named[key] == name})
    index = directory / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": named}))
    return index


def edited(index, change):
    document = json.loads(index.read_text())
    change(document["weight_map"])
    index.write_text(json.dumps(document))


def tree_digest(result):
    return checkpoints.tree_digest({**result.params, "heads": result.heads, "scale": {"logit": np.float32(result.logit_scale)}})


@functools.cache
def state():
    return CASE.states()["model"]


def refused(directory, *arguments):
    with pytest.raises(errors.DataError) as caught:
        convert.convert(CASE.spec(directory), *arguments)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "count"), [("safetensors", 3), ("safetensors", 1), ("torch", 2)])
def test_shards_give_the_tree_of_one_file_and_each_its_digest(tmp_path, kind, count):
    whole = tmp_path / "whole"
    whole.mkdir()
    WRITERS["safetensors"][2](whole / "model.safetensors", state())
    index = write(tmp_path / "shards", state(), kind, count)
    result = convert.convert(CASE.spec(index.parent))
    assert tree_digest(result) == tree_digest(convert.convert(CASE.spec(whole)))
    (file,) = result.provenance["files"]
    assert file["name"] == index.name
    assert file["parts"] == {path.name: digests.file_digest(path) for path in sorted(index.parent.glob(f"*{WRITERS[kind][1]}"))}
    assert len(file["parts"]) == count
    assert result.left_out[0].keys() == {key for key in state() if key.endswith("position_ids")}
    assert tree_digest(convert.convert(CASE.spec(index.parent), [index])) == tree_digest(result)


def test_of_shards_and_other_formats_of_one_model_one_is_read(tmp_path):
    index = write(tmp_path, state())
    write(tmp_path, state(), "torch")
    (tmp_path / "flax_model.msgpack").write_bytes(b"never opened")
    (tmp_path / "rust_model.index.json").write_text("never opened")
    assert sources.weights(tmp_path) == [index]
    (tmp_path / "other.pt").write_bytes(b"")
    assert sources.weights(tmp_path) == [index, tmp_path / "other.pt"]
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert sources.weights(tmp_path) == [tmp_path / "model.safetensors", tmp_path / "other.pt"]


def test_shards_of_other_names_belong_to_the_index_that_names_them(tmp_path):
    index = write(tmp_path, state(), count=2)
    for path in tmp_path.glob("*.safetensors"):
        path.rename(tmp_path / f"part{path.name[10]}.safetensors")
    edited(index, lambda named: named.update({key: f"part{name[10]}.safetensors" for key, name in named.items()}))
    assert sources.weights(tmp_path) == [index]
    assert convert.convert(CASE.spec(tmp_path)).provenance["files"][0]["parts"].keys() == {"part1.safetensors", "part2.safetensors"}
    with pytest.raises(errors.DataError, match=r"part of a checkpoint in --source 'part1\.safetensors'"):
        sources.locate(tmp_path / "part1.safetensors")


def test_one_shard_is_no_source_and_shards_without_index_no_model(tmp_path):
    index = write(tmp_path, state())
    shard = tmp_path / "model-00001-of-00003.safetensors"
    wanted = (
        "part of a checkpoint in --source 'model-00001-of-00003.safetensors': expected the directory, or its model.safetensors.index.json, "
        "which names all shards, found one shard of it"
    )
    with pytest.raises(errors.DataError) as caught:
        sources.locate(shard)
    assert str(caught.value) == wanted
    assert sources.locate(index) == (tmp_path, (index,))
    index.unlink()
    with pytest.raises(errors.DataError, match="part of a checkpoint"):
        sources.locate(shard)
    message = "expected model.safetensors.index.json, which names the shards, found model-00001-of-00003.safetensors without it"
    assert refused(tmp_path) == f"index missing in model directory {tmp_path.name!r}: {message}"


def test_a_missing_shard_is_named(tmp_path):
    index = write(tmp_path, state())
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    wanted = "shard missing in file 'model.safetensors.index.json': expected the 3 shards that it names, beside it, found no model-00002-of-00003.safetensors"
    assert refused(tmp_path) == wanted
    assert refused(tmp_path, [index]) == wanted


def test_index_and_shards_must_agree_on_every_key(tmp_path):
    key, index = "visual_projection.weight", write(tmp_path, state(), count=2)
    here = json.loads(index.read_text())["weight_map"][key]
    other = {"model-00001-of-00002.safetensors": "model-00002-of-00002.safetensors"}.get(here, "model-00001-of-00002.safetensors")
    edited(index, lambda named: named.update({key: other}))
    message = refused(tmp_path)
    assert message.startswith(f"shards differ from their index in file {other!r}: expected the keys that model.safetensors.index.json says")
    assert message.endswith(f"found 1 that it lacks, first {key!r}, which is in {here}")
    edited(index, lambda named: named.update({key: here, "extra.weight": here}))
    assert refused(tmp_path).endswith("found 1 that it lacks, first 'extra.weight', which is in none")
    edited(index, lambda named: (named.pop("extra.weight"), named.pop(key)))
    assert refused(tmp_path).endswith(f"found 1 more, first {key!r}, which it does not name")


def test_a_key_in_two_shards_is_refused(tmp_path):
    key, index = "visual_projection.weight", write(tmp_path, state(), count=2)
    here = json.loads(index.read_text())["weight_map"][key]
    other = next(path for path in tmp_path.glob("*.safetensors") if path.name != here)
    WRITERS["safetensors"][2](other, safetensors_numpy.load_file(str(other)) | {key: state()[key] + 1})
    message = refused(tmp_path)
    assert message.startswith(f"shards differ from their index in file {other.name!r}: expected only the keys that model.safetensors.index.json says")
    assert message.endswith(f"found 1 more, first {key!r}, for which it names {here}")


@pytest.mark.parametrize(
    "named", ["../model.safetensors", "/etc/model.safetensors", "a\\b.safetensors", ".safetensors", "model.bin", 3, ["model.safetensors"], "..safetensors"]
)
def test_an_index_names_weight_files_beside_it_and_nothing_else(tmp_path, named):
    index = write(tmp_path, state(), count=2)
    edited(index, lambda weights: weights.update({"visual_projection.weight": named}))
    assert refused(tmp_path) == (
        "index damaged in file 'model.safetensors.index.json': expected 'weight_map', from keys to .safetensors files beside it, found another content"
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}', "\x00", "[" * 10_000])
def test_an_index_that_is_none_is_one_sentence(tmp_path, text):
    write(tmp_path, state(), count=2).write_text(text)
    assert "expected" in refused(tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
    write(tmp_path, state())
    path = tmp_path / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert refused(tmp_path).startswith("weights unreadable in file 'model-00003-of-00003.safetensors'")


def test_shards_are_read_once_and_need_little_more_memory_than_one_file(tmp_path, monkeypatch):
    wide = {"V": 192, "M": 768, "W": 192, "N": 768}
    monkeypatch.setattr(published.rows, "SIZES", {**published.rows.SIZES, **wide})
    monkeypatch.setattr(published.rows, "LAYERS", 6)
    image, words = (dataclasses.replace(tower, stack=dataclasses.replace(tower.stack, width=192, layers=6, mlp_width=768)) for tower in (CASE.image, CASE.text))
    spec = dataclasses.replace(CASE.spec(tmp_path), image=image, text=words)
    tensors = CASE.states()["model"]
    write(tmp_path, tensors)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert size > 2e7
    convert.target_shapes(spec)
    loaded, real = collections.Counter(), formats.Tensor
    monkeypatch.setattr(formats, "Tensor", lambda dtype, shape, load: real(dtype, shape, lambda: loaded.update([id(load)]) or load()))
    tracemalloc.start()
    convert.convert(spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * size
    assert len(loaded) == len(tensors)
    assert set(loaded.values()) == {1}


def test_an_export_of_shards_is_one_file_with_every_tensor(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zoo, "of_source", lambda name, directory, *_, **__: CASE.spec(directory, name))
    write(tmp_path / "mine", state())
    words = ["convert", f"--workdir={tmp_path / 'w'}"]
    assert cli.main([*words, f"--source={tmp_path / 'mine'}"]) == 0
    told = capsys.readouterr().out
    assert all(f"    {digests.file_digest(path)}  {path.name}\n" in f"{told}\n" for path in (tmp_path / "mine").glob("*.safetensors"))
    assert cli.main([*words, f"--source={tmp_path / 'mine'}"]) == 0
    assert cli.main([*words, "--to=hf", "--model=mine", "--arm=original"]) == 0
    directory = tmp_path / "w" / "export" / "mine" / "original"
    assert sorted(path.name for path in directory.iterdir()) == ["export.json", "model.safetensors"]
    again = safetensors_numpy.load_file(str(directory / "model.safetensors"))
    assert again.keys() == state().keys()
    for key, array in state().items():
        np.testing.assert_array_equal(again[key], array, err_msg=key)
    changed = {key: array + np.asarray(key == "visual_projection.weight", array.dtype) for key, array in state().items()}
    write(tmp_path / "mine", changed)
    assert cli.main([*words, f"--source={tmp_path / 'mine'}"]) == 74
    assert "other checkpoint in models/mine: expected source_sha256" in capsys.readouterr().err
