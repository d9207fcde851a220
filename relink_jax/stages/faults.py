"""Every fault that `relink bench faults` tries, and what came of it: tried, survived, lost."""

import dataclasses
import pathlib
import random
import tempfile
from collections.abc import Iterator, Sequence

from relink_jax import errors
from relink_jax.runtime import progress, stopping
from relink_jax.stages import faults_damage, faults_input, faults_kills, faults_peers, faults_resume, faults_writes
from relink_jax.stages.faults_judge import Fault, SkippedError
from relink_jax.stages.faults_scene import Scene

FAMILIES = {
    "kills": faults_kills.FAULTS,
    "writes": faults_writes.FAULTS,
    "damage": faults_damage.FAULTS,
    "resume": faults_resume.FAULTS,
    "peers": faults_peers.FAULTS,
    "input": faults_input.FAULTS,
}
FAULTS: dict[str, Fault] = {fault.name: fault for family in FAMILIES.values() for fault in family}


@dataclasses.dataclass
class Tally:
    """What came of one fault. Attributes: losses: a sentence for every try that was lost. skipped: why it could not be tried here, '' where it was."""

    name: str
    injury: str
    expected: str
    tried: int = 0
    losses: list[str] = dataclasses.field(default_factory=list)
    skipped: str = ""

    @property
    def lost(self) -> int:
        """Number of tries that ended otherwise than promised."""
        return len(self.losses)


def chosen(names: Sequence[str]) -> list[Fault]:
    """Returns faults by name or by family, in the order of the registry; all of them for no name; `UsageError` for an unknown one."""
    for name in names:
        if name not in FAULTS and name not in FAMILIES:
            known = (*FAMILIES, *FAULTS)
            raise errors.UsageError(errors.describe("fault", "flag --only", f"of {', '.join(known)}, commas between", repr(name)) + errors.suggest(name, known))
    wanted = {fault.name for name in names for fault in FAMILIES.get(name, ())} | set(names)
    return [fault for fault in FAULTS.values() if not names or fault.name in wanted]


def tallied(fault: Fault, scene: Scene, seed: int, tries: int) -> Tally:
    """Tries one fault; the same seed draws the same injuries. Raises: StoppedError: between tries, when asked to stop."""
    tally = Tally(fault.name, fault.injury, fault.expected)
    try:
        for lost in fault.tried(scene, random.Random(f"{fault.name} {seed}"), tries):
            stopping.check_here("bench faults")
            tally.tried += 1
            if lost:
                tally.losses.append(lost)
                progress.notice(f"{fault.name}: lost, {lost}")
    except SkippedError as error:
        tally.skipped = str(error)
    return tally


def tried(names: Sequence[str], seed: int, tries: int) -> Iterator[Tally]:
    """Yields what came of every chosen fault, in a temporary directory that is gone afterwards.

    Raises: UsageError: see `chosen`; UnsoundError: an uninterrupted run that does not end alike each time, so that nothing can be judged.
    """
    wanted = chosen(names)
    with tempfile.TemporaryDirectory(prefix="relink-faults-") as root:
        scene = Scene(pathlib.Path(root))
        for fault in progress.track(wanted, len(wanted), "bench faults", "faults"):
            yield tallied(fault, scene, seed, tries)
