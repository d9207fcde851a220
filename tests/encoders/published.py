"""Tiny random state dicts in every published layout, of the geometry that `Case.spec` describes; the rows are in `published_rows`."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import published_rows as rows

from relink_jax.encoders.specs import BertSpec, ResNetSpec, StackSpec, SwinSpec, TextSpec, VitSpec, VLMSpec


@dataclasses.dataclass(frozen=True)
class Case:
    """A layout's files and the geometry they have; `names` are the layouts that our tables should find."""

    files: dict[str, str]
    names: tuple[str, ...]
    image: Any
    text: Any
    dim: int = rows.D
    image_head: str = "linear"
    text_head: str = "linear"

    def spec(self, directory: Any, name: str = "tiny") -> VLMSpec:
        return VLMSpec(name, directory, self.image, self.text, self.dim, self.image_head, self.text_head)

    def states(self, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
        """Random tensors of each file, by key."""
        draw = np.random.default_rng(seed)
        return {file: {key: _random(draw, shape, whole) for key, shape, whole, _, _ in rows_of(table)} for file, table in self.files.items()}

    def expected(self, states: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What each parameter path must hold after conversion."""
        placed = {}
        for file, table in self.files.items():
            for key, _, _, target, how in rows_of(table):
                placed |= _placed(states[file][key], target, how)
        return placed

    def ignored(self) -> list[str]:
        return sorted(key for table in self.files.values() for key, _, _, _, how in rows_of(table) if how == "-")


def rows_of(table: str) -> Iterator[tuple[str, tuple[int, ...], bool, str, str]]:
    """Yields (key, shape, whether integer, target, how) of every tensor of a table."""
    for line in table.splitlines():
        if not line.strip():
            continue
        key, shape, target, how = line.split()
        whole = shape.startswith("int:")
        sides = [side for side in shape.removeprefix("int:").strip("()").split(",") if side]
        sizes = tuple(int(found[1] or 1) * (rows.SIZES[found[2]] if found[2] else 1) for side in sides if (found := re.fullmatch(r"(\d*)([A-Z]?)", side)))
        for number in range(rows.LAYERS) if "{i}" in key else (0,):
            yield key.replace("{i}", str(number)), sizes, whole, target.replace("{i}", str(number)), how


def _random(draw: np.random.Generator, shape: tuple[int, ...], whole: bool) -> np.ndarray:
    if whole:
        return np.asarray(draw.integers(0, 9, shape), np.int64)
    return np.asarray(draw.standard_normal(shape), np.float32)


def _placed(array: np.ndarray, target: str, how: str) -> dict[str, np.ndarray]:
    if how == "q":
        third = len(array) // 3
        return {target.replace("*", name): array[index * third : (index + 1) * third].T for index, name in enumerate("qkv")}
    if how == "-":
        return {}
    return {
        target: {"=": lambda: array, "t": lambda: array.T, "c": lambda: np.einsum("oihw->hwio", array), "1": lambda: array[:, :, 0, 0].T, "s": array.squeeze}[
            how
        ]()
    }


_STACK = StackSpec(rows.V, rows.LAYERS, 3, rows.SIZES["M"], "gelu", 1e-5)
_WORDS = StackSpec(rows.W, rows.LAYERS, 2, rows.SIZES["N"], "gelu", 1e-5)
_CLIP_IMAGE, _CLIP_TEXT = VitSpec(_STACK, 32, rows.SIZES["P"]), TextSpec(_WORDS, rows.VOCAB, rows.SIZES["L"], 2)
_BERT_TEXT = BertSpec(_WORDS, rows.VOCAB, 20, "cls", positions=rows.SIZES["L"])
_RESNET = ResNetSpec(64, rows.BLOCKS, rows.STEM)
_SWIN = SwinSpec(32, "mean", rows.SWIN_BLOCKS, rows.SWIN_HEADS, rows.SWIN_WIDTH, rows.WINDOW)


def flax_names(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict of the HF CLIP layout as FlaxCLIPModel's parameters: kernels [in, out], LayerNorm `scale`, embedding tables `embedding`."""
    named = {}
    for key, array in state.items():
        path = key.replace(".", "/")
        if key.endswith("position_ids"):
            continue
        if re.search(r"(norm\d?|layrnorm)\.weight$", key):
            path = re.sub("weight$", "scale", path)
        elif re.search(r"(token|position)_embedding\.weight$", key):
            path = re.sub("weight$", "embedding", path)
        elif key.endswith("weight"):
            path, array = re.sub("weight$", "kernel", path), np.einsum("oihw->hwio", array) if array.ndim == 4 else array.T
        named[path] = np.array(array, order="C")
    return named


CASES = {
    "hf-clip": Case({"model": rows.HF_CLIP}, ("hf-clip",), _CLIP_IMAGE, _CLIP_TEXT),
    "hf-siglip": Case(
        {"model": rows.HF_SIGLIP},
        ("hf-siglip",),
        VitSpec(_STACK, 32, rows.SIZES["P"], class_token=False, pre_norm=False, patch_bias=True, pool="probe"),
        TextSpec(_STACK, rows.VOCAB, rows.SIZES["L"], 1, causal=False, pool="last"),
        rows.V,
        "map",
        "affine",
    ),
    "openai": Case({"model": rows.OPENAI}, ("openai-clip",), _CLIP_IMAGE, _CLIP_TEXT),
    "biomedclip": Case(
        {"model": rows.BIOMEDCLIP}, ("open-clip-timm-bert",), VitSpec(_STACK, 32, rows.SIZES["P"], pre_norm=False, patch_bias=True), _BERT_TEXT, text_head="mlp"
    ),
    "biovil": Case(
        {"biovil_image": rows.BIOVIL, "pytorch_model": rows.CXR_BERT},
        ("biovil-image", "cxr-bert"),
        dataclasses.replace(_RESNET, pool="map"),
        _BERT_TEXT,
        image_head="patch",
        text_head="cxr_bert",
    ),
    "biovil-t": Case(
        {"biovil_t_image": rows.BIOVIL_T, "pytorch_model": rows.CXR_BERT},
        ("biovil-t-image", "cxr-bert"),
        dataclasses.replace(_RESNET, pool="map", joint_width=rows.JOINT, pooler_blocks=rows.LAYERS, pooler_heads=2),
        _BERT_TEXT,
        image_head="patch",
        text_head="cxr_bert",
    ),
    "cxr-clip-resnet": Case(
        {"model": rows.resnet("image_encoder.resnet.") + rows.CXR_CLIP.replace("{f}", "F")},
        ("cxr-clip-resnet",),
        _RESNET,
        _BERT_TEXT,
        image_head="affine",
        text_head="affine",
    ),
    "cxr-clip-swin": Case(
        {"model": rows.swin("image_encoder.image_encoder.") + rows.CXR_CLIP.replace("{f}", "E")},
        ("cxr-clip-swin",),
        dataclasses.replace(_SWIN, pool="first"),
        _BERT_TEXT,
        image_head="affine",
        text_head="affine",
    ),
    "medclip-resnet": Case(
        {"model": rows.resnet("vision_model.model.") + "vision_model.model.fc.weight D,F heads/image/kernel t" + rows.MEDCLIP},
        ("medclip-resnet",),
        _RESNET,
        _BERT_TEXT,
    ),
    "medclip-swin": Case(
        {"model": rows.swin("vision_model.model.") + "vision_model.projection_head.weight D,E heads/image/kernel t" + rows.MEDCLIP},
        ("medclip-swin",),
        _SWIN,
        _BERT_TEXT,
    ),
    "gloria": Case({"model": rows.GLORIA}, ("gloria",), _RESNET, _BERT_TEXT, rows.W, "affine", "none"),
}
