"""Durable writes that fail: the n-th of every stage, for every n; a full disk; places that may not be written."""

import contextlib
import functools
import os
import pathlib
import random
import shutil
import subprocess
from collections.abc import Iterator

from relink_jax.stages import faults_judge as judge
from relink_jax.stages.faults_judge import Fault, SkippedError
from relink_jax.stages.faults_kills import LONG, interrupted
from relink_jax.stages.faults_scene import NAME, STAGES, Scene
from relink_jax.store import files

REFUSED = (74,)
NOBODY = 65534  # user id
_ROOMY = "64m"  # a file system that holds a run
_SMALL, _LARGE = 200, 60_000  # bytes of the largest file that may be written


def nth(stage: str, scene: Scene, draw: random.Random, tries: int, every: int = 1) -> Iterator[str]:
    """Fails the n-th durable write of a stage, for every n (or each `every`-th from a random one), and resumes."""
    for n in range(1 + draw.randrange(every), len(scene.writes(stage)) + 1, every):
        workdir = scene.copy(scene.before(stage))
        with files.fail_at(n):
            ended = scene.run(stage, workdir)
        unclear = judge.refused(ended, REFUSED)
        yield "; ".join(filter(None, [*unclear, interrupted(scene, stage, workdir, ended, ended.code, 0)]))


def small_files(scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Lets the system refuse a child's files beyond a random size, and resumes."""
    for _ in range(tries):
        stage = draw.choice(LONG)
        limit = draw.randint(_SMALL, min(_LARGE, _largest(scene, stage)))
        workdir = scene.copy(scene.before(stage))
        with scene.child(stage, workdir, {"file_bytes": limit}) as child:
            ended = child.end()
        unclear = judge.refused(ended, REFUSED)
        yield "; ".join(filter(None, [*unclear, interrupted(scene, stage, workdir, ended, ended.code, 0)]))


def full_disk(scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Runs a stage on a small file system that fills up, makes room, and resumes."""
    for _ in range(tries):
        stage = draw.choice(LONG)
        with _mounted(scene.root / "disk") as disk:
            workdir = copied_apart(scene.before(stage), disk / NAME)
            _remount(disk, f"size={_used(disk) + draw.randint(1, 8) * 4096}")
            ended = scene.run(stage, workdir)
            lost = judge.refused(ended, REFUSED)
            _remount(disk, f"size={_ROOMY}")
            lost += judge.resumed(scene, stage, workdir)
        yield "; ".join(f"{stage}: {one}" for one in lost)


def read_only(scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Runs a stage in a workdir on a read-only file system."""
    for _ in range(tries):
        stage = draw.choice(STAGES)
        with _mounted(scene.root / "disk") as disk:
            workdir = copied_apart(scene.before(stage), disk / NAME)
            _remount(disk, "ro")
            ended = scene.run(stage, workdir)
            lost = judge.refused(ended, REFUSED) + judge.differences(scene.before(stage), workdir)
        yield "; ".join(f"{stage}: {one}" for one in lost)


def not_permitted(scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Runs a stage as a user who may read the workdir, or one directory of it, but not write there."""
    for number in range(tries):
        stage = draw.choice(LONG)
        workdir = copied_apart(scene.before(stage), scene.root / f"closed-{number}" / NAME)
        closed = workdir if number % 2 == 0 else workdir / {"embed": "features", "heads": "heads", "audit": "embeddings"}[stage]
        closed.mkdir(mode=0o700, exist_ok=True)
        asked = _shut(scene.root, workdir, closed)
        before = judge.artifacts(workdir)
        with scene.child(stage, workdir, asked) as child:
            ended = child.end()
        closed.chmod(0o700)
        lost = judge.refused(ended, REFUSED)
        lost += [] if {**before, "config.json": 0} == {**judge.artifacts(workdir), "config.json": 0} else ["artifacts changed before the refusal"]
        shutil.rmtree(workdir)
        yield "; ".join(f"{stage}: {one}" for one in lost)


def copied_apart(workdir: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    """Copies a workdir byte by byte, sharing no file, and returns the copy."""
    shutil.copytree(workdir, to)
    to.chmod(0o700)
    return to


def _shut(root: pathlib.Path, workdir: pathlib.Path, closed: pathlib.Path) -> dict[str, int]:
    """Makes `closed` unwritable for a child, and returns what the child is asked: as root, who may write anywhere, to become another user."""
    if os.geteuid():
        closed.chmod(0o500)
        return {}
    root.chmod(0o711)
    for path in (workdir, *workdir.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.chown(closed, 0, 0)
    closed.chmod(0o755)
    return {"user": NOBODY}


def _largest(scene: Scene, stage: str) -> int:
    """Returns the bytes of the largest file that a stage makes, less one."""
    old = judge.artifacts(scene.before(stage))
    return (
        max(path.stat().st_size for path in scene.after(stage).rglob("*") if path.is_file() and path.relative_to(scene.after(stage)).as_posix() not in old) - 1
    )


@contextlib.contextmanager
def _mounted(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """Mounts a file system in memory; `SkippedError` where this process may not."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_ROOMY},mode=700", "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SkippedError("no file system may be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=False)


def _remount(place: pathlib.Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True, capture_output=True)


def _used(place: pathlib.Path) -> int:
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


_LEFT = "exit 74, one sentence, nothing half-written; run again: every artifact as of an uninterrupted run"
FAULTS = (
    *(Fault(f"write-{stage}", f"the n-th durable write of {stage} fails, for every n", _LEFT, functools.partial(nth, stage)) for stage in STAGES),
    Fault("small-files", "the system refuses files beyond a random size (RLIMIT_FSIZE)", _LEFT, small_files),
    Fault("full-disk", "the file system fills up (tmpfs of a random size)", _LEFT, full_disk),
    Fault("read-only", "the workdir lies on a read-only file system", "exit 74, one sentence, before anything is computed", read_only),
    Fault("no-permission", "another user's workdir, or one directory of it", "exit 74, one sentence, nothing changed", not_permitted),
)
