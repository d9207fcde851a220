"""Sampled candidate pools: a cross-check of the closed forms that shares no formula with them.

Each query of each repeat draws its own N - 1 negatives without replacement; the numbers of greater and tied ones among them
are multivariate hypergeometric, and ties are broken uniformly. Independent draws make the variance of the mean
sum p(1-p) / (n^2 R).
"""

import numpy as np

from relink_jax.retrieval.counted import StratumCounts


def recall(counted: StratumCounts, pool_size: int, k: int, repeats: int, generator: np.random.Generator) -> float:
    """Returns the mean Recall@k over queries and `repeats` sampled pools of `pool_size`.

    Args: counted: M, g, t [Q] with M >= pool_size - 1.
    """
    M, g, t = counted.M, counted.g, counted.t
    hits = 0
    for _ in range(repeats):
        greater = generator.hypergeometric(g, M - g, pool_size - 1)
        tied = generator.hypergeometric(t, M - g - t, pool_size - 1 - greater)
        hits += int((greater + generator.integers(0, tied + 1) < k).sum())
    return hits / (repeats * len(M))


def z_score(sampled: float, expected: np.ndarray, repeats: int) -> float:
    """Returns (sampled mean - exact mean) in standard errors, 0 when both are certain; `expected`: hit probability per query [Q].

    A certain outcome that was not sampled gives infinity.
    """
    error = float(np.sqrt((expected * (1 - expected)).clip(0).sum() / repeats)) / len(expected)
    difference = sampled - float(expected.mean())
    if abs(difference) < 1e-12:
        return 0.0
    return difference / error if error > 1e-12 else float(np.copysign(np.inf, difference))
