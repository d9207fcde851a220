"""What a dual encoder is, as frozen data; imports no jax.

Every number comes from the checkpoint's own `config.json`; nothing is guessed from a model's name. `read_clip` reads the
Hugging Face CLIP layout (`model_type: clip`). That format's writer leaves out fields that have the format's default
value, so an absent field means that default (`_VISION`, `_TEXT`; transformers, models/clip/configuration_clip.py); every
size is checked against the checkpoint's shapes afterwards, but the activation and epsilon show in no shape.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from relink_jax import errors

CONFIG = "config.json"
_LARGEST = 2**24


@dataclasses.dataclass(frozen=True)
class StackSpec:
    """Geometry of a pre-LN transformer stack."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    act: str
    epsilon: float

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.mlp_width) < 1 or self.width % self.heads:
            raise errors.DataError(
                errors.describe("tower geometry", "config.json", "positive sizes and a width divisible by the heads", f"width {self.width}, heads {self.heads}")
            )


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    """An image tower: square images of `image_size` pixels cut into patches of `patch_size`."""

    stack: StackSpec
    image_size: int
    patch_size: int
    channels: int

    @property
    def positions(self) -> int:
        """Class token plus patches."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """A causal text tower; `eos_token_id` selects the pooled position (see `text.eos_position`)."""

    stack: StackSpec
    vocab_size: int
    positions: int
    eos_token_id: int


@dataclasses.dataclass(frozen=True)
class VLMSpec:
    """One dual encoder: where its files lie, what it is, and how far it was specialised to chest radiographs.

    `specialisation` is the rung on the ladder (0 = none), -1 when unknown; `sha256` is the digest its `model.safetensors`
    must have, None when the files are the user's own.
    """

    name: str
    directory: pathlib.Path
    image: ImageSpec
    text: TextSpec
    dim: int
    specialisation: int
    description: str
    exposure: str
    licence: str
    sha256: str | None


_VISION = {
    **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    **{"image_size": 224, "patch_size": 32, "num_channels": 3},
}
_TEXT = {
    **{"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    **{"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407},
}


def read_json(directory: pathlib.Path, name: str = CONFIG) -> dict[str, Any]:
    """Returns a parsed file of a checkpoint directory.

    Raises: DataError: it is missing, or not a JSON object.
    """
    where = f"model directory {directory.name!r}"
    if not (directory / name).is_file():
        raise errors.DataError(errors.describe("file missing", where, f"a JSON file {name}", "none"))
    try:
        config = json.loads((directory / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise errors.DataError(errors.describe("file unreadable", where, f"a JSON file {name}", type(error).__name__)) from error
    if not isinstance(config, dict):
        raise errors.DataError(errors.describe("file unreadable", where, f"a JSON object in {name}", type(config).__name__))
    return config


def read_clip(config: Mapping[str, Any]) -> tuple[ImageSpec, TextSpec, int]:
    """Returns (image tower, text tower, embedding dimension) of an HF CLIP `config.json`.

    Raises: DataError: another model type, or a missing or wrongly typed field.
    """
    kind = config.get("model_type")
    if kind != "clip":
        raise errors.DataError(errors.describe("unknown model type", "config.json", "'clip'", repr(kind)))
    vision, text = _section(config, "vision_config", _VISION), _section(config, "text_config", _TEXT)
    image = ImageSpec(
        stack=_stack(vision, "vision_config"),
        image_size=_number(vision, "image_size", "vision_config"),
        patch_size=_number(vision, "patch_size", "vision_config"),
        channels=_number(vision, "num_channels", "vision_config"),
    )
    if image.channels != 3:
        raise errors.DataError(errors.describe("channels", "config.json field 'vision_config.num_channels'", "3", str(image.channels)))
    if image.image_size % image.patch_size:
        raise errors.DataError(
            errors.describe("patch size", "config.json field 'vision_config.patch_size'", f"a divisor of {image.image_size}", str(image.patch_size))
        )
    report = TextSpec(
        stack=_stack(text, "text_config"),
        vocab_size=_number(text, "vocab_size", "text_config"),
        positions=_number(text, "max_position_embeddings", "text_config", least=2),
        eos_token_id=_number(text, "eos_token_id", "text_config", least=0),
    )
    return image, report, _number({"projection_dim": 512, **config}, "projection_dim", "config")


def _section(config: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns one tower's fields over the format's defaults; old files keep a second copy that must agree."""
    section, copy = config.get(name), config.get(f"{name}_dict") or {}
    if not isinstance(section, Mapping) or not isinstance(copy, Mapping):
        wrong, field = (copy, f"{name}_dict") if isinstance(section, Mapping) else (section, name)
        raise errors.DataError(errors.describe("section missing", "config.json", f"an object {field!r}", type(wrong).__name__))
    fields = {**defaults, **section}
    differing = sorted(field for field, value in copy.items() if field in defaults and fields[field] != value)
    if differing:
        raise errors.DataError(errors.describe("contradiction", f"config.json, {name} and {name}_dict", "equal values", f"different {', '.join(differing)}"))
    return fields


def _stack(section: Mapping[str, Any], where: str) -> StackSpec:
    act = section.get("hidden_act")
    if not isinstance(act, str):
        raise errors.DataError(errors.describe("activation", f"config.json field '{where}.hidden_act'", "a name such as 'quick_gelu'", repr(act)))
    epsilon = section.get("layer_norm_eps")
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise errors.DataError(errors.describe("epsilon", f"config.json field '{where}.layer_norm_eps'", "a number in (0, 1)", repr(epsilon)))
    width, layers, heads, mlp_width = (
        _number(section, name, where) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    )
    return StackSpec(width=width, layers=layers, heads=heads, mlp_width=mlp_width, act=act, epsilon=epsilon)


def _number(section: Mapping[str, Any], name: str, where: str, least: int = 1) -> int:
    value = section.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LARGEST:
        raise errors.DataError(errors.describe("size", f"config.json field '{where}.{name}'", f"a whole number from {least} to {_LARGEST}", repr(value)))
    return value
