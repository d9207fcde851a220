"""Top lists of groups, expanded on the host to top lists of members (studies or images).

The device keeps, per query, the k best *groups* (score descending, group ascending). Groups are numbered by their lowest
member, so each group before another contributes at least one member that precedes all of the other's; hence the k best
members lie in the k best groups.
"""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class GroupTop:
    """Best groups per distinct query row: float32 scores and int32 group numbers, [n, k], -1 beyond the database."""

    score: np.ndarray
    group: np.ndarray

    def fill(self, query: np.ndarray, lead: np.ndarray, score: Any, group: Any) -> None:
        """Stores rows [m, k] for the distinct queries [m] where `lead` holds."""
        self.score[query[lead]], self.group[query[lead]] = np.asarray(score)[lead], np.asarray(group)[lead]


def empty(n: int, k: int) -> GroupTop:
    """Returns lists of n distinct queries before anything was seen."""
    return GroupTop(np.full((n, k), -np.inf, np.float32), np.full((n, k), -1, np.int32))


def expand(top: GroupTop, member_group: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (member numbers int32 [n, k], scores float32 [n, k]): score descending, member ascending, -1 and -inf past the end.

    Args: member_group: group number of every member; every group has at least one.
    """
    ids, scores = np.full(top.group.shape, -1, np.int32), np.full(top.score.shape, -np.inf, np.float32)
    if not k:
        return ids, scores
    sizes = np.bincount(member_group)
    width = min(k, int(sizes.max()))
    order = np.argsort(member_group, kind="stable")
    places = (np.cumsum(sizes) - sizes)[:, None] + np.arange(width)
    members = np.where(np.arange(width) < sizes[:, None], order[np.minimum(places, len(order) - 1)], len(order))
    chunk = max(1, 2_000_000 // (k * width))
    for start in range(0, len(ids), chunk):
        rows = slice(start, start + chunk)
        known = np.isfinite(top.score[rows])
        found = np.where(known[:, :, None], members[np.maximum(top.group[rows], 0)], len(order)).reshape(known.shape[0], -1)
        score = np.repeat(np.where(known, top.score[rows], -np.inf), width, axis=1)
        score = np.where(found < len(order), score, -np.inf)
        best = np.lexsort((found, -score), axis=1)[:, :k]
        best_score = np.take_along_axis(score, best, axis=1)
        ids[rows] = np.where(np.isfinite(best_score), np.take_along_axis(found, best, axis=1), -1)
        scores[rows] = best_score
    return ids, scores
