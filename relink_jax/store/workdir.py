"""A run's directory: its identity, its secret key and where each artifact lies.

`run.json` records what defines the data of the run; a second run with another cohort is refused rather than mixed in.
The key of keyed pseudonyms is 32 bytes of OS entropy in a 0600 file; it never leaves the workdir.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import relink_jax
from relink_jax import errors
from relink_jax.store import digests, files


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths of one run."""

    root: pathlib.Path
    run_id: str
    key: bytes

    @property
    def cohort(self) -> pathlib.Path:
        """Directory of the cohort tables."""
        return self.root / "cohort"

    def model(self, model: str) -> pathlib.Path:
        """Directory of a converted model's checkpoint."""
        return self.root / "models" / model

    def features(self, model: str, what: str) -> pathlib.Path:
        """Shard directory of frozen features; `what` is images, texts or anchors."""
        return self.root / "features" / model / what

    def heads(self, model: str, arm: str) -> pathlib.Path:
        """Directory of one arm's heads."""
        return self.root / "heads" / model / arm

    def embeddings(self, model: str, arm: str, what: str) -> pathlib.Path:
        """Shard directory of unit-norm embeddings; `what` is images or texts."""
        return self.root / "embeddings" / model / arm / what

    @property
    def results(self) -> pathlib.Path:
        """Directory of results JSON and Parquet files."""
        return self.root / "results"

    @property
    def report(self) -> pathlib.Path:
        """Directory of the page."""
        return self.root / "report"


def open_workdir(root: str | pathlib.Path, identity: Mapping[str, Any]) -> Workdir:
    """Opens `root` for a run with the given data-defining `identity` (JSON-ready), creating it when empty.

    Raises:
        UsageError: no directory named, or a non-empty directory that is not a workdir.
        StoreError: a workdir of another run (names the identity fields that differ), or a damaged one.
    """
    if not str(root):
        raise errors.UsageError("workdir missing on the command line: expected --workdir=DIR, found nothing")
    path = pathlib.Path(root).expanduser()
    record = path / "run.json"
    if not record.exists():
        if path.exists() and (not path.is_dir() or any(entry.name != ".lock" for entry in path.iterdir())):
            raise errors.UsageError(errors.describe("not a workdir", f"directory {path.name!r}", "an empty directory or one with run.json", "other files"))
        files.make_dir(path)
        files.write_bytes(path / "key", secrets.token_bytes(32))
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        files.write_json(record, {"run_id": secrets.token_hex(6), "created_utc": created, "relink_jax": relink_jax.__version__, "identity": dict(identity)})
    found = files.read_json(record)
    if digests.value_digest(found["identity"]) != digests.value_digest(dict(identity)):
        changed = sorted(name for name in {**found["identity"], **identity} if found["identity"].get(name) != identity.get(name))
        shown = ", ".join(f"{name} {_short(found['identity'].get(name))} (now {_short(identity.get(name))})" for name in changed)
        raise errors.StoreError(
            errors.describe("workdir of another run", f"directory {path.name!r}", "the settings it was made with", f"changed {shown}; use a fresh --workdir")
        )
    key = path / "key"
    if not key.exists() or key.stat().st_size != 32:
        raise errors.StoreError(errors.describe("key damaged", "workdir file 'key'", "32 bytes", "something else"))
    return Workdir(path, found["run_id"], key.read_bytes())


@contextlib.contextmanager
def locked(workdir: Workdir) -> Iterator[None]:
    """Holds the workdir's lock, so that two runs never write one workdir; `StoreError` when another holds it."""
    with open(workdir.root / ".lock", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise errors.StoreError(
                errors.describe("workdir in use", f"directory {workdir.root.name!r}", "one run at a time", "a lock held by another process")
            ) from error
        yield


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 24 else text[:21] + "..."
