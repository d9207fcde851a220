"""Torch towers out of transformers' own models, with the geometry in which a `VLMSpec` states the same tower."""

from typing import Any

import torch
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel, SwinConfig, SwinModel, ViTConfig, ViTModel

from oracles import core

# The eager path takes its softmax in float32 whatever the dtype (transformers 5), which is 1e-8 off in float64.
EXACT = {"attn_implementation": "sdpa"}


def stack(width: int, layers: int, heads: int, mlp_width: int, act: str, epsilon: float) -> dict[str, Any]:
    """Returns keyword arguments of a `StackSpec`."""
    return {"width": width, "layers": layers, "heads": heads, "mlp_width": mlp_width, "act": act, "epsilon": epsilon}


def tower_config(sizes: dict[str, Any]) -> dict[str, Any]:
    """Returns a stack's sizes under transformers' names."""
    return {
        "hidden_size": sizes["width"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "intermediate_size": sizes["mlp_width"],
        "hidden_act": sizes["act"],
        "layer_norm_eps": sizes["epsilon"],
    }


def bert_config(sizes: dict[str, Any], vocabulary: int, positions: int) -> BertConfig:
    """Returns a BERT configuration of the given stack."""
    return BertConfig(**tower_config(sizes), vocab_size=vocabulary, max_position_embeddings=positions, **EXACT)


def bert(sizes: dict[str, Any], vocabulary: int, positions: int) -> BertModel:
    """Returns BERT with its unused pooler, as published files have it."""
    return BertModel(bert_config(sizes, vocabulary, positions))


def bert_run(model: BertModel, ids: torch.Tensor, pad: int = 0) -> tuple[torch.Tensor, ...]:
    """Returns the hidden states [B, L, W] after the embeddings and after every layer, padding masked."""
    mask = (ids != pad).long()
    output = model(input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids), output_hidden_states=True)
    return output.hidden_states


def vit(sizes: dict[str, Any], image_size: int, patch_size: int) -> ViTModel:
    """Returns a ViT with patch bias and class token and without pooler: timm's vit_base_patch16_224 at full size."""
    return ViTModel(ViTConfig(**tower_config(sizes), image_size=image_size, patch_size=patch_size, **EXACT), add_pooling_layer=False)


def resnet(width: int, depths: tuple[int, ...]) -> ResNetModel:
    """Returns ResNet v1.5 with bottlenecks: torchvision's resnet50 at width 64 and depths 3, 4, 6, 3."""
    sizes = [4 * width * 2**stage for stage in range(len(depths))]
    return ResNetModel(ResNetConfig(embedding_size=width, hidden_sizes=sizes, depths=list(depths), layer_type="bottleneck", hidden_act="relu"))


def resnet_spec(image_size: int, width: int, depths: tuple[int, ...], **options: Any) -> dict[str, Any]:
    return {"kind": "ResNetSpec", "image_size": image_size, "width": width, "blocks": list(depths), **options}


def resnet_run(model: ResNetModel, images: torch.Tensor) -> torch.Tensor:
    """Returns the last grid [B, C, H, W]."""
    return model(pixel_values=images).last_hidden_state


def swin(width: int, depths: tuple[int, ...], heads: tuple[int, ...], image_size: int) -> SwinModel:
    """Returns a Swin transformer with window 7 and patch 4."""
    config = SwinConfig(embed_dim=width, depths=list(depths), num_heads=list(heads), window_size=7, image_size=image_size, patch_size=4, **EXACT)
    return SwinModel(config)


def swin_spec(image_size: int, width: int, depths: tuple[int, ...], heads: tuple[int, ...], pool: str) -> dict[str, Any]:
    return {"kind": "SwinSpec", "image_size": image_size, "pool": pool, "width": width, "blocks": list(depths), "heads": list(heads)}


def swin_state(model: SwinModel, depths: tuple[int, ...]) -> core.Tensors:
    """Returns the tensors of a Swin as transformers before version 5 wrote them, index buffers included."""
    state = core.saved(model)
    coordinates = torch.stack(torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij")).flatten(1)
    apart = (coordinates[:, :, None] - coordinates[:, None, :]).permute(1, 2, 0) + 6
    for stage, depth in enumerate(depths):
        for block in range(depth):
            state[f"encoder.layers.{stage}.blocks.{block}.attention.self.relative_position_index"] = apart[..., 0] * 13 + apart[..., 1]
    return state


def bert_state(model: BertModel, prefix: str = "") -> core.Tensors:
    """Returns the tensors of a BERT with the position buffer that writers before version 4.31 added."""
    state = {f"{prefix}{name}": tensor for name, tensor in core.saved(model).items()}
    positions = model.config.max_position_embeddings
    return {**state, f"{prefix}embeddings.position_ids": torch.arange(positions)[None]}


def bert_spec(sizes: dict[str, Any], vocabulary: int, length: int, pool: str, positions: int) -> dict[str, Any]:
    return {"kind": "BertSpec", "stack": sizes, "vocab_size": vocabulary, "length": length, "pool": pool, "positions": positions}
