"""The attack that all others are measured against: inner products of the released vectors as they are."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from relink_jax.audit.attacks import base


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Plain cosine of the released embeddings."""

    name: ClassVar[str] = "cosine"
    family: ClassVar[str] = base.RAW
    bank: ClassVar[str | None] = None
    pairs: ClassVar[int | None] = None

    def space(self, target: base.Target) -> base.Space:
        """Returns the audited vectors."""
        return base.Space(target.inputs.images, target.inputs.texts)

    def variants(self, target: base.Target) -> Sequence[base.Attack]:
        """Returns itself."""
        return (self,)
