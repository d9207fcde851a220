"""What results tell of each attack: its Recall@1 with intervals, and what it gains over plain cosine on the same queries and draws."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax.audit import comparison, metrics, queries, uncertainty
from relink_jax.audit.per_image import COSINE, PerImage
from relink_jax.retrieval.counted import I2R, LABEL_MATCHED, OTHER_PATIENT

_FEWEST = 2  # patients whose queries an attack is judged on


def entries(
    tables: Mapping[str, queries.Queries], extra: PerImage, described: Sequence[Mapping[str, Any]], protocol: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Returns `described`, the attacks of a results file without figures (each with its 'label'), with their 'metrics' and 'gain'.

    Attacks are judged on image queries whose patients gave the attacker nothing (`PerImage.evaluated`); so is plain cosine here.
    """
    names, patient_of = queries.patients(tables)
    settings = uncertainty.Bootstrap(**protocol["bootstrap"])
    plain = _measured(tables[I2R], extra, COSINE, protocol)
    out = []
    for one in described:
        found = plain if one["label"] == COSINE else _measured(tables[I2R], extra, one["label"], protocol)
        shown = metrics.entries_of(found, tables, {**protocol, "mc_repeats": 0}, patient_of, len(names)) if found else []
        gains = (
            [] if one["label"] == COSINE else [_gain(pair, entry, patient_of, len(names), settings) for *pair, entry in zip(plain, found, shown, strict=False)]
        )
        out.append({**one, "metrics": shown, "gain": [gain for gain in gains if gain is not None]})
    return out


def hits(table: queries.Queries, extra: PerImage | None, label: str, pool_size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns (query numbers int64 [n], expected Recall@1 of each float64 [n]) of an attack in other-patient pools of one size.

    Without attacks every eligible query counts; with them those they are judged on, for plain cosine too.
    """
    seen = table if extra is None else extra.seen_by(label, table)
    found = [one for one in metrics.per_query(seen, I2R, OTHER_PATIENT, [pool_size], [1]) if one.name == "recall"]
    if not found:
        return np.zeros(0, np.int64), np.zeros(0)
    metric = found[0] if extra is None else metrics.only(found[0], extra.evaluated[found[0].eligible])
    return metric.eligible, metric.bounds.expected


def _measured(table: queries.Queries, extra: PerImage, label: str, protocol: Mapping[str, Any]) -> list[metrics.Metric]:
    """Returns Recall@1 of one attack in every pool size and stratum that it was counted in, on the queries it is judged on."""
    seen, found = extra.seen_by(label, table), []
    for stratum in (OTHER_PATIENT, LABEL_MATCHED):
        if stratum in seen.strata:
            every = metrics.per_query(seen, I2R, stratum, [*protocol["pool_sizes"], None], [1])
            found += [metrics.only(one, extra.evaluated[one.eligible]) for one in every if one.name == "recall" and extra.evaluated[one.eligible].any()]
    return found


def _gain(
    pair: Sequence[metrics.Metric], entry: Mapping[str, Any], patient_of: Mapping[str, np.ndarray], n_patients: int, settings: uncertainty.Bootstrap
) -> dict[str, Any] | None:
    """Returns what an attack changes against cosine in one pool, on the queries that both ask, in the forms of a paired comparison.

    Bits removed are negative where it gains.
    """
    before, after = (metrics.only(one, np.isin(one.eligible, other.eligible)) for one, other in (pair, pair[::-1]))
    if (before.stratum, before.N, before.full) != (after.stratum, after.N, after.full) or len(np.unique(patient_of[I2R][before.eligible])) < _FEWEST:
        return None
    return comparison.told(entry, comparison.changed(before, after, patient_of[I2R], n_patients, settings))
