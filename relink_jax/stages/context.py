"""What every stage starts with: the workdir opened for this run's data, and the cohort, features and embeddings in it."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from relink_jax import config as config_lib
from relink_jax import errors, heads
from relink_jax.cohort import schema
from relink_jax.store import files, shards
from relink_jax.store import workdir as workdir_lib

NOISE_ONLY = "noise_only"


def open_run(config: config_lib.RunConfig, workdir: str | pathlib.Path) -> workdir_lib.Workdir:
    """Opens the workdir for the data this config defines; a workdir of other data is refused.

    Raises: UsageError, StoreError: see `store.workdir.open_workdir`.
    """
    identity: dict[str, Any] = {f"cohort.{field.path}": field.default for field in config_lib.fields(config.cohort)}
    if config.cohort.source == "table":
        identity = {name: value for name, value in identity.items() if ".phantom." not in name}
    if config.embeddings:
        identity = {"embeddings": config.embeddings}
    found = workdir_lib.open_workdir(workdir, {name: list(value) if isinstance(value, tuple) else value for name, value in identity.items()})
    files.write_json(found.root / "config.json", config_lib.to_dict(config))
    return found


def restore_config(path: pathlib.Path, content: bytes) -> None:
    """Writes back the config a workdir had recorded before a command that was refused."""
    files.write_bytes(path, content)


def load_cohort(config: config_lib.RunConfig, found: workdir_lib.Workdir) -> schema.Cohort:
    """Returns the saved cohort; `StoreError` when the cohort stage has not run."""
    return schema.load(found.cohort, image_root(config, found))


def image_root(config: config_lib.RunConfig, found: workdir_lib.Workdir) -> pathlib.Path:
    """Returns the directory that image paths are relative to: the user's, or the generated one in the workdir."""
    if config.cohort.source == "phantom":
        return phantom_directory(found)
    return pathlib.Path(config.cohort.image_root or pathlib.Path(config.cohort.table).parent)


def phantom_directory(found: workdir_lib.Workdir) -> pathlib.Path:
    """Returns where the synthetic cohort's PNG files and pairs table lie."""
    return found.root / "phantom"


def arms_of(config: config_lib.RunConfig, model: str) -> tuple[str, ...]:
    """Returns the head arms of a model: all configured ones for the mitigated model, the original for the others.

    The noise-only control comes first as `noise_only`, its further draws as `noise_only_2` and so on.
    """
    if model != config.mitigate:
        return ("original",)
    redraws = [f"{NOISE_ONLY}_{draw}" for draw in range(2, config.heads.noise_draws + 1)] if NOISE_ONLY in config.arms else []
    return ("original", *(arm for arm in config.arms if arm != "original"), *redraws)


def is_noise(arm: str) -> bool:
    """Returns whether an arm is the noise-only control or a further draw of it."""
    return arm.startswith(NOISE_ONLY)


def is_redraw(arm: str) -> bool:
    """Returns whether an arm is a further draw of the noise-only control, audited only to see the spread of draws."""
    return is_noise(arm) and arm != NOISE_ONLY


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """One site's held-out studies, audited as one database."""

    name: str
    site: str
    external: bool
    selection: schema.Selection


def evaluation_sets(config: config_lib.RunConfig, cohort: schema.Cohort) -> list[EvaluationSet]:
    """Returns one set per site of the test split; a cohort without any split is audited whole.

    A site other than the heads' training site is external: heads trained elsewhere are used there without retraining.
    """
    split = "test" if np.any(cohort.study_split == "test") else None
    sites = sorted({str(site) for site in cohort.study_site})
    sets = []
    for site in sites:
        chosen = cohort.select(split=split, site=site)
        external = bool(config.heads.train_site) and site != config.heads.train_site
        label = "-".join(part for part in (cohort.name, site, "external" if external else split or "all") if part)
        if len(chosen.studies) > 0:
            sets.append(EvaluationSet(label, site, external, chosen))
    if not sets:
        raise errors.DataError(errors.describe("nothing to audit", "cohort", "at least one study in the test split", "none"))
    return sets


def features(found: workdir_lib.Workdir, model: str, what: str) -> np.ndarray:
    """Returns frozen features [n, F] in index order (row i belongs to image, text or anchor i)."""
    stored = shards.read(found.features(model, what))
    ordered = np.empty_like(stored["features"])
    ordered[stored["index"]] = stored["features"]
    return ordered


def embeddings(found: workdir_lib.Workdir, model: str, arm: str, shard_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns unit-norm (images [I, D], unique texts [U, D]) of one arm, projecting and storing them on first use.

    Raises: StoreError: missing features or heads, or stored embeddings of other heads.
    """
    loaded, card = heads.load(found.heads(model, arm))
    both = []
    for side, what in (("image", "images"), ("text", "texts")):
        directory = found.embeddings(model, arm, what)
        identity = {"features": shards.digest(found.features(model, what)), "heads": card["heads_sha256"]}
        if not shards.finished(directory):
            projected = np.asarray(heads.project(loaded[side], features(found, model, what)))
            shards.write_all(directory, {"embeddings": projected, "index": np.arange(len(projected), dtype=np.int32)}, shard_rows, identity)
        if shards.manifest(directory)["identity"] != identity:
            raise errors.StoreError(
                errors.describe("stale embeddings", f"embeddings of arm {arm!r}", "the digests of its features and heads", "others; use a fresh workdir")
            )
        both.append(shards.read(directory)["embeddings"])
    return both[0], both[1]
