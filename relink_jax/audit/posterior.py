"""The truth's softmax share of its whole pool, for the InfoNCE bits: one pass over all images and reports.

The log sum over all studies comes from a pass, in which a report counts once for each study that has it. From it the shares of the query
patient's studies are taken in float64, and the truth's is put back. Where that leaves little, what is left is summed again in float64.
"""

import numpy as np
from jax.sharding import Mesh
from scipy import optimize

from relink_jax.audit import rescored
from relink_jax.retrieval import eligible, statistics
from relink_jax.retrieval.counted import OTHER_PATIENT, Records
from relink_jax.retrieval.kept import Kept
from relink_jax.retrieval.layout import DEFAULT, Layout

_STEEPEST = 1e4  # greatest inverse temperature, over the spread of scores: their rounding in float32 then weighs a thousandth
_ROWS = 4096  # queries whose own patients' studies are scored at a time
_LEFT = 0.01  # a share of the sum below which subtraction would magnify its rounding, 1e-5, too far


def fitted_beta(scores: np.ndarray, truth: np.ndarray, among: np.ndarray | None = None) -> float:
    """Returns the inverse temperature beta >= 0 that maximises the mean of log softmax_beta(truth), which is concave in it.

    0 where scores do not speak for the truth; 10^4 over the largest difference from a truth's score where they always do.

    Args:
        scores: [n, m], queries of calibration people against candidates. truth: column of each query's truth, int [n].
        among: bool [n, m], candidates of each query; the truth always is one. None for all.
    """
    rows = np.arange(len(scores))
    gain = np.asarray(scores, np.float64) - np.asarray(scores, np.float64)[rows, truth][:, None]
    inside = np.ones(gain.shape, bool) if among is None else among.copy()
    inside[rows, truth] = True
    gain[~inside] = 0.0

    def slope(beta: float) -> float:
        shares = np.where(inside, np.exp(beta * gain - (beta * gain).max(axis=1, keepdims=True)), 0.0)
        return -float(((shares * gain).sum(axis=1) / shares.sum(axis=1)).mean())

    spread = float(np.abs(gain).max(initial=0.0))
    if not spread or slope(0.0) <= 0:
        return 0.0
    steepest = _STEEPEST / spread
    return steepest if slope(steepest) >= 0 else float(optimize.brentq(slope, 0.0, steepest, rtol=1e-9))


def calibrated_beta(records: Records, *, seed: int, n_queries: int = 1000, n_candidates: int = 4000) -> float:
    """Returns the beta of a sample of calibration people: random images among their own studies and random others, by exact scores."""
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.permutation(len(records.images))[:n_queries])
    study = records.image_study[rows]
    others = generator.permutation(len(records.study_text))[:n_candidates]
    columns = np.union1d(study, others[: max(0, n_candidates - len(np.unique(study)))])
    texts = records.texts[records.study_text[columns]].astype(np.float64)
    among = records.exclusion[study][:, None] != records.exclusion[columns]
    return fitted_beta(records.images[rows].astype(np.float64) @ texts.T, np.searchsorted(columns, study), among)


def log2_posterior(
    records: Records, beta: float, mesh: Mesh, *, layout: Layout = DEFAULT, what: str = "posteriors", kept: Kept | None = None
) -> np.ndarray:  # fmt: skip
    """Returns log2 of softmax_beta(truth) of each image among its own study and all studies of other exclusion keys, float64 [Q].

    Within 2e-3 bits of exact arithmetic, and an error e of a float32 score weighs as beta e more.

    Args: beta: inverse temperature, 0 or more; with 0 all candidates are alike and there is no pass. layout: of the pass. kept: where the pass is
            kept, see `statistics.over_bank`.
    """
    if beta == 0:
        keys = records.exclusion
        return -np.log2(eligible.sizes(keys, {}, keys[records.image_study], {})[OTHER_PATIENT] + 1.0)
    copies = np.bincount(records.study_text, minlength=len(records.texts))
    offset = np.log(copies) / beta
    found = statistics.over_bank(records.images, records.texts, mesh, [1 / beta], offset=offset, layout=layout, what=what, kept=kept)
    everyone = found.logsumexp[:, 0]
    own = beta * rescored.own_scores(records)
    left = 1 - _taken(records, beta, everyone)
    pool = everyone + np.log(np.maximum(left, _LEFT))
    again = np.flatnonzero(left < _LEFT)
    pool[again] = _summed_again(records, again, beta, own[again])
    return np.minimum(own - pool, 0.0) / np.log(2)


def _taken(records: Records, beta: float, everyone: np.ndarray) -> np.ndarray:
    """Returns the share of each log sum [Q] that the patient's other studies have, float64 [Q]."""
    out = np.zeros(len(everyone))
    for first in range(0, len(everyone), _ROWS):
        rows = np.arange(first, min(first + _ROWS, len(everyone)))
        owner, study = rescored.excluded(records, rows)
        other = study != records.image_study[rows[owner]]
        image, study = rows[owner[other]], study[other]
        shares = np.exp(beta * rescored.pair_scores(records, image, study) - everyone[image])
        out[rows] = np.bincount(image - first, shares, minlength=len(rows))
    return out


def _summed_again(records: Records, rows: np.ndarray, beta: float, own: np.ndarray) -> np.ndarray:
    """Returns the log sum over each pool of images `rows` [n] in float64, from beta times the truth's score [n]."""
    total = own.copy()
    for part, scores, copies in rescored.eligible_scores(records, rows, "sum posteriors again"):
        with np.errstate(divide="ignore"):
            terms = beta * scores + np.log(copies)
        greatest = terms.max(axis=1, keepdims=True)
        finite = np.where(np.isfinite(greatest), greatest, 0.0)
        with np.errstate(divide="ignore"):
            block = finite[:, 0] + np.log(np.exp(terms - finite).sum(axis=1))
        total[part] = np.logaddexp(total[part], block)
    return total
