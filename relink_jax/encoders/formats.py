"""Opens a weight file of any published format and names its tensors; arrays are read one at a time, when asked for.

safetensors; Flax's msgpack; torch's zip files (see `pickles`: nothing in them is run); and several of one kind that an index makes one
checkpoint (`sharded`). torch itself is needed only for what cannot be read as data: TorchScript programs, pickles older than torch 1.6 and
pickles of whole objects, and those only with the user's word that the file may run as a program (`trust_pickle`).
"""

import contextlib
import dataclasses
import math
import mmap
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import msgpack
import numpy as np
import safetensors

from relink_jax import errors
from relink_jax.encoders import pickles, sharded
from relink_jax.encoders.tensors import DTYPES, NAMES, Tensor

SUFFIXES = (".safetensors", ".msgpack", ".bin", ".pt", ".pth", ".tar", ".ckpt")
_MAPS, _TEXTS, _BYTES, _EXTS = {0xDE: 2, 0xDF: 4}, {0xD9: 1, 0xDA: 2, 0xDB: 4}, {0xC4: 1, 0xC5: 2, 0xC6: 4}, {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_ARRAYS = (1, 3)  # flax.serialization's extension types of an array and of a NumPy scalar
_HEADER = 4096


@dataclasses.dataclass(frozen=True)
class Contents:
    """Format, tensors by key, entries of the file that are no weights, and classes in it that were not built."""

    format: str
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...] = ()
    unbuilt: tuple[str, ...] = ()


@contextlib.contextmanager
def opened(path: pathlib.Path, trust_pickle: bool = False) -> Iterator[Contents]:
    """Holds a weight file, or every shard of an index, open and gives what is in it; the tensors' `load` works until it is closed.

    Raises: DataError: a damaged file, another format, one that would have to be run as a program without `trust_pickle`, or shards that
        are not what their index says.
    """
    where = f"file {path.name!r}"
    with contextlib.ExitStack() as stack:
        if sharded.is_index(path):
            yield _joined(path, {shard.name: stack.enter_context(opened(shard, trust_pickle)) for shard in sharded.shards(path)})
            return
        try:
            contents = _contents(path, where, trust_pickle, stack)
        except (safetensors.SafetensorError, zipfile.BadZipFile, OSError) as error:
            whole = "a whole safetensors file" if path.suffix == ".safetensors" else "a whole weight file"
            raise errors.DataError(errors.describe("weights unreadable", where, whole, type(error).__name__)) from error
        yield contents


def _joined(index: pathlib.Path, found: Mapping[str, Contents]) -> Contents:
    """Returns what the shards of an index, contents by file name, hold together."""
    sharded.check(index, {name: contents.tensors.keys() for name, contents in found.items()})
    every = found.values()
    return Contents(
        f"{' and '.join(sorted({one.format for one in every}))} in {len(found)} shards",
        {key: tensor for one in every for key, tensor in one.tensors.items()},
        tuple(name for one in every for name in one.left_out),
        tuple(name for one in every for name in one.unbuilt),
    )


def _contents(path: pathlib.Path, where: str, trust_pickle: bool, stack: contextlib.ExitStack) -> Contents:
    if path.suffix == ".safetensors":
        return _safetensors(path, stack)
    with path.open("rb") as stream:
        start = stream.read(4)
    if start == b"PK\x03\x04":
        return _torch(path, where, trust_pickle, stack)
    if start[:1] == b"\x80":
        return _trusted(path, where, trust_pickle, "a bare pickle, as torch wrote before version 1.6", script=False)
    if start and (0x81 <= start[0] <= 0x8F or start[0] in _MAPS):
        return _msgpack(path, where, stack)
    raise errors.DataError(errors.describe("weights unreadable", where, "safetensors, msgpack or a torch file", "something else"))


def _safetensors(path: pathlib.Path, stack: contextlib.ExitStack) -> Contents:
    opened = stack.enter_context(safetensors.safe_open(path, framework="numpy"))

    def tensor(key: str) -> Tensor:
        part = opened.get_slice(key)
        return Tensor(part.get_dtype(), tuple(part.get_shape()), lambda: opened.get_tensor(key))

    return Contents("safetensors", {key: tensor(key) for key in opened.keys()})  # noqa: SIM118 - not a dict


def _torch(path: pathlib.Path, where: str, trust_pickle: bool, stack: contextlib.ExitStack) -> Contents:
    archive = stack.enter_context(zipfile.ZipFile(path))
    root = pickles.root_of(archive, where)
    if pickles.is_script(archive, root):
        return _trusted(path, where, trust_pickle, "a TorchScript program", script=True)
    try:
        tensors, left_out, unbuilt = pickles.read(archive, root, where)
    except pickles.HostileError:
        raise
    except errors.DataError:
        if not trust_pickle:
            raise
        return _trusted(path, where, trust_pickle, "", script=False)
    return Contents("torch zip", tensors, tuple(left_out), tuple(unbuilt))


def _trusted(path: pathlib.Path, where: str, trust_pickle: bool, found: str, *, script: bool) -> Contents:
    """Reads a file by running it as a program through torch, which the user has allowed."""
    if not trust_pickle:
        raise errors.DataError(errors.describe("weights refused", where, f"safetensors, msgpack or a torch zip file, or {pickles.TRUST}", found))
    try:
        import torch
    except ImportError as error:
        raise errors.DataError(errors.describe("torch missing", "environment", "pip install 'relink_jax[convert]' for --trust_pickle", "no torch")) from error
    try:
        value = torch.jit.load(str(path), map_location="cpu") if script else _unpickled(torch, path)
    except Exception as error:  # the file runs as a program: it can raise anything
        raise errors.DataError(errors.describe("weights unreadable", where, "a file that torch can load", type(error).__name__)) from error

    def wrapped(entry: Any) -> Any:
        if isinstance(entry, torch.nn.Module):
            entry = entry.state_dict()
        if isinstance(entry, Mapping):
            return {key: wrapped(part) for key, part in entry.items()}
        if not isinstance(entry, torch.Tensor):
            return entry
        plain = entry.detach()
        name = NAMES.get(str(plain.dtype).removeprefix("torch."), str(plain.dtype))
        bits = {"BF16": torch.int16}.get(name)
        return Tensor(name, tuple(plain.shape), lambda: plain.contiguous().view(bits).numpy().view(DTYPES[name]) if bits else plain.numpy())

    tensors, left_out = pickles.state_of(wrapped(value), where)
    return Contents("TorchScript, run by torch" if script else "pickle, run by torch", tensors, tuple(left_out))


def _unpickled(torch: Any, path: pathlib.Path) -> Any:
    """Returns what torch makes of a pickle: by its own reader of plain tensors if that suffices, else by running it."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # it has no common type for what it refuses
        return torch.load(path, map_location="cpu", weights_only=False)


def _msgpack(path: pathlib.Path, where: str, stack: contextlib.ExitStack) -> Contents:
    """Flax's serialization: nested maps of arrays, each an extension value [shape, dtype, bytes]; keys are joined by slashes."""
    stream = stack.enter_context(path.open("rb"))
    data = stack.enter_context(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    found: dict[str, Tensor] = {}
    try:
        if _walk(data, 0, (), found) != len(data):
            raise ValueError("bytes after the end")
    except (ValueError, LookupError, TypeError, RecursionError, msgpack.UnpackException) as error:
        expected = "a whole Flax msgpack file of nested maps of arrays"
        raise errors.DataError(errors.describe("weights unreadable", where, expected, type(error).__name__)) from error
    return Contents("Flax msgpack", found)


def _walk(data: mmap.mmap, at: int, path: tuple[str, ...], found: dict[str, Tensor]) -> int:
    """Adds the arrays of the value that begins at byte `at` and returns where the next value begins."""
    if path and (data[at] in _EXTS or data[at] in _FIXED_EXTS):
        size, at = (_FIXED_EXTS[data[at]], at + 1) if data[at] in _FIXED_EXTS else _length(data, at, _EXTS)
        if data[at] not in _ARRAYS or at + 1 + size > len(data) or "/".join(path) in found:
            raise ValueError("no array")
        found["/".join(path)] = _array(data, at + 1, at + 1 + size)
        return at + 1 + size
    count, at = _length(data, at, _MAPS, 0x80, 0x0F)
    for _ in range(count):
        size, at = _length(data, at, _TEXTS, 0xA0, 0x1F)
        name = data[at : at + size].decode("utf-8")
        at = _walk(data, at + size, (*path, name), found)
    return at


def _array(data: mmap.mmap, start: int, end: int) -> Tensor:
    unpacker = msgpack.Unpacker()
    unpacker.feed(data[start : min(end, start + _HEADER)])
    if unpacker.read_array_header() != 3:
        raise ValueError("no array")
    shape, name = tuple(unpacker.unpack()), NAMES[unpacker.unpack()]
    size, first = _length(data, start + unpacker.tell(), _BYTES)
    if first + size != end or not all(isinstance(side, int) for side in shape) or size != math.prod(shape) * DTYPES[name].itemsize:
        raise ValueError("an array of another size")
    return Tensor(name, shape, lambda: np.frombuffer(data[first:end], DTYPES[name]).reshape(shape))


def _length(data: mmap.mmap, at: int, widths: Mapping[int, int], base: int = 0, mask: int = 0) -> tuple[int, int]:
    """Returns (length, where the content begins) of a value whose type byte is at `at`."""
    code = data[at]
    if mask and code & ~mask == base:
        return code & mask, at + 1
    if code not in widths:
        raise ValueError("another type")
    return int.from_bytes(data[at + 1 : at + 1 + widths[code]], "big"), at + 1 + widths[code]
