"""Ratio of closed-form clipping against vmap(grad), alternating in one process: `python -m launch.benchmark`.

A figure is a ratio of medians over alternating rounds, so a noisy machine disturbs both sides alike; absolute times are not printed.
`relink bench` has the other measurements.
"""

import os
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from relink_jax import heads
from relink_jax.privacy import clipping, objectives
from relink_jax.runtime import timing

_ROUNDS = flags.DEFINE_integer("rounds", 5, "alternating rounds per comparison; medians are compared")


def clip(rounds: int) -> list[tuple[str, float]]:
    """Returns the speed of closed-form clipping against vmap(grad), 256 records, 96 features to 64, 1,024 anchors."""
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(generator.standard_normal(shape).astype(np.float32))

    objective = objectives.get_objective("anchor_infonce", 0.1)
    params: heads.Heads = {side: {"kernel": draw(96, 64)} for side in heads.SIDES}
    images, texts, bank = draw(1000, 96), draw(1000, 96), draw(1024, 96)
    index, padding = np.arange(256, dtype=np.int32), np.zeros(256, bool)

    def summed(implementation: str) -> Callable[[], object]:
        return lambda: (
            clipping.clipped_sum(objective, params, images, texts, index, padding, bank, l2_norm_clip=1.0, implementation=implementation, chunk=256).value
        )

    return [("closed-form clipping, times faster than vmap(grad)", _ratio(summed("closed_form"), summed("vmap"), rounds))]


def _ratio(ours: Callable[[], object], other: Callable[[], object], rounds: int) -> float:
    spent = timing.alternating([ours, other], rounds)
    return statistics.median(spent[1]) / statistics.median(spent[0])


def main(argv: list[str]) -> None:
    """Prints one ratio per line."""
    del argv
    logging.set_verbosity(logging.WARNING)
    os.environ.setdefault("RELINK_PROGRESS", "0")
    rounds = _ROUNDS.value
    print(f"device: {jax.devices()[0].device_kind}, {jax.device_count()} device(s); {rounds} alternating rounds")
    for what, value in clip(rounds):
        print(f"{value:7.2f}  {what}")


if __name__ == "__main__":
    app.run(main)
