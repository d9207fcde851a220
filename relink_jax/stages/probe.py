"""The probe stage: a 14-label linear probe on features before the head (maps: their mean) and on every arm's embeddings.

An ensemble has no features of its own: only its embeddings are probed, its members' side by side.
Fitted on the heads' training site (train and validate splits), scored on every evaluation set; its numbers go into the
results files that the audit stage wrote.
"""

import dataclasses
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.cohort import schema
from relink_jax.runtime import progress
from relink_jax.stages import context, ensembles
from relink_jax.store import digests, files
from relink_jax.store import workdir as workdir_lib
from relink_jax.store.rows import RowSource
from relink_jax.utility import probe

PRE_HEAD = "pre_head"


def run(config: config_lib.RunConfig, workdir: str) -> dict[str, list[probe.ProbeResult]]:
    """Probes every (model, arm, evaluation set) and returns the results by results-file stem.

    Raises: StoreError: no results files of the audit stage, or missing embeddings; DataError: no labelled training images.
    """
    with context.opened(config, workdir) as found:
        cohort = context.load_cohort(found)
        sets = context.evaluation_sets(config, cohort)
        arms = {model: [arm for arm in context.made_arms(config, found, model) if not context.is_redraw(arm)] for model in config.models}
        probed: dict[str, list[probe.ProbeResult]] = {}
        with progress.bar(sum(map(len, arms.values())), "probe", "arms") as bar:
            for model in config.models:
                before: dict[str, probe.ProbeResult] = {}
                if not ensembles.is_one(found, model):
                    before = _probe(config, cohort, sets, context.vectors(found, model, "images"), PRE_HEAD)
                original: dict[str, probe.ProbeResult] = {}
                for arm in arms[model]:
                    images, _ = context.embeddings(found, model, arm, config.embed.shard_rows)
                    after = _probe(config, cohort, sets, images, arm)
                    original = original or after
                    for name in after:
                        stem = f"{model}__{arm}__{name}"
                        probed[stem] = [one[name] for one in (before, after) if one]
                        _record(found, stem, probed[stem], original[name], _protocol(config, cohort))
                    bar.update(1)
        return probed


def describe(probed: dict[str, list[probe.ProbeResult]]) -> str:
    """Returns one line per results file: macro AUROC before the head, where there are such features, and after it."""
    lines = [f"  {stem.replace('__', '  '):<64} " + "  ".join(f"{one.features} {_auroc(one)}" for one in found) for stem, found in probed.items()]
    return "\n".join(["macro AUROC of the 14-label linear probe (chance 0.5):", *lines])


def _auroc(one: probe.ProbeResult) -> str:
    return "undefined" if one.macro_auroc is None else f"{one.macro_auroc:.4f}"


def _probe(config: config_lib.RunConfig, cohort: schema.Cohort, sets: list[context.EvaluationSet], x: RowSource, features: str) -> dict[str, probe.ProbeResult]:
    site = config.heads.train_site or None
    train, validate = (_split(cohort, cohort.select(split=split, site=site), x) for split in ("train", "validate"))
    for name, split in (("train", train), ("validate", validate)):
        if len(split[0]) == 0:
            raise errors.DataError(
                errors.describe(
                    "nothing to fit the probe on", f"split {name!r} of the cohort", "images with labels (table columns split and the 14 labels)", "none"
                )
            )
    fitted = probe.fit_probe(
        train=train, validate=validate, label_names=schema.LABELS, l2_grid=config.probe.l2_grid, max_iterations=config.probe.max_iterations
    )
    results = {}
    for chosen in sets:
        images = chosen.selection.images
        results[chosen.name] = probe.evaluate(
            fitted,
            test=_split(cohort, chosen.selection, x),
            patient_test=cohort.study_patient[cohort.image_study[images]],
            features=features,
            bootstrap_replicates=config.probe.bootstrap_replicates,
            level=config.audit.level,
            seed=config.audit.seed,
        )
    return results


def _split(cohort: schema.Cohort, chosen: schema.Selection, x: RowSource) -> probe.Split:
    studies = cohort.image_study[chosen.images]
    y, known = probe.targets(cohort.study_labels[studies], cohort.study_has_labels[studies])
    return x[chosen.images], y, known


def _protocol(config: config_lib.RunConfig, cohort: schema.Cohort) -> dict[str, Any]:
    """Returns what probes on one page must share: the settings of fit and interval, and the sites fitted on."""
    settings = dataclasses.asdict(config.probe)
    return {**settings, "l2_grid": list(config.probe.l2_grid), "level": config.audit.level, "sites": context.training_sites(config, cohort)}


def _record(found: workdir_lib.Workdir, stem: str, probed: list[probe.ProbeResult], original: probe.ProbeResult, protocol: dict[str, Any]) -> None:
    """Adds what was probed of one results file, the arm's embeddings last, and their change against the original heads'."""
    path = found.results / f"{stem}.json"
    context.needs(path, f"results of {stem.replace('__', ' ')}", "audit")
    document = files.read_object(path, {"utility": dict, "warnings": list})
    after = probed[-1]
    document["utility"] |= {"probe": [one.to_json() for one in probed], "protocol": protocol}
    comparable = after is not original and after.macro_auroc is not None and original.macro_auroc is not None
    document["utility"]["paired"] = [probe.paired_difference(after, original)] if comparable else []
    document["warnings"] = sorted({*document["warnings"], *(line for one in probed for line in one.warnings)})
    files.write_json(path, digests.sealed(document))
