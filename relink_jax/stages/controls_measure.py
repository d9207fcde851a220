"""What one condition's embeddings still give away, and what they are still good for.

Linkage is Recall@1 in pools of one size, exact, of two attackers: plain cosine, and one who re-fits the space on other people's pairs
(`audit.refit`). It is counted for held-out people and for those trained on, in one pass: each (people, attacker) is a database of its own,
told apart by the stratum of the counting pass. Utility is macro AUROC on held-out images, zero-shot against public prototypes and by a
linear probe.
"""

from typing import Any

import numpy as np

from relink_jax.audit import inputs as inputs_lib
from relink_jax.audit import refit
from relink_jax.cohort import schema
from relink_jax.config import ProbeConfig
from relink_jax.privacy.output_changes import Embeddings, unit
from relink_jax.retrieval import counts, expectation
from relink_jax.retrieval.counted import I2R, Records
from relink_jax.runtime import mesh as meshes
from relink_jax.stages.controls_setting import Database, Setting
from relink_jax.utility import auroc, probe

LINKAGE = ("raw", "refit", "members_raw", "members_refit")
MEASURES = (*LINKAGE, "zero_shot", "probe")
_LEAST_CLASS = 5  # positives and negatives that a label needs, as the probe has it
_DATABASE = "database"


def measure(setting: Setting, rows: Embeddings, mesh: meshes.Mesh, settings: ProbeConfig | None) -> dict[str, float | None]:
    """Returns every one of `MEASURES` of one condition's embeddings; the probe's is None when no settings are given."""
    found: dict[str, float | None] = dict(zip(LINKAGE, recalls(setting, rows, mesh), strict=True))
    found["zero_shot"] = zero_shot(rows, setting.findings, setting.heldout)
    found["probe"] = None if settings is None else _probe(setting, rows.images, settings)
    return found


def recalls(setting: Setting, rows: Embeddings, mesh: meshes.Mesh) -> list[float]:
    """Returns mean Recall@1 in pools of `setting.pool` in the order of `LINKAGE`, in [0, 1]."""
    held, members, aside = setting.heldout, setting.members, setting.auxiliary
    attacker = refit.fit(rows.images[aside.images], rows.texts[aside.text[aside.study]], aside.patient[aside.study])
    again = Embeddings(unit(attacker.images(rows.images)), unit(attacker.texts(rows.texts)), rows.anchors)
    cases = [(held, rows), (held, again), (members, rows), (members, again)]
    first = np.cumsum([0, *(len(people.patient) for people, _ in cases)])
    study = np.concatenate([start + people.study for start, (people, _) in zip(first, cases, strict=False)])
    prepared = inputs_lib.prepare(
        images=np.concatenate([those.images[people.images] for people, those in cases]),
        texts=np.concatenate([those.texts[people.text] for people, those in cases]),
        image_study=study.tolist(),
        text_study=list(range(first[-1])),
        patient=np.concatenate([people.patient for people, _ in cases]).tolist(),
    )
    database = np.repeat(np.arange(len(cases), dtype=np.int32), np.diff(first))
    records = Records(prepared.images, prepared.image_study, prepared.texts, prepared.study_text, prepared.study_patient, {_DATABASE: database})
    counted = counts.count(records, mesh=mesh, top_k=0, directions=(I2R,))[I2R].strata[_DATABASE]
    hits = expectation.pool_metrics(counted.M, counted.g, counted.t, setting.pool, [1])["recall@1"].expected
    return [float(hits[database[study] == number].mean()) for number in range(len(cases))]


def zero_shot(rows: Embeddings, findings: np.ndarray, people: Database) -> float | None:
    """Returns macro AUROC of the cosine between an image and a finding's prototype, the mean of the public anchors that state it.

    Labels without an anchor, or with fewer than 5 positive or negative images, are left out; None when none is left.
    """
    values = []
    for label in np.flatnonzero(findings.any(axis=0)):
        known = people.known[:, label]
        positive = people.y[known, label]
        if min(positive.sum(), (~positive).sum()) >= _LEAST_CLASS:
            prototype = unit(rows.anchors[findings[:, label]].mean(axis=0, keepdims=True))[0]
            values.append(auroc.auroc(rows.images[people.images[known]] @ prototype, positive))
    return float(np.mean(values)) if values else None  # type: ignore[arg-type]


def _probe(setting: Setting, images: np.ndarray, settings: ProbeConfig) -> float | None:
    """Returns macro AUROC of a linear probe fitted on training people, its strength chosen on the attacker's, scored on held-out ones."""
    splits: list[Any] = [(images[people.images], people.y, people.known) for people in (setting.members, setting.auxiliary, setting.heldout)]
    fitted = probe.fit_probe(train=splits[0], validate=splits[1], label_names=schema.LABELS, l2_grid=settings.l2_grid, max_iterations=settings.max_iterations)
    owner = setting.heldout.patient[setting.heldout.study]
    return probe.evaluate(fitted, test=splits[2], patient_test=owner, bootstrap_replicates=2, min_class_count=_LEAST_CLASS).macro_auroc
