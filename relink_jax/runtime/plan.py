"""What a stage will cost before it runs: FLOPs by formula, memory, disk and privacy budget, and whether what it needs is there.

Formulas: the counting pass is one product of Q x D by D x U, 2*Q*U*D FLOPs, computed once for both directions. What it holds on a device
and what a tower costs for one row are the caller's to say.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from relink_jax import errors

FLOAT = 4
DEVICE, HOST, DISK = "device memory", "host memory", "disk"


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a plan: what it is, how much, and the formula or source."""

    what: str
    value: str
    why: str


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes that a stage needs of something that may not have them.

    Attributes:
        what: one of `DEVICE`, `HOST` and `DISK`. available: 0 where nobody tells, which fits.
        change: what to change where it does not fit. why: what the bytes are.
    """

    what: str
    needed: int
    available: int
    change: str
    why: str

    @property
    def fits(self) -> bool:
        """Whether it is there, as far as that is told."""
        return not self.available or self.needed <= self.available

    def line(self) -> Line:
        """Returns the line of the plan."""
        there = human(self.available, "B") if self.available else "an unknown amount"
        return Line(f"needs {self.what}", f"{human(self.needed, 'B')} of {there}", self.why if self.fits else f"DOES NOT FIT: {self.change}; {self.why}")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of one stage: its lines, and what it needs."""

    lines: Sequence[Line]
    needs: Sequence[Need] = ()

    def table(self) -> str:
        """Returns it as aligned text."""
        return table([*self.lines, *(need.line() for need in self.needs)])


def check(plans: Mapping[str, Plan]) -> None:
    """Raises an error for the first need of the plans, by stage, that is not there, disk last.

    Raises: UsageError: memory, which other settings or devices change. StoreError: disk.
    """
    missing = [(stage, need) for stage, one in plans.items() for need in one.needs if not need.fits]
    for stage, need in sorted(missing, key=lambda pair: pair[1].what == DISK):
        others = f", and {len(missing) - 1} more that do not fit" if len(missing) > 1 else ""
        found = f"{human(need.needed, 'B')} needed{others}; change {need.change}"
        sentence = errors.describe(f"too little {need.what}", f"plan of {stage}", f"at most {human(need.available, 'B')}", found)
        raise (errors.StoreError if need.what == DISK else errors.UsageError)(sentence)


@dataclasses.dataclass(frozen=True)
class Encoding:
    """One tower's work: rows, its parameters, FLOP of one row, shape of one row's features and bytes of each of their numbers."""

    rows: int
    parameters: int
    flop: int
    features: tuple[int, ...]
    itemsize: int = FLOAT

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's features."""
        return math.prod(self.features) * self.itemsize


@dataclasses.dataclass(frozen=True)
class Counting:
    """How a counting pass lies on the devices.

    Attributes:
        query_block: images per step over all devices; tile: studies per tile; panel: studies on the devices at a time, 0 for all.
        split: what the devices share. devices: their number.
        candidates, batch, scores: bytes of one device by formula. compiled: of the compiled step with what is in flight, 0 where nobody tells.
    """

    query_block: int
    tile: int
    panel: int
    split: str
    devices: int
    candidates: int
    batch: int
    scores: int
    compiled: int = 0

    @property
    def formula(self) -> int:
        """Bytes of one device by formula."""
        return self.candidates + self.batch + self.scores

    @property
    def bytes(self) -> int:
        """Bytes of one device: of the compiled program where it tells."""
        return self.compiled or self.formula


def audit_plan(n_queries: int, n_studies: int, dim: int, placed: Counting) -> list[Line]:
    """Returns the plan of one counting pass.

    Args:
        n_queries: images Q; n_studies: candidate studies S (an upper bound of unique texts U); dim: embedding width D.
    """
    panels = 1 if not placed.panel else -(-n_studies // placed.panel)
    held = "all candidates" if panels == 1 else f"{panels} panels of {placed.panel:,} candidates, two at a time"
    steps = -(-n_queries // placed.query_block) * -(-n_studies // placed.tile)
    compiled = [Line("memory per device", human(placed.compiled, "B"), "of the compiled step, with three batches in flight")] if placed.compiled else []
    return [
        Line("queries x candidates", f"{n_queries:,} x {n_studies:,}, D = {dim}", "images x studies of the evaluated split"),
        Line(
            "arithmetic",
            f"{human(pass_flop(n_queries, n_studies, dim), 'FLOP', 1000)}",
            "2 Q S D, once for both directions; the image lists of reports, unless audit.top_k is 0, take it again",
        ),
        Line("tiles", f"{steps:,}", f"steps of {placed.query_block:,} queries by {placed.tile:,} studies"),
        Line("devices", f"{placed.devices}, sharing {placed.split}", "audit.split decides otherwise; no number depends on it"),
        *compiled,
        Line("memory by formula" if compiled else "memory per device", human(placed.formula, "B"), "the three lines below"),
        Line("  candidates", human(placed.candidates, "B"), f"vectors, keys and counts of {held}{_shared(placed)}"),
        Line("  batches", human(placed.batch, "B"), "three in flight, with what was found for them"),
        Line("  scores", human(placed.scores, "B"), "two tiles of them; scores are never kept"),
    ]


def pass_flop(n_queries: int, n_candidates: int, dim: int) -> int:
    """Returns the arithmetic of one product of all queries and candidates."""
    return 2 * n_queries * n_candidates * dim


def _shared(placed: Counting) -> str:
    return f", over {placed.devices} devices" if placed.split != "images" and placed.devices > 1 else ""


def embed_plan(images: Encoding, texts: Encoding, image_size: int, tokens: int, weight_bytes: int) -> list[Line]:
    """Returns the plan of encoding a cohort with one model.

    Args:
        image_size: side of the tower's images, in pixels; tokens: length of a text, padding included; weight_bytes: bytes of one parameter.
    """
    lines = [Line("rows", f"{images.rows:,} images, {texts.rows:,} texts", "texts at most: equal ones are encoded once")]
    for what, one, why in (("image", images, f"{image_size} x {image_size} pixels"), ("text", texts, f"all {tokens} tokens; a short text may cost less")):
        lines.append(Line(f"{what} tower", f"{one.parameters:,} parameters, {human(one.flop, 'FLOP', 1000)} per {what}", why))
    sides = (images, texts)
    lines.append(Line("arithmetic", human(sum(one.rows * one.flop for one in sides), "FLOP", 1000), "2 FLOP per multiply-add of products and convolutions"))
    lines.append(Line("weights in memory", human(weight_bytes * sum(one.parameters for one in sides), "B"), f"{weight_bytes} bytes each, on every device"))
    for what, one in (("image", images), ("text", texts)):
        shape = " x ".join(map(str, one.features))
        lines.append(Line(f"features per {what}", f"{one.row_bytes:,} B", f"float{8 * one.itemsize}, {shape}{', a map' if len(one.features) > 1 else ''}"))
    lines.append(Line("features on disk", human(sum(one.rows * one.row_bytes for one in sides), "B"), "all images and texts, kept for heads, audit and probe"))
    return [*lines, Line("pixels decoded", human(images.rows * image_size**2, "B"), "one byte per pixel after preprocessing, never stored")]


def table(lines: Sequence[Line]) -> str:
    """Returns the plan as aligned text."""
    wide = max(len(line.what) for line in lines)
    value = max(len(line.value) for line in lines)
    return "\n".join(f"  {line.what:<{wide}}  {line.value:<{value}}  {line.why}" for line in lines)


def duration(seconds: float) -> str:
    """Returns seconds as text. Example: >>> duration(600)  ->  '10 min'"""
    return f"{seconds:.2g} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def human(number: float, unit: str, base: int = 1024) -> str:
    """Returns a number with a binary (or decimal) prefix. Example: >>> human(3 * 1024**2, 'B')  ->  '3.0 MiB'"""
    prefixes = ("", "Ki", "Mi", "Gi", "Ti", "Pi") if base == 1024 else ("", "k", "M", "G", "T", "P")
    power = 0
    while number >= base and power < len(prefixes) - 1:
        number, power = number / base, power + 1
    return f"{number:.1f} {prefixes[power]}{unit}" if power else f"{number:.0f} {unit}"
