"""Projection heads as plain pytrees: `features -> unit-norm embeddings`.

Heads are `{'image': head, 'text': head}`, each a nested dict of float32 arrays, so that `vmap(grad)`, sharding, hashing and
storage need no adapter. A head's form is told by its keys; kernels are [in, out]:

    linear    kernel                               CLIP's bias-free map (Radford et al. 2021, arXiv 2103.00020, section 2.3)
    affine    kernel, bias
    mlp       fc1, fc2 (kernels)                   exact GELU between, no biases (BiomedCLIP text)
    cxr_bert  dense_to_hidden, norm, dense_to_output    exact GELU, then LayerNorm of epsilon 1e-12 (BioViL text)
    patch     conv1, bn, conv2[, missing]          1 x 1 convolutions over a map, batch norm of epsilon 1e-5 and ReLU between (BioViL image)
    map       norm, fc1, fc2                       x + fc2(gelu_tanh(fc1(norm(x)))), epsilon 1e-6 (what follows SigLIP's attention pooling)
    none      nothing                              the features are the embedding

The patch form takes maps [P, F] and averages after the head, since its ReLU sits before the mean. `missing` [M] is BioViL-T's learned
stand-in for a prior image: it completes features that lack their last M channels and is left alone by features that have them.
Batch norm always uses its stored statistics, so a record's embedding and gradient depend on that record alone.
"""

import pathlib
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors_numpy

from relink_jax import errors
from relink_jax.store import checkpoints, digests, files

Heads: TypeAlias = dict[str, dict[str, Any]]
SIDES = ("image", "text")
FORMS: dict[str, frozenset[str]] = {
    "linear": frozenset({"kernel"}),
    "affine": frozenset({"kernel", "bias"}),
    "mlp": frozenset({"fc1/kernel", "fc2/kernel"}),
    "cxr_bert": frozenset({f"{part}/{name}" for part in ("dense_to_hidden", "dense_to_output") for name in ("kernel", "bias")} | {"norm/scale", "norm/bias"}),
    "patch": frozenset({"conv1/kernel", "conv2/kernel", "conv2/bias"} | {f"bn/{name}" for name in ("scale", "bias", "mean", "var")}),
    "map": frozenset({"norm/scale", "norm/bias", "fc1/kernel", "fc1/bias", "fc2/kernel", "fc2/bias"}),
    "none": frozenset(),
}
_FOLDED = FORMS["patch"] - {"bn/scale", "bn/bias", "bn/mean", "bn/var"} | {"conv1/bias"}
_FROZEN = frozenset({"bn/mean", "bn/var", "missing"})
_CXR_BERT_EPSILON, _PATCH_EPSILON, _MAP_EPSILON = 1e-12, 1e-5, 1e-6


def form_of(head: dict[str, Any]) -> str:
    """Returns the name of a head's form, one of `FORMS`; a folded patch head is a patch head.

    Raises: DataError: parameters of no form.
    """
    names = frozenset(_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(head))
    for form, needed in FORMS.items():
        if names == needed or (form == "patch" and names - {"missing"} in (needed, _FOLDED)):
            return form
    raise errors.DataError(errors.describe("head of no known form", "heads", f"the parameters of one of {', '.join(FORMS)}", ", ".join(sorted(names))))


def project(head: dict[str, Any], features: Any) -> jax.Array:
    """Returns unit-norm embeddings [N, D] of features [N, F], or of maps [N, P, F] under a patch head, at HIGHEST precision.

    One record is [F] or [P, F] and gives [D]. Half-precision features are computed with in float32.

    Raises: DataError: parameters of no form, or features of another shape than the head takes.
    """
    return unit_norm(tapped(head, features)[0])


def unit_norm(outputs: jax.Array) -> jax.Array:
    """Returns head outputs [.., D] divided by their norms; NaN where an output is zero."""
    return outputs / jnp.linalg.norm(outputs, axis=-1, keepdims=True)


def tapped(head: dict[str, Any], features: Any, taps: dict[str, jax.Array] | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns (head outputs [.., D] before the unit norm, the input of every dense layer by its name).

    A tap is an array of zeros (`zero_taps`) added to what its layer puts out. A layer's kernel gradient is the sum over positions of
    input (x) gradient with respect to the tap, so that a record's gradient has a norm without ever being formed.

    Raises: DataError: see `project`.
    """
    form = form_of(head)
    x = jnp.asarray(features)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    _check_shape(form, head, x.shape)
    layers = _Layers(head, taps or {})
    return _OUTPUTS[form](head, layers, x), layers.inputs


def zero_taps(head: dict[str, Any], shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """Returns one array of zeros per dense layer, shaped as its output for features of `shape` [.., F]."""
    return {name: jnp.zeros((*shape[:-1], _part(head, name)["kernel"].shape[1]), jnp.float32) for name in dense_layers(head)}


def dense_layers(head: dict[str, Any]) -> list[str]:
    """Returns the names of a head's dense layers, the one of a linear or affine head being ''."""
    return [""] if "kernel" in head else [name for name, part in head.items() if isinstance(part, dict) and "kernel" in part]


def constant_inputs(head: dict[str, Any], name: str, width: int) -> Any:
    """Returns `missing` [M] where a dense layer completes inputs of `width` with it, and None elsewhere."""
    return head["missing"] if "missing" in head and name == "conv1" and width < np.shape(head[name]["kernel"])[0] else None


def partition(heads: Heads) -> tuple[Heads, Heads]:
    """Returns (trained, fixed), each of the dict structure of `heads` with None in place of the other kind's leaves."""
    flags = {side: trainable(head) for side, head in heads.items()}
    trained = jax.tree.map(lambda flag, leaf: leaf if flag else None, flags, heads)
    return trained, jax.tree.map(lambda flag, leaf: None if flag else leaf, flags, heads)


def combine(trained: Heads, fixed: Heads) -> Heads:
    """Returns the heads that `partition` took apart: leaves of `trained` where it has any, those of `fixed` elsewhere."""
    whole: Heads = jax.tree.map(lambda one, other: other if one is None else one, trained, fixed, is_leaf=lambda leaf: leaf is None)
    return whole


def fold(head: dict[str, Any]) -> dict[str, Any]:
    """Returns a head with the same embeddings and fewer parameters: a patch head's batch norm goes into conv1, others stay as they are."""
    if "bn" not in head:
        return head
    scale, bias, mean, var = (np.asarray(head["bn"][name], np.float64) for name in ("scale", "bias", "mean", "var"))
    kernel = np.asarray(head["conv1"]["kernel"])
    factor = scale / np.sqrt(var + _PATCH_EPSILON)
    conv1 = {"kernel": (kernel * factor).astype(kernel.dtype), "bias": (bias - mean * factor).astype(kernel.dtype)}
    return {**{name: value for name, value in head.items() if name != "bn"}, "conv1": conv1}


def trainable(head: dict[str, Any]) -> dict[str, Any]:
    """Returns a tree like `head` of bools: batch-norm statistics and `missing` stay as published, all else may be trained."""
    flags: dict[str, Any] = jax.tree_util.tree_map_with_path(lambda path, _: _name(path) not in _FROZEN, head)
    return flags


def random_heads(seed: int, like: Heads) -> Heads:
    """Returns heads of the same forms and shapes as an untrained control.

    Kernels are independent normal of variance 1 / inputs, biases 0 and norm scales 1. What `trainable` freezes is kept, so that the
    control is a random head and not a random normalisation.
    """
    generator = np.random.default_rng(seed)

    def drawn(path: Any, leaf: Any) -> np.ndarray:
        name, array = _name(path), np.asarray(leaf, np.float32)
        if name in _FROZEN:
            return array
        if name.endswith("kernel"):
            return (generator.standard_normal(array.shape) / np.sqrt(array.shape[0])).astype(np.float32)
        return np.full(array.shape, float(name.endswith("scale")), np.float32)

    return {side: jax.tree_util.tree_map_with_path(drawn, like[side]) for side in SIDES}


def save(directory: pathlib.Path, heads: Heads, card: dict[str, Any]) -> str:
    """Writes `heads.safetensors` and `card.json` (arm, provenance, forms, digest) and returns the digest.

    Raises: DataError: parameters of no form.
    """
    flat = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in checkpoints.flatten(heads).items()}
    digest = digests.arrays_digest(flat)
    forms = {side: form_of(head) for side, head in heads.items()}
    files.write_with(directory / "heads.safetensors", lambda temporary: safetensors_numpy.save_file(flat, str(temporary)))
    files.write_json(directory / "card.json", {**card, "forms": forms, "heads_sha256": digest})
    return digest


def load(directory: pathlib.Path) -> tuple[Heads, dict[str, Any]]:
    """Returns (heads, card) after checking digest, names and shapes.

    Raises: StoreError: missing or unreadable files, or arrays that do not match the card's SHA-256 or have other forms than it says.
    """
    card = files.read_object(directory / "card.json", {"heads_sha256": str}, f"heads '{directory.name}/card.json'")
    path = directory / "heads.safetensors"
    flat = files.read_with(path, safetensors_numpy.load_file, "a whole safetensors file", f"heads '{directory.name}/{path.name}'")
    found = digests.arrays_digest(flat)
    if found != card["heads_sha256"]:
        raise errors.StoreError(errors.describe("heads corrupted", f"heads {directory.name!r}", f"SHA-256 {card['heads_sha256'][:12]}", found[:12]))
    heads = {side: {} for side in SIDES} | checkpoints.unflatten(flat)
    forms = {side: form_of(head) for side, head in heads.items()}
    if card.get("forms") != forms:
        raise errors.StoreError(errors.describe("heads of other forms", f"heads {directory.name!r}", str(card.get("forms")), str(forms)))
    return heads, card


def _name(path: Any) -> str:
    return "/".join(str(key.key) for key in path)


def _check_shape(form: str, head: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Raises `DataError` unless features of this shape go through the head."""
    ranks, what = ((2, 3), "[N, P, F] or [P, F]") if form == "patch" else ((1, 2), "[N, F] or [F]")
    first = {"linear": "", "affine": "", "mlp": "fc1", "cxr_bert": "dense_to_hidden", "patch": "conv1", "map": "fc1"}
    widths: tuple[int, ...] = ()
    if form in first:
        width = np.shape((head[first[form]] if first[form] else head)["kernel"])[0]
        widths = (width - np.shape(head["missing"])[0], width) if "missing" in head else (width,)
        what += f" with F of {' or '.join(map(str, widths))}"
    if len(shape) not in ranks or (widths and shape[-1] not in widths):
        raise errors.DataError(errors.describe("features", f"head of form {form}", what, str(shape)))


def _part(head: dict[str, Any], name: str) -> dict[str, Any]:
    part: dict[str, Any] = head[name] if name else head
    return part


class _Layers:
    """Applies a head's dense layers by name, noting what goes into each and adding the tap to what comes out."""

    def __init__(self, head: dict[str, Any], taps: dict[str, jax.Array]) -> None:
        self._head, self._taps = head, taps
        self.inputs: dict[str, jax.Array] = {}

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        layer, width = _part(self._head, name), x.shape[-1]
        self.inputs[name] = x
        constant = constant_inputs(self._head, name, width)
        mapped = _matmul(x, layer["kernel"][:width])
        if constant is not None:  # the same for every position, so it is multiplied once
            mapped = mapped + _matmul(constant, layer["kernel"][width:])
        mapped = mapped + layer["bias"] if "bias" in layer else mapped
        return mapped + self._taps[name] if name in self._taps else mapped


def _matmul(x: Any, kernel: Any) -> jax.Array:
    return jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST)


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def _layer_norm(layer: dict[str, Any], x: jax.Array, epsilon: float) -> jax.Array:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + epsilon) * layer["scale"] + layer["bias"]


def _cxr_bert(head: dict[str, Any], layers: _Layers, x: jax.Array) -> jax.Array:
    return layers("dense_to_output", _layer_norm(head["norm"], _gelu(layers("dense_to_hidden", x)), _CXR_BERT_EPSILON))


def _patch(head: dict[str, Any], layers: _Layers, x: jax.Array) -> jax.Array:
    hidden = layers("conv1", x)
    if "bn" in head:
        bn = head["bn"]
        hidden = (hidden - bn["mean"]) * (bn["scale"] / jnp.sqrt(bn["var"] + _PATCH_EPSILON)) + bn["bias"]
    return jnp.mean(layers("conv2", jax.nn.relu(hidden)), axis=-2)


def _map(head: dict[str, Any], layers: _Layers, x: jax.Array) -> jax.Array:
    return x + layers("fc2", jax.nn.gelu(layers("fc1", _layer_norm(head["norm"], x, _MAP_EPSILON)), approximate=True))


_OUTPUTS: dict[str, Callable[[dict[str, Any], _Layers, jax.Array], jax.Array]] = {
    "linear": lambda _, layers, x: layers("", x),
    "affine": lambda _, layers, x: layers("", x),
    "mlp": lambda _, layers, x: layers("fc2", _gelu(layers("fc1", x))),
    "cxr_bert": _cxr_bert,
    "patch": _patch,
    "map": _map,
    "none": lambda _, layers, x: x,
}
