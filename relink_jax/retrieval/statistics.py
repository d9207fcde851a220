"""What score normalisation needs of each candidate: statistics of its scores over a bank of queries.

  z-norm             mean and standard deviation
  CSLS               mean of the K greatest (Conneau et al. 2018, arXiv 1710.04087)
  inverted softmax   log sum exp of score / temperature (Smith et al. 2017, arXiv 1702.03859; QB-Norm, Bogolin et al. 2022, arXiv 2112.12777)
  Sinkhorn           the same with an offset for each bank row, one pass per half iteration

Mean and variance are closed forms in float64 and cost no pass. The others are one streamed pass over candidates x bank, in which a device
holds one tile of scores; what is not asked for is not computed.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from relink_jax import errors
from relink_jax.retrieval import layout as layouts
from relink_jax.retrieval import loop, packed, resume, sides, streamed, sweep, toplists
from relink_jax.retrieval.counted import Records
from relink_jax.retrieval.engine import Engine
from relink_jax.retrieval.kept import Item, Kept
from relink_jax.retrieval.product import product
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress
from relink_jax.store.rows import RowSource, blocks

_WHERE = "statistics over a bank"
_ARRAYS = ("mean", "variance", "logsumexp", "top_id", "top_score")


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of C candidates over a bank.

    Attributes:
        size: bank rows B. mean, variance: of the scores, float64 [C]; the variance divides by B.
        temperatures: [H]. logsumexp: float64 [C, H], log of the sum over bank rows of exp((score + offset) / temperature).
        top_id, top_score: the K greatest scores and numbers of their bank rows, int32 and float32 [C, K], by score descending, then
            number ascending; -1 and -inf beyond the bank.
    """

    size: int
    mean: np.ndarray
    variance: np.ndarray
    temperatures: tuple[float, ...]
    logsumexp: np.ndarray
    top_id: np.ndarray
    top_score: np.ndarray

    @property
    def sum(self) -> np.ndarray:
        """Sum of the scores, float64 [C]."""
        return self.size * self.mean

    @property
    def sum_squares(self) -> np.ndarray:
        """Sum of the squares of the scores, float64 [C]."""
        return self.size * (self.variance + self.mean**2)

    @property
    def standard_deviation(self) -> np.ndarray:
        """Standard deviation of the scores, float64 [C]."""
        return np.sqrt(self.variance)

    def csls_term(self, k: int | None = None) -> np.ndarray:
        """Returns the mean of the k greatest scores, or of all that are listed, float64 [C].

        Raises: UsageError: k is not between 1 and the length of the lists, which end with the bank.
        """
        listed = min(self.top_score.shape[1], self.size)
        k = listed if k is None else k
        if not 1 <= k <= listed:
            raise errors.UsageError(errors.describe("neighbours of CSLS", _WHERE, f"1 to {listed}", str(k)))
        return self.top_score[:, :k].mean(axis=1, dtype=np.float64)


class Found(NamedTuple):
    """What a step finds for R candidates: the greatest of each tile [R, n_tiles], sums [R, n_tiles, H] of exp((score - greatest) / temperature), lists."""

    greatest: Any
    sums: Any
    score: Any
    place: Any
    settled: Any


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a step computes: log sums for H temperatures, of scores with an `offset` or without, and lists of k from `kept` groups of each tile."""

    temperatures: int
    offset: bool
    k: int
    kept: int

    @property
    def wanted(self) -> sides.Wanted:
        """The lists, as `sweep` takes them."""
        return sides.Wanted(k=self.k, kept=self.kept)


def over_bank(
    candidates: RowSource,
    bank: RowSource,
    mesh: Mesh,
    temperatures: Sequence[float] = (),
    top_k: int = 0,
    *,
    offset: np.ndarray | None = None,
    layout: layouts.Layout = layouts.DEFAULT,
    what: str = "bank statistics",
    kept: Kept | None = None,
    label: str = "statistics",
) -> Statistics:
    """Returns statistics of every candidate over all rows of a bank.

    Scores are those of `product` in float32. Log sums are within 1e-5 of those of the float32 scores, see `_tree_sum`; an error e of a
    score weighs as e / temperature. Lists are exact, and equal on every mesh and layout where scores are.

    Args:
        candidates, bank: float32 [C, D] and [B, D].
        temperatures: of the log sums, above 0. top_k: length of the lists, 0 for none.
        offset: [B], added to the scores of each bank row in the log sums alone; rounded to float32.
        layout: of the pass; its split is not asked, the devices share the candidates.
        what: words for the progress bar.
        kept: where the statistics are kept under `label`, unless they cost very little, and parts of a long pass until then; None keeps nothing.
            They depend on its identity alone, so the rows must follow from that.
    Raises: DataError: no rows on a side, or rows of unlike widths. UsageError: a temperature or `top_k` out of range, or a layout that
        does not fit the devices' memory. StoreError, StoppedError: see `resume`.
    """
    _check(candidates, bank, temperatures, top_k, offset)
    number = np.arange(len(bank), dtype=np.int32)
    records = Records(candidates, np.zeros(len(candidates), np.int32), bank, number, number, {})
    shelf = loop.worth(records, kept, brief=True) if len(temperatures) or top_k else None
    if shelf is None:
        return _made(records, mesh, temperatures, top_k, offset, layout, what, None)
    parts = loop.worth(records, shelf.parts(label))

    def made() -> Item:
        found = _made(records, mesh, temperatures, top_k, offset, layout, what, parts)
        return Item({name: getattr(found, name) for name in _ARRAYS}, {})

    asked = {"temperatures": list(map(float, temperatures)), "top_k": top_k}
    return Statistics(size=len(bank), temperatures=tuple(temperatures), **shelf.once(label, made, asked).arrays)


def _made(
    records: Records,
    mesh: Mesh,
    temperatures: Sequence[float],
    top_k: int,
    offset: np.ndarray | None,
    layout: layouts.Layout,
    what: str,
    kept: resume.Place | None,
) -> Statistics:
    """Returns what `over_bank` does of candidates that are the records' images, and a bank that is their texts."""
    candidates, bank = records.images, records.texts
    mean, variance = _moments(candidates, bank)
    n, rates = len(candidates), 1 / np.asarray(temperatures, np.float64)
    logsumexp = np.full((n, len(rates)), -np.inf)
    lists = np.full((n, top_k), -np.inf, np.float32), np.full((n, top_k), -1, np.int32)
    if len(rates) or top_k:
        work = streamed.engine(records, mesh, layout, top_k, kept=kept, what=what)
        lists = _pass(work, rates, logsumexp, lists, offset, what, kept)
    return Statistics(len(bank), mean, variance, tuple(temperatures), logsumexp, lists[1], lists[0])


def _check(candidates: RowSource, bank: RowSource, temperatures: Sequence[float], top_k: int, offset: np.ndarray | None) -> None:
    for name, rows in (("candidates", candidates), ("bank rows", bank)):
        if not len(rows):
            raise errors.DataError(errors.describe(name, _WHERE, "at least one", "none"))
    if candidates.shape[1] != bank.shape[1]:
        raise errors.DataError(errors.describe("width of bank rows", _WHERE, str(candidates.shape[1]), str(bank.shape[1])))
    if offset is not None and offset.shape != (len(bank),):
        raise errors.DataError(errors.describe("offsets", _WHERE, f"{len(bank)}, one for each bank row", str(offset.shape)))
    for temperature in temperatures:
        if not 0 < temperature < np.inf:
            raise errors.UsageError(errors.describe("temperature", _WHERE, "a number above 0", str(temperature)))
    if top_k < 0:
        raise errors.UsageError(errors.describe("length of lists", _WHERE, "0 or more", str(top_k)))


def _moments(candidates: RowSource, bank: RowSource) -> tuple[np.ndarray, np.ndarray]:
    """Returns (mean [C], variance [C]) of scores: c . m and c' V c, with the mean m and covariance V of the bank rows, in float64.

    Blocks of the bank merge as in Chan, Golub and LeVeque (1983), so that a bank of equal rows has no variance at all.
    """
    seen, centre, spread = 0, np.zeros(bank.shape[1]), np.zeros((bank.shape[1],) * 2)
    for block in blocks(bank):
        rows = bank[block].astype(np.float64)
        here = rows[0] + (rows - rows[0]).mean(axis=0)
        apart, step = rows - here, here - centre
        spread += apart.T @ apart + np.outer(step, step) * (seen * len(rows) / (seen + len(rows)))
        seen += len(rows)
        centre = centre + step * (len(rows) / seen)
    out = np.empty((2, len(candidates)))
    for block in blocks(candidates):
        rows = candidates[block].astype(np.float64)
        out[:, block] = rows @ centre, np.einsum("nd,nd->n", rows @ spread, rows) / seen
    return out[0], np.maximum(out[1], 0)


def _pass(
    work: Engine,
    rates: np.ndarray,
    logsumexp: np.ndarray,
    lists: tuple[np.ndarray, np.ndarray],
    offset: np.ndarray | None,
    what: str,
    kept: resume.Place | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fills in `logsumexp` [C, H] and returns the lists of scores and bank rows [C, k]."""
    k = lists[0].shape[1]
    asked = Asked(len(rates), offset is not None, k, layouts.kept_groups(k, work.tiles) if k else 0)
    around = streamed.nowhere(work)
    if offset is not None:
        around = dataclasses.replace(around, study_low=-offset.astype(np.float32))
    with progress.bar(len(work.records.images) * work.panels, what, "candidates") as shown:
        for panel, columns in enumerate(streamed.panels(work, around)):
            score, place = (np.empty_like(array) for array in lists)
            left = []
            one = functools.partial(step, work.mesh, asked, columns, rates.astype(np.float32))
            held = streamed.parts(work, kept, panel, {"rates": rates.tolist(), **dataclasses.asdict(asked)}, what, around)
            for number, found in streamed.passed(work, Found, one, held):
                real = number >= 0
                rows = number[real]
                logsumexp[rows] = np.logaddexp(logsumexp[rows], _joined(found.greatest[real], found.sums[real], rates))
                score[rows], place[rows] = found.score[real], found.place[real]
                left.append(rows[~found.settled[real]])
                shown.update(len(rows))
            _settle(work, asked, columns, np.concatenate(left), score, place)
            lists = toplists.joined(lists, (score, np.where(place >= 0, work.studies.number.ravel()[place], -1).astype(np.int32)))
    return lists


def step(mesh: Mesh, asked: Asked, columns: sides.Studies, rates: np.ndarray, _: np.ndarray, images: sides.Images) -> Found:
    """Dispatches one batch of candidates, whatever their numbers, against the bank rows of a panel; `rates` float32 [H] are 1 / temperature."""
    return _program(mesh, asked)(images, columns, rates)


def _settle(work: Engine, asked: Asked, columns: sides.Studies, left: np.ndarray, score: np.ndarray, place: np.ndarray) -> None:
    """Fills in the lists of candidates `left` from tiles that keep as many groups as exactness can need."""
    exact = Asked(0, False, asked.k, asked.k)
    one = functools.partial(step, work.mesh, exact, columns, np.zeros(0, np.float32))
    for number, found in streamed.batches(work, streamed.regrouped(work, left), one):
        score[number[number >= 0]], place[number[number >= 0]] = found.score[number >= 0], found.place[number >= 0]


def _joined(greatest: np.ndarray, sums: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Returns log sums float64 [R, H] of the tiles' greatest [R, n_tiles] and sums [R, n_tiles, H]."""
    if not len(rates):
        return np.zeros((len(greatest), 0))
    of_tile = greatest.astype(np.float64)
    top = np.where(np.isfinite(of_tile.max(axis=1)), of_tile.max(axis=1), 0.0)
    shares = np.exp((of_tile - top[:, None])[:, :, None] * rates)
    with np.errstate(divide="ignore"):
        return top[:, None] * rates + np.log((shares * sums).sum(axis=1))


@functools.lru_cache(maxsize=32)
def _program(mesh: Mesh, asked: Asked) -> Callable[..., Found]:
    rows = streamed.ROWS
    local = functools.partial(_local, asked=asked)
    shared = jax.shard_map(local, mesh=mesh, in_specs=(streamed.IMAGES, streamed.WHOLE, streamed.WHOLE), out_specs=Found(*[rows] * 5), check_vma=False)
    return jax.jit(shared, out_shardings=meshes.replicated(mesh))


def _local(images: sides.Images, bank: sides.Studies, rates: jax.Array, *, asked: Asked) -> Found:
    """Runs one device's candidates over all tiles of the bank."""
    size, n = layouts.group_size(asked.k), len(images.study)

    def one_tile(carried: None, tile: sides.Studies) -> tuple[None, tuple[jax.Array, jax.Array, toplists.Kept | None]]:
        scores = jnp.where((tile.study >= 0)[None, :], product(images.vectors, tile.vectors), -jnp.inf)
        greatest, sums, kept = jnp.zeros(n), jnp.zeros((n, 0)), None
        if asked.temperatures:
            greatest, sums = _log_sums(scores - tile.low[None, :] if asked.offset else scores, rates)
        if asked.k:
            kept = toplists.keep(scores, jnp.max(scores.reshape(n, -1, packed.GROUP), axis=2), asked.kept, tile.first, size)
        return carried, (greatest, sums, kept)

    _, (greatest, sums, kept) = lax.scan(one_tile, None, bank)
    score, place, left_behind = sweep.listed(kept, images, bank, asked.wanted)
    return Found(greatest.T, jnp.moveaxis(sums, 0, 1), score, place, sweep.settled(score, left_behind))


def _log_sums(scores: jax.Array, rates: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (greatest [R], sums [R, H] of exp((score - greatest) * rate)) of scores [R, T]."""
    greatest = jnp.max(scores, axis=1)
    below = scores - jnp.where(greatest > -jnp.inf, greatest, 0)[:, None]
    return greatest, jnp.stack([_tree_sum(jnp.exp(below * rates[number])) for number in range(len(rates))], axis=1)


def _tree_sum(terms: jax.Array) -> jax.Array:
    """Returns the sums [R] of non-negative terms [R, T], sixteen at a time.

    Each of the log_16 T levels adds at most 15 rounding errors of 2^-24, in whatever order it adds: below 4e-6 of the sum up to T = 65,536.
    The rounding of (score - greatest) * rate adds less than 3 * 2^-24 log T, since the mean of log terms under their own weights is at
    least -log T. The barrier keeps XLA from joining the levels.
    """
    while terms.shape[1] > 1:
        spare = -terms.shape[1] % packed.GROUP
        terms = jnp.pad(terms, ((0, 0), (0, spare))) if spare else terms
        terms = lax.optimization_barrier(jnp.sum(terms.reshape(len(terms), -1, packed.GROUP), axis=2))
    return terms[:, 0]
