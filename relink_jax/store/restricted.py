"""What in a workdir is derived from restricted data: one table, a manifest of it, its removal, and the check that nobody else can look.

Classes:
  public      synthetic pictures, locks: nothing of an archive.
  aggregate   settings, figures, ledgers and the page: numbers over many people.
  restricted  pseudonyms, paths, texts, pictures, features, embeddings, weights and heads, and per-query rows: features can be inverted and
              weights memorise, so they count as the data they came from, and whose a converted checkpoint was its path does not say.
The first line of the table that fits a file decides. A file that none fits is nobody's: `purge` refuses to run beside it.

Design note: the workdir's key stays. Once what it made is gone it opens nothing, and a workdir without it is refused as damaged, so that
its settings and figures could no longer be opened. Privacy ledgers stay: an epsilon that was spent stays spent. The page lies there as it
was written; without heads and per-query rows it cannot be recomputed.
"""

import contextlib
import dataclasses
import fnmatch
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.store import digests

PUBLIC, AGGREGATE, RESTRICTED = "public", "aggregate", "restricted"
CLASSES: Sequence[tuple[str, str, str]] = (
    ("run.json", AGGREGATE, "what defines the run's data"),
    ("config.json", AGGREGATE, "settings"),
    ("key", AGGREGATE, "secret of the keyed pseudonyms; see the design note"),
    (".lock", PUBLIC, "lock"),
    ("restricted.json", AGGREGATE, "a saved manifest"),
    ("heads/*/privacy_ledger.json", AGGREGATE, "privacy ledger"),
    ("results/*.json", AGGREGATE, "figures"),
    ("report/*", AGGREGATE, "the page"),
    ("controls/*.json", AGGREGATE, "figures of the controls"),
    ("logs/*", AGGREGATE, "logs of commands: their fields are the program's own"),
    ("together/*", PUBLIC, "exit codes by which processes of one command wait for each other"),
    ("phantom/*", PUBLIC, "synthetic archive"),
    ("cohort/*", RESTRICTED, "cohort tables: pseudonyms, paths, texts"),
    ("records/*", RESTRICTED, "materialised pictures and texts"),
    ("features/*", RESTRICTED, "features"),
    ("embeddings/*", RESTRICTED, "embeddings"),
    ("models/*", RESTRICTED, "converted weights"),
    ("heads/*", RESTRICTED, "heads and training states"),
    ("xla_cache/*", RESTRICTED, "compiled programs, whose constants can be data"),
    ("counting/*", RESTRICTED, "parts of passes and finished results of audits"),
    ("results/*.parquet", RESTRICTED, "per-query rows"),
    ("results/*.parquet.sha256", RESTRICTED, "their digests"),
    ("export/*", RESTRICTED, "exported checkpoints"),
)  # of paths below the workdir; * also matches /
_OTHERS = 0o007


@dataclasses.dataclass(frozen=True)
class Purged:
    """What `purge` removed: number of files, their bytes, and files of the manifest that were gone already."""

    files: int
    bytes: int
    gone: int


def class_of(relative: str) -> str:
    """Returns the class of a file by its path below the workdir, '' where the table has none; what an unfinished write left is restricted."""
    place = pathlib.PurePosixPath(relative)
    if place.is_absolute() or ".." in place.parts:
        return ""
    if place.name.startswith(".") and place.name.endswith(".tmp"):
        return RESTRICTED
    return next((kind for pattern, kind, _ in CLASSES if fnmatch.fnmatchcase(relative, pattern)), "")


def manifest(root: pathlib.Path) -> dict[str, Any]:
    """Returns {'class', 'files': [{'file', 'bytes', 'sha256'}]} of every restricted file below `root`, in order; JSON-ready.

    Raises: StoreError: no workdir there, or a symbolic link anywhere below it.
    """
    root = pathlib.Path(root)
    entries = [
        {"file": name, "bytes": path.stat().st_size, "sha256": digests.stored_digest(path, "a restricted file")}
        for name, path in _files(root).items()
        if class_of(name) == RESTRICTED
    ]
    return {"class": RESTRICTED, "files": entries}


def purge(root: pathlib.Path, listed: Mapping[str, Any] | None = None) -> Purged:
    """Removes exactly the files of a manifest, then the directories that this empties, and returns what went.

    Args: listed: a `manifest` taken before, which somebody may have read; default, that of now.
    Raises: StoreError: before anything is removed, where there is a file of no class, a restricted file that `listed` does not have, one
        that changed since, an entry of another class, or a symbolic link.
    """
    root = pathlib.Path(root)
    there = _files(root)
    unknown = sum(not class_of(name) for name in there)
    if unknown:
        raise _refused("no files but a workdir's", f"{unknown} of no known kind; move them away first")
    named = {str(entry["file"]): entry for entry in (manifest(root) if listed is None else listed)["files"]}
    if any(class_of(name) != RESTRICTED for name in named):
        raise _refused("restricted files only in the manifest", "others")
    left = [name for name in there if class_of(name) == RESTRICTED and name not in named]
    if left:
        raise _refused("every restricted file in the manifest", f"{len(left)} that are not; take a new one")
    if listed is not None:
        changed = sum(digests.stored_digest(there[name], "a restricted file") != entry["sha256"] for name, entry in named.items() if name in there)
        if changed:
            raise _refused("the files of the manifest", f"{changed} that changed since; take a new one")
    found = [there[name] for name in named if name in there]
    sizes = sum(path.stat().st_size for path in found)
    for path in found:
        _remove(path)
    for directory in sorted({parent for path in found for parent in path.relative_to(root).parents if parent.parts}, reverse=True):
        with contextlib.suppress(OSError):  # not empty
            (root / directory).rmdir()
    return Purged(len(found), sizes, len(named) - len(found))


def check_private(path: pathlib.Path) -> None:
    """Refuses a directory that users outside its owner and group can enter or read.

    Raises: StoreError: such a directory, or none; the sentence says what to do.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise errors.StoreError(errors.describe("no directory", f"directory {path.name!r}", "one for restricted data", "none"))
    mode = path.stat().st_mode & 0o777
    if mode & _OTHERS:
        raise errors.StoreError(
            errors.describe("directory open to others", f"directory {path.name!r}", "mode 700 for restricted data", f"{mode:o}; run 'chmod 700' on it first")
        )


def _files(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns every file below a workdir by its relative path, in order; `StoreError` for a symbolic link or no workdir."""
    if not (root / "run.json").is_file():
        raise errors.StoreError(errors.describe("not a workdir", f"directory {root.name!r}", "one with run.json", "none"))
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            raise _refused("no symbolic links", "one")
        if path.is_file():
            found[path.relative_to(root).as_posix()] = path
    return found


def _remove(path: pathlib.Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise errors.StoreError(
            errors.describe("file not removed", "restricted files", "a writable workdir", error.strerror or type(error).__name__)
        ) from error


def _refused(expected: str, found: str) -> errors.StoreError:
    return errors.StoreError(errors.describe("purge refused", "workdir", expected, found))
