"""`relink bench heads`: one private step on projection heads against a step without privacy and what people train with today.

A case is a head form and a batch. A step goes from cached features to updated heads: clipped sum, noise, update. Contestants take turns in one
process, each twice in a row with the second timed: threads that one leaves spinning, such as torch's, are not charged to the next. What is printed
are medians over rounds of ratios of seconds. Before anything is timed the closed form is held against `vmap(grad)`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relink_jax import errors, heads
from relink_jax.privacy import banks, clipping, noise, objectives, peers, randomness
from relink_jax.runtime import plan, timing

FORMS = ("linear", "mlp", "patch")
_FEATURES, _EMBEDDING, _ANCHORS = 768, 512, 512
_PATCH_RECORDS, _PATCHES, _CHANNELS = 16, 225, 2048  # of BioViL: 15 x 15 patches
_SAME = 1e-5  # largest relative difference of closed form and vmap(grad), float32


@dataclasses.dataclass(frozen=True)
class Case:
    """What was measured of one form.

    Attributes:
        seconds: of our step. share: speed of our step as a share of the one without privacy. sum_share: the same of the clipped sum alone
            against the mean gradient.
        ratios: seconds of each contestant over our step's. skipped: contestants that are not installed or do not have the form.
        temporaries: bytes of temporaries of the compiled clipped sum, and of the step without privacy; None where the backend does not tell.
        difference: largest relative difference of the closed form from `vmap(grad)`.
    """

    form: str
    batch: int
    seconds: float
    share: float
    sum_share: float
    ratios: dict[str, float]
    skipped: list[str]
    temporaries: tuple[int | None, int | None]
    difference: float


def measure(form: str, batch: int, rounds: int, contestants: Sequence[str]) -> Case:
    """Returns the figures of one form; contestants are keys of `peers.PEERS` and 'vmap'.

    Raises: UnsoundError: the closed form and vmap(grad) differ.
    """
    task = _task(form, batch)
    every = clipping.Batch(np.arange(task.size, dtype=np.int32)[:, None], np.ones((task.size, 1), np.float32))

    def summed(how: str) -> Any:
        return clipping.clipped_sum(task.objective, task.params, task.records, every, task.public, l2_norm_clip=peers.CLIP, implementation=how).value

    difference = _difference(summed("closed_form"), summed("vmap"))
    if not difference < _SAME:
        raise errors.UnsoundError(errors.describe("closed form", f"bench heads, {form}", f"the sums of vmap(grad) to {_SAME:g}", f"{difference:.2g}"))
    trained, fixed = heads.partition(task.params)
    key = randomness.fresh(test_seed=0).key(randomness.NOISE, 0)
    gradient = jax.jit(jax.grad(peers.mean_loss), static_argnums=2)

    def step(how: str) -> Callable[[], Any]:
        return lambda: noise.add_noise(summed(how), peers.MULTIPLIER * peers.CLIP, key, 1, _updated, trained)

    calls: dict[str, Callable[[], Any]] = {
        "ours": step("closed_form"),
        "non-private": peers.non_private(task),
        "sum": lambda: summed("closed_form"),
        "gradient": lambda: gradient(trained, fixed, task.objective, task.records, every.rows[:, 0], task.public),
    }
    found, skipped = _found(task, form, contestants, step)
    twice = [call for call in (calls | found).values() for _ in range(2)]
    spent = dict(zip(calls | found, timing.alternating(twice, rounds)[1::2], strict=True))
    lowered = gradient.lower(trained, fixed, task.objective, task.records, every.rows[:, 0], task.public)
    ours = clipping.lowered(task.objective, task.params, task.records, every, task.public, l2_norm_clip=peers.CLIP)
    return Case(
        form,
        task.size,
        median(spent["ours"]),
        _ratio(spent["non-private"], spent["ours"]),
        _ratio(spent["gradient"], spent["sum"]),
        {name: _ratio(spent[name], spent["ours"]) for name in found},
        skipped,
        (_temporaries(ours), _temporaries(lowered)),
        difference,
    )


def table(cases: Sequence[Case], where: str) -> str:
    """Returns the figures as text, one line per form."""
    names = list(dict.fromkeys(name for case in cases for name in case.ratios))
    head = f"  {'form':>7} {'batch':>6} {'steps/s':>8} {'step share':>10} {'sum share':>9} {'temporaries':>12} {'non-private':>12}  " + "  ".join(names)
    lines = []
    for case in cases:
        ours, theirs = ("" if one is None else plan.human(one, "B") for one in case.temporaries)
        ratios = "  ".join(f"{case.ratios[name]:>{len(name)}.2f}" if name in case.ratios else " " * len(name) for name in names)
        lines.append(
            f"  {case.form:>7} {case.batch:>6,} {1 / case.seconds:>8.1f} {case.share:>10.2f} {case.sum_share:>9.2f} {ours:>12} {theirs:>12}  {ratios}".rstrip()
        )
    told = [
        "step share: speed of a private step (clipped sum, noise, update) as a share of the step without privacy; sum share: the same of the clipped sum",
        "alone against the mean gradient; temporaries: of the compiled clipped sum, and of the mean gradient",
        "then: seconds of each contestant's step over ours; each closed form was first held against vmap(grad)",
    ]
    skipped = sorted({name for case in cases for name in case.skipped})
    told += [f"not installed, skipped: {', '.join(skipped)}"] if skipped else []
    return "\n".join([f"a private step on projection heads ({where}):", head, *lines, *told])


def _task(form: str, batch: int) -> peers.Task:
    if form == "linear":
        return peers.anchor_task(batch, (_FEATURES, _EMBEDDING), _ANCHORS)
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return jnp.asarray(generator.standard_normal(shape, dtype=np.float32))

    def dense(inputs: int, outputs: int) -> dict[str, Any]:
        return {"kernel": draw(inputs, outputs) / np.sqrt(inputs)}

    objective: Any = objectives.get_objective("anchor_infonce", 0.1)
    text = {"fc1": dense(_FEATURES, 640), "fc2": dense(640, _EMBEDDING)}
    if form == "mlp":
        params = {side: {"fc1": dense(_FEATURES, 640), "fc2": dense(640, _EMBEDDING)} for side in heads.SIDES}
        return peers.Task(objective, params, clipping.Records(draw(batch, _FEATURES), draw(batch, _FEATURES)), banks.Public(draw(_ANCHORS, _FEATURES), None))
    ones = {"scale": jnp.ones(128), "bias": jnp.zeros(128), "mean": jnp.zeros(128), "var": jnp.ones(128)}
    image = {"conv1": dense(_CHANNELS, 128), "bn": ones, "conv2": {**dense(128, _EMBEDDING), "bias": jnp.zeros(_EMBEDDING)}}
    records = clipping.Records(draw(min(batch, _PATCH_RECORDS), _PATCHES, _CHANNELS), draw(min(batch, _PATCH_RECORDS), _FEATURES))
    return peers.Task(objective, {"image": image, "text": text}, records, banks.Public(draw(_ANCHORS, _FEATURES), None))


def _updated(noisy: Any, trained: Any) -> Any:
    return jax.tree.map(lambda leaf, slope: leaf - peers.RATE * slope, trained, noisy)


def _found(task: peers.Task, form: str, names: Sequence[str], step: Callable[[str], Callable[[], Any]]) -> tuple[dict[str, Callable[[], Any]], list[str]]:
    """Returns (calls of the contestants, names of those that are not installed); other forms than linear meet vmap(grad) only."""
    found: dict[str, Callable[[], Any]] = {"vmap(grad)": step("vmap")} if "vmap" in names else {}
    skipped = []
    for title, make in (peers.PEERS[name] for name in names if name != "vmap" and form == "linear"):
        try:
            found[title] = make(task)
        except ImportError:
            skipped.append(title)
    return found, skipped


def _difference(first: Any, second: Any) -> float:
    ours, theirs = (np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]) for tree in (first, second))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def _temporaries(lowered: Any) -> int | None:
    told = None if lowered is None else lowered.compile().memory_analysis()
    return None if told is None else int(told.temp_size_in_bytes)


def _ratio(times: Sequence[float], others: Sequence[float]) -> float:
    return median(time / other for time, other in zip(times, others, strict=True))
