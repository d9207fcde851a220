"""Packing of byte-identical rows into fixed-shape tiles, so that every distinct score is computed once.

Members (images or studies) that share one embedding row form a group. A tile holds up to `width` members of consecutive
groups and the distinct rows of those groups; scores are computed between distinct rows and then copied to members, which
makes ties between duplicates exact by construction, whatever the matmul rounds.

Design note: a group larger than a tile is the one exception; it is split, and its row then sits at slot 0 of each of its
tiles, so the same matmul on the same operands yields the same bits.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Packing:
    """Tiles of one side; arrays [n_tiles, width], -1 where padded.

    Attributes:
        group: group number of each distinct-row slot.
        lead: whether the slot is the first occurrence of its group (false for padding and continued groups).
        member: member number at each member position, ordered by group and then by number.
        slot: position of the member's row among the tile's distinct rows (0 where padded).
    """

    group: np.ndarray
    lead: np.ndarray
    member: np.ndarray
    slot: np.ndarray

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return len(self.group)

    def locate(self, n_members: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (tile, position) of every member, int32 [n_members]."""
        tile, position = np.nonzero(self.member >= 0)
        found = np.empty((2, n_members), np.int32)
        found[:, self.member[tile, position]] = tile, position
        return found[0], found[1]


def unique_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (indices of the first row of each distinct value by bytes, group number per row), groups in order of first appearance."""
    if not len(rows):
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    raw = np.ascontiguousarray(rows)
    keys = raw.view(np.dtype((np.void, raw.dtype.itemsize * raw.shape[1]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return first[order].astype(np.int32), rank[inverse.ravel()]


def pack(group: np.ndarray, width: int) -> Packing:
    """Packs members with the given group numbers (int [n], all of 0..G-1 present) into tiles of `width` positions."""
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    tiles: list[list[tuple[int, int, int]]] = [[]]  # per tile: (group, first of `order`, past-last)
    used = 0
    for number, size in enumerate(sizes):
        if used and used + size > width:
            tiles.append([])
            used = 0
        for start in range(0, size, width):
            if used + min(width, size - start) > width:
                tiles.append([])
                used = 0
            stop = min(start + width, size)
            tiles[-1].append((number, starts[number] + start, starts[number] + stop))
            used += stop - start
    group_of, member = (np.full((len(tiles), width), -1, np.int32) for _ in range(2))
    lead, slot = np.zeros((len(tiles), width), bool), np.zeros((len(tiles), width), np.int32)
    for row, pieces in enumerate(tiles):
        position = 0
        for index, (number, start, stop) in enumerate(pieces):
            group_of[row, index], lead[row, index] = number, start == starts[number]
            member[row, position : position + stop - start] = order[start:stop]
            slot[row, position : position + stop - start] = index
            position += stop - start
    return Packing(group_of, lead, member, slot)
