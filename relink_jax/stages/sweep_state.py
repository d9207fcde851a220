"""What of a sweep is there, read from the jobs' workdirs without opening them, so that it can be asked while jobs run.

A cell is present when a results file holds its figure, is intact, and was measured on these data, with these heads and by these settings. What
is only called like it is missing, and the reason is told.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.cohort import schema
from relink_jax.privacy import sampling
from relink_jax.report import schema as results_schema
from relink_jax.retrieval.counted import OTHER_PATIENT
from relink_jax.stages import context, demo, ensembles, sweep_grid, sweep_results, utility_prompts
from relink_jax.store import digests, files, shards
from relink_jax.store import workdir as workdir_lib

MISSING, PRESENT, TOO_FEW = "missing", "present", "too few candidates"
NOT_YET = "no results yet"
RECORD = "sweep.json"  # of the sweep's directory: the last grid, and what was submitted


@dataclasses.dataclass(frozen=True)
class People:
    """What the cohort of a sweep says of its sizes.

    Attributes:
        sets: (images, studies) of each evaluation set by name. images, texts: of the whole cohort, which are encoded.
        units: privacy units in training, 0 where nothing is trained on.
    """

    sets: dict[str, tuple[int, int]]
    images: int
    texts: int
    units: int


@dataclasses.dataclass(frozen=True)
class State:
    """What one job has.

    Attributes:
        documents: results that stand, by (heads, evaluation set). why: of the others, why they do not.
        sets: evaluation sets by name, none while they are not known.
        todo: stages of the road whose output is missing.
        asked: strata that the standing results were asked for, by the same keys, whether or not a candidate was found.
    """

    job: sweep_grid.Job
    documents: dict[tuple[str, str], dict[str, Any]]
    why: dict[tuple[str, str], str]
    sets: tuple[str, ...]
    todo: tuple[str, ...]
    asked: dict[tuple[str, str], tuple[str, ...]]

    def status(self, cell: sweep_grid.Cell, name: str) -> str:
        """Returns whether a cell's figure on one evaluation set is present, missing, or known not to exist."""
        key = (cell.heads, name)
        document = self.documents.get(key)
        if document is None:
            return MISSING
        if sweep_results.figure(document, cell) is not None:
            return PRESENT
        counted = cell.stratum in (OTHER_PATIENT, *document["protocol"]["strata"], *self.asked[key])
        return TOO_FEW if counted and (cell.pool is None or cell.pool in document["protocol"]["pool_sizes"]) else MISSING

    def count(self) -> tuple[int, int]:
        """Returns (cells answered, all cells) over the evaluation sets, or over one while those are not known."""
        found = [self.status(cell, name) for name in self.sets for cell in self.job.cells]
        return sum(one != MISSING for one in found), len(found) or len(self.job.cells)


def people(jobs: Iterable[sweep_grid.Job], root: pathlib.Path) -> People | None:
    """Returns what the first readable cohort of the jobs says, None while no job has one; jobs of one sweep share the cohort's settings."""
    for job in jobs:
        found = workdir(root, job)
        try:
            if not (found.cohort / "cohort.json").exists() or sweep_results.other_data(found, job.config):
                continue
            cohort = context.load_cohort(found)
            sets = {one.name: (len(one.selection.images), len(one.selection.studies)) for one in context.evaluation_sets(job.config, cohort)}
        except errors.RelinkError:  # its own job says what is wrong with it
            continue
        return People(sets, len(cohort.image_key), len(cohort.text), _units(job.config, cohort))
    return None


def _units(config: config_lib.RunConfig, cohort: schema.Cohort) -> int:
    chosen = cohort.select(split=config.heads.train_split, site=config.heads.train_site or None)
    studies, unit = cohort.image_study[chosen.images], config.heads.mechanism.unit
    return int(sampling.unit_index(studies if unit == "study" else cohort.study_patient[studies], unit).max()) + 1 if len(studies) else 0


def workdir(root: pathlib.Path, job: sweep_grid.Job) -> workdir_lib.Workdir:
    """Returns the paths of a job's workdir without holding it; neither its name nor its key are read."""
    return workdir_lib.Workdir(root / job.model, "", b"")


def states(grid: sweep_grid.Grid, root: pathlib.Path, known: People | None) -> list[State]:
    """Returns what every job has; evaluation sets are those of the cohort, or once that is purged those that results name."""
    read = {job.model: sweep_results.documents(workdir(root, job), job) for job in grid.jobs}
    named = {name for documents, _ in read.values() for _, name in documents}
    sets = tuple(known.sets) if known else tuple(sorted(named))
    return [_state(workdir(root, job), job, sets, *read[job.model], trains=known is None or known.units > 0) for job in grid.jobs]


def _state(
    found: workdir_lib.Workdir,
    job: sweep_grid.Job,
    sets: tuple[str, ...],
    documents: dict[tuple[str, str], dict[str, Any]],
    why: dict[tuple[str, str], str],
    trains: bool,
) -> State:
    wanted = [(arm, name) for name in sets for arm in job.arms]
    standing = {key: documents[key] for key in wanted if key in documents}
    why = {key: why.get(key, NOT_YET) for key in wanted if key not in standing}
    state = State(job, standing, why, sets, (), {key: sweep_results.asked(found, job, document) for key, document in standing.items()})
    cells = [state.status(cell, name) for name in sets for cell in job.cells]
    counted = bool(sets) and not why and MISSING not in cells
    last: list[str] = [] if counted else ["audit"]
    if last or (trains and not all(_probed(job.config, document) for (arm, _), document in standing.items() if not context.is_redraw(arm))):
        last.append("probe")
    if last or not _reported(found, standing):
        last.append("report")
    skipped = {name for name, out in (("heads", not job.config.mitigate or not trains), ("probe", not trains)) if out}
    todo = [*(_unmade(found, job) if not counted else ()), *last]
    return dataclasses.replace(state, todo=tuple(name for name in demo.ROAD if name in todo and name not in skipped))


def _probed(config: config_lib.RunConfig, document: Mapping[str, Any]) -> bool:
    """Returns whether results hold a probe by the config's settings."""
    protocol = document["utility"].get("protocol", {})
    return bool(document["utility"]["probe"]) and all(protocol.get(name) == value for name, value in config_lib.to_dict(config.probe).items())


def _reported(found: workdir_lib.Workdir, standing: Mapping[tuple[str, str], Mapping[str, Any]]) -> bool:
    """Returns whether the page was made from exactly these results."""
    try:
        record = files.read_object(found.report / "numbers.json", {"inputs": dict, "pages": dict})
        made = {f"results/{results_schema.stem(one)}.json": digests.value_digest(one) for one in standing.values()}
        pages = all(digests.file_digest(found.report / name) == digest for name, digest in record["pages"].items())
    except (errors.StoreError, OSError):
        return False
    return pages and all(record["inputs"].get(name) == digest for name, digest in made.items())


def _unmade(found: workdir_lib.Workdir, job: sweep_grid.Job) -> list[str]:
    """Returns the stages before the audit whose output is not there."""
    model, is_ensemble = job.model, ensembles.is_one(found, job.model)
    features = ("images", "texts", utility_prompts.WHAT, *(("anchors",) if job.config.mitigate else ()))
    made = {
        "cohort": (found.cohort / "cohort.json").exists(),
        "convert": is_ensemble or ((found.model(model) / "provenance.json").exists() and (found.heads(model, "original") / "card.json").exists()),
        "embed": is_ensemble or all(shards.finished(found.features(model, what)) for what in features),
        "heads": all((found.heads(model, arm) / "card.json").exists() for arm in job.arms),
    }
    return [name for name, there in made.items() if not there]
