"""The label-only attacker: he knows the 14 findings of an image and nothing else, and guesses among the reports that state the same.

What he links, disease labels alone give away; a model's link says more only where it exceeds his. He needs no pass: reports of the query's label code
stand above all others and tie among themselves, so that his integers follow from how many there are.
"""

import numpy as np

from relink_jax import errors
from relink_jax.retrieval.counted import LABEL_MATCHED, OTHER_PATIENT, StratumCounts


def strata(other_patient: StratumCounts, label_matched: StratumCounts, labelled: np.ndarray) -> dict[str, StratumCounts]:
    """Returns his integers of the strata `other_patient` and `label_matched`, for the same metrics as any other attack.

    Args:
        other_patient, label_matched: counts of one set of queries [Q], of which only M is used.
        labelled: which queries' studies have labels, bool [Q]; without any he has nothing to say, so those get no candidate (M 0) and are no queries.
    Raises: DataError: counts of different queries, or more matched negatives than there are.
    """
    M, same = np.asarray(other_patient.M, np.int64), np.asarray(label_matched.M, np.int64)
    if not len(M) == len(same) == len(labelled) or (same > M).any():
        raise errors.DataError(errors.describe("counts", "label-only attacker", "label-matched negatives among all of the same queries", "others"))
    M, same = np.where(labelled, M, 0), np.where(labelled, same, 0)
    none = np.zeros_like(M)
    return {OTHER_PATIENT: StratumCounts(M, none, same), LABEL_MATCHED: StratumCounts(same, none, same)}
