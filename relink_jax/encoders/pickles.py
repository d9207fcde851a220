"""Reads the tensors of a torch zip file (`torch.save`: .bin, .pt, .tar, .ckpt) without torch and without running anything in it.

Such a file is a zip of `data.pkl`, a pickle that says which tensor has which name, and of `data/N`, the bare numbers. A pickle is a
program; here it can only name tensors and build plain containers (numbers, texts, lists, tuples, dicts). Everything else that it asks for
becomes an inert placeholder that swallows whatever is done to it. Placeholders are tolerated outside the tensors' own dict (an optimizer,
a configuration object: CXR-CLIP and GLoRIA ship them) and named in the provenance; a placeholder in the place of a tensor is an error.
A file that asks for a shell, a process, a socket or `eval` is refused wherever it asks: no checkpoint needs them.

Source of the format: torch/serialization.py (`_save`, `_load`), torch/_utils.py (`_rebuild_tensor_v2`).
"""

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.encoders.tensors import DTYPES, Tensor

TRUST = "--trust_pickle to let torch run the file as a program"
_STORAGES = {
    **{"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64", "IntStorage": "I32"},
    **{"ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL"},
}
_REFUSED_ROOMS = frozenset(
    [
        "os",
        "posix",
        "nt",
        "subprocess",
        "sys",
        "shutil",
        "socket",
        "importlib",
        "runpy",
        "ctypes",
        "pty",
        "commands",
        "webbrowser",
        "multiprocessing",
        "code",
        "codeop",
    ]
)
_REFUSED_NAMES = frozenset(["eval", "exec", "execfile", "compile", "open", "input", "__import__", "breakpoint"])
_NESTED = ("state_dict", "model")


class HostileError(errors.DataError):
    """A pickle that asks for a shell, a process, a socket or `eval`; no flag lets it pass."""


class Placeholder:
    """Stands where a pickle asked for a class or function that is not built here; does nothing, whatever is done to it."""

    origin = ""

    def __new__(cls, *_: Any, **__: Any) -> "Placeholder":
        """Takes any arguments and keeps none."""
        return object.__new__(cls)

    def __call__(self, *_: Any, **__: Any) -> "Placeholder":
        """Stands for the result of the call."""
        return self

    def __setstate__(self, _: Any) -> None:
        """Keeps no state."""

    def __setitem__(self, _: Any, __: Any) -> None:
        """Keeps no item."""

    def extend(self, _: Any) -> None:
        """Keeps no item."""

    append = add = extend


class _StorageType:
    """A class of torch storages: a number format."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError("a pickle that changes a storage")


class _Storage:
    """The numbers of one member of the zip file."""

    def __init__(self, archive: zipfile.ZipFile, member: str, dtype: str, big: bool) -> None:
        self.archive, self.member, self.dtype = archive, member, dtype
        self.stored = DTYPES[dtype].newbyteorder(">" if big else "<")
        self.size = archive.getinfo(member).file_size // self.stored.itemsize

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError("a pickle that changes a storage")

    def read(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
        """Returns the array that begins at element `offset` with these strides, in elements."""
        span = _span(shape, strides)
        try:
            with self.archive.open(self.member) as stream:
                stream.seek(offset * self.stored.itemsize)
                flat = np.frombuffer(stream.read(span * self.stored.itemsize), self.stored)
        except (OSError, zipfile.BadZipFile, ValueError, EOFError) as error:
            raise errors.DataError(errors.describe("weights unreadable", f"member {self.member!r}", "whole numbers", type(error).__name__)) from error
        if flat.size != span:
            raise errors.DataError(errors.describe("weights unreadable", f"member {self.member!r}", f"{span} numbers", str(flat.size)))
        array = np.lib.stride_tricks.as_strided(flat, shape, [step * self.stored.itemsize for step in strides], writeable=False)
        return array if self.stored.isnative else array.astype(DTYPES[self.dtype])


class _RebuildTensor:
    """`torch._utils._rebuild_tensor_v2`."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
        """Returns the tensor, after checking that it lies inside its storage."""
        whole = all(isinstance(one, tuple) and all(isinstance(size, int) and size >= 0 for size in one) for one in (shape, strides))
        if not isinstance(storage, _Storage) or not whole or not isinstance(offset, int) or offset < 0 or len(shape) != len(strides):
            raise pickle.UnpicklingError("a tensor that is none")
        if max(offset + _span(shape, strides), math.prod(shape)) > storage.size:
            raise pickle.UnpicklingError("a tensor beyond its storage")
        return Tensor(storage.dtype, shape, lambda: storage.read(offset, shape, strides))


class _RebuildParameter:
    """`torch._utils._rebuild_parameter`."""

    __slots__ = ()

    def __call__(self, tensor: Any, *_: Any) -> Any:
        """Returns the parameter's tensor."""
        return tensor


_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "torch._utils._rebuild_tensor_v2": _RebuildTensor(),
    "torch._utils._rebuild_parameter": _RebuildParameter(),
    "torch.Size": tuple,
    **{f"torch.{name}": _StorageType(dtype) for name, dtype in _STORAGES.items()},
}


class _Reader(pickle.Unpickler):
    """The unpickler of one archive; `asked` collects what it replaced."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self.asked: set[str] = set()
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in archive.namelist() else b"little"
        self._archive, self._root, self._big = archive, root, order.strip() == b"big"

    def find_class(self, module: str, name: str) -> Any:
        """Returns what a name in the pickle stands for: something harmless, or a placeholder."""
        origin = f"{module}.{name}"
        if origin in _KNOWN:
            return _KNOWN[origin]
        if module.split(".")[0] in _REFUSED_ROOMS or (module in ("builtins", "__builtin__") and name in _REFUSED_NAMES):
            raise HostileError(
                errors.describe("pickle refused", "weight file", "tensors and plain containers", f"a call of {origin}, which no checkpoint needs")
            )
        self.asked.add(origin)
        return type("Placeholder", (Placeholder,), {"origin": origin})

    def persistent_load(self, pid: Any) -> Any:
        """Returns the storage that a tensor refers to."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], _StorageType) and isinstance(pid[2], str)):
            raise pickle.UnpicklingError("a reference to no storage")
        return _Storage(self._archive, f"{self._root}data/{pid[2]}", pid[1].dtype, self._big)


def root_of(archive: zipfile.ZipFile, where: str) -> str:
    """Returns the folder of an archive's `data.pkl`, with its slash; `DataError` for a zip file that torch did not write."""
    found = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
    if len(found) != 1:
        raise errors.DataError(
            errors.describe("weights unreadable", where, "a torch file, a zip with one data.pkl", f"a zip of {len(archive.namelist())} files with {len(found)}")
        )
    return found[0].removesuffix("data.pkl")


def is_script(archive: zipfile.ZipFile, root: str) -> bool:
    """Whether an archive is a TorchScript program, whose tensors only torch can name."""
    return f"{root}constants.pkl" in archive.namelist()


def read(archive: zipfile.ZipFile, root: str, where: str) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Returns (tensors by name, other entries left out, classes that became placeholders) of a torch archive.

    Raises: DataError: what is not a dict of tensors by itself or under `state_dict` or `model`, a pickle that asks for more than data
        where the tensors are, or a damaged file.
    """
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise errors.DataError(errors.describe("weights unreadable", where, "a torch file, which is not compressed", "compressed entries"))
    reader = _Reader(archive, root)
    try:
        value = reader.load()
    except HostileError:
        raise
    except Exception as error:  # whatever a damaged or hostile pickle makes the reader raise
        raise errors.DataError(errors.describe("weights unreadable", where, f"a plain pickle, or {TRUST}", f"{type(error).__name__}")) from error
    tensors, left = state_of(value, where)
    return tensors, left, sorted(reader.asked)


def state_of(value: Any, where: str) -> tuple[dict[str, Tensor], list[str]]:
    """Returns (tensors by name, names of the other entries) of a file's value, see `read`."""
    if not isinstance(value, Mapping):
        raise errors.DataError(errors.describe("weights refused", where, f"a dict of tensors, or {TRUST}", _kind(value)))
    nested = [name for name in _NESTED if isinstance(value.get(name), Mapping)]
    if len(nested) > 1:
        raise errors.DataError(errors.describe("two sets of weights", where, f"one of {' and '.join(_NESTED)}", "both"))
    state = value[nested[0]] if nested else value
    left = [str(name) for name in value if name not in nested] if nested else []
    for name, entry in state.items():
        if not isinstance(name, str) or not isinstance(entry, Tensor):
            raise errors.DataError(errors.describe("weights refused", f"{where}, entry {name!s:.60}", f"a tensor, or {TRUST}", _kind(entry)))
    return dict(state), left


def _kind(value: Any) -> str:
    origin = getattr(value, "origin", "")
    return f"a call of {origin}, not executed" if origin else type(value).__name__


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Returns how many elements lie between the first and the last of an array, both included."""
    return 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True)) if math.prod(shape) else 0
