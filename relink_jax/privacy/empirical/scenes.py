"""Crafted datasets and records, on which an objective that is not what it declares shows it.

In-batch losses look harmless on typical records: the one that breaks them is a hub, a text that every image of the batch is closest
to, added to a batch whose images agree and whose own texts do not match them. Each scene holds such a batch; its canaries are the
records that may be added.

Design note: scenes are made of features, in the shapes of the training set. What a head must map to a wanted embedding is found by
gradient ascent on the feature vector, so the same scenes work for heads of every form.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors, heads
from relink_jax.privacy import clipping

_ASCENT = 80
_TIGHT, _LOOSE = 0.02, 0.5
_HUGE = 1e6


@dataclasses.dataclass(frozen=True)
class Scene:
    """A dataset of n - 1 records and the records that may join it.

    Attributes:
        name: what is special about the dataset.
        records: n rows; row 0 is the place of the joining record and holds zeros, rows 1 to n - 1 are the dataset.
        canaries: one row each, by name.
    """

    name: str
    records: clipping.Records
    canaries: dict[str, clipping.Records]


def build(params: heads.Heads, like: clipping.Records, n: int = 64, seed: int = 0) -> list[Scene]:
    """Returns the scenes for heads `params`: images that agree with texts beside or opposite them, matched pairs, and random ones.

    Args:
        like: at least one record; only shapes and the number of labels are read, so it may be synthetic.
        n: rows per scene, the joining record included.

    Raises: UsageError: fewer than 4 rows.
    """
    if n < 4:
        raise errors.UsageError(errors.describe("rows", "sensitivity search", "at least 4", str(n)))
    generator = np.random.default_rng(seed)
    shapes = {"image": np.shape(like.images)[1:], "text": np.shape(like.texts)[1:]}
    start = {side: generator.standard_normal(shape).astype(np.float32) for side, shape in shapes.items()}
    image = start["image"]
    u = np.asarray(heads.project(params["image"], image))
    aside = generator.standard_normal(u.shape)
    aside -= (aside @ u) * u
    hub, beside, opposite = (towards(params["text"], start["text"], target) for target in (u, aside, -u))
    turned = towards(params["image"], start["image"], -u)
    typical = {side: generator.standard_normal((n, *shape)).astype(np.float32) for side, shape in shapes.items()}
    canaries = {
        "hub": (image, hub),
        "opposed pair": (image, opposite),
        "turned hub": (turned, hub),
        "turned pair": (turned, opposite),
        "zero": (np.zeros_like(image), np.zeros_like(hub)),
        "huge": (_HUGE * typical["image"][0], _HUGE * typical["text"][0]),
        "typical": (typical["image"][0], typical["text"][0]),
    }
    label = None if like.labels is None else np.eye(np.shape(like.labels)[1], dtype=np.float32)

    def cone(around: np.ndarray, width: float = _TIGHT) -> np.ndarray:
        spread = width * np.sqrt(np.mean(around**2))
        return (around + spread * generator.standard_normal((n, *around.shape))).astype(np.float32)

    same = np.broadcast_to(image, (n, *image.shape))
    bases = {
        "one image, texts beside it": (same, cone(beside)),
        "one image, texts around it": (same, cone(beside, _LOOSE)),
        "one image, texts opposite": (same, cone(opposite)),
        "matched pairs": (cone(image), cone(hub)),
        "duplicates": (same, np.broadcast_to(hub, (n, *hub.shape))),
        "typical pairs": (typical["image"], typical["text"]),
    }
    singles = {name: _record(*pair, None if label is None else label[:1]) for name, pair in canaries.items()}
    spread_labels = None if label is None else label[np.arange(n) % len(label)]
    return [Scene(name, _with_empty_place(*base, spread_labels), singles | {"duplicate": _row(base, 1, spread_labels)}) for name, base in bases.items()]


def towards(head: dict[str, Any], start: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns features of the shape and length of `start` [F] or [P, F] whose embedding is as near to `target` [D] as ascent gets."""
    return np.asarray(_ascend(head, jnp.asarray(start), jnp.asarray(target, jnp.float32)))


@jax.jit
def _ascend(head: dict[str, Any], start: jax.Array, target: jax.Array) -> jax.Array:
    length = jnp.linalg.norm(start)

    def step(features: jax.Array, size: jax.Array) -> tuple[jax.Array, None]:
        slope = jax.grad(lambda x: jnp.dot(heads.project(head, x), target, precision=jax.lax.Precision.HIGHEST))(features)
        moved = features + size * length * slope / jnp.maximum(jnp.linalg.norm(slope), jnp.finfo(jnp.float32).tiny)
        return moved * (length / jnp.linalg.norm(moved)), None

    found, _ = jax.lax.scan(step, start, 0.3 * 0.95 ** jnp.arange(_ASCENT))
    return found


def place(scene: Scene, canary: clipping.Records) -> clipping.Records:
    """Returns the scene's records with `canary` in row 0."""
    return clipping.Records(*(None if rows is None else np.concatenate([one, rows[1:]]) for rows, one in zip(scene.records, canary, strict=True)))


def perturbed(canary: clipping.Records, generator: np.random.Generator, scale: float) -> clipping.Records:
    """Returns the record with noise of relative size `scale` on both features, labels kept."""

    def moved(rows: np.ndarray) -> np.ndarray:
        size = scale * np.sqrt(np.mean(np.square(rows), dtype=np.float64))
        return (rows + size * generator.standard_normal(rows.shape)).astype(np.float32)

    return clipping.Records(moved(canary.images), moved(canary.texts), canary.labels)


def pairs(scenes: list[Scene]) -> Iterator[tuple[Scene, str, clipping.Records]]:
    """Yields (scene, name of the canary, canary) for every canary of every scene."""
    for scene in scenes:
        for name, canary in scene.canaries.items():
            yield scene, name, canary


def _record(image: np.ndarray, text: np.ndarray, labels: np.ndarray | None) -> clipping.Records:
    return clipping.Records(image[None].astype(np.float32), text[None].astype(np.float32), labels)


def _row(base: tuple[np.ndarray, np.ndarray], index: int, labels: np.ndarray | None) -> clipping.Records:
    return _record(base[0][index], base[1][index], None if labels is None else labels[index : index + 1])


def _with_empty_place(images: np.ndarray, texts: np.ndarray, labels: np.ndarray | None) -> clipping.Records:
    def emptied(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros_like(rows[:1]), rows[1:]])

    return clipping.Records(emptied(images), emptied(texts), None if labels is None else emptied(labels))
