"""The cohort stage: generate the synthetic cohort or read a pairs table, check it, and save it as tables."""

import pathlib

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.cohort import phantom, schema, table
from relink_jax.stages import context
from relink_jax.store import digests, files

_SOURCE = "source.json"  # of a cohort read from a table: the table's digest


def run(config: config_lib.RunConfig, workdir: str) -> schema.Cohort:
    """Returns the cohort, reading it from the workdir when it is already there.

    Raises: DataError: see `cohort.table.read_pairs`; UsageError, StoreError: a wrong workdir.
    """
    with context.opened(config, workdir) as found:
        synthetic = config.cohort.source == "phantom"
        path = pathlib.Path(config.cohort.table)
        if (found.cohort / "cohort.json").exists():
            _check_table(found.cohort / _SOURCE, path)
            return context.load_cohort(config, found)
        if synthetic:
            path = phantom.generate(config.cohort.phantom, context.phantom_directory(found))
        cohort = table.read_pairs(
            path,
            context.image_root(config, found),
            text_field=config.cohort.text_field,
            views=config.cohort.views,
            key=found.key,
            name=config.cohort_name,
            synthetic=synthetic,
            max_missing_share=config.cohort.max_missing_share,
        )
        if not synthetic:
            files.write_json(found.cohort / _SOURCE, {"table_sha256": digests.file_digest(path)})
        cohort.save(found.cohort)
        return cohort


def _check_table(record: pathlib.Path, path: pathlib.Path) -> None:
    """Refuses a table that is no longer the one the cohort was read from; one that was moved away is not missed."""
    if record.exists() and path.is_file():
        before, now = files.read_object(record, {"table_sha256": str})["table_sha256"], digests.file_digest(path)
        if before != now:
            raise errors.StoreError(
                errors.describe(
                    "pairs table changed", f"table {path.name!r}", f"SHA-256 {before[:12]}, as when this workdir read it", f"{now[:12]}; use a fresh --workdir"
                )
            )


def describe(cohort: schema.Cohort) -> str:
    """Returns the cohort's sizes and inclusion decisions as text."""
    lines = [f"cohort {cohort.name!r}" + (" (synthetic)" if cohort.synthetic else "")]
    lines += [f"  {count:>9,}  {name.replace('_', ' ')}" for name, count in cohort.counts.items()]
    return "\n".join(lines)
