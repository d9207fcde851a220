"""A white-box audit of one noisy step on two crafted datasets that differ in one record.

The attacker knows both datasets and sees the noisy sum, the strongest position the guarantee allows. The best test projects what is
released on the difference of the two clipped sums. Many releases of each dataset give scores, and `bounds` turns them into lower bounds.

Design note: isotropic Gaussian noise projected on a unit direction is one Gaussian of the same deviation, so scores are drawn as that, which
is exactly equivalent to noise over all parameters. Pass `noise` to draw from the training noise code instead. The record is chosen on
scores that the bounds never see.
"""

import dataclasses
import fractions
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors
from relink_jax.privacy import accounting
from relink_jax.privacy.empirical import bounds, search, steps

_FULL = fractions.Fraction(1)
_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Paired:
    """What the audit of a claim found.

    Attributes:
        claim_rdp, claim_pld: epsilon that the accountants give for the audited mechanism as it is claimed to be; infinite without noise.
        distance: L2 distance of the two clipped sums, in units of the clip norm C (0 where it is not known).
        canary: dataset and record of the attack.
        bounds: lower bounds on epsilon, to be held against the claim.
        releases: noisy releases of each of the two datasets behind the bounds.
    """

    claim_rdp: float
    claim_pld: float
    distance: float
    canary: str
    bounds: bounds.Bounds
    releases: int

    @property
    def refuted(self) -> bool:
        """Whether the assumption-free bound or the Gaussian one exceeds the headline (RDP) claim."""
        return max(self.bounds.clopper_pearson, self.bounds.gaussian) > self.claim_rdp


def audit(
    step: steps.Step,
    found: Sequence[search.Neighbour],
    *,
    noise_multiplier: float,
    noise_scale: float | None = None,
    draws: int = 2000,
    candidates: int = 5,
    delta: float = bounds.DELTA,
    confidence: float = bounds.CONFIDENCE,
    seed: int = 0,
    noise: Callable[[jax.Array], Any] | None = None,
) -> Paired:
    """Returns lower bounds on the epsilon of one full step, beside what is claimed for its noise multiplier.

    Args:
        found: neighbouring datasets, the furthest apart first; the first `candidates` finite ones are tried.
        noise_multiplier: noise deviation over `noise_scale`; the claim is one Gaussian step at this multiplier. 0 is a release without noise.
        noise_scale: what the multiplier multiplies; the objective's own scale unless given. A smaller one is wrong accounting.
        draws: releases with and without the record, for the choice of the record and again for the bounds.
        noise: draws one noise tree of the trained parameters from a key, at the audited deviation; instead of NumPy's normals.

    Raises: UsageError: fewer than 8 draws. DataError: no neighbour with finite sums.
    """
    if draws < 8:
        raise errors.UsageError(errors.describe("draws", "paired audit", "at least 8", str(draws)))
    tried = [neighbour for neighbour in found if 0 < neighbour.distance < math.inf][:candidates]
    if not tried:
        raise errors.DataError(errors.describe("neighbours", "paired audit", "at least one that moves the sum by a finite distance", "none"))
    scale = step.objective.noise_scale(step.l2_norm_clip) if noise_scale is None else noise_scale
    source = _Noise(noise_multiplier * scale, seed, noise)

    def scores(neighbour: search.Neighbour) -> tuple[np.ndarray, np.ndarray]:
        direction = (neighbour.joined - neighbour.without) / neighbour.distance
        return neighbour.distance + source.projected(direction, draws), source.projected(direction, draws)

    chosen = max(tried, key=lambda neighbour: bounds.from_scores(*scores(neighbour), delta, confidence).gaussian)
    result = bounds.from_scores(*scores(chosen), delta, confidence)
    claim = claimed(_FULL, noise_multiplier, 1, delta)
    return Paired(*claim, chosen.distance / step.l2_norm_clip, f"{chosen.scene.name}: {chosen.name}", result, draws)


def claimed(sampling_probability: fractions.Fraction, noise_multiplier: float, iterations: int, delta: float) -> tuple[float, float]:
    """Returns the (RDP, PLD) epsilon of Poisson sampling with this noise multiplier, as a ledger would; infinite for a multiplier of 0."""
    if noise_multiplier == 0:
        return math.inf, math.inf
    price = accounting.price(accounting.Mechanism(sampling_probability, noise_multiplier, 1.0, iterations), delta)
    return float(math.inf if price.rdp is None else price.rdp), float(math.inf if price.pld is None else price.pld)


def multiplier_for(epsilon: float, delta: float = bounds.DELTA) -> float:
    """Returns the noise multiplier at which one full step is claimed to spend `epsilon` by the headline (RDP) accountant."""
    return accounting.calibrate(_FULL, 1, epsilon, delta)


class _Noise:
    """Noise projected on a unit direction: NumPy normals of the same deviation, or projections of the noise trees of a given code."""

    def __init__(self, stddev: float, seed: int, tree: Callable[[jax.Array], Any] | None) -> None:
        self._stddev, self._generator, self._key = stddev, np.random.default_rng(seed), jax.random.key(seed)
        self._project = None if tree is None else jax.jit(functools.partial(_projections, tree))

    def projected(self, direction: np.ndarray, count: int) -> np.ndarray:
        """Returns float64 [count] independent projections."""
        if self._project is None:
            return self._stddev * self._generator.standard_normal(count)
        self._key, key = jax.random.split(self._key)
        return np.asarray(self._project(jax.random.split(key, count), jnp.asarray(direction, jnp.float32)), np.float64)


def _projections(tree: Callable[[jax.Array], Any], keys: jax.Array, direction: jax.Array) -> jax.Array:
    def one(key: jax.Array) -> jax.Array:
        return jnp.dot(steps.flat(tree(key)), direction, precision=jax.lax.Precision.HIGHEST)

    return jax.lax.map(one, keys, batch_size=_AT_ONCE)
