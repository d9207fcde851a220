"""What an attacker scores his bank of images with, on a scale that collapsed embeddings have too.

A head that moves all embeddings close together leaves the order of cosines in their last digits, where float32 products lose it. The
attacker loses nothing: what all images share, and what all reports share, changes no ranking, so he takes it off before he multiplies.
"""

import dataclasses

import numpy as np

from relink_jax import errors
from relink_jax.audit.attacks import base
from relink_jax.retrieval import statistics
from relink_jax.store.rows import RowSource, blocks

_COLLAPSED = 1e-3  # of the scores' size; float32 products are good to about 1e-7 of it


@dataclasses.dataclass(frozen=True)
class Scored:
    """Both sides as they are multiplied.

    Attributes:
        images, texts, bank: [Q, D], [U, D] and [B, D]. bank holds images.
        level: float64 [U], what to add to a report's products to have scores up to one factor and a constant for each image; 0 unless they collapsed.
        unit: standard deviation of the scores over bank and distinct reports, beyond what an image has in common with all reports or a
            report with all images; 1 where there is none.
        moments: mean and variance of each report's products over the bank.
    """

    images: RowSource
    texts: RowSource
    bank: RowSource
    level: np.ndarray
    unit: float
    moments: statistics.Statistics


def rows_of(target: base.Target, bank: str) -> RowSource:
    """Returns the images of a bank: of other people (INDUCTIVE), or the queries themselves (TRANSDUCTIVE).

    Raises: UsageError: no such bank.
    """
    if bank not in (base.INDUCTIVE, base.TRANSDUCTIVE):
        raise errors.UsageError(errors.describe("bank", "an attack", f"{base.INDUCTIVE} or {base.TRANSDUCTIVE}", repr(bank)))
    return target.auxiliary.images if bank == base.INDUCTIVE else target.inputs.images


def why_not(target: base.Target, bank: str) -> str | None:
    """Returns a sentence that says why a bank has nothing in it, None where it has."""
    return None if len(rows_of(target, bank)) else "the attacker holds no images of other people"


def passes(target: base.Target, bank: str) -> float:
    """Returns the cost of one pass of all reports over a bank, in passes over all images and reports."""
    return len(rows_of(target, bank)) / len(target.inputs.images)


def scored(target: base.Target, bank: str) -> Scored:
    """Returns both sides and the bank: the vectors as they are, or less what they have in common where that is nearly all of them.

    Costs no pass.
    """
    images, texts, rows = target.inputs.images, target.inputs.texts, rows_of(target, bank)
    found = statistics.over_bank(texts, rows, target.mesh)
    common = statistics.over_bank(_centre(texts)[None], rows, target.mesh).variance[0]
    unit = np.sqrt(max(found.variance.mean() - common, 0.0))
    if unit > _COLLAPSED * np.sqrt((found.mean**2 + found.variance).mean()):
        return Scored(images, texts, rows, np.zeros(len(texts)), float(unit), found)
    return _apart(images, texts, rows, found.mean, target)


def _apart(images: RowSource, texts: RowSource, rows: RowSource, mean: np.ndarray, target: base.Target) -> Scored:
    """Returns rows less the means of the bank and of the distinct reports, at a scale near 1."""
    shared, common = _centre(rows), _centre(texts)
    queries, reports = _less(images, shared), _less(texts, common)
    held = queries if rows is images else _less(rows, shared)
    scales = [float(np.sqrt(np.mean(np.einsum("nd,nd->n", side, side, dtype=np.float64)))) or 1.0 for side in (held, reports)]
    queries, held, reports = queries / np.float32(scales[0]), held / np.float32(scales[0]), reports / np.float32(scales[1])
    moments = statistics.over_bank(reports, held, target.mesh)
    unit = float(np.sqrt(moments.variance.mean())) or 1.0
    return Scored(queries, reports, held, (mean - mean.mean()) / (scales[0] * scales[1]), unit, moments)


def _centre(rows: RowSource) -> np.ndarray:
    """Returns the mean row, float64 [D], exact where all rows are equal."""
    first = rows[0].astype(np.float64)
    return first + sum((rows[block].astype(np.float64) - first).sum(axis=0) for block in blocks(rows)) / len(rows)


def _less(rows: RowSource, centre: np.ndarray) -> np.ndarray:
    """Returns float32 rows less `centre`, subtracted in float64."""
    out = np.empty(rows.shape, np.float32)
    for block in blocks(rows):
        out[block] = rows[block].astype(np.float64) - centre
    return out
