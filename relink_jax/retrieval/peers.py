"""What people script today for the same answer, to time the counting pass against: NumPy, torch and FAISS, in blocks of queries.

Each function returns a call without arguments that answers for all queries and returns something small. Torch and FAISS are asked for only
here; where one is not installed its function raises ImportError and a benchmark names it as skipped. Both work on a GPU where their build
has one, in full float32; candidates are placed before the call, and answers are fetched within it, as the counting pass does.
"""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

Call = Callable[[], object]
_ROWS, _TILE = 512, 8832  # queries and candidates of one block of OpenBLAS's product
_GPU_ROWS = 4096
_SCORES, _GPU_SCORES = 2**27, 2**29  # scores that are held at a time, 0.5 and 2 GiB


@dataclasses.dataclass(frozen=True)
class Task:
    """Queries [Q, D] against candidates [C, D], float32 unit rows.

    Attributes:
        own: int [Q], the true candidate of each query. key, code: int32 [C]; candidates with the query's key are left out, those with
            its code are a stratum. k: length of the top list.
    """

    queries: np.ndarray
    candidates: np.ndarray
    own: np.ndarray
    key: np.ndarray
    code: np.ndarray
    k: int


def threads() -> int:
    """Returns how many CPUs this process may use; each library here is told to use as many."""
    return len(os.sched_getaffinity(0))


def openblas_product(task: Task) -> Call:
    """The bare product in NumPy, over tiles of the same size as ours."""
    out = np.empty((_ROWS, _TILE), np.float32)

    def call() -> float:
        seen = 0.0
        for rows in _blocks(len(task.queries), _ROWS):
            for columns in _blocks(len(task.candidates), _TILE):
                part, tile = task.queries[rows], task.candidates[columns]
                scores = out[: len(part), : len(tile)]
                np.matmul(part, tile.T, out=scores)
                seen += float(scores[0, 0])
        return seen

    return call


def numpy_counts(task: Task) -> Call:
    """Greater and tied counts of both strata and the top list, one direction."""

    def call() -> list[np.ndarray]:
        found = []
        for rows in _blocks(len(task.queries), _height(task)):
            scores, own = task.queries[rows] @ task.candidates.T, task.own[rows]
            truth = scores[np.arange(len(own)), own][:, None]
            other = task.key[own][:, None] != task.key[None, :]
            matched = other & (task.code[own][:, None] == task.code[None, :])
            greater, tied = scores > truth, scores == truth
            counts = [np.count_nonzero(answer & among, axis=1) for among in (other, matched) for answer in (greater, tied)]
            best = np.argpartition(-scores, min(task.k, scores.shape[1] - 1), axis=1)[:, : task.k]
            order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
            found += [*counts, np.take_along_axis(best, order, axis=1)]
        return found

    return call


def numpy_argsort(task: Task) -> Call:
    """Ranks by sorting every row, as CLIP's evaluation code does; no ties, no strata, no lists."""

    def call() -> list[np.ndarray]:
        ranks = []
        for rows in _blocks(len(task.queries), _height(task)):
            order = np.argsort(-(task.queries[rows] @ task.candidates.T), axis=1)
            ranks.append(np.argmax(order == task.own[rows][:, None], axis=1))
        return ranks

    return call


def torch_counts(task: Task) -> Call:
    """The same answer as `numpy_counts` in torch, with torch.topk, on the GPU where torch has one."""
    import torch

    torch.set_num_threads(threads())
    torch.backends.cuda.matmul.allow_tf32 = False
    on_gpu = torch_on_gpu()
    device = torch.device("cuda" if on_gpu else "cpu")
    queries, candidates, key, code = (torch.from_numpy(array).to(device) for array in (task.queries, task.candidates, task.key, task.code))
    owns = torch.from_numpy(task.own.astype(np.int64)).to(device)
    k, height = min(task.k, len(task.candidates)), _height(task, on_gpu)

    def call() -> object:
        found = []
        with torch.inference_mode():
            for rows in _blocks(len(queries), height):
                scores, own = queries[rows] @ candidates.T, owns[rows]
                truth = scores.gather(1, own[:, None])
                other = key[own][:, None] != key[None, :]
                matched = other & (code[own][:, None] == code[None, :])
                greater, tied = scores > truth, scores == truth
                counts = [(answer & among).sum(1) for among in (other, matched) for answer in (greater, tied)]
                found += [*counts, torch.topk(scores, k, dim=1).indices]
            return [part.cpu() for part in found]  # which waits for the GPU

    return call


def faiss_lists(task: Task) -> Call:
    """Top lists alone by FAISS IndexFlatIP, which gives no ranks; on the GPU where FAISS has one, which lists at most 2,048 there."""
    import faiss

    faiss.omp_set_num_threads(threads())
    if not faiss_on_gpu():
        index = faiss.IndexFlatIP(task.candidates.shape[1])
        index.add(task.candidates)
        return lambda: index.search(task.queries, task.k)
    resources, settings = faiss.StandardGpuResources(), faiss.GpuIndexFlatConfig()
    settings.device, settings.useFloat16 = 0, False
    on_gpu = faiss.GpuIndexFlatIP(resources, task.candidates.shape[1], settings)
    on_gpu.add(task.candidates)

    def call() -> object:
        found = on_gpu.search(task.queries, task.k)  # NumPy in and out: it returns when the lists are on the host
        resources.syncDefaultStreamCurrentDevice()
        return found

    return call


def torch_on_gpu() -> bool:
    """Returns whether torch is installed and has a GPU."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def faiss_on_gpu() -> bool:
    """Returns whether FAISS is installed with its GPU part, and that sees a GPU."""
    try:
        import faiss
    except ImportError:
        return False
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


@dataclasses.dataclass(frozen=True)
class Peer:
    """A contestant: what it is called in a table, its function, and whether it works on a GPU here."""

    told: str
    make: Callable[[Task], Call]
    on_gpu: Callable[[], bool] = lambda: False

    @property
    def name(self) -> str:
        """Its name with the GPU, when it works on one."""
        return f"{self.told} (GPU)" if self.on_gpu() else self.told


PEERS = {
    "openblas": Peer("OpenBLAS product", openblas_product),
    "faiss": Peer("FAISS top list alone", faiss_lists, faiss_on_gpu),
    "numpy": Peer("NumPy, same answer", numpy_counts),
    "torch": Peer("torch, same answer", torch_counts, torch_on_gpu),
    "argsort": Peer("argsort ranks", numpy_argsort),
}


def _height(task: Task, on_gpu: bool = False) -> int:
    """Returns queries per block of scores."""
    scores, most = (_GPU_SCORES, _GPU_ROWS) if on_gpu else (_SCORES, _ROWS)
    return max(64, min(most, scores // len(task.candidates) // 64 * 64))


def _blocks(n: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]
