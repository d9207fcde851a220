"""Prompt embeddings of an arm: the features that the embed stage left, through the arm's text head."""

import numpy as np

from relink_jax import heads
from relink_jax.cohort import prompts
from relink_jax.runtime import progress
from relink_jax.stages import context, ensembles
from relink_jax.store import shards
from relink_jax.store import workdir as workdir_lib

WHAT = "prompts"


def available(found: workdir_lib.Workdir, model: str) -> bool:
    """Returns whether this version's prompts were embedded by a model, by every member of an ensemble; says so where they were not."""
    ensemble = ensembles.load(found, model)
    missing = [one for one in ((model,) if ensemble is None else ensemble.members) if not _current(found, one)]
    if missing:
        progress.notice(f"{model}: no embedded prompts of this version, so zero-shot is left out; 'relink embed' adds them")
    return not missing


def embeddings(found: workdir_lib.Workdir, model: str, arm: str) -> np.ndarray:
    """Returns unit-norm float32 [P, D], one row per text of `cohort.prompts.texts`; of an ensemble its members' side by side.

    Raises: StoreError: missing or damaged features or heads.
    """
    ensemble = ensembles.load(found, model)
    if ensemble is not None:
        return ensembles.SideBySide(embeddings(found, one, arm) for one in ensemble.members)[:]
    loaded, _, _ = context.load_arm(found, model, arm)
    return np.asarray(heads.project(loaded["text"], context.features(found, model, WHAT)))


def _current(found: workdir_lib.Workdir, model: str) -> bool:
    directory = found.features(model, WHAT)
    return shards.finished(directory) and shards.manifest(directory)["identity"].get("prompts") == prompts.digest()
