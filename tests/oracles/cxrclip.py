"""CXR-CLIP with ResNet and with Swin: `cxrclip/model/clip.py` out of transformers' parts."""

import pathlib
from typing import Any

import numpy as np
import torch
from torch import nn

from oracles import core, names, parts, vocabularies

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"resnet": (4, (2, 1, 2, 1), 72), "swin": (8, (2, 2, 2), (1, 2, 4), 112), "text": (32, 3, 2, 56), "dim": 24, "length": 20},
    "small": {"resnet": (2, (1, 1, 1, 2), 66), "swin": (4, (2, 2), (1, 2), 56), "text": (16, 2, 2, 24), "dim": 8, "length": 12},
    "published": {
        "resnet": (64, (3, 4, 6, 3), 224),
        "swin": (96, (2, 2, 6, 2), (3, 6, 12, 24), 224),
        "text": (768, 12, 12, 3072),
        "dim": 512,
        "length": 256,
    },
}
FILES = {"resnet": "r50_m.tar", "swin": "swint_m.tar"}


class Heads(nn.Module):
    """Both heads and the temperature, under the checkpoint's names."""

    def __init__(self, image: int, text: int, dim: int, bias: bool) -> None:
        super().__init__()
        self.image_projection, self.text_projection = nn.Module(), nn.Module()
        self.image_projection.projection, self.text_projection.projection = nn.Linear(image, dim, bias=bias), nn.Linear(text, dim, bias=bias)
        self.logit_scale = nn.Parameter(torch.zeros(()))


def image_side(kind: str, sizes: dict[str, Any], pool: str, seed: int) -> tuple[Any, core.Tensors, dict[str, Any]]:
    """Returns (model, its tensors under published names without prefix, the spec) of a 'resnet' or 'swin'."""
    if kind == "resnet":
        width, depths, side = sizes["resnet"]
        model = core.randomise(parts.resnet(width, depths), seed)
        return model, names.torchvision_resnet(core.saved(model)), parts.resnet_spec(side, width, depths)
    width, depths, heads, side = sizes["swin"]
    swin = core.randomise(parts.swin(width, depths, heads, side), seed)
    return swin, parts.swin_state(swin, depths), parts.swin_spec(side, width, depths, heads, pool)


def image_width(spec: dict[str, Any]) -> int:
    return spec["width"] * 2 ** (len(spec["blocks"]) - 1) * (4 if spec["kind"] == "ResNetSpec" else 1)


def image_blocks(model: Any, kind: str) -> dict[str, nn.Module]:
    """Returns the modules after which block outputs are compared: ResNet stages, or every Swin block."""
    if kind == "resnet":
        return core.blocks("image", model.encoder.stages)
    return core.blocks("image", [block for stage in model.encoder.layers for block in stage.blocks])


def build(kind: str) -> core.Builder:
    """Returns a builder of the 'resnet' or the 'swin' checkpoint: a dict with optimiser and configuration around the state dict."""

    def builder(directory: pathlib.Path, seed: int, size: str) -> core.Oracle:
        sizes = SIZES[size]
        vocabulary = 28996 if size == "published" else vocabularies.write_wordpiece(directory, tokenizer_config=False)
        positions = 512 if size == "published" else sizes["length"] + 4
        text = parts.stack(*sizes["text"], "gelu", 1e-12)
        image, state, spec = image_side(kind, sizes, "first", seed)
        bert = core.randomise(parts.bert(text, vocabulary, positions), seed + 1)
        heads = core.randomise(Heads(image_width(spec), text["width"], sizes["dim"], bias=True), seed + 2)
        state = names.prefixed(f"image_encoder.{'resnet' if kind == 'resnet' else 'image_encoder'}.", state)
        state |= parts.bert_state(bert, "text_encoder.text_encoder.")
        state |= {name: tensor.clone() for name, tensor in heads.state_dict().items()}
        around = {"optimizer": {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": []}, "scheduler": {"last_epoch": 3}}
        core.write_zip(directory / FILES[kind], {"model": state, **around, "config": {"model": {"name": "clip_custom"}}, "epoch": 3, "train_loss": 0.5})
        core.write_preprocessor(directory, spec["image_size"], "crop")
        geometry = {
            "image": spec,
            "text": parts.bert_spec(text, vocabulary, sizes["length"], "sep", positions),
            "dim": sizes["dim"],
            "image_head": "affine",
            "text_head": "affine",
            "text_rule": "clinical_bert",
        }
        return _oracle(kind, image.double(), bert.double(), heads.double(), geometry)

    return builder


def _oracle(kind: str, image: Any, bert: Any, heads: Heads, geometry: dict[str, Any]) -> core.Oracle:
    text = geometry["text"]

    @torch.no_grad()
    def reference(pixels: np.ndarray, ids: np.ndarray) -> core.Outputs:
        images, tokens = core.to_torch(pixels, ids)
        with core.captured({**image_blocks(image, kind), **core.blocks("text", bert.encoder.layer)}) as seen:
            output = image(pixel_values=images)
            last = parts.bert_run(bert, tokens)[-1]
        end = (tokens != 0).sum(dim=-1) - 1
        features = {
            "image": output.pooler_output.flatten(1) if kind == "resnet" else output.last_hidden_state[:, 0],
            "text": last[torch.arange(len(last)), end],
        }
        projected = {"image": heads.image_projection.projection(features["image"]), "text": heads.text_projection.projection(features["text"])}
        return core.finish(seen, features, projected)

    return core.Oracle(f"cxr-clip-{kind}", geometry, reference, text["length"], vocabularies.wordpiece_ids(text["vocab_size"], text["length"]))
