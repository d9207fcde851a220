"""Strict conversion of published checkpoints into Flax parameters and heads, and back.

Every tensor of the files is consumed by exactly one rule or ignored with a stated reason, every parameter of the towers and heads is
filled exactly once, and every shape is compared with `jax.eval_shape` of the towers; nothing is skipped silently. A model may lie in
several files (BioViL): each is recognised by its own keys, and together they must fill the tree exactly. Preprocessing and tokenizer
must load and fit the towers, so that a model that converts also embeds. The SHA-256 of every file is taken before one is opened and
compared with those that the spec names. Tensors are read one at a time, also where a file lies in shards; half-precision ones are upcast
to float32. Where a layout's geometry shows in its shapes (`geometry`), the spec must agree with them.

Design note: heads are not part of the towers. They leave here as plain arrays, so that mitigation can replace them without touching an
encoder. Ignored tensors leave as they are stored, so that an export can put them back.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from safetensors import numpy as safetensors_numpy

from relink_jax import __version__, errors
from relink_jax.encoders import formats, geometry, layouts, preprocess, rules, sources, specs, text, tokenize, towers
from relink_jax.store import checkpoints, digests, files

WEIGHTS = "model.safetensors"
_DTYPES = ("F16", "BF16", "F32")
_TOWERS = ("image", "text")
_SCALARS = ("logit_scale", "logit_bias")


@dataclasses.dataclass(frozen=True)
class Converted:
    """Parameters of both towers, heads by side, logit scale (its logarithm) and bias, provenance, and each file's ignored tensors.

    A logit scale that is not published is 0; `provenance['supplied']` says so. It ranks nothing differently.
    """

    params: dict[str, Any]
    heads: dict[str, dict[str, Any]]
    logit_scale: float
    provenance: dict[str, Any]
    logit_bias: float | None = None
    left_out: tuple[dict[str, np.ndarray], ...] = ()


@dataclasses.dataclass(frozen=True)
class _Opened:
    """One weight file: where it goes and what is in it; `keys` maps the table's spelling of a key to the file's.

    `parts`: SHA-256 by name of the files that hold its tensors, itself or its shards.
    """

    path: pathlib.Path
    parts: dict[str, str]
    contents: formats.Contents
    layout: rules.Layout
    keys: dict[str, str]
    places: dict[str, tuple[rules.Rule, tuple[str, ...]]]
    ignored: list[str]

    @property
    def where(self) -> str:
        return f"checkpoint of layout {self.layout.name}"

    def tensor(self, key: str) -> formats.Tensor:
        return self.contents.tensors[self.keys[key]]

    def provenance(self) -> dict[str, Any]:
        """What is recorded of the file."""
        return {
            "name": self.path.name,
            "sha256": _joint(list(self.parts.values())),
            "parts": self.parts,
            "format": self.contents.format,
            "layout": self.layout.name,
            "rules_sha256": self.layout.digest(),
            "dtypes": sorted({self.tensor(key).dtype for key in self.places}),
            "ignored": self.ignored,
            "left_out": list(self.contents.left_out),
            "unbuilt": list(self.contents.unbuilt),
        }


def convert(spec: specs.VLMSpec, weights: Sequence[pathlib.Path] = (), *, trust_pickle: bool = False) -> Converted:
    """Converts the checkpoint in the spec's directory.

    Args:
        weights: the weight files; without them, those of the directory.
        trust_pickle: lets torch run files that cannot be read as data (TorchScript, pickled objects).

    Raises:
        DataError: missing or truncated file, wrong SHA-256, unknown layout, unexpected or missing keys, wrong shape or dtype,
            non-finite weights, a pickle that asks for more than data, or preprocessing or a tokenizer that is missing or fits other towers.
    """
    taken = {path: sources.parts_sha256(path) for path in weights or sources.weights(spec.directory)}
    if spec.sha256:
        sources.check_pinned(spec.name, [part for parts in taken.values() for part in parts.items()], spec.sha256)
    config = specs.read_json(spec.directory) if (spec.directory / specs.CONFIG).is_file() else {}
    check_inputs(spec)
    with contextlib.ExitStack() as stack:
        opened = _opened(taken, config.get("model_type"), bool(weights), trust_pickle, stack)
        for one in opened:
            geometry.check(spec, one.layout, {key: one.tensor(key).shape for key in one.keys}, one.where)
        filled = _filled(spec, opened)
        left_out = tuple({key: one.tensor(key).load().copy() for key in one.ignored} for one in opened)
        described = [one.provenance() for one in opened]
    supplied = {} if "logit_scale" in filled else {"logit_scale": 0.0}
    tree = checkpoints.unflatten({**filled, **{name: np.asarray(value, np.float32) for name, value in supplied.items()}})
    provenance = {
        "model": specs.to_json(spec),
        "converter": f"relink_jax {__version__}",
        "layout": "+".join(one["layout"] for one in described),
        "source_sha256": _joint([one["sha256"] for one in described]),
        "config_sha256": digests.value_digest(config),
        "rules_sha256": _joint([one["rules_sha256"] for one in described]),
        "source_dtypes": sorted({dtype for one in described for dtype in one["dtypes"]}),
        "ignored": [key for one in described for key in one["ignored"]],
        "files": described,
        "not_read": sorted(path.name for path in taken if path.name not in [one["name"] for one in described]),
        "supplied": supplied,
        "parameters": int(sum(array.size for array in filled.values())),
    }
    heads = {side: tree.get("heads", {}).get(side, {}) for side in _TOWERS}
    bias = float(tree["logit_bias"]) if "logit_bias" in tree else None
    return Converted({side: tree[side] for side in _TOWERS}, heads, float(tree["logit_scale"]), provenance, bias, left_out)


def export_states(tree: Mapping[str, Any], into: Sequence[rules.Layout]) -> list[dict[str, np.ndarray]]:
    """Returns the published state dict {key: float32 array} of each layout's file: the inverse of `convert`.

    Args:
        tree: `{'image', 'text', 'heads', 'logit_scale'[, 'logit_bias']}`; a scalar that no layout has a place for is left out.

    Raises: DataError: a parameter without exactly one place, or a place that lacks a part.
    """
    parts: list[dict[str, tuple[rules.Rule, dict[str, np.ndarray]]]] = [{} for _ in into]
    for path, array in checkpoints.flatten(dict(tree)).items():
        owners = [index for index, layout in enumerate(into) if layout.fills(path)]
        if not owners and path in _SCALARS:
            continue
        key, rule = into[owners[0] if len(owners) == 1 else 0].source_key(path)
        parts[owners[0]].setdefault(key, (rule, {}))[1][path] = np.asarray(array, np.float32)
    return [{key: _exported(key, rule, found) for key, (rule, found) in one.items()} for one in parts]


def export_state(params: Mapping[str, Any], heads: Mapping[str, Any], logit_scale: float, layout: rules.Layout = layouts.HF_CLIP) -> dict[str, np.ndarray]:
    """Returns the published state dict of a model whose layout is one file, see `export_states`."""
    tree = {"image": params["image"], "text": params["text"], "heads": heads, "logit_scale": np.float32(logit_scale)}
    return export_states(tree, [layout])[0]


def write_checkpoint(path: pathlib.Path, state: Mapping[str, np.ndarray], dtype: Any = np.float16) -> str:
    """Writes a state dict as safetensors, its floating-point tensors in `dtype`, and returns the file's SHA-256."""
    plain = {key: array if array.dtype.kind in "iub" else np.asarray(array, dtype) for key, array in sorted(state.items())}
    files.write_with(path, lambda temporary: safetensors_numpy.save_file(plain, str(temporary), metadata={"format": "pt"}))
    return digests.file_digest(path)


def check_inputs(spec: specs.VLMSpec) -> None:
    """Checks that the checkpoint's preprocessing and tokenizer load and give what its towers take.

    Raises: DataError: a file is missing or unreadable, pictures of another size, token ids beyond the vocabulary, or texts that
        end in another token than the one whose position the tower reads.
    """
    side, size = spec.image.image_size, preprocess.recipe_for(spec).size
    if size not in (None, (side, side)):
        where = preprocess.FILE if spec.recipe in ("", preprocess.OWN) else f"preprocessing {spec.recipe!r}"
        raise errors.DataError(errors.describe("preprocessed size", where, f"{side} x {side} pixels, which the tower takes", f"{size[0]} x {size[1]}"))
    tokenizer = tokenize.tokenizer_for(spec)
    where = f"tokenizer of {spec.name!r}"
    if tokenizer.highest_id >= spec.text.vocab_size:
        raise errors.DataError(errors.describe("token id", where, f"below the vocabulary size {spec.text.vocab_size}", str(tokenizer.highest_id)))
    if isinstance(spec.text, specs.BertSpec):
        if tokenizer.pad_id != spec.text.pad_id:
            raise errors.DataError(errors.describe("padding token", where, f"id {spec.text.pad_id}, which the tower masks", f"id {tokenizer.pad_id}"))
    elif tokenizer.end_id is not None:
        end = tokenizer.highest_id if spec.text.eos_token_id == text.LEGACY_EOS else spec.text.eos_token_id
        if tokenizer.end_id != end:
            raise errors.DataError(errors.describe("end-of-text token", where, f"id {end}, from eos_token_id in config.json", f"id {tokenizer.end_id}"))


def target_shapes(spec: specs.VLMSpec) -> dict[str, tuple[int, ...]]:
    """Returns {target path: shape} of every parameter and head of a spec, without allocating any."""
    tree = jax.eval_shape(lambda key: towers.init(spec, key), jax.random.key(0))
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(entry.key) for entry in path): tuple(leaf.shape) for path, leaf in leaves}


def _joint(found: Sequence[str]) -> str:
    """Returns one digest for those of several files, and a single file's own."""
    return found[0] if len(found) == 1 else digests.value_digest(list(found))


def _opened(
    taken: Mapping[pathlib.Path, dict[str, str]], model_type: str | None, named: bool, trust_pickle: bool, stack: contextlib.ExitStack
) -> list[_Opened]:
    """Returns the files that are a model's weights, which fill each tower once; one that is none is passed over if the others suffice."""
    found: list[_Opened] = []
    refused: list[errors.DataError] = []
    for path, parts in taken.items():
        try:
            contents = stack.enter_context(formats.opened(path, trust_pickle))
            keys = rules.canonical(contents.tensors)
            layout = layouts.detect(model_type, keys, f"file {path.name!r}" if len(taken) > 1 else "checkpoint")
        except errors.DataError as error:
            refused.append(error)
        else:
            found.append(_Opened(path, parts, contents, layout, keys, *layout.assign(keys)))
    if refused and named:
        raise refused[0]
    for side in _TOWERS:
        filling = [one.path.name for one in found if any(rule.target.startswith(f"{side}/") for rule in one.layout.rules)]
        if not filling and refused:
            raise refused[0]
        if len(filling) != 1:
            have = " and ".join(filling) if filling else f"none among {', '.join(path.name for path in taken)}"
            hint = "; --ensemble makes each of them a member of an ensemble" if len(filling) > 1 else ""
            raise errors.DataError(errors.describe(f"weights of the {side} tower", "checkpoint", "one file (--source=FILE names one)", have) + hint)
    return found


def _filled(spec: specs.VLMSpec, opened: Sequence[_Opened]) -> dict[str, np.ndarray]:
    """Returns {target path: float32 array} after the second half of the two-way check: every target filled, shapes equal."""
    shapes = {path: shape for path, shape in target_shapes(spec).items() if path not in _SCALARS}
    shapes |= {name: () for name in _SCALARS if any(one.layout.fills(name) for one in opened)}
    filling = [path for one in opened for _, paths in one.places.values() for path in paths]
    unexpected = {key for one in opened for key, (_, paths) in one.places.items() if not shapes.keys() >= set(paths)}
    missing = {next((one.layout.source_key(path)[0] for one in opened if one.layout.fills(path)), path) for path in shapes.keys() - set(filling)}
    where = " and ".join(one.where for one in opened)
    if unexpected or missing:
        found = "; ".join(f"{what} {rules.listed(keys)}" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys)
        raise errors.DataError(errors.describe("keys differ from the model's geometry", where, f"{len(shapes)} arrays of the towers and heads", found))
    filled: dict[str, np.ndarray] = {}
    for one in opened:
        for key, (rule, paths) in one.places.items():
            filled |= _arrays(one.tensor(key), key, rule, {path: shapes[path] for path in paths})
    if len(filled) != len(filling):
        raise errors.DataError(errors.describe("doubled parameter", where, "one tensor for each", f"{len(filling) - len(filled)} that two files give"))
    return filled


def _arrays(tensor: formats.Tensor, key: str, rule: rules.Rule, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns what one tensor fills, after checking number format, shape and values."""
    where = f"checkpoint key {key!r}"
    if tensor.dtype not in _DTYPES:
        raise errors.DataError(errors.describe("tensor dtype", where, "F16, BF16 or F32", tensor.dtype))
    filled = {}
    for (path, shape), part in zip(shapes.items(), rule.convert(key, tensor.load()), strict=True):
        if part.shape != shape:
            raise errors.DataError(errors.describe("tensor shape", where, str(list(rule.source_shape(shape))), str(list(tensor.shape))))
        filled[path] = np.array(part, np.float32, order="C")
        if not np.isfinite(filled[path]).all():
            bad = int((~np.isfinite(filled[path])).sum())
            raise errors.DataError(errors.describe("weights not finite", where, "finite numbers", f"{bad} that are not"))
    return filled


def _exported(key: str, rule: rules.Rule, found: Mapping[str, np.ndarray]) -> np.ndarray:
    paths = rule.to_targets(key) or ()
    lacking = [path for path in paths if path not in found]
    if lacking:
        raise errors.DataError(errors.describe("parameter missing", f"checkpoint key {key!r}", "all its parts", f"none for {rules.listed(lacking)}"))
    return np.array(rule.export([found[path] for path in paths]), order="C")
