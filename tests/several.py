"""Runs something in several JAX processes on this machine, each with fake CPU devices, as one command on several machines would be.

No child outlives a call: what is still running when the time is up, or some time after another child has failed, is killed.
"""

import contextlib
import dataclasses
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": str("RELINK_TEST_OPTIMISED" not in os.environ)}  # environment of children that compile as `quick` of conftest.py
GRACE = 30.0  # seconds that the others have once one child has failed
_WORDS = """
import sys
port, processes, process, words = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
"""
_JOIN = """
import jax
if processes > 1:
    jax.distributed.initialize("127.0.0.1:" + port, processes, process, initialization_timeout=60)
"""
_RELINK = """
from relink_jax import cli
joined = [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={process}"] if processes > 1 else []
sys.exit(cli.main([*words, *joined]))
"""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How one child ended: exit code (negative: killed by that signal), and what it said."""

    code: int
    out: str
    err: str


def relink(words: Sequence[str], processes: int, devices: int, *, before: str = "", **options: object) -> list[Ended]:
    """Runs `relink WORDS` in `processes` processes of `devices` devices each; `before`: Python run in each of them first; see `python`."""
    return _run(before + _RELINK, processes, devices, words, **options)


def python(code: str, processes: int, devices: int, words: Sequence[str] = (), **options: object) -> list[Ended]:
    """Runs Python `code` in processes that have joined one JAX runtime; it finds `process`, `processes` and its `words` as names; options as of `_run`."""
    return _run(_JOIN + code, processes, devices, words, **options)


def _run(
    code: str,
    processes: int,
    devices: int,
    words: Sequence[str] = (),
    *,
    timeout: float = 180.0,
    environment: Mapping[str, str] | None = None,
    meanwhile: Callable[[list[subprocess.Popen]], None] | None = None,
) -> list[Ended]:
    """Runs `code` in every process. Args: meanwhile: is given the children once they have started, to send them signals, for example."""
    with contextlib.ExitStack() as held:
        folder = pathlib.Path(held.enter_context(tempfile.TemporaryDirectory()))
        children = held.enter_context(_started(_WORDS + code, processes, devices, list(map(str, words)), environment or {}, folder))
        if meanwhile:
            meanwhile(children)
        until = time.monotonic() + timeout
        failed = False
        while any(child.poll() is None for child in children) and time.monotonic() < until:
            if not failed and any(child.returncode for child in children):
                failed, until = True, min(until, time.monotonic() + GRACE)
            time.sleep(0.05)
        _kill(children)
        said = [[(folder / f"{name}-{index}").read_text(errors="replace") for name in ("out", "err")] for index in range(processes)]
        return [Ended(child.returncode, *texts) for child, texts in zip(children, said, strict=True)]


@contextlib.contextmanager
def _started(
    code: str, processes: int, devices: int, words: list[str], environment: Mapping[str, str], folder: pathlib.Path
) -> Iterator[list[subprocess.Popen]]:
    given = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "RELINK_PROGRESS": "0"}
    given |= {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "HF_HUB_OFFLINE": "1"}
    children, port = [], _free_port()
    try:
        for index in range(processes):
            with (folder / f"out-{index}").open("w") as out, (folder / f"err-{index}").open("w") as err:
                command = [sys.executable, "-c", code, str(port), str(processes), str(index), *words]
                children.append(subprocess.Popen(command, cwd=folder, env={**given, **environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=err))
        yield children
    finally:
        _kill(children)


def _kill(children: list[subprocess.Popen]) -> None:
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
