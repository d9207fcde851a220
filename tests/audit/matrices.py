"""Worked score matrices, and audits of a score matrix as a whole."""

import numpy as np
import pytest

from relink_jax.audit import inputs, run
from relink_jax.runtime import mesh as meshes

O1 = np.array([[9, 5, 4, 3, 3], [6, 6, 2, 1, 1], [7, 3, 5, 5, 5], [8, 2, 1, 7, 7], [4, 9, 3, 6, 6]])
O7_LABELS = np.array([{"a": (1, 0), "b": (0, 1), "c": (0, 0)}[code] for code in "aababc"])
O7 = np.array([[5, 4, 9, 3, 2, 1], [6, 5, 1, 4, 3, 2], [7, 1, 6, 2, 8, 3], [3, 9, 8, 5, 7, 1], [1, 2, 6, 3, 5, 9], [2, 3, 4, 5, 6, 7]])


def audited(scores, patient, labels=None, image_study=None, ks=(1, 2), pool_sizes=(2,), **options):
    """Audits a score matrix [images, studies]: images are its distinct columns, texts are unit vectors; fewer than 14 labels are filled up with 0."""
    scores = np.asarray(scores)
    _, first, text = np.unique(scores, axis=1, return_index=True, return_inverse=True)
    image_study = np.arange(len(scores)) if image_study is None else image_study
    prepared = inputs.prepare(
        images=scores[:, first],
        texts=np.eye(len(first))[text.ravel()],
        image_study=image_study,
        text_study=range(scores.shape[1]),
        patient=list(patient),
        labels=None if labels is None else np.pad(np.asarray(labels, float), ((0, 0), (0, 14 - np.shape(labels)[1]))),
        normalize=False,
    )
    return run.audit_inputs(prepared, mesh=meshes.make_mesh(1), ks=ks, pool_sizes=pool_sizes, top_k=2, bootstrap_replicates=100, **options)


def integers(result, direction="i2r", stratum="other_patient"):
    counted = result.counts[direction, stratum]
    return list(zip(*(counted[name].tolist() for name in "gtM"), strict=True))


def close(entry, *wanted):
    for name, want in zip(("value", "optimistic", "pessimistic"), wanted, strict=False):
        assert entry[name] == pytest.approx(float(want), abs=1e-13)
