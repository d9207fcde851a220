"""The archives that a run's config names, read into rows, and the recipe that makes pairs of them."""

import dataclasses
import pathlib
from typing import Any

from relink_jax import cohort_config, errors
from relink_jax import config as config_lib
from relink_jax.cohort import chexpert_plus, mimic_cxr, openi, padchest, phantom, recipes, rexgradient, table
from relink_jax.cohort.pairs import Pairs
from relink_jax.stages import context
from relink_jax.store import digests
from relink_jax.store import workdir as workdir_lib

SYNTHETIC = "SYNTHETIC"  # file at the root of a generated tree


def read(config: config_lib.RunConfig, found: workdir_lib.Workdir | None = None) -> list[Pairs]:
    """Returns the rows of every source of the run; a phantom is generated in the workdir first.

    Raises: DataError: see the adapters in `relink_jax.cohort`; UsageError: a phantom without a workdir.
    """
    return [_read(config, source, found) for source in config.cohort.sources]


def recipe(config: config_lib.RunConfig) -> recipes.Recipe:
    """Returns the preset of the run with its changes.

    Raises: UsageError: an unknown preset, or fields at odds with each other.
    """
    asked, defaults = config.cohort.recipe, vars(cohort_config.RecipeConfig())
    preset = recipes.named(asked.preset)
    changed: dict[str, Any] = {name: value for name, value in vars(asked).items() if name != "preset" and value != defaults[name]}
    train, validate = (changed.pop(f"{part}_share", share) for part, share in zip(("train", "validate"), preset.shares[:2], strict=True))
    if changed or (train, validate) != preset.shares[:2]:
        changed["name"] = f"{preset.name}, changed"
    return dataclasses.replace(preset, shares=(train, validate, round(1 - train - validate, 12)), **changed)


def is_synthetic(part: Pairs) -> bool:
    """Returns whether rows come from a generated tree, which carries a mark at its root: no result of it may pass for a real archive's."""
    return (part.image_root / SYNTHETIC).is_file() or (part.report_root / SYNTHETIC).is_file()


def table_root(config: config_lib.RunConfig) -> pathlib.Path:
    """Returns the directory that image paths of a pairs table are relative to: the configured one, or the table's own."""
    return pathlib.Path(config.cohort.image_root or pathlib.Path(config.cohort.table).parent)


def tables(config: config_lib.RunConfig) -> dict[str, str]:
    """Returns the SHA-256 of the table of each source that is one table, by the table's file name."""
    cohort = config.cohort
    named = [cohort.table if source == "table" else getattr(getattr(cohort, source, None), "table", "") for source in cohort.sources]
    return {pathlib.Path(place).name: digests.file_digest(pathlib.Path(place)) for place in named if place and pathlib.Path(place).is_file()}


def _read(config: config_lib.RunConfig, source: str, found: workdir_lib.Workdir | None) -> Pairs:
    chosen = config.cohort
    if source == "phantom":
        if found is None:
            expected = "an archive or a table, since the phantom is generated and has nothing to check"
            raise errors.UsageError(errors.describe("source", "config field 'cohort.source'", expected, "'phantom'"))
        directory = context.phantom_directory(found)
        return table.read(phantom.generate(chosen.phantom, directory), directory)
    if source == "table":
        return table.read(pathlib.Path(chosen.table), table_root(config), chosen.fact_columns)
    places = {name: pathlib.Path(value) for name, value in vars(getattr(chosen, source)).items() if value and name not in ("label_source",)}
    if source == "mimic_cxr":
        return mimic_cxr.read(places["images"], places["reports"], labels=chosen.mimic_cxr.labels)
    if source == "chexpert_plus":
        return chexpert_plus.read(places["table"], places["images"], labels=places.get("labels"), label_source=chosen.chexpert_plus.label_source)
    if source == "openi":
        return openi.read(places["reports"], places["images"])
    if source == "rexgradient":
        return rexgradient.read(places["metadata"], places["images"])
    return padchest.read(places["table"], places["images"])
