"""Tables that name where each tensor of a published checkpoint goes, readable in both directions.

A rule pairs a source key with a target path; `{layer}` stands for a layer number and `{part}` for a word, and the named
operation says what happens to the array between them. The same table converts (source to target) and exports (target to
source), because every operation has its inverse. Keys that are left out must match an `Ignored` pattern with a reason.

Dialects are told apart by `model_type` and by the keys themselves, never by a model's name.
"""

import dataclasses
import re
from collections.abc import Callable, Collection

import numpy as np

from relink_jax import errors
from relink_jax.store import digests


@dataclasses.dataclass(frozen=True)
class Operation:
    """A named, invertible change of an array's layout."""

    name: str
    forward: Callable[[np.ndarray], np.ndarray]
    backward: Callable[[np.ndarray], np.ndarray]


IDENTITY = Operation("identity", lambda array: array, lambda array: array)
LINEAR = Operation("linear [out,in] -> [in,out]", np.transpose, np.transpose)
CONV = Operation("convolution OIHW -> HWIO", lambda array: np.transpose(array, (2, 3, 1, 0)), lambda array: np.transpose(array, (3, 2, 0, 1)))
_RANKS = {IDENTITY.name: None, LINEAR.name: 2, CONV.name: 4}
_HOLES = {"layer": r"(?P<layer>0|[1-9]\d*)", "part": r"(?P<part>[a-z]+)"}


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row: source key template, target path template, operation."""

    source: str
    target: str
    operation: Operation

    def to_target(self, key: str) -> str | None:
        """Returns the target path of a source key, None when this rule is not about it."""
        found = _pattern(self.source).fullmatch(key)
        return self.target.format(**found.groupdict()) if found else None

    def to_source(self, path: str) -> str | None:
        """Returns the source key of a target path, None when this rule is not about it."""
        found = _pattern(self.target).fullmatch(path)
        return self.source.format(**found.groupdict()) if found else None

    def convert(self, key: str, array: np.ndarray) -> np.ndarray:
        """Returns the array in target layout; `DataError` for an array of another rank than the operation takes."""
        rank = _RANKS[self.operation.name]
        if rank is not None and array.ndim != rank:
            raise errors.DataError(errors.describe("tensor rank", f"checkpoint key {key!r}", f"{rank} dimensions", str(array.ndim)))
        return self.operation.forward(array)


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Source keys that are left out on purpose."""

    source: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Dialect:
    """One published layout: how to recognise it and how to read it."""

    name: str
    model_type: str
    fingerprint: frozenset[str]
    rules: tuple[Rule, ...]
    ignored: tuple[Ignored, ...]

    def digest(self) -> str:
        """Returns the SHA-256 of the table, recorded in the provenance of what it converted."""
        rows = [[rule.source, rule.target, rule.operation.name] for rule in self.rules]
        return digests.value_digest({"name": self.name, "rules": rows, "ignored": [[entry.source, entry.reason] for entry in self.ignored]})

    def assign(self, keys: Collection[str]) -> tuple[dict[str, tuple[str, Rule]], list[str]]:
        """Returns ({target path: (source key, rule)}, ignored keys); every key is one or the other.

        Raises: DataError: keys that no rule or more than one rule claims, or two keys for one target.
        """
        taken: dict[str, tuple[str, Rule]] = {}
        ignored, unexpected = [], []
        for key in sorted(keys):
            claims = [(path, rule) for rule in self.rules if (path := rule.to_target(key)) is not None]
            skipped = [entry for entry in self.ignored if _pattern(entry.source).fullmatch(key)]
            if len(claims) + len(skipped) > 1 or any(path in taken for path, _ in claims):
                raise errors.DataError(errors.describe("ambiguous key", f"checkpoint key {key!r}", "exactly one rule", f"{len(claims) + len(skipped)}"))
            if skipped:
                ignored.append(key)
            elif claims:
                taken[claims[0][0]] = (key, claims[0][1])
            else:
                unexpected.append(key)
        if unexpected:
            raise errors.DataError(errors.describe("unexpected keys", f"checkpoint of layout {self.name}", "only keys its rules name", listed(unexpected)))
        return taken, ignored

    def source_key(self, path: str) -> tuple[str, Rule]:
        """Returns (source key, rule) of a target path; `DataError` when no rule or several produce it."""
        claims = [(key, rule) for rule in self.rules if (key := rule.to_source(path)) is not None]
        if len(claims) != 1:
            raise errors.DataError(errors.describe("parameter without a place", f"layout {self.name}, path {path!r}", "exactly one rule", str(len(claims))))
        return claims[0]


def listed(names: Collection[str], most: int = 5) -> str:
    """Returns the count and the first names, for messages."""
    first = sorted(names)[:most]
    return f"{len(names)}: {', '.join(first)}{', ...' if len(names) > most else ''}"


def detect(model_type: str, keys: Collection[str]) -> Dialect:
    """Returns the dialect of a checkpoint from its config's `model_type` and its keys.

    Raises: DataError: no dialect here has this model type and these keys.
    """
    found = [dialect for dialect in DIALECTS if dialect.model_type == model_type and dialect.fingerprint <= set(keys)]
    if len(found) != 1:
        known = "; ".join(f"model_type {dialect.model_type!r} with keys {', '.join(sorted(dialect.fingerprint))}" for dialect in DIALECTS)
        raise errors.DataError(errors.describe("unknown layout", "checkpoint", known, f"model_type {model_type!r} with keys {listed(keys, 3)}"))
    return found[0]


def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for hole, regex in _HOLES.items():
        pattern = pattern.replace(re.escape("{" + hole + "}"), regex)
    return re.compile(pattern)


def _norm(source: str, target: str) -> tuple[Rule, Rule]:
    return Rule(f"{source}.weight", f"{target}/scale", IDENTITY), Rule(f"{source}.bias", f"{target}/bias", IDENTITY)


def _linear(source: str, target: str) -> tuple[Rule, Rule]:
    return Rule(f"{source}.weight", f"{target}/kernel", LINEAR), Rule(f"{source}.bias", f"{target}/bias", IDENTITY)


def _stack(source: str, target: str) -> tuple[Rule, ...]:
    """The pre-LN stack of transformers' CLIP."""
    layer, block = f"{source}.encoder.layers.{{layer}}", f"{target}/encoder/block_{{layer}}"
    return (
        *_norm(f"{layer}.layer_norm1", f"{block}/layer_norm1"),
        *_norm(f"{layer}.layer_norm2", f"{block}/layer_norm2"),
        *_linear(f"{layer}.self_attn.{{part}}_proj", f"{block}/self_attn/{{part}}_proj"),
        *_linear(f"{layer}.mlp.fc1", f"{block}/fc1"),
        *_linear(f"{layer}.mlp.fc2", f"{block}/fc2"),
    )


_POSITIONS = "the constant 0, 1, 2, ... that old writers stored; positions are implied"

HF_CLIP = Dialect(
    name="hf-clip",
    model_type="clip",
    fingerprint=frozenset({"vision_model.pre_layrnorm.weight", "visual_projection.weight", "text_projection.weight"}),
    rules=(
        Rule("vision_model.embeddings.class_embedding", "image/class_embedding", IDENTITY),
        Rule("vision_model.embeddings.patch_embedding.weight", "image/patch_embedding/kernel", CONV),
        Rule("vision_model.embeddings.position_embedding.weight", "image/position_embedding", IDENTITY),
        *_norm("vision_model.pre_layrnorm", "image/pre_layernorm"),
        *_stack("vision_model", "image"),
        *_norm("vision_model.post_layernorm", "image/post_layernorm"),
        Rule("text_model.embeddings.token_embedding.weight", "text/token_embedding", IDENTITY),
        Rule("text_model.embeddings.position_embedding.weight", "text/position_embedding", IDENTITY),
        *_stack("text_model", "text"),
        *_norm("text_model.final_layer_norm", "text/final_layer_norm"),
        Rule("visual_projection.weight", "heads/image/kernel", LINEAR),
        Rule("text_projection.weight", "heads/text/kernel", LINEAR),
        Rule("logit_scale", "logit_scale", IDENTITY),
    ),
    ignored=(Ignored("vision_model.embeddings.position_ids", _POSITIONS), Ignored("text_model.embeddings.position_ids", _POSITIONS)),
)

DIALECTS = (HF_CLIP,)
