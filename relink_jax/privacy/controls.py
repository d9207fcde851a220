"""Controls and public tuning: what noise alone does to the heads, computed without touching a private record.

The noise-only control runs the same mechanism with every gradient set to zero. It is perfectly private, so a fall in linkage that it
reproduces was not learned. The closed forms here depend on public quantities only; choosing a learning rate with them costs no privacy.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import optax

from relink_jax import errors, heads
from relink_jax.privacy import banks, clipping, training
from relink_jax.privacy.options import OPTIMIZERS, Options


def noise_only(
    initial: heads.Heads, records: clipping.Records, pair_unit: np.ndarray, public: banks.PublicBank | None, options: Options, **ledger: Any
) -> training.TrainedHeads:
    """Returns `training.train_heads` without data: same noise, steps, step size and optimizer, no gradient signal."""
    return training.train_heads(initial, records, pair_unit, public, dataclasses.replace(options, data=False), **ledger)


def expected_displacement(
    *, learning_rate: float, iterations: int, noise_stddev: float, expected_batch_size: int, parameters: int, optimizer: str = "sgd"
) -> float:
    """Returns the root-mean-square L2 distance that noise alone moves `parameters` head entries over a run.

    For SGD it is learning_rate * sqrt(iterations) * (noise_stddev / B) * sqrt(parameters), exactly. For other optimizers the
    noise is put through the optimizer itself on 4,096 entries with a fixed public seed (about 2 percent error).

    Raises: UsageError: unknown optimizer.
    """
    deviation = noise_stddev / expected_batch_size
    if optimizer == "sgd":
        return learning_rate * math.sqrt(iterations * parameters) * deviation
    if optimizer not in OPTIMIZERS:
        raise errors.UsageError(errors.describe("optimizer", "mechanism", f"one of {list(OPTIMIZERS)}", repr(optimizer)))
    transformation, generator = OPTIMIZERS[optimizer](learning_rate), np.random.default_rng(0)
    moved: Any = np.zeros(4096, np.float32)
    state = transformation.init(moved)
    for _ in range(iterations):
        updates, state = transformation.update(deviation * generator.standard_normal(4096).astype(np.float32), state, moved)
        moved = optax.apply_updates(moved, updates)
    return float(np.sqrt(np.mean(np.square(np.asarray(moved, np.float64))) * parameters))


def relative_displacement(initial: heads.Heads, **mechanism: Any) -> float:
    """Returns `expected_displacement` divided by the L2 norm of the initial heads; 1 means noise as large as the heads themselves."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(heads.partition(initial)[0])]
    size = math.sqrt(sum(float(np.sum(leaf**2)) for leaf in leaves))
    return expected_displacement(parameters=sum(leaf.size for leaf in leaves), **mechanism) / size


def learning_rate_for(initial: heads.Heads, relative: float, *, iterations: int, noise_stddev: float, expected_batch_size: int) -> float:
    """Returns the SGD learning rate at which noise alone moves the heads by `relative` times their initial norm.

    Raises: UsageError: no noise, or a target that is not positive.
    """
    settings = {"iterations": iterations, "noise_stddev": noise_stddev, "expected_batch_size": expected_batch_size}
    at_one = relative_displacement(initial, learning_rate=1.0, **settings)
    if not (at_one > 0 and relative > 0):
        raise errors.UsageError(
            errors.describe("relative displacement", "mechanism", "a positive number and noise", f"{relative:g} and standard deviation {noise_stddev:g}")
        )
    return relative / at_one
