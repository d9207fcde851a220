"""A small random cohort as a user would pass it."""

import numpy as np


def cohort(n_studies=60, n_images=80, n_patients=30, dim=8, seed=0, noise=1.0):
    """Returns keyword arguments of `relink_jax.audit`: string ids, shared texts, labels with blanks, unlabelled studies."""
    generator = np.random.default_rng(seed)
    texts = generator.standard_normal((n_studies, dim))
    texts[generator.integers(0, n_studies, n_studies // 6)] = texts[0]
    study = np.array([f"s{number:03d}" for number in generator.permutation(n_studies)])
    rows = generator.integers(0, n_studies, n_images)
    labels = np.where(generator.random((n_studies, 14)) < 0.9, np.nan, generator.integers(-1, 2, (n_studies, 14)))
    labels[:, 0] = 1
    labels[:, 2:] = np.nan
    labels[:5] = np.nan
    return {
        "images": texts[rows] + noise * generator.standard_normal((n_images, dim)),
        "texts": texts,
        "image_study": study[rows],
        "text_study": study,
        "patient": [f"p{number}" for number in generator.integers(0, n_patients, n_studies)],
        "labels": labels,
    }
