"""The audit stage: linkage of every model, head arm and evaluation set, or of embeddings brought along."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.audit import comparison, holdings, importer, result
from relink_jax.audit import inputs as inputs_lib
from relink_jax.audit import run as audit_run
from relink_jax.audit.per_image import COSINE
from relink_jax.cohort import schema
from relink_jax.encoders import exposure, specs
from relink_jax.retrieval import loop
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import provenance
from relink_jax.stages import adversary, audit_order, context, ensembles
from relink_jax.store import checkpoints, digests, files, shards
from relink_jax.store import workdir as workdir_lib

NO_HEAD = "none"


def run(config: config_lib.RunConfig, workdir: str, *, model: str | None = None) -> dict[str, result.AuditResult]:
    """Audits every (model, arm, evaluation set), writes results/*.json and *.parquet, and returns the results by file stem.

    With `model`, audits only that one of the run's models. With `config.embeddings`, audits that directory instead and needs no
    cohort, model or encoder. Arms whose heads were not trained are left out, and said.

    Raises: DataError, StoreError, UsageError: see the rooms; names the set, and then no result is written or changed.
    """
    with context.opened(config, workdir) as found:
        meshes.share_cpu()
        mesh = meshes.make_mesh()
        if config.embeddings:
            return _brought(config, found, mesh)
        models = context.models_of(config, model)
        cohort = context.load_cohort(found)
        arms = {name: context.made_arms(config, found, name) for name in models}
        sets, every = context.evaluation_sets(config, cohort), adversary.facts(config, cohort)
        audited = {(name, chosen.name): _audit_arms(config, found, cohort, name, arms[name], chosen, every, mesh) for chosen in sets for name in models}
        results: dict[str, result.AuditResult] = {}
        for chosen in sets:
            for name in models:
                results |= _save(config, found, cohort, name, chosen, audited[name, chosen.name])
        if model is None:
            audit_order.write(found, {chosen.name: _ladder(found, models, {name: audited[name, chosen.name] for name in models}) for chosen in sets})
        return results


def _ladder(found: workdir_lib.Workdir, models: Sequence[str], audited: Mapping[str, Mapping[str, result.AuditResult]]) -> list[tuple[str, result.AuditResult]]:
    """Returns the audits of the models' own heads in rising specialisation, of those whose rung is known."""
    rungs = {name: int(_facts(found, name)["specialisation"]) for name in models}
    return [(name, audited[name]["original"]) for name in sorted(models, key=lambda one: (rungs[one], one)) if rungs[name] >= 0]


def describe(results: dict[str, result.AuditResult]) -> str:
    """Returns the table of every result."""
    return "\n\n".join(f"{stem.replace('__', '  ')}\n{one.table()}" for stem, one in results.items())


def _brought(config: config_lib.RunConfig, found: workdir_lib.Workdir, mesh: meshes.Mesh) -> dict[str, result.AuditResult]:
    directory = pathlib.Path(config.embeddings)
    name = directory.resolve().name
    stem = f"{name}__{NO_HEAD}__all"
    audited = _audit(config, inputs_lib.prepare(**importer.load_embeddings(directory)), mesh, _counting(found, stem))
    data = {"name": "all", "synthetic": False, "external": False, "text_field": "as embedded"}
    audited.save(found.results / stem, run=_run_record(config, found), data=data, model={"name": name, "head": NO_HEAD})
    shards.discard(_counting(found, stem))
    return {stem: audited}


def _audit_arms(
    config: config_lib.RunConfig,
    found: workdir_lib.Workdir,
    cohort: schema.Cohort,
    model: str,
    arms: Sequence[str],
    chosen: context.EvaluationSet,
    every: Mapping[str, np.ndarray],
    mesh: meshes.Mesh,
) -> dict[str, result.AuditResult]:
    """Returns the audit of every arm of one model on one set; `every`: facts of the cohort's studies. Further draws of noise are only counted."""
    audited, ensemble = {}, ensembles.load(found, model)
    seen = _exposure(found, model, cohort, chosen.selection.studies)
    people = adversary.People(chosen.selection, adversary.of(every, chosen.selection), seen)
    attacker = adversary.Attacker(config, found, cohort, model, people, adversary.auxiliary(config, cohort, chosen.selection, every))
    for arm in arms:
        images, texts = context.embeddings(found, model, arm, config.embed.shard_rows)
        try:
            prepared = adversary.prepared(cohort, people, images, texts)
            holding = None if context.is_redraw(arm) else attacker.holding(arm, prepared, images, texts)
            audited[arm] = _audit(config, prepared, mesh, _counting(found, f"{model}__{arm}__{chosen.name}"), holding, whole=not context.is_redraw(arm))
            audited[arm].warnings.extend(context.encoding_warnings(context.encoding(found, model)) + ([ensemble.warning] if ensemble else []))
        except errors.RelinkError as error:
            raise type(error)(f"{chosen.name}, {model} with {arm} heads: {error}") from error
    return audited


def _save(
    config: config_lib.RunConfig,
    found: workdir_lib.Workdir,
    cohort: schema.Cohort,
    model: str,
    chosen: context.EvaluationSet,
    audited: dict[str, result.AuditResult],
) -> dict[str, result.AuditResult]:
    """Writes the audits of one model's arms, with their paired change against the original and the noise-only heads, and returns them by stem."""
    record, data = _run_record(config, found), _data_record(config, cohort, chosen, _exposure(found, model, cohort, chosen.selection.studies))
    stems = {arm: f"{model}__{arm}__{chosen.name}" for arm in audited}
    for arm, one in audited.items():
        others = [other for other in ("original", context.NOISE_ONLY) if other in audited and other != arm]
        others = [] if arm == "original" or context.is_redraw(arm) else others
        paired = [entry for other in others for entry in _paired(stems[other], audited[other], one)]
        one.save(found.results / stems[arm], run=record, data=data, model=_model_record(found, model, arm), paired=paired)
        shards.discard(_counting(found, stems[arm]))
    return {stems[arm]: one for arm, one in audited.items()}


def _counting(found: workdir_lib.Workdir, stem: str) -> pathlib.Path:
    """Returns where the parts of a long counting pass lie until its result is written."""
    return found.root / "counting" / stem


def _audit(
    config: config_lib.RunConfig,
    prepared: inputs_lib.AuditInputs,
    mesh: meshes.Mesh,
    counting: pathlib.Path,
    holding: holdings.Holding | None = None,
    whole: bool = True,
) -> result.AuditResult:
    """Returns one audit; without `whole` no attack and no further measure is tried."""
    chosen = config.audit
    work = 2 * len(prepared.images) * len(prepared.study_text) * prepared.images.shape[1]
    return audit_run.audit_inputs(
        prepared,
        mesh=mesh,
        pool_sizes=chosen.pool_sizes,
        ks=chosen.ks,
        top_k=chosen.top_k,
        label_policy=chosen.label_policy,
        same_patient=chosen.same_patient,
        further_strata=chosen.strata if whole else (),
        attacks=chosen.attacks if whole else (),
        measures=chosen.measures if whole else (),
        holding=holding,
        bootstrap_replicates=chosen.bootstrap_replicates,
        level=chosen.level,
        mc_repeats=chosen.mc_repeats,
        precision=chosen.precision,
        split=chosen.split,
        query_block=chosen.query_block,
        tile=chosen.tile,
        panel=chosen.panel,
        memory=int(chosen.memory * 2**30),
        kernel=chosen.kernel,
        seed=chosen.seed,
        directory=counting if work >= loop.LONG else None,
    )


def _exposure(found: workdir_lib.Workdir, model: str, cohort: schema.Cohort, studies: np.ndarray) -> np.ndarray:
    """Returns whether the training of a model has seen each of `studies`: 'seen', 'unseen' or 'unknown', object array."""
    recorded = [specs.Exposure(**dict(one)) for one in _facts(found, model)["exposure"]]
    return exposure.of_studies(recorded, cohort.study_origin[studies], cohort.study_exposure[studies])


def _paired(against: str, before: result.AuditResult, after: result.AuditResult) -> list[dict[str, Any]]:
    """Returns the change of Recall@1 (i2r) from `before` to `after` at every pool size, on the same queries and draws: by plain cosine, by the best
    attack on each, and by every re-alignment with all pairs."""
    wanted = ("recall", 1, "i2r", "other_patient")
    chosen = [metric for metric in after.metrics if (metric["name"], metric["k"], metric["direction"], metric["stratum"]) == wanted]
    shared = [label for label in (after.per_image.attacks if after.per_image else ()) if before.per_image and label in before.per_image.attacks]
    attacks = [COSINE, *([comparison.BEST] if before.attacks and after.attacks else []), *(label for label in shared if label.endswith(".all"))]
    return [comparison.entry(against, before, after, metric, attack) for attack in attacks for metric in chosen]


def _run_record(config: config_lib.RunConfig, found: workdir_lib.Workdir) -> dict[str, Any]:
    created = files.read_json(found.root / "run.json")["created_utc"]
    described = {"id": found.run_id, "created_utc": created, "seed": config.audit.seed, "precision": audit_run.described(config.audit.precision)}
    return described | {"config_sha256": digests.value_digest(config_lib.to_dict(config)), "git_commit": provenance.commit()} | provenance.versions()


def _data_record(config: config_lib.RunConfig, cohort: schema.Cohort, chosen: context.EvaluationSet, seen: np.ndarray) -> dict[str, Any]:
    exposures, counts = np.unique(seen.astype(str), return_counts=True)
    return {
        "name": chosen.name,
        "synthetic": cohort.synthetic,
        "external": chosen.external,
        "site": chosen.site,
        "split": context.TEST,
        "cohort_sha256": cohort.digest(),
        "text_field": cohort.recipe["text_field"],
        "view_filter": list(cohort.recipe["views"]),
        "recipe": dict(cohort.recipe),
        "recipe_sha256": digests.value_digest(dict(cohort.recipe)),
        "exposure": {name: int(count) for name, count in zip(exposures, counts, strict=True)},
    }


def _model_record(found: workdir_lib.Workdir, model: str, arm: str) -> dict[str, Any]:
    features = {"features_sha256": context.features_digest(found, model, "images"), "encoding": context.encoding(found, model)}
    ensemble = ensembles.load(found, model)
    if ensemble is not None:
        joint = {"weights_sha256": ensemble.digest("source_sha256"), "heads_sha256": ensemble.digest("heads_sha256"), "ensemble": ensemble.described}
        return {"name": model, "head": arm, "dp": None, **joint, **_known(ensemble.facts), **features}
    converted = checkpoints.provenance_of(found.model(model))
    _, card, ledger = context.load_arm(found, model, arm)
    described = {"name": model, "head": arm, "dp": context.spent(ledger), "weights_sha256": converted["source_sha256"], "heads_sha256": card["heads_sha256"]}
    return {**described, **_known(_facts(found, model)), **features}


def _facts(found: workdir_lib.Workdir, model: str) -> dict[str, Any]:
    """Returns the fields of a model's spec, of an ensemble's what its members share."""
    ensemble = ensembles.load(found, model)
    return ensemble.facts if ensemble else dataclasses.asdict(specs.from_json(checkpoints.provenance_of(found.model(model))["model"], found.model(model)))


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a spec says of the model itself, with null for a rung that is not known."""
    rung = facts["specialisation"]
    return {"specialisation": rung if rung >= 0 else None, "tier": facts["tier"], "exposure": list(facts["exposure"])}
