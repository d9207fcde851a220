"""Poisson sampling of privacy units, and how the drawn units lie in a batch for each kind of objective.

Every step draws each unit independently with probability q, as a pure function of (secret, step). What a drawn unit brings:

    averaged   up to m of its own pairs, a fresh random subset, with weights 1 / (pairs brought): the gradient that is clipped is their average
    grouped    one of its own pairs, and a group number of its own coin; groups hold a fixed number of places
    capped     one of its own pairs; all drawn units stand in one batch of at most n_max places

Design notes. For averaged batches the physical batch is a shape and no limit: steps that draw more run further blocks, so that the mechanism is
exactly Poisson. A group whose places are taken drops its own members at random, which changes that group alone, so that its sensitivity stays
that of one group. A capped batch drops units at random beyond n_max; how likely that ever is is added to delta (`accounting.overflow_delta`).
"""

import fractions
import math

import numpy as np

from relink_jax import errors
from relink_jax.privacy import randomness
from relink_jax.privacy.clipping import Batch
from relink_jax.runtime import mesh

UNITS = ("patient", "study", "pair")
_DEVIATIONS, _GROUP_DEVIATIONS = 8, 3


def unit_index(pair_owner: np.ndarray, unit: str) -> np.ndarray:
    """Returns int32 [N] unit of each pair: its owner (patient or study) renumbered 0..n-1, or the pair itself.

    Raises:
        UsageError: unknown unit.
        DataError: not a 1-D array of integers with at least one entry.
    """
    if unit not in UNITS:
        raise errors.UsageError(errors.describe("privacy unit", "mechanism", f"one of {list(UNITS)}", repr(unit)) + errors.suggest(unit, UNITS))
    index = np.asarray(pair_owner)
    if index.ndim != 1 or not len(index) or not np.issubdtype(index.dtype, np.integer):
        raise errors.DataError(
            errors.describe("unit index", "training pairs", "a 1-D integer array with one entry per pair", f"{index.dtype} of shape {index.shape}")
        )
    if unit == "pair":
        return np.arange(len(index), dtype=np.int32)
    return np.unique(index, return_inverse=True)[1].astype(np.int32)


def sampling_probability(expected_batch_size: int, n_units: int) -> fractions.Fraction:
    """Returns q = B/n as an exact fraction; `UsageError` unless 1 <= B <= n."""
    if not 1 <= expected_batch_size <= n_units:
        raise errors.UsageError(errors.describe("expected_batch_size", "mechanism", f"1 to the {n_units} privacy units", str(expected_batch_size)))
    return fractions.Fraction(int(expected_batch_size), int(n_units))


def physical_cap(expected_batch_size: int, n_units: int) -> int:
    """Returns the units of one physical batch: mean + 8 standard deviations, at most n."""
    return min(n_units, math.ceil(expected_batch_size + _DEVIATIONS * math.sqrt(expected_batch_size)))


def group_shape(expected_batch_size: int, group_size: int) -> tuple[int, int]:
    """Returns (groups, places of a group): B / g groups, and room for g + 3 standard deviations of a group's members."""
    return max(1, round(expected_batch_size / group_size)), math.ceil(group_size + _GROUP_DEVIATIONS * math.sqrt(group_size))


class PoissonSampler:
    """Draws the batch of a step; holds the secret and gives none of it away.

    Args:
        units: int32 [N], unit of each pair, covering 0..n-1.
        q: inclusion probability of a unit per step.
        secret: what every draw derives from.
    """

    def __init__(self, units: np.ndarray, q: fractions.Fraction, secret: randomness.Secret) -> None:
        self._pairs = np.argsort(units, kind="stable").astype(np.int32)
        self._counts = np.bincount(units)
        self._starts = np.cumsum(self._counts) - self._counts
        self._q, self._secret = float(q), secret

    def __repr__(self) -> str:
        return f"PoissonSampler(n_units={len(self._counts)}, q={self._q:g})"

    def averaged(self, step: int, most: int = 1) -> Batch:
        """Returns the drawn units' pairs, rows int32 [n, most]: a random subset of each unit's own, weights 1 / (pairs of the unit here).

        The number of rows is random and private.
        """
        drawn, generator = self._drawn(step)
        counts = self._counts[drawn]
        unit = np.repeat(np.arange(len(drawn)), counts)
        offset = np.arange(len(unit)) - np.repeat(np.cumsum(counts) - counts, counts)
        shuffled = np.lexsort((generator.random(len(unit)), unit))  # each unit's pairs in random order, units in theirs
        kept = offset < most
        rows, weights = np.zeros((len(drawn), most), np.int32), np.zeros((len(drawn), most), np.float32)
        rows[unit[kept], offset[kept]] = self._pairs[self._starts[drawn][unit] + offset[shuffled]][kept]
        weights[unit[kept], offset[kept]] = (1 / np.minimum(counts, most))[unit[kept]]
        return Batch(rows, weights)

    def grouped(self, step: int, n_groups: int, places: int) -> Batch:
        """Returns every group's members, rows int32 [n_groups, places], weights 1 where there is a member.

        Each drawn unit takes part with one of its own pairs and chooses group and priority by its own coins; a group keeps the members of
        highest priority.
        """
        drawn, generator = self._drawn(step)
        group, priority = generator.integers(0, n_groups, len(drawn)), generator.random(len(drawn))
        pair = self._one(drawn, generator)
        order = np.lexsort((priority, group))
        place = np.arange(len(drawn)) - np.searchsorted(group[order], group[order])
        kept = place < places
        rows, weights = np.zeros((n_groups, places), np.int32), np.zeros((n_groups, places), np.float32)
        rows[group[order][kept], place[kept]] = pair[order][kept]
        weights[group[order][kept], place[kept]] = 1.0
        return Batch(rows, weights)

    def capped(self, step: int, cap: int) -> Batch:
        """Returns one pair of each drawn unit, at most `cap` units chosen at random, as rows int32 [cap, 1]; weights 0 are filler."""
        drawn, generator = self._drawn(step)
        pair = self._one(drawn, generator)
        pair = pair[np.argsort(generator.random(len(pair)))[:cap]]
        return _padded(Batch(pair[:, None], np.ones((len(pair), 1), np.float32)), cap)

    def _drawn(self, step: int) -> tuple[np.ndarray, np.random.Generator]:
        generator = self._secret.generator(randomness.BATCH, step)
        return np.flatnonzero(generator.random(len(self._counts)) < self._q), generator

    def _one(self, drawn: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Returns one pair of each drawn unit, chosen uniformly."""
        return self._pairs[self._starts[drawn] + generator.integers(0, self._counts[drawn])]


def blocks(batch: Batch, rows: int) -> list[Batch]:
    """Returns a batch as blocks of `rows` units, the last one filled up with weights of 0.

    No unit is dropped; a step with no unit still gives one block, all filler, so that it runs as noise only.
    """
    whole = _padded(batch, mesh.padded(len(batch.rows), rows))
    return [Batch(whole.rows[start : start + rows], whole.weights[start : start + rows]) for start in range(0, len(whole.rows), rows)]


def _padded(batch: Batch, rows: int) -> Batch:
    lacking = ((0, rows - len(batch.rows)), (0, 0))
    return Batch(np.pad(batch.rows, lacking), np.pad(batch.weights, lacking))
