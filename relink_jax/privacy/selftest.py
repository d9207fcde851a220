"""One step on synthetic records before training: the clipped sum decomposes as the objective declares.

Synthetic records of the training shapes, some crafted to be huge, zero or non-finite, go through the real clipping path. Each is
removed, and replaced, in turn. Whatever the objective, the sum may not move further than declared; besides,

    per_record   the sum is additive: a record's own part is what it adds to the others, alone or among them
    per_group    the sum is additive over groups: a record changes its own group's part and no other
    per_pair     the sum is additive over pairs of rows: what two records add to the rest together is explained by
                 what each adds alone and by their own two pairs (not so for `logit_dp`, whose softmax renormalises; its bound covers that)
    none         nothing is claimed, so nothing is checked
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from relink_jax import errors, heads
from relink_jax.privacy import banks, clipping, objectives

_RECORDS = 12
_SLOTS = 3
_ROUNDING = 1e-5


def check(
    objective: objectives.Objective, params: heads.Heads, like: clipping.Records, public: banks.Public, *, l2_norm_clip: float, implementation: str = "auto"
) -> str:
    """Returns 'passed' when removing or replacing any one synthetic record changes the clipped sum as declared.

    Args:
        like: records (or `jax.ShapeDtypeStruct`s) of which only the shapes are read, never a value.

    Returns 'not applicable: unsound objective' where none is declared.

    Raises: UnsoundError: the sum moves further than the declared sensitivity, or a record changes more than its decomposition allows.
    """
    if objective.decomposition == "none":
        return "not applicable: unsound objective"
    records = _synthetic(like)
    settings: dict[str, Any] = {"l2_norm_clip": l2_norm_clip, "implementation": implementation}

    def total(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        found = clipping.clipped_sum(objective, params, records, clipping.Batch(rows, weights), public, **settings)
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(found.value)])

    slack = _ROUNDING * _RECORDS * l2_norm_clip
    leak = {"per_record": _unit_leak, "per_group": _group_leak, "per_pair": _pair_leak}[objective.decomposition]
    moved, swapped, leaked = leak(total, min(_RECORDS, getattr(objective, "batch_cap", _RECORDS)))
    removed, replaced = (objective.sensitivity(relation, l2_norm_clip) for relation in ("add_remove", "replace_one"))
    if not (moved <= removed + slack and swapped <= replaced + slack):
        expected = f"at most {removed / l2_norm_clip:g} C and {replaced / l2_norm_clip:g} C"
        found = f"{moved / l2_norm_clip:.3g} C removed, {swapped / l2_norm_clip:.3g} C replaced"
        raise errors.UnsoundError(errors.describe("sensitivity", f"objective {objective.name!r}", expected, found))
    if not (leaked <= slack or getattr(objective, "renormalises", False)):
        expected = f"records that change no more than {objective.decomposition} allows"
        raise errors.UnsoundError(errors.describe("decomposition", f"objective {objective.name!r}", expected, f"a change of {leaked / l2_norm_clip:.3g} C"))
    return "passed"


def _synthetic(like: clipping.Records) -> clipping.Records:
    """Returns twice `_RECORDS` records of scales 1e-3 to 1e3, of which four are NaN, infinite or zero; the labels of each third are empty."""
    generator, count = np.random.default_rng(0), 2 * _RECORDS

    def drawn(array: Any) -> np.ndarray:
        shape = (count, *array.shape[1:])
        scale = 10.0 ** generator.uniform(-3, 3, (count,) + (1,) * (len(shape) - 1))
        return (generator.standard_normal(shape) * scale).astype(np.float32)

    images, texts = drawn(like.images), drawn(like.texts)
    images[1], texts[2], images[3], images[_RECORDS] = np.nan, np.inf, 0.0, np.nan
    if like.labels is None:
        return clipping.Records(images, texts)
    labels = (generator.random((count, *like.labels.shape[1:])) < 0.3).astype(np.float32)
    labels[::3] = 0.0
    return clipping.Records(images, texts, labels)


_Total = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _moves(total: _Total, rows: np.ndarray, weights: np.ndarray, k: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the sums with everyone, without the record in slot k, and with another record in its place."""
    without, other = weights.copy(), rows.copy()
    without[k] = 0.0
    other[k] += _RECORDS
    return total(rows, weights), total(rows, without), total(other, weights)


def _largest(found: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    moved, swapped, leaked = np.max(np.nan_to_num(np.array(found), nan=np.inf), axis=0)
    return float(moved), float(swapped), float(leaked)


def _unit_leak(total: _Total, count: int) -> tuple[float, float, float]:
    """Returns the largest (removal, replacement, departure from additivity) over units of two slots, one of them filler."""
    rows = np.repeat(np.arange(count)[:, None], 2, axis=1)
    weights = np.tile(np.array([1, 0], np.float32), (count, 1))
    found = []
    for k in range(count):
        everyone, without, exchanged = _moves(total, rows, weights, (k, 0))
        alone, other = np.where(np.arange(count)[:, None] == k, weights, 0), rows.copy()
        other[k] += _RECORDS
        leaks = np.linalg.norm(everyone - without - total(rows, alone)), np.linalg.norm(exchanged - without - total(other, alone))
        found.append((np.linalg.norm(everyone - without), np.linalg.norm(everyone - exchanged), max(leaks)))
    return _largest(found)  # type: ignore[arg-type]


def _group_leak(total: _Total, count: int) -> tuple[float, float, float]:
    """Returns the same for groups of `_SLOTS` records: the move of a sum must be the move of the record's own group alone."""
    rows = np.arange(count).reshape(-1, _SLOTS)
    weights = np.ones(rows.shape, np.float32)
    found = []
    for k in range(count):
        slot = (k // _SLOTS, k % _SLOTS)
        everyone, without, exchanged = _moves(total, rows, weights, slot)
        own = np.where(np.arange(len(rows))[:, None] == slot[0], weights, 0)
        alone, alone_without, alone_exchanged = _moves(total, rows, own, slot)
        leaks = np.linalg.norm(everyone - without - alone + alone_without), np.linalg.norm(everyone - exchanged - alone + alone_exchanged)
        found.append((np.linalg.norm(everyone - without), np.linalg.norm(everyone - exchanged), max(leaks)))
    return _largest(found)  # type: ignore[arg-type]


def _pair_leak(total: _Total, count: int) -> tuple[float, float, float]:
    """Returns the same for pairs: with t(S) the sum over records S, t(rest + k + l) - t(rest + k) - t(rest + l) + t(rest) must be t(kl) - t(k) - t(l)."""
    rows = np.arange(count)[:, None]
    found = []

    def of(*present: int) -> np.ndarray:
        return total(rows, np.isin(rows, present).astype(np.float32))

    for k in range(count):
        everyone, without, exchanged = _moves(total, rows, np.ones(rows.shape, np.float32), (k, 0))
        other = (k + 1) % count
        rest = [one for one in range(count) if one not in (k, other)]
        among = everyone - without - of(k, *rest) + of(*rest)
        found.append((np.linalg.norm(everyone - without), np.linalg.norm(everyone - exchanged), np.linalg.norm(among - of(k, other) + of(k) + of(other))))
    return _largest(found)  # type: ignore[arg-type]
