"""One noiseless step of the mechanism under audit: the clipped sum of whichever records are present, as a flat vector.

Design note: the sum goes through `clipping.clipped_sum`, the code that trains. Absent records are slots of weight 0, as in training,
so that one compiled program serves every neighbouring dataset.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import heads
from relink_jax.privacy import banks, clipping, objectives

GROUP_SIZE = 4


@dataclasses.dataclass(frozen=True)
class Step:
    """An objective at fixed heads, clip norm and public bank.

    Groups, where the objective has them, are rows 0 to g - 1, g to 2g - 1 and so on: a public assignment that no record influences.
    """

    objective: objectives.Objective
    params: heads.Heads
    public: banks.Public
    l2_norm_clip: float = 1.0
    implementation: str = "auto"

    def total(self, records: clipping.Records, present: np.ndarray) -> np.ndarray:
        """Returns the clipped sum over the rows flagged in `present` (bool [N]) as a float64 vector over all trained parameters."""
        found = clipping.clipped_sum(
            self.objective,
            self.params,
            records,
            layout(self.objective, present),
            self.public,
            l2_norm_clip=self.l2_norm_clip,
            implementation=self.implementation,
        )
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(found.value)])

    def traced(self, params: heads.Heads, records: clipping.Records, present: jax.Array) -> jax.Array:
        """Returns the same, float32, at heads `params`, as a pure function of device arrays that may be mapped over heads and `present`."""
        batch = layout(self.objective, present)
        return flat(clipping.block_sum(self.objective, params, records, batch, self.public, l2_norm_clip=self.l2_norm_clip))


def layout(objective: objectives.Objective, present: Any) -> clipping.Batch:
    """Returns the batch in which rows 0 to N - 1 stand in the units or groups of `objective`, with weight 1 where `present` [N]."""
    count = len(present)
    size = group_size(objective) if objective.decomposition == "per_group" else 1
    slots = math.ceil(count / size) * size
    rows = np.minimum(np.arange(slots), count - 1).astype(np.int32).reshape(-1, size)
    taken = (np.arange(slots) < count).astype(np.float32).reshape(-1, size)
    return clipping.Batch(rows, taken * present[rows])


def group_size(objective: objectives.Objective) -> int:
    """Returns how many records share a group under `objective`."""
    return int(objective.settings().get("group_size", GROUP_SIZE))


def flat(tree: Any) -> jax.Array:
    """Returns all leaves of a trained tree as one float32 vector."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
