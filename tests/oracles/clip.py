"""CLIP in four dresses: Hugging Face files (also PubMedCLIP, XrayCLIP), OpenAI's archive, CheXzero's state dict and HF-Flax msgpack."""

import pathlib
from typing import Any

import numpy as np
import torch
from flax import serialization
from transformers import CLIPConfig, CLIPModel

from oracles import core, names, parts, vocabularies

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"vision": (48, 3, 4, 80), "text": (32, 2, 2, 56), "image": 32, "patch": 8, "dim": 24, "positions": 20},
    "small": {"vision": (16, 2, 2, 28), "text": (16, 2, 2, 24), "image": 16, "patch": 8, "dim": 8, "positions": 12},
    "published": {"vision": (768, 12, 12, 3072), "text": (512, 12, 8, 2048), "image": 224, "patch": 32, "dim": 512, "positions": 77, "vocabulary": 49408},
}


def _model(directory: pathlib.Path, seed: int, sizes: dict[str, Any], act: str, eos: int | None) -> tuple[CLIPModel, dict[str, Any]]:
    vocabulary = sizes.get("vocabulary") or vocabularies.write_bpe(directory, sizes["positions"])
    eos_id = vocabulary - 1 if eos is None else eos
    vision, text = parts.stack(*sizes["vision"], act, 1e-5), parts.stack(*sizes["text"], act, 1e-5)
    config = CLIPConfig(
        vision_config={**parts.tower_config(vision), "image_size": sizes["image"], "patch_size": sizes["patch"]},
        text_config={
            **parts.tower_config(text),
            "vocab_size": vocabulary,
            "max_position_embeddings": sizes["positions"],
            "bos_token_id": vocabulary - 2,
            "eos_token_id": eos_id,
            "pad_token_id": vocabulary - 1,
        },
        projection_dim=sizes["dim"],
        **parts.EXACT,
    )
    model = core.randomise(CLIPModel(config), seed)
    core.write_preprocessor(directory, sizes["image"], "crop")
    geometry = {
        "image": {"kind": "VitSpec", "stack": vision, "image_size": sizes["image"], "patch_size": sizes["patch"]},
        "text": {"kind": "TextSpec", "stack": text, "vocab_size": vocabulary, "positions": sizes["positions"], "eos_token_id": eos_id},
        "dim": sizes["dim"],
    }
    return model, geometry


def _oracle(family: str, model: CLIPModel, geometry: dict[str, Any], pad: int | None = None) -> core.Oracle:
    model = model.double()
    text = geometry["text"]

    @torch.no_grad()
    def reference(pixels: np.ndarray, ids: np.ndarray) -> core.Outputs:
        images, tokens = core.to_torch(pixels, ids)
        hooks = {**core.blocks("image", model.vision_model.encoder.layers), **core.blocks("text", model.text_model.encoder.layers)}
        with core.captured(hooks) as seen:
            features = {"image": model.vision_model(pixel_values=images).pooler_output, "text": model.text_model(input_ids=tokens).pooler_output}
        projected = {"image": model.visual_projection(features["image"]), "text": model.text_projection(features["text"])}
        return core.finish(seen, features, projected)

    highest = text["vocab_size"]
    sample = vocabularies.bpe_ids(highest, text["positions"], highest - 1 if pad is None else pad)
    return core.Oracle(family, geometry, reference, text["positions"], sample)


def build_hf(family: str, act: str = "quick_gelu", file: str = "model.safetensors", eos: int | None = None) -> core.Builder:
    """Returns a builder of Hugging Face's layout; `file` is model.safetensors or pytorch_model.bin, the latter with its old int64 buffers."""

    def build(directory: pathlib.Path, seed: int, size: str) -> core.Oracle:
        model, geometry = _model(directory, seed, SIZES[size], act, eos)
        core.write_json(directory / "config.json", core.config_of(model))
        state = core.saved(model)
        if file.endswith(".bin"):
            for tower, count in (("vision", model.vision_model.embeddings.num_positions), ("text", SIZES[size]["positions"])):
                state[f"{tower}_model.embeddings.position_ids"] = torch.arange(count)[None]
            core.write_zip(directory / file, state)
        else:
            core.write_safetensors(directory / file, state)
        return _oracle(family, model, geometry)

    return build


def build_msgpack(directory: pathlib.Path, seed: int, size: str) -> core.Oracle:
    """Writes `flax_model.msgpack`: HF-Flax names, kernels already [in, out] and HWIO."""
    model, geometry = _model(directory, seed, SIZES[size], "quick_gelu", 2)
    core.write_json(directory / "config.json", core.config_of(model))
    tree: dict[str, Any] = {}
    for name, tensor in core.saved(model).items():
        *path, leaf = name.split(".")
        value = tensor.numpy()
        if leaf == "weight" and "embedding" in path[-1] and path[-1] != "patch_embedding":
            leaf = "embedding"
        elif leaf == "weight" and "norm" in path[-1]:
            leaf = "scale"
        elif leaf == "weight":
            leaf, value = "kernel", np.transpose(value, (2, 3, 1, 0) if value.ndim == 4 else (1, 0))
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = np.ascontiguousarray(value).reshape(value.shape)
    (directory / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    return _oracle("clip-msgpack", model, geometry)


def _half(name: str) -> bool:
    """OpenAI's `convert_weights`: linear and convolution weights, biases and projections are fp16; norms, tables and scale stay fp32."""
    return any(part in name for part in ("self_attn", "mlp", "projection", "patch_embedding"))


def _openai_state(model: CLIPModel) -> core.Tensors:
    state = names.openai({name: tensor.half() if _half(name) else tensor for name, tensor in core.saved(model).items()})
    return {name: tensor.clone() for name, tensor in state.items()}


class _Node(torch.nn.Module):
    """An empty module to hang parameters on."""


def _script(state: core.Tensors) -> Any:
    root = _Node()
    for name, tensor in state.items():
        *path, leaf = name.split(".")
        node = root
        for part in path:
            if part not in dict(node.named_children()):
                node.add_module(part, _Node())
            node = dict(node.named_children())[part]
        if tensor.dtype.is_floating_point:
            node.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
        else:
            node.register_buffer(leaf, tensor)
    return torch.jit.script(root)


def build_openai(directory: pathlib.Path, seed: int, size: str) -> core.Oracle:
    """Writes `ViT-B-32.pt` as OpenAI does: a TorchScript archive, mixed fp16 and fp32, with the three integer entries."""
    sizes = SIZES[size]
    model, geometry = _model(directory, seed, sizes, "quick_gelu", 2)
    core.halve(model, _half)
    state = _openai_state(model)
    constants = {"input_resolution": sizes["image"], "context_length": sizes["positions"], "vocab_size": geometry["text"]["vocab_size"]}
    _script({**state, **{name: torch.tensor(value) for name, value in constants.items()}}).save(str(directory / "ViT-B-32.pt"))
    return _oracle("clip-openai", model, geometry, pad=0)


def build_chexzero(directory: pathlib.Path, seed: int, size: str) -> core.Oracle:
    """Writes `best_64_5e-05_original_22000_0.864.pt`: OpenAI's layout as a plain state dict."""
    model, geometry = _model(directory, seed, SIZES[size], "quick_gelu", 2)
    core.halve(model, _half)
    core.write_zip(directory / "best_64_5e-05_original_22000_0.864.pt", _openai_state(model))
    return _oracle("chexzero", model, {**geometry, "text_rule": "chexzero"}, pad=0)
