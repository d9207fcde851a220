"""How a fault ended, judged against what is promised; every judge returns sentences of what was lost, and none where nothing was."""

import dataclasses
import fnmatch
import json
import pathlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from relink_jax import errors
from relink_jax.privacy import ledger as ledger_lib
from relink_jax.privacy import ledger_chain
from relink_jax.stages.faults_process import Ended
from relink_jax.store import checkpoints, digests

if TYPE_CHECKING:
    from relink_jax.stages.faults_scene import Scene

_NO_ARTIFACTS = (".lock", "logs/*", "together/*", "xla_cache/*", "*.tmp", "models/*/tree/*", "*.tmp/*")
_UNFINISHED = ("heads/*/training_state-*.safetensors", "counting/*")  # what a stage keeps until it has ended
_CLAIMS = ("released", "epsilon", "steps", "objective", "clipping", "sampling", "noise", "dataset", "data_used")
_OF_ONE_RUN = ("resumed_from",)


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault: its name, what is done, what is promised, and a function (scene, draws, tries) that yields '' or what was lost, try by try."""

    name: str
    injury: str
    expected: str
    tried: Callable[["Scene", random.Random, int], Iterator[str]]


class SkippedError(Exception):
    """A fault that cannot be tried on this machine; says why."""


def artifacts(workdir: pathlib.Path, unfinished: bool = True) -> dict[str, Any]:
    """Returns what each file of a workdir says, by relative path: the digest of its bytes; of JSON, the value; of a ledger, what it claims.

    Left out are locks, logs, unfinished writes, and Orbax's files, of which the provenance beside them has the digest of the arrays; without
    `unfinished` also what a stage keeps only until it has ended.
    """
    left_out = _NO_ARTIFACTS if unfinished else (*_NO_ARTIFACTS, *_UNFINISHED)
    found = {path.relative_to(workdir).as_posix(): path for path in sorted(workdir.rglob("*")) if path.is_file()}
    return {name: _said(path) for name, path in found.items() if not _fits(name, left_out)}


def differences(expected: pathlib.Path, found: pathlib.Path) -> list[str]:
    """Returns which artifacts of two workdirs differ, or are in one only."""
    ours, theirs = artifacts(expected), artifacts(found)
    wrong = [f"{name} differs" for name in sorted(ours.keys() & theirs.keys()) if ours[name] != theirs[name]]
    wrong += [f"{name} missing" for name in sorted(ours.keys() - theirs.keys())]
    wrong += [f"{name} left over" for name in sorted(theirs.keys() - ours.keys())]
    return wrong + [f"{name} cannot be restored" for name in _unrestorable(found)]


def half_written(snapshots: Sequence[pathlib.Path], found: pathlib.Path) -> list[str]:
    """Returns which artifacts of a workdir are as in none of the snapshots, or gone though the first one has them.

    What a stage keeps only until it has ended is its own, and a ledger may be on its way: it must be whole, and its chain unbroken.

    Args: snapshots: of before the stages that were interrupted and after each of them, in order.
    """
    known, there = [artifacts(one) for one in snapshots], artifacts(found)
    wrong = []
    for name, said in there.items():
        if name.endswith(ledger_lib.FILE_NAME):
            wrong += [f"{name} broken"] if isinstance(said, str) else []
        elif not any(said == one.get(name) for one in known) and not _fits(name, _UNFINISHED):
            wrong.append(f"{name} half-written")
    return wrong + [f"{name} gone" for name in known[0] if name not in there]


def refused(ended: Ended, codes: Sequence[int]) -> list[str]:
    """Returns what is wrong with a refusal: another exit code, or no single sentence of what was expected and found."""
    if ended.code not in codes:
        return [f"exit code {ended.code} where {' or '.join(map(str, codes))} is promised"]
    told = ended.told.strip()
    if "\n" in told or ": expected " not in told or ", found " not in told:
        return [f"no single sentence: {told[-200:]!r}"]
    return []


def undercharged(workdir: pathlib.Path, executed: int) -> list[str]:
    """Returns whether the ledgers of a workdir charge fewer steps than had their noise drawn."""
    charged = 0
    for path in workdir.glob(f"heads/*/*/{ledger_lib.FILE_NAME}"):
        charged += sum(run.charged for run in ledger_chain.runs(json.loads(path.read_text())["entries"], path.name))
    return [f"{executed} steps executed, {charged} charged"] if charged < executed else []


def resumed(scene: "Scene", stage: str, workdir: pathlib.Path) -> list[str]:
    """Runs an interrupted stage again and returns what differs from a run that was never interrupted."""
    ended = scene.run(stage, workdir)
    return [f"resuming ended with {ended.code}: {ended.told[:200]}"] if ended.code else differences(scene.after(stage), workdir)


def _said(path: pathlib.Path) -> Any:
    if path.name == ledger_lib.FILE_NAME:
        try:
            claims = ledger_lib.load(path)
        except errors.StoreError as error:
            return str(error)
        return {name: _without(claims[name], _OF_ONE_RUN) for name in _CLAIMS}
    if path.suffix != ".json":
        return digests.file_digest(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return "no JSON"
    return _without(value, ("tree_files",)) if path.name == "provenance.json" else value


def _without(value: Any, names: Sequence[str]) -> Any:
    return {name: kept for name, kept in value.items() if name not in names} if isinstance(value, dict) else value


def _unrestorable(workdir: pathlib.Path) -> list[str]:
    wrong = []
    for path in sorted(workdir.glob("models/*/provenance.json")):
        try:
            checkpoints.restore(path.parent)
        except errors.StoreError:
            wrong.append(f"models/{path.parent.name}")
    return wrong


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
