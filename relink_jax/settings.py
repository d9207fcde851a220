"""Trees of plain dataclasses: their leaves by dotted path, their types, their checks, and JSON; imports no jax.

What a run has to configure is in `config`; here is what holds for any such tree, whatever its fields are.
"""

import dataclasses
import functools
import json
import pathlib
import re
from typing import Any

from relink_jax import errors


def option(default: Any, help_text: str) -> Any:
    """Returns a dataclass field with `default` (a value, or a dataclass type to instantiate) and its help text."""
    metadata = {"help": help_text}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Section:
    """A dataclass that refuses attributes it has no field for, so that a typo in a config file is not silently ignored."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        if name not in known:
            raise AttributeError(f"unknown field {name!r}{errors.suggest(name, known)}")
        object.__setattr__(self, name, value)


def check_name(name: str, where: str) -> None:
    """Raises `UsageError` unless `name` can be part of a file name and of a result's name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or "__" in name:
        raise errors.UsageError(errors.describe("name", where, "letters, digits, '.', '_' and '-', without '__'", repr(name)))


def check_type(path: str, value: Any, default: Any) -> None:
    """Raises `UsageError` unless `value` has the type of `default`; whole numbers are numbers, and lists may be tuples."""
    if isinstance(default, tuple):
        kind, parts = type(default[0]), value if isinstance(value, list | tuple) else (None,)
    else:
        kind, parts = type(default), (value,)
    allowed = (int, float) if kind is float else kind
    if not all(isinstance(part, allowed) and isinstance(part, bool) == (kind is bool) for part in parts):
        expected = f"{'a list of ' if isinstance(default, tuple) else ''}{kind.__name__}"
        raise errors.UsageError(errors.describe("type", f"config field {path!r}", expected, f"{type(value).__name__} {value!r:.40}"))


def check_choice(path: str, value: str, known: tuple[str, ...]) -> None:
    """Raises `UsageError` unless `value` is one of `known`."""
    if value not in known:
        raise errors.UsageError(f"unknown value in config field {path!r}: expected one of {', '.join(known)}, found {value!r}{errors.suggest(value, known)}")


@dataclasses.dataclass(frozen=True)
class FieldInfo:
    """One leaf of the config tree: its dotted path, type name, default and help."""

    path: str
    type_name: str
    default: Any
    help: str


def fields(config: Any, prefix: str = "") -> list[FieldInfo]:
    """Returns every leaf field of a config dataclass in order, with dotted paths."""
    leaves: list[FieldInfo] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        path = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            leaves += fields(value, f"{path}.")
        else:
            leaves.append(FieldInfo(path, type(value).__name__, value, field.metadata["help"]))
    return leaves


def lookup(config: Any, path: str) -> Any:
    """Returns the value of a dotted field path."""
    return functools.reduce(getattr, path.split("."), config)


def assign(config: Any, path: str, value: Any) -> None:
    """Sets the field at a dotted path."""
    parent, _, leaf = path.rpartition(".")
    setattr(lookup(config, parent) if parent else config, leaf, value)


def absolute(path: str, field: str) -> str:
    """Returns a path as an absolute one, so that a later command from another directory finds it; '' stays ''; `UsageError` for no path."""
    try:
        found = pathlib.Path(path).expanduser().resolve()
        found.exists()
        return str(found) if path else path
    except (OSError, RuntimeError, ValueError) as error:
        raise errors.UsageError(errors.describe("path", f"config field {field!r}", "one that can exist", getattr(error, "strerror", "") or "none")) from error


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the resolved config as JSON-ready nested dicts (tuples become lists)."""
    resolved: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return resolved


def fill(config: Any, recorded: Any, prefix: str = "") -> None:
    """Sets the fields of `config` that `to_dict` recorded; one that `recorded` lacks keeps its value.

    Raises: ValueError: a field that there is none of; TypeError: not a dict; UsageError: a value of another type than the field's.
    """
    if not isinstance(recorded, dict):
        raise TypeError(f"expected named fields at {prefix or 'the top'!r}, found {type(recorded).__name__}")
    known = {field.name for field in dataclasses.fields(config)}
    for name, value in recorded.items():
        if name not in known:
            raise ValueError(f"unknown field {prefix + name!r:.80}{errors.suggest(name, sorted(known))}")
        current = getattr(config, name)
        if dataclasses.is_dataclass(current):
            fill(current, value, f"{prefix}{name}.")
        else:
            check_type(f"{prefix}{name}", value, current)
            setattr(config, name, tuple(map(type(current[0]), value)) if isinstance(current, tuple) else type(current)(value))
