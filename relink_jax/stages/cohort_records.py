"""`relink cohort check`, `report` and `build`: what is wrong with the archives, what recipes make of them, and their images as records."""

import dataclasses
import pathlib
import shlex
from collections.abc import Sequence

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.cohort import beam as beam_lib
from relink_jax.cohort import check as check_lib
from relink_jax.cohort import columns, examples, grid, recipes, record_shards
from relink_jax.cohort.problems import Problem
from relink_jax.runtime import progress
from relink_jax.stages import cohort_sources, context
from relink_jax.store import files, tables
from relink_jax.store import workdir as workdir_lib

_LIMIT = 20


def check(config: config_lib.RunConfig, workdir: str, *, limit: str = "", csv: str = "") -> str:
    """Returns that nothing is wrong with the run's sources.

    Args: limit: problems shown one by one; csv: file for all of them.

    Raises: DataError: what is wrong, as the whole text of `cohort.check.told`; UsageError: a limit that is no number.
    """
    config.validate()
    shown, recipe = _number("limit", limit, _LIMIT), cohort_sources.recipe(config)
    found: dict[str, list[Problem]] = {}
    if config.cohort.source == "table":
        path = pathlib.Path(config.cohort.table)
        found[columns.called(path)] = check_lib.check_table(path, cohort_sources.table_root(config), recipe, facts=config.cohort.fact_columns)
    else:
        found = {part.name: check_lib.check(part, recipe) for part in cohort_sources.read(config)}
    if csv:
        fields = [field.name for field in dataclasses.fields(Problem)]
        rows = [{"source": name, **{field: getattr(one, field) for field in fields}} for name, problems in found.items() for one in problems]
        tables.write_csv(pathlib.Path(csv), rows)
    text = "\n\n".join(check_lib.told(problems, name, shown) for name, problems in found.items())
    if any(found.values()):
        raise errors.DataError(text)
    return text


def report(config: config_lib.RunConfig, workdir: str, *, csv: str = "", json: str = "") -> str:
    """Returns the grid of counts of every recipe, and the presets that it is made of.

    Args: csv, json: files for the same counts.

    Raises: DataError: sources that cannot be read.
    """
    config.validate()
    made = grid.report(cohort_sources.read(config), _recipes(config))
    if csv:
        tables.write_csv(pathlib.Path(csv), made.cells())
    if json:
        files.write_json(pathlib.Path(json), {"counts": made.cells(), "recipes": {name: recipe.record() for name, recipe in made.recipes.items()}})
    told = [recipes.describe(recipe) for recipe in made.recipes.values()]
    return "\n\n".join([made.text(), *told])


def build(config: config_lib.RunConfig, workdir: str, *, short_side: str = "", shard_rows: str = "", workers: str = "", beam: str | None = None) -> str | None:
    """Builds the workdir's cohort into records, going on where an earlier build stopped, and returns what is there.

    Returns None on a process that waited for process 0.

    Raises: UsageError: sizes that are no numbers, or Beam options without Beam; StoreError, DataError: see `record_shards.build`.
    """
    defaults = examples.Settings()
    side, rows = _number("short_side", short_side, defaults.short_side), _number("shard_rows", shard_rows, defaults.shard_rows)
    settings, processes = examples.Settings(short_side=side, shard_rows=rows), _number("workers", workers, 0)
    return context.led(config, workdir, "cohort build", lambda found: _built(found, settings, processes, beam))


def _built(found: workdir_lib.Workdir, settings: examples.Settings, processes: int, beam: str | None) -> str:
    cohort = context.load_cohort(found)
    job = record_shards.Build(record_shards.Source(found.cohort, cohort.image_roots), settings, found.root / context.RECORDS)
    with progress.bar(len(cohort.image_key), "build records", "images") as bar:
        made = record_shards.build(job, processes=processes, advanced=bar.update) if beam is None else beam_lib.build(job, shlex.split(beam))
    size = sum(shard["bytes"] for shard in made["shards"])
    lines = [f"records of cohort {cohort.name!r}: {made['records']:,} images in {len(made['shards'])} shards, {size / 2**20:,.1f} MiB, every image once"]
    lines += [f"  {count:>9,}  {what}" for what, count in made["decisions"].items()]
    return "\n".join([*lines, "later 'relink embed' reads them; for other loops: tfds.builder_from_directory(WORKDIR/records).as_data_source('train')"])


def _recipes(config: config_lib.RunConfig) -> Sequence[recipes.Recipe]:
    """Returns every preset, and before them the run's own recipe where it is none."""
    own = cohort_sources.recipe(config)
    presets = [preset.recipe for preset in recipes.PRESETS.values()]
    return presets if own in presets else [own, *presets]


def _number(flag: str, text: str, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise errors.UsageError(errors.describe("value", f"flag --{flag}", "a whole number", repr(text[:20])))
    return int(text)
