"""Two processes of one audit, of which one is killed, or alive and stuck: both end, and the command run again ends with everything."""

import contextlib
import pathlib
import random
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from relink_jax.runtime import watchdog
from relink_jax.stages import faults_judge as judge
from relink_jax.stages.faults_child import HEARTBEAT
from relink_jax.stages.faults_judge import Fault
from relink_jax.stages.faults_kills import KILLED
from relink_jax.stages.faults_process import LIMIT, Ended, unsound
from relink_jax.stages.faults_scene import Scene

STAGE = "audit"
STUCK_AFTER = 40.0  # seconds; longer than anything in this small audit takes, compilation included
_SLACK = 60.0  # seconds between a peer's death and the end of the other, besides the heartbeat's
_DEVICES = 2  # of each process
_BATCHES = 6  # the fault comes at one of the first ones


def killed(scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Kills process 0 and process 1 in turns inside a counting pass."""
    for number in range(tries):
        victim, other = number % 2, 1 - number % 2
        workdir = scene.copy(scene.before(STAGE))
        first, second = _pair(scene, workdir, {victim: {"killed_at": draw.randint(1, _BATCHES)}})
        ended = (first, second)
        lost = [] if ended[victim][0].code == KILLED else [f"the one to be killed ended with {ended[victim][0].code}"]
        if ended[other][0].code == 0:
            lost.append("the other went on as if nothing had been")
        waited = ended[other][1] - ended[victim][1]
        if waited > HEARTBEAT + _SLACK:
            lost.append(f"the other ended {waited:.0f} s later")
        yield _again(scene, workdir, lost)


def stuck(scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Lets process 0 and process 1 in turns sleep for ever inside a counting pass, under a watchdog."""
    for number in range(tries):
        victim = number % 2
        workdir = scene.copy(scene.before(STAGE))
        ended = _pair(scene, workdir, {victim: {"stuck_at": draw.randint(1, _BATCHES)}}, stuck_after=STUCK_AFTER)
        told = ended[victim][0]
        lost = [] if told.code == watchdog.EXIT_CODE else [f"the stuck one ended with {told.code}"]
        lost += [] if "nothing moved" in told.told and "sleep_for_ever" in told.told else ["no stacks on stderr"]
        lost += [] if ended[1 - victim][0].code else ["the other went on as if nothing had been"]
        yield _again(scene, workdir, lost)


def _again(scene: Scene, workdir: pathlib.Path, lost: list[str]) -> str:
    """Returns what was lost, after the interrupted audit was run again by two processes."""
    whole = _whole(scene)
    lost += judge.half_written([scene.before(STAGE), whole], workdir)
    codes = [one.code for one, _ in _pair(scene, workdir, {})]
    lost += [f"run again, the processes ended with {codes}"] if any(codes) else judge.differences(whole, workdir)
    shutil.rmtree(workdir)
    return "; ".join(lost)


def _whole(scene: Scene) -> pathlib.Path:
    """Returns the workdir after an uninterrupted audit by two processes, whose per-query tables must be those of one process."""
    place = scene.root / "whole-pair"
    if not place.exists():
        workdir = scene.copy(scene.before(STAGE))
        codes = [one.code for one, _ in _pair(scene, workdir, {})]
        wrong = [one for one in judge.differences(scene.after(STAGE), workdir) if ".parquet" in one or "missing" in one]
        if any(codes) or wrong:
            raise unsound(f"{STAGE} of two processes ended with {codes}", "; ".join(wrong[:3]) or "a failure")
        workdir.rename(place)
    return place


def _pair(scene: Scene, workdir: pathlib.Path, asked: Mapping[int, Mapping[str, Any]], stuck_after: float = 0) -> list[tuple[Ended, float]]:
    """Runs two processes of one audit and returns how each ended, and when."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with contextlib.ExitStack() as held:
        children = []
        for index in range(2):
            peer = {"peer": {"port": port, "processes": 2, "index": index}, "stuck_after": stuck_after}
            children.append(held.enter_context(scene.child(STAGE, workdir, {**peer, **asked.get(index, {})}, devices=_DEVICES)))
        until, ended = time.monotonic() + LIMIT, dict[int, tuple[Ended, float]]()
        while len(ended) < 2:
            for index, child in enumerate(children):
                if index not in ended and (child.gone() or time.monotonic() > until):
                    ended[index] = child.end(within=0), time.monotonic()
            time.sleep(0.05)
    return [ended[index] for index in range(2)]


_GOES_ON = "run again: every artifact as of an uninterrupted run"
FAULTS = (
    Fault("peer-killed", "kill -9 of one of two processes of an audit", f"the other ends, not with 0, within the heartbeat; {_GOES_ON}", killed),
    Fault(
        "peer-stuck", "one of two processes of an audit sleeps for ever", f"exit {watchdog.EXIT_CODE}, stacks on stderr; the other ends too; {_GOES_ON}", stuck
    ),
)
