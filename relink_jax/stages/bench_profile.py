"""`relink bench profile`: where the time of a counting pass goes, operation by operation, beside the bare product of its tiles.

Both run once under jax's own profiler. Times are of the devices' threads, summed over devices; what only waits for other operations
(loops, branches, calls from Python) is left out. Names are the compiler's: on the CPU the product is `ynn_fusion` or `dot`, finding the best
groups of a tile a `custom-call`, comparing and counting a fusion with `reduce` in its name or part of the product's.
"""

import collections
import dataclasses
import gzip
import json
import pathlib
import re
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax

from relink_jax import errors
from relink_jax.retrieval import probe, sides
from relink_jax.runtime import mesh as meshes

TOLD = 12  # operations that a table names
_WAITING = re.compile(r"^(while|conditional|call|\$|.*(Wait|Execute|DevicePut|PjRt|Pjit|profiler|asarray|jax\.Array|Thunk|Threadpool|block_until))", re.I)


@dataclasses.dataclass(frozen=True)
class Profile:
    """Milliseconds by operation of the pass and of the bare product over the same tiles, longest first."""

    whole: dict[str, float]
    product: dict[str, float]


def measure(candidates: int, dim: int, k: int, queries: int) -> Profile:
    """Returns the profile of a plain pass: both counts of two strata, and lists of k.

    Raises: UnsoundError: a profiler that names no operation, as some backends do.
    """
    data, wanted = probe.records(candidates, dim, queries), sides.Wanted(codes=1, near=False, studies=False, k=k)
    placed = probe.placed(data, meshes.make_mesh(), wanted)
    return Profile(_traced(placed.call), _traced(placed.product))


def table(found: Profile, what: str) -> str:
    """Returns the profile as text, one operation a line."""
    whole, bare = sum(found.whole.values()), sum(found.product.values())
    lines = [f"operations of the counting pass ({what}), device time of one run:", f"  {'ms':>10} {'of pass':>8}  operation"]
    lines += [f"  {spent:>10.1f} {spent / whole:>8.1%}  {name}" for name, spent in list(found.whole.items())[:TOLD]]
    rest = sum(list(found.whole.values())[TOLD:])
    lines += [f"  {rest:>10.1f} {rest / whole:>8.1%}  {max(0, len(found.whole) - TOLD)} others", f"  {whole:>10.1f} {1:>8.1%}  all"]
    return "\n".join([*lines, f"  {bare:>10.1f} {bare / whole:>8.1%}  the bare product of the same tiles, run by itself"])


def _traced(call: Callable[[], Any]) -> dict[str, float]:
    """Returns milliseconds by operation of one run of `call`, which ran once before."""
    call()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            call()
        events = [event for path in pathlib.Path(folder).rglob("*.trace.json.gz") for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]]
    spent = _spent(events)
    if not spent:
        raise errors.UnsoundError(errors.describe("profile", "'relink bench profile'", "operations in the trace of this backend", "none"))
    return spent


def _spent(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    total: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("ph") == "X" and not _WAITING.match(event["name"]):
            total[re.sub(r"\.\d+$", "", event["name"])] += event["dur"]
    return {name: spent / 1e3 for name, spent in total.most_common()}
