"""Where faults are tried: a small synthetic run, as it is before and after every stage, of which each fault gets a copy.

All copies share the workdir's key, and all training runs begin with one secret, so that an interrupted run that was resumed must end with the
very bytes of one that was not.
"""

import contextlib
import importlib
import io
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Mapping
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.privacy import randomness
from relink_jax.runtime import progress
from relink_jax.stages import context, faults_inject, faults_judge
from relink_jax.stages.faults_process import Child, Ended, unsound
from relink_jax.store import files

STAGES = ("cohort", "convert", "embed", "heads", "audit", "probe", "report")
ROAD = "demo"  # all of them in one command
NAME = "run"  # of every workdir: the page says it
MODEL = "phantom-3-specialist"
_NEW = "new"
_IN_PLACE = (".lock", "*.log")  # files that are not replaced but written as they stand, so that copies may not share them


def settings() -> config_lib.RunConfig:
    """Returns the run that faults are tried on: one packaged model, 60 synthetic patients, two arms, every stage within seconds."""
    run = config_lib.RunConfig(name="faults", models=(MODEL,), mitigate=MODEL)
    run.cohort.phantom.n_patients = 60
    run.embed.anchors, run.embed.shard_rows = 64, 64
    run.arms = ("original", "dp")
    run.heads.mechanism.iterations, run.heads.mechanism.expected_batch_size = 6, 8
    run.audit.pool_sizes, run.audit.ks, run.audit.attacks, run.audit.measures, run.audit.strata = (10,), (1,), (), (), ()
    run.audit.bootstrap_replicates = run.probe.bootstrap_replicates = 100
    run.probe.max_iterations, run.probe.l2_grid = 5, (0.01, 1.0)
    run.report.headline_pool = 10
    run.validate()
    return run


class Scene:
    """The run before and after each stage, below `root`, made when first asked for."""

    def __init__(self, root: pathlib.Path, config: config_lib.RunConfig | None = None) -> None:
        self.root, self.config = root, config or settings()
        self._secret, self._copies = secrets.token_bytes(randomness.BYTES), 0
        self._seconds: dict[str, float] = {}
        self._writes: dict[str, list[str]] = {}

    def before(self, stage: str) -> pathlib.Path:
        """Returns a workdir that holds what the stage needs and nothing of its own; not to be changed."""
        if stage in (ROAD, STAGES[0]):
            place = self.root / _NEW
            if not place.exists():
                with context.opened(self.config, place):
                    pass
            return place
        return self.after(STAGES[STAGES.index(stage) - 1])

    def after(self, stage: str) -> pathlib.Path:
        """Returns the workdir after an uninterrupted run of the stage; not to be changed."""
        stage = STAGES[-1] if stage == ROAD else stage
        place = self.root / f"after-{stage}"
        if not place.exists():
            made = self.copy(self.before(stage))
            ended = self.run(stage, made)
            if ended.code:
                raise unsound(f"{stage} ended with {ended.code}", ended.told)
            made.rename(place)
        return place

    def snapshots(self, stage: str) -> list[pathlib.Path]:
        """Returns the workdirs before the stage and after it; of the road, after each of its stages too."""
        stages = STAGES if stage == ROAD else (stage,)
        return [self.before(stage), *(self.after(one) for one in stages)]

    def writes(self, stage: str) -> list[str]:
        """Returns the names of the files that the stage writes durably, in order."""
        if stage not in self._writes:
            workdir = self.copy(self.before(stage))
            with faults_inject.seen_writes() as names:
                ended = self.run(stage, workdir)
            wrong = faults_judge.differences(self.after(stage), workdir)
            if ended.code or wrong:
                raise unsound(f"{stage} ended with {ended.code}", "; ".join(wrong[:3]) or ended.told)
            self._writes[stage] = names
            shutil.rmtree(workdir)
        return self._writes[stage]

    def copy(self, workdir: pathlib.Path) -> pathlib.Path:
        """Returns a copy of a workdir that a fault may injure; files are shared until they are replaced, so replace, never write into them."""
        self._copies += 1
        return copied(workdir, self.root / f"copy-{self._copies:05d}" / NAME)

    def run(self, stage: str, workdir: pathlib.Path, changed: config_lib.RunConfig | None = None, **flags: Any) -> Ended:
        """Runs a stage in this process and returns how `relink STAGE` would end."""
        module = importlib.import_module(f"relink_jax.stages.{stage}")
        config = config_lib.from_dict(config_lib.to_dict(changed or self.config))
        try:
            with progress.quiet(), contextlib.redirect_stderr(io.StringIO()), faults_inject.scenery(self._secret):
                module.run(config, str(workdir), **flags)
        except errors.StoppedError:
            raise
        except errors.RelinkError as error:
            return Ended(error.exit_code, str(error))
        except Exception as error:  # what the command line calls an internal error
            return Ended(errors.RelinkError.exit_code, f"{type(error).__name__}: {error}")
        return Ended(0, "")

    def child(self, stage: str, workdir: pathlib.Path, asked: Mapping[str, Any] | None = None, devices: int = 0) -> Child:
        """Starts a stage in a process of its own, injured as `asked` says, on as many devices as this process has (or so many)."""
        recorded = self.root / "config.json"
        if not recorded.exists():
            files.write_json(recorded, config_lib.to_dict(self.config))
            recorded.chmod(0o644)  # a child may be another user
        words = [stage, f"--config={recorded}", f"--workdir={workdir}"]
        return Child(words, {"secret": self._secret.hex(), **(asked or {})}, devices)

    def seconds(self, stage: str) -> float:
        """Returns how long the stage's work takes in an uninterrupted child, whose artifacts must be those of this process.

        Raises: UnsoundError: they are not.
        """
        if stage not in self._seconds:
            workdir = self.copy(self.before(stage))
            with self.child(stage, workdir) as child:
                child.begun()
                started = time.monotonic()
                child.ends_within(600)
                self._seconds[stage] = time.monotonic() - started
                ended = child.end()
            wrong = faults_judge.differences(self.after(stage), workdir)
            if ended.code or wrong:
                raise unsound(f"{stage} in a process of its own ended with {ended.code}", "; ".join(wrong[:3]) or ended.told[-300:])
            shutil.rmtree(workdir)
        return self._seconds[stage]


def copied(workdir: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    """Copies a workdir, see `Scene.copy`, and returns the copy."""
    shutil.copytree(workdir, to, copy_function=_link, ignore=shutil.ignore_patterns(*_IN_PLACE))
    to.chmod(0o700)
    return to


def injure(path: pathlib.Path, content: bytes) -> None:
    """Replaces a file of a copy, leaving the files it is shared with alone."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.write_bytes(content)
    path.chmod(0o600)


def _link(source: str, target: str) -> None:
    os.link(source, target)
