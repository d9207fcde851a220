"""Paths that an archive's table names, kept inside the directory that they are relative to."""

import functools
import os
import pathlib

from relink_jax import errors

_CACHED = 2**18  # directories; MIMIC-CXR has 227,835 of them, one per study


def inside(root: pathlib.Path, relative: str, where: str = "image path") -> pathlib.Path:
    """Returns `root / relative` where that stays inside `root`, also through symbolic links; the file need not be there.

    The root itself may be a link. A directory is looked at once per process, so that a link put there later goes unseen.
    Args: where: how errors call the path, such as 'image 7 of the cohort'.
    Raises: DataError: an empty or absolute path, one with '..' or a zero byte, or a link that leads out of the root or nowhere.
    """
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or relative.startswith("/") or "\0" in relative:
        raise errors.DataError(errors.describe("path", where, "one inside its root", "an empty or absolute one, or one with '..'"))
    base = os.fspath(root)
    folder = _real(base, "/".join(parts[:-1]))
    target = os.path.join(base, *parts)
    if folder is None or (os.path.islink(target) and not _is_within(_resolved(target), _root(base))):
        raise errors.DataError(errors.describe("path", where, "one inside its root", "a link that leads out of it or nowhere"))
    return pathlib.Path(target)


@functools.lru_cache(maxsize=_CACHED)
def _real(base: str, folder: str) -> str | None:
    """Returns the directory that `base/folder` really is, None where that is outside `base`; only a link costs more than one look."""
    if not folder:
        return _root(base)
    parent, _, name = folder.rpartition("/")
    above = _real(base, parent)
    if above is None:
        return None
    path = os.path.join(above, name)
    if not os.path.islink(path):
        return path
    found = _resolved(path)
    return found if _is_within(found, _root(base)) else None


@functools.lru_cache(maxsize=64)
def _root(base: str) -> str:
    return os.path.realpath(base)


def _resolved(path: str) -> str:
    """Returns where a link ends; an empty path where it ends nowhere, which is inside nothing."""
    try:
        return os.path.realpath(path, strict=True)
    except OSError:
        return ""


def _is_within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
