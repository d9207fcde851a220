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

import numpy as np

from relink_jax.retrieval import peers, probe, sides
from relink_jax.retrieval.counted import LABEL_MATCHED
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
    data, mesh = probe.records(candidates, dim, queries), meshes.make_mesh()
    before = _peak()
    plain = probe.placed(data, mesh, sides.Wanted(codes=1, near=False, studies=False, k=k))
    calls: dict[str, Callable[[], Any]] = {"plain": plain.call, "product": plain.product}
    scale = {"plain": 1.0, "product": 1.0}
    skipped = []
    strata = {f"stratum {number}": np.roll(data.codes[LABEL_MATCHED], number) for number in range(3)}
    block = (data.exclusion.astype(np.int64) * BLOCKS // (data.exclusion[-1] + 1)).astype(np.int32)
    every = probe.placed(dataclasses.replace(data, codes=strata, block=block), mesh, sides.Wanted(codes=3, near=False, studies=True, k=k))
    calls["everything"], scale["everything"] = every.call, plain.flop / every.flop
    task = peers.Task(np.asarray(data.images), np.asarray(data.texts), data.image_study, data.exclusion, data.codes[LABEL_MATCHED], k)
    for name, make in _PEERS.items():
        try:
            calls[name], scale[name] = make(task), plain.flop / (2 * queries * candidates * dim)
        except ImportError:
            skipped.append(name)
    spent = dict(zip(calls, timing.alternating(list(calls.values()), rounds), strict=True))
    ratio = {
        name: statistics.median(scale[name] * other / own for other, own in zip(times, spent["plain"], strict=True))
        for name, times in spent.items()
        if name != "plain"
    }
    rate = statistics.median(plain.flop / time for time in spent["product"])
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


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
