"""What people script today for the same answer, to time the counting pass against: NumPy, torch and FAISS, in blocks of queries.

Each function returns a call without arguments that answers for all queries and returns something small. Torch and FAISS are asked for only
here; where one is not installed its function raises ImportError and a benchmark names it as skipped.
"""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

Call = Callable[[], object]
_ROWS = 512  # queries per block of scores
_TILE = 8832


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
        for rows in _blocks(len(task.queries), _ROWS):
            scores, own = task.queries[rows] @ task.candidates.T, task.own[rows]
            truth = scores[np.arange(len(own)), own][:, None]
            other = task.key[own][:, None] != task.key[None, :]
            matched = other & (task.code[own][:, None] == task.code[None, :])
            greater, tied = scores > truth, scores == truth
            counts = [np.count_nonzero(answer & among, axis=1) for among in (other, matched) for answer in (greater, tied)]
            best = np.argpartition(-scores, task.k, axis=1)[:, : task.k]
            order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
            found += [*counts, np.take_along_axis(best, order, axis=1)]
        return found

    return call


def numpy_argsort(task: Task) -> Call:
    """Ranks by sorting every row, as CLIP's evaluation code does; no ties, no strata, no lists."""

    def call() -> list[np.ndarray]:
        ranks = []
        for rows in _blocks(len(task.queries), _ROWS):
            order = np.argsort(-(task.queries[rows] @ task.candidates.T), axis=1)
            ranks.append(np.argmax(order == task.own[rows][:, None], axis=1))
        return ranks

    return call


def torch_counts(task: Task) -> Call:
    """The same answer as `numpy_counts` in torch, with torch.topk."""
    import torch

    torch.set_num_threads(threads())
    queries, candidates, key, code = (torch.from_numpy(array) for array in (task.queries, task.candidates, task.key, task.code))
    owns = torch.from_numpy(task.own.astype(np.int64))

    def call() -> object:
        found = []
        with torch.inference_mode():
            for rows in _blocks(len(queries), _ROWS):
                scores, own = queries[rows] @ candidates.T, owns[rows]
                truth = scores.gather(1, own[:, None])
                other = key[own][:, None] != key[None, :]
                matched = other & (code[own][:, None] == code[None, :])
                greater, tied = scores > truth, scores == truth
                counts = [(answer & among).sum(1) for among in (other, matched) for answer in (greater, tied)]
                found += [*counts, torch.topk(scores, task.k, dim=1).indices]
        return found

    return call


def faiss_lists(task: Task) -> Call:
    """Top lists alone by FAISS IndexFlatIP, which gives no ranks."""
    import faiss

    faiss.omp_set_num_threads(threads())
    index = faiss.IndexFlatIP(task.candidates.shape[1])
    index.add(task.candidates)
    return lambda: index.search(task.queries, task.k)


def _blocks(n: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]
