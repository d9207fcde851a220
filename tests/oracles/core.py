"""What every oracle shares: random weights that let no term hide, files as their authors write them, float64 outputs.

Weights are drawn in float32 and written as drawn, so that the float64 model of the oracle and the reader of the files start from the
same numbers. Files are renamed from what transformers *saves*: since version 5 its modules are named differently in memory.
"""

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from safetensors import torch as safetensors_torch

Tensors = dict[str, torch.Tensor]
Outputs = dict[str, np.ndarray]
_TABLES = ("position_embeddings", "cls_token", "probe", "type_embed", "position_bias")


@dataclasses.dataclass(frozen=True)
class Oracle:
    """A published checkpoint and what it computes.

    `geometry` holds keyword arguments of `VLMSpec` with the towers as `{'kind': class name, ...}`; it is plain data for JSON.
    `reference(pixels [B, H, W, 3], ids [B, L])` returns float64 arrays: `{side}_block_{i}`, `{side}_features` before the head,
    `{side}_projected` after it and `{side}_embeddings` of norm 1; an image pair is given as `reference(pixels, ids, previous)`.
    """

    family: str
    geometry: dict[str, Any]
    reference: Callable[..., Outputs]
    text_length: int
    sample_ids: Callable[[int], np.ndarray]

    def inputs(self, seed: int, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
        """Returns random pixels [count, H, W, 3] float64 and ids [count, text_length] of this checkpoint's vocabulary."""
        side = self.geometry["image"]["image_size"]
        draw = np.random.default_rng(seed)
        return draw.standard_normal((count, side, side, 3)), np.stack([self.sample_ids(seed + number) for number in range(count)])


Builder = Callable[[pathlib.Path, int, str], Oracle]


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Returns the module in evaluation mode with every parameter and batch-norm statistic drawn anew.

    Matrices and kernels have standard deviation 1.2 / sqrt(fan in), tables 0.7, norm scales 1 +- 0.3, biases 0.3.
    """
    generator = torch.Generator().manual_seed(seed)
    tables = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            draw = torch.randn(parameter.shape, generator=generator)
            if name.rsplit(".")[-1].startswith("logit_"):
                parameter.copy_(2.5 + 0.1 * draw)
            elif parameter.ndim < 2:
                parameter.copy_(0.3 * draw + (1.0 if name.endswith("weight") else 0.0))
            elif id(parameter) in tables or any(part in name for part in _TABLES) or parameter.shape[0] == 1:
                parameter.copy_(0.7 * draw)
            else:
                parameter.copy_(draw * 1.2 * (parameter.numel() / parameter.shape[0]) ** -0.5)
        for name, buffer in sorted(module.named_buffers()):
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
            elif name.endswith("num_batches_tracked"):
                buffer.fill_(1000)
    return module.eval()


def halve(module: torch.nn.Module, chosen: Callable[[str], bool]) -> torch.nn.Module:
    """Returns the module with the chosen parameters rounded to what half precision can hold."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if chosen(name):
                parameter.copy_(parameter.half().float())
    return module


def saved(module: Any) -> Tensors:
    """Returns the tensors that transformers writes for a model, under the names that it writes."""
    with tempfile.TemporaryDirectory() as directory:
        module.save_pretrained(directory)
        return safetensors_torch.load_file(f"{directory}/model.safetensors")


def config_of(module: Any) -> dict[str, Any]:
    """Returns the `config.json` that transformers writes for a model."""
    with tempfile.TemporaryDirectory() as directory:
        module.config.save_pretrained(directory)
        return json.loads(pathlib.Path(directory, "config.json").read_text())


def write_json(path: pathlib.Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_safetensors(path: pathlib.Path, tensors: Tensors) -> None:
    safetensors_torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(path), metadata={"format": "pt"})
    path.chmod(0o644)


def write_zip(path: pathlib.Path, value: Any) -> None:
    """Writes a zip pickle as `torch.save` does; tensors are copied, so that no view drags its base along."""
    torch.save({name: item.clone() if isinstance(item, torch.Tensor) else item for name, item in value.items()}, path)


def write_preprocessor(directory: pathlib.Path, side: int, kind: str, mean: float = 0.5, std: float = 0.25) -> None:
    """Writes a `preprocessor_config.json`: `kind` is 'crop' (CLIP) or 'squash' (SigLIP)."""
    sizes: dict[str, Any] = {"size": {"height": side, "width": side}, "do_resize": True}
    if kind == "crop":
        sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}, "do_resize": True, "do_center_crop": True}
    write_json(directory / "preprocessor_config.json", {**sizes, "resample": 3, "image_mean": [mean] * 3, "image_std": [std] * 3})


@contextlib.contextmanager
def captured(modules: Mapping[str, torch.nn.Module]) -> Iterator[Outputs]:
    """Collects the outputs of modules, first of a tuple, under the given names; maps [B, C, H, W] become [B, H, W, C]."""
    found: Outputs = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            tensor = output if isinstance(output, torch.Tensor) else output[0]
            found[name] = array(tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor)

        return keep

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def blocks(side: str, modules: Any) -> dict[str, torch.nn.Module]:
    """Returns {'{side}_block_{i}': module} for a list of layers."""
    return {f"{side}_block_{index}": module for index, module in enumerate(modules)}


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64).numpy().copy()


def to_torch(pixels: np.ndarray, ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns float64 pixels [B, 3, H, W] and int64 ids [B, L]."""
    return torch.from_numpy(np.moveaxis(np.asarray(pixels, np.float64), -1, 1).copy()), torch.from_numpy(np.asarray(ids, np.int64))


def finish(outputs: Outputs, features: Mapping[str, torch.Tensor], projected: Mapping[str, torch.Tensor]) -> Outputs:
    """Returns the outputs with features, projections and unit-norm embeddings of both sides."""
    result = dict(outputs)
    for side in ("image", "text"):
        result[f"{side}_features"] = array(features[side])
        result[f"{side}_projected"] = array(projected[side])
        result[f"{side}_embeddings"] = array(projected[side] / projected[side].norm(dim=-1, keepdim=True))
    return result
