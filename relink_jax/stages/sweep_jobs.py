"""The jobs of a sweep: run here one after the other, or given to a scheduler one by one."""

import dataclasses
import datetime
import pathlib
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.runtime import progress, stopping
from relink_jax.stages import audit, cohort, context, convert, demo, embed, heads, probe, report, sweep_plan, sweep_state
from relink_jax.store import files

_STAGES: dict[str, Any] = {"cohort": cohort, "convert": convert, "embed": embed, "heads": heads, "audit": audit, "probe": probe, "report": report}
_KINDS: dict[int, type[errors.RelinkError]] = {kind.exit_code: kind for kind in (errors.UsageError, errors.DataError, errors.StoreError)}


@dataclasses.dataclass(frozen=True)
class Failure:
    """A job that failed: its model, its exit code, and the sentence that it would have ended with."""

    model: str
    code: int
    said: str


def run_here(states: Sequence[sweep_state.State], root: pathlib.Path) -> list[Failure]:
    """Runs what every job lacks, one after the other in this process, and returns those that failed; one that fails stops no other.

    Raises: StoppedError, KeyboardInterrupt: asked to stop; what is finished is kept.
    """
    failures = []
    for number, state in enumerate(states, 1):
        if not state.todo:
            continue
        progress.say(f"[job {number} of {len(states)}] {state.job.model}: {', '.join(state.todo)}")
        started = time.monotonic()
        failure = _run(state, root)
        failures += [failure] if failure else []
        progress.say(f"[job {number} of {len(states)}] {failure.said if failure else f'done, {time.monotonic() - started:.0f} s'}")
    return failures


def _run(state: sweep_state.State, root: pathlib.Path) -> Failure | None:
    model = state.job.model
    try:
        _complete(state.job.config, str(sweep_state.workdir(root, state.job).root), state.todo)
    except (errors.StoppedError, BrokenPipeError):
        raise
    except errors.RelinkError as error:
        return Failure(model, error.exit_code, str(error))
    except Exception as error:  # whatever one job dies of, the others go on; a message could hold a path or a row
        return Failure(model, errors.RelinkError.exit_code, f"internal error: {type(error).__name__}; 'relink demo' in the job's workdir says more")
    return None


def _complete(config: config_lib.RunConfig, workdir: str, todo: Sequence[str]) -> None:
    """Runs the stages to do. Before an audit all earlier ones run too: they keep what they find and refuse what does not belong together."""
    skipped = set() if config.mitigate else {"heads"}
    for name in demo.ROAD if "audit" in todo else todo:
        stopping.check_here("sweep")
        if name in skipped:
            continue
        outcome = _STAGES[name].run(config, workdir)
        if name == "cohort" and not context.training_sites(config, outcome):
            skipped |= {"heads", "probe"}
            progress.notice(f"no study in split {config.heads.train_split!r}: linkage is measured, nothing is mitigated or probed")
        if name in ("cohort", "convert") and "heads" not in skipped:
            demo.check_mitigated(config, workdir)


def outcome(states: Sequence[sweep_state.State], failures: Sequence[Failure]) -> str:
    """Returns a table of the jobs after a run: cells present and missing, and whether the job is done, failed, or lacks something still."""
    codes = {failure.model: failure.code for failure in failures}
    rows = [("job", "cells", "present", "missing", "outcome")]
    for state in states:
        (present, every), model = state.count(), state.job.model
        ended = f"failed ({codes[model]})" if model in codes else f"lacks {', '.join(state.todo)}" if state.todo else "done"
        rows.append((model, f"{every:,}", f"{present:,}", f"{every - present:,}", ended))
    return sweep_plan.table(rows)


def failed(failures: Sequence[Failure], jobs: int) -> errors.RelinkError:
    """Returns the error of a sweep of which jobs failed, with the worst of their exit codes."""
    said = "; ".join(f"{failure.model} ({failure.code}): {failure.said}" for failure in failures)
    kind = _KINDS.get(max(failure.code for failure in failures), errors.RelinkError)
    return kind(f"{len(failures)} of {jobs} jobs failed, run the same command to go on: {said}")


def submit(states: Sequence[sweep_state.State], root: pathlib.Path, command: Sequence[str], record: dict[str, Any], *, again: bool, dry_run: bool) -> list[str]:
    """Gives every job that lacks something to a scheduler and returns a line about each.

    A job is `COMMAND relink demo --config=ROOT/MODEL.job.json --workdir=ROOT/MODEL`. What was submitted is written to `record` and to the
    sweep's file at once, so that the same job is not submitted twice.

    Args:
        command: the scheduler's own words, see `scheduler`.
        record: the sweep's record; 'submitted' of it grows.
        again: submit what was submitted before, too. dry_run: print the commands, submit and write nothing.

    Raises: UsageError: the command fails; the jobs submitted before stay recorded.
    """
    lines = []
    for state in states:
        stopping.check_here("sweep")
        job, before = state.job, record["submitted"].get(state.job.model, {})
        if not state.todo:
            lines.append(f"{job.model}: nothing is missing")
            continue
        if before.get("config_sha256") == job.digest and not again:
            lines.append(f"{job.model}: submitted {before['at']} ({before['said']}); --again submits it once more")
            continue
        settings = root / f"{job.model}.job.json"
        asked = [*command, "relink", "demo", f"--config={settings}", f"--workdir={sweep_state.workdir(root, job).root}"]
        if dry_run:
            lines.append(shlex.join(asked))
            continue
        files.write_json(settings, config_lib.to_dict(job.config))
        said = _submitted(asked)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record["submitted"][job.model] = {"at": now, "config_sha256": job.digest, "command": asked, "said": said}
        files.write_json(root / sweep_state.RECORD, record)
        lines.append(f"{job.model}: {said}")
    return lines


def scheduler(text: str, *, dry_run: bool) -> list[str]:
    """Returns the words of a scheduler's command, such as 'sbatch launch/cluster/slurm.sbatch'; `UsageError` for none, or unless `dry_run` for one that is not there."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if not words or not (dry_run or shutil.which(words[0])):
        expected = "a scheduler's command that is installed, such as 'sbatch launch/cluster/slurm.sbatch'"
        raise errors.UsageError(errors.describe("command", "flag --submit", expected, repr(words[0] if words else text)[:60]))
    return words


def _submitted(words: Sequence[str]) -> str:
    """Returns the last line that a command printed, which holds the job's number; `UsageError` where it failed."""
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    if done.returncode:
        told = done.stderr.strip().splitlines()
        found = f"{done.returncode}{': ' + told[-1][:200] if told else ''}"
        raise errors.UsageError(errors.describe("submission failed", f"command {pathlib.Path(words[0]).name!r}", "exit code 0", found))
    return said[-1][:200] if said else "no answer"
