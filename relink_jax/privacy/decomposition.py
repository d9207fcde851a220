"""What a clipped sum is a sum of, and the sensitivity that follows from it; the only source of noise scales.

per_record   one vector of norm at most C per privacy unit, which depends on that unit and on public things only
per_group    one vector of norm at most C per group, and each unit draws its group with its own coins
per_pair     one vector of norm at most B per ordered pair of units, weighted
none         anything else: removing one unit may change every summand, so no sensitivity is bounded usefully
"""

import abc
import math
from typing import Any, ClassVar

from relink_jax.privacy import accounting

DECOMPOSITIONS = ("per_record", "per_group", "per_pair", "none")


class Decomposed(abc.ABC):
    """Sensitivity of an objective whose clipped sum moves by `factor()` clip norms when one unit is removed.

    Zeroing a unit out is removing it, and replacing it is removing one and adding another, hence twice as far.
    """

    name: ClassVar[str]
    decomposition: ClassVar[str]
    derivation: ClassVar[str]

    @abc.abstractmethod
    def factor(self) -> float:
        """Returns the add/remove sensitivity in clip norms."""

    def sensitivity(self, relation: str, l2_norm_clip: float) -> float:
        """Returns the L2 sensitivity of the clipped sum when one unit changes by `relation`, see `derivation`.

        Raises: UsageError: an unknown relation.
        """
        return self.factor() * accounting.relation_factor(relation) * l2_norm_clip

    def noise_scale(self, l2_norm_clip: float) -> float:
        """Returns what a noise multiplier is multiplied with: the add/remove sensitivity, or C as common practice has it where there is none."""
        bound = self.sensitivity("add_remove", l2_norm_clip)
        return bound if math.isfinite(bound) else l2_norm_clip

    def settings(self) -> dict[str, Any]:
        """Returns the objective's own settings, JSON-ready, for the ledger."""
        return dict(vars(self))


class PerRecord(Decomposed):
    """C when a record is added, removed or zeroed, 2C when it is replaced."""

    decomposition = "per_record"

    def factor(self) -> float:
        """Returns 1: one clipped vector comes or goes."""
        return 1.0
