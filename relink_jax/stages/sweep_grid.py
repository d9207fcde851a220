"""The grid of a sweep: models x heads x strata x pool sizes as cells, and one job for each model whose counting passes answer them.

A pass counts, for one model, one kind of heads and one evaluation set, the integers from which the figure of every pool size and stratum
follows; so pool sizes and strata multiply cells, never passes.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.retrieval.counted import LABEL_MATCHED, OTHER_PATIENT
from relink_jax.stages import context
from relink_jax.store import digests

FULL = "full"  # as a pool size: all candidates of a query
ALWAYS = (OTHER_PATIENT, LABEL_MATCHED)  # strata that every audit counts
AXES = ("models", "mitigate", "heads", "pools", "strata")
_ORIGINAL = "original"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One figure asked of every evaluation set: Recall@1 of image queries; `pool` is None for all candidates."""

    model: str
    heads: str
    stratum: str
    pool: int | None


@dataclasses.dataclass(frozen=True)
class Job:
    """One model of a sweep: the run that answers its cells, in a workdir of its own."""

    config: config_lib.RunConfig
    cells: tuple[Cell, ...]

    @property
    def model(self) -> str:
        """The model's name, which is that of its workdir."""
        return self.config.models[0]

    @property
    def arms(self) -> tuple[str, ...]:
        """Heads that are audited, a pass each on every evaluation set; further draws of the noise-only control are among them and have no cells."""
        return context.arms_of(self.config, self.model)

    @property
    def digest(self) -> str:
        """Digest of the run's config, as its results record it."""
        return digests.value_digest(config_lib.to_dict(self.config))


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is asked: the values of each axis as texts, and the jobs that answer."""

    axes: dict[str, list[str]]
    jobs: tuple[Job, ...]

    @property
    def cells(self) -> int:
        """Cells of one evaluation set."""
        return sum(len(job.cells) for job in self.jobs)

    @property
    def passes(self) -> int:
        """Counting passes over one evaluation set."""
        return sum(len(job.arms) for job in self.jobs)


def expand(config: config_lib.RunConfig, flags: Mapping[str, str | None], before: Mapping[str, Any] | None = None) -> Grid:
    """Returns the grid that a config and flags ask for.

    Args:
        flags: texts of `AXES`, values with commas between, None where not given.
        before: axes of an earlier sweep of the same config, which stand where no flag is given; None for none.

    Raises: UsageError: an axis without a value, a value twice or one that cannot be, or a config that no sweep can be made of.
    """
    _check(config)
    given = {name: _values(name, text) for name, text in flags.items() if text is not None}
    before = before or {}
    axes = {"models": given.get("models") or list(before.get("models", dict.fromkeys(config.models)))}
    axes["heads"] = _heads(given.get("heads") or before.get("heads", config.arms))
    axes["mitigate"] = _mitigated(config, axes, given, before)
    axes["pools"] = given.get("pools") or list(before.get("pools", [*map(str, config.audit.pool_sizes), FULL]))
    axes["strata"] = given.get("strata") or list(before.get("strata", [*ALWAYS, *config.audit.strata]))
    pools = _pools(axes["pools"])
    _check_strata(config, axes["strata"])
    return Grid(axes, tuple(_job(config, model, axes, pools) for model in axes["models"]))


def _check(config: config_lib.RunConfig) -> None:
    for field, instead in (("source", "'relink convert --source' into ROOT/MODEL first, or config field 'checkpoints'"), ("embeddings", "'relink audit'")):
        if getattr(config, field):
            raise errors.UsageError(errors.describe(f"config field {field!r}", "'relink sweep'", f"none; {instead} is for that", "a path"))
    if 1 not in config.audit.ks:
        raise errors.UsageError(errors.describe("k", "config field 'audit.ks'", "1 among them, since a cell is a Recall@1", str(config.audit.ks)))


def _values(name: str, text: str) -> list[str]:
    """Returns the values of one flag; only --mitigate may have none."""
    found = [part.strip() for part in text.split(",")] if text.strip() else []
    if (not found and name != "mitigate") or "" in found or len(set(found)) < len(found):
        raise errors.UsageError(errors.describe("list", f"flag --{name}", "distinct values with commas between", repr(text)[:60]))
    return found


def _heads(asked: Sequence[str]) -> list[str]:
    """Returns the heads of a mitigated model, the original first: every other kind is compared with it."""
    for name in asked:
        if name not in config_lib.ARMS:
            expected = f"of {', '.join(config_lib.ARMS)}"
            raise errors.UsageError(errors.describe("heads", "flag --heads", expected, repr(name)) + errors.suggest(name, config_lib.ARMS))
    return [_ORIGINAL, *(name for name in asked if name != _ORIGINAL)]


def _mitigated(config: config_lib.RunConfig, axes: Mapping[str, list[str]], given: Mapping[str, list[str]], before: Mapping[str, Any]) -> list[str]:
    """Returns the models whose further heads are trained: those named, all where heads were asked for, else the config's one."""
    models, further = axes["models"], len(axes["heads"]) > 1
    if "mitigate" in given:
        for name in given["mitigate"]:
            if name not in models:
                raise errors.UsageError(
                    errors.describe("model", "flag --mitigate", f"of the sweep's models {', '.join(models)}", repr(name)) + errors.suggest(name, models)
                )
        chosen = given["mitigate"]
    elif "heads" in given:
        chosen = models
    else:
        chosen = [name for name in before.get("mitigate", [config.mitigate]) if name in models]
    return list(chosen) if further else []


def _pools(texts: Sequence[str]) -> list[int | None]:
    """Returns pool sizes, None for all candidates."""
    wrong = next(
        (
            text
            for text in texts
            if text != FULL and not (text.isascii() and text.isdigit() and len(text) <= 10 and 2 <= int(text) <= 10**9 and text == str(int(text)))
        ),
        None,
    )
    if wrong is not None:
        raise errors.UsageError(errors.describe("pool size", "flag --pools", f"whole numbers from 2 to 1e9, or {FULL}", repr(wrong)[:60]))
    return [None if text == FULL else int(text) for text in texts]


def _check_strata(config: config_lib.RunConfig, names: Sequence[str]) -> None:
    known = list(dict.fromkeys((*ALWAYS, *config_lib.STRATA, *config.cohort.fact_columns, *config.audit.strata)))
    for name in names:
        if name not in known:
            expected = f"of {', '.join(known)}; another fact of the cohort is named in config field 'audit.strata'"
            raise errors.UsageError(errors.describe("stratum", "flag --strata", expected, repr(name)) + errors.suggest(name, known))


def _job(config: config_lib.RunConfig, model: str, axes: Mapping[str, list[str]], pools: Sequence[int | None]) -> Job:
    run, mitigated = copy.deepcopy(config), model in axes["mitigate"]
    run.models, run.mitigate, run.arms = (model,), model if mitigated else "", tuple(axes["heads"])
    run.audit.pool_sizes = tuple(pool for pool in pools if pool is not None) or run.audit.pool_sizes
    run.audit.strata = tuple(name for name in axes["strata"] if name not in ALWAYS)
    run.validate()
    run.resolve_paths()
    heads = axes["heads"] if mitigated else [_ORIGINAL]
    return Job(run, tuple(Cell(model, head, stratum, pool) for head in heads for stratum in axes["strata"] for pool in pools))
