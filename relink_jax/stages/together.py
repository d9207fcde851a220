"""What several processes of one command do once: process 0 does it, the others wait, and all go on or all stop.

They wait for a file in the workdir, which all processes must see anyway, and not in a collective: a wait may last hours, and collectives have
time limits of their own. Only the start of a command, which all processes come to at once, is a collective. Every process must call the same
functions in the same order; names are made of the launch and a counter.

Process 0 writes; the others may read only (`files.reading_only`), but for these files and what they say is their own.
"""

import contextlib
import itertools
import pathlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax

from relink_jax import errors
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import stopping, watchdog
from relink_jax.store import files
from relink_jax.store import workdir as workdir_lib

T = TypeVar("T")
DIRECTORY = "together"  # of the workdir
SEEN_WITHIN = 60.0  # seconds in which a new workdir must become visible to all processes
LEFT_WITHIN = 5.0  # seconds that process 0 waits for the others after a failure
_POLL = 0.05
_OPENING = "opening the workdir"
_launch: list[str] = []
_numbers = itertools.count()


class ElsewhereError(errors.RelinkError):
    """Another process of this command ended with an error, which it has told; this one ends with the same exit code and has nothing to add."""

    elsewhere = True

    def __init__(self, process: int, code: int, what: str) -> None:
        super().__init__(errors.describe(f"{what} ended", f"process {process}", "exit code 0", f"{code}; its own message says why"))
        self.exit_code = code


@contextlib.contextmanager
def opened(root: str | pathlib.Path, described: Callable[[], tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Iterator[workdir_lib.Workdir]:
    """Holds a workdir for one command: process 0 opens, locks and records it, the others join and read only; all leave together.

    Args: described: gives (identity, settings) of the run, see `store.workdir.opened`; may raise.
    Raises: what `described` and `store.workdir.opened` raise, on process 0; on every process that has no error of its own, `ElsewhereError`.
    """
    if meshes.processes() == 1:
        with workdir_lib.opened(root, *described()) as found:
            yield found
        return
    me, token = jax.process_index(), meshes.bytes_from_first(secrets.token_bytes(6)).hex()
    with contextlib.ExitStack() as held:
        if me:
            run = _agreed(_OPENING, described)
            found = _agreed(_OPENING, lambda: _joined(root, token, run))
            held.enter_context(files.reading_only())
        else:
            found = _agreed(_OPENING, lambda: held.enter_context(_led(root, token, described())))
            _agreed(_OPENING, lambda: None)
        held.enter_context(_leaving(found, token))
        _launch[:] = [token]
        yield found


def first(found: workdir_lib.Workdir, what: str, work: Callable[[], T]) -> T | None:
    """Returns `work()`, done on process 0 inside `mesh.alone`, and None on every other process once process 0 is done.

    Args: what: the work in a few words, for messages.
    Raises: on process 0 what `work` raises; on the others `StoppedError` where process 0 stopped as asked, else `ElsewhereError`.
    """
    if meshes.processes() == 1:
        return work()
    with arriving(found, what, only=0):
        if jax.process_index():
            return None
        with meshes.alone():
            return work()


def by_first(what: str, work: Callable[[], T]) -> T | None:
    """Returns what `first` does, for a command that has no workdir: the others wait in a collective, so it should be no long one."""
    if meshes.processes() == 1:
        return work()

    def leading() -> T | None:
        if jax.process_index():
            return None
        with meshes.alone():
            return work()

    return _agreed(what, leading)


@contextlib.contextmanager
def arriving(found: workdir_lib.Workdir, what: str, only: int | None = None) -> Iterator[Callable[[], None]]:
    """Waits at the end until every process (or only that one) has left the body, which they run apart from each other.

    The body is given a function to call at its safe points: it raises as soon as another process has failed or stopped.

    Raises: what the body raises here; where another process failed or stopped, `ElsewhereError` or `StoppedError`.
    """
    if meshes.processes() == 1:
        yield lambda: None
        return
    stem, me = f"{_launch[0]}-{next(_numbers):04d}", jax.process_index()
    expected = range(jax.process_count()) if only is None else (only,)
    paths = {process: _place(found.root, f"{stem}-{process:05d}") for process in expected}

    def check() -> None:
        for process, path in paths.items():
            if process != me and path.exists():
                _told(path, process, what)

    try:
        yield check
    except BaseException as error:
        if me in expected:
            with contextlib.suppress(errors.StoreError):
                _tell(paths[me], _code(error))
        raise
    if me in expected:
        _tell(paths[me], 0)
    for process, path in paths.items():
        while not path.exists():
            if not path.parent.is_dir():
                raise ElsewhereError(0, errors.StoreError.exit_code, what)
            watchdog.beat()  # the other has a watchdog of its own, and the runtime notices one that is gone
            time.sleep(_POLL)
        _told(path, process, what)


@contextlib.contextmanager
def _led(root: str | pathlib.Path, token: str, run: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Iterator[workdir_lib.Workdir]:
    """Holds the workdir on process 0, with a file in it by which the others know that they see the same one."""
    with workdir_lib.opened(root, *run) as found:
        shutil.rmtree(found.root / DIRECTORY, ignore_errors=True)  # of a launch that was killed or failed
        _tell(_place(found.root, f"{token}-open"), 0)
        yield found


def _joined(root: str | pathlib.Path, token: str, run: tuple[Mapping[str, Any], Mapping[str, Any]]) -> workdir_lib.Workdir:
    """Returns the workdir that process 0 has opened, once it can be seen from here."""
    path, until = _place(pathlib.Path(root).expanduser(), f"{token}-open"), time.monotonic() + SEEN_WITHIN
    while not path.exists() and time.monotonic() < until:
        time.sleep(_POLL)
    if not path.exists():
        expected = "the workdir that process 0 opened; all processes must see one file system"
        raise errors.StoreError(errors.describe("workdir not shared", f"process {jax.process_index()}", expected, "another, or none"))
    return workdir_lib.joined(root, *run)


@contextlib.contextmanager
def _leaving(found: workdir_lib.Workdir, token: str) -> Iterator[None]:
    """Keeps process 0 from closing the workdir before the others have left it; after a failure, which they may not have seen yet, for a while only."""
    me, until = jax.process_index(), 0.0
    try:
        yield
    except BaseException:
        until = time.monotonic() + LEFT_WITHIN
        raise
    finally:
        if me:
            with contextlib.suppress(errors.StoreError):
                _tell(_place(found.root, f"{token}-left-{me:05d}"), 0)
        else:
            left = [_place(found.root, f"{token}-left-{process:05d}") for process in range(1, jax.process_count())]
            while not all(path.exists() for path in left) and not 0 < until < time.monotonic():
                watchdog.beat()
                time.sleep(_POLL)
            if all(path.exists() for path in left):
                shutil.rmtree(found.root / DIRECTORY, ignore_errors=True)


def _agreed(what: str, work: Callable[[], T]) -> T:
    """Returns `work()` when it went well on every process, all of which must come here at about the same time.

    Raises: what it raises here, unless process 0 has failed alike and tells it; else `ElsewhereError` of the first process where it failed.
    """
    try:
        made = work()
    except BaseException as error:
        code = _code(error)
        if meshes.gathered(code)[0] == code and jax.process_index():
            raise ElsewhereError(0, code, what) from error
        raise
    for process, code in enumerate(meshes.gathered(0)):
        if code:
            raise ElsewhereError(process, code, what)
    return made


def _code(error: BaseException) -> int:
    """Returns the exit code that an error ends a command with."""
    return error.exit_code if isinstance(error, errors.RelinkError) else 75 if isinstance(error, KeyboardInterrupt) else 70


def _place(root: pathlib.Path, name: str) -> pathlib.Path:
    return root / DIRECTORY / name


def _tell(path: pathlib.Path, code: int) -> None:
    """Leaves word for the others; only process 0 makes the directory, which is gone once it has ended."""
    if jax.process_index() and not path.parent.is_dir():
        return
    with files.writing_own():
        files.write_text(path, str(code))


def _told(path: pathlib.Path, process: int, what: str) -> None:
    """Raises what another process ended with, as its file says."""
    code = files.read_text(path)
    if code == "75":
        stopping.ask()
        stopping.check_here(what)
    if code != "0":
        raise ElsewhereError(process, int(code), what)
