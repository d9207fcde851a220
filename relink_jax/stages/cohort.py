"""The cohort stage: archives or a table become the cohort of a workdir; and what can be asked of them before and after."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.cohort import assemble, duplicates, schema
from relink_jax.stages import cohort_records, cohort_sources, cohort_write, context, together
from relink_jax.store import files, restricted
from relink_jax.store import workdir as workdir_lib

READ = "read"
SUBJECTS: dict[str, tuple[str, ...]] = {
    READ: (),
    "check": ("limit", "csv"),
    "report": ("csv", "json"),
    "write": ("layout", "to", "first_study_only"),
    "build": ("short_side", "shard_rows", "workers", "beam"),
    "purge": ("yes",),
}  # and the flags of each
_IN_WORKDIR = (READ, "build", "purge")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a question about the archives was answered with; nothing on a process that waited for process 0 to do so."""

    text: str


def run(config: config_lib.RunConfig, workdir: str, words: Sequence[str] = (), **flags: Any) -> schema.Cohort | Answer:
    """Returns the cohort, reading it from the workdir when it is already there; or answers one of `SUBJECTS`.

    Args: flags: as given on the command line, texts or switches, None where not given.

    Raises: DataError: see the adapters of `relink_jax.cohort` and `cohort.assemble`, and a check that finds something; UsageError: another
        word, or a flag of another one; StoreError: a wrong workdir, or nothing where something is asked for.
    """
    subject = " ".join(words) or READ
    if subject not in SUBJECTS:
        raise errors.UsageError(errors.describe("subcommand", "'relink cohort'", ", ".join(SUBJECTS), repr(subject)) + errors.suggest(subject, SUBJECTS))
    given = {name: value for name, value in flags.items() if value not in (None, False)}
    for name in given:
        if name not in SUBJECTS[subject]:
            known = ", ".join(f"--{flag}" for flag in SUBJECTS[subject]) or "none of its own"
            raise errors.UsageError(errors.describe("flag of another subcommand", f"'relink cohort {subject}'", known, f"--{name}"))
    if subject in _IN_WORKDIR and workdir == "":
        raise errors.UsageError(f"workdir missing on the command line: expected --workdir=DIR, found nothing; try: relink cohort {subject} --workdir=out")
    if subject == READ:
        return read(config, workdir)
    answers: dict[str, Callable[..., str | None]] = {
        "check": cohort_records.check,
        "report": cohort_records.report,
        "write": cohort_write.write,
        "build": cohort_records.build,
        "purge": _purge,
    }

    def answer() -> str | None:
        return answers[subject](config, workdir, **given)

    return Answer((answer() if subject in _IN_WORKDIR else together.by_first(f"cohort {subject}", lambda: answer() or "")) or "")


def read(config: config_lib.RunConfig, workdir: str) -> schema.Cohort:
    """Returns the cohort, reading the run's sources when it is not yet in the workdir; raises what `run` does."""
    with context.opened(config, workdir) as found:
        made = together.first(found, "cohort", lambda: _made(config, found))
        return made or context.load_cohort(found)


def _made(config: config_lib.RunConfig, found: workdir_lib.Workdir) -> schema.Cohort:
    if (found.cohort / "cohort.json").exists():
        _check_tables(found.cohort / context.SOURCE, cohort_sources.tables(config))
        return context.load_cohort(found)
    parts = cohort_sources.read(config, found)
    cohort = assemble.assemble(
        parts,
        cohort_sources.recipe(config),
        key=found.key,
        name=config.cohort_name,
        synthetic=config.cohort.source == "phantom" or all(cohort_sources.is_synthetic(part) for part in parts),
        max_missing_share=config.cohort.max_missing_share,
    )
    context.save_roots(found, [part.image_root for part in parts], cohort_sources.tables(config))
    cohort.save(found.cohort)
    return cohort


def _check_tables(record: pathlib.Path, now: dict[str, str]) -> None:
    """Refuses a table that is no longer the one the cohort was read from; one that was moved away is not missed."""
    before = files.read_object(record, {"table_sha256": dict})["table_sha256"]
    for name, digest in now.items():
        if before.get(name, digest) != digest:
            expected = f"SHA-256 {str(before[name])[:12]}, as when this workdir read it"
            raise errors.StoreError(errors.describe("table changed", f"table {name!r}", expected, f"{digest[:12]}; use a fresh --workdir"))


def _purge(config: config_lib.RunConfig, workdir: str, *, yes: bool = False) -> str | None:
    return context.led(config, workdir, "cohort purge", lambda found: _purged(found, yes))


def _purged(found: workdir_lib.Workdir, yes: bool) -> str:
    listed = restricted.manifest(found.root)["files"]
    folders = collections.Counter(entry["file"].split("/")[0] for entry in listed)
    lines = [f"  {count:>9,}  {folder}" for folder, count in sorted(folders.items())]
    size = sum(entry["bytes"] for entry in listed) / 2**20
    if not yes:
        return "\n".join([f"restricted: {len(listed):,} files, {size:,.1f} MiB; --yes removes them", *lines])
    gone = restricted.purge(found.root, {"files": listed})
    return "\n".join([f"removed: {gone.files:,} restricted files, {gone.bytes / 2**20:,.1f} MiB; results, pages and privacy ledgers stay", *lines])


def describe(found: schema.Cohort | Answer) -> str:
    """Returns a cohort's sizes, inclusion decisions, duplicates and ceiling as text, or the answer."""
    if isinstance(found, Answer):
        return found.text.rstrip("\n")
    lines = [f"cohort {found.name!r}" + (" (synthetic)" if found.synthetic else "")]
    lines += [f"  {count:>9,}  {name.replace('_', ' ')}" for name, count in found.counts.items() if count]
    every = found.select()
    alike, share = duplicates.repeated(found, every)
    lines.append(f"  {alike:>9,}  studies whose text another one has too ({share:.1%})")
    lines.append(f"  {duplicates.ceiling(found, every):>9.3f}  ceiling of strict Recall@1 over all of it, for an oracle that knows each exact text")
    return "\n".join(lines)
