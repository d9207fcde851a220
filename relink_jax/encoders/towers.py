"""The towers of a dual encoder: from a spec to its Flax modules, features and parameters.

The tree of a whole model is `{'image': tower, 'text': tower, 'heads': {'image': form, 'text': form}, 'logit_scale': ()}`. What a head
computes is the business of `relink_jax.heads`; here is only which arrays each form has, so that a converter knows what to look for.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from relink_jax import errors
from relink_jax.encoders import bert, resnet, specs, swin, text, vit

_TOWERS: dict[type, Any] = {
    specs.VitSpec: vit.ImageTower,
    specs.ResNetSpec: resnet.ResNetTower,
    specs.SwinSpec: swin.SwinTower,
    specs.TextSpec: text.TextTower,
    specs.BertSpec: bert.BertTower,
}
_ONES = ("scale", "var")


def image_tower(spec: specs.VLMSpec) -> nn.Module:
    """Returns the Flax image tower of a spec."""
    tower: nn.Module = _TOWERS[type(spec.image)](spec.image)
    return tower


def text_tower(spec: specs.VLMSpec) -> nn.Module:
    """Returns the Flax text tower of a spec."""
    tower: nn.Module = _TOWERS[type(spec.text)](spec.text)
    return tower


def image_shape(spec: specs.VLMSpec) -> tuple[int, int, int]:
    """Returns the shape (H, W, C) of one image's pixels."""
    return (spec.image.image_size, spec.image.image_size, spec.image.channels)


def text_length(spec: specs.VLMSpec) -> int:
    """Returns the number of token ids of one text, padding included."""
    return spec.text.length if isinstance(spec.text, specs.BertSpec) else spec.text.positions


def prior_shape(spec: specs.VLMSpec) -> tuple[int, ...]:
    """Returns the shape (J,) of what a model's head takes beside each patch for a prior image; () for a model that compares no images."""
    return (spec.image.joint_width,) if isinstance(spec.image, specs.ResNetSpec) and spec.image.joint_width and spec.image_head == "patch" else ()


@functools.partial(jax.jit, static_argnums=0)
def image_features(spec: specs.VLMSpec, params: Any, pixels: jax.Array, prior: jax.Array | None = None) -> jax.Array:
    """Returns features before the head of normalised pixels [B, H, W, C] under the image tower's parameters: [B, F], or [B, P, F] of a map.

    With `prior` [B, H, W, C], the earlier images of the same patients, they are [B, P, 2 J]; only for a model with a `prior_shape`.
    """
    shown = (pixels,) if prior is None else (pixels, prior)
    features: jax.Array = image_tower(spec).apply({"params": params}, *shown)  # type: ignore[assignment]
    return features


@functools.partial(jax.jit, static_argnums=0)
def text_features(spec: specs.VLMSpec, params: Any, ids: jax.Array) -> jax.Array:
    """Returns features before the head [B, F] of token ids [B, L] under the text tower's parameters."""
    features: jax.Array = text_tower(spec).apply({"params": params}, ids)  # type: ignore[assignment]
    return features


def head_shapes(spec: specs.VLMSpec) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns `{'image': {path: shape}, 'text': {path: shape}}` of the arrays of both heads.

    Hidden widths follow from the spec: (F + dim) // 2 in 'mlp' (open_clip), dim in 'cxr_bert' and 'patch' (hi-ml), the tower's MLP width
    in 'map' (SigLIP).
    Raises: DataError: an unknown form, or one that does not end in the joint dimension.
    """
    return {side: _head_shapes(getattr(spec, f"{side}_head"), getattr(spec, side), spec.dim, f"{side} head of {spec.name!r}") for side in ("image", "text")}


@functools.partial(jax.jit, static_argnums=0)
def init(spec: specs.VLMSpec, key: jax.Array) -> dict[str, Any]:
    """Returns freshly initialised `{'image', 'text', 'heads', 'logit_scale'}` of a spec (logit scale 1/0.07, as CLIP)."""
    keys = jax.random.split(key, 4)
    image = image_tower(spec).init(keys[0], jnp.zeros((1, *image_shape(spec)), jnp.float32))["params"]
    report = text_tower(spec).init(keys[1], jnp.zeros((1, text_length(spec)), jnp.int32))["params"]
    heads = {side: _init_head(shapes, sub) for (side, shapes), sub in zip(head_shapes(spec).items(), keys[2:], strict=True)}
    return {"image": image, "text": report, "heads": heads, "logit_scale": jnp.log(jnp.float32(1 / 0.07))}


def _head_shapes(form: str, tower: specs.ImageSpec | specs.ReportSpec, dim: int, where: str) -> dict[str, tuple[int, ...]]:
    width = tower.features[-1]
    if form in ("map", "none") and width != dim:
        raise errors.DataError(errors.describe("joint dimension", where, f"{width}, the width of the features", str(dim)))
    if form == "linear":
        return _affine("", width, dim, bias=False)
    if form == "affine":
        return _affine("", width, dim)
    if form == "mlp":
        hidden = (width + dim) // 2
        return _affine("fc1/", width, hidden, bias=False) | _affine("fc2/", hidden, dim, bias=False)
    if form == "cxr_bert":
        return _affine("dense_to_hidden/", width, dim) | _vectors("norm/", dim, "scale", "bias") | _affine("dense_to_output/", dim, dim)
    if form == "patch":
        joint = tower.joint_width if isinstance(tower, specs.ResNetSpec) else 0
        shapes = _affine("conv1/", width + joint, dim, bias=False) | _vectors("bn/", dim, "scale", "bias", "mean", "var") | _affine("conv2/", dim, dim)
        return shapes | ({"missing": (joint,)} if joint else {})
    if form == "map" and isinstance(tower, specs.VitSpec | specs.TextSpec | specs.BertSpec):
        hidden = tower.stack.mlp_width
        return _vectors("norm/", width, "scale", "bias") | _affine("fc1/", width, hidden) | _affine("fc2/", hidden, width)
    if form == "none":
        return {}
    raise errors.DataError(errors.describe("head form", where, "linear, affine, mlp, cxr_bert, patch, map of a transformer, or none", repr(form)))


def _affine(prefix: str, fan_in: int, fan_out: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}kernel": (fan_in, fan_out), **({f"{prefix}bias": (fan_out,)} if bias else {})}


def _vectors(prefix: str, size: int, *names: str) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}{name}": (size,) for name in names}


def _init_head(shapes: Mapping[str, tuple[int, ...]], key: jax.Array) -> dict[str, Any]:
    """Returns a head as a tree: kernels normal with variance 1/F, scales and variances one, everything else zero."""
    head: dict[str, Any] = {}
    for index, (path, shape) in enumerate(shapes.items()):
        *parents, name = path.split("/")
        node = functools.reduce(lambda inner, parent: inner.setdefault(parent, {}), parents, head)
        if name == "kernel":
            node[name] = jax.random.normal(jax.random.fold_in(key, index) if index else key, shape) * shape[0] ** -0.5
        else:
            node[name] = jnp.full(shape, float(name in _ONES))
    return head
