"""A child process as its parent sees it: started, told when its work begins and ends, signalled after a delay, waited for."""

import contextlib
import dataclasses
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from relink_jax import errors
from relink_jax.stages import faults_child

LIMIT = 900.0  # seconds that any child may take
_DEVICES = "--xla_force_host_platform_device_count"


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (negative: the signal), what it said on stderr, its peak of resident memory (0 where its work did not end), whether that had ended."""

    code: int
    told: str
    peak: int = 0
    done: bool = True


class Child:
    """A command of one stage in a process of its own; a context manager that leaves none running."""

    def __init__(self, words: Sequence[str], asked: Mapping[str, Any], devices: int = 0) -> None:
        self._marks, theirs = os.pipe()
        self._held = contextlib.ExitStack()
        self._told = self._held.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._held.callback(os.close, self._marks)
        command = faults_child.command({**asked, "marks": theirs}, list(words))
        self._process = subprocess.Popen(command, env=environment(devices), stdout=subprocess.DEVNULL, stderr=self._told, pass_fds=(theirs,))
        os.close(theirs)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self.end()
        self._held.close()

    def begun(self) -> bool:
        """Waits until the stage's work begins; false when the process ended first."""
        ready, _, _ = select.select([self._marks], [], [], LIMIT)
        return bool(ready) and os.read(self._marks, 1) == b"("

    def ends_within(self, seconds: float) -> bool:
        """Waits that long; true when the work, or the process, ended meanwhile."""
        ready, _, _ = select.select([self._marks], [], [], seconds)
        return bool(ready)

    def signal(self, number: int) -> None:
        """Sends a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def gone(self) -> bool:
        """Returns whether the process has ended; `end` says how."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self, within: float = LIMIT) -> Ended:
        """Waits for the end, killing a process that takes longer than `within` seconds."""
        until = time.monotonic() + within
        while True:
            pid, status = os.waitpid(self._process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > until:
                self.signal(signal.SIGKILL)
                until += LIMIT
            time.sleep(0.02)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._told.seek(0)
        text = self._told.read().decode("utf-8", "replace")
        _, done, peak = os.read(self._marks, 99).decode().partition(")")
        return Ended(self._process.returncode, text, int(peak or 0), bool(done))


def environment(devices: int = 0) -> dict[str, str]:
    """Returns the environment of a child that computes what this process computes: the same package and settings, on as many CPU devices (or so many)."""
    root = str(pathlib.Path(__file__).resolve().parent.parent.parent)
    counted = f"{_DEVICES}={devices or jax.local_device_count()}"
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_DEVICES)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "XLA_FLAGS": " ".join([*flags, counted]),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(jax.config.read("jax_disable_most_optimizations"))),
        "RELINK_PROGRESS": "0",
    }


def unsound(what: str, found: str) -> errors.UnsoundError:
    """Returns the error of a benchmark that cannot be made: an uninterrupted run that does not end as it should."""
    return errors.UnsoundError(errors.describe(what, "bench faults", "an uninterrupted run that ends with 0 and alike each time", found))
