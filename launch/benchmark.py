"""Ratios of relink_jax against its own limits and against the obvious script, alternating in one process.

`python -m launch.benchmark` prints the table of BENCHMARKS.md. Every figure is a ratio of medians over alternating rounds,
so a noisy machine disturbs both sides alike; absolute times are not printed.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from relink_jax import heads
from relink_jax.privacy import clipping, objectives
from relink_jax.retrieval import counts
from relink_jax.runtime import mesh as meshes

_ROUNDS = flags.DEFINE_integer("rounds", 5, "alternating rounds per comparison; medians are compared")
_QUERIES = flags.DEFINE_integer("queries", 4096, "query images of the counting comparison")
_STUDIES = flags.DEFINE_integer("studies", 16384, "candidate studies of the counting comparison")
_DIM = flags.DEFINE_integer("dim", 512, "embedding width of the counting comparison")


def ratio(ours: Callable[[], object], other: Callable[[], object], rounds: int) -> float:
    """Returns time of `other` over time of `ours`, medians of alternating rounds after one warm-up of each."""
    spent: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for side, call in enumerate((ours, other)):
            started = time.perf_counter()
            jax.block_until_ready(call())
            if number:
                spent[side].append(time.perf_counter() - started)
    return statistics.median(spent[1]) / statistics.median(spent[0])


def counting(n_queries: int, n_studies: int, dim: int, rounds: int) -> list[tuple[str, float]]:
    """Returns speed ratios of the whole counting pass (both directions, two strata, top-10) against three others."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((n_queries + n_studies, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    images, texts = rows[:n_queries], rows[n_queries:]
    study = np.sort(generator.integers(0, n_studies, n_queries)).astype(np.int32)
    patient, code = (np.arange(n_studies) // 2).astype(np.int32), generator.integers(0, 50, n_studies).astype(np.int32)
    records = counts.Records(images, study, texts, np.arange(n_studies, dtype=np.int32), patient, code)
    mesh = meshes.make_mesh()
    product = jax.jit(lambda a, b: jnp.max(jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST), axis=1))
    tiles = [(images[i : i + 1024], texts[j : j + 2048]) for i in range(0, n_queries, 1024) for j in range(0, n_studies, 2048)]

    def bare() -> list[jax.Array]:
        return [product(a, b) for a, b in tiles]

    def script() -> list[np.ndarray]:
        """NumPy in blocks of queries: ranks and matched ranks in one direction, top-10 by partition."""
        found = []
        for first in range(0, n_queries, 512):
            own, block = study[first : first + 512], images[first : first + 512] @ texts.T
            truth = block[np.arange(len(own)), own][:, None]
            other = patient[own][:, None] != patient[None, :]
            matched = other & (code[own][:, None] == code[None, :])
            found += [
                ((block > truth) & other).sum(1),
                ((block == truth) & other).sum(1),
                ((block > truth) & matched).sum(1),
                np.argpartition(-block, 10, axis=1)[:, :10],
            ]
        return found

    def ours() -> object:
        return counts.count(records, mesh=mesh, top_k=10)["i2r"].own_score

    return [
        ("counting pass, share of the bare product of the same tiles", ratio(ours, bare, rounds)),
        ("counting pass, times faster than blocked NumPy (one direction only)", ratio(ours, script, rounds)),
    ]


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

    return [("closed-form clipping, times faster than vmap(grad)", ratio(summed("closed_form"), summed("vmap"), rounds))]


def main(argv: list[str]) -> None:
    """Prints one ratio per line."""
    del argv
    logging.set_verbosity(logging.WARNING)
    os.environ.setdefault("RELINK_PROGRESS", "0")
    rounds = _ROUNDS.value
    print(f"device: {jax.devices()[0].device_kind}, {jax.device_count()} device(s); {rounds} alternating rounds")
    for what, value in counting(_QUERIES.value, _STUDIES.value, _DIM.value, rounds) + clip(rounds):
        print(f"{value:7.2f}  {what}")
        sys.stdout.flush()


if __name__ == "__main__":
    app.run(main)
