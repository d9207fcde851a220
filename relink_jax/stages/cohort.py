"""The cohort stage: generate the synthetic cohort or read a pairs table, check it, and save it as tables."""

import pathlib

from relink_jax import config as config_lib
from relink_jax.cohort import phantom, schema, table
from relink_jax.stages import context
from relink_jax.store import workdir as workdir_lib


def run(config: config_lib.RunConfig, workdir: str) -> schema.Cohort:
    """Returns the cohort, reading it from the workdir when it is already there.

    Raises: DataError: see `cohort.table.read_pairs`; UsageError, StoreError: a wrong workdir.
    """
    found = context.open_run(config, workdir)
    with workdir_lib.locked(found):
        if (found.cohort / "cohort.json").exists():
            return context.load_cohort(config, found)
        synthetic = config.cohort.source == "phantom"
        path = phantom.generate(config.cohort.phantom, context.phantom_directory(found)) if synthetic else pathlib.Path(config.cohort.table)
        cohort = table.read_pairs(
            path,
            context.image_root(config, found),
            text_field=config.cohort.text_field,
            views=config.cohort.views,
            key=found.key,
            name=config.cohort.name,
            synthetic=synthetic,
            max_missing_share=config.cohort.max_missing_share,
        )
        cohort.save(found.cohort)
        return cohort


def describe(cohort: schema.Cohort) -> str:
    """Returns the cohort's sizes and inclusion decisions as text."""
    lines = [f"cohort {cohort.name!r}" + (" (synthetic)" if cohort.synthetic else "")]
    lines += [f"  {count:>9,}  {name.replace('_', ' ')}" for name, count in cohort.counts.items()]
    return "\n".join(lines)
