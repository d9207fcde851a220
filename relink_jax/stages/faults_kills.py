"""Kills and stop signals while a stage works, at random times and half way through a durable write."""

import functools
import pathlib
import random
import shutil
import signal
from collections.abc import Iterator

from relink_jax.stages import faults_judge as judge
from relink_jax.stages.faults_judge import Fault
from relink_jax.stages.faults_process import Ended
from relink_jax.stages.faults_scene import ROAD, STAGES, Scene

KILLED = -signal.SIGKILL
STOPPED = 75
LONG = ("embed", "audit", "heads")  # the stages that take long on real data
_OTHERS = tuple(stage for stage in STAGES if stage not in LONG)
_MISSES = 5  # times that a stage may end before its signal comes, until one try is given up


def timed(stages: tuple[str, ...], number: int, scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Sends a signal to a child at a random time of its work, and resumes; yields what was lost, try by try."""
    for _ in range(tries):
        stage = draw.choice(stages)
        workdir, steps = scene.copy(scene.before(stage)), scene.root / "noise"
        steps.unlink(missing_ok=True)
        for miss in range(_MISSES + 1):
            with scene.child(stage, workdir, {"noise": str(steps)}) as child:
                if child.begun():
                    child.ends_within(draw.uniform(0, scene.seconds(stage) / 2**miss))
                    child.signal(number)
                ended = child.end()
            if not ended.done:
                break
            shutil.rmtree(workdir)
            workdir = scene.copy(scene.before(stage))
            steps.unlink(missing_ok=True)
        executed = steps.stat().st_size if steps.exists() else 0
        yield interrupted(scene, stage, workdir, ended, KILLED if number == signal.SIGKILL else STOPPED, executed)


def torn(stage: str, scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Kills a child half way through a random one of its durable writes, and resumes; yields what was lost, try by try."""
    names = scene.writes(stage)
    for _ in range(tries):
        workdir, steps = scene.copy(scene.before(stage)), scene.root / "noise"
        steps.unlink(missing_ok=True)
        with scene.child(stage, workdir, {"torn": draw.randint(1, len(names)), "noise": str(steps)}) as child:
            ended = child.end()
        yield interrupted(scene, stage, workdir, ended, KILLED, steps.stat().st_size if steps.exists() else 0)


def interrupted(scene: Scene, stage: str, workdir: pathlib.Path, ended: Ended, code: int, executed: int) -> str:
    """Returns what an interruption lost: another exit code, a half-written artifact, steps not charged, or another end once resumed."""
    lost = [] if ended.code == code else [f"exit code {ended.code} where {code} is promised: {ended.told[-200:]}"]
    lost += judge.half_written(scene.snapshots(stage), workdir)
    lost += judge.undercharged(workdir, executed)
    lost += judge.resumed(scene, stage, workdir)
    shutil.rmtree(workdir, ignore_errors=True)
    return "; ".join([f"{stage}: {one}" for one in lost])


_EQUAL = "resumed: every artifact as of an uninterrupted run, no step executed that is not charged"
FAULTS = (
    *(Fault(f"kill-{stage}", f"kill -9 at a random time of {stage}", _EQUAL, functools.partial(timed, (stage,), signal.SIGKILL)) for stage in LONG),
    Fault("kill-others", f"kill -9 at a random time of {', '.join(_OTHERS)}", _EQUAL, functools.partial(timed, _OTHERS, signal.SIGKILL)),
    Fault("kill-road", "kill -9 at a random time of the whole road in one command", _EQUAL, functools.partial(timed, (ROAD,), signal.SIGKILL)),
    *(Fault(f"torn-{stage}", f"kill -9 half way through a random durable write of {stage}", _EQUAL, functools.partial(torn, stage)) for stage in LONG),
    *(
        Fault(f"term-{stage}", f"SIGTERM at a random time of {stage}", f"exit 75; {_EQUAL}", functools.partial(timed, (stage,), signal.SIGTERM))
        for stage in LONG
    ),
)
