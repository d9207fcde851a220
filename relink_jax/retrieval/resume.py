"""Finished parts of a counting pass on disk, so that a pass that stops goes on where it was.

A part is a run of consecutive batches: one shard of what they found, and the counts of the studies after them. The counts are written
first, so a part that is complete has both. What a pass depends on (embeddings, keys, shapes) is its identity; parts of another pass are
refused. Of several processes the first writes, into a directory that all of them see.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from safetensors import numpy as safetensors_numpy

from relink_jax import errors
from relink_jax.runtime import mesh as meshes
from relink_jax.store import digests, files, shards

PARTS = 40  # about; a stop repeats at most one


class Parts:
    """The parts of one pass of `n_batches` batches of `width` places, in `directory`."""

    def __init__(self, directory: pathlib.Path, n_batches: int, width: int, identity: Mapping[str, Any]) -> None:
        self.directory, self.n_batches, self.width = directory, n_batches, width
        self.batches = -(-n_batches // PARTS)
        if jax.process_index():
            meshes.agreed(0)  # returns once process 0 has begun the directory
        self.writer = shards.ShardWriter(directory, n_batches * width, self.batches * width, identity)
        if not jax.process_index():
            meshes.agreed(0)

    def finished(self) -> tuple[list[dict[str, np.ndarray]], np.ndarray | None]:
        """Returns (what the leading finished parts found, the counts of the studies after them); nothing when their counts are damaged."""
        whole = next((index for index, _, _ in self.writer.missing()), -(-self.n_batches // self.batches))
        state = self._read_state(whole - 1) if whole else None
        seen = 0 if state is None else whole
        common = meshes.agreed(seen)
        if seen != common:
            where = f"parts {self.directory.name!r} on process {jax.process_index()}"
            raise errors.StoreError(errors.describe("parts differ", where, f"{common}, as process 0 sees in a directory of all processes", str(seen)))
        return [safetensors_numpy.load_file(str(self.directory / f"shard-{index:05d}.safetensors")) for index in range(seen)], state

    def write(self, index: int, found: Mapping[str, np.ndarray], state: np.ndarray) -> None:
        """Writes part `index`, counts first, and drops the counts that it replaces; the same on every process."""
        if jax.process_index():
            return
        path = self._state(index)
        files.write_with(path, lambda temporary: safetensors_numpy.save_file({"state": np.ascontiguousarray(state)}, str(temporary)))
        files.write_text(path.with_suffix(".ok"), digests.file_digest(path) + "\n")
        self.writer.write(index, found)
        if index:
            self._state(index - 1).unlink(missing_ok=True)
            self._state(index - 1).with_suffix(".ok").unlink(missing_ok=True)

    def _state(self, index: int) -> pathlib.Path:
        return self.directory / f"state-{index:05d}.safetensors"

    def _read_state(self, index: int) -> np.ndarray | None:
        path = self._state(index)
        try:
            whole = files.read_text(path.with_suffix(".ok")).strip() == digests.file_digest(path)
        except (OSError, errors.StoreError):
            return None
        return safetensors_numpy.load_file(str(path))["state"] if whole else None
