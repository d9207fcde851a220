"""Places of queries and candidates in the arrays that a device sees.

Candidates lie in tiles of one width, queries in batches of one height, so that one compiled step serves a whole pass. Rows keep the order
of their numbers, except that the jackknife blocks come one after another, each from a multiple of `packed.GROUP`: a group of neighbours
then belongs to one block, and counts per block cost nothing that counts do not.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from relink_jax.retrieval import packed

LANES, ROWS = 128, 64  # tile widths and batch heights are multiples of these: a score then has the same bits wherever in a tile it is computed


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """Rows in places [n_parts, width].

    Attributes:
        number: int32 [n_parts, width], number of the row in each place, -1 for none.
        block: int32 [n_parts, width // GROUP], jackknife block of each group of neighbours; a group without rows belongs to the last.
    """

    number: np.ndarray
    block: np.ndarray

    @property
    def width(self) -> int:
        """Rows per part."""
        return self.number.shape[1]

    def take(self, rows: np.ndarray, fill: float | int) -> np.ndarray:
        """Returns rows[number], [n_parts, width, ...], with `fill` where there is none."""
        taken = rows[np.maximum(self.number, 0)]
        taken[self.number < 0] = fill
        return taken

    def batches(self, first: int = 0, stop: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (number, block) as of one part, of places `first` to `stop` (default: all) in order; -1 past the last place.

        Args: first: a multiple of `packed.GROUP`.
        """
        number, block = self.number.ravel(), self.block.ravel()
        for start in range(first, len(number) if stop is None else stop, self.width):
            lacking = max(0, start + self.width - len(number))
            here, groups = number[start : start + self.width], block[start // packed.GROUP : (start + self.width) // packed.GROUP]
            yield np.pad(here, (0, lacking), constant_values=-1), np.pad(groups, (0, lacking // packed.GROUP), mode="edge")

    def some(self, first: int, count: int, padded: int) -> "Arrangement":
        """Returns parts `first` to `first + count` alone, with empty ones after them up to `padded` in all."""
        chosen, lacking = slice(first, first + count), ((0, padded - count), (0, 0))
        return Arrangement(np.pad(self.number[chosen], lacking, constant_values=-1), np.pad(self.block[chosen], lacking, mode="edge"))

    def blocks_per_part(self) -> int:
        """Returns the largest number of blocks that one part spans."""
        return int((self.block[:, -1] - self.block[:, 0]).max()) + 1

    def back(self, values: np.ndarray, n: int) -> np.ndarray:
        """Returns values [..., n_parts * width or more] of the places as [..., n] in the order of row numbers."""
        places = np.flatnonzero(self.number.ravel() >= 0)
        out = np.empty((*values.shape[:-1], n), values.dtype)
        out[..., self.number.ravel()[places]] = values[..., places]
        return out


def arrange(n: int, width: int, block: np.ndarray | None = None, unit: int = LANES, parts: int = 1, strict: bool = False) -> Arrangement:
    """Returns rows 0 .. n-1 in parts of about `width`, all alike, that leave few places empty.

    Args:
        block: int [n], jackknife block of each row; None puts all into block 0.
        unit: the width is a multiple of it; itself a multiple of `packed.GROUP`.
        parts: the number of parts is a multiple of it.
        strict: no part is wider than `width`, rounded up to a unit.
    """
    blocks = np.zeros(n, np.int32) if block is None else np.asarray(block, np.int32)
    order = np.argsort(blocks, kind="stable").astype(np.int32)
    sizes = np.bincount(blocks) if n else np.zeros(1, np.int64)
    padded = -(-sizes // packed.GROUP) * packed.GROUP
    filled = int(padded.sum())
    whole = filled / (width * parts)
    n_parts = max(1, math.ceil(whole) if strict else round(whole)) * parts
    width = max(unit, -(-filled // (n_parts * unit)) * unit)
    n_parts = max(1, -(-filled // (width * parts))) * parts  # the rounding of many widths may have made some parts superfluous
    number = np.full(n_parts * width, -1, np.int32)
    starts = np.cumsum(padded) - padded
    number[np.arange(n) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)] = order
    of_group = np.full(n_parts * width // packed.GROUP, len(sizes) - 1, np.int32)
    of_group[: filled // packed.GROUP] = np.repeat(np.arange(len(sizes), dtype=np.int32), padded // packed.GROUP)
    return Arrangement(number.reshape(n_parts, width), of_group.reshape(n_parts, -1))
