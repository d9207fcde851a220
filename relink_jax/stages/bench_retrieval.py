"""`relink bench retrieval`: the counting pass against the bare matrix product, and against what people script today.

One case is a number of candidates, a width D, a list length k and a precision, with a sample of queries: enough whole batches that a round
takes seconds. The pass is first held against float64 (`bench_check`). Then all contestants take turns, and what is printed is the median over
rounds of ratios of seconds per query, with nothing divided out: empty places in tiles and batches count against us. Ours answer all queries
of the sample, whatever their number costs in empty places; the others, which go through them block by block, answer the first `PEER_QUERIES`.
Compilation and the placing of candidates are not timed; host work, dispatch and the fetching of results are.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import jax
import numpy as np

from relink_jax.retrieval import exact, faster, impostors, kernels, layout, limits, peers, probe, product, sides, statistics
from relink_jax.retrieval.counted import LABEL_MATCHED, Records
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import plan, timing
from relink_jax.stages import bench_check, bench_memory

BLOCKS, PEER_QUERIES = 32, 1024
FULL = 406_241  # candidates, and queries, that a GPU's seconds are extrapolated to
ON_GPU = (product.FLOAT32, product.BF16X3, product.BF16)
GPU_PEERS = ("torch", "faiss")
_EVERYTHING, _FLOAT32, _COUNT, _PLAIN_COUNT = "everything", "float32 pass", "exact count", "exact count, float32"


@dataclasses.dataclass(frozen=True)
class Asked:
    """One case: candidates, embedding width D, list length k and precision."""

    candidates: int
    dim: int
    k: int
    precision: str = product.FLOAT32


@dataclasses.dataclass(frozen=True)
class Setting:
    """What our own contestants share: the case, its records, the limits of its precision, and the mesh."""

    asked: Asked
    data: Records
    around: limits.Limits | None
    mesh: meshes.Mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case(Asked):
    """One case and what was measured.

    Attributes:
        queries: of the sample. seconds: of the plain pass over them. whole: the same in proportion for `FULL` queries and candidates, on a GPU.
        rate: FLOP per second of the bare XLA product. share: the plain pass's speed as a share of it.
        product_share: speed of the bare XLA product as a share of OpenBLAS's, None without OpenBLAS.
        ratios: time of each contestant over our plain pass's; skipped: contestants that are not installed.
        checked: queries counted again in float64 before. open_lists: lists that their certificates left open, which a count makes again.
        settled: of a precision faster than float32, how its integers compare with those of float32.
        beyond, beyond_all: bytes of this process's memory at the peak beyond the inputs, of the plain pass, and with all contestants.
        planned: bytes that the layout of the plain pass plans for on all devices.
    """

    queries: int
    seconds: float
    whole: float | None
    rate: float
    share: float
    product_share: float | None
    ratios: dict[str, float]
    skipped: list[str]
    checked: int
    open_lists: int
    settled: bench_check.Settled | None
    beyond: int
    beyond_all: int
    planned: int


def everything(setting: Setting) -> Callable[[], Any]:
    """Both directions, four strata and `BLOCKS` jackknife blocks, from the same product."""
    data, asked = setting.data, setting.asked
    strata = {f"stratum {number}": np.roll(data.codes[LABEL_MATCHED], number) for number in range(3)}
    block = (data.exclusion.astype(np.int64) * BLOCKS // (data.exclusion[-1] + 1)).astype(np.int32)
    wanted = sides.Wanted(codes=3, near=False, studies=True, k=asked.k)
    placed = probe.placed(dataclasses.replace(data, codes=strata, block=block), setting.mesh, wanted, precision=asked.precision, around=setting.around)
    bench_check.check(placed)
    return placed.call


def float32_pass(setting: Setting) -> Callable[[], Any]:
    """The plain pass in float32."""
    return probe.placed(setting.data, setting.mesh, _plain(setting.asked.k)).call


def exact_count(setting: Setting) -> Callable[[], Any]:
    """From records to the integers of exact scores: candidates placed, counted, and settled."""
    run = faster.Pass(setting.mesh, layout.DEFAULT, setting.asked.precision)
    return lambda: run.links(setting.data, False, setting.asked.k, None).per_image


def float32_count(setting: Setting) -> Callable[[], Any]:
    """From records to the integers of float32, candidates placed."""
    run = exact.Pass(setting.mesh, layout.DEFAULT)
    return lambda: run.links(setting.data, False, setting.asked.k, None).per_image


def kernel_pass(setting: Setting) -> Callable[[], Any]:
    """The plain pass with the kernel of these devices, see `kernels`."""
    always = layout.Layout(kernel=layout.ALWAYS)
    placed = probe.placed(setting.data, setting.mesh, _plain(setting.asked.k), always, setting.asked.precision, setting.around)
    bench_check.check(placed)
    return placed.call


def bank_statistics(setting: Setting) -> Callable[[], Any]:
    """Log sums at one temperature and the ten nearest candidates of each query, with mean and variance; from records, in float32."""
    data = setting.data
    return lambda: statistics.over_bank(data.images, data.texts, setting.mesh, (0.05,), 10).logsumexp


def impostor_scores(setting: Setting) -> Callable[[], Any]:
    """The histogram of all impostor pairs and its exact tail; from records, in float32."""
    return lambda: impostors.count(setting.data, setting.mesh).histogram


OURS: dict[str, Callable[[Setting], Callable[[], Any]]] = {  # of every case
    _EVERYTHING: everything,
    "bank statistics": bank_statistics,
    "impostors": impostor_scores,
}
FASTER = {_FLOAT32: float32_pass, _COUNT: exact_count, _PLAIN_COUNT: float32_count}  # of a precision faster than float32 besides


def has_gpu() -> bool:
    """Returns whether the devices of this process are GPUs."""
    return jax.default_backend() == "gpu"


def sample(candidates: int) -> int:
    """Returns the queries that a case takes by default: two batches and half of that from 100,000 candidates on, less what the borders of
    jackknife blocks take in the last; on an accelerator four batches."""
    if jax.default_backend() != "cpu":
        return 4 * layout.default_shape(jax.default_backend())[0] * jax.device_count()
    return 2000 if candidates >= 100_000 else 4000


def measure(asked: Asked, queries: int, rounds: int, contestants: Sequence[str]) -> Case:
    """Returns the figures of one case; `queries` 0 takes `sample`. Contestants are keys of `peers.PEERS`, in turns where they are installed.

    Raises: UnsoundError: what the pass counts is not what float64 counts. UsageError: a precision that the devices do not have.
    """
    queries, mesh = queries or sample(asked.candidates), meshes.make_mesh()
    product.check(asked.precision, mesh)
    data = probe.records(asked.candidates, asked.dim, queries)
    memory = bench_memory.Memory()
    with _quietly():
        setting = Setting(asked, data, bench_check.around(data, asked.precision), mesh)
        plain = probe.placed(data, mesh, _plain(asked.k), precision=asked.precision, around=setting.around)
        open_lists, beyond = plain.call(), memory.beyond()
        checked, fast = bench_check.check(plain), asked.precision != product.FLOAT32
        settled = bench_check.settled(data, mesh, asked.precision, asked.k) if fast else None
        calls: dict[str, Callable[[], Any]] = {"plain": plain.call, "product": plain.product}
        ours = {**OURS, **(FASTER if fast else {}), **({"kernel": kernel_pass} if _has_kernel(asked, mesh) else {})}
        calls |= {name: make(setting) for name, make in ours.items()}
        few = min(queries, PEER_QUERIES // (2 if asked.candidates >= 100_000 else 1)) if not has_gpu() else queries
        found, skipped = _peers(data, asked.k, contestants, few)
        spent = dict(zip(calls | found, timing.alternating(list((calls | found).values()), rounds), strict=True))
        spent |= {name: [time * queries / few for time in spent[name]] for name in found}
        ratio = {name: _ratio(times, spent["plain"]) for name, times in spent.items() if name != "plain"}
        blas = spent.get(peers.PEERS["openblas"].name)
        seconds = median(spent["plain"])
        return Case(
            **dataclasses.asdict(asked),
            queries=queries,
            seconds=seconds,
            whole=seconds * FULL / queries * FULL / asked.candidates if has_gpu() else None,
            rate=median(plain.flop / time for time in spent["product"]),
            share=ratio.pop("product"),
            product_share=None if blas is None else _ratio(blas, spent["product"]),
            ratios=ratio,
            skipped=skipped,
            checked=checked,
            open_lists=open_lists,
            settled=settled,
            beyond=beyond,
            beyond_all=memory.beyond(),
            planned=plain.planned() * mesh.size,
        )


def table(cases: Sequence[Case], where: str) -> str:
    """Returns the figures as text, one line per case."""
    names = list(dict.fromkeys(name for case in cases for name in case.ratios))
    head = f"  {'candidates':>10} {'D':>5} {'k':>5} {'precision':>9} {'queries':>8} {'GFLOP/s':>8} {'share':>6} {'XLA/BLAS':>8}  " + "  ".join(names)
    lines = []
    for case in cases:
        blas = "" if case.product_share is None else f"{case.product_share:.2f}"
        shape = f"{case.candidates:>10,} {case.dim:>5} {case.k:>5} {case.precision:>9} {case.queries:>8,}"
        ratios = "  ".join(f"{case.ratios[name]:>{len(name)}.2f}" if name in case.ratios else " " * len(name) for name in names)
        lines.append(f"  {shape} {case.rate / 1e9:>8.0f} {case.share:>6.2f} {blas:>8}  {ratios}".rstrip())
    return "\n".join([f"the counting pass ({where}):", head, *lines, *_words(cases), *(line for case in cases for line in _told(case))])


def _words(cases: Sequence[Case]) -> list[str]:
    """Returns what the columns mean, and what was skipped."""
    told = [
        "share: speed of the plain pass (greater and tied counts of two strata, top list) as a share of the bare XLA product of the same tiles",
        "XLA/BLAS: speed of that bare product as a share of OpenBLAS's over the same queries and candidates",
        "then: seconds per query of each contestant over the plain pass's, for the same candidates, with nothing divided out",
        f"everything: both directions, four strata and {BLOCKS} jackknife blocks",
        "bank statistics (mean, variance, one log sum, ten nearest) and impostors (histogram, exact tail): passes of their own, candidates placed",
    ]
    if any(case.settled for case in cases):
        told += [
            "a faster precision's plain pass counts between the bands of its rounding, settling not timed; float32 pass: the plain pass in float32",
            "exact count: from records to the integers of exact scores, settling and the placing of candidates timed; exact count, float32: the same there",
        ]
    skipped = sorted({name for case in cases for name in case.skipped})
    told += [f"not installed, skipped: {', '.join(skipped)}"] if skipped else []
    if not has_gpu():
        told.append(
            f"no GPU here: on one this command measures {', '.join(ON_GPU)} with equal counts, against chunked torch with the same answer and FAISS on "
            f"that GPU, and extrapolates the seconds of {FULL:,} x {FULL:,}"
        )
    return told


def _told(case: Case) -> list[str]:
    """Returns what is said of one case below the table: its check, memory, and seconds on a GPU."""
    told = f"{case.candidates:,}, D = {case.dim}, k = {case.k}, {case.precision}: checked {case.checked} queries against float64"
    told += f"; {case.open_lists} lists left open, which a count makes again" if case.open_lists else ""
    told += f"; peak memory beyond the inputs {plan.human(case.beyond, 'B')} of the plain pass (arrays planned {plan.human(case.planned, 'B')} on all devices)"
    lines = [f"{told}, {plan.human(case.beyond_all, 'B')} with all contestants"]
    if case.settled is not None:
        how = ", ".join(
            f"{name.replace('_', ' ')} {value:.2g}" if name == "band" else f"{value:,} {name.replace('_', ' ')}"
            for name, value in case.settled.settling.items()
        )
        lines.append(f"  integers equal to those of float32 for {case.settled.equal:,} of {case.settled.queries:,} queries ({how})")
    if case.whole is not None:
        lines.append(f"  {case.seconds:.3f} s; extrapolated to {FULL:,} x {FULL:,}: {case.whole:.2f} s")
    return lines


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silences the progress bars of what is timed."""
    before = os.environ.get("RELINK_PROGRESS")
    os.environ["RELINK_PROGRESS"] = "0"
    try:
        yield
    finally:
        os.environ.pop("RELINK_PROGRESS")
        os.environ.update({} if before is None else {"RELINK_PROGRESS": before})


def _plain(k: int) -> sides.Wanted:
    return sides.Wanted(codes=1, near=False, studies=False, k=k)


def _has_kernel(asked: Asked, mesh: meshes.Mesh) -> bool:
    """Returns whether a kernel runs on these devices; where it is interpreted there is nothing to time."""
    platform = kernels.platform_of(mesh.devices.flat[0])
    return platform != "cpu" and kernels.supports(dataclasses.replace(_plain(asked.k), precision=asked.precision), platform)


def _peers(data: Records, k: int, names: Sequence[str], few: int) -> tuple[dict[str, Callable[[], Any]], list[str]]:
    """Returns (calls by name that answer the first `few` queries, names of what is not installed)."""
    task = peers.Task(np.asarray(data.images[:few]), np.asarray(data.texts), data.image_study[:few], data.exclusion, data.codes[LABEL_MATCHED], k)
    calls: dict[str, Callable[[], Any]] = {}
    skipped = []
    for peer in (peers.PEERS[name] for name in names):
        try:
            calls[peer.name] = peer.make(task)
        except ImportError:
            skipped.append(peer.name)
    return calls, skipped


def _ratio(times: Sequence[float], others: Sequence[float]) -> float:
    return median(time / other for time, other in zip(times, others, strict=True))
