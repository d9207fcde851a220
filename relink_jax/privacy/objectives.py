"""Per-record training objectives that declare their own sensitivity, and the public vectors they may compare with.

DP-SGD (Abadi et al. 2016, arXiv 1607.00133) needs a sum of per-record terms: removing one record must change one summand
and nothing else. In-batch InfoNCE is not of that form, because every record is a negative of every other, and clipping its
rows bounds nothing (n records change when one is removed). The objective here compares each record with a fixed PUBLIC bank
of anchor texts instead, so that a record's gradient depends on that record, the heads and public vectors only.

Design note: `sensitivity` is the only source of the noise scale. No caller types a sensitivity, and a later objective (micro-groups,
pairs) widens `Objective` with its own decomposition and factor without touching clipping, noise or accounting.
"""

import dataclasses
from typing import Any, ClassVar, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors, heads
from relink_jax.privacy import accounting
from relink_jax.store import digests

Record: TypeAlias = tuple[jax.Array, jax.Array]
_MAX_SHARED = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class PublicBank:
    """Frozen text-tower features [A, F_t] of texts chosen without looking at any private record.

    Attributes:
        features: float32 [A, F_t], finite, no zero rows.
        provenance: where the texts come from, for the ledger, such as 'relink_jax synthetic reports, seed 11'.
        licence: licence of the texts.
        private: one flag, or one per row; any true flag is refused, because private anchors void the guarantee of the others.

    Raises:
        DataError: wrong shape, non-finite or zero-norm rows.
        UnsoundError: a row flagged private, or no provenance.
    """

    features: np.ndarray
    provenance: str
    licence: str = ""
    private: bool | np.ndarray = False
    sha256: str = dataclasses.field(init=False, default="")

    def __post_init__(self) -> None:
        features = np.array(self.features, dtype=np.float32)
        if features.ndim != 2 or not len(features):
            raise errors.DataError(errors.describe("anchor features", "public bank", "a 2-D array with at least one row", f"shape {features.shape}"))
        bad = int(np.sum(~np.isfinite(features).all(axis=1) | ~(np.abs(features) > 0).any(axis=1)))
        if bad:
            raise errors.DataError(errors.describe("anchor features", "public bank", "finite rows of positive norm", f"{bad} other rows"))
        if not self.provenance.strip():
            raise errors.UnsoundError(errors.describe("provenance", "public bank", "where the anchor texts come from", "an empty string"))
        flagged = int(np.sum(np.broadcast_to(np.asarray(self.private, dtype=bool), (len(features),))))
        if flagged:
            raise errors.UnsoundError(
                errors.describe("private rows", "public bank", "anchors that belong to no private record", f"{flagged} rows flagged private")
            )
        features.setflags(write=False)
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "sha256", digests.arrays_digest({"features": features}))

    def refuse_private(self, text_features: np.ndarray) -> None:
        """Raises `UnsoundError` when at least half of the anchors equal a private text row byte for byte.

        This catches the mistake of passing the training texts as the bank, and nothing subtler: rows are compared for exact equality, so
        private texts that were paraphrased, reformatted or encoded at another precision pass. That a bank is public rests on its provenance.
        A few equal rows are expected, since a fixed synthetic normal report can also occur in an archive; half a bank cannot.
        """
        rows = np.ascontiguousarray(text_features, dtype=np.float32)
        private = {row.tobytes() for row in rows}
        if sum(row.tobytes() in private for row in self.features) >= _MAX_SHARED * len(self.features):
            raise errors.UnsoundError(
                errors.describe("anchors", "public bank", "texts chosen without the private set", "half of the rows or more equal to private rows")
            )


class Objective(Protocol):
    """What a training objective offers; only `record` is ever mapped over, `public` is the same for every record.

    Attributes:
        name: identifier in configs and ledgers.
        decomposition: what one clipped unit of gradient depends on: per_record, per_pair or per_group.
        rank_one: whether each linear head's record gradient is one outer product (features x output gradient).
        derivation: one sentence that justifies `sensitivity`, kept in the ledger.
    """

    name: ClassVar[str]
    decomposition: ClassVar[str]
    rank_one: ClassVar[bool]
    derivation: ClassVar[str]

    def loss(self, params: heads.Heads, record: Record, public: Any) -> jax.Array:
        """Returns one record's scalar loss under heads `params` and the public bank's features."""

    def public_state(self, params: heads.Heads, public: Any) -> Any:
        """Returns what the loss needs of heads and public bank together, computed once per step."""

    def loss_at_outputs(self, image_output: jax.Array, text_output: jax.Array, state: Any) -> jax.Array:
        """Returns the same loss as a function of the record's head outputs [D], [D] and the public state."""

    def sensitivity(self, relation: str, l2_norm_clip: float) -> float:
        """Returns the L2 sensitivity of the clipped sum when one unit changes by `relation`."""


@dataclasses.dataclass(frozen=True)
class AnchorInfoNCE:
    """InfoNCE of an image against its own report and A public anchor reports, at temperature tau.

    loss = -log( exp(u.v/tau) / (exp(u.v/tau) + sum_a exp(u.v_a/tau)) ), where u, v are the record's unit-norm image and text
    embeddings and v_a the anchors' under the current text head (van den Oord et al. 2018, arXiv 1807.03748, with the in-batch
    negatives replaced by public ones). It is one-directional, image to text: there is no bank of public images. The text head
    learns through u.v only; gradients through the anchors are stopped, so each head's record gradient stays rank one.
    """

    temperature: float
    name: ClassVar[str] = "anchor_infonce"
    decomposition: ClassVar[str] = "per_record"
    rank_one: ClassVar[bool] = True
    derivation: ClassVar[str] = (
        "each record's gradient depends on that record, the heads and the public anchors only, and is clipped to C over both heads, "
        "so adding, removing or zeroing one record moves the sum by at most C and replacing it by at most 2C"
    )

    def public_state(self, params: heads.Heads, public: Any) -> jax.Array:
        """Returns the anchors' unit-norm embeddings [A, D] under the current text head, with gradients stopped."""
        return jax.lax.stop_gradient(heads.project(params["text"], public))

    def loss_at_outputs(self, image_output: jax.Array, text_output: jax.Array, state: Any) -> jax.Array:
        """Returns the loss of head outputs [D], [D] against anchors [A, D]."""
        highest = jax.lax.Precision.HIGHEST
        u = image_output / jnp.linalg.norm(image_output)
        v = text_output / jnp.linalg.norm(text_output)
        positive = jnp.dot(u, v, precision=highest) / self.temperature
        negatives = jnp.matmul(state, u, precision=highest) / self.temperature
        return jax.nn.logsumexp(jnp.append(negatives, positive)) - positive

    def loss(self, params: heads.Heads, record: Record, public: Any) -> jax.Array:
        """Returns the loss of record (image features [F_i], text features [F_t]) against anchor features [A, F_t]."""
        image, text = (jnp.matmul(x, params[side]["kernel"], precision=jax.lax.Precision.HIGHEST) for x, side in zip(record, heads.SIDES, strict=True))
        return self.loss_at_outputs(image, text, self.public_state(params, public))

    def sensitivity(self, relation: str, l2_norm_clip: float) -> float:
        """Returns C for add_remove and zero_out, 2C for replace_one (see `derivation`); `UsageError` for another relation."""
        return accounting.relation_factor(relation) * l2_norm_clip


def get_objective(name: str, temperature: float) -> Objective:
    """Returns the objective called `name`.

    Raises: UsageError: unknown name, or a temperature that is not positive and finite.
    """
    if name != AnchorInfoNCE.name:
        raise errors.UsageError(errors.describe("objective", "mechanism", repr(AnchorInfoNCE.name), repr(name)) + errors.suggest(name, [AnchorInfoNCE.name]))
    if not 0 < temperature < float("inf"):
        raise errors.UsageError(errors.describe("temperature", "mechanism", "a positive finite number", f"{temperature:g}"))
    return AnchorInfoNCE(float(temperature))
