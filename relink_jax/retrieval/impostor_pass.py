"""One streamed pass over all impostor pairs: their histogram, and every score above a floor that a sample gives.

A step adds each score of its tiles to a histogram on its device, and gathers the groups of neighbours whose greatest score is above the
floor. The floor rises as better scores are found. A tile with more such groups than there is room for is looked through on the host.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from relink_jax.retrieval import resume, sides, streamed
from relink_jax.retrieval.engine import Engine
from relink_jax.retrieval.product import product
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress

GROUP = 64  # neighbours gathered together; divides tile widths
MOST = (1 << 31) - 1  # scores in a histogram of a device before its int32 counts go to the host
_TAIL = ("score", "image", "study")
_MARGIN = 2  # times the wanted tail that the floor guessed from a sample should leave


def edges(bins: int) -> np.ndarray:
    """Returns the edges of equal bins over [-1, 1] of which the outer ones are open, float64 [bins + 1]; powers of two have them exact."""
    inner = np.arange(1 - bins // 2, bins // 2) / (bins // 2)
    return np.concatenate([[-np.inf], inner, [np.inf]])


def floor_of(histogram: np.ndarray, wanted: int) -> float:
    """Returns a float32 below the edge of the last bin from which on a histogram holds `wanted` scores, so that they are above it."""
    from_here_on = np.cumsum(histogram[::-1])[::-1]
    edge = edges(len(histogram))[max(0, int((from_here_on >= wanted).sum()) - 1)]
    return float(np.nextafter(np.float32(edge), np.float32(-np.inf)))


class Gathered(NamedTuple):
    """What a step leaves of each tile of each device: the first groups with a score above the floor.

    group: int32 [devices * n_tiles, room], row of the batch times groups per row, plus the group. scores: float32 [.., room, GROUP].
    there: int32 [devices * n_tiles], groups there were; past `room` they are not gathered.
    """

    group: Any
    scores: Any
    there: Any


class Tail:
    """The greatest `wanted` scores among those added so far.

    Attributes:
        floor: scores that are not above it are not needed. held: scores that are held.
    """

    def __init__(self, wanted: int, floor: float = -math.inf) -> None:
        self.wanted, self.floor, self.held = wanted, floor, 0
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, score: np.ndarray, image: np.ndarray, study: np.ndarray) -> None:
        """Takes scores above the floor, float32 [n], with the numbers int32 [n] of their images and studies."""
        self._parts.append((score, image, study))
        self.held += len(score)
        if self.held > 2 * self.wanted:
            self._prune()

    def finished(self, whole: bool) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Returns (cut, scores, images, studies) of all above the cut, by score descending, then image, then study.

        The cut is the least of the `wanted`; where they are the whole, it is -inf. Nothing wanted leaves a cut of +inf.
        """
        cut = -math.inf if whole else math.inf
        if self.wanted and not whole:
            self._prune()
            cut = float(self._parts[0][0].min())
        score, image, study = _joined(self._parts)
        order = np.lexsort((study, image, -score))
        order = order[score[order] > cut]
        return cut, score[order], image[order], study[order]

    def _prune(self) -> None:
        """Keeps `wanted` scores, and no more of those that tie with the least than fit: none above the cut is ever lost."""
        joined = _joined(self._parts)
        if len(joined[0]) > self.wanted:
            best = np.argpartition(joined[0], len(joined[0]) - self.wanted)[-self.wanted :] if self.wanted else np.zeros(0, np.intp)
            joined = tuple(array[best] for array in joined)
        self._parts, self.held = [joined], len(joined[0])
        if self.held == self.wanted and self.wanted:
            self.floor = max(self.floor, float(joined[0].min()))


def _joined(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    empty = (np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(0, np.int32))
    return tuple(np.concatenate(arrays) for arrays in zip(empty, *parts, strict=True))


class Pass:
    """A pass over the pairs of an engine, one panel at a time: the compiled step, its histogram on the devices and its count on the host.

    Args: room: groups gathered from each tile, 0 for none.
    """

    def __init__(self, work: Engine, bins: int, room: int) -> None:
        self.work, self.bins, self.room = work, bins, room
        self.histogram = np.zeros(bins, np.int64)
        per_step = work.images.width // work.mesh.size * work.tiles * work.studies.width
        self._state, self._steps, self._every = self._empty(), 0, max(1, MOST // per_step)

    def step(self, columns: sides.Studies, floor: Callable[[], float], _: np.ndarray, images: sides.Images) -> Gathered | tuple[()]:
        """Dispatches one batch, whatever its numbers."""
        if self._steps == self._every:
            self.flush()
        self._steps += 1
        self._state, found = _program(self.work.mesh, self.bins, self.room)(images, columns, self._state, np.float32(floor()))
        return found

    def flush(self) -> np.ndarray:
        """Returns the histogram so far, int64 [bins]."""
        self.histogram += meshes.to_host(self._state).sum(axis=0, dtype=np.int64)[: self.bins]
        self._state, self._steps = self._empty(), 0
        return self.histogram

    def _empty(self) -> jax.Array:
        return meshes.put(np.zeros((self.work.mesh.size, self.bins + 1), np.int32), meshes.split(self.work.mesh, 0))


def room(work: Engine, share: float) -> int:
    """Returns how many groups of a tile may hold a score of the greatest `share`: twice as many as there are such scores, or all groups."""
    places = work.images.width // work.mesh.size * work.studies.width
    return min(places // GROUP, math.ceil(2 * share * places) + GROUP) if share else 0


def run(work: Engine, bins: int, tail: Tail, total: int, what: str, guess: bool, kept: resume.Place | None = None) -> np.ndarray:
    """Returns the histogram of all pairs, int64 [bins], and adds what is above its floor to the tail.

    Args:
        total: number of pairs. what: words for the progress bar. guess: the floor of the tail is to be guessed from a sample first.
        kept: where finished parts are kept, of which each has what it added to the tail, and the histogram after it; None keeps none.
    """
    share = tail.wanted / total
    counted = Pass(work, bins, room(work, _MARGIN * share))
    asked = {"bins": bins, "wanted": tail.wanted, "guess": guess}
    with progress.bar(len(work.records.images) * work.panels, what, "images") as shown:
        for panel, columns in enumerate(streamed.panels(work)):
            if guess and tail.wanted and not panel:
                tail.floor = _guess(work, columns, bins, share)
            studies = work.studies.number[panel * work.tiles : (panel + 1) * work.tiles]
            step = functools.partial(counted.step, columns, lambda: tail.floor)
            held = streamed.parts(work, kept, panel, asked, what)
            done, covered = _taken_up(held, counted, tail)
            shown.update(min(covered, len(work.records.images)))
            for index, (start, stop) in enumerate(streamed.spans(work, covered, whole=held is None), done):
                added: list[tuple[np.ndarray, ...]] = []
                for number, found in streamed.batches(work, (number for number, _ in work.images.batches(start, stop)), step):
                    if found:
                        for part in _above(work, columns, studies, number, found, tail):
                            tail.add(*part)
                            added += [] if held is None else [part]
                    shown.update(int((number >= 0).sum()))
                if held is not None:
                    needed = [tuple(array[part[0] >= tail.floor] for array in part) for part in added]
                    held.write(index, dict(zip(_TAIL, _joined(needed), strict=True)), start, stop, counted.flush())
    return counted.flush()


def _taken_up(held: resume.Parts | None, counted: Pass, tail: Tail) -> tuple[int, int]:
    """Takes the finished parts of a panel into histogram and tail, and returns (how many, places that they cover)."""
    if held is None:
        return 0, 0
    done, histogram, covered = held.finished()
    for part in done:
        tail.add(*(part[name] for name in _TAIL))
    if histogram is not None:
        counted.histogram = histogram
    return len(done), covered


def _guess(work: Engine, columns: sides.Studies, bins: int, share: float) -> float:
    """Returns a floor that a sample of images has some times the wanted share of scores above."""
    n, width = len(work.records.images), work.images.width
    chosen = np.unique(np.linspace(0, n - 1, min(n, width)).astype(np.int64))
    counted = Pass(work, bins, 0)
    for _ in streamed.batches(work, streamed.regrouped(work, chosen), functools.partial(counted.step, columns, lambda: math.inf)):
        pass
    histogram = counted.flush()
    return floor_of(histogram, min(int(histogram.sum()), math.ceil(_MARGIN * share * histogram.sum()) + 8))


def _above(
    work: Engine, columns: sides.Studies, studies: np.ndarray, number: np.ndarray, found: Any, tail: Tail
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (scores, images, studies) above the floor of a batch of images `number` [R], with studies [n_tiles, T]."""
    n_tiles, width = studies.shape
    if (found.there <= found.group.shape[1]).all():
        live = (np.arange(found.group.shape[1]) < found.there[:, None])[:, :, None]
        part, slot, lane = np.nonzero((found.scores > np.float32(tail.floor)) & live)
        row, group = np.divmod(found.group[part, slot], width // GROUP)
        yield _impostors(work, found.scores[part, slot, lane], number[row], studies[part % n_tiles, group * GROUP + lane])
        return
    images = work.batch(number, work.images.block[0], streamed.nowhere(work))
    for tile in range(n_tiles):
        scores = np.asarray(_tile(work.mesh)(images.vectors, columns.vectors, np.int32(tile)))
        row, place = np.nonzero(scores > np.float32(tail.floor))
        yield _impostors(work, scores[row, place], number[row], studies[tile, place])


def _impostors(work: Engine, score: np.ndarray, image: np.ndarray, study: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns those of the pairs that are pairs, and impostors."""
    key = work.records.exclusion
    kept = (image >= 0) & (study >= 0)
    kept[kept] = key[work.records.image_study[image[kept]]] != key[study[kept]]
    return score[kept], image[kept], study[kept]


@functools.lru_cache(maxsize=32)
def _program(mesh: Mesh, bins: int, room: int) -> Callable[..., tuple[jax.Array, Gathered | tuple[()]]]:
    """Returns jitted f(images, studies, histogram int32 [devices, bins + 1], floor) -> (histogram, Gathered), which consumes the histogram."""
    rows, whole = streamed.ROWS, streamed.WHOLE
    found = Gathered(rows, rows, rows) if room else ()
    local = functools.partial(_local, bins=bins, room=room)
    shared = jax.shard_map(local, mesh=mesh, in_specs=(streamed.IMAGES, whole, rows, whole), out_specs=(rows, found), check_vma=False)
    kept = jax.tree.map(lambda _: meshes.replicated(mesh), found)
    return jax.jit(shared, donate_argnums=2, out_shardings=(meshes.split(mesh, 0), kept))


def _local(
    images: sides.Images, studies: sides.Studies, histogram: jax.Array, floor: jax.Array, *, bins: int, room: int
) -> tuple[jax.Array, Gathered | tuple[()]]:
    """Runs one device's images over all tiles. Pairs that are none go to a bin of their own, the last."""
    half, n = bins // 2, len(images.study)
    first = lax.axis_index(meshes.DATA) * n

    def one_tile(histogram: jax.Array, tile: sides.Studies) -> tuple[jax.Array, Gathered | tuple[()]]:
        scores = product(images.vectors, tile.vectors)
        counted = (images.key[:, None] != tile.key[None, :]) & (images.study >= 0)[:, None] & (tile.study >= 0)[None, :]
        place = jnp.clip(jnp.floor(scores * half), -half, half - 1).astype(jnp.int32) + half
        histogram = histogram.at[jnp.where(counted, place, bins)].add(1, mode="promise_in_bounds")
        if not room:
            return histogram, ()
        greatest = jnp.max(jnp.where(counted, scores, -jnp.inf).reshape(n, -1, GROUP), axis=2)
        group, there = _first(greatest.ravel() > floor, room)
        return histogram, Gathered(group + first * greatest.shape[1], scores.reshape(-1, GROUP)[group], there)

    histogram, found = lax.scan(one_tile, histogram[0], studies)
    return histogram[None], found


def _first(marked: jax.Array, room: int) -> tuple[jax.Array, jax.Array]:
    """Returns (numbers int32 [room] of the first that are marked, with zeros past them, how many are marked) of bool [n]."""
    before = jnp.cumsum(marked.astype(jnp.int32))
    place = jnp.where(marked, before - 1, room)
    return jnp.zeros(room, jnp.int32).at[place].set(jnp.arange(len(marked), dtype=jnp.int32), mode="drop", unique_indices=False), before[-1]


@functools.lru_cache(maxsize=8)
def _tile(mesh: Mesh) -> Callable[..., jax.Array]:
    """Returns jitted f(images [R, D], tiles [n_tiles, D, T], number of a tile) -> its scores [R, T]."""
    rows, whole = streamed.ROWS, streamed.WHOLE
    local = lambda images, tiles, number: product(images, lax.dynamic_index_in_dim(tiles, number, keepdims=False))  # noqa: E731
    shared = jax.shard_map(local, mesh=mesh, in_specs=(rows, whole, whole), out_specs=rows, check_vma=False)
    return jax.jit(shared, out_shardings=meshes.replicated(mesh))
