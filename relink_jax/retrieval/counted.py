"""What a counting pass takes and returns: records, integers per query and stratum, top lists. Needs no jax, so results can be read without it."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from relink_jax.store.rows import RowSource

I2R, R2I = "i2r", "r2i"
OTHER_PATIENT, LABEL_MATCHED = "other_patient", "label_matched"
_INTEGERS = ("M", "g", "t")


@dataclasses.dataclass(frozen=True)
class Records:
    """What is counted: image and study tables joined by number.

    Attributes:
        images: embeddings float32 [Q, D]; scores are inner products, cosines when rows are unit-norm.
        image_study: int32 [Q], study of each image.
        texts: distinct report embeddings float32 [U, D], distinct by bytes.
        study_text: int32 [S], row of `texts` of each study.
        exclusion: int32 [S], studies with equal values are not each other's candidates: patient or study numbers.
        codes: further strata by name, int32 [S] each: candidates with the query study's code; -1 neither asks nor answers.
        block: int32 [S], jackknife block of each study and of its images, 0 .. J-1; None counts no blocks.
    """

    images: RowSource
    image_study: np.ndarray
    texts: RowSource
    study_text: np.ndarray
    exclusion: np.ndarray
    codes: Mapping[str, np.ndarray]
    block: np.ndarray | None = None

    @property
    def n_blocks(self) -> int:
        """Number of jackknife blocks J, 1 when none are counted."""
        return 1 if self.block is None else int(self.block.max(initial=0)) + 1


@dataclasses.dataclass(frozen=True)
class StratumCounts:
    """Integers of Q queries, int64 [Q]: eligible negatives M, greater g, tied t."""

    M: np.ndarray
    g: np.ndarray
    t: np.ndarray


def to_arrays(strata: Mapping[str, StratumCounts]) -> dict[str, np.ndarray]:
    """Returns counts by stratum as arrays by name, for a file of arrays."""
    return {f"{name}/{field}": getattr(one, field) for name, one in strata.items() for field in _INTEGERS}


def from_arrays(arrays: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, StratumCounts]:
    """Returns the counts of strata `names`, in that order, from arrays that `to_arrays` made."""
    return {name: StratumCounts(*(arrays[f"{name}/{field}"] for field in _INTEGERS)) for name in names}


@dataclasses.dataclass(frozen=True)
class DirectionCounts:
    """Everything counted in one direction.

    Attributes:
        query: image numbers (i2r) or numbers of studies with an image (r2i), int32 [Q], ascending.
        own_score: score of the truth, float32 [Q].
        strata: counts by stratum name.
        top_id: the k best candidates of the whole database, own and same-patient ones included, study (i2r) or image (r2i)
            numbers by score descending, then number ascending; -1 beyond the database; int32 [Q, k].
        top_score: their scores, float32 [Q, k].
        near: i2r only, int64 [Q, 3]: other-patient negatives of other texts above threshold + 1e-6, those at or above
            threshold - 1e-6, and eligible duplicates of the right report.
        blocks: counts by stratum and jackknife block of the candidates, one `StratumCounts` per block; empty without blocks.
        settling: how a precision faster than float32 came to exact integers, see `faster`: its widest band, queries with candidates
            inside theirs, pairs scored again, queries counted again in float32; empty in float32.
    """

    query: np.ndarray
    own_score: np.ndarray
    strata: dict[str, StratumCounts]
    top_id: np.ndarray
    top_score: np.ndarray
    near: np.ndarray | None = None
    blocks: dict[str, list[StratumCounts]] = dataclasses.field(default_factory=dict)
    settling: Mapping[str, float] = dataclasses.field(default_factory=dict)
