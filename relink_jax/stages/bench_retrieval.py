"""`relink bench retrieval`: the counting pass against the bare matrix product, and against what people script today.

One case is a number of candidates, a width D and a list length k, with a sample of queries: enough whole batches that a round takes
seconds. All contestants answer the same queries in turns, and what is printed is the median over rounds of their ratio to our plain pass
(greater and tied counts of other-patient and label-matched candidates, and the top list). Compilation and the placing of candidates are
not timed; host work, dispatch and the fetching of results are.
"""

import dataclasses
import resource
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from relink_jax.retrieval import counts, engine, peers, sweep
from relink_jax.retrieval.counted import LABEL_MATCHED, Records
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import timing

BLOCKS = 32
_PEERS: dict[str, Callable[[peers.Task], peers.Call]] = {
    "OpenBLAS product": peers.openblas_product,
    "FAISS top list alone": peers.faiss_lists,
    "NumPy, same answer": peers.numpy_counts,
    "torch, same answer": peers.torch_counts,
    "argsort ranks": peers.numpy_argsort,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One size and what was measured at it.

    Attributes:
        rate: FLOP per second of the bare product. share: the plain pass's speed as a share of it.
        ratios: time of each contestant over our plain pass's; skipped: contestants that are not installed.
        beyond: bytes of memory at the peak beyond the inputs, since the start of the case.
    """

    candidates: int
    dim: int
    k: int
    queries: int
    rate: float
    share: float
    ratios: dict[str, float]
    skipped: list[str]
    beyond: int


def measure(candidates: int, dim: int, k: int, queries: int, rounds: int) -> Case:
    """Returns the figures of one case; `queries` 0 samples 2,048, or 512 from 100,000 candidates on.

    'everything' is both directions, four strata and `BLOCKS` jackknife blocks. torch and FAISS take their turns where they are installed.
    """
    queries = queries or (512 if candidates >= 100_000 else 2048)
    data, mesh = _records(candidates, dim, queries), meshes.make_mesh()
    before = _peak()
    plain = _pass(data, mesh, sweep.Wanted(codes=1, near=False, studies=False, k=k))
    calls: dict[str, Callable[[], Any]] = {"plain": plain.call, "product": plain.product}
    scale = {"plain": 1.0, "product": 1.0}
    skipped = []
    strata = {f"stratum {number}": np.roll(data.codes[LABEL_MATCHED], number) for number in range(3)}
    block = (data.exclusion.astype(np.int64) * BLOCKS // (data.exclusion[-1] + 1)).astype(np.int32)
    every = _pass(dataclasses.replace(data, codes=strata, block=block), mesh, sweep.Wanted(codes=3, near=False, studies=True, k=k))
    calls["everything"], scale["everything"] = every.call, plain.places / every.places
    task = peers.Task(data.images, data.texts, data.image_study, data.exclusion, data.codes[LABEL_MATCHED], k)
    for name, make in _PEERS.items():
        try:
            calls[name], scale[name] = make(task), plain.places / (queries * candidates)
        except ImportError:
            skipped.append(name)
    spent = dict(zip(calls, timing.alternating(list(calls.values()), rounds), strict=True))
    ratio = {
        name: statistics.median(scale[name] * other / own for other, own in zip(times, spent["plain"], strict=True))
        for name, times in spent.items()
        if name != "plain"
    }
    rate = statistics.median(2 * plain.places * dim / time for time in spent["product"])
    return Case(candidates, dim, k, queries, rate, ratio.pop("product"), ratio, skipped, _peak() - before)


def table(cases: Sequence[Case], where: str) -> str:
    """Returns the figures as text, one line per case."""
    names = list(dict.fromkeys(name for case in cases for name in case.ratios))
    head = f"  {'candidates':>10} {'D':>5} {'k':>5} {'GFLOP/s':>8} {'share':>6}  " + "  ".join(names)
    lines = [
        f"  {case.candidates:>10,} {case.dim:>5} {case.k:>5} {case.rate / 1e9:>8.0f} {case.share:>6.2f}  "
        + "  ".join(f"{case.ratios[name]:>{len(name)}.2f}" if name in case.ratios else " " * len(name) for name in names)
        for case in cases
    ]
    skipped = sorted({name for case in cases for name in case.skipped})
    told = ["share: speed of the plain pass (greater and tied counts of two strata, top list) as a share of the bare product of the same tiles"]
    told.append("then: time of each contestant over the plain pass's; everything is both directions, four strata and 32 jackknife blocks")
    told += [f"not installed, skipped: {', '.join(skipped)}"] if skipped else []
    beyond = max(case.beyond for case in cases)
    told.append(f"peak memory beyond the inputs: {beyond / 2**30:.2f} GiB, contestants included")
    return "\n".join([f"the counting pass ({where}):", head, *lines, *told])


@dataclasses.dataclass(frozen=True)
class _Pass:
    """A placed pass: `call` runs its batches, `product` the bare product over the same tiles; `places` scores, padding included."""

    call: Callable[[], Any]
    product: Callable[[], Any]
    places: int


def _pass(data: Records, mesh: meshes.Mesh, wanted: sweep.Wanted) -> _Pass:
    work = engine.Engine(data, mesh)
    wanted, own = work.shaped(wanted), work.own_scores()
    columns = work.columns(*counts.best_own(own, data.image_study, len(data.study_text)))
    vectors = [work.batch(number, block, own).vectors for number, block in zip(work.images.number, work.images.block, strict=True)]
    bare = sweep.bare_product(mesh)

    def call() -> None:
        for _ in work.steps(columns, work.empty(wanted), own, wanted):
            pass

    return _Pass(call, lambda: jax.block_until_ready([bare(part, columns.vectors) for part in vectors]), work.images.number.size * work.studies.number.size)


def _records(candidates: int, dim: int, queries: int) -> Records:
    """Returns unit rows: two studies a patient, 200 label codes, queries near their own text."""
    generator = np.random.default_rng(0)
    texts = _unit(generator.standard_normal((candidates, dim), dtype=np.float32))
    own = generator.integers(0, candidates, queries).astype(np.int32)
    images = _unit(0.3 * texts[own] + _unit(generator.standard_normal((queries, dim), dtype=np.float32)))
    number = np.arange(candidates, dtype=np.int32)
    return Records(images, own, texts, number, number // 2, {LABEL_MATCHED: generator.integers(0, 200, candidates).astype(np.int32)})


def _unit(rows: np.ndarray) -> np.ndarray:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
