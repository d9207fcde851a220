"""The private state of an unfinished training run: what it takes to go on from a step with the draws it would have made.

One safetensors file per saved step, 0600, written whole or not at all. It holds the heads, the optimizer's state, the digest of the private
records and the secret of all draws, so it is as private as the records: it lies beside the ledger while a run is unfinished and is removed
when the run ends. The ledger names the state it commits with by SHA-256, and only that one is ever gone on from.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from safetensors import numpy as safetensors_numpy

from relink_jax import errors
from relink_jax.privacy import randomness
from relink_jax.store import digests, files

_STEM = "training_state"


@dataclasses.dataclass(frozen=True)
class State:
    """Everything after `step` steps: trained leaves and optimizer state as pytrees, and the secret."""

    step: int
    params: Any
    optimizer: Any
    secret: randomness.Secret


def save(directory: pathlib.Path, state: State, records_sha256: str) -> str:
    """Writes a state and returns the SHA-256 of its file; states of other steps stay until `keep_only`.

    Raises: StoreError: an unwritable place.
    """
    leaves = jax.tree.leaves((state.params, state.optimizer))
    arrays = {f"leaf{number:04d}": np.array(leaf, order="C") for number, leaf in enumerate(leaves)}
    arrays |= {"secret": np.frombuffer(state.secret.seed, np.uint8), "records": np.frombuffer(bytes.fromhex(records_sha256), np.uint8)}
    arrays |= {"disclosed": np.asarray(state.secret.disclosed, np.uint8), "step": np.asarray(state.step, np.int64)}
    path = _path(directory, state.step)
    files.write_with(path, lambda temporary: safetensors_numpy.save_file(arrays, str(temporary)))
    return digests.stored_digest(path)


def load(directory: pathlib.Path, step: int, sha256: str, like: tuple[Any, Any], records_sha256: str) -> State:
    """Returns the state of a step.

    Args: sha256: of its file, as the ledger has it. like: (trained leaves, optimizer state) of the shapes to restore.
    Raises: StoreError: missing, damaged, of other shapes, or of other records than these.
    """
    path = _path(directory, step)
    where = f"file {path.name!r}"
    found = digests.stored_digest(path)
    if found != sha256:
        raise errors.StoreError(errors.describe("training state damaged", where, f"SHA-256 {sha256[:12]}, as the ledger says", found[:12]))
    arrays = files.read_with(path, safetensors_numpy.load_file, "a whole safetensors file")
    leaves, structure = jax.tree.flatten(like)
    stored = [arrays.get(f"leaf{number:04d}") for number in range(len(leaves))]
    if any(one is None or one.shape != np.shape(leaf) for one, leaf in zip(stored, leaves, strict=True)):
        raise errors.StoreError(errors.describe("training state of other heads", where, "the shapes of these heads and this optimizer", "others"))
    if arrays["records"].tobytes().hex() != records_sha256:
        raise errors.StoreError(errors.describe("training state of other records", where, "the records the run began with", "others; use a fresh workdir"))
    params, optimizer = jax.tree.unflatten(structure, stored)
    return State(int(arrays["step"]), params, optimizer, randomness.Secret(arrays["secret"].tobytes(), bool(arrays["disclosed"])))


def keep_only(directory: pathlib.Path, step: int | None) -> None:
    """Removes every state but that of `step`, or all of them."""
    for path in directory.glob(f"{_STEM}-*.safetensors"):
        if step is None or path != _path(directory, step):
            path.unlink()


def _path(directory: pathlib.Path, step: int) -> pathlib.Path:
    return directory / f"{_STEM}-{step:08d}.safetensors"
