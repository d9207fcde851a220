"""What a child process of a fault does before its command: it injures itself as its parent asked.

A child is `python -c TEXT ASKED STAGE FLAG ...`; `prepare` reads ASKED, JSON with these fields, all optional:
  secret      hex digits that every training run begins with, see `faults_inject.scenery`; refused beside any but a synthetic cohort
  marks       descriptor that gets a byte when the stage's work begins, and when it ends another and the process's peak of memory
  torn        number of the durable write that is cut in half by SIGKILL
  noise       file that counts the training steps whose noise was drawn
  file_bytes  the largest file that the system lets this process write
  user        user id to change to once everything is imported
  peer        {port, processes, index}: joins the processes of one command
  killed_at, stuck_at   number of the batch at which this process is killed, or sleeps for ever
  stuck_after           seconds of the watchdog
"""

import contextlib
import importlib
import json
import os
import pathlib
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from relink_jax import errors
from relink_jax.runtime import watchdog
from relink_jax.stages import bench_memory
from relink_jax.stages import faults_inject as inject

TEXT = """
import sys
from relink_jax.stages import faults_child
with faults_child.prepared(sys.argv[1], sys.argv[2:]):
    from relink_jax import cli
    sys.exit(cli.main(sys.argv[2:]))
"""
HEARTBEAT = 10  # seconds after which peers notice one that is gone


@contextlib.contextmanager
def prepared(told: str, words: list[str]) -> Iterator[None]:
    """Injures this process as the JSON text `told` asks, for the command `words`, while inside."""
    asked: Mapping[str, Any] = json.loads(told)
    for name in ("absl.flags", "ml_collections.config_flags", *(f"relink_jax.stages.{stage}" for stage in ("demo", words[0]))):
        importlib.import_module(name)
    with contextlib.ExitStack() as held:
        if "secret" in asked:
            _check_synthetic(words)
            held.enter_context(inject.scenery(bytes.fromhex(asked["secret"])))
        if "marks" in asked:
            held.enter_context(_marked(words[0], asked["marks"]))
        if "torn" in asked:
            held.enter_context(inject.torn_write(asked["torn"]))
        if "noise" in asked:
            held.enter_context(inject.counted_noise(pathlib.Path(asked["noise"])))
        if "killed_at" in asked:
            held.enter_context(inject.at_batch(asked["killed_at"], lambda: os.kill(os.getpid(), signal.SIGKILL)))
        if "stuck_at" in asked:
            held.enter_context(inject.at_batch(asked["stuck_at"], inject.sleep_for_ever))
        if "file_bytes" in asked:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_bytes"], asked["file_bytes"]))
        if "peer" in asked:
            _join(**asked["peer"])
        if "user" in asked:
            os.setgroups([])
            os.setgid(asked["user"])
            os.setuid(asked["user"])
        held.enter_context(watchdog.watching(asked.get("stuck_after", 0)))
        yield


def _join(port: int, processes: int, index: int) -> None:
    import jax

    jax.distributed.initialize(f"127.0.0.1:{port}", processes, index, initialization_timeout=120, heartbeat_timeout_seconds=HEARTBEAT)


def _marked(stage: str, descriptor: int) -> contextlib.AbstractContextManager[None]:
    """Makes the stage say on a descriptor when it begins, and when it has come to its end."""
    module = importlib.import_module(f"relink_jax.stages.{stage}")
    honest = module.run

    def run(*given: Any, **named: Any) -> Any:
        os.write(descriptor, b"(")
        made = honest(*given, **named)
        os.write(descriptor, b")%d" % bench_memory.peak())
        return made

    return inject.replaced(module, "run", run)


def _check_synthetic(words: list[str]) -> None:
    """Raises `UsageError` unless the command's workdir holds the synthetic cohort's run."""
    (root,) = (word.removeprefix("--workdir=") for word in words if word.startswith("--workdir="))
    source = json.loads(pathlib.Path(root, "run.json").read_text())["identity"].get("cohort.source")
    if source != "phantom":
        raise errors.UsageError(errors.describe("training with a known secret", "workdir", "the synthetic cohort", "another"))


def command(asked: Mapping[str, Any], words: list[str]) -> list[str]:
    """Returns the command line of a child."""
    return [sys.executable, "-c", TEXT, json.dumps(dict(asked)), *words]
