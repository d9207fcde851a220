"""The geometry of OpenAI's own layout from the shapes of its tensors, as open_clip builds a model from a state dict.

A layout whose files come without a config has its sizes nowhere else. Heads are the width over 64; what shows in no shape is what the
layout means: quick_gelu, epsilon 1e-5, the class token, and texts pooled at their highest id. open_clip writes what it trained itself with
plain gelu under the same keys, which no shape tells apart; such a checkpoint needs a `config.json`, or an entry of its own.

Sources: openai/CLIP clip/model.py `build_model`; open_clip src/open_clip/model.py `build_model_from_openai_state_dict`.
"""

import math
from collections.abc import Mapping
from typing import Any

from relink_jax import errors
from relink_jax.encoders import layouts, rules, specs, text

ASSUMED = "quick_gelu, epsilon 1e-5"
_HEAD = 64
_ACT, _EPSILON = "quick_gelu", 1e-5
_PREFIXES = {"image": "visual.transformer.resblocks.", "text": "transformer.resblocks."}
_PLACES = {
    "image width": ("visual.conv1.weight", 4, 0),
    "image MLP width": ("visual.transformer.resblocks.0.mlp.c_fc.weight", 2, 0),
    "patch size": ("visual.conv1.weight", 4, 2),
    "image positions": ("visual.positional_embedding", 2, 0),
    "text width": ("token_embedding.weight", 2, 1),
    "text MLP width": ("transformer.resblocks.0.mlp.c_fc.weight", 2, 0),
    "vocabulary": ("token_embedding.weight", 2, 0),
    "text positions": ("positional_embedding", 2, 0),
    "joint dimension": ("text_projection", 2, 1),
}  # name: (key, rank, axis)


def sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Returns every size that these shapes tell, {key as the table spells it: shape}; one whose tensor is missing or of another rank is left out."""
    found = {name: shapes[key][axis] for name, (key, rank, axis) in _PLACES.items() if len(shapes.get(key, ())) == rank}
    for side, prefix in _PREFIXES.items():
        found[f"{side} layers"] = len({key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)})
    return found


def read(shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, Any]:
    """Returns the fields of a `VLMSpec` that a state dict of OpenAI's layout decides: towers and joint dimension.

    Raises: DataError: a tensor that decides is missing, a width that 64 does not divide, or positions that are no square of patches and a class token.
    """
    found = sizes(shapes)
    lacking = sorted({key for name, (key, _, _) in _PLACES.items() if found.get(name, 0) < 1})
    if lacking:
        raise errors.DataError(errors.describe("geometry", where, "the tensors whose shapes tell it", f"none, or no such shape, for {rules.listed(lacking)}"))
    grid = math.isqrt(max(0, found["image positions"] - 1))
    if not grid or grid**2 + 1 != found["image positions"]:
        raise errors.DataError(errors.describe("image positions", where, "a square of patches and a class token", str(found["image positions"])))
    image = specs.VitSpec(_stack(found, "image", where), grid * found["patch size"], found["patch size"])
    report = specs.TextSpec(_stack(found, "text", where), found["vocabulary"], found["text positions"], text.LEGACY_EOS)
    return {"image": image, "text": report, "dim": found["joint dimension"]}


def check(spec: specs.VLMSpec, layout: rules.Layout, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Checks a spec against the shapes of a file of OpenAI's layout; of another layout, nothing.

    Raises: DataError: names every size that differs, with both values.
    """
    if layout is not layouts.OPENAI_CLIP or not isinstance(spec.image, specs.VitSpec) or not isinstance(spec.text, specs.TextSpec):
        return
    found, stated = sizes(shapes), _stated(spec.image, spec.text, spec.dim)
    differing = [name for name in found if found[name] != stated[name]]
    if differing:
        expected, has = (", ".join(f"{name} {values[name]}" for name in differing) for values in (stated, found))
        raise errors.DataError(errors.describe("geometry", where, f"{expected}, as {spec.name!r} is described", f"{has} in the shapes"))


def _stack(found: Mapping[str, int], side: str, where: str) -> specs.StackSpec:
    width, layers, mlp_width = (found[f"{side} {name}"] for name in ("width", "layers", "MLP width"))
    if not layers or width % _HEAD:
        expected = f"layers, and a width that is a multiple of {_HEAD}, one head for each {_HEAD}"
        raise errors.DataError(errors.describe(f"{side} tower", where, expected, f"{layers} layers of width {width}"))
    return specs.StackSpec(width, layers, width // _HEAD, mlp_width, _ACT, _EPSILON)


def _stated(image: specs.VitSpec, report: specs.TextSpec, dim: int) -> dict[str, int]:
    """Returns what `sizes` gives for a checkpoint of these towers."""
    stacks = {
        f"{side} {name}": value
        for side, stack in (("image", image.stack), ("text", report.stack))
        for name, value in (("width", stack.width), ("MLP width", stack.mlp_width), ("layers", stack.layers))
    }
    return stacks | {
        **{"patch size": image.patch_size, "image positions": image.positions, "vocabulary": report.vocab_size},
        **{"text positions": report.positions, "joint dimension": dim},
    }
