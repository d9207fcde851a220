"""What an attacker's decision rests on: for each image, the best scores among the truth and the eligible candidates, and whether he is right.

The lists of a counting pass hold the best candidates of the whole database, the query patient's other studies included; those are skipped.
A list that ends before two eligible candidates were seen is completed by scoring that query again in float64.

The integers g and t say how many candidates score above the truth and tie with it, and scores are brought into line with them: the
j-th best candidate is above the truth if j <= g, ties with it if j <= g + t, and is below it otherwise. Scores of lists already are.
A score made again may lie on the other side of a near-tie by what the pass rounds, and is then set to the truth's; more is an error.
"""

import dataclasses

import numpy as np

from relink_jax import errors
from relink_jax.audit import rescored
from relink_jax.retrieval import product
from relink_jax.retrieval.counted import OTHER_PATIENT, DirectionCounts, Records, StratumCounts

_WHERE = "best candidates"


@dataclasses.dataclass(frozen=True)
class Decisions:
    """Facts of Q image queries, from which every statistic of a decision follows.

    Attributes:
        own_score: score of the truth. best_impostor, second_impostor: of the best and second best eligible candidate, -inf where there is
            none; float32 [Q].
        right: probability that the top-ranked study is the truth when ties are broken at random, float64 [Q]: 1 / (t + 1), or 0 where g > 0.
    """

    own_score: np.ndarray
    best_impostor: np.ndarray
    second_impostor: np.ndarray
    right: np.ndarray

    @property
    def top1_score(self) -> np.ndarray:
        """Best score of all, the truth's included, float32 [Q]."""
        return np.maximum(self.own_score, self.best_impostor)

    @property
    def top2_score(self) -> np.ndarray:
        """Second best score of all, -inf where there is none, float32 [Q]."""
        return np.maximum(np.minimum(self.own_score, self.best_impostor), self.second_impostor)

    @property
    def margin(self) -> np.ndarray:
        """Best score less the second best, inf where there is none, float64 [Q]."""
        return self.top1_score.astype(np.float64) - self.top2_score


def from_counts(records: Records, counted: DirectionCounts) -> Decisions:
    """Returns the decisions of a counting pass over `records`, image to report.

    A pass at any precision will do, with lists of any length; the longer they are, the fewer queries are scored again, at the cost of one
    product with all reports each. Lists of 10 are ended early by a patient only whose other studies fill nine places.

    Raises: UnsoundError: lists and integers do not agree, see `decide`.
    """
    stratum = counted.strata[OTHER_PATIENT]
    best, open_rows = _listed(records, counted, np.minimum(stratum.M, 2))
    if len(open_rows):
        best[open_rows] = _scored_again(records, counted.query[open_rows])
    band = product.band(records.images, product.extent(records.texts, product.FLOAT32), product.FLOAT32)
    return decide(counted.own_score, best[:, 0], best[:, 1], stratum, band[counted.query])


def decide(own_score: np.ndarray, best_impostor: np.ndarray, second_impostor: np.ndarray, counts: StratumCounts, band: np.ndarray | float = 0.0) -> Decisions:
    """Returns decisions from scores [Q] and the integers that have the last word on order; of what was stored, it rebuilds the same.

    Args: band: float [Q], how far a score may be on the wrong side of the truth's.
    Raises: UnsoundError: a score is further on the wrong side, or a candidate is missing, or there is one too many.
    """
    own = np.asarray(own_score, np.float32)
    settled = []
    for place, given in ((1, best_impostor), (2, second_impostor)):
        score = np.asarray(given, np.float32)
        lowest = np.where(counts.g + counts.t >= place, own, np.float32(-np.inf))
        highest = np.where(counts.g >= place, np.float32(np.inf), own)
        inside = np.clip(score, lowest, highest)
        moved = inside != score
        apart = np.abs(np.subtract(inside, score, where=moved, out=np.zeros(len(own), np.float32)))
        wrong = int(((apart > band) | np.isnan(score) | (np.isneginf(score) == (place <= counts.M))).sum())
        if wrong:
            raise errors.UnsoundError(errors.describe(_WHERE, "decisions", "scores in the order that g and t count", f"others in {wrong:,} queries"))
        settled.append(inside)
    return Decisions(own, settled[0], settled[1], np.where(counts.g == 0, 1 / (counts.t + 1.0), 0.0))


def _listed(records: Records, counted: DirectionCounts, needed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (the two best eligible scores of each list, -inf where it has none, float32 [Q, 2]; rows with fewer than `needed` [Q])."""
    ids = counted.top_id
    key = records.exclusion[records.image_study[counted.query]]
    eligible = (ids >= 0) & (records.exclusion[np.maximum(ids, 0)] != key[:, None])
    place = np.cumsum(eligible, axis=1)
    best = np.full((len(ids), 2), -np.inf, np.float32)
    for number in (0, 1):
        row, column = np.nonzero(eligible & (place == number + 1))
        best[row, number] = counted.top_score[row, column]
    return best, np.flatnonzero(eligible.sum(axis=1) < needed)


def _scored_again(records: Records, rows: np.ndarray) -> np.ndarray:
    """Returns the two best eligible scores of images `rows` [n] among all studies, float32 [n, 2]; -inf where there are fewer."""
    best = np.full((len(rows), 2), -np.inf)
    for part, scores, copies in rescored.eligible_scores(records, rows, "complete lists"):
        once, twice = np.where(copies > 0, scores, -np.inf), np.where(copies > 1, scores, -np.inf)
        first = once.argmax(axis=1)[:, None]
        found = [np.take_along_axis(once, first, axis=1), np.take_along_axis(twice, first, axis=1)]
        np.put_along_axis(once, first, -np.inf, axis=1)
        joined = np.concatenate([best[part], *found, once.max(axis=1, keepdims=True)], axis=1)
        best[part] = -np.sort(-joined, axis=1)[:, :2]
    return best.astype(np.float32)
