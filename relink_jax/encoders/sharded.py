"""Checkpoints in several shards beside an index, as transformers writes large ones: which files they are, and which key is where.

`model.safetensors.index.json` (or `pytorch_model.bin.index.json`) maps every key to one of `model-00001-of-0000N.safetensors`. The
index stands for the checkpoint wherever a weight file is named; a shard stands for nothing by itself. The index is not believed: what
`check` is told of the shards must agree with it both ways, so that a damaged or foreign index can only lead to an error.

Source: huggingface_hub, serialization/_base.py (`split_state_dict_into_shards_factory`).
"""

import pathlib
import re
from collections.abc import Collection, Mapping

from relink_jax import errors
from relink_jax.encoders import specs

SUFFIX = ".index.json"
SHARDED = (".safetensors", ".bin")
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}(?P<suffix>\.safetensors|\.bin)")


def is_index(path: pathlib.Path) -> bool:
    """Whether a file's name is that of an index."""
    return path.name.endswith(tuple(f"{suffix}{SUFFIX}" for suffix in SHARDED))


def index_of(name: str) -> str | None:
    """Returns the name of the index of a file named like a shard, None for any other name."""
    found = _SHARD.fullmatch(name)
    return f"{found['stem']}{found['suffix']}{SUFFIX}" if found else None


def weight_map(index: pathlib.Path) -> dict[str, str]:
    """Returns {key: name of its shard} of an index.

    Raises: DataError: unreadable, or another content than the names of weight files beside it.
    """
    found = specs.read_json(index.parent, index.name).get("weight_map")
    suffix = pathlib.Path(index.name.removesuffix(SUFFIX)).suffix
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) and _plain(name, suffix) for name in found.values()):
        raise errors.DataError(
            errors.describe("index damaged", f"file {index.name!r}", f"'weight_map', from keys to {suffix} files beside it", "another content")
        )
    return found


def shards(index: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Returns the shards of an index by name; `DataError` when one that it names is not there."""
    names = sorted(set(weight_map(index).values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise errors.DataError(
            errors.describe("shard missing", f"file {index.name!r}", f"the {len(names)} shards that it names, beside it", f"no {missing[0]}")
        )
    return tuple(index.parent / name for name in names)


def check(index: pathlib.Path, held: Mapping[str, Collection[str]]) -> None:
    """Checks the index against what the shards hold, {name of a shard: its keys}.

    Raises: DataError: a key that the shard named for it lacks, or that a shard holds without being named for it.
    """
    named = weight_map(index)
    lacking = sorted(key for key, name in named.items() if key not in held[name])
    extra = sorted((key, name) for name, keys in held.items() for key in keys if named.get(key) != name)
    if lacking:
        elsewhere = sorted(name for name, keys in held.items() if lacking[0] in keys)
        found = f"{len(lacking)} that it lacks, first {lacking[0]!r}, {f'which is in {elsewhere[0]}' if elsewhere else 'which is in none'}"
        raise errors.DataError(errors.describe("shards differ from their index", f"file {named[lacking[0]]!r}", f"the keys that {index.name} says", found))
    if extra:
        key, name = extra[0]
        found = f"{len(extra)} more, first {key!r}, {'for which it names ' + named[key] if key in named else 'which it does not name'}"
        raise errors.DataError(errors.describe("shards differ from their index", f"file {name!r}", f"only the keys that {index.name} says", found))


def _plain(name: str, suffix: str) -> bool:
    """Whether a name is that of a file in the index's own directory."""
    return name.endswith(suffix) and name != suffix and not set(name) & set("/\\\0") and not name.startswith(".")
