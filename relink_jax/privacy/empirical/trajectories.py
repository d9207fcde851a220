"""A white-box audit of whole training runs: Poisson sampling, clipping, noise and descent, repeated with and without one record.

One step says nothing about sampling, so a run that claims amplification by sampling and never samples passes every single-step
audit. Here hundreds of short runs on a crafted dataset are trained with and without the record, under the settings that are executed, and
their scores are held against the epsilon of the settings that are claimed.

Design note: the score is the sum over steps of the released sum, less its expectation without the record, projected on what the
record would add at the current heads. The runs are mapped by `vmap`, in one program.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors, heads
from relink_jax.privacy import clipping
from relink_jax.privacy.empirical import bounds, paired, search, steps

_AT_ONCE = 50
_TINY = float(np.finfo(np.float32).tiny)


def audit(
    step: steps.Step,
    neighbour: search.Neighbour,
    claim: tuple[float, float],
    *,
    sampling_probability: float,
    noise_stddev: float,
    iterations: int = 50,
    runs: int = 400,
    learning_rate: float = 0.005,
    delta: float = bounds.DELTA,
    confidence: float = bounds.CONFIDENCE,
    seed: int = 0,
) -> paired.Paired:
    """Returns lower bounds on the epsilon of `iterations` noisy steps as executed, beside `claim`.

    The Gaussian bound assumes a Gaussian trade-off, which sampled runs have only approximately; Clopper-Pearson assumes nothing.

    Args:
        neighbour: the crafted dataset and the record.
        claim: (RDP, PLD) epsilon that is claimed, see `paired.claimed`.
        sampling_probability: what the runs really do; the claim may say otherwise, and that is what is audited.
        noise_stddev: deviation of the noise on every clipped sum.
        runs: runs with the record, and as many without.
        learning_rate: of plain descent on the released sum over the expected batch; small, so that the heads stay those the record was crafted for.

    Raises: UsageError: settings out of range.
    """
    if not (0 < sampling_probability <= 1 and noise_stddev >= 0 and iterations >= 1 and runs >= 8):
        found = f"q {sampling_probability:g}, noise {noise_stddev:g}, {iterations} iterations, {runs} runs"
        raise errors.UsageError(errors.describe("settings", "trajectory audit", "0 < q <= 1, noise >= 0, iterations >= 1, runs >= 8", found))
    keys = jax.random.split(jax.random.key(seed), 2 * runs)
    members = jnp.arange(2 * runs) < runs
    settings = jnp.asarray([sampling_probability, noise_stddev, learning_rate], jnp.float32)
    records = clipping.Records(*(None if rows is None else jnp.asarray(rows) for rows in neighbour.records))
    trained = _train_all(step.objective, step.l2_norm_clip, iterations, step.params, step.public, records, keys, members, settings)
    scores = np.asarray(trained, np.float64)
    result = bounds.from_scores(scores[:runs], scores[runs:], delta, confidence)
    return paired.Paired(*claim, neighbour.distance / step.l2_norm_clip, f"{neighbour.scene.name}: {neighbour.name}", result, runs)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _train_all(
    objective: Any, l2_norm_clip: float, iterations: int, params: Any, public: Any, records: Any, keys: jax.Array, members: jax.Array, settings: jax.Array
) -> jax.Array:
    """Returns the score of every run [2 runs], `_AT_ONCE` of them at a time."""
    step = steps.Step(objective, params, public, l2_norm_clip)

    def one(run: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _score(step, iterations, records, *run, settings)

    return jax.lax.map(one, (keys, members), batch_size=_AT_ONCE)


def _score(step: steps.Step, iterations: int, records: Any, key: jax.Array, member: jax.Array, settings: jax.Array) -> jax.Array:
    """Returns the score of one run, in which row 0 takes part when `member`."""
    q, stddev, rate = settings
    n = len(records.images)
    first = jnp.arange(n) == 0
    trained, fixed = heads.partition(step.params)

    def body(state: tuple[Any, jax.Array], key: jax.Array) -> tuple[tuple[Any, jax.Array], None]:
        trained, score = state
        coins, noise = jax.random.split(key)
        current = heads.combine(trained, fixed)
        drawn = (jax.random.uniform(coins, (n,)) < q) & (~first | member)
        sums = [step.traced(current, records, present) for present in (drawn, ~first, jnp.ones(n, bool))]
        direction = sums[2] - sums[1]
        released = sums[0] + stddev * jax.random.normal(noise, sums[0].shape)
        score += jnp.dot(released - q * sums[1], direction) / jnp.maximum(jnp.linalg.norm(direction), _TINY)
        return (_moved(trained, -rate / (q * n) * released), score), None

    (_, score), _ = jax.lax.scan(body, (trained, jnp.float32(0)), jax.random.split(key, iterations))
    return score


def _moved(tree: Any, by: jax.Array) -> Any:
    """Returns the tree plus a flat vector in the order of `steps.flat`."""
    leaves, structure = jax.tree.flatten(tree)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = jnp.split(by, ends[:-1])
    return jax.tree.unflatten(structure, [leaf + part.reshape(leaf.shape) for leaf, part in zip(leaves, parts, strict=True)])
