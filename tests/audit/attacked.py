"""Targets with planted structure, and how often an attack links them, by brute force and by the counting pass."""

import numpy as np

from relink_jax.audit import inputs
from relink_jax.audit.attacks import base
from relink_jax.retrieval import counts, expectation
from relink_jax.retrieval.counted import Records
from relink_jax.runtime import mesh as meshes

N, DIM = 240, 12


def people(images, texts, image_study=None, patient=None):
    """Returns inputs whose rows are taken as they are: one image and one patient for each study unless told otherwise."""
    image_study = np.arange(len(images)) if image_study is None else image_study
    patient = np.arange(len(texts)) if patient is None else patient
    return inputs.prepare(images=images, texts=texts, image_study=image_study, text_study=range(len(texts)), patient=list(patient), normalize=False)


def planted(seed=0, hub=0.0, noise=0.35, n=N, dim=DIM, each=1):
    """Returns people whose images are their reports and noise; `hub` adds a number of its own to all scores of each report, through a dimension."""
    generator = np.random.default_rng(seed)
    texts = generator.standard_normal((n, dim))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    study = np.repeat(np.arange(n), each)
    images = texts[study] + noise * generator.standard_normal((n * each, dim))
    lift = hub * generator.standard_normal(n)
    return people(np.column_stack([images, np.ones(len(images))]), np.column_stack([texts, lift]), study)


def target(audited, auxiliary=None, **more):
    return base.Target(audited, planted(seed=99) if auxiliary is None else auxiliary, meshes.make_mesh(1), **more)


def scores(space):
    return np.asarray(space.images[:], np.float64) @ np.asarray(space.texts[:], np.float64).T


def counted(space, audited):
    """Returns Recall@1 of each image in the full pool of other patients, by the counting pass."""
    records = Records(space.images, audited.image_study, space.texts, audited.study_text, audited.study_patient, {})
    found = counts.count(records, mesh=meshes.make_mesh(1), top_k=0, directions=("i2r",))["i2r"].strata["other_patient"]
    return expectation.pool_metrics(found.M, found.g, found.t, None, (1,))["recall@1"].expected


def recall(space, audited):
    """Returns the same in float64 by brute force."""
    every = scores(space)[:, audited.study_text]
    own = every[np.arange(len(every)), audited.image_study][:, None]
    rival = audited.study_patient[audited.image_study][:, None] != audited.study_patient
    above, tied = (rival & (every > own)).sum(axis=1), (rival & (every == own)).sum(axis=1)
    return (above == 0) / (tied + 1)
