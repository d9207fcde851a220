"""One model in any format, in one file or several, in a directory, by itself or in the Hugging Face cache: always the same tree."""

import collections
import dataclasses
import functools
import tracemalloc

import ml_dtypes
import numpy as np
import published
import pytest
import torch_zip
from flax import serialization
from safetensors import numpy as safetensors_numpy

from relink_jax import errors
from relink_jax.encoders import convert, sources
from relink_jax.store import checkpoints, digests


@pytest.fixture(autouse=True)
def _no_tokenizer(monkeypatch):
    monkeypatch.setattr(convert, "check_inputs", lambda spec: None)
    monkeypatch.setattr(convert, "target_shapes", functools.cache(convert.target_shapes))


def save(path, state):
    safetensors_numpy.save_file({key: np.array(array, order="C") for key, array in state.items()}, str(path))


def spec_of(name, directory):
    return dataclasses.replace(published.CASES[name].spec("."), directory=directory)


def tree_digest(result):
    return checkpoints.tree_digest({**result.params, "heads": result.heads, "scale": {"logit": np.float32(result.logit_scale)}})


def plain(tmp_path, name):
    """The tree of a model whose files are safetensors."""
    directory = tmp_path / "plain"
    directory.mkdir()
    for file, state in published.CASES[name].states().items():
        save(directory / f"{file}.safetensors", state)
    return tree_digest(convert.convert(spec_of(name, directory)))


def refusal(*arguments, **options):
    with pytest.raises(errors.DataError) as caught:
        convert.convert(*arguments, **options)
    return str(caught.value)


def test_safetensors_torch_and_flax_files_give_one_tree(tmp_path):
    state = published.CASES["hf-clip"].states()["model"]
    wanted = plain(tmp_path, "hf-clip")
    for name, write in (
        ("pytorch_model.bin", lambda path: torch_zip.write(path, collections.OrderedDict(state))),
        ("flax_model.msgpack", lambda path: path.write_bytes(serialization.msgpack_serialize(unflattened(published.flax_names(state))))),
    ):
        directory = tmp_path / name.partition(".")[0]
        directory.mkdir()
        write(directory / name)
        result = convert.convert(spec_of("hf-clip", directory))
        assert tree_digest(result) == wanted, name
        assert [one["name"] for one in result.provenance["files"]] == [name]


def unflattened(flat):
    return checkpoints.unflatten(flat)


def test_a_training_checkpoint_gives_its_model(tmp_path):
    """CXR-CLIP's .tar: weights under `model`, beside an optimizer and a configuration object."""
    wanted = plain(tmp_path, "cxr-clip-resnet")
    state = published.CASES["cxr-clip-resnet"].states()["model"]
    config = torch_zip.Raw(torch_zip.name("omegaconf.dictconfig", "DictConfig") + b")\x81" + torch_zip.Writer().emit({"a": 1}) + b"b")
    path = torch_zip.write(tmp_path / "r50_m.tar", {"model": state, "optimizer": {"state": {}}, "config": config, "epoch": 3})
    result = convert.convert(spec_of("cxr-clip-resnet", tmp_path), [path])
    assert tree_digest(result) == wanted
    assert result.provenance["files"][0]["left_out"] == ["optimizer", "config", "epoch"]
    assert result.provenance["files"][0]["unbuilt"] == ["omegaconf.dictconfig.DictConfig"]


def test_a_lightning_checkpoint_gives_its_model(tmp_path):
    """GLoRIA's .ckpt: weights under `state_dict`, each key behind `gloria.`."""
    wanted = plain(tmp_path, "gloria")
    state = {f"gloria.{key}": array for key, array in published.CASES["gloria"].states()["model"].items()}
    torch_zip.write(tmp_path / "chexpert_resnet50.ckpt", {"state_dict": state, "hyper_parameters": {"lr": 5e-5}})
    result = convert.convert(spec_of("gloria", tmp_path))
    assert tree_digest(result) == wanted
    assert result.heads["text"] == {}
    assert "img_encoder.local_embedder.weight" in result.provenance["ignored"]


def test_legacy_layer_norm_names_are_read(tmp_path):
    wanted = plain(tmp_path, "medclip-resnet")
    spelled = {"weight": "gamma", "bias": "beta"}

    def old(key):
        head, _, leaf = key.rpartition(".")
        return f"{head}.{spelled[leaf]}" if head.endswith("LayerNorm") else key

    state = {old(key): array for key, array in published.CASES["medclip-resnet"].states()["model"].items()}
    assert "text_model.model.embeddings.LayerNorm.gamma" in state
    torch_zip.write(tmp_path / "pytorch_model.bin", state)
    assert tree_digest(convert.convert(spec_of("medclip-resnet", tmp_path))) == wanted


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_upcast_and_kept_as_it_is_where_ignored(tmp_path, dtype):
    state = {key: array.astype(dtype) if array.dtype == np.float32 else array for key, array in published.CASES["biomedclip"].states()["model"].items()}
    torch_zip.write(tmp_path / "open_clip_pytorch_model.bin", state)
    result = convert.convert(spec_of("biomedclip", tmp_path))
    widened = {"model": {key: array.astype(np.float32) for key, array in state.items()}}
    flat = checkpoints.flatten({**result.params, "heads": result.heads})
    for path, array in published.CASES["biomedclip"].expected(widened).items():
        if path != "logit_scale":
            np.testing.assert_array_equal(flat[path], array, err_msg=path)
    assert result.left_out[0].keys() == {"text.transformer.embeddings.position_ids"}


def test_two_files_must_fill_the_tree_together(tmp_path):
    states = published.CASES["biovil"].states()
    image = torch_zip.write(tmp_path / "biovil_image_resnet50_proj_size_128.pt", states["biovil_image"])
    spec = spec_of("biovil", tmp_path)
    assert refusal(spec) == (
        "weights of the text tower in checkpoint: expected one file (--source=FILE names one), found none among biovil_image_resnet50_proj_size_128.pt"
    )
    torch_zip.write(tmp_path / "pytorch_model.bin", states["pytorch_model"])
    torch_zip.write(tmp_path / "training_args.bin", {"not": "weights"})
    result = convert.convert(spec)
    assert result.provenance["layout"] == "biovil-image+cxr-bert"
    assert result.provenance["not_read"] == ["training_args.bin"]
    assert result.provenance["source_sha256"] == digests.value_digest([one["sha256"] for one in result.provenance["files"]])
    torch_zip.write(tmp_path / "other_image.pt", states["biovil_image"])
    assert "weights of the image tower" in refusal(spec)
    assert "biovil_image_resnet50_proj_size_128.pt and other_image.pt" in refusal(spec)
    assert convert.convert(spec, [image, tmp_path / "pytorch_model.bin"]).provenance["not_read"] == []
    assert "expected a tensor" in refusal(spec, [image, tmp_path / "training_args.bin"])


def test_a_file_that_cannot_be_read_is_the_reason_when_a_tower_lacks(tmp_path):
    states = published.CASES["biovil"].states()
    torch_zip.write(tmp_path / "image.pt", states["biovil_image"])
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02N.")
    assert "a bare pickle, as torch wrote before version 1.6" in refusal(spec_of("biovil", tmp_path))


def test_a_model_of_another_geometry_or_with_other_heads_is_refused(tmp_path):
    torch_zip.write(tmp_path / "model.pt", published.CASES["cxr-clip-resnet"].states()["model"])
    spec = spec_of("cxr-clip-resnet", tmp_path)
    message = refusal(dataclasses.replace(spec, image_head="linear"))
    assert message.endswith("found unexpected 1: image_projection.projection.bias")
    message = refusal(dataclasses.replace(spec, text_head="mlp"))
    assert "missing 2: heads/text/fc1/kernel, heads/text/fc2/kernel; unexpected 2: text_projection.projection.bias" in message


def test_of_one_model_in_several_formats_the_safest_is_read(tmp_path):
    state = published.CASES["hf-clip"].states()["model"]
    for name in ("pytorch_model.bin", "flax_model.msgpack", "rust_model.ot", "open_clip_pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"never opened")
    assert [path.name for path in sources.weights(tmp_path)] == ["flax_model.msgpack", "open_clip_pytorch_model.bin"]
    save(tmp_path / "model.safetensors", state)
    save(tmp_path / "open_clip_model.safetensors", {"a": np.zeros(2, np.float32)})
    assert [path.name for path in sources.weights(tmp_path)] == ["model.safetensors", "open_clip_model.safetensors"]
    assert convert.convert(spec_of("hf-clip", tmp_path)).provenance["not_read"] == ["open_clip_model.safetensors"]


def test_a_source_is_a_directory_a_file_or_a_cache_directory(tmp_path):
    file = tmp_path / "best_64_0.864.pt"
    file.write_bytes(b"")
    assert sources.locate(file) == (tmp_path, (file,))
    assert sources.locate(tmp_path) == (tmp_path, ())
    cache = tmp_path / "models--microsoft--BiomedVLP-BioViL-T"
    for revision in ("a" * 40, "b" * 40):
        (cache / "snapshots" / revision).mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("b" * 40)
    assert sources.locate(cache) == (cache / "snapshots" / ("b" * 40), ())
    (cache / "refs" / "main").write_text("c" * 40)
    with pytest.raises(errors.DataError, match=r"snapshot missing in cache directory .*: expected the snapshot cccccccccccc of refs/main, found 2 snapshots"):
        sources.locate(cache)
    (cache / "refs" / "main").unlink()
    with pytest.raises(errors.DataError, match=r"expected refs/main, or a single snapshot, found 2 snapshots"):
        sources.locate(cache)
    (cache / "snapshots" / ("a" * 40)).rmdir()
    assert sources.locate(cache)[0].name == "b" * 40
    with pytest.raises(errors.DataError, match=r"source missing in --source 'gone'"):
        sources.locate(tmp_path / "gone")
    with pytest.raises(errors.DataError, match=r"weights missing in model directory"):
        sources.weights(cache)


def test_a_digest_is_compared_before_any_file_is_opened(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"PK\x03\x04 no zip")
    spec = dataclasses.replace(spec_of("openai", tmp_path), sha256=("f" * 64,))
    assert refusal(spec) == f"weights changed in tiny/model.pt: expected SHA-256 {'f' * 12}, found {digests.file_digest(path)[:12]}"
    torch_zip.write(path, published.CASES["openai"].states()["model"])
    assert convert.convert(dataclasses.replace(spec, sha256=(digests.file_digest(path),))).provenance["source_sha256"] == digests.file_digest(path)


def test_conversion_needs_little_more_memory_than_the_checkpoint(tmp_path, monkeypatch):
    wide = {"V": 192, "M": 768, "W": 192, "N": 768}
    monkeypatch.setattr(published.rows, "SIZES", {**published.rows.SIZES, **wide})
    monkeypatch.setattr(published.rows, "LAYERS", 6)
    case = published.CASES["openai"]
    stacks = [dataclasses.replace(tower.stack, width=192, layers=6, mlp_width=768) for tower in (case.image, case.text)]
    image, words = (dataclasses.replace(tower, stack=stack) for tower, stack in zip((case.image, case.text), stacks, strict=True))
    spec = dataclasses.replace(spec_of("openai", tmp_path), image=image, text=words)
    size = torch_zip.write(tmp_path / "model.pt", case.states()["model"]).stat().st_size
    assert size > 2e7
    convert.target_shapes(spec)
    tracemalloc.start()
    convert.convert(spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * size
