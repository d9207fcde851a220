"""Files that torch itself wrote, read without it; and what only torch can read, with the user's word."""

import collections
import os
import pathlib
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "encoders"))

import published  # noqa: E402
import torch_zip  # noqa: E402
from safetensors import numpy as safetensors_numpy  # noqa: E402

from relink_jax import errors  # noqa: E402
from relink_jax.encoders import convert, formats, layouts, rules, zoo  # noqa: E402
from relink_jax.store import checkpoints  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.fixture(autouse=True)
def _no_tokenizer(monkeypatch):
    monkeypatch.setattr(convert, "check_inputs", lambda spec: None)


def read(path, trust_pickle=False):
    with formats.opened(path, trust_pickle) as contents:
        return {key: tensor.load().copy() for key, tensor in contents.tensors.items()}, contents


def equal(arrays, state):
    assert arrays.keys() == state.keys()
    for key, tensor in state.items():
        assert arrays[key].shape == tuple(tensor.shape), key
        wanted = tensor.detach().float().numpy() if tensor.dtype == torch.bfloat16 else tensor.detach().numpy()
        np.testing.assert_array_equal(np.asarray(arrays[key], wanted.dtype), wanted, err_msg=key)


class Small(torch.nn.Module):
    """A model with parameters, buffers of several kinds, and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(5, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.tied = torch.nn.Linear(5, 3)
        self.tied.weight = self.first.weight
        self.register_buffer("position_ids", torch.arange(4)[None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.first(x))


DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def test_what_torch_saves_is_read_without_torch(tmp_path):
    base = torch.randn(6, 8)
    state = {str(dtype): (base * 3).to(dtype) for dtype in DTYPES}
    state |= {"turned": base.T, "cut": base[1:3, 2:5], "stepped": base[::2, ::3], "one": torch.tensor(2.5), "none": base[:0], "expanded": base[:1].expand(4, 8)}
    torch.save(state, tmp_path / "w.pt")
    arrays, contents = read(tmp_path / "w.pt")
    equal(arrays, state)
    assert contents.format == "torch zip"
    torch.save({"model": Small().state_dict(), "optimizer": torch.optim.AdamW(Small().parameters()).state_dict(), "epoch": 1}, tmp_path / "t.tar")
    _, contents = read(tmp_path / "t.tar")
    assert (contents.left_out, contents.unbuilt) == (("optimizer", "epoch"), ())
    parameters = {name: torch.nn.Parameter(base.clone()) for name in "ab"}
    torch.save(parameters, tmp_path / "p.pt")
    equal(read(tmp_path / "p.pt")[0], parameters)


def test_what_we_write_by_hand_is_what_torch_reads(tmp_path):
    """The torch-free tests stand on `torch_zip`: torch must agree with it."""
    floats = np.arange(20, dtype=np.float32)
    view = torch_zip.View(floats, (4, 3), (1, 4), 5, key="0")
    state = collections.OrderedDict(a=floats.reshape(4, 5), half=floats.astype(np.float16), view=view, ids=np.arange(3))
    path = torch_zip.write(tmp_path / "w.pt", {"state_dict": state, "epoch": 3})
    for weights_only in (True, False):
        loaded = torch.load(path, weights_only=weights_only)
        equal(read(path)[0], loaded["state_dict"])
    for name in ("hf-clip", "biovil-t"):
        for file, tensors in published.CASES[name].states().items():
            equal(tensors, torch.load(torch_zip.write(tmp_path / f"{file}.bin", tensors), weights_only=True))


def test_programs_need_the_users_word_and_then_give_the_same_tensors(tmp_path):
    model = Small().eval()
    torch.jit.script(model).save(str(tmp_path / "script.pt"))
    torch.save(model.state_dict(), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "plain.pt")
    for name, found in (("script.pt", "found a TorchScript program"), ("legacy.pt", "found a bare pickle, as torch wrote before version 1.6")):
        with pytest.raises(errors.DataError, match=rf"weights refused in file '{name}'.*--trust_pickle.*{found}"):
            read(tmp_path / name)
        arrays, contents = read(tmp_path / name, trust_pickle=True)
        equal(arrays, model.state_dict())
        assert contents.format.endswith("run by torch")
    assert {key: tensor.dtype for key, tensor in read(tmp_path / "plain.pt", True)[1].tensors.items()} == {"a": "F32", "b": "BF16"}
    (tmp_path / "legacy.pt").write_bytes((tmp_path / "legacy.pt").read_bytes()[:50])
    with pytest.raises(errors.DataError, match=r"expected a file that torch can load"):
        read(tmp_path / "legacy.pt", trust_pickle=True)


class Program:
    """What a hostile checkpoint holds."""

    def __init__(self, marker: pathlib.Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Settings:
    """An object of a class that only the author's code has."""

    def __init__(self) -> None:
        self.rate = 0.1


def test_objects_are_not_built_and_programs_not_run(tmp_path):
    marker = tmp_path / "was_here"
    for value in (Program(marker), {"a": Program(marker)}, {"model": {"a": torch.ones(2)}, "config": Program(marker)}):
        torch.save(value, tmp_path / "w.pt")
        with pytest.raises(errors.DataError, match=r"pickle refused .* found a call of (posix|nt|os).system"):
            read(tmp_path / "w.pt")
    assert not marker.exists()
    torch.save({"model": {"a": torch.ones(2)}, "config": Settings()}, tmp_path / "w.pt")
    arrays, contents = read(tmp_path / "w.pt")
    assert (list(arrays), contents.left_out, contents.unbuilt) == (["a"], ("config",), (f"{__name__}.Settings",))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(errors.DataError, match=r"found a call of torch.nn.modules.linear.Linear, not executed"):
        read(tmp_path / "w.pt")
    assert read(tmp_path / "w.pt", trust_pickle=True)[0].keys() == {"weight", "bias"}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_an_export_is_loaded_by_transformers(tmp_path, kind):
    """A checkpoint of transformers' own, converted, given other heads and exported, loads there with no key missing or left."""
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
    text = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 50, "max_position_embeddings": 16}
    maker, config_class = (transformers.CLIPModel, transformers.CLIPConfig) if kind == "clip" else (transformers.SiglipModel, transformers.SiglipConfig)
    extra = {"projection_dim": 12} if kind == "clip" else {}
    model = maker(config_class(vision_config=vision, text_config={**text, "eos_token_id": 49}, **extra)).eval()
    model.save_pretrained(tmp_path)
    result = convert.convert(zoo.from_directory(tmp_path))
    heads = {side: {name: part for name, part in head.items()} for side, head in result.heads.items()}
    heads["text"]["kernel"] = heads["text"]["kernel"] + 1
    tree = {**result.params, "heads": heads, "logit_scale": np.float32(result.logit_scale)}
    if result.logit_bias is not None:
        tree["logit_bias"] = np.float32(result.logit_bias)
    (state,) = convert.export_states(tree, [layouts.named(result.provenance["layout"])])
    convert.write_checkpoint(tmp_path / "model.safetensors", state, np.float32)
    again, info = maker.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    changed = "text_projection.weight" if kind == "clip" else "text_model.head.weight"
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], tensor + 1 if key == changed else tensor, rtol=0, atol=1e-6 if key == changed else 0)


def open_clip_states():
    """State dicts of open_clip's own modules, tiny: OpenAI's layout, and a timm tower beside a BERT."""
    open_clip = pytest.importorskip("open_clip")
    model = open_clip.model
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
    words = {"context_length": 24, "vocab_size": 30, "width": 32, "heads": 2, "layers": 2}
    return model.CLIP(12, vision, words, quick_gelu=True).state_dict()


def test_open_clips_own_state_dict_has_the_layout_we_read(tmp_path):
    state = open_clip_states()
    torch.save(state, tmp_path / "best.pt")
    arrays, _ = read(tmp_path / "best.pt")
    layout = layouts.detect(None, arrays)
    assert layout.name == "openai-clip"
    places, ignored = layout.assign(rules.canonical(arrays))
    assert len(places) + len(ignored) == len(state)
    flat = {path: part for key, (rule, paths) in places.items() for path, part in zip(paths, rule.convert(key, arrays[key]), strict=True)}
    (again,) = convert.export_states(checkpoints.unflatten(flat), [layout])
    equal(again, {key: tensor for key, tensor in state.items() if key not in ignored})
    safetensors_numpy.save_file(again, str(tmp_path / "again.safetensors"))
