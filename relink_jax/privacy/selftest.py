"""A check, before any private row is read, that the clipped sum decomposes as the objective declares.

Synthetic records of the training shapes, some crafted to be huge, zero or non-finite, go through the real clipping path. For a
per-record objective the sum must be additive over records, one record must weigh at most C, and the rest must not notice it leave.
"""

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors, heads
from relink_jax.privacy import clipping, objectives

_RECORDS = 16
_ROUNDING = 1e-5


def check(objective: objectives.Objective, params: heads.Heads, public: jax.Array, *, l2_norm_clip: float, implementation: str) -> str:
    """Returns 'passed' when removing or replacing any one of 16 synthetic records changes the clipped sum as declared.

    Raises: UnsoundError: the sum moves further than the declared sensitivity, or a record's presence changes another's part.
    """
    generator = np.random.default_rng(0)
    images, texts = (generator.standard_normal((2 * _RECORDS, params[side]["kernel"].shape[0])).astype(np.float32) for side in heads.SIDES)
    for features in (images, texts):
        features *= 10.0 ** generator.uniform(-3, 3, (2 * _RECORDS, 1)).astype(np.float32)
    images[1], texts[2], images[3] = np.nan, np.inf, 0.0
    left, right = jnp.asarray(images), jnp.asarray(texts)

    def total(rows: np.ndarray, padding: np.ndarray) -> np.ndarray:
        found = clipping.clipped_sum(
            objective, params, left, right, rows, padding, public, l2_norm_clip=l2_norm_clip, implementation=implementation, chunk=_RECORDS
        )
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(found.value)])

    rows = np.arange(_RECORDS)
    nobody = np.zeros(_RECORDS, bool)
    everyone = total(rows, nobody)
    removed, replaced = (objective.sensitivity(relation, l2_norm_clip) for relation in ("add_remove", "replace_one"))
    slack = _ROUNDING * _RECORDS * l2_norm_clip
    for k in range(_RECORDS):
        only = rows != k
        own = total(rows, only)
        without = total(rows, ~only)
        other = rows.copy()
        other[k] += _RECORDS
        exchanged = total(other, nobody)
        moved, swapped = np.linalg.norm(everyone - without), np.linalg.norm(everyone - exchanged)
        if not (moved <= removed + slack and swapped <= replaced + slack):
            found = f"{moved / l2_norm_clip:.3g} C removed, {swapped / l2_norm_clip:.3g} C replaced"
            raise errors.UnsoundError(
                errors.describe(
                    "sensitivity", f"objective {objective.name!r}", f"at most {removed / l2_norm_clip:g} C and {replaced / l2_norm_clip:g} C", found
                )
            )
        if objective.decomposition == "per_record":
            leak = max(np.linalg.norm(everyone - without - own), np.linalg.norm(exchanged - without - total(other, only)))
            if not leak <= slack:
                raise errors.UnsoundError(
                    errors.describe(
                        "decomposition", f"objective {objective.name!r}", "records that do not change each other's gradients", f"a change of {leak:.3g}"
                    )
                )
    return "passed"
