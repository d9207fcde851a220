"""A fresh head: an attacker with the public encoder ignores the released heads and trains his own on features before them, without privacy.

It bounds from above what freezing the encoders leaves to be linked, whatever the heads were. Two linear maps start at regularised canonical
correlations, which a few pairs suffice for, and go on by symmetric in-batch InfoNCE with a learned temperature, for as many steps as
lessened the loss of patients he left aside; then all his pairs are trained on for that long.

References: van den Oord et al. (2018), arXiv 1807.03748 (InfoNCE). Radford et al. (2021), arXiv 2103.00020 (symmetric, learned temperature).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relink_jax import errors
from relink_jax.audit import refit
from relink_jax.audit.attacks import linear
from relink_jax.audit.attacks import pairs as held
from relink_jax.audit.attacks.base import REALIGNMENT, Attack, Space, Target
from relink_jax.store.rows import RowSource, blocks, select

_ASIDE = 5  # one patient in so many is left aside, to stop by
_JUDGED = 2048  # pairs of them that are looked at
_START, _STEEPEST = math.log(1 / 0.07), math.log(100.0)  # of the inverse temperature, as CLIP has it
_HIGHEST = jax.lax.Precision.HIGHEST


class _Batch(NamedTuple):
    """Pairs [n, E] in canonical coordinates, and whose they are [n]."""

    images: Any
    texts: Any
    patient: Any


@dataclasses.dataclass(frozen=True)
class FreshHead:
    """The attack with its settings.

    Attributes:
        pairs: auxiliary pairs, the first of one random order of patients; None for all. seed: of that order and of the batches.
        width: dimensions of the new space at most. batch_size, steps, learning_rate: of Adam. patience: looks at the patients left aside, one
            every `look` steps, without a smaller loss after which training stops.
    """

    pairs: int | None = None
    seed: int = 0
    width: int = 256
    batch_size: int = 1024
    steps: int = 500
    learning_rate: float = 3e-3
    look: int = 20
    patience: int = 4
    name: ClassVar[str] = "fresh_head"
    family: ClassVar[str] = REALIGNMENT
    bank: ClassVar[str | None] = None
    features: ClassVar[str] = held.BEFORE_HEAD

    def why_not(self, target: Target) -> str | None:
        """Returns the sentence why it cannot be trained on these auxiliary pairs; None where it can: patients to learn from are at least 2."""
        sentence = held.problem(self.name, target, self.pairs, self.features, self.seed)
        if sentence is None:
            patients = len(np.unique(held.known(self.name, target, self.pairs, self.features, self.seed).patient))
            if patients < 3:
                sentence = errors.describe("auxiliary pairs", f"attack {self.name!r}", "pairs of at least 3 patients, one to stop by", str(patients))
        return sentence

    def variants(self, target: Target) -> Sequence[Attack]:
        """Returns itself: how long it trains is chosen inside."""
        return (self,)

    def space(self, target: Target) -> Space:
        """Returns the audited people's features under the new heads, unit-norm.

        Raises: DataError: what `why_not` says.
        """
        sentence = self.why_not(target)
        if sentence is not None:
            raise errors.DataError(sentence)
        known = held.known(self.name, target, self.pairs, self.features, self.seed)
        aside = _aside(known.patient)
        start, learning, stopping = self._start(known, np.flatnonzero(~aside), np.flatnonzero(aside))
        steps, losses = self._looked(learning, stopping)
        again, every, _ = self._start(known, np.arange(len(aside)), np.zeros(0, np.int64), start.strength)
        trained = self._trained(every, steps)
        fitted = again.followed(*(np.asarray(trained[side], np.float64) for side in ("images", "texts")))
        params = linear.settings(known, self.seed) | {name: getattr(self, name) for name in ("width", "batch_size", "learning_rate")}
        return linear.mapped(fitted, target, self.features, params | {"strength": start.strength, "steps": steps, "loss_aside": losses})

    def _start(self, known: held.Known, learning: np.ndarray, stopping: np.ndarray, strength: float | None = None) -> tuple[refit.Refit, _Batch, _Batch]:
        """Returns (canonical correlations of pairs `learning`, at most `width` of them, those pairs under them, and some of pairs `stopping`)."""
        strengths = refit.STRENGTHS if strength is None else (strength,)
        sides = select(known.images, learning), select(known.texts, learning)
        start = refit.fit(*sides, known.patient[learning], refit.CCA, strengths=strengths, standardise=True)
        largest = np.eye(start.image_weights.shape[1])[:, -self.width :]  # correlations rise
        start = start.followed(largest, largest)
        judged = stopping[np.unique(np.linspace(0, len(stopping) - 1, min(_JUDGED, len(stopping))).astype(np.int64))]
        return start, _seen(start, known, learning), _seen(start, known, judged)

    def _looked(self, learning: _Batch, stopping: _Batch) -> tuple[int, list[float]]:
        """Returns (steps after which the loss of patients left aside was least, that loss before and then)."""
        first = best = float(_judged(_before(learning), stopping))
        kept = waited = 0
        for step, params in self._steps(learning):
            if step % self.look:
                continue
            loss = float(_judged(params, stopping))
            waited = 0 if loss < best else waited + 1
            if loss < best:
                best, kept = loss, step
            if waited >= self.patience:
                break
        return kept, [first, best]

    def _trained(self, learning: _Batch, steps: int) -> dict[str, Any]:
        params = _before(learning)
        for step, after in self._steps(learning) if steps else ():
            params = after
            if step >= steps:
                break
        return params

    def _steps(self, learning: _Batch) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (steps taken, parameters), `steps` times."""
        optimizer, params, n = optax.adam(self.learning_rate), _before(learning), len(learning.patient)
        state = optimizer.init(params)
        for step, rows in zip(range(1, self.steps + 1), _batches(n, min(n, self.batch_size), self.seed), strict=False):
            params, state = _step(self.learning_rate, params, state, learning, rows)
            yield step, params


def _aside(patient: np.ndarray) -> np.ndarray:
    """Returns which pairs [n] are those of patients left aside: every fifth in order of appearance, the second at least."""
    _, first, owner = np.unique(patient, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[owner.ravel()]
    return place % _ASIDE == 1


def _seen(start: refit.Refit, known: held.Known, rows: np.ndarray) -> _Batch:
    """Returns pairs `rows` under `start`, on the device."""

    def read(change: Callable[[np.ndarray], np.ndarray], source: RowSource) -> Any:
        parts = [change(source[part]).astype(np.float32) for part in blocks(source)]
        return jnp.asarray(np.concatenate(parts)) if parts else jnp.zeros((0, start.image_weights.shape[1]))

    sides = read(start.images, select(known.images, rows)), read(start.texts, select(known.texts, rows))
    return _Batch(*sides, jnp.asarray(known.patient[rows], jnp.int32))


def _before(pairs: _Batch) -> dict[str, Any]:
    """Returns the parameters that leave canonical coordinates as they are."""
    identity = jnp.eye(pairs.images.shape[1], dtype=jnp.float32)
    return {"images": identity, "texts": identity, "steepness": jnp.float32(_START)}


def _batches(n: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Yields row numbers int32 [size], without repeats within an epoch, forever."""
    generator = np.random.default_rng([seed, n, size])
    while True:
        order = generator.permutation(n).astype(np.int32)
        yield from order[: n // size * size].reshape(-1, size)


def _cosines(params: Any, batch: _Batch) -> tuple[Any, Any]:
    """Returns (cosines [n, n] of images and reports; which of them are of one patient and not a pair)."""
    images, texts = (jnp.matmul(rows, params[side], precision=_HIGHEST) for rows, side in ((batch.images, "images"), (batch.texts, "texts")))
    images, texts = (rows * jax.lax.rsqrt(jnp.sum(rows**2, axis=1, keepdims=True) + 1e-20) for rows in (images, texts))
    alike = (batch.patient[:, None] == batch.patient[None]) & ~jnp.eye(len(batch.patient), dtype=bool)
    return jnp.matmul(images, texts.T, precision=_HIGHEST), alike


def _loss(params: Any, batch: _Batch) -> Any:
    """Returns symmetric InfoNCE in nats; other pairs of one patient are neither right nor wrong."""
    cosines, alike = _cosines(params, batch)
    return _infonce(cosines, alike, jnp.minimum(params["steepness"], _STEEPEST))


def _infonce(cosines: Any, alike: Any, steepness: Any) -> Any:
    logits = jnp.where(alike, -jnp.inf, cosines * jnp.exp(steepness))
    spread = jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)
    return jnp.mean(spread / 2 - jnp.diag(logits))


@functools.partial(jax.jit, static_argnums=0)
def _step(learning_rate: float, params: Any, state: Any, pairs: _Batch, rows: Any) -> tuple[Any, Any]:
    """Returns (parameters, state of Adam) after a step on pairs `rows`."""
    gradient = jax.grad(_loss)(params, _Batch(*(side[rows] for side in pairs)))
    updates, state = optax.adam(learning_rate).update(gradient, state, params)
    return optax.apply_updates(params, updates), state


@jax.jit
def _judged(params: Any, batch: _Batch) -> Any:
    """Returns the loss at the best of some temperatures: the learned one is too sure of pairs that were learned from."""
    cosines, alike = _cosines(params, batch)
    return jnp.min(jax.lax.map(functools.partial(_infonce, cosines, alike), jnp.linspace(0.0, _STEEPEST, 9)))
