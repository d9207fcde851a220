"""Intervals for queries and candidates that are both new, beside those that hold the candidates fixed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax.audit import candidate_side, queries
from relink_jax.audit.per_image import PerImage
from relink_jax.retrieval.counted import I2R, OTHER_PATIENT


def with_intervals(
    entries: Sequence[dict[str, Any]], tables: Mapping[str, queries.Queries], extra: PerImage | None, level: float
) -> list[dict[str, Any]]:  # fmt: skip
    """Returns metrics entries, those of Recall@k of image queries among other patients with 'ci_two_sided', None where there is no such interval.

    Without counts by block of the candidates nothing is added.
    """
    if extra is None or not extra.blocks or extra.block is None:
        return list(entries)
    counted = tables[I2R].strata[OTHER_PATIENT]
    found: dict[tuple[int | None, int], dict[str, Any] | None] = {}
    asked = [one for one in entries if _asked(one)]
    for size in dict.fromkeys(None if one["full"] else one["N"] for one in asked):
        ks = [one["k"] for one in asked if (None if one["full"] else one["N"]) == size]
        rows = np.flatnonzero((size or 2) - 1 <= counted.M)
        M, g, t = (array[rows] for array in (counted.M, counted.g, counted.t))
        M_b, g_b, t_b = ([getattr(block, name)[rows] for block in extra.blocks] for name in ("M", "g", "t"))
        intervals = candidate_side.intervals(M, g, t, M_b, g_b, t_b, extra.block[rows], size, ks, level)
        found |= {(size, k): interval for k, interval in zip(ks, intervals, strict=True)}
    return [{**one, "ci_two_sided": found[None if one["full"] else one["N"], one["k"]]} if _asked(one) else one for one in entries]


def _asked(entry: Mapping[str, Any]) -> bool:
    return (entry["name"], entry["direction"], entry["stratum"]) == ("recall", I2R, OTHER_PATIENT)
