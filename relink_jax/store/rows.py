"""Rows of a matrix by number, wherever they lie: what a counting pass reads from may be an array, or shards on disk.

`Rows` lie in parts, such as the shards of `store.shards`. A part is opened, and so checked, when one of its rows is first read; from then on
a thread opens the others in order, so that checking overlaps with whatever is done with the rows. No row that was read is kept.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from relink_jax import errors

_BLOCK_BYTES = 2**21  # of a block in float64, which then stays in a cache while it is worked on


class RowSource(Protocol):
    """What gives rows [n, D] by number, slice or array of numbers: a NumPy array, or `Rows`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, D)."""

    @property
    def dtype(self) -> np.dtype:
        """Of the rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> np.ndarray: ...


class Parts:
    """Parts of `size` rows each, of which the last may have fewer; several threads may read them.

    Args:
        opened: returns part `number`, float32 [rows, D], or raises what is wrong with it. Called once for each part, and again only after it raised.
    """

    def __init__(self, count: int, size: int, opened: Callable[[int], np.ndarray]) -> None:
        self._size, self._opened = size, opened
        self._parts: list[np.ndarray | None] = [None] * count
        self._locks = [threading.Lock() for _ in range(count)]
        self._ahead, self._first = threading.Thread(target=self._open_all, daemon=True), threading.Lock()

    @property
    def width(self) -> int:
        """Numbers in a row, D."""
        return self._part(0).shape[1]

    def read(self, number: np.ndarray) -> np.ndarray:
        """Returns a copy of rows `number` [k], float32 [k, D]; raises what opening their parts raises."""
        rows, part_of = np.empty((len(number), self.width), np.float32), number // self._size
        for part in np.unique(part_of):
            here = np.flatnonzero(part_of == part)
            rows[here] = self._part(part)[number[here] - part * self._size]
        return rows

    def _part(self, part: int) -> np.ndarray:
        if self._first.acquire(blocking=False):
            self._ahead.start()
        with self._locks[part]:
            found = self._parts[part]
            if found is None:
                found = self._parts[part] = self._opened(part)
        return found

    def _open_all(self) -> None:
        with contextlib.suppress(errors.RelinkError):  # raised again where a row of that part is read
            for part in range(len(self._parts)):
                self._part(part)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Float32 rows [n, D] of parts, read when they are asked for.

    Attributes:
        parts: where they lie. number: int [n], the number there of each row.
        change: what rows [k, D] that were read go through, which gives rows alike in shape; None for nothing.
    """

    parts: Parts
    number: np.ndarray
    change: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, D)."""
        return len(self.number), self.parts.width

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, index: Any, /) -> np.ndarray:
        number = self.number[index]
        rows = self.parts.read(np.ravel(number))
        return (rows if self.change is None else self.change(rows)).reshape(*np.shape(number), rows.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Every row at once, for what needs an array."""
        return np.asarray(self[:], dtype)


def select(source: RowSource, number: np.ndarray) -> RowSource:
    """Returns rows `number` of `source`: a copy of an array's, and of `Rows` a view that reads none of them yet."""
    return dataclasses.replace(source, number=source.number[number]) if isinstance(source, Rows) else source[number]


def blocks(source: RowSource) -> Iterator[slice]:
    """Yields slices that cover the rows of `source` in order, in blocks that need little memory."""
    size = max(1, _BLOCK_BYTES // (8 * max(1, source.shape[1])))
    for first in range(0, len(source), size):
        yield slice(first, first + size)
