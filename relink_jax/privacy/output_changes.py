"""What may be done to embeddings before they are given away: rotated, blurred, cut to fewer dimensions or coarser numbers.

Each change is fitted on training embeddings where it is fitted at all, is the same for images, reports and public anchors except where it says
otherwise, and gives unit-norm rows back. None of them is differentially private as it stands here.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from relink_jax import errors


class Embeddings(NamedTuple):
    """Unit-norm float32 rows: images [n, D], reports [u, D], public anchors [A, D]."""

    images: np.ndarray
    texts: np.ndarray
    anchors: np.ndarray


def changed(name: str, amount: float, rows: Embeddings, training: np.ndarray, seed: int) -> Embeddings:
    """Returns the rows after the change called `name`.

    Args:
        amount: norm of the noise, share of the width that is kept, or bits; see `CHANGES`.
        training: float32 [m, D], training embeddings of both sides, which changes are fitted on.
        seed: of the change's own draw; public.
    Raises: UsageError: unknown name.
    """
    if name not in CHANGES:
        raise errors.UsageError(errors.describe("change of embeddings", "controls", f"one of {list(CHANGES)}", repr(name)) + errors.suggest(name, CHANGES))
    done = CHANGES[name](amount, rows, training, np.random.default_rng([seed, 0x0C7]))
    return Embeddings(*(unit(side) for side in done))


def unit(rows: np.ndarray) -> np.ndarray:
    """Returns rows of norm 1, float32; a zero row becomes the first axis, so that all of them tie."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    scaled[norms[:, 0] == 0, 0] = 1
    return scaled.astype(np.float32)


def _rotation(amount: float, rows: Embeddings, training: np.ndarray, generator: np.random.Generator) -> Embeddings:
    """Image embeddings turned by one random rotation, as a rotated image head would give them; reports and anchors stay."""
    return rows._replace(images=rows.images @ _orthogonal(rows.images.shape[1], generator))


def _noise(amount: float, rows: Embeddings, training: np.ndarray, generator: np.random.Generator) -> Embeddings:
    """Gaussian noise of norm about `amount` on every image and report, drawn once; public anchors stay."""
    images, texts = (side + amount / np.sqrt(side.shape[1]) * generator.standard_normal(side.shape) for side in rows[:2])
    return Embeddings(images, texts, rows.anchors)


def _pca(amount: float, rows: Embeddings, training: np.ndarray, generator: np.random.Generator) -> Embeddings:
    """The leading principal directions of training embeddings, not centred, a share `amount` of the width."""
    axes = np.linalg.eigh(training.T.astype(np.float64) @ training)[1][:, ::-1]
    return _onto(axes[:, : _kept(amount, rows)], rows)


def _random_projection(amount: float, rows: Embeddings, training: np.ndarray, generator: np.random.Generator) -> Embeddings:
    """Random orthonormal directions, a share `amount` of the width."""
    return _onto(_orthogonal(rows.images.shape[1], generator)[:, : _kept(amount, rows)], rows)


def _quantise(amount: float, rows: Embeddings, training: np.ndarray, generator: np.random.Generator) -> Embeddings:
    """Every number rounded to one of 2^amount equal steps between the least and the largest that its dimension has in training."""
    low, high = training.min(axis=0), training.max(axis=0)
    step = np.maximum(high - low, np.finfo(np.float32).tiny) / (2**amount - 1)
    return Embeddings(*(low + step * np.round((np.clip(side, low, high) - low) / step) for side in rows))


CHANGES: dict[str, Callable[[float, Embeddings, np.ndarray, np.random.Generator], Embeddings]] = {
    "rotation": _rotation,
    "noise": _noise,
    "pca": _pca,
    "random_projection": _random_projection,
    "quantise": _quantise,
}


def _kept(amount: float, rows: Embeddings) -> int:
    return max(1, round(amount * rows.images.shape[1]))


def _onto(axes: np.ndarray, rows: Embeddings) -> Embeddings:
    return Embeddings(*(side @ axes for side in rows))


def _orthogonal(width: int, generator: np.random.Generator) -> np.ndarray:
    """Returns a uniformly random orthogonal matrix [D, D] (Mezzadri 2007, arXiv math-ph/0609050)."""
    q, r = np.linalg.qr(generator.standard_normal((width, width)))
    return q * np.sign(np.diag(r))
