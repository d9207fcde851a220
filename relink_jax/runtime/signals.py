"""What signals do to a command: the first SIGTERM or SIGHUP asks it to stop at its next safe point, time or a second one makes it stop.

A signal that was ignored when the command started stays ignored: that is what `nohup` asks for. SIGINT stops at once, as everywhere.

Design note: Python runs a signal's handler in the main thread, between two steps of its own; a main thread that waits in a collective or
for the compiler runs none. So a thread reads the numbers of signals as they come, asks, keeps the time, and in the end ends the process.
"""

import _thread
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.runtime import stopping

HARD = 10.0  # seconds that the main thread has to come out of whatever it does once it must stop
_OVER = 0  # is no signal's number: written at the end


@contextlib.contextmanager
def heeded(within: float) -> Iterator[None]:
    """Heeds signals while inside; does nothing outside the main thread, where none can be heeded.

    Args: within: seconds from the first request to a forced stop; 0 where the body has no safe points.
    Raises: KeyboardInterrupt: in the body, when it must stop. A body that then does not end within `HARD` seconds ends with its process, exit code 75.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    forced = threading.Event()

    def stop(*_: Any) -> None:
        if forced.is_set():
            raise KeyboardInterrupt

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(reader, numbers, within, forced), name="signals", daemon=True)
    listener.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken)
        os.write(writer, bytes([_OVER]))
        listener.join()
        for end in (reader, writer):
            os.close(end)


def _listen(reader: int, numbers: Sequence[signal.Signals], within: float, forced: threading.Event) -> None:
    """Asks at the first of `numbers`, interrupts the main thread at the second or `within` seconds later, and ends the process `HARD` seconds after that."""
    first, deadline = 0, float("inf")
    while True:
        ready = select.select([reader], [], [], None if deadline == float("inf") else max(0.0, deadline - time.monotonic()))[0]
        came = os.read(reader, 64) if ready else b""
        if _OVER in came:
            return
        told = [number for number in came if number in numbers]
        late = not ready
        if signal.SIGINT in came:
            forced.set()
            deadline = time.monotonic() + HARD
        elif late and forced.is_set():
            _end()
        elif not forced.is_set() and told and not first and within > 0:
            stopping.ask()
            first, told, deadline = told[0], told[1:], time.monotonic() + within
        if not forced.is_set() and (told or late):
            first = first or told[0]
            forced.set()
            deadline = time.monotonic() + HARD
            _thread.interrupt_main(signal.Signals(first))


def _end() -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"relink: the work did not end within {HARD:g} s of the stop, so the process does; run the same command to go on", file=sys.stderr, flush=True)
    os._exit(errors.StoppedError.exit_code)
