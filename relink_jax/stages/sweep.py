"""The sweep stage: a grid of models, heads, pool sizes and strata becomes jobs, a workdir each, of which only what is missing is run or submitted."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress
from relink_jax.stages import sweep_grid, sweep_jobs, sweep_plan, sweep_state, sweep_table
from relink_jax.store import digests, files, restricted, tables

PLAN, RUN, SUBMIT, TABLE = "plan", "run", "submit", "table"
SUBJECTS: dict[str, tuple[str, ...]] = {PLAN: ("images", "studies"), RUN: ("csv",), SUBMIT: ("submit", "again", "dry_run"), TABLE: ("csv",)}  # and their flags
SCHEMA_VERSION = "1.0"
_SETTINGS = "config.json"
_LARGEST = 10**9


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a sweep says."""

    text: str


def run(config: config_lib.RunConfig, workdir: str, words: Sequence[str] = (), **flags: Any) -> Answer:
    """Plans a sweep below `workdir` (the default), runs what is missing of it here, submits it, or tabulates what is there.

    Args:
        words: at most one of `SUBJECTS`.
        flags: those of `sweep_grid.AXES` and of the subject, texts or switches, None where not given.

    Raises: UsageError: another word, flag or value, a directory that is no sweep's, several processes, or a scheduler that refuses; every error
        of the stages, of `run` once all jobs were tried, with the worst exit code; StoppedError: asked to stop.
    """
    subject, given = _question(words, flags)
    _alone(computes=subject == RUN)
    config.resolve_paths()
    root, settings = _root(workdir), config_lib.to_dict(config)
    record = _record(root)
    before = record["axes"] if record["config_sha256"] == digests.value_digest(settings) else None
    grid = sweep_grid.expand(config, {name: flags.get(name) for name in sweep_grid.AXES}, before)
    sweep_plan.check_models(grid, root)
    switches = {name: bool(given.get(name)) for name in ("again", "dry_run")}
    command = sweep_jobs.scheduler(str(given.get("submit", "")), dry_run=switches["dry_run"]) if subject == SUBMIT else []
    if subject in (RUN, SUBMIT) and not switches["dry_run"]:
        _write(root, settings, record, grid)
    known = sweep_state.people(grid.jobs, root)
    states = sweep_state.states(grid, root, known)
    if subject == PLAN:
        return Answer(sweep_plan.text(grid, states, known or _stated(given), root))
    if subject == TABLE:
        return Answer(sweep_table.text(_rows(states, given)))
    if subject == SUBMIT:
        return Answer("\n".join(sweep_jobs.submit(states, root, command, record, **switches)))
    progress.say(sweep_plan.text(grid, states, known, root))
    failures = sweep_jobs.run_here(states, root)
    return _finished(sweep_state.states(grid, root, sweep_state.people(grid.jobs, root)), failures, root, given)


def _question(words: Sequence[str], flags: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the subcommand and those of its own flags that were given."""
    subject = " ".join(words) or PLAN
    if subject not in SUBJECTS:
        raise errors.UsageError(errors.describe("subcommand", "'relink sweep'", ", ".join(SUBJECTS), repr(subject)) + errors.suggest(subject, SUBJECTS))
    given = {name: value for name, value in flags.items() if name not in sweep_grid.AXES and value not in (None, False)}
    for name in given:
        if name not in SUBJECTS[subject]:
            known = ", ".join(f"--{flag}" for flag in (*sweep_grid.AXES, *SUBJECTS[subject]))
            raise errors.UsageError(errors.describe("flag of another subcommand", f"'relink sweep {subject}'", known, f"--{name}"))
    return subject, given


def _finished(states: Sequence[sweep_state.State], failures: Sequence[sweep_jobs.Failure], root: pathlib.Path, given: dict[str, Any]) -> Answer:
    """Returns what a run ended with; raises for jobs that failed, once everything else is told."""
    told, counted = sweep_jobs.outcome(states, failures), sweep_table.counted(_rows(states, given))
    if failures:
        progress.notice(told)
        raise sweep_jobs.failed(failures, len(states))
    return Answer(f"{told}\n\n{counted}; 'relink sweep table --workdir={root.name}' shows them")


def describe(answer: Answer) -> str:
    """Returns the text."""
    return answer.text


def _alone(computes: bool) -> None:
    """Refuses several processes, which would all write the same workdirs; only a sweep that computes looks at the devices for that."""
    if computes:
        meshes.share_cpu()
    if (computes or jax.distributed.is_initialized()) and jax.process_count() > 1:
        found = f"{jax.process_count()} processes; 'relink sweep submit' gives each job its own"
        raise errors.UsageError(errors.describe("several processes", "'relink sweep'", "one", found))


def _root(workdir: str) -> pathlib.Path:
    """Returns the sweep's directory, which need not exist; `UsageError` for a run's workdir, or one with other files."""
    root = pathlib.Path(config_lib.absolute(workdir, "--workdir"))
    there = [entry.name for entry in root.iterdir()] if root.is_dir() else []
    own = sweep_state.RECORD in there
    if root.exists() and (not root.is_dir() or "run.json" in there or not (own or all((root / name).is_dir() for name in there))):
        found = "a run's workdir" if "run.json" in there else "other files"
        raise errors.UsageError(errors.describe("directory of a sweep", f"directory {root.name!r}", "an empty one, or a sweep's", found))
    return root


def _record(root: pathlib.Path) -> dict[str, Any]:
    """Returns what the sweep's directory records of the last grid and of submissions."""
    path = root / sweep_state.RECORD
    if not path.exists():
        return {"schema_version": SCHEMA_VERSION, "config_sha256": "", "axes": {}, "submitted": {}}
    return files.read_object(path, {"schema_version": str, "config_sha256": str, "axes": dict, "submitted": dict})


def _write(root: pathlib.Path, settings: dict[str, Any], record: dict[str, Any], grid: sweep_grid.Grid) -> None:
    """Records the grid and its config, which later commands take up without flags; the directory is private."""
    files.make_dir(root)
    if settings["cohort"]["source"] != "phantom":
        restricted.check_private(root)
    record.update(config_sha256=digests.value_digest(settings), axes=grid.axes)
    files.write_json(root / _SETTINGS, settings)
    files.write_json(root / sweep_state.RECORD, record)


def _stated(given: dict[str, Any]) -> sweep_state.People | None:
    """Returns the sizes that the command line states for a plan, None where it states none."""
    if not given:
        return None
    sizes = {}
    for name in SUBJECTS[PLAN]:
        text = str(given.get(name, ""))
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= _LARGEST):
            raise errors.UsageError(errors.describe("size", f"--{name}", f"a whole number from 1 to {_LARGEST:,}, of both images and studies", repr(text)[:60]))
        sizes[name] = int(text)
    return sweep_state.People({"as stated": (sizes["images"], sizes["studies"])}, sizes["images"], sizes["studies"], 0)


def _rows(states: Sequence[sweep_state.State], given: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns every cell's row, written as CSV too where a file is named."""
    found = sweep_table.rows(states)
    if "csv" in given:
        tables.write_csv(pathlib.Path(given["csv"]), found)
    return found
