"""Tables that name where each tensor of a published checkpoint goes, readable in both directions.

A rule pairs a source key with a target path, and a named operation says what happens to the array between them. In both, `{layer}`,
`{stage}`, `{block}` and `{index}` stand for numbers and `{part}` for a word. A target with `{qkv}` means three: the source is cut into
equal thirds along its first axis, in the order query, key, value. The same table converts (source to target) and exports (target to
source), because every operation has its inverse. Keys that are left out must match an `Ignored` pattern with a reason.

The tables are in `layouts`; this is what reads them.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Sequence

import numpy as np

from relink_jax import errors
from relink_jax.store import digests


@dataclasses.dataclass(frozen=True)
class Operation:
    """A named, invertible change of an array's layout; `rank` is the number of axes it takes, None for any."""

    name: str
    forward: Callable[[np.ndarray], np.ndarray]
    backward: Callable[[np.ndarray], np.ndarray]
    rank: int | None = None


def _dropped(name: str, axes: tuple[int, ...], rank: int) -> Operation:
    """An operation that drops `axes` of length one."""
    return Operation(name, lambda array: np.squeeze(array, axes), lambda array: np.expand_dims(array, axes), rank)


IDENTITY = Operation("identity", lambda array: array, lambda array: array)
LINEAR = Operation("linear [out,in] -> [in,out]", np.transpose, np.transpose, 2)
KERNEL = Operation("linear [in,out] as it is", lambda array: array, lambda array: array, 2)
CONV = Operation("convolution OIHW -> HWIO", lambda array: np.transpose(array, (2, 3, 1, 0)), lambda array: np.transpose(array, (3, 2, 0, 1)), 4)
POINT = Operation("convolution OI11 -> [in,out]", lambda array: np.squeeze(array, (2, 3)).T, lambda array: np.expand_dims(array.T, (2, 3)), 4)
TOKEN = _dropped("(1,1,W) -> (W,)", (0, 1), 3)
BATCH = _dropped("(1,P,W) -> (P,W)", (0,), 3)
MIDDLE = _dropped("(T,1,W) -> (T,W)", (1,), 3)
CHANNELS = _dropped("(1,C,1,1) -> (C,)", (0, 2, 3), 4)
SCALAR = _dropped("(1,) -> ()", (0,), 1)
_NUMBER = r"0|[1-9]\d*"
_HOLES = {"layer": _NUMBER, "stage": _NUMBER, "block": _NUMBER, "index": _NUMBER, "part": "[a-z]+", "qkv": "[qkv]"}
_THIRDS = "qkv"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row: source key template, target path template, operation."""

    source: str
    target: str
    operation: Operation

    @property
    def parts(self) -> int:
        """How many targets one source tensor fills."""
        return len(_THIRDS) if "{qkv}" in self.target else 1

    def to_targets(self, key: str) -> tuple[str, ...] | None:
        """Returns the target paths of a source key, in the order of its parts; None when this rule is not about it."""
        found = _pattern(self.source).fullmatch(key)
        return tuple(self.target.format(**found.groupdict(), qkv=third) for third in _THIRDS[: self.parts]) if found else None

    def to_source(self, path: str) -> str | None:
        """Returns the source key of a target path, None when this rule is not about it."""
        found = _pattern(self.target).fullmatch(path)
        return self.source.format(**found.groupdict()) if found else None

    def convert(self, key: str, array: np.ndarray) -> list[np.ndarray]:
        """Returns the array's parts in target layout, as views.

        Raises: DataError: another rank than the operation takes, a first axis that cannot be cut, or an axis to drop that is longer than one.
        """
        where, rank = f"checkpoint key {key!r}", self.operation.rank
        if rank is not None and array.ndim != rank:
            raise errors.DataError(errors.describe("tensor rank", where, f"{rank} dimensions", str(array.ndim)))
        if self.parts > 1 and (not array.ndim or array.shape[0] % self.parts):
            raise errors.DataError(errors.describe("tensor shape", where, f"a first axis divisible by {self.parts}", str(list(array.shape))))
        try:
            return [self.operation.forward(part) for part in (np.split(array, self.parts) if self.parts > 1 else [array])]
        except ValueError as error:
            raise errors.DataError(errors.describe("tensor shape", where, self.operation.name, str(list(array.shape)))) from error

    def export(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the source tensor of all its parts: the inverse of `convert`."""
        backward = [self.operation.backward(part) for part in parts]
        return backward[0] if self.parts == 1 else np.concatenate(backward)

    def source_shape(self, target: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape that the source tensor of a target of shape `target` has."""
        shape = self.operation.backward(np.broadcast_to(np.False_, target)).shape
        return shape if self.parts == 1 else (shape[0] * self.parts, *shape[1:])


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Source keys that are left out on purpose."""

    source: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Layout:
    """One published layout: how to recognise it and how to read it.

    `fingerprint`: keys that a file of this layout has; of several layouts that fit, the one that asks for the most is meant. `model_type`:
    what `config.json` says where there is one, '' for layouts that come without. `exported_as`: name of the layout that an export is
    written in, '' for this one.
    """

    name: str
    model_type: str
    fingerprint: frozenset[str]
    rules: tuple[Rule, ...]
    ignored: tuple[Ignored, ...] = ()
    exported_as: str = ""

    def digest(self) -> str:
        """Returns the SHA-256 of the table, recorded in the provenance of what it converted."""
        rows = [[rule.source, rule.target, rule.operation.name] for rule in self.rules]
        return digests.value_digest({"name": self.name, "rules": rows, "ignored": [[entry.source, entry.reason] for entry in self.ignored]})

    def assign(self, keys: Collection[str]) -> tuple[dict[str, tuple[Rule, tuple[str, ...]]], list[str]]:
        """Returns ({source key: (rule, target paths)}, ignored keys); every key is one or the other.

        Raises: DataError: keys that no rule or more than one rule claims, or two keys for one target.
        """
        places: dict[str, tuple[Rule, tuple[str, ...]]] = {}
        taken: set[str] = set()
        ignored, unexpected = [], []
        for key in sorted(keys):
            claims = [(rule, paths) for rule in self.rules if (paths := rule.to_targets(key)) is not None]
            skipped = self._ignores(key)
            if len(claims) + skipped > 1 or any(path in taken for _, paths in claims for path in paths):
                raise errors.DataError(errors.describe("ambiguous key", f"checkpoint key {key!r}", "exactly one rule", f"{len(claims) + skipped}"))
            if skipped:
                ignored.append(key)
            elif claims:
                places[key] = claims[0]
                taken.update(claims[0][1])
            else:
                unexpected.append(key)
        if unexpected:
            raise errors.DataError(errors.describe("unexpected keys", f"checkpoint of layout {self.name}", "only keys its rules name", listed(unexpected)))
        return places, ignored

    def unknown(self, keys: Collection[str]) -> list[str]:
        """Returns the keys that neither a rule nor the ignore list names."""
        return [key for key in keys if not self._ignores(key) and not any(rule.to_targets(key) for rule in self.rules)]

    def source_key(self, path: str) -> tuple[str, Rule]:
        """Returns (source key, rule) of a target path; `DataError` when no rule or several produce it."""
        claims = [(key, rule) for rule in self.rules if (key := rule.to_source(path)) is not None]
        if len(claims) != 1:
            raise errors.DataError(errors.describe("parameter without a place", f"layout {self.name}, path {path!r}", "exactly one rule", str(len(claims))))
        return claims[0]

    def fills(self, path: str) -> bool:
        """Whether some rule produces this target path."""
        return any(rule.to_source(path) is not None for rule in self.rules)

    def _ignores(self, key: str) -> int:
        return sum(_pattern(entry.source).fullmatch(key) is not None for entry in self.ignored)


def canonical(keys: Collection[str]) -> dict[str, str]:
    """Returns {key as the tables spell it: key as the file spells it}.

    Undone are a wrapper's prefix that every key has (`module.`, of torch's parallel training), everything up to the last `gloria.`
    (GLoRIA's loader does the same), and the names that BERT's first writers gave LayerNorm's arrays (`LayerNorm.gamma`, `.beta`).
    Raises: DataError: two keys of the file that mean one.
    """
    wrapped = bool(keys) and all(key.startswith("module.") for key in keys)
    spelled: dict[str, str] = {}
    for key in keys:
        bare = (key.removeprefix("module.") if wrapped else key).rpartition("gloria.")[2]
        bare = re.sub(r"LayerNorm\.(gamma|beta)$", lambda found: f"LayerNorm.{_LEGACY[found[1]]}", bare)
        if bare in spelled:
            raise errors.DataError(errors.describe("doubled key", "checkpoint", f"one key {bare!r}", f"{spelled[bare]!r} and {key!r}"))
        spelled[bare] = key
    return spelled


_LEGACY = {"gamma": "weight", "beta": "bias"}


def listed(names: Collection[str], most: int = 5) -> str:
    """Returns the count and the first names, for messages."""
    first = sorted(names)[:most]
    return f"{len(names)}: {', '.join(first)}{', ...' if len(names) > most else ''}"


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for hole, regex in _HOLES.items():
        pattern = pattern.replace(re.escape("{" + hole + "}"), f"(?P<{hole}>{regex})")
    return re.compile(pattern)
