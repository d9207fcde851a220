"""Public vectors that training objectives may compare a private record with, chosen without looking at any private record.

A record's gradient may depend on them freely, because they are the same for every data set; that they are public rests on their
provenance, which the ledger keeps beside their SHA-256 and licence.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors
from relink_jax.store import digests

_MAX_SHARED = 0.5


class Public(NamedTuple):
    """What an objective sees of a bank: texts [A, F_t], and images [A_i, F_i] or maps [A_i, P, F_i] where the bank has any."""

    texts: jax.Array
    images: jax.Array | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class PublicBank:
    """Frozen tower features of texts, and optionally of images, chosen without looking at any private record.

    Attributes:
        features: float32 [A, F_t] of the texts, finite, no zero rows.
        provenance: where the texts come from, for the ledger, such as 'relink_jax synthetic reports, seed 11'.
        licence: licence of the texts.
        private: one flag, or one per text row; any true flag is refused, because private anchors void the guarantee of the others.
        image_features: float32 [A_i, F_i] or maps [A_i, P, F_i] of public images of the same provenance, for losses in both directions.
        sha256: digest of all the features.

    Raises:
        DataError: wrong shape, non-finite or zero-norm rows.
        UnsoundError: a row flagged private, or no provenance.
    """

    features: np.ndarray
    provenance: str
    licence: str = ""
    private: bool | np.ndarray = False
    image_features: np.ndarray | None = None
    sha256: str = dataclasses.field(init=False, default="")

    def __post_init__(self) -> None:
        if not self.provenance.strip():
            raise errors.UnsoundError(errors.describe("provenance", "public bank", "where the anchor texts come from", "an empty string"))
        arrays = {"features": _checked(self.features, (2,), "anchor features")}
        if self.image_features is not None:
            arrays["image_features"] = _checked(self.image_features, (2, 3), "image anchor features")
        flagged = int(np.sum(np.broadcast_to(np.asarray(self.private, dtype=bool), (len(arrays["features"]),))))
        if flagged:
            raise errors.UnsoundError(
                errors.describe("private rows", "public bank", "anchors that belong to no private record", f"{flagged} rows flagged private")
            )
        for name, array in arrays.items():
            object.__setattr__(self, name, array)
        object.__setattr__(self, "sha256", digests.arrays_digest(arrays))

    def arrays(self) -> Public:
        """Returns the bank's features as device arrays."""
        return Public(jnp.asarray(self.features), None if self.image_features is None else jnp.asarray(self.image_features))

    def refuse_private(self, text_features: np.ndarray, image_features: np.ndarray | None = None) -> None:
        """Raises `UnsoundError` when at least half of the anchors of a side equal a private row byte for byte.

        This catches the mistake of passing the training rows as the bank, and nothing subtler: rows are compared for exact equality, so
        private texts that were paraphrased, reformatted or encoded at another precision pass. That a bank is public rests on its provenance.
        A few equal rows are expected, since a fixed synthetic normal report can also occur in an archive; half a bank cannot.
        """
        for anchors, private in ((self.features, text_features), (self.image_features, image_features)):
            if anchors is not None and private is not None and _shared(anchors, private) >= _MAX_SHARED * len(anchors):
                raise errors.UnsoundError(
                    errors.describe("anchors", "public bank", "rows chosen without the private set", "half of the rows or more equal to private rows")
                )


def _checked(features: np.ndarray, ranks: tuple[int, ...], what: str) -> np.ndarray:
    """Returns a read-only float32 copy; `DataError` unless it has one of these ranks and finite rows of positive norm."""
    array = np.array(features, dtype=np.float32)
    if array.ndim not in ranks or not len(array):
        raise errors.DataError(errors.describe(what, "public bank", f"a {ranks[0]}-D array with at least one row", f"shape {array.shape}"))
    flat = array.reshape(len(array), -1)
    bad = int(np.sum(~np.isfinite(flat).all(axis=1) | ~(np.abs(flat) > 0).any(axis=1)))
    if bad:
        raise errors.DataError(errors.describe(what, "public bank", "finite rows of positive norm", f"{bad} other rows"))
    array.setflags(write=False)
    return array


def _shared(anchors: np.ndarray, private: np.ndarray) -> int:
    """Returns how many anchors equal a private row; no row of a private array is copied unless its shape could match."""
    if np.shape(private)[1:] != anchors.shape[1:]:
        return 0
    wanted = {row.tobytes() for row in anchors}
    found = {row.tobytes() for row in (np.asarray(one, np.float32) for one in private)} & wanted
    return sum(row.tobytes() in found for row in anchors)
