"""Groups of reports that say nearly the same: copied-forward text with a word added, the same template with another date.

Two texts are near duplicates when the sets of their word 3-shingles have a Jaccard index of at least 0.9; groups are what such pairs connect.
MinHash (Broder 1997, "On the resemblance and containment of documents") with banding proposes pairs, and only those whose exact index is
high enough count, so that no group is too large; a pair of index 0.9 escapes all bands with a chance of about 1e-4. Hashes depend on the
words alone: a text's neighbours are the same in any cohort and any order.
"""

import itertools
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse

from relink_jax.cohort import words

THRESHOLD = 0.9
_BANDS, _ROWS = 16, 8
_SURE = 0.15  # how far below the threshold the share of equal hashes of a near pair is never found: more than five standard deviations
_BLOCK = 1 << 21  # shingles hashed at a time
_PAIRS = 1 << 16  # pairs looked at together
_SEED = 20260602


def groups(texts: Sequence[str], threshold: float = THRESHOLD) -> np.ndarray:
    """Returns the group of each text, int32 [n_texts], numbered in order of first appearance; equal texts share one.

    Case and punctuation between words do not count. A text of fewer than three words is one shingle.

    Args: threshold: least Jaccard index of a near duplicate; bands are made for values from 0.9 on and miss more pairs below.
    """
    shingle, hashed, start = _shingles(words.numbered(texts))
    signature = _signatures(hashed, start)
    group = np.arange(len(texts), dtype=np.int64)
    for band in range(_BANDS):
        key = np.ascontiguousarray(signature[:, band * _ROWS : (band + 1) * _ROWS]).view(f"V{4 * _ROWS}").ravel()
        for first, second in _met(np.unique(key, return_inverse=True)[1], group):
            near = (signature[first] == signature[second]).mean(axis=1) >= threshold - _SURE
            first, second = first[near], second[near]
            same = _jaccard(shingle, start, first, second) >= threshold
            _join(group, first[same], second[same])
    _, place, number = np.unique(group, return_index=True, return_inverse=True)
    order = np.empty(len(place), np.int32)
    order[np.argsort(place)] = np.arange(len(place), dtype=np.int32)
    return order[number]


def _shingles(found: words.Words) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (numbers int64 [T] of each text's distinct shingles, ascending; their hashes uint64 [T]; where each text begins, int64 [n + 1])."""
    size = np.maximum(np.diff(found.start), 1)
    span = len(found.known) + 1  # the last number is of no word, behind the end of a short text
    many = np.maximum(size - 2, 1)
    owner = np.repeat(np.arange(len(size)), many)
    at = found.start[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(many) - many, many)
    padded = np.append(found.number, [span - 1] * 3).astype(np.int64)
    three = [np.where(at + step < found.start[owner + 1], padded[at + step], span - 1) for step in range(3)]
    of_pair = np.unique(three[0] * span + three[1], return_inverse=True)[1]
    _, first, shingle = np.unique(of_pair * span + three[2], return_index=True, return_inverse=True)
    of_word = np.array([zlib.crc32(word.encode()) for word in found.known] + [0], np.uint64)
    mixed = np.zeros(len(first), np.uint64)
    for part in three:
        mixed = _mixed(mixed + of_word[part[first]])
    kept = words.distinct(owner * np.int64(len(first)) + shingle)
    owner, shingle = np.divmod(kept, np.int64(len(first)))
    return shingle, mixed[shingle], np.searchsorted(owner, np.arange(len(size) + 1))


def _mixed(value: np.ndarray) -> np.ndarray:
    """Returns 64-bit numbers spread over their range, as in splitmix64 (Steele, Lea and Flood 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _signatures(hashed: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Returns the least of each of the hash functions over the shingles of each text, uint32 [n_texts, bands * rows]."""
    draw = np.random.default_rng(_SEED)
    factor, shift = (draw.integers(0, 2**64, _BANDS * _ROWS, np.uint64) for _ in range(2))
    out = np.empty((len(start) - 1, _BANDS * _ROWS), np.uint32)
    edges = np.unique(np.append(np.searchsorted(start, np.arange(0, start[-1], _BLOCK)), len(start) - 1))
    for first, last in itertools.pairwise(edges.tolist()):
        part, begin = hashed[start[first] : start[last]], start[first:last] - start[first]
        for number in range(_BANDS * _ROWS):
            value = ((part * (factor[number] | np.uint64(1)) + shift[number]) >> np.uint64(32)).astype(np.uint32)
            out[first:last, number] = np.minimum.reduceat(value, begin)
    return out


def _met(key: np.ndarray, group: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields pairs (first, second) of texts with one key [n] that are not yet in one group; `group` may change meanwhile.

    Each text meets the next of its key, then the one after that, so that texts that are all alike are joined after one round.
    """
    order = np.argsort(key, kind="stable")
    last = np.searchsorted(key[order], key[order], side="right")  # where the text's key ends
    active, step = np.arange(len(order)), 1
    while len(active := active[active + step < last[active]]):
        if step > 1:
            of = group[order]
            apart = np.zeros(len(order), bool)
            apart[1:] = (of[1:] != of[:-1]) & (key[order[1:]] == key[order[:-1]])
            mixed = np.bincount(key[order], apart) > 0
            active = active[mixed[key[order[active]]]]
        for begin in range(0, len(active), _PAIRS):
            here = active[begin : begin + _PAIRS]
            first, second = order[here], order[here + step]
            different = group[first] != group[second]
            yield first[different], second[different]
        step += 1


def _jaccard(shingle: np.ndarray, start: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the Jaccard index of the shingle sets of pairs of texts, float64 [n]."""
    size, span = np.diff(start), np.int64(shingle.max(initial=0)) + 1

    def keyed(text: np.ndarray) -> np.ndarray:
        pair = np.repeat(np.arange(len(text)), size[text])
        ends = np.cumsum(size[text])
        return pair * span + shingle[start[text[pair]] + np.arange(len(pair)) - (ends - size[text])[pair]]

    left, right = keyed(first), keyed(second)
    place = np.minimum(np.searchsorted(right, left), max(0, len(right) - 1))
    shared = np.bincount(left[right[place] == left] // span, minlength=len(first)) if len(first) else np.zeros(0)
    return shared / np.maximum(size[first] + size[second] - shared, 1)


def _join(group: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Makes the groups [n] of each pair one, in place."""
    if not len(first):
        return
    touched, ends = np.unique([group[first], group[second]], return_inverse=True)
    ends = ends.reshape(2, -1)
    graph = sparse.coo_matrix((np.ones(len(first), bool), (ends[0], ends[1])), shape=(len(touched),) * 2)
    _, part = sparse.csgraph.connected_components(graph, directed=False)
    lowest = np.full(part.max() + 1, touched[-1])
    np.minimum.at(lowest, part, touched)
    renamed = np.arange(len(group), dtype=np.int64)
    renamed[touched] = lowest[part]
    group[:] = renamed[group]
