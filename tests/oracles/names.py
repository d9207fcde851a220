"""Other libraries' names and shapes for tensors that transformers saved (models.md, sections 1, 3, 5, 7)."""

import re

import torch

from oracles import core


def openai(state: core.Tensors) -> core.Tensors:
    """Returns OpenAI's CLIP layout (also open_clip's own) of a saved HF CLIP."""
    result: core.Tensors = {}
    for name, tensor in state.items():
        if name.endswith("position_ids") or (".self_attn." in name and "out_proj" not in name):
            continue
        new = name
        for old, other in (
            ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
            ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
            ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
            ("vision_model.pre_layrnorm", "visual.ln_pre"),
            ("vision_model.post_layernorm", "visual.ln_post"),
            ("vision_model.encoder.layers", "visual.transformer.resblocks"),
            ("text_model.embeddings.token_embedding", "token_embedding"),
            ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
            ("text_model.final_layer_norm", "ln_final"),
            ("text_model.encoder.layers", "transformer.resblocks"),
            ("layer_norm", "ln_"),
            ("self_attn.out_proj", "attn.out_proj"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
        ):
            new = new.replace(old, other)
        if name in ("visual_projection.weight", "text_projection.weight"):
            new, tensor = {"v": "visual.proj", "t": "text_projection"}[name[0]], tensor.T.contiguous()
        result[new] = tensor
    for tower, other in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
        for layer in range(_count(state, rf"{tower}\.encoder\.layers\.(\d+)\.")):
            for kind, suffix in (("weight", "in_proj_weight"), ("bias", "in_proj_bias")):
                parts = [state[f"{tower}.encoder.layers.{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                result[f"{other}.resblocks.{layer}.attn.{suffix}"] = torch.cat(parts)
    return result


def timm_vit(state: core.Tensors) -> core.Tensors:
    """Returns timm's layout of a saved HF ViT without pooler."""
    result: core.Tensors = {}
    for name, tensor in state.items():
        if ".attention.attention." in name:
            continue
        new = re.sub(r"^encoder\.layer\.", "blocks.", name)
        for old, other in (
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
        ):
            new = new.replace(old, other)
        result[re.sub(r"^layernorm\.", "norm.", new)] = tensor
    for layer in range(_count(state, r"encoder\.layer\.(\d+)\.")):
        for kind in ("weight", "bias"):
            parts = [state[f"encoder.layer.{layer}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            result[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
    return result


def torchvision_resnet(state: core.Tensors) -> core.Tensors:
    """Returns torchvision's layout of a saved HF ResNet."""
    kinds = {"convolution": ("conv", "0"), "normalization": ("bn", "1")}
    result: core.Tensors = {}
    for name, tensor in state.items():
        stem = re.fullmatch(r"embedder\.embedder\.(convolution|normalization)\.(\w+)", name)
        inner = re.fullmatch(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:layer\.(\d)|shortcut)\.(convolution|normalization)\.(\w+)", name)
        if stem:
            new = f"{kinds[stem[1]][0]}1.{stem[2]}"
        elif inner:
            stage, block, part, kind, leaf = inner.groups()
            place = f"downsample.{kinds[kind][1]}" if part is None else f"{kinds[kind][0]}{int(part) + 1}"
            new = f"layer{int(stage) + 1}.{block}.{place}.{leaf}"
        else:
            raise KeyError(name)
        result[new] = tensor
    return result


def prefixed(prefix: str, state: core.Tensors) -> core.Tensors:
    """Returns the tensors with a prefix before every name."""
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _count(state: core.Tensors, pattern: str) -> int:
    return 1 + max(int(found[1]) for name in state if (found := re.match(pattern, name)))
