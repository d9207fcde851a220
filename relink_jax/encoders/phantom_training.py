"""Contrastive training of the synthetic dual encoders, in the towers that later convert and embed them.

Symmetric InfoNCE with a learned temperature (Radford et al. 2021, arXiv 2103.00020, section 2.3), AdamW, warm-up and cosine
decay. Texts that are byte-identical in a batch are positives of each other: the target is uniform over the equal ones.
The exposure of images is jittered and nothing else: with shifts against the patch grid and noise on top, learning was several
times slower, and a generator never runs out of new images. Nothing but image-text pairs is ever used, so what a rung links it has
learned from the text it was given.

Design note: the schedule runs on the share of the budget that is used up, in steps or in seconds, so a training cut to a
time is a complete training and not a truncated one.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relink_jax.encoders import blocks, specs, towers

_EXPOSURE = (0.08, 0.05, 0.02)
_WARM_UP = 0.03
_MAX_LOGIT_SCALE = 100.0
_WEIGHT_DECAY = 0.05


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Training pairs: grey images uint8 [I, S, S], each with a row `text` int32 [I] of token ids int32 [U, L]."""

    images: np.ndarray
    text: np.ndarray
    ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one rung; `mean` and `std` are the preprocessing statistics in [0, 1] grey."""

    batch_size: int
    learning_rate: float
    mean: float
    std: float
    seed: int


@dataclasses.dataclass(frozen=True)
class Budget:
    """When to stop: after `steps` steps, or after `seconds` when steps is 0."""

    steps: int = 0
    seconds: float = 0.0

    def used(self, step: int, started: float) -> float:
        """Returns the share of the budget used, in [0, 1]."""
        return min(1.0, step / self.steps if self.steps else (time.monotonic() - started) / self.seconds)


def contrastive_loss(image: jax.Array, text: jax.Array, logit_scale: jax.Array, row: jax.Array) -> jax.Array:
    """Returns the symmetric InfoNCE of embeddings [B, D]; pairs with equal `row` [B] are positives of each other."""
    logits = jnp.exp(logit_scale) * jnp.matmul(image, text.T, precision=blocks.PRECISION)
    same = (row[:, None] == row[None, :]).astype(logits.dtype)
    target = same / same.sum(axis=1, keepdims=True)
    forward = -(target * jax.nn.log_softmax(logits, axis=1)).sum(axis=1)
    backward = -(target * jax.nn.log_softmax(logits, axis=0).T).sum(axis=1)
    return (forward.mean() + backward.mean()) / 2


def embed(spec: specs.VLMSpec, params: dict[str, Any], pixels: jax.Array, ids: jax.Array, cuts: tuple[int, ...] = ()) -> tuple[jax.Array, jax.Array]:
    """Returns unit-norm embeddings of normalised pixels [B, S, S, 3] and ids [B, L].

    With `cuts`, the batch is in as many equal parts of rising length, and part i is read only up to position cuts[i]:
    causal attention makes the rest of a text after its end-of-text token irrelevant, so this saves time and changes nothing.
    """
    parts = jnp.split(ids, len(cuts)) if cuts else [ids]
    image = towers.image_features(spec, params["image"], pixels)
    text = jnp.concatenate([towers.text_features(spec, params["text"], part[:, :cut]) for part, cut in zip(parts, cuts or (ids.shape[1],), strict=True)])
    return _unit(image, params["heads"]["image"]["kernel"]), _unit(text, params["heads"]["text"]["kernel"])


def standardise(grey: jax.Array, mean: float, std: float) -> jax.Array:
    """Returns pixels [B, S, S, 3] of grey images [B, S, S] in [0, 1]."""
    return jnp.repeat(((grey - mean) / std)[..., None], 3, axis=-1)


def jitter_exposure(key: jax.Array, grey: jax.Array) -> jax.Array:
    """Returns grey images [B, S, S] in [0, 1] with gamma, gain and offset drawn per image."""
    gamma, gain, offset = (scale * jax.random.normal(sub, (grey.shape[0], 1, 1)) for scale, sub in zip(_EXPOSURE, jax.random.split(key, 3), strict=True))
    return jnp.clip((jnp.clip(grey, 1e-3, 1) ** jnp.exp(gamma) - 0.5) * (1 + gain) + 0.5 + offset, 0, 1)


def length_cuts(lengths: np.ndarray, parts: int = 4, slack: int = 6) -> tuple[int, ...]:
    """Returns the position up to which each of `parts` equal parts of a length-sorted batch is read; `lengths` [I] in tokens."""
    quantiles = [int(np.quantile(lengths, (part + 1) / parts)) + slack for part in range(parts)]
    return tuple(min(cut, int(lengths.max())) for cut in quantiles)


def train(
    spec: specs.VLMSpec, params: dict[str, Any], pairs: Pairs, recipe: Recipe, budget: Budget, every: int, report: Callable[[int, float, dict[str, Any]], None]
) -> None:
    """Trains from `params` until `budget` is used; calls `report(step, mean loss, params)` every `every` steps and at the end.

    Args: params: `{'image', 'text', 'heads', 'logit_scale'}` as `towers.init` makes them.
    """
    length = (pairs.ids != spec.text.vocab_size - 1).sum(axis=1) + 1
    cuts = length_cuts(length[pairs.text])
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.98), optax.add_decayed_weights(_WEIGHT_DECAY, mask=_decayed))

    def loss(params: dict[str, Any], key: jax.Array, images: jax.Array, ids: jax.Array, row: jax.Array) -> jax.Array:
        grey = jitter_exposure(key, images.astype(jnp.float32) / 255)
        image, text = embed(spec, params, standardise(grey, recipe.mean, recipe.std), ids, cuts)
        return contrastive_loss(image, text, params["logit_scale"], row)

    def step(params: dict[str, Any], state: Any, key: jax.Array, rate: jax.Array, *batch: jax.Array) -> tuple[dict[str, Any], Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(params, key, *batch)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda update: -rate * update, updates))
        return {**params, "logit_scale": jnp.minimum(params["logit_scale"], np.log(_MAX_LOGIT_SCALE))}, state, value

    compiled = jax.jit(step, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.array, params)
    state, key, started = optimizer.init(params), jax.random.key(recipe.seed), time.monotonic()
    losses: list[float] = []
    for index, rows in enumerate(_batches(length[pairs.text], cuts, recipe.batch_size, recipe.seed)):
        used = budget.used(index, started)
        if used >= 1:
            report(index, float(np.mean(losses[-every:])) if losses else 0.0, params)
            return
        texts = pairs.text[rows]
        rate = recipe.learning_rate * min(used / _WARM_UP, 0.5 * (1 + np.cos(np.pi * max(0.0, used - _WARM_UP) / (1 - _WARM_UP))))
        params, state, value = compiled(params, state, jax.random.fold_in(key, index), jnp.float32(rate), pairs.images[rows], pairs.ids[texts], texts)
        losses.append(float(value))
        if (index + 1) % every == 0:
            report(index + 1, float(np.mean(losses[-every:])), params)


def validation_recall(image: np.ndarray, text: np.ndarray, row: np.ndarray, pool: int) -> float:
    """Returns image-to-report Recall@1 in disjoint pools of `pool` pairs, ties and identical texts shared out evenly.

    Args: image, text: unit-norm embeddings [n, D] of pairs, n at least `pool`; row: text identity [n].
    """
    hits = []
    for start in range(0, len(image) - pool + 1, pool):
        block = slice(start, start + pool)
        scores = image[block] @ text[block].T
        own = np.diagonal(scores)[:, None]
        tied = (scores == own) | (row[block][:, None] == row[block][None, :])
        hits.append(np.where(((scores > own) & ~tied).any(axis=1), 0.0, 1.0 / tied.sum(axis=1)).mean())
    return float(np.mean(hits))


def embed_pairs(spec: specs.VLMSpec, params: dict[str, Any], pairs: Pairs, mean: float, std: float, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings (image [I, D], text [I, D]) of pairs, row for row."""
    compiled = jax.jit(lambda params, images, ids: embed(spec, params, standardise(images.astype(jnp.float32) / 255, mean, std), ids))
    parts = []
    for start in range(0, len(pairs.images), batch_size):
        rows = np.arange(start, start + batch_size) % len(pairs.images)
        parts.append([np.asarray(part) for part in compiled(params, pairs.images[rows], pairs.ids[pairs.text[rows]])])
    image, text = (np.concatenate(side)[: len(pairs.images)] for side in zip(*parts, strict=True))
    return image, text


def _batches(lengths: np.ndarray, cuts: tuple[int, ...], size: int, seed: int) -> Iterator[np.ndarray]:
    """Yields row numbers [size] without end, shuffled anew per epoch, each batch sorted by text length and within `cuts`."""
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(len(lengths))
        for start in range(0, len(lengths) - size + 1, size):
            rows = order[start : start + size]
            rows = rows[np.argsort(lengths[rows], kind="stable")]
            if (lengths[rows].reshape(len(cuts), -1).max(axis=1) <= cuts).all():
                yield rows


def _decayed(params: Any) -> Any:
    return jax.tree.map(lambda array: array.ndim > 1, params)


def _unit(features: jax.Array, kernel: jax.Array) -> jax.Array:
    projected = jnp.matmul(features, kernel, precision=blocks.PRECISION)
    return projected / jnp.linalg.norm(projected, axis=-1, keepdims=True)
