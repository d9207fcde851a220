"""Training objectives that declare their own sensitivity; the per-record ones, and the list of all.

DP-SGD (Abadi et al. 2016, arXiv 1607.00133) needs a sum of per-record terms: removing one record must change one summand
and nothing else. In-batch InfoNCE is not of that form, because every record is a negative of every other, and clipping its
rows bounds nothing (n records change when one is removed). The objectives here compare each record with a fixed PUBLIC bank
instead, so that a record's gradient depends on that record, the heads and public vectors only. Those of `joint_objectives`
look at several records at once and pay for it in sensitivity.

Design note: `sensitivity` is the only source of the noise scale. No caller types a sensitivity.
"""

import abc
import dataclasses
import math
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from relink_jax import errors, heads
from relink_jax.privacy import banks, decomposition, joint_objectives

_HIGHEST = jax.lax.Precision.HIGHEST


class Objective(Protocol):
    """What every training objective offers; how its gradients are clipped follows from `decomposition`.

    Per-record and per-group objectives also have `unit_loss` (see `PerRecordObjective`, `joint_objectives.GroupInfoNCE`), per-pair ones
    `pair_scales`, and the unsound one `batch_loss`; `clipping` calls them.

    Attributes:
        name: identifier in configs and ledgers.
        decomposition: one of `decomposition.DECOMPOSITIONS`.
        derivation: one sentence that justifies `sensitivity`, kept in the ledger; it says so where it is this project's own.
    """

    name: ClassVar[str]
    decomposition: ClassVar[str]
    derivation: ClassVar[str]

    def public_state(self, params: heads.Heads, public: banks.Public) -> Any:
        """Returns what the loss needs of heads and public bank together, gradients stopped, computed once per step."""

    def sensitivity(self, relation: str, l2_norm_clip: float) -> float:
        """Returns the L2 sensitivity of the clipped sum when one unit changes by `relation`."""

    def noise_scale(self, l2_norm_clip: float) -> float:
        """Returns what a noise multiplier is multiplied with to give a noise standard deviation."""

    def settings(self) -> dict[str, Any]:
        """Returns the objective's own settings, JSON-ready."""


class PerRecordObjective(decomposition.PerRecord):
    """An objective that is a sum of losses of one record each; only `record` is ever mapped over, `public` is the same for all."""

    derivation: ClassVar[str] = (
        "each record's gradient depends on that record, the heads and the public bank only, and is clipped to C over both heads, "
        "so adding, removing or zeroing one record moves the sum by at most C and replacing it by at most 2C"
    )

    def public_state(self, params: heads.Heads, public: banks.Public) -> Any:
        """Returns nothing: the loss compares a record with itself."""
        return None

    @abc.abstractmethod
    def record_loss(self, image: jax.Array, text: jax.Array, labels: Any, state: Any) -> jax.Array:
        """Returns the loss of one record's unit-norm embeddings [D], [D] and labels [L] or None."""

    def unit_loss(self, images: jax.Array, texts: jax.Array, labels: Any, weights: jax.Array, state: Any) -> jax.Array:
        """Returns the weighted sum of the losses of one privacy unit's records: embeddings [m, D], [m, D], weights [m]."""
        losses = jax.vmap(self.record_loss, in_axes=(0, 0, 0, None))(images, texts, labels, state)
        return jnp.sum(jnp.where(weights > 0, weights * losses, 0.0))

    def loss(self, params: heads.Heads, record: Any, public: banks.Public) -> jax.Array:
        """Returns the loss of record (image features [F_i], text features [F_t], labels [L] or None) under heads `params`."""
        image, text, labels = record
        embeddings = (heads.project(params["image"], image), heads.project(params["text"], text))
        return self.record_loss(*embeddings, labels, self.public_state(params, public))


@dataclasses.dataclass(frozen=True)
class Align(PerRecordObjective):
    """Cosine distance of a record's two embeddings, 1 - u.v; no negatives, so nothing keeps embeddings apart but the initial heads."""

    name: ClassVar[str] = "align"

    def record_loss(self, image: jax.Array, text: jax.Array, labels: Any, state: Any) -> jax.Array:
        """Returns 1 - u.v."""
        return 1.0 - _dot(image, text)


class _Anchored(PerRecordObjective):
    def public_state(self, params: heads.Heads, public: banks.Public) -> banks.Public:
        """Returns the anchors' unit-norm embeddings [A, D] and [A_i, D] (or None) under the current heads, with gradients stopped.

        The heads learn through the record only, so each dense layer's record gradient stays one outer product.
        """
        images = None if public.images is None else heads.project(params["image"], public.images)
        return jax.lax.stop_gradient(banks.Public(heads.project(params["text"], public.texts), images))


@dataclasses.dataclass(frozen=True)
class AnchorInfoNCE(_Anchored):
    """InfoNCE of an image against its own report and A public anchor reports, at temperature tau.

    loss = -log( exp(u.v/tau) / (exp(u.v/tau) + sum_a exp(u.v_a/tau)) ), where u, v are the record's unit-norm image and text
    embeddings and v_a the anchors' under the current text head (van den Oord et al. 2018, arXiv 1807.03748, with the in-batch
    negatives replaced by public ones). Where the bank has images too, the mean of both directions; otherwise image to text only,
    and the text head learns through u.v.
    """

    temperature: float
    name: ClassVar[str] = "anchor_infonce"

    def record_loss(self, image: jax.Array, text: jax.Array, labels: Any, state: Any) -> jax.Array:
        """Returns the loss against anchor embeddings `state`."""
        positive = _dot(image, text) / self.temperature

        def against(anchors: jax.Array, embedding: jax.Array) -> jax.Array:
            return jax.nn.logsumexp(jnp.append(_dot(anchors, embedding) / self.temperature, positive)) - positive

        forward = against(state.texts, image)
        return forward if state.images is None else 0.5 * (forward + against(state.images, text))


@dataclasses.dataclass(frozen=True)
class AnchorSigmoid(_Anchored):
    """Sigmoid loss (Zhai et al. 2023, arXiv 2303.15343) with public negatives: -log s(u.v/tau + b) - sum_a log s(-(u.v_a/tau + b)).

    Where the bank has images, the text is compared with them too. Its slopes are bounded and no partition function is needed.
    """

    temperature: float
    bias: float = 0.0
    name: ClassVar[str] = "anchor_sigmoid"

    def record_loss(self, image: jax.Array, text: jax.Array, labels: Any, state: Any) -> jax.Array:
        """Returns the loss against anchor embeddings `state`."""

        def logits(left: jax.Array, right: jax.Array) -> jax.Array:
            return _dot(left, right) / self.temperature + self.bias

        loss = jax.nn.softplus(-logits(image, text)) + jnp.sum(jax.nn.softplus(logits(state.texts, image)))
        return loss if state.images is None else loss + jnp.sum(jax.nn.softplus(logits(state.images, text)))


@dataclasses.dataclass(frozen=True)
class Prototype(_Anchored):
    """Classification of a record's image and text among public prototypes, one bank text per label, at temperature tau.

    The target is uniform over the record's positive labels (entries above 0; NaN and -1 count as not positive) and the loss is the mean
    of the two cross-entropies. A record without a positive label has no loss. Labels are part of the private record.
    """

    temperature: float
    name: ClassVar[str] = "prototype"

    def record_loss(self, image: jax.Array, text: jax.Array, labels: Any, state: Any) -> jax.Array:
        """Returns the loss of a record with labels [L] against prototype embeddings [L, D]; `DataError` where it has none or another number."""
        if labels is None or labels.shape[-1] != len(state.texts):
            found = "none" if labels is None else str(labels.shape[-1])
            raise errors.DataError(errors.describe("labels", "objective 'prototype'", f"{len(state.texts)}, one per row of the public bank", found))
        positive = (labels > 0).astype(jnp.float32)
        target = positive / jnp.maximum(jnp.sum(positive), 1.0)
        entropies = [-jnp.sum(target * jax.nn.log_softmax(_dot(state.texts, one) / self.temperature)) for one in (image, text)]
        return 0.5 * (entropies[0] + entropies[1])


@dataclasses.dataclass(frozen=True)
class Unlink(Prototype):
    """Keeps what findings say of a record and decorrelates the rest: the purpose-built competitor of noise.

    loss = prototype loss + weight (u'.v')^2, where u', v' are what is left of the record's embeddings outside the span of the public
    prototypes. Beyond its findings, an image is then no more like its own report than like any other. It is a loss of one record, so it
    is clipped and priced as every other per-record loss.
    """

    weight: float = 10.0
    name: ClassVar[str] = "unlink"

    def record_loss(self, image: jax.Array, text: jax.Array, labels: Any, state: Any) -> jax.Array:
        """Returns the loss of a record with labels [L] against prototype embeddings [L, D]."""
        span = jnp.linalg.qr(state.texts.T)[0]
        beyond = _dot(image, text) - _dot(_dot(image, span), _dot(text, span))
        return super().record_loss(image, text, labels, state) + self.weight * jnp.square(beyond)


def _dot(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=_HIGHEST)


_ALL: dict[str, Any] = {
    "anchor_infonce": lambda s: AnchorInfoNCE(s.temperature),
    "align": lambda s: Align(),
    "anchor_sigmoid": lambda s: AnchorSigmoid(s.temperature, s.bias),
    "prototype": lambda s: Prototype(s.temperature),
    "unlink": lambda s: Unlink(s.temperature),
    "group_infonce": lambda s: joint_objectives.GroupInfoNCE(s.temperature, s.group_size),
    "pair_sigmoid": lambda s: joint_objectives.PairSigmoid(s.temperature, s.bias, s.batch_cap),
    "logit_dp": lambda s: joint_objectives.LogitDP(s.temperature, s.batch_cap),
    "inbatch_infonce_unsound": lambda s: joint_objectives.InBatchInfoNCE(s.temperature),
}
NAMES: tuple[str, ...] = tuple(_ALL)


@dataclasses.dataclass(frozen=True)
class _Settings:
    temperature: float
    bias: float
    batch_cap: int
    group_size: int


def get_objective(name: str, temperature: float, *, bias: float = 0.0, batch_cap: int = 0, group_size: int = 0, allow_unsound: bool = False) -> Objective:
    """Returns the objective called `name`, one of `NAMES`.

    Args:
        temperature: what cosines are divided by; `align` has none.
        bias: added to the logits of the sigmoid losses.
        batch_cap: most records one step may hold, public; what per-pair sensitivities are derived from.
        group_size: expected members of a group, at least 2, for `group_infonce`.
        allow_unsound: permits `inbatch_infonce_unsound`, which has no bounded sensitivity and an infinite epsilon.

    Raises: UsageError: unknown name, a temperature that is not positive and finite or too small for `logit_dp`, a bias that is not finite,
        a missing batch cap or group size, or the unsound objective without permission.
    """
    if name not in _ALL:
        raise errors.UsageError(errors.describe("objective", "mechanism", f"one of {list(NAMES)}", repr(name)) + errors.suggest(name, NAMES))
    if not 0 < temperature < math.inf:
        raise errors.UsageError(errors.describe("temperature", "mechanism", "a positive finite number", f"{temperature:g}"))
    if not math.isfinite(bias):
        raise errors.UsageError(errors.describe("bias", "mechanism", "a finite number", f"{bias:g}"))
    if name == joint_objectives.InBatchInfoNCE.name and not allow_unsound:
        expected = "allow_unsound, since its sensitivity is not bounded and its epsilon infinite"
        raise errors.UsageError(errors.describe("objective", "mechanism", expected, repr(name)))
    objective: Objective = _ALL[name](_Settings(float(temperature), float(bias), int(batch_cap), int(group_size)))
    return objective
