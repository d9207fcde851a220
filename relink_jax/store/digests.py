"""SHA-256 of files, arrays and values, and the keyed hashes that stand in for identifiers."""

import hashlib
import hmac
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from relink_jax.store import files
from relink_jax.store.rows import Rows, RowSource, blocks


def file_digest(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file's bytes as hex, reading it in blocks."""
    with pathlib.Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stored_digest(path: pathlib.Path, where: str = "") -> str:
    """Returns `file_digest` of a workdir's file; `StoreError` when it is missing, a directory or unreadable, see `files.read_with`."""
    return files.read_with(path, file_digest, "a readable file", where)


def arrays_digest(arrays: Mapping[str, RowSource]) -> str:
    """Returns the SHA-256 over names, dtypes, shapes and bytes of named arrays, in name order; of `Rows` as of an array that holds them."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        given = arrays[name]
        array = given if isinstance(given, Rows) else np.ascontiguousarray(given)
        total.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        for part in blocks(array) if isinstance(array, Rows) else (...,):
            total.update(array[part].tobytes())
    return total.hexdigest()


def value_digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON-ready value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON-ready document with `content_sha256`, the SHA-256 of everything else in it."""
    content = {name: value for name, value in document.items() if name != "content_sha256"}
    return {**content, "content_sha256": value_digest(content)}


def intact(document: Mapping[str, Any]) -> bool:
    """Whether a sealed document still has the content its `content_sha256` covers; a missing one counts as changed."""
    return sealed(document)["content_sha256"] == document.get("content_sha256")


def keyed(key: bytes, text: str) -> str:
    """Returns the first 16 hex digits of HMAC-SHA-256 of `text`: a pseudonym useless without the workdir's key."""
    return hmac.new(key, text.encode("utf-8"), hashlib.sha256).hexdigest()[:16]
