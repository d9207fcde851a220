"""`relink bench growth`: how the time and memory of a counting pass grow with each thing it depends on, all others as in a base case.

Every case takes turns with the base case, and its time is the median over rounds of the ratio. Memory is not sampled but computed: what the
compiled step holds on one device, by XLA's own account, and what the layout planned for.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from relink_jax import errors
from relink_jax.report import growth
from relink_jax.retrieval import probe, sides
from relink_jax.retrieval.counted import LABEL_MATCHED
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import plan, progress, timing

_FACTORS = {"candidates": (1 / 8, 1 / 4, 1 / 2, 1, 2, 4), "queries": (1 / 4, 1 / 2, 1, 2, 4), "dim": (1 / 8, 1 / 4, 1 / 2, 1, 1.5, 2.25)}
_STRATA, _K = (1, 2, 3, 5, 9), (0, 1, 10, 100, 1000)
_WORDS = {
    "candidates": "candidates",
    "queries": "queries",
    "dim": "embedding width D",
    "strata": "strata",
    "k": "length k of the top list",
    "devices": "devices",
}


@dataclasses.dataclass(frozen=True)
class Pass:
    """What a pass is made of: counts of `strata` strata in one direction, and lists of k (0 for none)."""

    candidates: int
    queries: int
    dim: int
    k: int
    strata: int
    devices: int


@dataclasses.dataclass(frozen=True)
class Point:
    """One case.

    Attributes:
        varied: the field of `Pass` that differs from the base case's, with its value. seconds: median.
        times: its time over the base case's, median over rounds.
        compiled, planned: bytes of one device, of the compiled step and of the layout's plan. memory: the former over the base case's.
    """

    varied: str
    value: int
    seconds: float
    times: float
    compiled: int
    planned: int
    memory: float


def cases(base: Pass) -> list[tuple[str, int]]:
    """Returns (field, value) of every case, the base case's own values among them."""
    varied = {name: [max(1, round(getattr(base, name) * factor)) for factor in factors] for name, factors in _FACTORS.items()}
    varied["strata"] = sorted({*_STRATA, base.strata})
    varied["k"] = sorted({*(k for k in _K if k <= base.candidates), base.k})
    varied["devices"] = sorted({*(2**power for power in range(base.devices.bit_length())), base.devices})
    return [(name, value) for name, values in varied.items() for value in dict.fromkeys(values)]


def measure(base: Pass, rounds: int) -> list[Point]:
    """Returns the figures of every case.

    Raises: UsageError: lists longer than the fewest candidates.
    """
    fewest = min(value for name, value in cases(base) if name == "candidates")
    if base.k > fewest:
        raise errors.UsageError(errors.describe("size", "flag --k", f"at most {fewest:,}, the fewest candidates that are measured", f"{base.k:,}"))
    first = _placed(base)
    one = first.compiled()
    points = []
    for name, value in progress.track(cases(base), len(cases(base)), "bench growth", "cases"):
        same = value == getattr(base, name)
        other = first if same else _placed(dataclasses.replace(base, **{name: value}))
        alone, beside = timing.alternating([first.call, other.call], rounds)
        compiled = one if same else other.compiled()
        times = statistics.median(mine / its for its, mine in zip(alone, beside, strict=True))
        points.append(Point(name, value, statistics.median(beside), times, compiled, other.planned(), compiled / one if one else math.nan))
    return points


def exponent(points: Sequence[Point], what: str) -> float | None:
    """Returns the slope of log `what` ('times' or 'memory') against log value over the cases above 0; 1 is proportional growth, None unknown."""
    seen = [(point.value, float(getattr(point, what))) for point in points if point.value > 0 and getattr(point, what) > 0]
    if len(seen) < 2:
        return None
    x, y = np.log(np.array(seen)).T
    return float(np.polyfit(x, y, 1)[0])


def by_field(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Returns the cases by what they vary."""
    return {name: [point for point in points if point.varied == name] for name in _WORDS}


def values(base: Pass, points: Sequence[Point]) -> dict[str, Any]:
    """Returns the figures as JSON-ready values."""
    grown = {name: {what: exponent(some, what) for what in ("times", "memory")} for name, some in by_field(points).items()}
    return {"base": dataclasses.asdict(base), "points": [dataclasses.asdict(point) for point in points], "exponents": grown}


def table(base: Pass, points: Sequence[Point], where: str) -> str:
    """Returns the figures as text."""
    told = [f"how the counting pass grows ({where}):", f"  base case: {_words(base)}", ""]
    told.append(f"  {'varied':<24} {'value':>9} {'seconds':>9} {'times':>7} {'memory':>10} {'times':>7} {'planned':>10}")
    for name, some in by_field(points).items():
        for point in some:
            memory = f"{plan.human(point.compiled, 'B'):>10} {point.memory:>7.2f} {plan.human(point.planned, 'B'):>10}"
            told.append(f"  {_WORDS[name]:<24} {point.value:>9,} {point.seconds:>9.3f} {point.times:>7.2f} {memory}")
        slopes = [(what, exponent(some, field)) for what, field in (("time", "times"), ("memory", "memory"))]
        told += [f"    {', '.join(f'{what} ~ {name}^{slope:.2f}' for what, slope in slopes if slope is not None)}"] if len(some) > 1 else []
    told.append("times: over the base case's, which takes turns with each case, itself too: how far that is from 1 is the noise")
    told.append("seconds: of the pass; compilation and placing are left out")
    told.append("memory: bytes that the compiled step holds on one device, by XLA's account (arguments, results, temporaries); planned: by the layout")
    if jax.default_backend() == "cpu" and base.devices > 1:
        told.append("devices share this CPU's cores: what more of them cost or save is overhead, not scaling")
    return "\n".join(told)


def picture(base: Pass, points: Sequence[Point]) -> bytes:
    """Returns a PNG with one panel per thing varied."""
    panels = []
    for name, some in by_field(points).items():
        times, memory = tuple((point.value, point.times) for point in some), tuple((point.value, point.memory) for point in some)
        panels.append(growth.Panel(_WORDS[name], getattr(base, name), times, memory, inverse=name == "devices"))
    return growth.png(panels, f"base case: {_words(base)}")


def _words(base: Pass) -> str:
    lists = f"top-{base.k} lists" if base.k else "no lists"
    return f"{base.queries:,} queries, {base.candidates:,} candidates, D = {base.dim}, {base.strata} strata, {lists}, {base.devices} device{'s' * (base.devices > 1)}"


def _placed(asked: Pass) -> probe.Placed:
    data = probe.records(asked.candidates, asked.dim, asked.queries)
    codes = {f"{LABEL_MATCHED} {number}": np.roll(data.codes[LABEL_MATCHED], number) for number in range(asked.strata - 1)}
    wanted = sides.Wanted(codes=asked.strata - 1, near=False, studies=False, k=asked.k)
    return probe.placed(dataclasses.replace(data, codes=codes), meshes.make_mesh(asked.devices), wanted)
