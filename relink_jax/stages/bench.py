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
from relink_jax.privacy import peers as private_peers
from relink_jax.retrieval import peers as contestants
from relink_jax.retrieval import product
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress
from relink_jax.stages import (
    bench_attacks,
    bench_cohort,
    bench_curve,
    bench_embed,
    bench_faults,
    bench_growth,
    bench_heads,
    bench_profile,
    bench_retrieval,
    bench_soak,
)
from relink_jax.store import files

SUBJECTS = {
    "embed": ("model", "batch"),
    "retrieval": ("candidates", "dim", "k", "queries", "precision", "peers"),
    "curve": ("candidates", "queries"),
    "heads": ("form", "batch", "peers"),
    "growth": ("candidates", "dim", "k", "queries", "plot"),
    "profile": ("candidates", "dim", "k", "queries"),
    "cohort": ("images", "side", "short_side"),
    "attacks": ("candidates", "dim", "pairs"),
    "faults": ("only", "tries", "seed"),
    "soak": ("minutes", "seed"),
}  # and the flags of each besides --rounds and --json
_ROUNDS, _GROWTH_ROUNDS, _BATCH, _HEADS_BATCH = 7, 5, 32, 1024
_CANDIDATES, _DIM, _K = (29296, 43793, bench_retrieval.FULL), (512,), (10, 100)
_CURVE = 43793
_IMAGES, _SIDE = 256, 256
_ATTACKED, _PAIRS, _ATTACK_ROUNDS = 6_000, 2_000, 3
_BASE = bench_growth.Pass(candidates=43793, queries=1024, dim=512, k=10, strata=2, devices=1)


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
    precision: str = "",
    peers: str | None = None,
    form: str = "",
    images: str = "",
    side: str = "",
    short_side: str = "",
    pairs: str = "",
    plot: str = "",
    only: str = "",
    tries: str = "",
    minutes: str = "",
    seed: str = "",
    json: str = "",
) -> Bench:
    """Times `embed`, `retrieval`, `curve`, `heads`, `growth`, `profile`, `cohort` or `attacks`, compilation not timed; or tries `faults`, or a `soak`.

    Args:
        model, batch: of embed: a packaged or published name (default: the packaged ones), and rows per call; batch of heads: records of a step.
        form: of heads: of linear, mlp, patch, several with commas between.
        candidates, dim, k: of retrieval: sizes, several with commas between; of growth and profile: one each.
        queries: sampled queries of retrieval and profile (default: a few batches) and of growth's base case.
        precision: of retrieval, and peers: of retrieval and heads: names with commas between; peers '' or 'none' for none, None for those that fit.
        images, side, short_side: of cohort: synthetic radiographs, their side in pixels, and that of a resize (0: none).
        candidates, queries: of curve: one number each (default: 43,793).
        candidates, dim, pairs: of attacks: one each; auxiliary pairs of the attacker.
        only, tries, seed: of faults: their names or families, tries of each, and what draws them; minutes, seed: of soak.
        plot, json: files for the picture (growth) and the figures; empty writes none.

    Raises: UsageError: another subject, a flag of another subject, an unknown name, sizes that are not positive, or no torch for embed.
        UnsoundError: a pass that counts wrongly, or runs that do not end alike, so that faults cannot be judged.
    """
    config.validate()
    subject = " ".join(words)
    if subject not in SUBJECTS:
        raise errors.UsageError(errors.describe("what to measure", "'relink bench'", " or ".join(SUBJECTS), repr(subject)) + errors.suggest(subject, SUBJECTS))
    given = {"model": model or "", "batch": batch, "candidates": candidates, "dim": dim, "k": k, "queries": queries, "precision": precision, "form": form}
    given |= {"images": images, "side": side, "short_side": short_side, "pairs": pairs}
    given |= {"only": only, "tries": tries, "minutes": minutes, "seed": seed}
    _check_flags(subject, [*(name for name, value in given.items() if value), *["peers"] * (peers is not None), *["plot"] * bool(plot)])
    n_rounds = _one("rounds", rounds, {"growth": _GROWTH_ROUNDS, "attacks": _ATTACK_ROUNDS}.get(subject, _ROUNDS))
    if subject == "embed":
        made = _embed([model] if model else list(config.models), _one("batch", batch, _BATCH), n_rounds)
    elif subject == "heads":
        made = _heads(_names("form", form, bench_heads.FORMS), _one("batch", batch, _HEADS_BATCH), n_rounds, peers)
    elif subject == "curve":
        made = _curve(_one("candidates", candidates, _CURVE), _one("queries", queries, _CURVE), n_rounds)
    elif subject == "growth":
        sizes = {name: _one(name, text, getattr(_BASE, name)) for name, text in given.items() if name in ("candidates", "dim", "k", "queries")}
        made = _growth(dataclasses.replace(_BASE, **sizes), n_rounds, plot)
    elif subject == "cohort":
        measured = bench_cohort.measure(_one("images", images, _IMAGES), _one("side", side, _SIDE), n_rounds, _one("short_side", short_side, 0))
        made = Bench(bench_cohort.table(measured), measured.values())
    elif subject == "attacks":
        attacked = _one("candidates", candidates, _ATTACKED), _one("dim", dim, _DIM[0]), _one("pairs", pairs, _PAIRS)
        costs = bench_attacks.measure(*attacked, n_rounds)
        made = Bench(bench_attacks.table(costs), costs.values())
    elif subject == "faults":
        tallies = bench_faults.measure(only.split(",") if only else (), _one("tries", tries, bench_faults.TRIES), _one("seed", seed, 1))
        made = Bench(bench_faults.table(tallies, _where()), bench_faults.values(tallies, _where()))
    elif subject == "soak":
        soaked = bench_soak.measure(_one("minutes", minutes, bench_soak.MINUTES), _one("seed", seed, 1))
        made = Bench(bench_soak.table(soaked, _where()), bench_soak.values(soaked, _where()))
    elif subject == "profile":
        made = _profile(_one("candidates", candidates, _CURVE), _one("dim", dim, _DIM[0]), _one("k", k, _K[0]), _one("queries", queries, 0))
    else:
        sizes_of = (_sizes("candidates", candidates, _CANDIDATES), _sizes("dim", dim, _DIM), _sizes("k", k, _K))
        made = _retrieval(sizes_of, _names("precision", precision, product.PRECISIONS, ()), _one("queries", queries, 0), n_rounds, peers)
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


def _retrieval(
    sizes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], precisions: Sequence[str], queries: int, rounds: int, peers_text: str | None
) -> Bench:
    meshes.share_cpu()
    on_gpu = bench_retrieval.has_gpu()
    chosen = _names("peers", peers_text, tuple(contestants.PEERS), bench_retrieval.GPU_PEERS if on_gpu else None)
    precisions = precisions or (bench_retrieval.ON_GPU if on_gpu else (product.FLOAT32,))
    cases = [bench_retrieval.Asked(*size, precision) for size, precision in itertools.product(itertools.product(*sizes), precisions)]
    for case in cases:
        product.check(case.precision, meshes.make_mesh())
        if case.k > case.candidates:
            raise errors.UsageError(errors.describe("size", "flag --k", f"at most the candidates, {case.candidates:,}", f"{case.k:,}"))
    measured = []
    for case in progress.track(cases, len(cases), "bench retrieval", "cases"):
        measured.append(bench_retrieval.measure(case, queries, rounds, chosen))
    where = f"{_where()}, {rounds} alternating rounds"
    return Bench(bench_retrieval.table(measured, where), {"where": where, "cases": [dataclasses.asdict(case) for case in measured]})


def _growth(base: bench_growth.Pass, rounds: int, plot: str) -> Bench:
    if plot and not plot.endswith(".png"):
        raise errors.UsageError(errors.describe("picture", "flag --plot", "a file name that ends in .png", repr(pathlib.Path(plot).name)))
    meshes.share_cpu()
    base = dataclasses.replace(base, devices=jax.device_count())
    points, where = bench_growth.measure(base, rounds), f"{_where()}, {rounds} alternating rounds, float32"
    if plot:
        files.write_bytes(pathlib.Path(plot), bench_growth.picture(base, points))
    return Bench(bench_growth.table(base, points, where), {"where": where, **bench_growth.values(base, points)})


def _heads(forms: Sequence[str], batch: int, rounds: int, peers_text: str | None) -> Bench:
    chosen = _names("peers", peers_text, ("vmap", *private_peers.PEERS))
    measured = [bench_heads.measure(form, batch, rounds, chosen) for form in progress.track(forms, len(forms), "bench heads", "forms")]
    where = f"{_where()}, {rounds} alternating rounds, float32"
    return Bench(bench_heads.table(measured, where), {"where": where, "cases": [dataclasses.asdict(case) for case in measured]})


def _profile(candidates: int, dim: int, k: int, queries: int) -> Bench:
    meshes.share_cpu()
    queries = queries or bench_retrieval.sample(candidates)
    found, where = bench_profile.measure(candidates, dim, k, queries), _where()
    what = f"{queries:,} queries, {candidates:,} candidates, D = {dim}, k = {k}, float32; {where}"
    return Bench(bench_profile.table(found, what), {"where": where, **dataclasses.asdict(found)})


def _curve(candidates: int, queries: int, rounds: int) -> Bench:
    if candidates < 2:
        raise errors.UsageError(errors.describe("size", "flag --candidates", "at least 2 for a curve", str(candidates)))
    curves, found = bench_curve.measure(candidates, queries, rounds), bench_curve.errors(candidates)
    where = f"{_where()}, numpy {np.__version__}, {rounds} rounds"
    values = {"where": where, "curves": [dataclasses.asdict(row) for row in curves], "errors": [dataclasses.asdict(row) for row in found]}
    return Bench(bench_curve.table(curves, found, where), values)


def _check_flags(subject: str, given: Sequence[str]) -> None:
    """Raises `UsageError` for a flag that the subject does not have."""
    for name in given:
        if name not in SUBJECTS[subject]:
            known = ", ".join(f"--{flag}" for flag in (*SUBJECTS[subject], "rounds", "json"))
            raise errors.UsageError(errors.describe("flag of another benchmark", f"'relink bench {subject}'", known, f"--{name}"))


def _one(name: str, text: str, default: int) -> int:
    """Returns the whole number of a flag; `UsageError` for anything else, several numbers among it."""
    sizes = _sizes(name, text, (default,))
    if len(sizes) > 1:
        raise errors.UsageError(errors.describe("size", f"flag --{name}", "one whole number of at least 1", repr(text)))
    return sizes[0]


def _names(flag: str, text: str | None, known: tuple[str, ...], default: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Returns the names of a flag, `default` (all) when it is not given, none for 'none'; `UsageError` for an unknown one."""
    if text is None or (text == "" and flag != "peers"):
        return known if default is None else default
    names = () if text in ("", "none") else tuple(text.split(","))
    for name in names:
        if name not in known:
            expected = f"of {', '.join(known)}, commas between" + (", or none" if flag == "peers" else "")
            raise errors.UsageError(errors.describe(flag.rstrip("s"), f"flag --{flag}", expected, repr(name)) + errors.suggest(name, known))
    return names


def _sizes(name: str, text: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the whole numbers of a flag, commas between; `UsageError` for anything else."""
    if not text:
        return default
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 10**7 for part in parts):
        raise errors.UsageError(errors.describe("size", f"flag --{name}", "whole numbers of at least 1, commas between", repr(text)))
    return tuple(int(part) for part in parts)
