"""`relink bench faults`: every fault of the registry, tried on a small real run, as the Markdown table of RELIABILITY.md."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from relink_jax.runtime import mesh as meshes
from relink_jax.stages import faults

TRIES = 3  # random tries of a fault that has any


def measure(only: Sequence[str], tries: int, seed: int) -> list[faults.Tally]:
    """Tries the faults `only` (by name or family; none for all) `tries` times each, on the CPU; the same seed draws the same injuries.

    Raises: UsageError, UnsoundError: see `faults.tried`.
    """
    faults.chosen(only)
    on_cpu()
    return list(faults.tried(only, seed, tries))


def on_cpu() -> None:
    """Keeps this process off accelerators, which it would hold while its children need them, unless devices were counted already."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_platforms", "cpu")
    meshes.share_cpu()


def table(found: Sequence[faults.Tally], where: str) -> str:
    """Returns a Markdown table, a row for each fault, then what was lost and what could not be tried."""
    lines = ["| fault | what is done | what is promised | tried | survived | lost |", "| --- | --- | --- | ---: | ---: | ---: |"]
    lines += [f"| `{one.name}` | {one.injury} | {one.expected} | {one.tried} | {one.tried - one.lost} | {one.lost} |" for one in found]
    lines += ["", f"{sum(one.tried for one in found)} tried, {sum(one.lost for one in found)} lost; {where}"]
    lines += [f"not tried, {one.name}: {one.skipped}" for one in found if one.skipped]
    lines += [f"lost, {one.name}: {loss}" for one in found for loss in one.losses]
    return "\n".join(lines)


def values(found: Sequence[faults.Tally], where: str) -> dict[str, Any]:
    """Returns the same as JSON-ready values."""
    return {"where": where, "faults": [{**dataclasses.asdict(one), "lost": one.lost} for one in found]}
