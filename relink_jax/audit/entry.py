"""The audit as one call on arrays and ids: `relink_jax.audit(...)`. Needs no encoder, torch or transformers."""

import inspect
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.audit import inputs as audit_inputs
from relink_jax.audit import run
from relink_jax.audit.result import AuditResult
from relink_jax.runtime import mesh as meshes


def audit(
    *,
    images: Any,
    texts: Any,
    image_study: Sequence[Hashable],
    text_study: Sequence[Hashable],
    patient: Sequence[Hashable],
    labels: Any = None,
    image_patient: Sequence[Hashable] | None = None,
    image_id: Sequence[Hashable] | None = None,
    study_exposure: Any = None,
    study_facts: Mapping[str, Any] | None = None,
    normalize: bool = True,
    keep_ids: bool = False,
    mesh: Any = None,
    **options: Any,
) -> AuditResult:
    """Measures how well images can be linked to their reports, and reports to their images, by embedding similarity.

    Args:
        images: [Q, D] image embeddings; texts: [S, D] report embeddings, one row per study.
        image_study: [Q] study id of each image; text_study: [S] study id of each report; patient: [S] patient id of each
            report. Ids may be any hashable values; rows are joined by id, never by position.
        labels: [S, 14] CheXpert states 1, 0, -1 (uncertain), NaN, None or -2 (blank); a row all NaN has no labels. Enables
            the label-matched strata.
        image_patient, image_id, study_exposure, study_facts, normalize, keep_ids: see `relink_jax.audit.inputs.prepare`.
        mesh: device mesh (`relink_jax.runtime.mesh.make_mesh`); default, all devices.
        **options: ks, pool_sizes, top_k, label_policy, same_patient, bootstrap_replicates, level, mc_repeats, precision,
            split, query_block, tile, panel, memory, seed: see `relink_jax.audit.run.audit_inputs`. Unless given, ks and pool sizes are those of 1, 5, 10 and of
            10, 100, 1000, 10000 that fit.
    Returns: an `AuditResult` with `.recall(k, pool_size)`, `.table()`, `.counts`, `.metrics` and `.save(path)`.
    Raises: DataError, UsageError: one sentence that says what is wrong, where, what was expected and what was found.

    Example:
        >>> import numpy as np, relink_jax
        >>> shared = np.random.default_rng(0).normal(size=(50, 8))
        >>> result = relink_jax.audit(images=shared, texts=shared, image_study=range(50), text_study=range(50), patient=range(50))
        >>> result.recall(1, 10)
        1.0
    """
    known = [name for name in inspect.signature(run.audit_inputs).parameters if name not in ("inputs", "mesh")]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise errors.UsageError(
            errors.describe("unknown option", "relink_jax.audit", f"one of {', '.join(known)}", repr(unknown[0]))
            + errors.suggest(unknown[0], [*known, *inspect.signature(audit).parameters])
        )
    inputs = audit_inputs.prepare(
        images=images,
        texts=texts,
        image_study=image_study,
        text_study=text_study,
        patient=patient,
        labels=labels,
        image_patient=image_patient,
        image_id=image_id,
        study_exposure=study_exposure,
        study_facts=study_facts,
        normalize=normalize,
        keep_ids=keep_ids,
    )
    largest = run.largest_pool(inputs, options.get("same_patient", "exclude"))
    fitting = {"ks": [k for k in run.KS if k <= largest], "pool_sizes": [n for n in run.POOL_SIZES if n <= largest] or [2]}
    return run.audit_inputs(inputs, mesh=meshes.make_mesh() if mesh is None else mesh, **{**fitting, **options})
