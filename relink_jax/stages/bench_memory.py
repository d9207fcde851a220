"""The most resident memory of this process since a moment: for benchmarks, where one process measures case after case."""

import contextlib
import ctypes
import gc
import pathlib
import resource

_STATUS, _RESET = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


class Memory:
    """Bytes of resident memory from the moment it is made, when what earlier cases freed is given back to the system.

    Linux can forget a process's peak, so that each case gets its own. Where it does not, the peak is that of the process so far, and a case
    after a larger one reads as 0.
    """

    def __init__(self) -> None:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # of glibc alone
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):
            _RESET.write_text("5")  # proc(5): the peak becomes what is resident now
        self._before = peak()

    def beyond(self) -> int:
        """Returns the bytes at the peak since, beyond those of that moment."""
        return max(0, peak() - self._before)


def peak() -> int:
    """Returns the bytes of this process's memory at its peak."""
    try:
        told = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(told["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
