"""Zero-shot AUROC: how well an image's similarity to prompts for and against a finding orders images by that finding.

A label's score is cos(image, prompts for it) - cos(image, prompts against it). The softmax of the two cosines at any positive
temperature is a rising function of that difference, so AUROC is the same for both. Several prompts are averaged as unit embeddings and
scaled to unit norm again. Nothing is fitted, so unlike a probe it sees damage to the alignment of images and texts.

References: Tiu et al. (2022), Nat. Biomed. Eng. 6, 1399-1406 (CheXzero: a prompt and its negation); Radford et al. (2021),
arXiv 2103.00020, section 3.1.4 (prompts averaged as embeddings).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.store.rows import RowSource, blocks
from relink_jax.utility import macro


def prototypes(embeddings: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns float64 unit vectors [G, D], the direction of the mean of each group of unit prompt embeddings [P, D]; their order has no part in it.

    Args: groups: numbers of the prompts of each of G groups.
    Raises: DataError: prompts that cancel each other out, or are not finite.
    """
    means = np.stack([np.asarray(embeddings, np.float64)[list(group)].mean(axis=0) for group in groups])
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms < 1e-9).any():
        raise errors.DataError(errors.describe("prompt embeddings", "zero-shot", "finite vectors whose mean has a direction", "others"))
    return means / norms


def scores(images: RowSource, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Returns float64 [n, L] in [-2, 2], cos(image, positive) - cos(image, negative), of unit images [n, D] and prototypes [L, D]."""
    direction = (positive - negative).T
    return np.concatenate([np.asarray(images[part], np.float64) @ direction for part in blocks(images)])


def evaluate(
    images: RowSource, prompts: np.ndarray, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], y: np.ndarray, known: np.ndarray, patients: np.ndarray,
    label_names: Sequence[str], **settings: Any
) -> macro.MacroResult:  # fmt: skip
    """Returns macro AUROC of unit `images` [n, D] against `y`, `known` bool [n, L], whose rows belong to `patients` [n].

    Args:
        prompts: unit prompt embeddings [P, D]. pairs: for each label, the numbers of the prompts for it and against it.
        settings: features, bootstrap_replicates, level, seed and min_class_count of `macro.score`; with those of a probe they share its draws.
    Raises: DataError: see `prototypes` and `macro.score`.
    """
    found = scores(images, prototypes(prompts, [pair[0] for pair in pairs]), prototypes(prompts, [pair[1] for pair in pairs]))
    details = {"l2": {}, "n_prompts": len(prompts)}
    return macro.score(found, y, known, patients, label_names, task="zero-shot", details=details, **settings)
