"""What a stage will cost before it runs: FLOPs by formula, memory, disk and privacy budget.

Formulas: the counting pass is one product of Q x D by D x U, 2*Q*U*D FLOPs, computed once for both directions. What it holds on a device
and what a tower costs for one row are the caller's to say.
"""

import dataclasses
import math

FLOAT = 4


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a plan: what it is, how much, and the formula or source."""

    what: str
    value: str
    why: str


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
        candidates, batch, scores: bytes of one device.
    """

    query_block: int
    tile: int
    panel: int
    split: str
    devices: int
    candidates: int
    batch: int
    scores: int


def audit_plan(n_queries: int, n_studies: int, dim: int, placed: Counting, rate: float = 0.0, share: float = 1.0) -> list[Line]:
    """Returns the plan of one counting pass.

    Args:
        n_queries: images Q; n_studies: candidate studies S (an upper bound of unique texts U); dim: embedding width D.
        rate: FLOP per second of the bare product on these devices, measured; 0 leaves the time out. share: of it that a pass reaches.
    """
    flops = 2 * n_queries * n_studies * dim
    panels = 1 if not placed.panel else -(-n_studies // placed.panel)
    held = "all candidates" if panels == 1 else f"{panels} panels of {placed.panel:,} candidates, two at a time"
    steps = -(-n_queries // placed.query_block) * -(-n_studies // placed.tile)
    lines = [
        Line("queries x candidates", f"{n_queries:,} x {n_studies:,}, D = {dim}", "images x studies of the evaluated split"),
        Line(
            "arithmetic",
            f"{human(flops, 'FLOP', 1000)}",
            "2 Q S D, once for both directions; the image lists of reports, unless audit.top_k is 0, take it again",
        ),
        Line("tiles", f"{steps:,}", f"steps of {placed.query_block:,} queries by {placed.tile:,} studies"),
        Line("devices", f"{placed.devices}, sharing {placed.split}", "audit.split decides otherwise; no number depends on it"),
        Line("memory per device", human(placed.candidates + placed.batch + placed.scores, "B"), "the three lines below"),
        Line("  candidates", human(placed.candidates, "B"), f"vectors, keys and counts of {held}{_shared(placed)}"),
        Line("  batches", human(placed.batch, "B"), "three in flight, with what was found for them"),
        Line("  scores", human(placed.scores, "B"), "two tiles of them; scores are never kept"),
        Line("results on disk", human(n_queries * 2 * 2 * 24 + n_studies * 2 * 24, "B"), "per query, direction and stratum: M, g, t and keys"),
    ]
    if rate:
        lines.append(
            Line("roofline", f"{share:.2f} of {human(rate, 'FLOP/s', 1000)}", "share of the bare product's speed that a pass reaches here, timed just now")
        )
        lines.append(Line("time", _duration(flops / (rate * share)), "arithmetic at that speed"))
    return lines


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


def table(lines: list[Line]) -> str:
    """Returns the plan as aligned text."""
    wide = max(len(line.what) for line in lines)
    value = max(len(line.value) for line in lines)
    return "\n".join(f"  {line.what:<{wide}}  {line.value:<{value}}  {line.why}" for line in lines)


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def human(number: float, unit: str, base: int = 1024) -> str:
    """Returns a number with a binary (or decimal) prefix. Example: >>> human(3 * 1024**2, 'B')  ->  '3.0 MiB'"""
    prefixes = ("", "Ki", "Mi", "Gi", "Ti", "Pi") if base == 1024 else ("", "k", "M", "G", "T", "P")
    power = 0
    while number >= base and power < len(prefixes) - 1:
        number, power = number / base, power + 1
    return f"{number:.1f} {prefixes[power]}{unit}" if power else f"{number:.0f} {unit}"
