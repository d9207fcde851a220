"""What an arm's embeddings are still good for: the tasks of the probe stage, each on every evaluation set.

probe, report_probe   14-label linear probes of images and of reports, fitted on the training site
zero_shot             the same labels from prompts, nothing fitted
label_retrieval       whether the reports found for an image are about its findings
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.audit import strata
from relink_jax.cohort import prompts, schema
from relink_jax.stages import context
from relink_jax.store.rows import RowSource, select
from relink_jax.utility import label_retrieval, macro, probe, zero_shot

Rows = Callable[[schema.Cohort, schema.Selection], tuple[np.ndarray, np.ndarray]]


def of_images(cohort: schema.Cohort, chosen: schema.Selection) -> tuple[np.ndarray, np.ndarray]:
    """Returns (image numbers, their studies) of a selection."""
    return chosen.images, cohort.image_study[chosen.images]


def of_reports(cohort: schema.Cohort, chosen: schema.Selection) -> tuple[np.ndarray, np.ndarray]:
    """Returns (text numbers, their studies) of a selection, one report per study."""
    return cohort.study_text[chosen.studies], chosen.studies


PROBES: dict[str, Rows] = {"probe": of_images, "report_probe": of_reports}


def linear_probe(
    config: config_lib.RunConfig, cohort: schema.Cohort, sets: list[context.EvaluationSet], x: RowSource, features: str, task: str = "probe"
) -> dict[str, macro.MacroResult]:
    """Fits one of `PROBES` on features `x` and returns its result on every evaluation set by name.

    Raises: DataError: no labelled rows to fit it on; see `probe.fit_probe`.
    """
    site = config.heads.train_site or None
    train, validate = (_split(cohort, cohort.select(split=split, site=site), x, PROBES[task]) for split in ("train", "validate"))
    for name, split in (("train", train), ("validate", validate)):
        if len(split[0]) == 0:
            expected = "images with labels (table columns split and the 14 labels)"
            raise errors.DataError(errors.describe("nothing to fit the probe on", f"split {name!r} of the cohort", expected, "none"))
    fitted = probe.fit_probe(
        train=train, validate=validate, label_names=schema.LABELS, l2_grid=config.probe.l2_grid, max_iterations=config.probe.max_iterations
    )
    results = {}
    for chosen in sets:
        test, studies = _split(cohort, chosen.selection, x, PROBES[task]), PROBES[task](cohort, chosen.selection)[1]
        given = {"task": task.replace("_", " "), "features": features, **_draws(config)}
        results[chosen.name] = probe.evaluate(fitted, test=test, patient_test=cohort.study_patient[studies], **given)
    return results


def zero_shots(
    config: config_lib.RunConfig, cohort: schema.Cohort, sets: list[context.EvaluationSet], images: RowSource, prompted: np.ndarray, arm: str
) -> dict[str, macro.MacroResult]:
    """Returns zero-shot AUROC of unit `images` [I, D] on every evaluation set by name; `prompted` [P, D] as `utility_prompts.embeddings`."""
    results = {}
    for chosen in sets:
        rows, studies = of_images(cohort, chosen.selection)
        y, known = probe.targets(cohort.study_labels[studies], cohort.study_has_labels[studies])
        patients = cohort.study_patient[studies]
        results[chosen.name] = zero_shot.evaluate(
            select(images, rows), prompted, prompts.rows(), y, known, patients, schema.LABELS, features=arm, **_draws(config)
        )
    return results


def retrievals(
    config: config_lib.RunConfig, cohort: schema.Cohort, sets: list[context.EvaluationSet], images: RowSource, texts: RowSource
) -> dict[str, dict[str, Any]]:
    """Returns label-level retrieval of unit `images` [I, D] among the reports of each evaluation set, `texts` [U, D], by name."""
    results = {}
    for chosen in sets:
        rows, owners = of_images(cohort, chosen.selection)
        studies = chosen.selection.studies
        distinct, text = np.unique(cohort.study_text[studies], return_inverse=True)
        code = strata.label_codes(cohort.study_labels[studies], cohort.study_has_labels[studies], config.audit.label_policy)
        candidates = label_retrieval.Studies(text, cohort.study_patient[studies], code, cohort.study_labels[studies] == 1)
        results[chosen.name] = label_retrieval.label_retrieval(
            select(images, rows), select(texts, distinct), np.searchsorted(studies, owners), candidates, most=config.probe.retrieval_queries, **_draws(config)
        )
    return results


def _draws(config: config_lib.RunConfig) -> dict[str, Any]:
    """Returns how every interval is drawn, so that arms and tasks share their patients."""
    return {"bootstrap_replicates": config.probe.bootstrap_replicates, "level": config.audit.level, "seed": config.audit.seed}


def _split(cohort: schema.Cohort, chosen: schema.Selection, x: RowSource, rows_of: Rows) -> probe.Split:
    rows, studies = rows_of(cohort, chosen)
    y, known = probe.targets(cohort.study_labels[studies], cohort.study_has_labels[studies])
    return x[rows], y, known
