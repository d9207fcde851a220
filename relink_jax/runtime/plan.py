"""What a stage will cost before it runs: FLOPs by formula, memory, disk and privacy budget.

Formulas: encoding one row costs about 2 FLOPs per parameter and token; the counting pass is one product of Q x D by
D x U, 2*Q*U*D FLOPs, computed once for both directions; its memory is the inputs plus one score tile per device.
"""

import dataclasses

FLOAT = 4


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a plan: what it is, how much, and the formula or source."""

    what: str
    value: str
    why: str


def audit_plan(n_queries: int, n_studies: int, dim: int, query_block: int, tile: int, n_devices: int) -> list[Line]:
    """Returns the plan of one counting pass.

    Args:
        n_queries: images Q; n_studies: candidate studies S (an upper bound of unique texts U); dim: embedding width D.
        query_block: queries per block; tile: candidates per tile; n_devices: devices that share the queries.
    """
    flops = 2 * n_queries * n_studies * dim
    inputs = FLOAT * dim * (n_queries / n_devices + n_studies)
    block = FLOAT * query_block * tile * 3 / n_devices
    blocks = -(-n_queries // query_block) * -(-n_studies // tile)
    return [
        Line("queries x candidates", f"{n_queries:,} x {n_studies:,}, D = {dim}", "images x studies of the evaluated split"),
        Line("arithmetic", f"{human(flops, 'FLOP', 1000)}", "2 Q S D, once for both directions"),
        Line("tiles", f"{blocks:,}", f"blocks of {query_block:,} queries by {tile:,} texts"),
        Line("memory per device", human(inputs + block, "B"), "queries / devices + all candidates + one tile of scores and masks"),
        Line("results on disk", human(n_queries * 2 * 2 * 24 + n_studies * 2 * 24, "B"), "per query, direction and stratum: M, g, t and keys"),
    ]


def embed_plan(n_images: int, n_texts: int, image_size: int, feature_dim: int, parameters: int, tokens: int) -> list[Line]:
    """Returns the plan of encoding a cohort with one model of `parameters` weights per tower and `tokens` tokens per row."""
    flops = 2 * parameters * tokens * (n_images + n_texts)
    return [
        Line("rows", f"{n_images:,} images, {n_texts:,} texts", "unique texts are encoded once"),
        Line("arithmetic", human(flops, "FLOP", 1000), "about 2 FLOP per weight and token"),
        Line("features on disk", human(FLOAT * (n_images + n_texts) * feature_dim, "B"), f"float32 [{feature_dim}] per row"),
        Line("pixels decoded", human(n_images * image_size * image_size, "B"), "one byte per pixel, never stored"),
    ]


def table(lines: list[Line]) -> str:
    """Returns the plan as aligned text."""
    wide = max(len(line.what) for line in lines)
    value = max(len(line.value) for line in lines)
    return "\n".join(f"  {line.what:<{wide}}  {line.value:<{value}}  {line.why}" for line in lines)


def human(number: float, unit: str, base: int = 1024) -> str:
    """Returns a number with a binary (or decimal) prefix. Example: >>> human(3 * 1024**2, 'B')  ->  '3.0 MiB'"""
    prefixes = ("", "Ki", "Mi", "Gi", "Ti", "Pi") if base == 1024 else ("", "k", "M", "G", "T", "P")
    power = 0
    while number >= base and power < len(prefixes) - 1:
        number, power = number / base, power + 1
    return f"{number:.1f} {prefixes[power]}{unit}" if power else f"{number:.0f} {unit}"
