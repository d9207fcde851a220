"""BioViL and BioViL-T: a ResNet's patches under a small convolutional head, and CXR-BERT; hi-ml's modules written out.

Only the temporal pooler has no counterpart in transformers; it is re-written here from hi-ml-multimodal 0.2.2
(`health_multimodal/image/model/transformer.py`) with its position table in float64, where hi-ml's is float32.
"""

import math
import pathlib
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BertForMaskedLM

from oracles import core, names, parts, vocabularies

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 4, "depths": (2, 1, 2, 1), "image": 72, "joint": 16, "heads": 4, "blocks": 3, "text": (32, 3, 2, 56), "dim": 24, "length": 20},
    "small": {"width": 2, "depths": (1, 1, 1, 2), "image": 66, "joint": 8, "heads": 2, "blocks": 2, "text": (16, 2, 2, 24), "dim": 8, "length": 12},
    "hi-ml": {"width": 64, "depths": (3, 4, 6, 3), "joint": 256, "heads": 8, "blocks": 3, "text": (32, 3, 2, 56), "dim": 24, "length": 20},
    "published": {"width": 64, "depths": (3, 4, 6, 3), "joint": 256, "heads": 8, "blocks": 3, "text": (768, 12, 12, 3072), "dim": 128, "length": 512},
}
FILES = {"biovil": "biovil_image_resnet50_proj_size_128.pt", "biovil-t": "biovil_t_image_model_proj_size_128.pt"}
SIDES = {"biovil": 480, "biovil-t": 448}


class TextHead(nn.Module):
    """CXR-BERT's head on the first token."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.dense_to_hidden, self.LayerNorm, self.dense_to_output = nn.Linear(width, dim), nn.LayerNorm(dim, eps=1e-12), nn.Linear(dim, dim)

    def forward(self, first: torch.Tensor) -> torch.Tensor:
        return self.dense_to_output(self.LayerNorm(nn.functional.gelu(self.dense_to_hidden(first))))


class Attention(nn.Module):
    """Self-attention without biases before the output; the embedding of place and time reaches q, k and v alike."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.proj_q, self.proj_k, self.proj_v = (nn.Linear(width, width, bias=False) for _ in "qkv")
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (part(x).reshape(batch, length, self.heads, width // self.heads).permute(0, 2, 1, 3) for part in (self.proj_q, self.proj_k, self.proj_v))
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Two linear maps of equal width around an exact gelu."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm layer whose attention sees place and time added after the norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width)

    def forward(self, x: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x) + where)
        return x + self.mlp(self.norm2(x))


class Pooler(nn.Module):
    """The temporal pooler: tokens of both images in, the current image's tokens out."""

    def __init__(self, width: int, heads: int, count: int) -> None:
        super().__init__()
        self.type_embed = nn.Parameter(torch.zeros(2, 1, width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(count)])
        self.norm_post = nn.LayerNorm(width, eps=1e-6)

    def forward(self, current: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """Returns [B, C, H, W] of two maps of that shape."""
        batch, width, height, _ = current.shape
        tokens = torch.cat([current.flatten(2).transpose(1, 2), previous.flatten(2).transpose(1, 2)], dim=1)
        table = sine_table(height, width)
        where = torch.cat([table + self.type_embed[0], table + self.type_embed[1]]).expand(batch, -1, -1)
        for block in self.blocks:
            tokens = block(tokens, where)
        return self.norm_post(tokens)[:, : height * height].transpose(1, 2).reshape(current.shape)


def sine_table(side: int, width: int) -> torch.Tensor:
    """Returns [side * side, width] float64: sines and cosines in turn, of the row in the first half and of the column in the second."""
    half = width // 2
    place = torch.arange(1, side + 1, dtype=torch.float64)
    place = place / (place[-1] + 1e-6) * 2 * math.pi
    angles = place[:, None] / 10000 ** (2 * torch.div(torch.arange(half), 2, rounding_mode="floor").double() / half)
    waves = torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=2).flatten(1)
    return torch.cat([waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)], dim=-1).reshape(side * side, width)


class ImageSide(nn.Module):
    """What the image file holds beside the ResNet, under hi-ml's names; `encoder.encoder.fc` is stored and unused."""

    def __init__(self, sizes: dict[str, Any], temporal: bool) -> None:
        super().__init__()
        last, dim = 32 * sizes["width"], sizes["dim"]
        encoder = nn.Module()
        if temporal:
            encoder.backbone_to_vit = nn.Conv2d(last, sizes["joint"], 1, bias=False)
            encoder.vit_pooler = Pooler(sizes["joint"], sizes["heads"], sizes["blocks"])
            encoder.missing_previous_emb = nn.Parameter(torch.zeros(1, sizes["joint"], 1, 1))
        encoder.encoder = nn.Module()
        encoder.encoder.fc = nn.Linear(last, 1000 if sizes["width"] == 64 else 5)
        self.encoder, self.projector = encoder, nn.Module()
        width = 2 * sizes["joint"] if temporal else last
        self.projector.model = nn.Sequential(nn.Conv2d(width, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, dim, 1))


def build(family: str) -> core.Builder:
    """Returns a builder of 'biovil' or 'biovil-t': the image file, `pytorch_model.bin` of CXR-BERT, `config.json`, `vocab.txt`."""

    def builder(directory: pathlib.Path, seed: int, size: str) -> core.Oracle:
        sizes = {"image": SIDES[family], **SIZES[size]}
        vocabulary = 30522 if size == "published" else vocabularies.write_wordpiece(directory)
        positions = 512 if size == "published" else sizes["length"] + 4
        text = parts.stack(*sizes["text"], "gelu", 1e-12)
        resnet = core.randomise(parts.resnet(sizes["width"], sizes["depths"]), seed)
        side = core.randomise(ImageSide(sizes, family == "biovil-t"), seed + 1)
        bert = core.randomise(BertForMaskedLM(parts.bert_config(text, vocabulary, positions)), seed + 2)
        head = core.randomise(TextHead(text["width"], sizes["dim"]), seed + 3)
        backbone = names.prefixed("encoder.encoder.", names.torchvision_resnet(core.saved(resnet)))
        core.write_zip(directory / FILES[family], {**backbone, **{name: tensor.clone() for name, tensor in side.state_dict().items()}})
        core.write_zip(directory / "pytorch_model.bin", _text_state(bert, head))
        config = {**core.config_of(bert), "model_type": "cxr-bert", "architectures": ["CXRBertModel"], "projection_size": sizes["dim"]}
        core.write_json(directory / "config.json", config)
        core.write_preprocessor(directory, sizes["image"], "crop")
        pool = {"pool": "map"} | (
            {"joint_width": sizes["joint"], "pooler_blocks": sizes["blocks"], "pooler_heads": sizes["heads"]} if family == "biovil-t" else {}
        )
        geometry = {
            "image": parts.resnet_spec(sizes["image"], sizes["width"], sizes["depths"], **pool),
            "text": parts.bert_spec(text, vocabulary, sizes["length"], "cls", positions),
            "dim": sizes["dim"],
            "image_head": "patch",
            "text_head": "cxr_bert",
            "text_rule": "cxr_bert",
        }
        return _oracle(family, (resnet.double(), side.double(), bert.bert.double(), head.double()), geometry)

    return builder


def _text_state(bert: BertForMaskedLM, head: TextHead) -> core.Tensors:
    state = core.saved(bert)
    positions = bert.config.max_position_embeddings
    state["bert.embeddings.position_ids"] = torch.arange(positions)[None]
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    return {**state, **names.prefixed("cls_projection_head.", {name: tensor.clone() for name, tensor in head.state_dict().items()})}


def _oracle(family: str, models: tuple[Any, ...], geometry: dict[str, Any]) -> core.Oracle:
    resnet, side, bert, head = models
    text = geometry["text"]

    def patches(images: torch.Tensor, previous: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (map under the tower's features, map under the projector), both [B, C, H, W]."""
        grid = parts.resnet_run(resnet, images)
        if family == "biovil":
            return grid, grid
        grid = side.encoder.backbone_to_vit(grid)
        missing = side.encoder.missing_previous_emb.expand(len(grid), -1, *grid.shape[2:])
        if previous is None:
            return grid, torch.cat([grid, missing], dim=1)
        other = side.encoder.vit_pooler(grid, side.encoder.backbone_to_vit(parts.resnet_run(resnet, previous)))
        fused = torch.cat([grid, other], dim=1)
        return fused, fused

    @torch.no_grad()
    def reference(pixels: np.ndarray, ids: np.ndarray, previous: np.ndarray | None = None) -> core.Outputs:
        images, tokens = core.to_torch(pixels, ids)
        prior = None if previous is None else core.to_torch(previous, ids)[0]
        with core.captured({**core.blocks("image", resnet.encoder.stages), **core.blocks("text", bert.encoder.layer)}) as seen:
            seen_map, fused = patches(images, prior)
            features = {"image": seen_map.flatten(2).transpose(1, 2), "text": parts.bert_run(bert, tokens)[-1][:, 0]}
        if previous is not None:
            seen = {name: value for name, value in seen.items() if not name.startswith("image_block")}
        projected = {"image": side.projector.model(fused).mean(dim=(2, 3)), "text": head(features["text"])}
        return core.finish(seen, features, projected)

    return core.Oracle(family, geometry, reference, text["length"], vocabularies.wordpiece_ids(text["vocab_size"], text["length"]))
