"""Where a checkpoint's files are: a directory, one weight file, or a directory of the Hugging Face cache."""

import pathlib

from relink_jax import errors
from relink_jax.encoders import formats

_SAME = (
    ("model.safetensors", "flax_model.msgpack", "pytorch_model.bin"),
    ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)  # the same weights in several formats, the preferred first


def locate(source: pathlib.Path) -> tuple[pathlib.Path, tuple[pathlib.Path, ...]]:
    """Returns (directory of the checkpoint, weight files that the source itself names) of a `--source`.

    A file stands for itself, with config and tokenizer beside it. A directory of the Hugging Face cache (`models--org--name`) stands
    for the snapshot of its `refs/main`, or its only one; nothing is looked up on the network.
    Raises: DataError: nothing there, or a cache directory without a snapshot to take.
    """
    source = source.expanduser()
    if source.is_file():
        return source.parent, (source,)
    if not source.is_dir():
        raise errors.DataError(errors.describe("source missing", f"--source {source.name!r}", "a checkpoint directory or weight file", "none"))
    return (_snapshot(source) if (source / "snapshots").is_dir() else source), ()


def weights(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the weight files of a directory by name; of one set of weights in several formats only the preferred one.

    Raises: DataError: there is none.
    """
    found = {path.name: path for path in sorted(directory.glob("*")) if path.suffix in formats.SUFFIXES and path.is_file()}
    for names in _SAME:
        for name in [name for name in names if name in found][1:]:
            del found[name]
    if not found:
        expected = f"a weight file ({', '.join(formats.SUFFIXES)})"
        raise errors.DataError(errors.describe("weights missing", f"model directory {directory.name!r}", expected, "none"))
    return list(found.values())


def _snapshot(cache: pathlib.Path) -> pathlib.Path:
    revisions = sorted(path.name for path in (cache / "snapshots").iterdir() if path.is_dir())
    main = cache / "refs" / "main"
    wanted = main.read_text(encoding="utf-8").strip() if main.is_file() else revisions[0] if len(revisions) == 1 else None
    if wanted not in revisions:
        expected = f"the snapshot {wanted[:12]} of refs/main" if wanted else "refs/main, or a single snapshot"
        raise errors.DataError(errors.describe("snapshot missing", f"cache directory {cache.name!r}", expected, f"{len(revisions)} snapshots"))
    return cache / "snapshots" / wanted
