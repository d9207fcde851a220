"""A black-box audit of the user's own configuration in one training run, with the power it had.

Canary pairs of random directions join the training set, each by a fair coin and each as a privacy unit of its own. After training, the
attacker sees the initial and the final heads and guesses which canaries took part from the change of their alignment cosine;
`guesses` turns that into a lower bound on epsilon (Steinke, Nasr & Jagielski 2023, arXiv 2305.08846).

Canaries change what is trained, so this audits a sibling of the run that is released, never the release itself. Random canaries do not
expose an objective whose leak goes through other records; `search` and `paired` are for that.

Design note: at small epsilon a low bound is what a broken run gives too. So the same data are trained without noise and with half the
noise, and what the audit says of those is reported as its power: a bound that they do not beat is no evidence.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors, heads
from relink_jax.privacy import clipping
from relink_jax.privacy.empirical import bounds, guesses

Train: TypeAlias = Callable[[clipping.Records, np.ndarray, float], tuple[heads.Heads, heads.Heads]]
Score: TypeAlias = Callable[[heads.Heads, heads.Heads, clipping.Records], np.ndarray]
SIBLING = "a sibling run with canaries in its training set, not the released heads"
UNDERNOISED = 0.5
_SAMPLE = 1000
_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Canaries:
    """Canary records (one row each), and which of them the coins put into the training set, bool [m]."""

    records: clipping.Records
    included: np.ndarray


@dataclasses.dataclass(frozen=True)
class OneRunAudit:
    """The audit of the configured run, and of two runs that are known to leak more.

    Attributes:
        configured: at the noise multiplier that is audited.
        noise_free, undernoised: the same without noise and with half the noise: the power of the audit.
        noise_multiplier: the multiplier that is audited.
        audited: what was trained, for the ledger.
    """

    configured: guesses.OneRun
    noise_free: guesses.OneRun
    undernoised: guesses.OneRun
    noise_multiplier: float
    audited: str = SIBLING


def one_run(
    train: Train,
    records: clipping.Records,
    units: np.ndarray,
    *,
    noise_multiplier: float,
    n_canaries: int = 1000,
    delta: float = bounds.DELTA,
    confidence: float = bounds.CONFIDENCE,
    seed: int = 0,
    score: Score | None = None,
) -> OneRunAudit:
    """Returns the lower bound on epsilon of `train` at `noise_multiplier`, beside the audit's power. Trains three times.

    Private: the records pass to `train` and to nothing else; canaries take from them their shapes, the median length of up to 1,000 rows
    and rows of labels, and the result holds counts and scores of canaries only.

    Args:
        train: (records, units, noise multiplier) -> (initial heads, final heads), with its own fresh randomness on every call.
        records: training pairs, images [N, F_i] or [N, P, F_i], texts [N, F_t], labels [N, L] or None.
        units: int [N], privacy unit of each pair.
        n_canaries: canaries, about half of which join; their features are held in memory.
        score: membership scores float [m] of canaries given (initial, final) heads; the change of alignment unless given.

    Raises: UsageError: fewer than 20 canaries, or a noise multiplier that is not positive and finite. DataError: units of another length.
    """
    if n_canaries < 20:
        raise errors.UsageError(errors.describe("n_canaries", "one-run audit", "at least 20", str(n_canaries)))
    if not 0 < noise_multiplier < float("inf"):
        raise errors.UsageError(errors.describe("noise_multiplier", "one-run audit", "a positive finite number", f"{noise_multiplier:g}"))
    if len(units) != len(records.images):
        raise errors.DataError(errors.describe("units", "one-run audit", f"one per pair, {len(records.images)}", str(len(units))))
    canaries = drawn(records, n_canaries, seed)
    joined, owners = inserted(records, units, canaries)
    scored = alignment_change if score is None else score

    def audited(multiplier: float) -> guesses.OneRun:
        initial, final = train(joined, owners, multiplier)
        return guesses.from_scores(scored(initial, final, canaries.records), canaries.included, delta, confidence)

    configured, free, under = (audited(multiplier) for multiplier in (noise_multiplier, 0.0, UNDERNOISED * noise_multiplier))
    return OneRunAudit(configured, free, under, noise_multiplier)


def drawn(like: clipping.Records, count: int, seed: int) -> Canaries:
    """Returns canaries of random directions with the median length of the first rows of `like`, labels copied from random rows, and fair coins.

    Included and left-out canaries come from one distribution, so that a score that knows nothing has nothing to find.
    """
    generator = np.random.default_rng(seed)
    images, texts = (_random_rows(np.asarray(rows[:_SAMPLE], np.float32), count, generator) for rows in (like.images, like.texts))
    labels = None if like.labels is None else np.asarray(like.labels)[generator.integers(0, len(like.labels), count)]
    return Canaries(clipping.Records(images, texts, labels), generator.random(count) < 0.5)


def inserted(records: clipping.Records, units: np.ndarray, canaries: Canaries) -> tuple[clipping.Records, np.ndarray]:
    """Returns (records, units) with the included canaries after the real rows, each a unit of its own."""
    chosen = np.flatnonzero(canaries.included)
    columns = [None if real is None else np.concatenate([np.asarray(real), extra[chosen]]) for real, extra in zip(records, canaries.records, strict=True)]
    owners = np.asarray(units)
    return clipping.Records(*columns), np.concatenate([owners, owners.max() + 1 + np.arange(len(chosen), dtype=owners.dtype)])


def alignment_change(initial: heads.Heads, final: heads.Heads, canaries: clipping.Records) -> np.ndarray:
    """Returns float32 [m], by how much training raised each canary's image-to-text cosine."""
    return alignment(final, canaries) - alignment(initial, canaries)


def alignment(params: heads.Heads, records: clipping.Records) -> np.ndarray:
    """Returns float32 [N], the cosine of each record's image and text embeddings under heads `params`."""
    parts = [
        _cosines(params, jnp.asarray(records.images[start : start + _AT_ONCE]), jnp.asarray(records.texts[start : start + _AT_ONCE]))
        for start in range(0, len(records.images), _AT_ONCE)
    ]
    return np.concatenate(parts)


@jax.jit
def _cosines(params: heads.Heads, images: jax.Array, texts: jax.Array) -> jax.Array:
    return jnp.sum(heads.project(params["image"], images) * heads.project(params["text"], texts), axis=-1)


def _random_rows(rows: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Returns float32 [count, ...] random directions with the median length of `rows` along the last axis."""
    directions: np.ndarray = generator.standard_normal((count, *rows.shape[1:]), dtype=np.float32)
    lengths: Any = np.linalg.norm(directions, axis=-1, keepdims=True)
    directions *= float(np.median(np.linalg.norm(rows, axis=-1))) / lengths
    return directions
