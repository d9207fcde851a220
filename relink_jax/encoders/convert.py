"""Strict conversion of a published checkpoint into Flax parameters and heads, and back.

Every tensor of the file is consumed by exactly one rule or ignored with a stated reason, every parameter of the towers is
filled exactly once, and every shape is compared with `jax.eval_shape` of the towers; nothing is skipped silently.
Preprocessing and tokenizer must load and fit the towers, so that a model that converts also embeds. The weight file's
SHA-256 is taken before it is opened and compared when the spec names one. Half-precision tensors are upcast to float32.
Reading weights needs neither torch nor transformers.

Design note: heads are not part of the towers. They leave here as plain arrays, so that mitigation can replace them
without touching an encoder.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from relink_jax import errors
from relink_jax.encoders import preprocess, rules, specs, text, tokenize, vit
from relink_jax.store import checkpoints, digests, files

WEIGHTS = "model.safetensors"
_DTYPES = ("F16", "F32")


@dataclasses.dataclass(frozen=True)
class Converted:
    """Parameters of both towers, heads `{side: {'kernel': [F, D]}}`, the log of the logit multiplier, and where they came from."""

    params: dict[str, Any]
    heads: dict[str, dict[str, np.ndarray]]
    logit_scale: float
    provenance: dict[str, Any]


def image_tower(spec: specs.VLMSpec) -> vit.ImageTower:
    """Returns the Flax image tower of a spec."""
    return vit.ImageTower(spec.image)


def text_tower(spec: specs.VLMSpec) -> text.TextTower:
    """Returns the Flax text tower of a spec."""
    return text.TextTower(spec.text)


@functools.partial(jax.jit, static_argnums=0)
def image_features(spec: specs.VLMSpec, params: Any, pixels: jax.Array) -> jax.Array:
    """Returns features before the head [B, F] of normalised pixels [B, H, W, C] under the image tower's parameters."""
    features: jax.Array = image_tower(spec).apply({"params": params}, pixels)  # type: ignore[assignment]
    return features


@functools.partial(jax.jit, static_argnums=0)
def text_features(spec: specs.VLMSpec, params: Any, ids: jax.Array) -> jax.Array:
    """Returns features before the head [B, F] of token ids [B, L] under the text tower's parameters."""
    features: jax.Array = text_tower(spec).apply({"params": params}, ids)  # type: ignore[assignment]
    return features


@functools.partial(jax.jit, static_argnums=0)
def init(spec: specs.VLMSpec, key: jax.Array) -> dict[str, Any]:
    """Returns freshly initialised `{'image', 'text', 'heads', 'logit_scale'}` of a spec (logit scale 1/0.07, as CLIP)."""
    keys = jax.random.split(key, 4)
    pixels = jnp.zeros((1, spec.image.image_size, spec.image.image_size, spec.image.channels), jnp.float32)
    ids = jnp.zeros((1, spec.text.positions), jnp.int32)
    widths = {"image": spec.image.stack.width, "text": spec.text.stack.width}
    heads = {side: {"kernel": jax.random.normal(sub, (width, spec.dim)) * width**-0.5} for (side, width), sub in zip(widths.items(), keys[2:], strict=True)}
    image, report = image_tower(spec).init(keys[0], pixels)["params"], text_tower(spec).init(keys[1], ids)["params"]
    return {"image": image, "text": report, "heads": heads, "logit_scale": jnp.log(jnp.float32(1 / 0.07))}


def convert(spec: specs.VLMSpec) -> Converted:
    """Converts the checkpoint in the spec's directory.

    Raises:
        DataError: missing or truncated file, wrong SHA-256, unknown layout, unexpected or missing keys, wrong shape or dtype,
            non-finite weights, or preprocessing or a tokenizer that is missing or fits other towers.
    """
    path = spec.directory / WEIGHTS
    if not path.is_file():
        raise errors.DataError(errors.describe("weights missing", f"model directory {spec.name!r}", f"a file {WEIGHTS}", "none"))
    digest = _digest(path)
    if spec.sha256 is not None and digest != spec.sha256:
        raise errors.DataError(errors.describe("weights changed", f"{spec.name}/{WEIGHTS}", f"SHA-256 {spec.sha256[:12]}", digest[:12]))
    config = specs.read_json(spec.directory)
    check_inputs(spec)
    tensors, dtypes = _read(path)
    dialect = rules.detect(str(config.get("model_type")), dtypes)
    assigned, ignored = dialect.assign(dtypes)
    tree = checkpoints.unflatten(_filled(spec, dialect, assigned, tensors, dtypes))
    provenance = {
        "spec": spec.name,
        "layout": dialect.name,
        "source_sha256": digest,
        "config_sha256": digests.value_digest(config),
        "rules_sha256": dialect.digest(),
        "source_dtypes": sorted({dtypes[key] for key, _ in assigned.values()}),
        "ignored": ignored,
        "parameters": int(sum(array.size for array in checkpoints.flatten(tree).values())),
    }
    return Converted({side: tree[side] for side in ("image", "text")}, tree["heads"], float(tree["logit_scale"]), provenance)


def export_state(params: Mapping[str, Any], heads: Mapping[str, Any], logit_scale: float, dialect: rules.Dialect = rules.HF_CLIP) -> dict[str, np.ndarray]:
    """Returns the published state dict {key: array} of towers and heads: the inverse of `convert`, float32."""
    tree = {"image": params["image"], "text": params["text"], "heads": heads, "logit_scale": np.float32(logit_scale)}
    state = {}
    for path, array in checkpoints.flatten(tree).items():
        key, rule = dialect.source_key(path)
        state[key] = np.array(rule.operation.backward(np.asarray(array, np.float32)), order="C")
    return state


def write_checkpoint(path: pathlib.Path, state: Mapping[str, np.ndarray], dtype: Any = np.float16) -> str:
    """Writes a state dict as safetensors in `dtype` and returns the file's SHA-256."""
    plain = {key: np.asarray(array, dtype) for key, array in sorted(state.items())}
    files.write_with(path, lambda temporary: safetensors_numpy.save_file(plain, str(temporary), metadata={"format": "pt"}))
    return digests.file_digest(path)


def check_inputs(spec: specs.VLMSpec) -> None:
    """Checks that the checkpoint's preprocessing and tokenizer load and give what its towers take.

    Raises: DataError: a file is missing or unreadable, pictures of another size, token ids beyond the vocabulary, or texts that
        end in another token than the one whose position the tower reads.
    """
    recipe, side = preprocess.read_spec(spec.directory), spec.image.image_size
    size = recipe.crop or recipe.squash or (side, side)
    if size != (side, side):
        raise errors.DataError(errors.describe("preprocessed size", preprocess.FILE, f"{side} x {side} pixels as in config.json", f"{size[0]} x {size[1]}"))
    tokenizer = tokenize.Tokenizer(spec.directory, spec.text.positions)
    where = f"tokenizer of {spec.name!r}"
    if tokenizer.highest_id >= spec.text.vocab_size:
        raise errors.DataError(errors.describe("token id", where, f"below the vocabulary size {spec.text.vocab_size}", str(tokenizer.highest_id)))
    end = tokenizer.highest_id if spec.text.eos_token_id == text.LEGACY_EOS else spec.text.eos_token_id
    if tokenizer.end_id != end:
        raise errors.DataError(errors.describe("end-of-text token", where, f"id {end}, from eos_token_id in config.json", f"id {tokenizer.end_id}"))


def target_shapes(spec: specs.VLMSpec) -> dict[str, tuple[int, ...]]:
    """Returns {target path: shape} of every parameter and head of a spec, without allocating any."""
    tree = jax.eval_shape(lambda key: init(spec, key), jax.random.key(0))
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(entry.key) for entry in path): tuple(leaf.shape) for path, leaf in leaves}


def _digest(path: pathlib.Path) -> str:
    try:
        return digests.file_digest(path)
    except OSError as error:
        raise errors.DataError(errors.describe("weights unreadable", f"file {path.name!r}", "a readable file", type(error).__name__)) from error


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns (float tensors as float32, dtype name of every key); integer tensors are named but not loaded."""
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            dtypes = {key: opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118 - not a dict
            return {key: opened.get_tensor(key).astype(np.float32) for key, dtype in dtypes.items() if dtype in _DTYPES}, dtypes
    except (safetensors.SafetensorError, OSError) as error:
        raise errors.DataError(errors.describe("weights unreadable", f"file {path.name!r}", "a whole safetensors file", type(error).__name__)) from error


def _filled(
    spec: specs.VLMSpec, dialect: rules.Dialect, assigned: Mapping[str, tuple[str, rules.Rule]], tensors: Mapping[str, np.ndarray], dtypes: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Returns {target path: array} after the second half of the two-way check: every target filled, shapes equal."""
    shapes = target_shapes(spec)
    unexpected = [assigned[path][0] for path in assigned.keys() - shapes.keys()]
    missing = [dialect.source_key(path)[0] for path in shapes.keys() - assigned.keys()]
    if unexpected or missing:
        found = "; ".join(f"{what} {rules.listed(keys)}" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys)
        raise errors.DataError(
            errors.describe("keys differ from config.json", f"checkpoint of layout {dialect.name}", f"{len(shapes)} tensors of the towers and heads", found)
        )
    filled = {}
    for path, (key, rule) in assigned.items():
        if key not in tensors:
            raise errors.DataError(errors.describe("tensor dtype", f"checkpoint key {key!r}", " or ".join(_DTYPES), dtypes[key]))
        array = np.array(rule.convert(key, tensors[key]), order="C")
        if array.shape != shapes[path]:
            wanted = rule.operation.backward(np.empty(shapes[path], bool)).shape
            raise errors.DataError(errors.describe("tensor shape", f"checkpoint key {key!r}", str(list(wanted)), str(list(tensors[key].shape))))
        if not np.isfinite(array).all():
            raise errors.DataError(
                errors.describe("weights not finite", f"checkpoint key {key!r}", "finite numbers", f"{int((~np.isfinite(array)).sum())} that are not")
            )
        filled[path] = array
    return filled
