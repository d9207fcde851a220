"""Writes torch's zip files by hand, without torch: a protocol-2 pickle with persistent ids, and one member per storage."""

import collections
import dataclasses
import pathlib
import struct
import zipfile
from typing import Any

import numpy as np

STORAGES = {
    **{"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "float64": "DoubleStorage"},
    **{"int64": "LongStorage", "int32": "IntStorage", "bool": "BoolStorage", "uint8": "ByteStorage"},
}


class Raw(bytes):
    """Pickle opcodes that go into the stream as they are."""


@dataclasses.dataclass
class View:
    """A tensor over some storage: sizes, strides and offset in elements; by default the whole of a contiguous array."""

    array: np.ndarray
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    key: str = ""
    numel: int | None = None


class Writer:
    """Collects storages while it emits a pickle."""

    def __init__(self, big: bool = False) -> None:
        self.storages: dict[str, bytes] = {}
        self.big = big

    def emit(self, value: Any) -> bytes:
        """Opcodes that push `value`."""
        if isinstance(value, Raw):
            return bytes(value)
        if isinstance(value, np.ndarray):
            steps = tuple(int(np.prod(value.shape[axis + 1 :])) for axis in range(value.ndim))
            value = View(value, value.shape, steps)
        if isinstance(value, View):
            return self._tensor(value)
        if value is None or isinstance(value, bool):
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.emit, value)) + b"t"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.emit, value)) + b"e"
        start = call("collections", "OrderedDict") if isinstance(value, collections.OrderedDict) else b"}"
        return start + b"(" + b"".join(self.emit(name) + self.emit(part) for name, part in value.items()) + b"u"

    def _tensor(self, view: View) -> bytes:
        key = view.key or str(len(self.storages))
        dtype = view.array.dtype
        swapped = view.array.byteswap() if self.big else view.array
        self.storages.setdefault(key, np.ascontiguousarray(swapped).tobytes())
        numel = view.array.size if view.numel is None else view.numel
        storage = b"(" + self.emit("storage") + name("torch", STORAGES[dtype.name]) + self.emit(key) + self.emit("cpu") + self.emit(numel) + b"tQ"
        hooks = call("collections", "OrderedDict")
        shape = b"".join(map(self.emit, (view.offset, tuple(map(int, view.shape)), tuple(map(int, view.strides)), False)))
        return name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + shape + hooks + b"tR"


def name(module: str, attribute: str) -> bytes:
    """Opcodes that push a global."""
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: Any) -> Raw:
    """Opcodes that push the result of a call."""
    return Raw(name(module, attribute) + Writer().emit(tuple(arguments)) + b"R")


def write(path: pathlib.Path, value: Any, *, root: str = "archive", big: bool = False, compression: int = zipfile.ZIP_STORED, **members: bytes) -> pathlib.Path:
    """Writes `value` as torch.save does; `members` are further files of the archive (or replace one)."""
    writer = Writer(big)
    pickled = b"\x80\x02" + writer.emit(value) + b"."
    found = {"data.pkl": pickled, "byteorder": b"big" if big else b"little", "version": b"3\n"}
    found |= {f"data/{key}": content for key, content in writer.storages.items()} | {key.replace("__", "/"): content for key, content in members.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, content in found.items():
            archive.writestr(f"{root}/{member}", content)
    return path
