"""Stopping on request: a signal asks, and long work stops at its next safe point, where everything done so far is on disk.

A safe point is a call of `check` or `check_here` right after something durable was written: a part of a counting pass, a shard, a training
state. What is lost is then what was begun since, which after a request is nothing.

Design note: JAX's preemption service needs `jax.distributed` and takes SIGTERM over in C++. A flag that every process looks at, and one small
agreement between processes at each safe point, works with and without it, on every backend.
"""

import threading

import numpy as np

from relink_jax import errors
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import watchdog

_asked = threading.Event()


def ask() -> None:
    """Asks this process to stop at its next safe point; safe to call from a signal handler."""
    _asked.set()


def asked() -> bool:
    """Returns whether this process was asked to stop."""
    return _asked.is_set()


def forget() -> None:
    """Takes a request back: a new command begins."""
    _asked.clear()


def check_here(what: str) -> None:
    """Stops this process if it was asked to; for work that processes do apart from each other.

    Args: what: the work that stops, in a few words, such as 'embed images'.
    Raises: StoppedError.
    """
    watchdog.beat()
    _stop_if(_asked.is_set(), what)


def check(what: str) -> None:
    """Stops every process if any of them was asked to; every process must come here, as they do for a step they take together.

    Raises: StoppedError: on all processes or on none.
    """
    watchdog.beat()
    asked = _asked.is_set()  # read once: a request that comes after the agreement waits for the next
    if meshes.processes() > 1:
        from jax.experimental import multihost_utils

        asked = bool(np.asarray(multihost_utils.process_allgather(np.int32(asked))).any())
    _stop_if(asked, what)


def _stop_if(asked: bool, what: str) -> None:
    if asked:
        _asked.set()
        raise errors.StoppedError(f"{what} stopped as asked; everything finished is kept, run the same command to go on")
