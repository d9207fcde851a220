"""MedCLIP with ResNet and with Swin: `medclip/modeling_medclip.py` out of transformers' parts."""

import pathlib
from typing import Any

import numpy as np
import torch

from oracles import core, cxrclip, names, parts, vocabularies

SIZES = {name: {**sizes, "length": 77 if name == "published" else sizes["length"]} for name, sizes in cxrclip.SIZES.items()}


def build(kind: str) -> core.Builder:
    """Returns a builder of `pytorch_model.bin` of the 'resnet' or the 'swin' ("ViT") checkpoint."""

    def builder(directory: pathlib.Path, seed: int, size: str) -> core.Oracle:
        sizes = SIZES[size]
        vocabulary = 28996 if size == "published" else vocabularies.write_wordpiece(directory, tokenizer_config=False)
        positions = 512 if size == "published" else sizes["length"] + 4
        text = parts.stack(*sizes["text"], "gelu", 1e-12)
        image, state, spec = cxrclip.image_side(kind, sizes, "mean", seed)
        bert = core.randomise(parts.bert(text, vocabulary, positions), seed + 1)
        heads = core.randomise(cxrclip.Heads(cxrclip.image_width(spec), text["width"], sizes["dim"], bias=False), seed + 2)
        projection = "vision_model.model.fc.weight" if kind == "resnet" else "vision_model.projection_head.weight"
        state = names.prefixed("vision_model.model.", state) | parts.bert_state(bert, "text_model.model.")
        state |= {projection: heads.image_projection.projection.weight.detach(), "logit_scale": heads.logit_scale.detach()}
        state |= {"text_model.projection_head.weight": heads.text_projection.projection.weight.detach()}
        core.write_zip(directory / "pytorch_model.bin", state)
        core.write_preprocessor(directory, spec["image_size"], "crop")
        geometry = {
            "image": spec,
            "text": parts.bert_spec(text, vocabulary, sizes["length"], "three_layers", positions),
            "dim": sizes["dim"],
            "text_rule": "medclip",
        }
        return _oracle(kind, image.double(), bert.double(), heads.double(), geometry)

    return builder


def _oracle(kind: str, image: Any, bert: Any, heads: cxrclip.Heads, geometry: dict[str, Any]) -> core.Oracle:
    text = geometry["text"]

    @torch.no_grad()
    def reference(pixels: np.ndarray, ids: np.ndarray) -> core.Outputs:
        images, tokens = core.to_torch(pixels, ids)
        with core.captured({**cxrclip.image_blocks(image, kind), **core.blocks("text", bert.encoder.layer)}) as seen:
            pooled = image(pixel_values=images).pooler_output.flatten(1)
            hidden = parts.bert_run(bert, tokens)
        layers = torch.stack([hidden[1], hidden[2], hidden[-1]])
        features = {"image": pooled, "text": layers.permute(1, 0, 2, 3).mean(2).mean(1)}
        projected = {"image": heads.image_projection.projection(features["image"]), "text": heads.text_projection.projection(features["text"])}
        return core.finish(seen, features, projected)

    return core.Oracle(f"medclip-{kind}", geometry, reference, text["length"], vocabularies.wordpiece_ids(text["vocab_size"], text["length"]))
