"""`relink bench soak`: stages run again and again under random kills and stop signals for a given time; nothing may be lost, nor memory grow."""

import dataclasses
import pathlib
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from relink_jax.runtime import progress, stopping
from relink_jax.stages import bench_faults, faults_judge, faults_kills
from relink_jax.stages.faults_process import Ended
from relink_jax.stages.faults_scene import Scene

STAGES = ("audit", "heads", "embed")
MINUTES = 10
MOST = 3  # faults in one run, at most
_SIGNALS = (signal.SIGKILL, signal.SIGTERM)


@dataclasses.dataclass
class Soak:
    """What came of a soak.

    Attributes:
        runs: runs that were taken to their end, by stage.
        faults: signals that met a stage at work, by name.
        losses: a sentence for every run that did not end with the artifacts of an uninterrupted one.
        leftovers: unfinished temporary files that kills left in finished workdirs, together.
        peaks: peak resident bytes of the process that ended each run, by stage, in order; of runs without a fault too.
        seconds: wall-clock time.
    """

    runs: dict[str, int]
    faults: dict[str, int]
    losses: list[str]
    leftovers: int
    peaks: dict[str, list[int]]
    seconds: float


def measure(minutes: int, seed: int, scene: Scene | None = None) -> Soak:
    """Soaks for so many minutes, and then ends with the run that is under way; the same seed draws the same faults.

    Args: scene: where to run; default, a temporary directory that is gone afterwards.
    Raises: UnsoundError: an uninterrupted run that does not end alike each time; StoppedError: between runs, when asked to stop.
    """
    if scene is None:
        bench_faults.on_cpu()
        with tempfile.TemporaryDirectory(prefix="relink-soak-") as root:
            return measure(minutes, seed, Scene(pathlib.Path(root)))
    draw = random.Random(seed)
    soak = Soak(dict.fromkeys(STAGES, 0), {number.name: 0 for number in _SIGNALS}, [], 0, {stage: [] for stage in STAGES}, 0.0)
    for stage in STAGES:
        scene.seconds(stage)
    started = told = time.monotonic()
    with progress.bar(minutes * 60, "bench soak", "s") as shown:
        while time.monotonic() < started + minutes * 60:
            stage = STAGES[sum(soak.runs.values()) % len(STAGES)]
            lost = one_run(scene, stage, draw, soak)
            soak.losses += lost
            stopping.check_here("bench soak")
            for loss in lost:
                progress.notice(f"soak: lost, {loss}")
            now = time.monotonic()
            shown.update(round(now - told))
            told = now
    soak.seconds = time.monotonic() - started
    return soak


def one_run(scene: Scene, stage: str, draw: random.Random, soak: Soak) -> list[str]:
    """Runs a stage to its end under up to `MOST` faults, adds to `soak`, and returns what was lost."""
    workdir, lost = scene.copy(scene.before(stage)), []
    faults = draw.randint(0, MOST)
    for left in range(faults, -1, -1):
        ended, hit = _once(scene, stage, workdir, draw, last=left == 0)
        if hit is None:
            break
        soak.faults[hit.name] += 1
        expected = faults_kills.KILLED if hit == signal.SIGKILL else faults_kills.STOPPED
        lost += [] if ended.code == expected else [f"{stage}: exit code {ended.code} after {hit.name}"]
        lost += [f"{stage}: {one}" for one in faults_judge.half_written(scene.snapshots(stage), workdir)]
    wrong = faults_judge.differences(scene.after(stage), workdir)
    lost += [] if ended.code == 0 else [f"{stage}: the run ended with {ended.code}: {ended.told[-200:]}"]
    lost += [f"{stage}: {one}" for one in wrong]
    soak.leftovers += sum(1 for path in workdir.rglob(".*.tmp"))
    soak.runs[stage] += 1
    soak.peaks[stage].append(ended.peak)
    shutil.rmtree(workdir)
    return lost


def _once(scene: Scene, stage: str, workdir: pathlib.Path, draw: random.Random, last: bool) -> tuple[Ended, signal.Signals | None]:
    """Returns how one process of a run ended, and the signal that met it at work; None where it came to the end of its own accord."""
    number, delay = draw.choice(_SIGNALS), draw.uniform(0, scene.seconds(stage))
    with scene.child(stage, workdir) as child:
        if last or not child.begun() or child.ends_within(delay):
            return child.end(), None
        child.signal(number)
        ended = child.end()
    return ended, None if ended.done and ended.code == 0 else number


def slope(peaks: Sequence[int]) -> float:
    """Returns the bytes that peak memory grows by from one run to the next, by least squares; 0 for fewer than two runs."""
    return float(np.polyfit(np.arange(len(peaks)), np.asarray(peaks, float), 1)[0]) if len(peaks) > 1 else 0.0


def table(soak: Soak, where: str) -> str:
    """Returns runs, faults and losses in a sentence, and a Markdown table of peak memory by stage."""
    runs, faults = sum(soak.runs.values()), sum(soak.faults.values())
    kinds = ", ".join(f"{count} {name}" for name, count in soak.faults.items())
    lines = [f"{soak.seconds / 60:.1f} minutes: {runs} runs, {faults} faults ({kinds}), {len(soak.losses)} lost; {where}", ""]
    lines += ["| stage | runs | peak of the first, MiB | of the last | largest | growth per run, MiB |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for stage, peaks in soak.peaks.items():
        if peaks:
            first, last, most = (f"{value / 2**20:.0f}" for value in (peaks[0], peaks[-1], max(peaks)))
            lines.append(f"| {stage} | {len(peaks)} | {first} | {last} | {most} | {slope(peaks) / 2**20:+.2f} |")
    lines += ["", f"unfinished temporary files left by kills in finished workdirs: {soak.leftovers}"]
    return "\n".join(lines + [f"lost, {loss}" for loss in soak.losses])


def values(soak: Soak, where: str) -> dict[str, Any]:
    """Returns the same as JSON-ready values."""
    return {"where": where, **dataclasses.asdict(soak), "growth_per_run": {stage: slope(peaks) for stage, peaks in soak.peaks.items()}}
