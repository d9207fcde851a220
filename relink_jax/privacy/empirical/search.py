"""A search for records that move the clipped sum further than the objective declares.

Every crafted scene is tried with every canary, then each scene's worst is improved by random hill climbing over its features. What is found is a
lower bound on the true sensitivity: more than declared proves the declaration wrong, less proves nothing.

Design note: deterministic for a seed, takes no noise and no accounting, and reads no private record. It is the cheapest of the audits and,
for objectives that do not decompose, the strongest.
"""

import dataclasses
import math

import numpy as np

from relink_jax.privacy import clipping
from relink_jax.privacy.empirical import scenes, steps

ROUNDING = 1e-4
_SCALES = (1.0, 0.3, 0.1)


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """Two datasets that differ in one record, and their clipped sums.

    Attributes:
        scene: the dataset without the record.
        canary: the record, one row, and `name`, where it came from.
        without, joined: float64 [d], the sums before and after the record joins.
    """

    scene: scenes.Scene
    name: str
    canary: clipping.Records
    without: np.ndarray
    joined: np.ndarray

    @property
    def records(self) -> clipping.Records:
        """The dataset with the record in row 0."""
        return scenes.place(self.scene, self.canary)

    @property
    def distance(self) -> float:
        """L2 distance between the sums; infinite where a record makes one of them non-finite."""
        moved = float(np.linalg.norm(self.joined - self.without))
        return moved if math.isfinite(moved) else math.inf


@dataclasses.dataclass(frozen=True)
class Search:
    """Largest movements found, against the declared sensitivity; all in units of the clip norm C.

    Attributes:
        removed, replaced: measured for one record added or removed, and for one replaced.
        declared_removed, declared_replaced: what the objective declares; infinite for one without a bound.
        worst: scene and canary of `removed`.
        tried: neighbouring datasets measured.
    """

    objective: str
    removed: float
    replaced: float
    declared_removed: float
    declared_replaced: float
    worst: str
    tried: int

    @property
    def holds(self) -> bool:
        """Whether nothing found exceeds what is declared, within float32 rounding."""
        return self.removed <= self.declared_removed * (1 + ROUNDING) and self.replaced <= self.declared_replaced * (1 + ROUNDING)


def neighbours(step: steps.Step, like: clipping.Records, *, n: int = 64, climbs: int = 6, seed: int = 0) -> list[Neighbour]:
    """Returns every neighbouring pair of datasets tried, the furthest apart first.

    Args:
        like: at least one record; only its shapes are read.
        n: rows of a dataset with the joining record; an objective with a cap needs n of at most the cap.
        climbs: further records tried around the worst of each scene.
    """
    everyone = np.ones(n, bool)
    others = np.arange(n) > 0
    built = scenes.build(step.params, like, n, seed)
    without = {scene.name: step.total(scene.records, others) for scene in built}

    def measured(scene: scenes.Scene, name: str, canary: clipping.Records) -> Neighbour:
        return Neighbour(scene, name, canary, without[scene.name], step.total(scenes.place(scene, canary), everyone))

    tried = [measured(*entry) for entry in scenes.pairs(built)]
    generator = np.random.default_rng(seed)
    for scene in built:
        best = max((found for found in tried if found.scene is scene), key=lambda found: found.distance)
        name = f"{best.name}, climbed"
        for attempt in range(climbs):
            moved = measured(scene, name, scenes.perturbed(best.canary, generator, _SCALES[attempt % len(_SCALES)]))
            tried.append(moved)
            best = max(best, moved, key=lambda found: found.distance)
    return sorted(tried, key=lambda found: -found.distance)


def search(step: steps.Step, like: clipping.Records, *, n: int = 64, climbs: int = 6, seed: int = 0) -> Search:
    """Returns the largest movement found for one record added and for one replaced, beside what the objective declares; see `neighbours`."""
    return summarise(step, neighbours(step, like, n=n, climbs=climbs, seed=seed))


def summarise(step: steps.Step, found: list[Neighbour]) -> Search:
    """Returns the summary of measured neighbours; a replacement is any two of them that share a dataset."""
    replaced = 0.0
    for scene in {neighbour.scene.name for neighbour in found}:
        sums = np.stack([neighbour.joined for neighbour in found if neighbour.scene.name == scene])
        replaced = max(replaced, _diameter(sums))
    clip = step.l2_norm_clip
    return Search(
        objective=step.objective.name,
        removed=found[0].distance / clip,
        replaced=replaced / clip,
        declared_removed=step.objective.sensitivity("add_remove", clip) / clip,
        declared_replaced=step.objective.sensitivity("replace_one", clip) / clip,
        worst=f"{found[0].scene.name}: {found[0].name}",
        tried=len(found),
    )


def _diameter(vectors: np.ndarray) -> float:
    """Returns the largest distance between two rows of [k, d]; infinite when a row is not finite."""
    widest = max(float(np.linalg.norm(vectors[:index] - vectors[index], axis=1).max()) for index in range(1, len(vectors)))
    return widest if math.isfinite(widest) else math.inf
