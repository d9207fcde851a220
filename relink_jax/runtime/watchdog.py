"""A watchdog for work that hangs: where nothing moves for a given time, the stacks of all threads are written and the process exits 70.

Work that moves says so by `beat`, which progress bars and safe points do. A process whose peer is alive but stuck waits in a collective
for ever (jax-ml/jax#38503); exiting is what lets a scheduler start the job again, which then goes on from what was finished.
"""

import contextlib
import faulthandler
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

EXIT_CODE = 70
_last = [time.monotonic()]


def beat() -> None:
    """Says that work moves."""
    _last[0] = time.monotonic()


def since() -> float:
    """Returns the seconds since work last moved."""
    return time.monotonic() - _last[0]


@contextlib.contextmanager
def watching(seconds: float, log: IO[str] | Callable[[str], None] | None = None) -> Iterator[None]:
    """Watches this process while inside.

    Args:
        seconds: the longest time without a `beat`; 0 watches nothing.
        log: open file that the stacks are written to besides stderr, or a function that is given them; None for none.
    """
    if seconds <= 0:
        yield
        return
    beat()
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(seconds, log, done), name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(seconds: float, log: IO[str] | Callable[[str], None] | None, done: threading.Event) -> None:
    while not done.wait(min(1.0, seconds / 4)):
        if since() > seconds:
            told = f"relink: nothing moved for {seconds:g} s, so this process ends; run the same command to go on. Stacks:"
            with contextlib.suppress(OSError, ValueError):  # a closed stream must not keep the process alive
                print(told, file=sys.__stderr__, flush=True)
                faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
            with contextlib.suppress(Exception):  # nor a log that cannot be written
                _keep(log, told)
            os._exit(EXIT_CODE)


def _keep(log: IO[str] | Callable[[str], None] | None, told: str) -> None:
    """Writes the stacks to the log, by way of a file without a name, since what dumps them writes to descriptors only."""
    if log is None:
        return
    with tempfile.TemporaryFile("w+") as held:
        faulthandler.dump_traceback(file=held, all_threads=True)
        held.seek(0)
        text = f"{told}\n{held.read()}"
    if callable(log):
        log(text)
    else:
        log.write(text)
        log.flush()
