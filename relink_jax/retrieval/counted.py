"""What a counting pass returns: integers per query and stratum, and top lists. Needs no jax, so results can be read without it."""

import dataclasses

import numpy as np

I2R, R2I = "i2r", "r2i"
OTHER_PATIENT, LABEL_MATCHED = "other_patient", "label_matched"


@dataclasses.dataclass(frozen=True)
class StratumCounts:
    """Integers of Q queries, int64 [Q]: eligible negatives M, greater g, tied t."""

    M: np.ndarray
    g: np.ndarray
    t: np.ndarray


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
    """

    query: np.ndarray
    own_score: np.ndarray
    strata: dict[str, StratumCounts]
    top_id: np.ndarray
    top_score: np.ndarray
    near: np.ndarray | None = None
