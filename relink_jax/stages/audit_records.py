"""What a results file says of the run, the data and the model it is of."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from relink_jax import config as config_lib
from relink_jax.audit import run as audit_run
from relink_jax.cohort import schema
from relink_jax.encoders import exposure, specs
from relink_jax.runtime import provenance
from relink_jax.stages import context, ensembles
from relink_jax.store import checkpoints, digests, files
from relink_jax.store import workdir as workdir_lib


def seen(found: workdir_lib.Workdir, model: str, cohort: schema.Cohort, studies: np.ndarray) -> np.ndarray:
    """Returns whether the training of a model has seen each of `studies`: 'seen', 'unseen' or 'unknown', object array."""
    recorded = [specs.Exposure(**dict(one)) for one in facts(found, model)["exposure"]]
    return exposure.of_studies(recorded, cohort.study_origin[studies], cohort.study_exposure[studies])


def run_record(config: config_lib.RunConfig, found: workdir_lib.Workdir) -> dict[str, Any]:
    """Returns what made a results file: the run, its settings, the code and the devices."""
    created = files.read_json(found.root / "run.json")["created_utc"]
    described = {"id": found.run_id, "created_utc": created, "seed": config.audit.seed, "precision": audit_run.described(config.audit.precision)}
    return described | {"config_sha256": digests.value_digest(config_lib.to_dict(config)), "git_commit": provenance.commit()} | provenance.versions()


def data_record(cohort: schema.Cohort, digest: str, chosen: context.EvaluationSet, exposed: np.ndarray) -> dict[str, Any]:
    """Returns what a results file is of: an evaluation set of a cohort with that digest, whose studies are `exposed` to the model's training."""
    exposures, counts = np.unique(exposed.astype(str), return_counts=True)
    return {
        "name": chosen.name,
        "synthetic": cohort.synthetic,
        "external": chosen.external,
        "site": chosen.site,
        "split": context.TEST,
        "cohort_sha256": digest,
        "text_field": cohort.recipe["text_field"],
        "view_filter": list(cohort.recipe["views"]),
        "recipe": dict(cohort.recipe),
        "recipe_sha256": digests.value_digest(dict(cohort.recipe)),
        "exposure": {name: int(count) for name, count in zip(exposures, counts, strict=True)},
    }


def model_record(found: workdir_lib.Workdir, model: str, arm: str) -> dict[str, Any]:
    """Returns whose embeddings a results file is of: a model with the heads of one arm, in digests, and what they cost in privacy."""
    features = {"features_sha256": context.features_digest(found, model, "images"), "encoding": context.encoding(found, model)}
    ensemble = ensembles.load(found, model)
    if ensemble is not None:
        joint = {"weights_sha256": ensemble.digest("source_sha256"), "heads_sha256": ensemble.digest("heads_sha256"), "ensemble": ensemble.described}
        return {"name": model, "head": arm, "dp": None, **joint, **_known(ensemble.facts), **features}
    converted = checkpoints.provenance_of(found.model(model))
    _, card, ledger = context.load_arm(found, model, arm)
    described = {"name": model, "head": arm, "dp": context.spent(ledger), "weights_sha256": converted["source_sha256"], "heads_sha256": card["heads_sha256"]}
    return {**described, **_known(facts(found, model)), **features}


def facts(found: workdir_lib.Workdir, model: str) -> dict[str, Any]:
    """Returns the fields of a model's spec, of an ensemble's what its members share."""
    ensemble = ensembles.load(found, model)
    return ensemble.facts if ensemble else dataclasses.asdict(specs.from_json(checkpoints.provenance_of(found.model(model))["model"], found.model(model)))


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a spec says of the model itself, with null for a rung that is not known."""
    rung = facts["specialisation"]
    return {"specialisation": rung if rung >= 0 else None, "tier": facts["tier"], "exposure": list(facts["exposure"])}
