"""The same architectures in transformers' torch, with random weights, to time our towers against; needs the `convert` extra.

Speed does not depend on the weights, so a peer is built from a spec alone: no checkpoint is needed to see where we are.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.encoders import specs


def threads() -> int:
    """Returns how many threads torch uses from now on: one per CPU this process may use, as XLA does."""
    torch, _ = _libraries()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return int(torch.get_num_threads())


def image_peer(spec: specs.ImageSpec) -> Callable[[np.ndarray], Any]:
    """Returns `pixels [B, H, W, 3] -> features` of transformers' module for this tower, ready to be timed (inference mode, default attention)."""
    torch, transformers = _libraries()
    module = _image_module(transformers, spec).eval()

    def call(pixels: np.ndarray) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 1))))

    return call


def text_peer(spec: specs.ReportSpec) -> Callable[[np.ndarray], Any]:
    """Returns `ids [B, L] -> features` of transformers' module for this tower; see `image_peer`."""
    torch, transformers = _libraries()
    module = _text_module(transformers, spec).eval()
    pad = spec.pad_id if isinstance(spec, specs.BertSpec) else None

    def call(ids: np.ndarray) -> Any:
        given = torch.from_numpy(ids.astype(np.int64))
        with torch.inference_mode():
            return module(input_ids=given) if pad is None else module(input_ids=given, attention_mask=(given != pad).long())

    return call


def _libraries() -> tuple[Any, Any]:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise errors.UsageError(errors.describe("torch", "this environment", "the extra relink_jax[convert], to time against", "none")) from error
    transformers.logging.set_verbosity_error()
    return torch, transformers


def _stack(stack: specs.StackSpec) -> dict[str, Any]:
    return {
        "hidden_size": stack.width,
        "num_hidden_layers": stack.layers,
        "num_attention_heads": stack.heads,
        "intermediate_size": stack.mlp_width,
        "hidden_act": stack.act,
        "layer_norm_eps": stack.epsilon,
    }


def _image_module(transformers: Any, spec: specs.ImageSpec) -> Any:
    if isinstance(spec, specs.ResNetSpec):
        widths = [spec.width * 4 * 2**stage for stage in range(len(spec.blocks))]
        return transformers.ResNetModel(transformers.ResNetConfig(embedding_size=spec.width, hidden_sizes=widths, depths=list(spec.blocks)))
    if isinstance(spec, specs.SwinSpec):
        sizes = {"image_size": spec.image_size, "patch_size": spec.patch_size, "embed_dim": spec.width, "window_size": spec.window}
        return transformers.SwinModel(transformers.SwinConfig(depths=list(spec.blocks), num_heads=list(spec.heads), mlp_ratio=spec.mlp_ratio, **sizes))
    sizes = {**_stack(spec.stack), "image_size": spec.image_size, "patch_size": spec.patch_size}
    if spec.pool == "probe":
        return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**sizes))
    if spec.pre_norm:
        return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes))
    return transformers.ViTModel(transformers.ViTConfig(**sizes), add_pooling_layer=False)


def _text_module(transformers: Any, spec: specs.ReportSpec) -> Any:
    if isinstance(spec, specs.BertSpec):
        sizes = {**_stack(spec.stack), "vocab_size": spec.vocab_size, "max_position_embeddings": spec.positions, "type_vocab_size": spec.types}
        return transformers.BertModel(transformers.BertConfig(**sizes, pad_token_id=spec.pad_id), add_pooling_layer=False)
    sizes = {**_stack(spec.stack), "vocab_size": spec.vocab_size, "max_position_embeddings": spec.positions}
    if spec.causal:
        return transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes, eos_token_id=spec.eos_token_id, pad_token_id=1, bos_token_id=0))
    return transformers.SiglipTextModel(transformers.SiglipTextConfig(**sizes))
