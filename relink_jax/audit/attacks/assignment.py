"""Exact assignment: every study's images belong to one report and every report to one study, so the attacker takes the best pairing of all.

The pairing is turned into prices of reports: with optimal prices p no study gains more, score less price, from another report than from
its own, so ranking by s - p agrees with the pairing and still orders everything else. Optimal prices are seldom unique, and those that shortest
paths from one report give have ties all along these paths; so the mean over all reports is taken, of paths from them and to them.

The greatest total is not the greatest number of right links: where most links are wrong, this may find fewer of them than plain cosine.

Source: Kuhn (1955), Naval Research Logistics Quarterly 2, 83-97; prices as dual variables and shortest paths, Ahuja, Magnanti and Orlin
(1993), Network Flows, section 12.4.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from scipy import optimize
from scipy.sparse import csgraph

from relink_jax import errors
from relink_jax.audit.attacks import base, fusion

_ROOTS = 32  # columns that prices are taken against
_SWEEPS = 30  # moves of all prices away from their bounds
_ROUNDING = 1e-13  # of the greatest loss, below which prices no longer move


@dataclasses.dataclass(frozen=True)
class Assignment:
    """The pairing of studies' images with studies' reports of the greatest total, where a study scores the mean of its images' scores.

    Attributes:
        most: studies that it is tried for; time grows with their cube.
    """

    most: int = 2000

    name: ClassVar[str] = "assignment"
    family: ClassVar[str] = base.ASSIGNMENT
    bank: ClassVar[str | None] = base.TRANSDUCTIVE
    pairs: ClassVar[int | None] = None

    def why_not(self, target: base.Target) -> str | None:
        """Returns why it cannot be tried, None where it can."""
        n = len(target.inputs.study_text)
        return None if n <= self.most else f"exact assignment is tried up to {self.most:,} studies, and there are {n:,}"

    def space(self, target: base.Target) -> base.Space:
        """Returns every image's s - p; equal reports have equal prices.

        Raises: UsageError: more studies than `most`.
        """
        inputs = target.inputs
        if self.why_not(target):
            raise errors.UsageError(errors.describe("studies", "exact assignment", f"at most {self.most:,}", f"{len(inputs.study_text):,}"))
        means, _ = fusion.study_means(inputs.images, inputs.image_study)
        texts = np.asarray(inputs.texts[:], np.float64)
        scores = (means.astype(np.float64) @ texts.T)[:, inputs.study_text]
        shared = np.bincount(inputs.study_text, prices(scores)) / np.bincount(inputs.study_text)
        made = base.adjusted(inputs.images, inputs.texts, np.ones(len(shared)), -shared)
        return base.Space(*made, passes=1.0, params={"studies": len(inputs.study_text)})

    def variants(self, target: base.Target) -> Sequence[base.Attack]:
        """Returns itself."""
        return (self,)


def prices(scores: np.ndarray) -> np.ndarray:
    """Returns prices p of columns, float64 [S], for which the best assignment of all rows is every row's best choice by score - p.

    The mean of the prices that are highest, and of those that are lowest, against some columns in turn, moved inward from whatever bounds it
    still touches; a second best choice then ties with the best only where another assignment is as good. Columns that stay free cost 0 and no
    column costs less; where none is free, prices have mean 0.
    A number that is added to a column's scores is added to its price, up to that mean.

    Args: scores: float64 [G, S], G <= S.
    """
    row, column = optimize.linear_sum_assignment(scores, maximize=True)
    loss = scores[row, column][:, None] - scores[row]
    lowest = _lowest(loss, column)
    n = scores.shape[1]
    free = np.setdiff1d(np.arange(n), column)
    length = np.full((n + 1, n + 1), np.inf)  # of an edge j -> k: p_k - p_j is at most this much above what it is for the lowest prices
    length[:n, column] = np.maximum(loss.T + lowest[:, None] - lowest[column], 0)
    if len(free):
        length[:n, n], length[n, free] = lowest, 0.0
    else:
        length = length[:n, :n]
    np.fill_diagonal(length, 0.0)
    ahead, behind = (csgraph.csgraph_from_dense(one, null_value=np.inf) for one in (length, length.T))  # in which a length of 0 is an edge
    near = np.argsort(np.where(np.isfinite(length), length, 0.0).sum(axis=0), kind="stable")  # in an order that neither rows nor numbers decide
    roots = near[np.unique(np.linspace(0, len(near) - 1, min(_ROOTS, len(near))).astype(np.int64))]
    reach = [csgraph.dijkstra(graph, indices=roots).mean(axis=0) for graph in (ahead, behind)]
    middle = np.append(lowest, 0.0)[: len(length)] + _inside(length, (reach[0] - reach[1]) / 2)
    return middle[:n] - (middle[n] if len(free) else middle.mean())


def _inside(length: np.ndarray, potential: np.ndarray) -> np.ndarray:
    """Returns potentials [n] whose differences p_k - p_j stay within `length` [n, n], away from it where they can be.

    Every potential moves by a quarter of how much further it may rise than fall; two that move towards their common bound together use half of what
    is left, so no bound is ever crossed.
    """
    for _ in range(_SWEEPS):
        left = length - (potential - potential[:, None])
        np.fill_diagonal(left, np.inf)
        rise, fall = (np.where(np.isfinite(least), least, 0.0) for least in (left.min(axis=0), left.min(axis=1)))
        potential = potential + (rise - fall) / 4
    return potential


def _lowest(loss: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Returns the lowest optimal prices that are 0 or more, float64 [S]: longest paths of losses [G, S] from columns that rows are assigned."""
    found = np.zeros(loss.shape[1])
    least = _ROUNDING * float(loss.max(initial=0.0))
    for _ in range(len(found)):
        raised = np.maximum(found, (found[column][:, None] - loss).max(axis=0))
        moved, found = (raised - found).max(), raised
        if moved <= least:
            break
    return found
