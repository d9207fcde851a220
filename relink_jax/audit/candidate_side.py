"""Intervals of Recall@k for new queries *and* new candidates: a delete-group jackknife over blocks of patients.

All queries search one database, so a few reports that score high with everybody (hubs) move all hits together. The patient bootstrap
keeps the database fixed and does not see this. Here every block of patients is left out once, with its queries and its reports, and the
spread of what remains gives the variance (J - 1)/J sum (theta_b - mean)^2, with Student's t at J - 1 degrees of freedom. The counting
pass counts candidates by block, so nothing is searched again.

The interval is taken on the scale of log odds, which is the log scale where Recall is small, and never leaves [0, 1]. A full pool is smaller
by the block that is left out, which moves all theta_b alike and their spread hardly.

Design note: blocks are drawn, not balanced by studies or by anything else: balancing takes out of the blocks a spread that new patients do have.

References: Shao and Wu (1989), "A general theory for jackknife variance estimation", for deleting groups.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from relink_jax import errors
from relink_jax.audit import uncertainty
from relink_jax.retrieval import expectation

BLOCKS = 32
_FEWEST = 2  # patients in a block
_NEGLIGIBLE = 120.0


def assign(patient: np.ndarray, blocks: int = BLOCKS, seed: int = 0) -> np.ndarray | None:
    """Returns the block of each study, int32 [S], for `Records.block`: patients dealt at random into blocks whose numbers differ by at most one.

    The same patient numbers and seed give the same blocks, whatever the rows hold and whichever model embedded them.

    Args:
        patient: patient number of each study [S], 0 .. P - 1.
        blocks: J; as many as leave two patients in each when there are few.
    Returns: None where there are too few patients for two blocks.
    """
    n_patients = int(np.max(patient, initial=-1)) + 1
    held = min(blocks, n_patients // _FEWEST)
    if held < 2:
        return None
    dealt = np.random.default_rng([seed, n_patients, held]).permutation(n_patients) % held
    return dealt.astype(np.int32)[patient]


def interval(
    M: np.ndarray, g: np.ndarray, t: np.ndarray, M_b: Any, g_b: Any, t_b: Any, block_of_query: np.ndarray, pool_size: int | None, k: int, level: float
) -> dict[str, Any] | None:
    """Returns what `intervals` does of one k."""
    return intervals(M, g, t, M_b, g_b, t_b, block_of_query, pool_size, [k], level)[0]


def intervals(
    M: np.ndarray, g: np.ndarray, t: np.ndarray, M_b: Any, g_b: Any, t_b: Any, block_of_query: np.ndarray, pool_size: int | None, ks: Sequence[int],
    level: float
) -> list[dict[str, Any] | None]:  # fmt: skip
    """Returns {'method', 'level', 'low', 'high', 'se', 'blocks'} of mean Recall@k for each k.

    None where there is no interval: none or all are linked, nothing varies between blocks, or a query that stays has no pool of that size left.

    Args: as in `left_out`; level: of confidence, in (0, 1).
    """
    without = left_out(M, g, t, M_b, g_b, t_b, block_of_query, pool_size, ks)
    if without is None:
        return [None] * len(ks)
    found = _recalls(np.asarray(M, np.int64), np.asarray(g, np.int64), np.asarray(t, np.int64), pool_size, ks)
    return [_interval(float(value), column, level) for value, column in zip(found, without.T, strict=True)]


def left_out(
    M: np.ndarray, g: np.ndarray, t: np.ndarray, M_b: Any, g_b: Any, t_b: Any, block_of_query: np.ndarray, pool_size: int | None, ks: Sequence[int]
) -> np.ndarray | None:  # fmt: skip
    """Returns mean Recall@k without the queries and candidates of each block, float64 [J, len(ks)].

    Args:
        M, g, t: counts of the eligible queries, integers [Q].
        M_b, g_b, t_b: the same by block of the candidates, [J, Q] or J arrays [Q]; they add up to the totals.
        block_of_query: [Q], block of each query's patient, 0 .. J - 1.
        pool_size: N, the truth included; None for the full pool, what is left of it.
    Returns: None where a query that stays has fewer than N - 1 candidates left, or no query stays.
    Raises: DataError: shapes that do not agree, blocks that do not add up.
    """
    total = [np.asarray(one, np.int64) for one in (M, g, t)]
    parts = [[np.asarray(row) for row in one] for one in (M_b, g_b, t_b)]
    owner = np.asarray(block_of_query)
    _check(total, parts, owner)
    rows = []
    for block in range(len(parts[0])):
        stays = np.flatnonzero(owner != block)
        left = [whole[stays] - part[block][stays] for whole, part in zip(total, parts, strict=True)]
        if not len(stays) or left[0].min() < max(1, (pool_size or 2) - 1):
            return None
        rows.append(_recalls(left[0], left[1], left[2], pool_size, ks))
    return np.array(rows)


def _check(total: list[np.ndarray], parts: list[list[np.ndarray]], owner: np.ndarray) -> None:
    blocks, shape = len(parts[0]), total[0].shape
    if blocks < 2 or any(len(part) != blocks for part in parts) or any(one.shape != shape for one in (*total, owner, *(row for part in parts for row in part))):
        raise errors.DataError(errors.describe("shapes differ", "block counts", "M, g and t of every query in each of two or more blocks", f"{blocks} blocks"))
    if any((sum(part, np.zeros(shape, np.int64)) != whole).any() for whole, part in zip(total, parts, strict=True)):
        raise errors.DataError(errors.describe("counts", "block counts", "blocks that add up to the whole database", "a query where they do not"))


def _recalls(M: np.ndarray, g: np.ndarray, t: np.ndarray, pool_size: int | None, ks: Sequence[int]) -> np.ndarray:
    """Returns mean expected Recall@k of every k, float64 [len(ks)].

    The full pool needs no law. Where so many negatives are above the truth that Recall is below exp(-60), it counts as 0: a pool of N holds
    mu = (N-1) g/M of them on average, and fewer than k with probability at most exp(-(mu - k)^2 / (2 mu)), whose exponent is at least mu/2 - k.
    """
    if pool_size is None:
        return np.array([(np.clip(k - g, 0, t + 1) / (t + 1)).mean() for k in ks])
    near = np.flatnonzero((pool_size - 1) * (g / M) <= 2 * max(ks) + _NEGLIGIBLE)
    if not len(near):
        return np.zeros(len(ks))
    found = expectation.pool_metrics(M[near], g[near], t[near], pool_size, ks)
    return np.array([found[f"recall@{k}"].expected.sum() / len(M) for k in ks])


def _interval(value: float, without: np.ndarray, level: float) -> dict[str, Any] | None:
    blocks = len(without)
    se = float(np.sqrt((blocks - 1) / blocks * ((without - without.mean()) ** 2).sum()))
    if not 0 < value < 1 or se <= 1e-12 * value:
        return None
    low, high = uncertainty.on_log_odds(np.array(value), special.stdtrit(blocks - 1, (1 + level) / 2) * se)
    return {"method": "two_sided_jackknife", "level": level, "low": float(low), "high": float(high), "se": se, "blocks": blocks}
