"""SigLIP in Hugging Face's files: SigLIP, MedSigLIP, XraySigLIP."""

import pathlib
from typing import Any

import numpy as np
import torch
from transformers import SiglipConfig, SiglipModel

from oracles import core, parts, vocabularies

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 48, "layers": 3, "heads": 3, "mlp": 68, "image": 32, "patch": 8, "positions": 16},
    "small": {"width": 16, "layers": 2, "heads": 2, "mlp": 20, "image": 16, "patch": 8, "positions": 10},
    "published": {"width": 1152, "layers": 27, "heads": 16, "mlp": 4304, "image": 448, "patch": 14, "positions": 64, "vocabulary": 32000},
}
ACT = "gelu_pytorch_tanh"


def build(family: str) -> core.Builder:
    """Returns a builder of `model.safetensors` with `config.json`, for the given family's name."""

    def builder(directory: pathlib.Path, seed: int, size: str) -> core.Oracle:
        sizes = SIZES[size]
        vocabulary = sizes.get("vocabulary") or vocabularies.write_sentencepiece(directory, sizes["positions"])
        tower = parts.stack(sizes["width"], sizes["layers"], sizes["heads"], sizes["mlp"], ACT, 1e-6)
        config = SiglipConfig(
            vision_config={**parts.tower_config(tower), "image_size": sizes["image"], "patch_size": sizes["patch"]},
            text_config={
                **parts.tower_config(tower),
                "vocab_size": vocabulary,
                "max_position_embeddings": sizes["positions"],
                "projection_size": sizes["width"],
            },
            **parts.EXACT,
        )
        model = core.randomise(SiglipModel(config), seed)
        core.write_safetensors(directory / "model.safetensors", core.saved(model))
        core.write_json(directory / "config.json", core.config_of(model))
        core.write_preprocessor(directory, sizes["image"], "squash", std=0.5)
        vision = {"kind": "VitSpec", "stack": tower, "image_size": sizes["image"], "patch_size": sizes["patch"]}
        text = {"kind": "TextSpec", "stack": tower, "vocab_size": vocabulary, "positions": sizes["positions"], "eos_token_id": 49407}
        geometry = {
            "image": {**vision, "class_token": False, "pre_norm": False, "patch_bias": True, "pool": "probe"},
            "text": {**text, "causal": False, "pool": "last"},
            "dim": sizes["width"],
            "image_head": "map",
            "text_head": "affine",
            "text_rule": "siglip",
        }
        return _oracle(family, model.double(), geometry)

    return builder


def _oracle(family: str, model: SiglipModel, geometry: dict[str, Any]) -> core.Oracle:
    text = geometry["text"]

    @torch.no_grad()
    def reference(pixels: np.ndarray, ids: np.ndarray) -> core.Outputs:
        images, tokens = core.to_torch(pixels, ids)
        hooks = {**core.blocks("image", model.vision_model.encoder.layers), **core.blocks("text", model.text_model.encoder.layers)}
        hooks |= {"attended": model.vision_model.head.attention, "normed": model.text_model.final_layer_norm}
        with core.captured(hooks) as seen:
            projected = {"image": model.vision_model(pixel_values=images).pooler_output, "text": model.text_model(input_ids=tokens).pooler_output}
        features = {"image": torch.from_numpy(seen.pop("attended")[:, 0]), "text": torch.from_numpy(seen.pop("normed")[:, -1])}
        return core.finish(seen, features, projected)

    return core.Oracle(family, geometry, reference, text["positions"], vocabularies.sentencepiece_ids(text["vocab_size"], text["positions"]))
