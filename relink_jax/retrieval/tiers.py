"""Counts of every query in tiers of its candidates, from the same label code to any, in one streamed pass.

A tier is a matter of two label codes, the query's and the candidate's, and is looked up in rows of a matrix that may be made as they are
needed: with tens of thousands of codes the matrix itself is too large to hold. Integers are those of `counts`: other patients' candidates
alone, own-text duplicates as ties, thresholds with the bits of the tiles, whatever the mesh and the layout.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from relink_jax import errors
from relink_jax.retrieval import layout as layouts
from relink_jax.retrieval import limits, loop, packed, resume, sides, streamed, tally
from relink_jax.retrieval.counted import Records, StratumCounts
from relink_jax.retrieval.engine import Engine
from relink_jax.retrieval.product import product
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress

_ROWS = 256  # tier rows looked through together on the host


class TierRows(Protocol):
    """Tiers by label code, [C, C]: a NumPy array, or what makes its rows when asked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, C)."""

    def __getitem__(self, codes: Any, /) -> Any:
        """Returns the rows of query codes [n], int8 [n, C]: the tier of each candidate code, -1 for none."""


class _Found(NamedTuple):
    """Of R images: counts int32 [R, 2 n_tiers + 1], see `_program`, and from the host, with the first panel, M and duplicates of each tier int64 [R, n_tiers]."""

    counted: Any
    sizes: Any
    twins: Any


def count(
    records: Records,
    code: np.ndarray,
    tiers: TierRows,
    n_tiers: int,
    *,
    mesh: Mesh,
    layout: layouts.Layout = layouts.DEFAULT,
    what: str = "count tiers",
    kept: resume.Place | None = None,
) -> list[StratumCounts]:
    """Returns M, g and t of image queries among other patients' candidates of each tier, one `StratumCounts` per tier; tiers are disjoint.

    Args:
        records: its codes and blocks are not asked.
        code: int32 [S], label code of each study in [0, C); -1 neither asks nor answers.
        n_tiers: tiers 0 .. n_tiers - 1 are counted. what: words for the progress bar. kept: where finished parts are kept; None keeps none.
    Raises: DataError: codes beyond the matrix. UsageError: a layout that does not fit the devices' memory. UnsoundError: a tile did not hold
        the scores of the true pairs bit for bit.
    """
    if len(code) != len(records.study_text) or code.max(initial=-1) >= tiers.shape[0] or tiers.shape[0] != tiers.shape[1]:
        expected = f"a code for each of {len(records.study_text)} studies, below the {tiers.shape[0]} of a square matrix"
        raise errors.DataError(errors.describe("label codes", "tiers", expected, f"{len(code)}, the largest {code.max(initial=-1)}"))
    work = streamed.engine(records, mesh, layout, kept=kept, what=what)
    own = work.own_scores(sides.Wanted(codes=0, near=False, studies=False, k=0))
    work.records = dataclasses.replace(work.records, codes={"tier": code.astype(np.int32)})
    around = limits.exact(own, records.image_study, len(records.study_text))
    host = _Host(records, code, tiers, n_tiers)
    found = np.zeros((2 * n_tiers + 1, len(own)), np.int64)
    M, twins = (np.zeros((n_tiers, len(own)), np.int64) for _ in range(2))
    with progress.bar(len(own) * work.panels, what, "images") as shown:
        for panel, columns in enumerate(streamed.panels(work, around)):
            held = streamed.parts(work, kept, panel, {"tiers": n_tiers}, what, around)
            for number, part in streamed.passed(work, _Found, host.step(work, columns, first=not panel), held, around):
                real = number >= 0
                found[:, number[real]] += part.counted[real].T
                if not panel:
                    M[:, number[real]], twins[:, number[real]] = part.sizes[real].T, part.twins[real].T
                shown.update(int(real.sum()))
    loop.check_seen(found[-1], np.ones(len(own)), "images")
    return [StratumCounts(M[tier], found[2 * tier], found[2 * tier + 1] - found[2 * tier] + twins[tier]) for tier in range(n_tiers)]


@dataclasses.dataclass(frozen=True)
class _Cells:
    """Label codes by group of studies: group g has `code[start[g]:start[g + 1]]`, each of `many` studies; `group` is each study's."""

    group: np.ndarray
    start: np.ndarray
    code: np.ndarray
    many: np.ndarray

    @classmethod
    def of(cls, group: np.ndarray, code: np.ndarray, span: int) -> "_Cells":
        known, many = np.unique((group.astype(np.int64) * span + code)[code >= 0], return_counts=True)
        return cls(group, np.searchsorted(known // span, np.arange(int(group.max(initial=0)) + 2)), known % span, many)

    def tally(self, rows: np.ndarray, study: np.ndarray, n_tiers: int) -> np.ndarray:
        """Returns how many studies of the group of each query's study are in each of its tiers, int64 [n_tiers, n], from tier rows [n, C]."""
        group = self.group[study]
        size = self.start[group + 1] - self.start[group]
        query = np.repeat(np.arange(len(study)), size)
        cell = np.arange(len(query)) + (self.start[group] - np.cumsum(size) + size)[query]
        tier = rows[query, self.code[cell]].astype(np.int64)
        told = (tier >= 0) & (tier < n_tiers)
        return np.bincount((tier * len(study) + query)[told], self.many[cell][told], n_tiers * len(study)).astype(np.int64).reshape(n_tiers, -1)


class _Host:
    """What the host knows of the tiers without a score: their sizes, and the duplicates of the right reports."""

    def __init__(self, records: Records, code: np.ndarray, tiers: TierRows, n_tiers: int) -> None:
        self.n_tiers, self._study, self._code, self._tiers = n_tiers, records.image_study, code, tiers
        span = tiers.shape[1]
        self._all = np.bincount(code[code >= 0], minlength=span).astype(np.float64)
        self._whole = np.full((n_tiers, span), -1, np.int64)  # sizes of the tiers of each query code, those that were asked for
        key = np.unique(records.exclusion, return_inverse=True)[1]
        both = np.unique(key.astype(np.int64) * (int(records.study_text.max()) + 1) + records.study_text, return_inverse=True)[1]
        self._key, self._text, self._both = (_Cells.of(group, code, span) for group in (key, records.study_text, both))

    def step(self, work: Engine, columns: sides.Studies, first: bool) -> Callable[[np.ndarray, sides.Images], _Found]:
        """Returns what dispatches a batch of image numbers [R] against one panel, the `first` with what the host knows."""
        program, shared = _program(work.mesh, self.n_tiers), meshes.split(work.mesh, 0)

        def one(number: np.ndarray, images: sides.Images) -> _Found:
            rows, real = self.rows(number), number >= 0
            counted = program(images, columns, meshes.put(rows, shared))
            sizes, twins = (np.zeros((len(number), self.n_tiers if first else 0), np.int64) for _ in range(2))
            if first:
                sizes[real], twins[real] = (part.T for part in self.sizes(number[real], rows[real]))
            return _Found(counted, sizes, twins)

        return one

    def rows(self, number: np.ndarray) -> np.ndarray:
        """Returns the tier rows of images `number` [R], int8 [R, C]; -1 throughout for no image, and for an image without a code."""
        code = np.where(number >= 0, self._code[self._study[np.maximum(number, 0)]], -1)
        distinct, place = np.unique(code, return_inverse=True)
        found = np.asarray(self._tiers[np.maximum(distinct, 0)], np.int8)
        return np.where(distinct[:, None] >= 0, found, np.int8(-1))[place]

    def sizes(self, number: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (M, other patients' duplicates of the right report) of each tier, int64 [n_tiers, n], of images `number` [n] with their tier rows."""
        study = self._study[number]
        code = self._code[study]
        known, first = np.unique(code, return_index=True)
        new = first[(known >= 0) & (self._whole[0, known] < 0)]
        for part in (new[start : start + _ROWS] for start in range(0, len(new), _ROWS)):
            self._whole[:, code[part]] = [(rows[part] == tier) @ self._all for tier in range(self.n_tiers)]
        whole = np.where(code >= 0, self._whole[:, code], 0)
        key, text, both = (cells.tally(rows, study, self.n_tiers) for cells in (self._key, self._text, self._both))
        return whole - key, text - both


@functools.lru_cache(maxsize=8)
def _program(mesh: Mesh, n_tiers: int) -> Callable[..., jax.Array]:
    """Returns jitted f(images, studies, tier rows int8 [R, C]) -> int32 [R, 2 n_tiers + 1]: above and reached of each tier, and true pairs met."""
    local = functools.partial(_local, n_tiers=n_tiers)
    given = (streamed.IMAGES, streamed.WHOLE, streamed.ROWS)
    shared = jax.shard_map(local, mesh=mesh, in_specs=given, out_specs=streamed.ROWS, check_vma=False)
    return jax.jit(shared, out_shardings=meshes.replicated(mesh))


def _local(images: sides.Images, studies: sides.Studies, rows: jax.Array, *, n_tiers: int) -> jax.Array:
    """Runs one device's images over all tiles."""
    n = len(images.study)
    own = images.high[:, None]

    def one_tile(counted: jax.Array, tile: sides.Studies) -> tuple[jax.Array, None]:
        scores = jnp.where((tile.study >= 0)[None, :], product(images.vectors, tile.vectors), -jnp.inf)
        above, reached = scores > own, scores >= own
        of_pair = jnp.take(rows, jnp.maximum(tile.codes[0], 0), axis=1)
        answers = [answer & (of_pair == tier) for tier in range(n_tiers) for answer in (above, reached)]
        asked = tally.counted_for_images(images, tile) & (tile.codes[0] >= 0)[None, :]
        own_pair = ~above & reached & (images.study[:, None] == tile.study[None, :])
        words = packed.pack(answers, asked, own_pair)
        summed = packed.sums([word.reshape(n, -1, packed.GROUP) for word in words], axis=2)
        return counted + jnp.stack(packed.sums(packed.unpack(summed, len(answers)), axis=1)), None

    return lax.scan(one_tile, jnp.zeros((2 * n_tiers + 1, n), jnp.int32), studies)[0].T
