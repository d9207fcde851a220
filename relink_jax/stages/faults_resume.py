"""A workdir that is not this run's: of another cohort, with other settings or other data than it was begun with, or in use."""

import functools
import json
import pathlib
import random
import shutil
from collections.abc import Callable, Iterator

from relink_jax import config as config_lib
from relink_jax.privacy import ledger as ledger_lib
from relink_jax.stages import context
from relink_jax.stages import faults_judge as judge
from relink_jax.stages.faults_damage import KINDS, during
from relink_jax.stages.faults_judge import Fault
from relink_jax.stages.faults_process import Ended
from relink_jax.stages.faults_scene import MODEL, STAGES, Scene

REFUSED, USAGE = (74,), (2,)
BASE = "audit"  # the stage after which a workdir is tried


def _changed(scene: Scene, change: Callable[[config_lib.RunConfig], object]) -> config_lib.RunConfig:
    config = config_lib.from_dict(config_lib.to_dict(scene.config))
    change(config)
    return config


def _another_cohort(config: config_lib.RunConfig) -> None:
    config.cohort.phantom.seed += 1


def _another_epsilon(config: config_lib.RunConfig) -> None:
    config.heads.mechanism.target_epsilon *= 2


def _other_shards(config: config_lib.RunConfig) -> None:
    config.embed.shard_rows *= 2


def _other_precision(config: config_lib.RunConfig) -> None:
    config.embed.precision = "bf16"


def other_workdir(scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Runs every stage of another cohort in an audited workdir, and one in a directory of other files."""
    for stage in STAGES:
        yield _left_alone(scene, stage, REFUSED, functools.partial(scene.run, stage, changed=_changed(scene, _another_cohort)))
    place = scene.root / "mine"
    place.mkdir(exist_ok=True)
    (place / "letter.txt").write_text("mine")
    lost = judge.refused(scene.run("cohort", place), USAGE)
    yield "; ".join(lost + ([] if [path.name for path in place.iterdir()] == ["letter.txt"] else ["another's directory was changed"]))


def other_settings(scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Runs stages again with settings that their artifacts were not made with; then goes on with an interrupted training with others."""
    for stage, change in (("heads", _another_epsilon), ("embed", _other_shards), ("embed", _other_precision)):
        yield _left_alone(scene, stage, REFUSED, functools.partial(scene.run, stage, changed=_changed(scene, change)))
    workdir = scene.copy(during(KINDS["training state"], scene))
    begun = json.loads(next(workdir.glob(f"heads/{MODEL}/*/{ledger_lib.FILE_NAME}")).read_text())["entries"]
    ended = scene.run("heads", workdir, _changed(scene, _another_epsilon))
    charged = max(entry["content"]["through"] for entry in begun if entry["kind"] == "charged")
    earlier = [ledger_lib.load(path)["earlier"] for path in sorted(workdir.glob(f"heads/{MODEL}/*/{ledger_lib.FILE_NAME}"))]
    told = [run["steps"] for runs in earlier for run in runs]
    shutil.rmtree(workdir)
    yield "" if (ended.code, told) == (0, [charged]) else f"exit code {ended.code}, steps of the first run in the ledger: {told}, charged {charged}"


def other_data(scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Puts another cohort's tables, or other weights, in the place of those that the artifacts were made from."""
    other = Scene(scene.root / "other", _changed(scene, _another_cohort))
    other.root.mkdir(exist_ok=True)
    for reader in ("embed", "audit", "probe"):

        def tables(workdir: pathlib.Path, reader: str = reader) -> Ended:
            shutil.rmtree(workdir / "cohort")
            shutil.copytree(other.after("cohort") / "cohort", workdir / "cohort")
            return scene.run(reader, workdir)

        yield _left_alone(scene, reader, REFUSED, tables, but="cohort/")


def two_runs(scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Runs a stage in a workdir that another command holds."""
    for stage in STAGES:

        def held(workdir: pathlib.Path, stage: str = stage) -> Ended:
            with context.opened(_changed(scene, lambda _: None), workdir):
                return scene.run(stage, workdir)

        yield _left_alone(scene, stage, REFUSED, held)


def _left_alone(scene: Scene, stage: str, codes: tuple[int, ...], act: Callable[[pathlib.Path], Ended], but: str = "no file") -> str:
    """Returns what is wrong after a command that must be refused in a copy of the audited workdir, of which it may change nothing `but`."""
    workdir = scene.copy(scene.after(BASE))
    lost = judge.refused(act(workdir), codes)
    lost += [one for one in judge.differences(scene.after(BASE), workdir) if not one.startswith(but)]
    shutil.rmtree(workdir)
    return "; ".join(f"{stage}: {one}" for one in lost)


_REFUSED = "exit 74, one sentence, nothing changed"
FAULTS = (
    Fault("other-workdir", "every stage in another cohort's workdir; a directory of other files", f"{_REFUSED}; exit 2", other_workdir),
    Fault(
        "other-settings",
        "stages run again with other settings; an interrupted training with another epsilon",
        f"{_REFUSED}; a run of its own, with the first one's steps in the ledger",
        other_settings,
    ),
    Fault("other-data", "another cohort's tables in place of those that features were made from", _REFUSED, other_data),
    Fault("two-runs", "every stage in a workdir that another command holds", _REFUSED, two_runs),
)
