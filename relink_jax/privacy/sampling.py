"""Poisson sampling of privacy units, with static shapes and without truncation.

Every step draws each unit independently with probability q; each drawn unit contributes one of its own pairs, chosen uniformly,
so a patient never appears twice in a step. The seed is 256 bits of OS entropy that is never stored, returned or logged.

Design note: the physical batch is a shape, not a limit. Steps that draw more units than fit run further blocks of the same
shape, so the mechanism is exactly Poisson and needs no truncated event (truncating at the mean would more than double epsilon).
"""

import fractions
import math
import secrets
from collections.abc import Callable

import numpy as np

from relink_jax import errors
from relink_jax.runtime import mesh

UNITS = ("patient", "pair")


def unit_index(pair_patient: np.ndarray, unit: str) -> np.ndarray:
    """Returns int32 [N] unit of each pair: its patient renumbered 0..n-1, or the pair itself.

    Raises:
        UsageError: unknown unit.
        DataError: not a 1-D array of integers with at least one entry.
    """
    if unit not in UNITS:
        raise errors.UsageError(errors.describe("privacy unit", "mechanism", f"one of {list(UNITS)}", repr(unit)) + errors.suggest(unit, UNITS))
    index = np.asarray(pair_patient)
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


def physical_cap(expected_batch_size: int, n_units: int, chunk: int) -> tuple[int, int]:
    """Returns (rows per block, chunk): mean + 8 standard deviations of the batch, at most n, in whole chunks."""
    rows = min(n_units, math.ceil(expected_batch_size + 8 * math.sqrt(expected_batch_size)))
    fitted = max(1, min(chunk, rows))
    return mesh.padded(rows, fitted), fitted


class PoissonSampler:
    """Draws batches of pair indices; holds the secret state and gives none of it away.

    Args:
        units: int32 [N], unit of each pair, covering 0..n-1.
        q: inclusion probability of a unit per step.
        token_bytes: source of the seed; anything but OS entropy voids the guarantee and is for tests.
    """

    def __init__(self, units: np.ndarray, q: fractions.Fraction, token_bytes: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._pairs = np.argsort(units, kind="stable").astype(np.int32)
        self._counts = np.bincount(units)
        self._starts = np.cumsum(self._counts) - self._counts
        self._q = float(q)
        self._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(int.from_bytes(token_bytes(32), "little"))))

    def __repr__(self) -> str:
        return f"PoissonSampler(n_units={len(self._counts)}, q={self._q:g})"

    def sample(self) -> np.ndarray:
        """Returns int32 pair indices of one step, one per drawn unit; the length is random and private."""
        drawn = np.flatnonzero(self._generator.random(len(self._counts)) < self._q)
        return self._pairs[self._starts[drawn] + self._generator.integers(0, self._counts[drawn])]


def blocks(pairs: np.ndarray, rows: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the step as blocks of static shape: (int32 [rows] pair indices, bool [rows] is_padding_example).

    No pair is dropped; a step with no pair still gives one block, all padding, so that it runs as noise only.
    """
    count = mesh.padded(len(pairs), rows)
    padded = np.zeros(count, np.int32)
    padded[: len(pairs)] = pairs
    padding = np.arange(count) >= len(pairs)
    return [(padded[start : start + rows], padding[start : start + rows]) for start in range(0, count, rows)]
