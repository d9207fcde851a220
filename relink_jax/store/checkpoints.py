"""Orbax checkpoints of parameter trees behind one module, with our own digest.

Orbax restores a checkpoint with a flipped bit without complaint (measured in the project's notes), so every tree is
stored with the SHA-256 of its arrays, which `restore` checks.
"""

import pathlib
import shutil
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.store import digests, files


def save(directory: pathlib.Path, tree: dict[str, Any], provenance: dict[str, Any]) -> str:
    """Saves a nested dict of arrays and returns its digest; `provenance` is written beside it last.

    Raises: StoreError: unwritable workdir.
    """
    import orbax.checkpoint as ocp

    digest = tree_digest(tree)
    target, temporary = directory / "tree", directory / ".tree.tmp"
    files.make_dir(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(temporary.absolute(), tree)
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
    for path in directory.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    files.write_json(directory / "provenance.json", {**provenance, "tree_sha256": digest})
    return digest


def restore(directory: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (tree of NumPy arrays, provenance) after checking the digest.

    Raises: StoreError: missing or unreadable checkpoint, or arrays that do not match the recorded SHA-256.
    """
    import orbax.checkpoint as ocp

    provenance = files.read_json(directory / "provenance.json")
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.restore((directory / "tree").absolute(), restore_args=None)
    except Exception as error:
        raise errors.StoreError(errors.describe("checkpoint unreadable", f"models/{directory.name}", "an Orbax tree", type(error).__name__)) from error
    arrays: dict[str, Any] = _to_numpy(tree)
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


def _to_numpy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _to_numpy(value) for name, value in tree.items()}
    return np.asarray(tree)
