"""Reads the `config.json` of Hugging Face dual encoders (`model_type` clip or siglip) into specs.

Every number comes from the checkpoint's own file; nothing is guessed from a model's name. The format's writer leaves out fields that
have the format's default value, so an absent field means that default (transformers, models/clip/configuration_clip.py and
models/siglip/configuration_siglip.py); every size is checked against the checkpoint's shapes afterwards, but the activation and
epsilon show in no shape.
"""

from collections.abc import Mapping
from typing import Any

from relink_jax import errors
from relink_jax.encoders import specs

_LARGEST = 2**24
_CLIP = {
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "vision": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 32},
    "text": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8},
    "words": {"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407},
}
_SIGLIP = {
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16},
    "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "words": {"vocab_size": 32000, "max_position_embeddings": 64, "eos_token_id": 49407},
}
_DEFAULTS: dict[str, dict[str, Any]] = {"clip": _CLIP, "siglip": _SIGLIP}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a `VLMSpec` that a `config.json` decides: towers, joint dimension, forms of the heads, text rule.

    Raises: DataError: another model type, or a missing or wrongly typed field.
    """
    kind = config.get("model_type")
    if kind not in _DEFAULTS:
        raise errors.DataError(errors.describe("unknown model type", "config.json", " or ".join(map(repr, _DEFAULTS)), repr(kind)))
    shared = _DEFAULTS[kind]
    common = {name: shared[name] for name in ("hidden_act", "layer_norm_eps")}
    vision = _section(config, "vision_config", {**common, **shared["vision"], "image_size": 224, "num_channels": 3})
    text = _section(config, "text_config", {**common, **shared["text"], **shared["words"]})
    image = _vision(vision, {} if kind == "clip" else {"class_token": False, "pre_norm": False, "patch_bias": True, "pool": "probe"})
    words: dict[str, Any] = {
        "stack": _stack(text, "text_config"),
        "vocab_size": _number(text, "vocab_size", "text_config"),
        "positions": _number(text, "max_position_embeddings", "text_config", least=2),
        "eos_token_id": _number(text, "eos_token_id", "text_config", least=0),
    }
    if kind == "clip":
        return {"image": image, "text": specs.TextSpec(**words), "dim": _number({"projection_dim": 512, **config}, "projection_dim", "config")}
    report, width = specs.TextSpec(**words, causal=False, pool="last"), image.stack.width
    joint = _number({"projection_size": width, **text}, "projection_size", "text_config")
    if joint != width:
        raise errors.DataError(errors.describe("joint dimension", "config.json field 'text_config.projection_size'", f"the image width {width}", str(joint)))
    return {"image": image, "text": report, "dim": width, "image_head": "map", "text_head": "affine", "text_rule": "siglip"}


def _vision(section: Mapping[str, Any], options: Mapping[str, Any]) -> specs.VitSpec:
    where = "vision_config"
    image_size, patch_size, channels = (_number(section, name, where) for name in ("image_size", "patch_size", "num_channels"))
    if channels != 3:
        raise errors.DataError(errors.describe("channels", f"config.json field '{where}.num_channels'", "3", str(channels)))
    if image_size % patch_size:
        raise errors.DataError(errors.describe("patch size", f"config.json field '{where}.patch_size'", f"a divisor of {image_size}", str(patch_size)))
    return specs.VitSpec(stack=_stack(section, where), image_size=image_size, patch_size=patch_size, channels=channels, **options)


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


def _stack(section: Mapping[str, Any], where: str) -> specs.StackSpec:
    act = section.get("hidden_act")
    if not isinstance(act, str):
        raise errors.DataError(errors.describe("activation", f"config.json field '{where}.hidden_act'", "a name such as 'quick_gelu'", repr(act)))
    epsilon = section.get("layer_norm_eps")
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise errors.DataError(errors.describe("epsilon", f"config.json field '{where}.layer_norm_eps'", "a number in (0, 1)", repr(epsilon)))
    width, layers, heads, mlp_width = (
        _number(section, name, where) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    )
    return specs.StackSpec(width=width, layers=layers, heads=heads, mlp_width=mlp_width, act=act, epsilon=epsilon)


def _number(section: Mapping[str, Any], name: str, where: str, least: int = 1) -> int:
    value = section.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LARGEST:
        raise errors.DataError(errors.describe("size", f"config.json field '{where}.{name}'", f"a whole number from {least} to {_LARGEST}", repr(value)))
    return value
