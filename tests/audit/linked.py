"""Planted cohorts whose images tell their reports, or not, and what an attacker's vectors then link, counted by hand."""

import numpy as np

from relink_jax.audit import inputs
from relink_jax.audit.attacks import base
from relink_jax.retrieval import expectation
from relink_jax.retrieval.counted import StratumCounts
from relink_jax.runtime import mesh as meshes

D = 24


def cohort(images, texts, per_patient=2, labels=None):
    """Returns audit inputs of studies with one image each, row by row."""
    n = len(texts)
    return inputs.prepare(
        images=images, texts=texts, image_study=range(n), text_study=range(n), patient=[row // per_patient for row in range(n)], labels=labels
    )


def rows(generator, n, noise=0.4, dim=D):
    """Returns images and reports [n, dim] that share a vector and differ by noise."""
    shared = generator.standard_normal((n, dim))
    return shared + noise * generator.standard_normal((n, dim)), shared + noise * generator.standard_normal((n, dim))


def target(audited, auxiliary, **more):
    """Returns a target of two pairs of images and reports."""
    return base.Target(cohort(*audited), cohort(*auxiliary), meshes.make_mesh(1), **more)


def counted(people, images, texts, study_text=None, codes=None):
    """Returns M, g, t of other patients' studies, of one code where codes are given, from all scores."""
    study_text = people.study_text if study_text is None else study_text
    scores = np.asarray(images[:], np.float32) @ np.asarray(texts[:], np.float32).T
    scores = scores[:, study_text]
    own = scores[np.arange(len(scores)), people.image_study]
    others = people.study_patient[people.image_study][:, None] != people.study_patient[None]
    if codes is not None:
        asked = codes[people.image_study]
        others &= (asked[:, None] == codes[None]) & (asked[:, None] >= 0)
    alike = study_text[people.image_study][:, None] == study_text[None]
    tied = alike | (scores == own[:, None])
    return StratumCounts(others.sum(axis=1), ((scores > own[:, None]) & ~tied & others).sum(axis=1), (tied & others).sum(axis=1))


def hits(people, space, size):
    """Returns expected Recall@1 of each query in pools of `size`."""
    found = counted(people, space.images, space.texts, getattr(space, "study_text", None))
    return expectation.pool_metrics(found.M, found.g, found.t, size, [1])["recall@1"].expected


def recall(people, space, size=50):
    """Returns mean Recall@1 in pools of `size`."""
    return float(hits(people, space, size).mean())


def apart(people, space, size=50):
    """Returns how many patient-clustered standard errors Recall@1 lies from chance, 0 where every query is at chance."""
    patient = people.study_patient[people.image_study]
    sums = np.bincount(patient, hits(people, space, size) - 1 / size)
    return float(sums.sum() / max(np.sqrt(np.sum(sums**2)), 1e-9))


def turn(generator, dim=D):
    """Returns a random rotation."""
    return np.linalg.qr(generator.standard_normal((dim, dim)))[0]
