"""What a fault puts in the place of one of the package's own functions or numbers, for a while and in one process."""

import contextlib
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from relink_jax.privacy import noise, randomness
from relink_jax.retrieval import engine, loop
from relink_jax.store import files


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replaces the attribute `name` of a module or class inside."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def scenery(secret: bytes) -> Iterator[None]:
    """Makes small runs behave as large ones and end alike: every counting pass keeps its parts, every training run begins with one secret.

    For synthetic cohorts only: whoever knows the secret of a training run knows its noise.
    """
    with replaced(loop, "LONG", 0), replaced(randomness, "fresh", lambda *_, **__: randomness.Secret(secret)):
        yield


@contextlib.contextmanager
def seen_writes() -> Iterator[list[str]]:
    """Yields the names of the files that are written durably inside, in order."""
    names: list[str] = []
    honest = files.write_with

    def write_with(path: pathlib.Path, writer: Callable[[pathlib.Path], None]) -> None:
        names.append(pathlib.Path(path).name)
        honest(path, writer)

    with replaced(files, "write_with", write_with):
        yield names


@contextlib.contextmanager
def torn_write(n: int) -> Iterator[None]:
    """Ends this process by SIGKILL half way through its n-th durable write (1-based)."""
    seen, honest = [0], files.write_with

    def write_with(path: pathlib.Path, writer: Callable[[pathlib.Path], None]) -> None:
        seen[0] += 1

        def dying(temporary: pathlib.Path) -> None:
            writer(temporary)
            os.truncate(temporary, temporary.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        honest(path, dying if seen[0] == n else writer)

    with replaced(files, "write_with", write_with):
        yield


@contextlib.contextmanager
def counted_noise(path: pathlib.Path) -> Iterator[None]:
    """Adds one byte to `path` before the noisy sum of a training step is used, which outlives a kill."""
    honest = noise.add_noise

    def add_noise(*given: Any) -> Any:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, b".")
        os.close(descriptor)
        return honest(*given)

    with replaced(noise, "add_noise", add_noise):
        yield


@contextlib.contextmanager
def at_batch(number: int, happening: Callable[[], Any]) -> Iterator[None]:
    """Lets something happen in place of batch `number` (1-based) of the counting passes of this process."""
    seen, honest = [0], engine.Engine.batch

    def batch(*given: Any) -> Any:
        seen[0] += 1
        if seen[0] == number:
            happening()
        return honest(*given)

    with replaced(engine.Engine, "batch", batch):
        yield


def sleep_for_ever() -> NoReturn:
    """Never returns, and holds no lock that would keep other threads from running."""
    while True:
        time.sleep(3600)
