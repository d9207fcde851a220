"""Objectives that look at several private records at once, and what that costs in sensitivity.

`group_infonce` contrasts records inside small groups and clips each group's gradient. `pair_sigmoid` and `logit_dp` clip the gradient
of every pair of records, S_ij = u_i.v_j. `inbatch_infonce_unsound` is what most code does with InfoNCE, clipped row by row: its
clipped sum has no useful bound, and it is here so that published practice can be reproduced and shown for what it is.

Sensitivities marked [own] are this project's derivations; tests search for records that break them.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from relink_jax import errors
from relink_jax.privacy import decomposition

_HIGHEST = jax.lax.Precision.HIGHEST
_ABSENT = -1e30
_LOWEST_LOGIT_DP_TEMPERATURE = 0.3


class _Joint(decomposition.Decomposed):
    def public_state(self, params: Any, public: Any) -> None:
        """Returns nothing: these objectives compare private records with each other."""
        return None


@dataclasses.dataclass(frozen=True)
class GroupInfoNCE(_Joint):
    """Symmetric InfoNCE among the members of one group, mean over members; a lone member has no negatives and no gradient.

    The sum over groups has one clipped vector per group [own]: each record draws whether it takes part and which group it joins with its own
    coins, so adding it changes one vector of norm at most C into another. Cutting a shuffled batch into groups is NOT this: one insertion
    would shift every later group. Members beyond a group's slots must be left out by a rule inside that group.
    """

    temperature: float
    group_size: int
    name: ClassVar[str] = "group_infonce"
    decomposition: ClassVar[str] = "per_group"
    derivation: ClassVar[str] = (
        "own derivation: each record draws its group independently of all others, so one record changes one group's gradient, which is clipped to C, "
        "from one vector of norm at most C to another: at most 2C added, removed or zeroed and, since a replacement may change two groups, 4C replaced"
    )

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise errors.UsageError(errors.describe("group_size", "objective 'group_infonce'", "at least 2 expected members", str(self.group_size)))

    def factor(self) -> float:
        """Returns 2: one group's clipped gradient becomes another."""
        return 2.0

    def unit_loss(self, images: jax.Array, texts: jax.Array, labels: Any, weights: jax.Array, state: Any) -> jax.Array:
        """Returns the loss of one group: embeddings [m, D], [m, D], weights [m] that are positive for members."""
        member = weights > 0
        return symmetric_infonce(images, texts, member, self.temperature) / jnp.maximum(jnp.sum(member), 1)


@dataclasses.dataclass(frozen=True)
class PairSigmoid(_Joint):
    """Sigmoid loss over all pairs of a batch (Zhai et al. 2023, arXiv 2303.15343), every PAIR gradient clipped to B.

    sum_ij w_ij clip_B( grad log(1 + exp(-y_ij (S_ij/tau + b))) ) with y_ii = 1, y_ij = -1, w_ii = 1 and w_ij = 1 / (batch_cap - 1): a
    U-statistic, in which a record owns one row and one column and nothing is renormalised when it comes or goes.
    """

    temperature: float
    bias: float
    batch_cap: int
    name: ClassVar[str] = "pair_sigmoid"
    decomposition: ClassVar[str] = "per_pair"
    derivation: ClassVar[str] = (
        "own derivation: with at most n records in a step one record owns its own pair of weight 1 and 2(n-1) others of weight 1/(n-1), "
        "and every pair gradient is clipped to B before weighting, so adding, removing or zeroing it moves the sum by at most 3B and replacing it by 6B"
    )

    def __post_init__(self) -> None:
        _check_cap(self.name, self.batch_cap)

    def factor(self) -> float:
        """Returns 3: own pair 1, own row 1, own column 1."""
        return 3.0

    def pair_scales(self, similarities: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (outer, inner) [n, n]: the sum's terms are outer_ij clip_B(inner_ij grad S_ij); zero for pairs that are not present."""
        own = jnp.eye(len(similarities), dtype=bool)
        sign = jnp.where(own, 1.0, -1.0)
        slope = -sign * jax.nn.sigmoid(-sign * (similarities / self.temperature + self.bias)) / self.temperature
        weight = jnp.where(own, 1.0, 1.0 / (self.batch_cap - 1))
        return jnp.where(present, weight, 0.0), slope


@dataclasses.dataclass(frozen=True)
class LogitDP(_Joint):
    """InfoNCE from images to texts with clipped logit gradients (Kong, Munoz Medina and Ribero 2023, arXiv 2310.03104).

    sum_ij (p_ij - [i = j]) / tau clip_B(grad S_ij) with p the softmax of S/tau over the texts of the batch. The published constant is O(1) in
    n; [own]: it is O(min(n, exp(2/tau))), since removing record n moves the sum by at most
    (B/tau)(2(1 - p_nn) + 2 sum_{i != n} p_in) and p_in <= 1 / (1 + (n-1) exp(-2/tau)). Temperatures below 0.3 are refused: no signal is left.
    """

    temperature: float
    batch_cap: int
    name: ClassVar[str] = "logit_dp"
    decomposition: ClassVar[str] = "per_pair"
    renormalises: ClassVar[bool] = True
    derivation: ClassVar[str] = (
        "own derivation: with at most n records in a step, clipped logit gradients of norm B and softmax weights of at most 1/(1+(n-1)exp(-2/tau)), "
        "adding, removing or zeroing one record moves the sum by at most (2B/tau)(1+(n-1)/(1+(n-1)exp(-2/tau))) and replacing it by twice that"
    )

    def __post_init__(self) -> None:
        _check_cap(self.name, self.batch_cap)
        if not self.temperature >= _LOWEST_LOGIT_DP_TEMPERATURE:
            expected = f"at least {_LOWEST_LOGIT_DP_TEMPERATURE}, because the sensitivity grows as exp(2/temperature)"
            raise errors.UsageError(errors.describe("temperature", "objective 'logit_dp'", expected, f"{self.temperature:g}"))

    def factor(self) -> float:
        """Returns (2/tau)(1 + (n-1)/(1 + (n-1) exp(-2/tau))) with n the batch cap."""
        others = self.batch_cap - 1
        return 2 / self.temperature * (1 + others / (1 + others * math.exp(-2 / self.temperature)))

    def pair_scales(self, similarities: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (outer, inner) [n, n], see `PairSigmoid.pair_scales`: here the loss's slopes stay outside the clip."""
        logits = jnp.where(present, similarities / self.temperature, _ABSENT)
        slopes = (jax.nn.softmax(logits, axis=1) - jnp.eye(len(similarities))) / self.temperature
        return jnp.where(present, slopes, 0.0), jnp.ones_like(slopes)


@dataclasses.dataclass(frozen=True)
class InBatchInfoNCE(_Joint):
    """Symmetric InfoNCE over the batch with rows clipped as Opacus clips them: gradients are attributed to the record they pass through.

    NOT differentially private at any noise that common practice adds: removing one record changes every row's gradient.
    """

    temperature: float
    name: ClassVar[str] = "inbatch_infonce_unsound"
    decomposition: ClassVar[str] = "none"
    derivation: ClassVar[str] = (
        "none: every record is a negative of every other, so removing one changes up to n clipped rows; no finite epsilon follows from its noise"
    )

    def factor(self) -> float:
        """Returns infinity: no bound is claimed."""
        return math.inf

    def batch_loss(self, images: jax.Array, texts: jax.Array, present: jax.Array) -> jax.Array:
        """Returns the sum over the batch's rows of the symmetric loss: embeddings [n, D], [n, D], present [n]."""
        return symmetric_infonce(images, texts, present, self.temperature)


def symmetric_infonce(images: jax.Array, texts: jax.Array, present: jax.Array, temperature: float) -> jax.Array:
    """Returns the sum over present rows of the mean of both InfoNCE directions; absent rows are no one's negatives and have no gradient."""
    logits = jnp.matmul(images, texts.T, precision=_HIGHEST) / temperature
    own = jnp.diagonal(logits)
    losses = [jax.nn.logsumexp(jnp.where(present, side, _ABSENT), axis=1) - own for side in (logits, logits.T)]
    return jnp.sum(jnp.where(present, 0.5 * (losses[0] + losses[1]), 0.0))


def _check_cap(name: str, batch_cap: int) -> None:
    if batch_cap < 2:
        raise errors.UsageError(errors.describe("batch_cap", f"objective {name!r}", "at least 2, the most records of one step", str(batch_cap)))
