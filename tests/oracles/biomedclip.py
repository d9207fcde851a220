"""BiomedCLIP: open_clip's CustomTextCLIP of timm's ViT and a BERT with a two-layer head, out of transformers' ViT and BERT."""

import pathlib
from typing import Any

import numpy as np
import torch

from oracles import core, names, parts, vocabularies

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"vision": (48, 3, 4, 80), "text": (32, 3, 2, 56), "image": 32, "patch": 8, "dim": 24, "length": 20, "positions": 40},
    "small": {"vision": (16, 2, 2, 28), "text": (16, 2, 2, 24), "image": 16, "patch": 8, "dim": 8, "length": 12, "positions": 16},
    "timm": {"vision": (192, 12, 3, 768), "text": (32, 3, 2, 56), "image": 224, "patch": 16, "dim": 24, "length": 20, "positions": 40},
    "published": {"vision": (768, 12, 12, 3072), "text": (768, 12, 12, 3072), "image": 224, "patch": 16, "dim": 512, "length": 256, "positions": 512},
}
FILE = "open_clip_pytorch_model.bin"


class _Head(torch.nn.Module):
    """The linear image head and the text head: two linear maps without bias around an exact gelu, hidden width (in + out) // 2."""

    def __init__(self, vision: int, text: int, dim: int) -> None:
        super().__init__()
        self.image = torch.nn.Linear(vision, dim, bias=False)
        hidden = (text + dim) // 2
        self.text = torch.nn.Sequential(torch.nn.Linear(text, hidden, bias=False), torch.nn.GELU(), torch.nn.Linear(hidden, dim, bias=False))
        self.logit_scale = torch.nn.Parameter(torch.zeros(()))


def build(directory: pathlib.Path, seed: int, size: str) -> core.Oracle:
    """Writes the open_clip files: weights as a zip pickle with the old position buffer, `open_clip_config.json`, `vocab.txt`."""
    sizes = SIZES[size]
    vocabulary = 30522 if size == "published" else vocabularies.write_wordpiece(directory)
    vision, text = parts.stack(*sizes["vision"], "gelu", 1e-6), parts.stack(*sizes["text"], "gelu", 1e-12)
    vit = core.randomise(parts.vit(vision, sizes["image"], sizes["patch"]), seed)
    bert = core.randomise(parts.bert(text, vocabulary, sizes["positions"]), seed + 1)
    head = core.randomise(_Head(vision["width"], text["width"], sizes["dim"]), seed + 2)
    state = names.prefixed("visual.trunk.", names.timm_vit(core.saved(vit)))
    transformer = {name: tensor for name, tensor in parts.bert_state(bert).items() if not name.startswith("pooler.")}
    state |= names.prefixed("text.transformer.", transformer)
    state |= {"visual.head.proj.weight": head.image.weight.detach(), "logit_scale": head.logit_scale.detach()}
    state |= {f"text.proj.{number}.weight": head.text[number].weight.detach() for number in (0, 2)}
    core.write_zip(directory / FILE, state)
    core.write_json(directory / "open_clip_config.json", _config(sizes))
    core.write_preprocessor(directory, sizes["image"], "crop")
    towers = (vit.double(), bert.double(), head.double())
    image = {"kind": "VitSpec", "stack": vision, "image_size": sizes["image"], "patch_size": sizes["patch"], "pre_norm": False, "patch_bias": True}
    geometry = {
        "image": image,
        "text": parts.bert_spec(text, vocabulary, sizes["length"], "cls", sizes["positions"]),
        "dim": sizes["dim"],
        "text_head": "mlp",
        "text_rule": "biomedclip",
    }

    @torch.no_grad()
    def reference(pixels: np.ndarray, ids: np.ndarray) -> core.Outputs:
        images, tokens = core.to_torch(pixels, ids)
        vit, bert, head = towers
        with core.captured({**core.blocks("image", vit.layers), **core.blocks("text", bert.encoder.layer)}) as seen:
            features = {"image": vit(pixel_values=images).last_hidden_state[:, 0], "text": parts.bert_run(bert, tokens)[-1][:, 0]}
        return core.finish(seen, features, {"image": head.image(features["image"]), "text": head.text(features["text"])})

    return core.Oracle("biomedclip", geometry, reference, sizes["length"], vocabularies.wordpiece_ids(vocabulary, sizes["length"]))


def _config(sizes: dict[str, Any]) -> dict[str, Any]:
    vision = {"timm_model_name": "vit_base_patch16_224", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "image_size": sizes["image"]}
    text = {
        "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": sizes["length"],
    }
    statistics = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    return {"model_cfg": {"embed_dim": sizes["dim"], "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": statistics}
