"""One process's log of a command: a line of JSON when it starts, now and then while it works, and when it ends.

Only the fields named here get in, and of an error's message only its head without anything in quotes, so that no argument, path, identifier
or text of an archive can. This room opens no file: who opens the log passes how.
"""

import contextlib
import datetime
import json
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

EVERY = 30.0  # seconds between two lines of progress
_KEPT = 200  # lines kept until there is a file
_current: list["Log"] = []


class Log:
    """The log of one process and command; `opener` is asked for the file, again before each line while it gives None."""

    def __init__(self, opener: Callable[[], IO[str] | None]) -> None:
        self._opener = opener
        self._stream: IO[str] | None = None
        self._kept: list[str] = []
        self._begun, self._told, self._devices = time.monotonic(), time.monotonic(), False

    def started(self, stage: str, process: int | None, processes: int | None, versions: Mapping[str, str]) -> None:
        """Says that a command starts as process number `process` of `processes`, None where only jax will know, and with which packages."""
        self._write("started", stage=stage, process=process, processes=processes, versions=dict(versions))

    def devices(self, kind: str, here: int, everywhere: int) -> None:
        """Says once which devices the command computes on: their kind, their number at this process and in all."""
        if not self._devices:
            self._devices = True
            self._write("devices", kind=kind, local_devices=here, devices=everywhere)

    def moved(self, what: str, done: float, total: float | None, rate: float) -> None:
        """Says how far work named by a few of our own words has come, in its units and units a second; at most every `EVERY` seconds."""
        if time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            self._write("progress", what=what, done=int(done), total=int(total or 0), rate=round(float(rate), 3))

    def stuck(self, stacks: str) -> None:
        """Says that nothing moved for too long, with the stacks of all threads; of file names only the last part."""
        self._write("stuck", stacks=re.sub(r'File "[^"]*/', 'File "', stacks).splitlines())

    def ended(self, code: int, message: str) -> None:
        """Says how the command ended: exit code, head of our own message, seconds, and the most memory of this process and of a device, in bytes."""
        event = {0: "finished", 75: "stopped"}.get(code, "failed")
        self._write(event, exit_code=code, seconds=round(time.monotonic() - self._begun, 1), **({"message": bare(message)} if message else {}), **self._peaks())
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()
        self._stream, self._opener = None, lambda: None

    def _peaks(self) -> dict[str, int]:
        found = {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        if self._devices and "jax" in sys.modules:
            used = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in sys.modules["jax"].local_devices()]
            found |= {"device_peak_bytes": max(used)} if any(used) else {}
        return found

    def _write(self, event: str, **fields: Any) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._kept = [*self._kept[-_KEPT:], json.dumps({"time": now, "event": event, **fields}) + "\n"]
        with contextlib.suppress(OSError, ValueError):  # a log that cannot be written must not stop the work
            self._stream = self._stream or self._opener()
            if self._stream is not None:
                self._stream.write("".join(self._kept))
                self._stream.flush()
                self._kept = []


def bare(message: str) -> str:
    """Returns what a message says before what it expected and found, without anything in quotes.

    Example: >>> bare("value in flag '--seed': expected a number, found 'abc'")  ->  'value in flag ...'
    """
    return re.sub(r"'[^']*'|\"[^\"]*\"", "...", message.split(": expected")[0])[:200]


@contextlib.contextmanager
def kept(log: Log) -> Iterator[Log]:
    """Makes `log` the one that bars and meshes write to while inside."""
    _current.append(log)
    try:
        yield log
    finally:
        _current.remove(log)


def moved(what: str, done: float, total: float | None, rate: float) -> None:
    """Tells the log that is kept now, if any, how far work has come; see `Log.moved`."""
    if _current:
        _current[-1].moved(what, done, total, rate)


def devices(kind: str, here: int, everywhere: int) -> None:
    """Tells the log that is kept now, if any, which devices compute; see `Log.devices`."""
    if _current:
        _current[-1].devices(kind, here, everywhere)
