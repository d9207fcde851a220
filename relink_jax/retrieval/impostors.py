"""Scores of impostors: every pair of an image and a study of another exclusion key, as a histogram with fixed edges and an exact tail.

The body is a histogram over [-1, 1], whose number of bins is a power of two so that a float32 score falls into its bin without rounding.
The greatest scores are kept one by one, since the false-positive rates that matter at scale lie there: at N candidates, a rate of
1 / N is one false match for each query.

Both come from one pass (`impostor_pass`). Its tail is certified: it is whole if what was found above the floor is as much as was wanted.
If not, the histogram tells a floor that is surely low enough, and the pass is made again.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from relink_jax import errors
from relink_jax.retrieval import eligible, impostor_pass, resume, streamed
from relink_jax.retrieval import layout as layouts
from relink_jax.retrieval.counted import OTHER_PATIENT, Records

BINS = 1 << 20
_WHERE = "impostor scores"


class Between(NamedTuple):
    """An integer known up to an interval, both ends included."""

    low: int
    high: int


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """What accepting pairs that score `threshold` or more does.

    Attributes:
        false_positive_rate: share of impostor pairs accepted. true_positive_rate: share of true pairs accepted.
        positive_predictive_value: share of accepted pairs that are true at each pool size N, TPR / (TPR + (N - 1) FPR); nan where none is.
    """

    threshold: float
    false_positive_rate: float
    true_positive_rate: float
    pool_sizes: tuple[int, ...]
    positive_predictive_value: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Impostors:
    """Scores of all impostor pairs.

    Attributes:
        histogram: int64 [bins], pairs in equal bins over [-1, 1], each with its lower edge; the outer bins are open.
        total: number of pairs. reach: the tail was to hold so many.
        cut: the score of rank `reach`, -inf where the tail is the whole and +inf where there is none.
        score, image, study: every pair that scores above the cut, float32 and int32 [n], n <= reach, by score descending, then image,
            then study. Pairs that tie at the cut are left out, as no more of them need have been seen than fill the tail.
    """

    histogram: np.ndarray
    total: int
    reach: int
    cut: float
    score: np.ndarray
    image: np.ndarray
    study: np.ndarray

    def at_least(self, score: float) -> Between:
        """Returns how many pairs reach a score: exactly above the cut and at edges of bins, else between what the bins allow."""
        if score > self.cut or self.cut == -math.inf:
            least = np.float32(score)
            least = least if float(least) >= score else np.nextafter(least, np.float32(np.inf))
            n = len(self.score) - int(np.searchsorted(self.score[::-1], least))
            return Between(n, n)
        edges = impostor_pass.edges(len(self.histogram))
        low, high = (int(self._from_edge[place]) for place in (np.searchsorted(edges, score), np.searchsorted(edges, score, "right") - 1))
        return Between(max(low, self.reach), high)

    def threshold(self, false_positive_rate: float) -> float:
        """Returns the smallest float32 that at most a share `false_positive_rate` of the pairs reach: ties count against the attacker.

        Where the tail does not cover the rate, it is the smallest such edge of a bin.

        Raises: UsageError: a rate outside 0 to 1.
        """
        if not 0 <= false_positive_rate <= 1:
            raise errors.UsageError(errors.describe("false-positive rate", _WHERE, "0 to 1", str(false_positive_rate)))
        allowed = math.floor(false_positive_rate * self.total)
        allowed += (allowed + 1) / self.total <= false_positive_rate
        if allowed >= self.total:
            return -math.inf
        if allowed >= self.reach:
            return float(impostor_pass.edges(len(self.histogram))[int((self._from_edge > allowed).sum())])
        last = self.score[allowed] if allowed < len(self.score) else np.float32(self.cut)
        return float(np.nextafter(last, np.float32(np.inf)))

    def operating_point(self, own_scores: np.ndarray, false_positive_rate: float, pool_sizes: Sequence[int] = ()) -> OperatingPoint:
        """Returns what the threshold of a false-positive rate does to true pairs with float32 scores [Q].

        A low rate is not few false matches: each query meets N - 1 impostors in a pool of N, so the predictive value is told beside it.

        Raises: DataError: no true pairs. UsageError: a rate outside 0 to 1, or a pool without room for the truth.
        """
        if not len(own_scores):
            raise errors.DataError(errors.describe("true pairs", _WHERE, "at least one", "none"))
        if min(pool_sizes, default=1) < 1:
            raise errors.UsageError(errors.describe("pool size", _WHERE, "1 or more", str(min(pool_sizes))))
        threshold = self.threshold(false_positive_rate)
        rate, hits = self.at_least(threshold).high / self.total, float((own_scores >= threshold).mean())
        accepted = [hits + (size - 1) * rate for size in pool_sizes]
        return OperatingPoint(threshold, rate, hits, tuple(pool_sizes), tuple(hits / one if one else math.nan for one in accepted))

    @functools.cached_property
    def _from_edge(self) -> np.ndarray:
        """Pairs at or above each edge, int64 [bins + 1]."""
        return np.append(np.cumsum(self.histogram[::-1])[::-1], 0)


def count(
    records: Records,
    mesh: Mesh,
    *,
    bins: int = BINS,
    tail_share: float = 1e-4,
    tail_limit: int = 1 << 24,
    layout: layouts.Layout = layouts.DEFAULT,
    what: str = "impostor scores",
    kept: resume.Place | None = None,
) -> Impostors:
    """Returns the scores of all impostor pairs of records, in float32 as `product` gives them.

    Integers and the tail are equal on every mesh and layout where scores are, as on small-integer embeddings. A score of the tail takes
    about 40 bytes of the host's memory while it is found.

    Args:
        bins: number of bins, a power of two up to 2^20.
        tail_share: share of all pairs that the tail is to hold, and tail_limit: at most so many; 0 for no tail.
        layout: of the pass; its split is not asked, the devices share the images.
        what: words for the progress bar. kept: where finished parts are kept; None keeps none.
    Raises: DataError: no impostor pairs. UsageError: bins or tail out of range, or a layout that does not fit the devices' memory.
        UnsoundError: the histogram does not hold every pair once, or does not agree with the tail.
    """
    _check(bins, tail_share, tail_limit)
    asked = records.image_study
    total = int(eligible.sizes(records.exclusion, {}, records.exclusion[asked], {})[OTHER_PATIENT].sum())
    if not total:
        raise errors.DataError(errors.describe("impostor pairs", _WHERE, "at least one", "none"))
    wanted = min(total, tail_limit, math.ceil(tail_share * total))
    work = streamed.engine(records, mesh, layout, most=impostor_pass.MOST, kept=kept, what=what)
    whole = wanted == total
    tail = impostor_pass.Tail(wanted)
    histogram = impostor_pass.run(work, bins, tail, total, what, guess=not whole, kept=kept)
    check_total(histogram, total)
    if tail.held < wanted:
        tail = impostor_pass.Tail(wanted, impostor_pass.floor_of(histogram, wanted))
        histogram = impostor_pass.run(work, bins, tail, total, f"{what} again", guess=False, kept=kept and kept / "again")
        check_total(histogram, total)
    found = Impostors(histogram, total, wanted, *tail.finished(whole))
    check_tail(found, tail.held)
    return found


def check_total(histogram: np.ndarray, total: int) -> None:
    """Raises `UnsoundError` unless a histogram holds all eligible pairs, each once."""
    if int(histogram.sum()) != total:
        raise errors.UnsoundError(errors.describe("pairs in the histogram", _WHERE, f"{total:,}, all eligible ones", f"{int(histogram.sum()):,}"))


def check_tail(found: Impostors, held: int) -> None:
    """Raises `UnsoundError` unless the tail is whole, and fills every bin above the cut as the histogram does."""
    if held < found.reach:
        raise errors.UnsoundError(errors.describe("scores of the tail", _WHERE, f"{found.reach:,}", f"{held:,}"))
    edges = impostor_pass.edges(len(found.histogram))
    first = 0 if found.cut == -math.inf else int(np.searchsorted(edges, found.cut, "right"))
    filled = np.bincount(np.searchsorted(edges, found.score, "right") - 1, minlength=len(found.histogram))
    wrong = int((filled[first:] != found.histogram[first:]).sum())
    if wrong:
        raise errors.UnsoundError(errors.describe("tail and histogram", _WHERE, "the same pairs above the cut", f"others in {wrong:,} bins"))


def _check(bins: int, tail_share: float, tail_limit: int) -> None:
    if not 2 <= bins <= BINS or bins & (bins - 1):
        raise errors.UsageError(errors.describe("bins", _WHERE, f"a power of two from 2 to {BINS:,}", str(bins)))
    if not 0 <= tail_share <= 1:
        raise errors.UsageError(errors.describe("share of the tail", _WHERE, "0 to 1", str(tail_share)))
    if tail_limit < 0:
        raise errors.UsageError(errors.describe("limit of the tail", _WHERE, "0 or more", str(tail_limit)))
