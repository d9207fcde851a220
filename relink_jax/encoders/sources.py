"""Where a checkpoint's files are (a directory, one weight file, or a directory of the Hugging Face cache), and what their digests are.

A weight file is named by its path; one in several shards by the path of its index (`sharded`).
"""

import pathlib
from collections.abc import Iterable, Sequence

from relink_jax import errors
from relink_jax.encoders import formats, sharded
from relink_jax.store import digests

_SAME = (
    ("model.safetensors", "model.safetensors.index.json", "flax_model.msgpack", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)  # the same weights in several formats, the preferred first


def locate(source: pathlib.Path) -> tuple[pathlib.Path, tuple[pathlib.Path, ...]]:
    """Returns (directory of the checkpoint, weight files that the source itself names) of a `--source`.

    A file stands for itself, with config and tokenizer beside it. A directory of the Hugging Face cache (`models--org--name`) stands
    for the snapshot of its `refs/main`, or its only one; nothing is looked up on the network.
    Raises: DataError: nothing there, one shard of several, or a cache directory without a snapshot to take.
    """
    source = source.expanduser()
    if source.is_file():
        index = _index_of(source)
        if index is not None:
            expected = f"the directory, or its {index}, which names all shards"
            raise errors.DataError(errors.describe("part of a checkpoint", f"--source {source.name!r}", expected, "one shard of it"))
        return source.parent, (source,)
    if not source.is_dir():
        raise errors.DataError(errors.describe("source missing", f"--source {source.name!r}", "a checkpoint directory or weight file", "none"))
    return (_snapshot(source) if (source / "snapshots").is_dir() else source), ()


def weights(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the weight files of a directory by name; of one set of weights in several formats only the preferred one.

    Raises: DataError: there is none, or shards without their index.
    """
    found = listed(directory)
    if not found:
        expected = f"a weight file ({', '.join(formats.SUFFIXES)})"
        raise errors.DataError(errors.describe("weights missing", f"model directory {directory.name!r}", expected, "none"))
    return found


def listed(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns what `weights` does, and an empty list where there is no weight file; `DataError` for shards without their index."""
    there = {path.name: path for path in directory.glob("*") if path.is_file()}
    indexes = [path for path in there.values() if sharded.is_index(path)]
    parts = {name: index.name for index in indexes for name in sharded.weight_map(index).values()}
    parts |= {name: index for name in there if name not in parts and (index := sharded.index_of(name)) is not None}
    names = {parts.get(name, name) for name, path in there.items() if path.suffix in formats.SUFFIXES} | {index.name for index in indexes}
    for same in _SAME:
        names -= set([name for name in same if name in names][1:])
    for lost in sorted(names - there.keys()):
        shard = min(name for name, index in parts.items() if index == lost)
        raise errors.DataError(
            errors.describe("index missing", f"model directory {directory.name!r}", f"{lost}, which names the shards", f"{shard} without it")
        )
    return [there[name] for name in sorted(names)]


def parts(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Returns the files that hold a checkpoint's tensors: the weight file itself, or the shards of an index; `DataError` when one is missing."""
    return sharded.shards(path) if sharded.is_index(path) else (path,)


def parts_sha256(path: pathlib.Path) -> dict[str, str]:
    """Returns {name: SHA-256} of `parts`; `DataError` for a file that is missing or cannot be read."""
    return {part.name: _digest(part) for part in parts(path)}


def check_pinned(name: str, found: Iterable[tuple[str, str]], pinned: Sequence[str]) -> None:
    """Checks that the files' digests, (file name, SHA-256), are the pinned ones: one for each file, in any order.

    Raises: DataError: a file without its digest among them, or a digest without its file, of the model called `name`.
    """
    left, unknown = list(pinned), []
    for file, digest in found:
        if digest in left:
            left.remove(digest)
        else:
            unknown.append((file, digest))
    if unknown:
        file, digest = unknown[0]
        expected = f"SHA-256 {' or '.join(one[:12] for one in left)}" if left else f"its SHA-256 among the {len(pinned)} given, one for each weight file"
        raise errors.DataError(errors.describe("weights changed", f"{name}/{file}", expected, digest[:12]))
    if left:
        raise errors.DataError(errors.describe("weights missing", name, f"a weight file of SHA-256 {left[0][:12]}", "only files of the other digests"))


def _digest(path: pathlib.Path) -> str:
    try:
        return digests.file_digest(path)
    except OSError as error:
        raise errors.DataError(errors.describe("weights unreadable", f"file {path.name!r}", "a readable file", type(error).__name__)) from error


def _index_of(path: pathlib.Path) -> str | None:
    """Returns the name of the index beside a file that is one of its shards, or that has a shard's name; None for a whole file."""
    for index in sorted(path.parent.glob(f"*{sharded.SUFFIX}")):
        if sharded.is_index(index) and path.name in sharded.weight_map(index).values():
            return index.name
    return sharded.index_of(path.name)


def _snapshot(cache: pathlib.Path) -> pathlib.Path:
    revisions = sorted(path.name for path in (cache / "snapshots").iterdir() if path.is_dir())
    main = cache / "refs" / "main"
    wanted = main.read_text(encoding="utf-8").strip() if main.is_file() else revisions[0] if len(revisions) == 1 else None
    if wanted not in revisions:
        expected = f"the snapshot {wanted[:12]} of refs/main" if wanted else "refs/main, or a single snapshot"
        raise errors.DataError(errors.describe("snapshot missing", f"cache directory {cache.name!r}", expected, f"{len(revisions)} snapshots"))
    return cache / "snapshots" / wanted
