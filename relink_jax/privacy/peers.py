"""What people train private heads with today, for benchmarks: the same loss, batch and heads in jax_privacy and in Opacus.

Each maker returns a call that does one step, from cached features to updated heads; jax_privacy, torch and Opacus are imported inside, so that
a missing one is an ImportError of that contestant alone. Heads are two linear ones without bias, the loss is `anchor_infonce`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relink_jax import heads
from relink_jax.privacy import banks, clipping, objectives

RATE, CLIP, MULTIPLIER = 0.05, 1.0, 1.0


@dataclasses.dataclass(frozen=True)
class Task:
    """One step: an objective, heads, and a batch of records that is the whole of `records`, with one pair a unit."""

    objective: Any
    params: heads.Heads
    records: clipping.Records
    public: banks.Public

    @property
    def size(self) -> int:
        """Records of the batch."""
        return len(self.records.images)


def non_private(task: Task) -> Callable[[], Any]:
    """A step of the mean loss without clipping or noise, one compiled program."""

    @jax.jit
    def step(trained: Any, fixed: Any, records: clipping.Records, rows: Any, public: banks.Public) -> Any:
        return jax.tree.map(lambda leaf, slope: leaf - RATE * slope, trained, jax.grad(mean_loss)(trained, fixed, task.objective, records, rows, public))

    trained, fixed = heads.partition(task.params)
    rows = np.arange(task.size, dtype=np.int32)
    return lambda: step(trained, fixed, task.records, rows, task.public)


def mean_loss(trained: Any, fixed: Any, objective: Any, records: clipping.Records, rows: Any, public: banks.Public) -> jax.Array:
    """Returns the mean loss of the batch `rows` [B] of records, whose gradient a step without privacy takes."""
    params = heads.combine(trained, fixed)
    state = objective.public_state(params, public)
    images, texts = heads.project(params["image"], records.images[rows]), heads.project(params["text"], records.texts[rows])
    return jnp.mean(jax.vmap(objective.record_loss, in_axes=(0, 0, None, None))(images, texts, None, state))


def jax_privacy_step(task: Task) -> Callable[[], Any]:
    """A step with `jax_privacy.clipping.clipped_grad` in microbatches of 32, noise included."""
    from jax_privacy import clipping as theirs

    def loss(params: heads.Heads, image: jax.Array, text: jax.Array, public: banks.Public) -> jax.Array:
        return task.objective.loss(params, (image, text, None), public)

    summed = theirs.clipped_grad(loss, l2_clip_norm=CLIP, batch_argnums=(1, 2), keep_batch_dim=False, microbatch_size=min(32, task.size))

    @jax.jit
    def step(params: heads.Heads, records: clipping.Records, public: banks.Public, key: jax.Array) -> heads.Heads:
        total = summed(params, records.images, records.texts, public)
        leaves, structure = jax.tree.flatten(total)
        keys = jax.random.split(key, len(leaves))
        noisy = [leaf + MULTIPLIER * CLIP * jax.random.normal(one, leaf.shape) for leaf, one in zip(leaves, keys, strict=True)]
        return optax.apply_updates(params, jax.tree.map(lambda leaf: -RATE * leaf / task.size, jax.tree.unflatten(structure, noisy)))

    return lambda: step(task.params, task.records, task.public, jax.random.key(0))


def opacus_step(task: Task, *, ghost: bool) -> Callable[[], Any]:
    """A step with Opacus, by its hooks or by ghost clipping, noise included."""
    import opacus  # noqa: F401  a missing Opacus is told before torch is set up
    import torch
    from opacus import GradSampleModule
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    images, texts, anchors = (torch.from_numpy(np.array(array)) for array in (task.records.images, task.records.texts, task.public.texts))

    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for side in heads.SIDES:
                kernel = torch.from_numpy(np.array(task.params[side]["kernel"]).T.copy())
                layer = torch.nn.Linear(kernel.shape[1], kernel.shape[0], bias=False)
                layer.weight.data = kernel
                setattr(self, side, layer)

        def forward(self, image: Any, text: Any) -> Any:
            return torch.stack([self.image(image), self.text(text)])

    class Loss:
        reduction = "mean"  # what Opacus asks for; it is given the losses of the records and averages them itself

        def __init__(self, temperature: float) -> None:
            self.temperature = temperature

        def __call__(self, outputs: Any, weight: Any) -> Any:
            u, v = torch.nn.functional.normalize(outputs, dim=-1)
            with torch.no_grad():
                bank = torch.nn.functional.normalize(anchors @ weight.T, dim=-1)
            positive = (u * v).sum(dim=1) / self.temperature
            return torch.logsumexp(torch.cat([u @ bank.T / self.temperature, positive[:, None]], dim=1), dim=1) - positive

    criterion: Any = Loss(task.objective.temperature)
    settings: dict[str, Any] = {"noise_multiplier": MULTIPLIER, "max_grad_norm": CLIP, "expected_batch_size": task.size}
    if ghost:
        module: Any = GradSampleModuleFastGradientClipping(Pair(), max_grad_norm=CLIP, use_ghost_clipping=True)
        optimizer: Any = DPOptimizerFastGradientClipping(torch.optim.SGD(module.parameters(), lr=RATE), **settings)
        criterion = DPLossFastGradientClipping(module, optimizer, criterion)
    else:
        module = GradSampleModule(Pair())
        optimizer = DPOptimizer(torch.optim.SGD(module.parameters(), lr=RATE), **settings)

    def step() -> None:
        optimizer.zero_grad()
        loss = criterion(module(images, texts), module._module.text.weight.detach())
        (loss if ghost else loss.mean()).backward()
        optimizer.step()

    return step


PEERS: dict[str, tuple[str, Callable[[Task], Callable[[], Any]]]] = {
    "jax_privacy": ("jax_privacy", jax_privacy_step),
    "opacus_hooks": ("Opacus hooks", lambda task: opacus_step(task, ghost=False)),
    "opacus_ghost": ("Opacus ghost", lambda task: opacus_step(task, ghost=True)),
}


def anchor_task(batch: int, widths: tuple[int, int], anchors: int, temperature: float = 0.1) -> Task:
    """Returns a seeded task of two linear heads, widths (features, embedding) on both sides."""
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(generator.standard_normal(shape, dtype=np.float32))

    params: heads.Heads = {side: {"kernel": draw(*widths) / np.sqrt(widths[0])} for side in heads.SIDES}
    records = clipping.Records(draw(batch, widths[0]), draw(batch, widths[0]))
    return Task(objectives.get_objective("anchor_infonce", temperature), params, records, banks.Public(draw(anchors, widths[0]), None))
