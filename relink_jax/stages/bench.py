"""The bench stage: speed as ratios, contestants alternating in one process.

Absolute times on shared machines mean little, so medians over alternating rounds are divided; rates are printed for orientation.
"""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.encoders import peers, zoo
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress
from relink_jax.stages import bench_curve, bench_embed, bench_retrieval
from relink_jax.store import files

SUBJECTS = ("embed", "retrieval", "curve")
_ROUNDS, _BATCH = 7, 32
_CANDIDATES, _DIM, _K = (29296, 43793), (512,), (10,)
_CURVE = 43793


@dataclasses.dataclass(frozen=True)
class Bench:
    """A table of text, and the same as JSON-ready values."""

    text: str
    values: dict[str, Any]


def run(
    config: config_lib.RunConfig,
    workdir: str,
    words: Sequence[str] = (),
    *,
    model: str | None = None,
    rounds: str = "",
    batch: str = "",
    candidates: str = "",
    dim: str = "",
    k: str = "",
    queries: str = "",
    json: str = "",
) -> Bench:
    """Times `embed`, `retrieval` or `curve`; compilation is not timed.

    Args:
        model, batch: of embed: a packaged or published name (default: the packaged ones), and rows per call.
        candidates, dim, k: of retrieval: sizes, several with commas between. queries: sampled queries (default: a few batches).
        candidates, queries: of curve: one number each (default: 43,793).
        json: file for the figures; empty writes none.

    Raises: UsageError: another subject, an unknown model, sizes that are not positive, or no torch for embed.
    """
    config.validate()
    subject = " ".join(words)
    if subject not in SUBJECTS:
        raise errors.UsageError(errors.describe("what to measure", "'relink bench'", " or ".join(SUBJECTS), repr(subject)) + errors.suggest(subject, SUBJECTS))
    n_rounds = _sizes("rounds", rounds, (_ROUNDS,))[0]
    if subject == "embed":
        made = _embed([model] if model else list(config.models), _sizes("batch", batch, (_BATCH,))[0], n_rounds)
    elif subject == "curve":
        made = _curve(_sizes("candidates", candidates, (_CURVE,))[0], _sizes("queries", queries, (_CURVE,))[0], n_rounds)
    else:
        cases = itertools.product(_sizes("candidates", candidates, _CANDIDATES), _sizes("dim", dim, _DIM), _sizes("k", k, _K))
        made = _retrieval(list(cases), _sizes("queries", queries, (0,))[0], n_rounds)
    if json:
        files.write_json(pathlib.Path(json), made.values)
    return made


def describe(bench: Bench) -> str:
    """Returns the table."""
    return bench.text


def _where() -> str:
    device = jax.devices()[0]
    return f"{device.device_kind} x {jax.device_count()}, {len(os.sched_getaffinity(0))} CPUs, jax {jax.__version__}"


def _embed(names: list[str], batch: int, rounds: int) -> Bench:
    chosen = [zoo.described(name) for name in names]
    threads = peers.threads()
    rows = []
    with progress.bar(2 * len(chosen), "bench embed", "towers") as bar:
        for spec in chosen:
            for side in ("image", "text"):
                rows.append(bench_embed.measure(spec, side, batch, rounds))
                bar.update(1)
    where = f"{_where()}, torch with {threads} threads on the CPU, batch {batch}, {rounds} alternating rounds, float32"
    lines = [f"  {'model':<28} {'side':<6} {'ours /s':>9} {'torch /s':>9} {'times faster':>13} {'share of product':>17} {'torch':>6}"]
    lines += [
        f"  {row.model:<28} {row.side:<6} {row.ours:>9.1f} {row.peer:>9.1f} {row.ratio:>13.2f} {row.our_share:>17.2f} {row.peer_share:>6.2f}" for row in rows
    ]
    told = "share of product: FLOP per second as a share of our plain matrix product's, in the same rounds"
    text = "\n".join([f"towers against transformers in torch ({where}):", *lines, told])
    return Bench(text, {"where": where, "rows": [dataclasses.asdict(row) for row in rows]})


def _retrieval(cases: Sequence[tuple[int, int, int]], queries: int, rounds: int) -> Bench:
    meshes.share_cpu()
    measured = []
    with progress.bar(len(cases), "bench retrieval", "cases") as bar:
        for many, dim, k in cases:
            measured.append(bench_retrieval.measure(many, dim, k, queries, rounds))
            bar.update(1)
    where = f"{_where()}, {rounds} alternating rounds, float32"
    return Bench(bench_retrieval.table(measured, where), {"where": where, "cases": [dataclasses.asdict(case) for case in measured]})


def _curve(candidates: int, queries: int, rounds: int) -> Bench:
    if candidates < 2:
        raise errors.UsageError(errors.describe("size", "flag --candidates", "at least 2 for a curve", str(candidates)))
    curves, found = bench_curve.measure(candidates, queries, rounds), bench_curve.errors(candidates)
    where = f"{_where()}, numpy {np.__version__}, {rounds} rounds"
    values = {"where": where, "curves": [dataclasses.asdict(row) for row in curves], "errors": [dataclasses.asdict(row) for row in found]}
    return Bench(bench_curve.table(curves, found, where), values)


def _sizes(name: str, text: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the whole numbers of a flag, commas between; `UsageError` for anything else."""
    if not text:
        return default
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 10**7 for part in parts):
        raise errors.UsageError(errors.describe("size", f"flag --{name}", "whole numbers of at least 1, commas between", repr(text)))
    return tuple(int(part) for part in parts)
