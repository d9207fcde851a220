"""Right study, right patient but another study, wrong patient: whose report an image is linked to, exactly, at any pool size.

The other studies of the query's patient are candidates here like any other, M + others negatives in all. The report at the top of a random
pool decides, and ties are broken at random for everybody: within one score each candidate in the pool is as likely to come first. With P0(K)
the chance that none of K given negatives is drawn,

    right study      Recall@1 of the truth, with the patient's others among those above it and tied with it
    another study    for each score above the truth that a study of the patient has: (P0(above) - P0(above and at)), times the patient's part
                     of the studies at that score; and of the pools whose top score is the truth's but whose first is not the truth, the
                     patient's part of the studies that tie

Without ties this is `retrieval.right_patient.recall` at k = 1.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.audit.sample import Sample
from relink_jax.retrieval import expectation, pool_law, right_patient
from relink_jax.retrieval.counted import StratumCounts

_FLAT, _LISTS = ("others", "beside"), ("studies", "greater", "tied")


@dataclasses.dataclass(frozen=True)
class Siblings:
    """The other studies of the patient of each of Q queries, as far as they matter; int64 arrays.

    Attributes:
        others: [Q], how many there are. beside: [Q], those of them that tie with the truth.
        offsets: [Q + 1]; query i has entries offsets[i] to offsets[i + 1] of the rest, one per distinct score above the truth, best first.
        studies: [n], other studies of the patient with that score. greater, tied: [n], other-patient negatives above it, and with it.
    """

    others: np.ndarray
    beside: np.ndarray
    offsets: np.ndarray
    studies: np.ndarray
    greater: np.ndarray
    tied: np.ndarray

    @property
    def owner(self) -> np.ndarray:
        """Query of each entry, [n]."""
        return np.repeat(np.arange(len(self.others)), np.diff(self.offsets))

    def of(self, rows: np.ndarray) -> "Siblings":
        """Returns those of queries `rows` [k] alone."""
        number = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(number)])
        entries = np.repeat(self.offsets[rows] - offsets[:-1], number) + np.arange(offsets[-1])
        return Siblings(self.others[rows], self.beside[rows], offsets, self.studies[entries], self.greater[entries], self.tied[entries])


def to_columns(siblings: Siblings) -> dict[str, Any]:
    """Returns columns of a table with one row per query: numbers [Q], and lists of Q arrays."""
    lists = {name: np.split(getattr(siblings, name), siblings.offsets[1:-1]) for name in _LISTS}
    return {name: getattr(siblings, name) for name in _FLAT} | lists


def from_columns(columns: Mapping[str, Sequence[Any] | np.ndarray]) -> Siblings:
    """Returns what `to_columns` was given; KeyError or ValueError for columns that it did not make."""
    lengths = [len(row) for row in columns[_LISTS[0]]]
    if any([len(row) for row in columns[name]] != lengths for name in _LISTS):
        raise ValueError("lists of unlike lengths")
    others, beside = (np.asarray(columns[name], np.int64) for name in _FLAT)
    studies, greater, tied = (np.concatenate([np.zeros(0, np.int64), *columns[name]]).astype(np.int64) for name in _LISTS)
    return Siblings(others, beside, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), studies, greater, tied)


def section(counts: StratumCounts, siblings: Siblings, pool_sizes: Sequence[int | None], sample: Sample) -> list[dict[str, Any]]:
    """Returns the results' section `right_patient`: one entry per pool size (None: the full pool) that some query has candidates for.

    Args:
        counts: of other-patient negatives [Q], the patient's others not among them.
        siblings: of the same queries.
    Returns: entries with 'right_study', 'right_patient' (the patient's, but another study) and 'wrong_patient', which add up to 1, each with its
        interval; 'chance_study' and 'chance_patient' (any report of the patient, the right one included) of a random ranking.
    Raises: DataError: counts of unlike lengths, or inconsistent ones.
    """
    if not len(counts.M) == len(siblings.others) == len(siblings.offsets) - 1 == len(sample.patient):
        raise errors.DataError(errors.describe("lengths", "right-patient section", f"{len(counts.M)} queries in all parts", "others"))
    out = []
    for size in pool_sizes:
        rows = np.flatnonzero(counts.M + siblings.others + 1 >= (size or 2))
        if not len(rows):
            continue
        chosen, near = StratumCounts(*(array[rows] for array in (counts.M, counts.g, counts.t))), siblings.of(rows)
        study, other = first_place(chosen, near, size)
        pools = chosen.M + near.others + 1
        chances = (1 / pools, (1 + near.others) / pools) if size is None else (1 / size, right_patient.chance(pools - 1, near.others, size))
        shown = sample.means(np.stack([study, other, np.maximum(1 - study - other, 0)], axis=1), rows)
        told: dict[str, Any] = dict(zip(("right_study", "right_patient", "wrong_patient"), shown, strict=True))
        told |= {name: float(np.mean(chance)) for name, chance in zip(("chance_study", "chance_patient"), chances, strict=True)}
        out.append({"N": int(pools.max()) if size is None else size, "full": size is None, **told})
    return out


def first_place(counts: StratumCounts, siblings: Siblings, pool_size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns (chance that the right study comes first, chance that another study of the patient does), float64 [Q] each.

    Args:
        counts: of other-patient negatives [Q]. siblings: of the same queries, none of their entries below an earlier one of the query.
        pool_size: N, the truth included; None for all M + others + 1 candidates of each query.
    Raises: DataError: a query has fewer than N - 1 negatives, or inconsistent counts.
    """
    owner, Q = siblings.owner, len(siblings.others)
    M = counts.M + siblings.others
    ahead = np.cumsum(siblings.studies) - siblings.studies
    ahead -= np.concatenate([ahead, [0]])[siblings.offsets[:-1]][owner]
    above = counts.g + np.bincount(owner, siblings.studies, minlength=Q).astype(np.int64)
    study = expectation.pool_metrics(M, above, counts.t + siblings.beside, pool_size, [1])["recall@1"].expected
    n = M if pool_size is None else np.full_like(M, pool_size - 1)
    not_worse = np.maximum(_none(M, above, n) - study, 0.0)
    other = not_worse * siblings.beside / np.maximum(siblings.beside + counts.t, 1)
    higher, here = siblings.greater + ahead, siblings.studies + siblings.tied
    reached = _none(M[owner], higher, n[owner]) - _none(M[owner], higher + here, n[owner])
    return study, other + np.bincount(owner, reached * siblings.studies / np.maximum(here, 1), minlength=Q)


def _none(M: np.ndarray, marked: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Returns the chance that none of `marked` is among n drawn of M."""
    return pool_law.probability(M, marked, n, 0)
