"""Orbax checkpoints of parameter trees behind one module, with our own digests.

Orbax restores a checkpoint with a flipped bit without complaint (measured in the project's notes), and of some damaged files
prints traces from its own threads, so every tree is stored with the SHA-256 of its files and of its arrays, which `restore` checks
before and after Orbax reads it.
"""

import pathlib
import shutil
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.store import digests, files

_RECORD, _TREE = "provenance.json", "tree"
_FIELDS = {
    **{"tree_sha256": str, "tree_files": dict, "source_sha256": str, "config_sha256": str},
    **{"parameters": int, "layout": str, "ignored": list, "model": dict},
}


def save(directory: pathlib.Path, tree: dict[str, Any], provenance: dict[str, Any]) -> str:
    """Saves a nested dict of arrays and returns its digest; `provenance` is written beside it last.

    Raises: StoreError: unwritable workdir.
    """
    digest = tree_digest(tree)
    target, temporary = directory / _TREE, directory / ".tree.tmp"
    files.make_dir(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    with _checkpointer() as checkpointer:
        checkpointer.save(temporary.absolute(), tree)
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
    for path in directory.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    saved = {path.relative_to(target).as_posix(): digests.file_digest(path) for path in sorted(target.rglob("*")) if path.is_file()}
    files.write_json(directory / _RECORD, {**provenance, "tree_sha256": digest, "tree_files": saved})
    return digest


def provenance_of(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the provenance of a saved model without reading its tree; `StoreError` when it is missing or lacks a field."""
    return files.read_object(directory / _RECORD, _FIELDS, f"models '{directory.name}/{_RECORD}'")


def restore(directory: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (tree of NumPy arrays, provenance) after checking the digests.

    Raises: StoreError: missing, damaged or unreadable checkpoint or provenance, or arrays that do not match the recorded SHA-256.
    """

    def read(path: pathlib.Path) -> Any:
        with _checkpointer() as checkpointer:
            return checkpointer.restore(path.absolute(), restore_args=None)

    provenance = provenance_of(directory)
    _check_files(directory, provenance["tree_files"])
    arrays: dict[str, Any] = _to_numpy(files.read_with(directory / _TREE, read, "an Orbax tree", f"models/{directory.name}"))
    found, expected = tree_digest(arrays), provenance["tree_sha256"]
    if found != expected:
        raise errors.StoreError(errors.describe("checkpoint corrupted", f"models/{directory.name}", f"SHA-256 {expected[:12]}", found[:12]))
    return arrays, provenance


def tree_digest(tree: dict[str, Any]) -> str:
    """Returns the SHA-256 over a nested dict of arrays, by slash-joined path."""
    return digests.arrays_digest(flatten(tree))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Returns {'a/b/c': array} of a nested dict."""
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = np.asarray(value)
    return flat


def unflatten(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the nested dict of slash-joined paths; the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def _checkpointer() -> Any:
    """Returns Orbax's checkpointer of trees, for this process alone: by default it waits for all processes of the JAX runtime."""
    import orbax.checkpoint as ocp

    me = ocp.multihost.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}")
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)


def _check_files(directory: pathlib.Path, recorded: dict[str, Any]) -> None:
    """Raises `StoreError` naming the first file of the tree that is not as it was saved."""
    for name, expected in recorded.items():
        path, where = directory / _TREE / name, f"models/{directory.name}/{_TREE}"
        found = digests.stored_digest(path, where) if path.exists() else "no file"
        if found != expected:
            raise errors.StoreError(errors.describe(f"checkpoint corrupted, file {path.name[:24]!r}", where, f"SHA-256 {str(expected)[:12]}", found[:12]))


def _to_numpy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _to_numpy(value) for name, value in tree.items()}
    return np.asarray(tree)
