"""Pools of the nearest label codes: what linkage is left when every query meets the reports that its labels tell least apart.

A pool restricted to a query's own label code exists only where enough studies share it, which leaves out all rare findings. Here every query
stays: the pool takes the nearest tiers whole, one after another, and draws what is missing from the next. Tiers of a query's candidates are
the same label code, then a Jaccard index of the sets of positive labels of at least one half (two empty sets have 1), then all others.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from relink_jax.audit import strata
from relink_jax.audit.sample import Sample
from relink_jax.retrieval import expectation, resume, tiered, tiers
from relink_jax.retrieval.counted import Records, StratumCounts
from relink_jax.retrieval.layout import DEFAULT, Layout

TIERS = "same labels, then Jaccard >= 0.5, then any"
SAME, NEAR, ANY = range(3)
_NEAR = 0.5


class NearestLabels:
    """Tiers of label codes as `retrieval.tiers` asks for them, made row by row.

    Attributes:
        code: int32 [S], label code of each study; those without labels share one more, which is in the last tier of all and asks for nothing.
        shape: (C, C).
    """

    def __init__(self, labels: np.ndarray, has_labels: np.ndarray, policy: str = strata.TERNARY) -> None:
        """Takes labels int8 [S, L] as in `strata.label_codes`; raises what that does."""
        codes = strata.label_codes(labels, has_labels, policy)
        n_codes = int(codes.max(initial=-1)) + 1
        self.code = np.where(codes >= 0, codes, n_codes).astype(np.int32)
        self.shape = (n_codes + 1, n_codes + 1)
        self._positive = np.zeros((n_codes, labels.shape[1]), bool)
        self._positive[codes[codes >= 0]] = strata.positive(labels, policy)[codes >= 0]

    def __getitem__(self, codes: Any) -> np.ndarray:
        """Returns the tier of every candidate code for query codes [n], int8 [n, C]."""
        n_codes, asked = len(self._positive), np.asarray(codes)
        labelled = asked < n_codes
        rows = np.full((len(asked), n_codes + 1), -1, np.int8)
        rows[labelled] = ANY
        near = strata.jaccard(self._positive[asked[labelled]], self._positive) >= _NEAR
        rows[labelled, :n_codes] = np.where(near, NEAR, ANY)
        rows[labelled, asked[labelled]] = SAME
        return rows


def count(
    records: Records,
    labels: np.ndarray,
    has_labels: np.ndarray,
    policy: str = strata.TERNARY,
    *,
    mesh: Mesh,
    layout: Layout = DEFAULT,
    kept: resume.Place | None = None,
) -> list[StratumCounts]:
    """Returns the counts of image queries in each of the three tiers; queries without labels have no candidates. Raises what `tiers.count` does."""
    nearest = NearestLabels(labels, has_labels, policy)
    return tiers.count(records, nearest.code, nearest, ANY + 1, mesh=mesh, layout=layout, what="count nearest labels", kept=kept)


def filled(counted: Sequence[StratumCounts], pool_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (numbers [n] of queries with at least N - 1 candidates in all, their expected Recall@1 in tiered pools of N float64 [n]).

    Args: counted: counts [Q] of disjoint tiers, nearest first.
    """
    M, g, t = (np.stack([getattr(one, field) for one in counted]) for field in ("M", "g", "t"))
    eligible = np.flatnonzero(M.sum(axis=0) >= pool_size - 1)
    M, g, t = M[:, eligible], g[:, eligible], t[:, eligible]
    last = (np.cumsum(M, axis=0) >= pool_size - 1).argmax(axis=0)  # the tier that is drawn from, or fits exactly
    whole, drawn = (np.arange(len(counted))[:, None] < last), (np.arange(len(counted))[:, None] == last)
    near, rest = (StratumCounts(*((part * among).sum(axis=0) for part in (M, g, t))) for among in (whole, drawn))
    return eligible, tiered.recall(near, rest, pool_size, [1])[0]


def smallest(counted: Sequence[StratumCounts], pool_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (queries [n] as in `filled`, Recall@1 [n] in pools drawn from the fewest tiers that together have N - 1 candidates, their last [n])."""
    M, g, t = (np.cumsum([getattr(one, field) for one in counted], axis=0) for field in ("M", "g", "t"))
    eligible = np.flatnonzero(M[-1] >= pool_size - 1)
    last = (M[:, eligible] >= pool_size - 1).argmax(axis=0)
    M, g, t = (part[last, eligible] for part in (M, g, t))
    found = expectation.pool_metrics(M, g, t, pool_size, [1])
    return eligible, found["recall@1"].expected, last


def section(counted: Sequence[StratumCounts], sample: Sample, pool_sizes: Sequence[int | None]) -> list[dict[str, Any]]:
    """Returns the 'tiered' entries of results, one per pool size that some query is large enough for; the full pool has no tiers.

    Each has N, k, value (tiered fill, with its interval), chance, tiers, filled_share (queries whose pool took more than the same label code) and
    'smallest_tier': Recall@1 in pools drawn evenly from the fewest tiers that suffice, with the share of queries by the last of them.

    Args: counted: tiers of the image queries of `sample`, nearest first.
    """
    out = []
    for size in pool_sizes:
        if size is None:
            continue
        eligible, recall = filled(counted, size)
        if not len(eligible):
            continue
        _, drawn, last = smallest(counted, size)
        shares = (np.bincount(last, minlength=len(counted)) / len(last)).tolist()
        first, second = sample.means(np.stack([recall, drawn], axis=1), eligible)
        entry = {"N": size, "k": 1, "value": first, "chance": 1 / size, "tiers": TIERS, "filled_share": float((last > SAME).mean())}
        out.append(entry | {"smallest_tier": {"value": second, "shares": shares}, "eligible_share": len(eligible) / len(counted[0].M)})
    return out
