"""Runs one stage as a command: processes joined, signals heeded, work watched and logged, and every ending one sentence and an exit code.

The command line imports this module once a stage is to run. Only process 0 prints what was found; an error of another process carries its number.
"""

import importlib
import importlib.metadata
import os
import pathlib
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import IO, Any

import relink_jax
from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.runtime import cluster, compile_cache, logs, signals, stopping, watchdog
from relink_jax.stages import launch_flags
from relink_jax.stages.catalogue import STAGES
from relink_jax.store import files

Parse = Callable[[str, Sequence[str]], tuple[config_lib.RunConfig, str, list[str], dict[str, Any]]]
STOPPED = errors.StoppedError.exit_code
_FRESH = ("run.json", "config.json", "key", ".lock")  # what a workdir has before any work
LOG_BYTES = 2**20  # of a log that is moved aside before a command adds to it
_ENDING = 10.0  # seconds that other processes have to come to their end after this one failed


def run(stage: str, arguments: Sequence[str], parse: Parse) -> int:
    """Runs `relink_jax.stages.STAGE`, prints what it found or why not, and returns the exit code.

    Where several processes run the command and the others do not come to their end in time, this process ends with that code instead.

    Args: arguments: the words after the stage on the command line. parse: returns (config, workdir, positional words, flags) of a stage's words.
    """
    stopping.forget()
    made: list[_Command] = []
    code = _outcome(f"relink {stage}", lambda: made.append(_prepared(stage, arguments, parse)))[0]
    if not made:
        return code
    command = made[0]
    log = logs.Log(command.log_file)
    log.started(stage, command.place.process, command.place.processes, _versions())
    try:
        with logs.kept(log):
            code, message = _outcome(command.who, lambda: command.go(log))
            log.ended(code, message)
    except BrokenPipeError:
        log.ended(0, "")
        cluster.leave(0, _ENDING)
        raise
    if command.cache is not None:
        compile_cache.close_off(command.cache)
    return cluster.leave(code, command.patience(code))


class _Command:
    """One stage's run with what its words said; `go` does it."""

    def __init__(self, stage: str, options: launch_flags.Options, parsed: tuple[config_lib.RunConfig, str, list[str], dict[str, Any]]) -> None:
        self.stage, self.options = stage, options
        self.config, self.workdir, self.words, self.alone = parsed
        self.place = cluster.placed(options.cluster, os.environ)
        self.cache = compile_cache.directory(options.compile_cache, self.workdir, os.environ)

    @property
    def who(self) -> str:
        """Who speaks in a message: the command, and which process of several where it is not process 0."""
        number = cluster.index() or self.place.process
        return f"relink {self.stage}" + (f" (process {number})" if number else "")

    def go(self, log: logs.Log) -> None:
        """Joins the processes, runs the stage and prints what it found."""
        with signals.heeded(within=0):
            self.place = cluster.start(self.options.cluster, self.place)
        if self.place.notice and not self.place.process:
            print(f"relink {self.stage}: {self.place.notice}", file=sys.stderr)
        if self.cache is not None:
            compile_cache.turn_on(self.cache)
        described = STAGES[self.stage]
        safe = (self.words[0] if self.words else "") in described.safe_points
        extra = [self.words] if described.positional else []
        module = importlib.import_module(f"relink_jax.stages.{self.stage}")
        with signals.heeded(self.options.stop_within if safe else 0), watchdog.watching(self.options.watched(cluster.count()), log.stuck):
            found = module.run(self.config, self.workdir, *extra, **self.alone)
            if not self.place.process:
                print(module.describe(found), flush=True)

    def log_file(self) -> IO[str] | None:
        """Returns this process's log in the workdir, opened; None before jax has said which process this is, and while the workdir holds no work.

        A command that fails in a workdir it made leaves nothing of it, so neither a log.
        """
        root = pathlib.Path(os.path.expanduser(self.workdir))
        if not STAGES[self.stage].logged or not self.workdir or self.place.process is None or not os.path.isfile(root / "run.json"):
            return None
        path = root / "logs" / f"{self.stage}-process-{self.place.process:05d}.log"
        try:
            if all(name in _FRESH for name in os.listdir(root)):
                return None
            with files.writing_own():
                files.make_dir(path.parent)
                if path.is_file() and path.stat().st_size > LOG_BYTES:
                    path.replace(path.with_name(f"{path.name}.1"))
                return files.open_private(path)
        except (errors.StoreError, OSError):  # a workdir that cannot be written: the stage says so where it matters
            return None

    def patience(self, code: int) -> float:
        """Returns how many seconds the other processes have to come to their end after this one ended with `code`."""
        return {0: float(self.options.cluster.shutdown_timeout), STOPPED: max(_ENDING, self.options.stop_within)}.get(code, _ENDING)


def _prepared(stage: str, arguments: Sequence[str], parse: Parse) -> _Command:
    """Returns the command that the words give; `UsageError` for wrong ones."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    options, words = launch_flags.taken(arguments)
    parsed = parse(stage, words)
    parsed[0].validate()
    if STAGES[stage].needs_workdir and not parsed[1]:
        raise errors.UsageError(f"workdir missing on the command line: expected --workdir=DIR, found nothing; try: {STAGES[stage].example}")
    return _Command(stage, options, parsed)


def _outcome(who: str, work: Callable[[], None]) -> tuple[int, str]:
    """Does the work; returns (exit code, message for the log), having told the user why it is not 0."""
    try:
        work()
        return 0, ""
    except errors.StoppedError as error:
        code, told, message = STOPPED, str(error), str(error)
    except errors.RelinkError as error:
        code, told, message = error.exit_code, "" if error.elsewhere else f"error: {error}", str(error)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        code, told, message = STOPPED, "stopped; finished shards are kept, run the same command to go on", "stopped at once"
    except Exception as error:  # by type and place only: its message could hold a path or a row
        if os.environ.get("RELINK_DEBUG") == "1":
            traceback.print_exception(error)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = f"internal error: {type(error).__name__} at {pathlib.Path(frame.filename).name}:{frame.lineno}"
        code, told = errors.RelinkError.exit_code, f"{message}; set RELINK_DEBUG=1 for the trace"
    if told:
        print(f"{who}: {told}", file=sys.stderr, flush=True)
    return code, message


def _versions() -> dict[str, str]:
    return {"relink_jax": relink_jax.__version__, "python": platform.python_version()} | {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
