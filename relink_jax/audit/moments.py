"""Second moments of image-report pairs, gathered in one stream, by fold: all that a linear map between the two sides is fitted on.

Sums over a fold are sums, so what is fitted without one fold costs no second look at the pairs. Where there are fewer pairs than dimensions, rows are
first written in an orthonormal basis of what the pairs span: least squares with a ridge, and canonical correlations, are the same there and
as cheap as their dual.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from relink_jax.store.rows import RowSource

_BLOCK = 4096
_NOTHING = 1e-10  # of the largest singular value, below which pairs do not span a direction


@dataclasses.dataclass(frozen=True)
class Side:
    """Coordinates of one side's rows: (row - center) / scale, in `basis` where there is one.

    Attributes:
        center, scale: float64 [D]. basis: orthonormal float64 [D, r], None for the dimensions themselves.
    """

    center: np.ndarray
    scale: np.ndarray
    basis: np.ndarray | None = None

    @property
    def width(self) -> int:
        """Dimensions D of a row."""
        return len(self.center)

    def coordinates(self, rows: np.ndarray) -> np.ndarray:
        """Returns float64 [n, r] of rows [n, D]."""
        moved = (np.asarray(rows, np.float64) - self.center) / self.scale
        return moved if self.basis is None else moved @ self.basis

    def weights(self, solved: np.ndarray) -> np.ndarray:
        """Returns the map [D, E] of centred rows that does what `solved` [r, E] does to coordinates."""
        return (solved if self.basis is None else self.basis @ solved) / self.scale[:, None]


def side(rows: RowSource, *, standardise: bool = False, spanned: bool = True) -> Side:
    """Returns the coordinates of rows [n, D] about their mean.

    Args:
        standardise: divide each dimension by its standard deviation, where it has one.
        spanned: take a basis of what the rows span where they are fewer than their dimensions.
    """
    n, width = rows.shape
    center = sum(np.asarray(rows[part], np.float64).sum(axis=0) for part in _blocks(n)) / n
    scale = np.ones(width)
    if standardise:
        spread = np.sqrt(sum(((np.asarray(rows[part], np.float64) - center) ** 2).sum(axis=0) for part in _blocks(n)) / n)
        scale = np.where(spread > 1e-9 * np.abs(center).max(initial=0), spread, 1.0)
    found = Side(center, scale)
    if not spanned or n > width:
        return found
    _, size, axes = np.linalg.svd(found.coordinates(rows[:]), full_matrices=False)
    return Side(center, scale, axes[: max(1, int((size > _NOTHING * size[0]).sum()))].T)


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over n pairs of coordinates z = (x, y), x the first `split` of them: `sums` [r] of z and `products` [r, r] of z z'."""

    n: int
    split: int
    sums: np.ndarray
    products: np.ndarray

    def about(self, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns sums of (x x', x y', y y') with `mean` [r] taken from z."""
        cross = np.outer(self.sums, mean)
        moved = self.products - cross - cross.T + self.n * np.outer(mean, mean)
        return moved[: self.split, : self.split], moved[: self.split, self.split :], moved[self.split :, self.split :]

    @property
    def mean(self) -> np.ndarray:
        """Mean of z, [r]."""
        return self.sums / self.n


def total(parts: Sequence[Moments]) -> Moments:
    """Returns the moments of all pairs of `parts` together."""
    first = parts[0]
    return Moments(sum(part.n for part in parts), first.split, sum(part.sums for part in parts), sum(part.products for part in parts))  # type: ignore[arg-type]


def by_fold(images: RowSource, texts: RowSource, sides: tuple[Side, Side], fold: np.ndarray) -> list[Moments]:
    """Returns the moments of the pairs of each fold 0, 1, ...; images [n, D] and texts [n, G] are pairs row by row, fold int [n]."""
    found: dict[int, Moments] = {}
    for part in _blocks(len(fold)):
        x, y = sides[0].coordinates(images[part]), sides[1].coordinates(texts[part])
        rows, inside = np.concatenate([x, y], axis=1), fold[part]
        for number in np.unique(inside):
            mine = rows[inside == number]
            here = Moments(len(mine), x.shape[1], mine.sum(axis=0), mine.T @ mine)
            found[int(number)] = total([found[int(number)], here]) if number in found else here
    return [found[number] for number in sorted(found)]


def folds(patient: np.ndarray, most: int) -> np.ndarray:
    """Returns a fold 0 .. min(most, patients) - 1 of each pair, int64 [n], all pairs of one patient in one fold."""
    people, owner = np.unique(patient, return_inverse=True)
    return owner.ravel() % min(most, len(people))


def _blocks(n: int) -> list[slice]:
    return [slice(first, first + _BLOCK) for first in range(0, n, _BLOCK)]
