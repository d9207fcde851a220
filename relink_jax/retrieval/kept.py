"""Finished results on disk, by label, so that whatever stops later need not make them again.

A result is a safetensors file of arrays and a JSON file that says what it depends on and holds the rest; the JSON is written last. What is
damaged, or depends on something else, counts as not there. Of several processes the first writes, into a directory that all of them see.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from safetensors import numpy as safetensors_numpy

from relink_jax import errors
from relink_jax.retrieval import resume
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import stopping
from relink_jax.store import digests, files, shards

_PARTS = "parts"


@dataclasses.dataclass(frozen=True)
class Item:
    """One result: arrays by name, and what else is told of it, JSON-ready."""

    arrays: Mapping[str, np.ndarray]
    told: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Kept:
    """Results of one identity in a directory; without a directory they are kept in memory.

    Args: identity: a digest of what all of them depend on.
    """

    directory: pathlib.Path | None = None
    identity: str = ""
    _here: dict[str, Item] = dataclasses.field(default_factory=dict)

    def take(self, label: str, depends: Any = None) -> Item | None:
        """Returns a result, None where there is none that depends on the same; every process must ask.

        Args: depends: what this one depends on besides, JSON-ready.
        Raises: StoreError: process 0 sees one and this process does not.
        """
        if self.directory is None:
            return self._here.get(f"{label} {self._digest(label, depends)}")
        found = self._read(self.directory / f"{label}.json", self._digest(label, depends))
        if not meshes.agreed(int(found is not None)):
            return None
        if found is None:
            where = f"kept results {label!r} on process {jax.process_index()}"
            raise errors.StoreError(errors.describe("results differ", where, "those that process 0 sees in a directory of all processes", "none"))
        return found

    def keep(self, label: str, arrays: Mapping[str, np.ndarray], told: Mapping[str, Any] | None = None, depends: Any = None) -> None:
        """Keeps a result, and lets the parts that it was made of go; every process must come here, with the same result.

        Raises: StoreError: it cannot be written.
        """
        item = Item(dict(arrays), dict(told or {}))
        if self.directory is None:
            self._here[f"{label} {self._digest(label, depends)}"] = item
            return
        path, digest = self.directory / f"{label}.json", self._digest(label, depends)
        resume.on_first(lambda: self._write(path, item, digest), f"write of {label}")

    def once(self, label: str, made: Callable[[], Item], depends: Any = None) -> Item:
        """Returns a result that is there, or makes it and keeps it, after which all processes may stop; see `take`, `keep`, `stopping.check`."""
        item = self.take(label, depends)
        if item is None:
            item = made()
            self.keep(label, item.arrays, item.told, depends)
            stopping.check(label)
        return item

    def under(self, label: str) -> pathlib.Path | None:
        """Returns the directory of whatever a result is made of, which goes when the result itself is kept; None for nowhere."""
        return None if self.directory is None else self.directory / _PARTS / label

    def passes(self, label: str, depends: Any = None) -> "Kept | None":
        """Returns where the passes that a result is made of are kept until it is itself, None for nowhere."""
        place = self.under(label)
        return None if place is None else Kept(place, self._digest(label, depends))

    def parts(self, label: str) -> resume.Place | None:
        """Returns where the parts of the one pass that a result is made of are kept, None for nowhere."""
        place = self.under(label)
        return None if place is None else resume.Place(place, f"{self.identity} {label}")

    def _digest(self, label: str, depends: Any) -> str:
        return digests.value_digest([self.identity, label, depends])

    def _write(self, path: pathlib.Path, item: Item, digest: str) -> None:
        sha256, arrays = "", path.with_suffix(".safetensors")
        if item.arrays:
            plain = {name: np.ascontiguousarray(array) for name, array in item.arrays.items()}
            files.write_with(arrays, lambda temporary: safetensors_numpy.save_file(plain, str(temporary)))
            sha256 = digests.file_digest(arrays)
        files.write_json(path, digests.sealed({"depends": digest, "arrays": sha256, "told": dict(item.told)}))
        shards.discard(path.parent / _PARTS / path.stem)

    def _read(self, path: pathlib.Path, digest: str) -> Item | None:
        try:
            document = files.read_object(path, {"depends": str, "arrays": str, "told": dict})
            if document["depends"] != digest or not digests.intact(document):
                return None
            arrays = path.with_suffix(".safetensors")
            if document["arrays"] and digests.stored_digest(arrays) != document["arrays"]:
                return None
            return Item(files.read_with(arrays, safetensors_numpy.load_file, "a safetensors file") if document["arrays"] else {}, document["told"])
        except errors.StoreError:
            return None
