"""GLoRIA: `gloria/models/{text,vision}_model.py` out of transformers' parts, with its word aggregation as upstream loops it."""

import pathlib
from typing import Any

import numpy as np
import torch
from torch import nn

from oracles import core, names, parts, vocabularies

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 4, "depths": (2, 1, 2, 1), "image": 56, "resize": 75, "text": (32, 5, 2, 56), "length": 20},
    "small": {"width": 2, "depths": (1, 1, 1, 2), "image": 50, "resize": 66, "text": (16, 4, 2, 24), "length": 12},
    "published": {"width": 64, "depths": (3, 4, 6, 3), "image": 224, "resize": 299, "text": (768, 12, 12, 3072), "length": 97},
}


class Embedders(nn.Module):
    """The affine image head and the 1 x 1 convolution of the local loss, which is stored and unused here."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.global_embedder, self.local_embedder = nn.Linear(width, dim), nn.Conv2d(width // 2, dim, 1, bias=False)


def aggregate(embeddings: torch.Tensor, ids: torch.Tensor, words: list[str]) -> torch.Tensor:
    """Returns [B, layers, L, W]: word pieces summed into words, up to and with [SEP], then zeros."""
    batch = []
    for states, row in zip(embeddings.permute(0, 2, 1, 3), ids, strict=True):
        found: list[torch.Tensor] = []
        bank: list[torch.Tensor] = []
        for state, number in zip(states, row, strict=True):
            word = words[int(number)]
            if word == "[SEP]":
                found += [torch.stack(bank).sum(0), state]
                break
            if word.startswith("##") or not bank:
                bank.append(state)
            else:
                found.append(torch.stack(bank).sum(0))
                bank = [state]
        padding = torch.zeros(len(row) - len(found), *states.shape[1:], dtype=states.dtype)
        batch.append(torch.cat([torch.stack(found), padding]))
    return torch.stack(batch).permute(0, 2, 1, 3)


def build(directory: pathlib.Path, seed: int, size: str) -> core.Oracle:
    """Writes `chexpert_resnet50.ckpt`: a Lightning checkpoint with `hyper_parameters` and the state dict under `gloria.`."""
    sizes = SIZES[size]
    vocabulary = 28996 if size == "published" else vocabularies.write_wordpiece(directory, tokenizer_config=False)
    words = [f"w{number}" for number in range(vocabulary)] if size == "published" else (directory / "vocab.txt").read_text().splitlines()
    words[3] = "[SEP]"
    positions = 512 if size == "published" else sizes["length"] + 4
    text = parts.stack(*sizes["text"], "gelu", 1e-12)
    resnet = core.randomise(parts.resnet(sizes["width"], sizes["depths"]), seed)
    bert = core.randomise(parts.bert(text, vocabulary, positions), seed + 1)
    heads = core.randomise(Embedders(32 * sizes["width"], text["width"]), seed + 2)
    state = names.prefixed("img_encoder.model.", names.torchvision_resnet(core.saved(resnet)))
    state |= names.prefixed("img_encoder.", {name: tensor.clone() for name, tensor in heads.state_dict().items()})
    state |= parts.bert_state(bert, "text_encoder.model.")
    around = {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "1.1.4", "callbacks": {}, "optimizer_states": [], "lr_schedulers": []}
    written = {**around, "hyper_parameters": {"phase": "pretrain"}, "state_dict": names.prefixed("gloria.", state)}
    core.write_zip(directory / "chexpert_resnet50.ckpt", written)
    core.write_preprocessor(directory, sizes["image"], "crop")
    resnet, bert, heads = resnet.double(), bert.double(), heads.double()
    geometry = {
        "image": parts.resnet_spec(sizes["image"], sizes["width"], sizes["depths"], resize=sizes["resize"]),
        "text": parts.bert_spec(text, vocabulary, sizes["length"], "last_four", positions),
        "dim": text["width"],
        "image_head": "affine",
        "text_head": "none",
        "text_rule": "gloria",
    }

    @torch.no_grad()
    def reference(pixels: np.ndarray, ids: np.ndarray) -> core.Outputs:
        images, tokens = core.to_torch(pixels, ids)
        with core.captured({**core.blocks("image", resnet.encoder.stages), **core.blocks("text", bert.encoder.layer)}) as seen:
            upsampled = nn.Upsample(size=(sizes["resize"],) * 2, mode="bilinear", align_corners=True)(images)
            pooled = resnet(pixel_values=upsampled).pooler_output.flatten(1)
            hidden = torch.stack(parts.bert_run(bert, tokens)[-4:]).permute(1, 0, 2, 3)
        features = {"image": pooled, "text": aggregate(hidden, tokens, words).mean(2).sum(1)}
        return core.finish(seen, features, {"image": heads.global_embedder(pooled), "text": features["text"]})

    return core.Oracle("gloria", geometry, reference, sizes["length"], vocabularies.wordpiece_ids(vocabulary, sizes["length"]))
