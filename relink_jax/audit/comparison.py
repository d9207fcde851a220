"""Paired comparison of two audits of the same queries, such as a model before and after mitigation.

Both arms share every bootstrap draw of patients, so what they have in common cancels. Three forms are reported, because a
share of recall removed says little without what chance alone would leave: the reduction in recall, the reduction in its
excess over chance, and bits removed.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from relink_jax import errors
from relink_jax.audit import metrics, queries, uncertainty
from relink_jax.audit.per_image import COSINE, PerImage
from relink_jax.retrieval.counted import OTHER_PATIENT


class Audited(Protocol):
    """What a comparison needs of an audit: an `AuditResult`, or the same read back from files."""

    @property
    def queries(self) -> dict[str, queries.Queries]:
        """Per-query table of each direction."""

    @property
    def per_image(self) -> PerImage | None:
        """What is known of image queries beyond counts; None where nothing more was measured."""

    @property
    def selected(self) -> str:
        """Label of the best attack, as calibration patients chose it; 'cosine' where no other was tried."""

    @property
    def protocol(self) -> dict[str, Any]:
        """How it was measured; the bootstrap settings are read from it."""


BEST = "best"  # stands for whichever attack calibration patients chose in each arm
FORMS = ("difference", "ratio", "reduction", "excess_reduction", "bits_removed")


def paired(
    before: Audited,
    after: Audited,
    name: str = "recall",
    *,
    k: int | None = 1,
    pool_size: int | None = None,
    direction: str = "i2r",
    stratum: str = OTHER_PATIENT,
    attack: str = COSINE,
) -> dict[str, Any]:
    """Returns one metric in both arms and how it changed, each form with its patient-clustered BCa interval.

    Args: name: 'recall', 'mrr' or 'auc_within_query' (k None for the last two). pool_size: None for the full pool. attack: label of the attack in
        both arms, or `BEST`, the one that calibration patients chose in each; image queries only, those on which attacks are judged.
    Returns: {'before', 'after', 'chance', 'n_queries', 'n_patients', 'level', 'B', and per form {'value', 'low', 'high'}}:
        difference a-b; ratio a/b; reduction 1-a/b; excess_reduction (b-a)/(b-chance); bits_removed log2(b/a). Null where undefined or unbounded.
    Raises: DataError: the arms hold different queries or patients, or the metric was not measured in both.
    """
    tables = before.queries.get(direction), after.queries.get(direction)
    if (
        tables[0] is None
        or tables[1] is None
        or not all(np.array_equal(getattr(tables[0], field), getattr(tables[1], field)) for field in ("query_key", "patient_key"))
    ):
        raise errors.DataError(errors.describe("arms differ", "paired comparison", "the same queries of the same patients in both", "others"))
    found = [_find(arm, attack, name, k, pool_size, direction, stratum) for arm in (before, after)]
    if not np.array_equal(found[0].eligible, found[1].eligible) or not np.array_equal(found[0].chance, found[1].chance):
        raise errors.DataError(errors.describe("arms differ", "paired comparison", "the same eligible queries among as many candidates in both", "others"))
    names, patient_of = queries.patients(before.queries)
    settings = uncertainty.Bootstrap(**before.protocol["bootstrap"])
    return changed(found[0], found[1], patient_of[direction], len(names), settings)


def changed(
    before: metrics.Metric, after: metrics.Metric, patient_of: np.ndarray, n_patients: int, settings: uncertainty.Bootstrap
) -> dict[str, Any]:  # fmt: skip
    """Returns what `paired` does of one metric measured twice on the same eligible queries; `patient_of`: patient number of every query of the direction."""
    patient = patient_of[before.eligible]
    columns = [before.bounds.expected, after.bounds.expected, before.chance]
    sums = np.stack([uncertainty.patient_sums(patient, column, n_patients) for column in columns], axis=1)
    counts = uncertainty.patient_sums(patient, np.ones(len(patient)), n_patients)
    estimate, low, high = _intervals(sums, counts, settings, ranked=before.name in ("recall", "mrr"))
    held = counts > 0
    means = [float(column.mean()) for column in columns]
    shown = {
        "before": means[0],
        "after": means[1],
        "chance": means[2],
        "n_queries": len(patient),
        "n_patients": int(held.sum()),
        "level": settings.level,
        "B": settings.replicates,
    }
    return shown | {form: {"value": _plain(estimate[i]), "low": _plain(low[i]), "high": _plain(high[i])} for i, form in enumerate(FORMS)}


def entry(against: str, before: Audited, after: Audited, metric: Mapping[str, Any], attack: str = COSINE) -> dict[str, Any]:
    """Returns one `paired` entry of the results schema: how `metric` (an entry, or its name, k, N, full, direction, stratum) changed.

    Args: against: file stem of the results compared with. attack: see `paired`.
    """
    size = None if metric["full"] else metric["N"]
    where = {"direction": metric["direction"], "stratum": metric["stratum"], "attack": attack}
    found = paired(before, after, metric["name"], k=metric["k"], pool_size=size, **where)
    return {"against": against, "attack": attack, "before": found["before"], "after": found["after"], **told(metric, found)}


def told(metric: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what results tell of `found`, a return value of `changed`: which metric, its difference with the interval, and the other forms."""
    change = found["difference"]
    ci = {"method": "patient_bca", "level": found["level"], "low": change["low"], "high": change["high"], "B": found["B"]}
    others = {form: found[form] for form in ("ratio", "reduction", "excess_reduction", "bits_removed")}
    reference = {field: metric[field] for field in ("name", "k", "N", "full", "direction", "stratum")}
    return {"metric_ref": reference, "difference": change["value"], "ci": ci, **others}


def _find(arm: Audited, attack: str, name: str, k: int | None, pool_size: int | None, direction: str, stratum: str) -> metrics.Metric:
    table, judged = arm.queries[direction], None
    if attack != COSINE and arm.per_image is not None:
        table, judged = arm.per_image.seen_by(arm.selected if attack == BEST else attack, table), arm.per_image.evaluated
    for metric in metrics.per_query(table, direction, stratum, [pool_size], [k] if k else [1]):
        if metric.name == name and (metric.k == k or name != "recall"):
            return metric if judged is None else metrics.only(metric, judged[metric.eligible])
    raise errors.DataError(
        errors.describe("metric not measured", "paired comparison", "a metric, k and pool size that these data allow", f"{name} k={k} pool size {pool_size}")
    )


def _intervals(sums: np.ndarray, counts: np.ndarray, settings: uncertainty.Bootstrap, ranked: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (estimates, low, high) of the five forms, NaN where undefined, infinite where nothing bounds them.

    Reduction and bits are monotone in the ratio, so their intervals are the ratio's, mapped. Where the arm after links nothing
    at all (`ranked`), its replicates cannot vary: each arm then gets its own bound at level (1 + level) / 2, and what
    both bounds allow together holds at `level` (Bonferroni).

    Args: sums: per-patient sums of (before, after, chance) [P, 3]. counts: queries per patient [P].
    """
    each = np.repeat(counts[:, None], 3, axis=1)
    estimate = _forms(uncertainty.ratios(np.ones((1, len(counts))), sums, each))[0]
    halves = dataclasses.replace(settings, level=(1 + settings.level) / 2)
    bound = uncertainty.no_spread(sums[:, 1], counts, halves.level) if ranked else None
    if bound is not None and bound[0] == 0:
        before = uncertainty.intervals(sums[:, :1], counts[:, None], halves)
        most, least, reach = float(before.high[0]), float(before.low[0]), bound[1]
        low, high = np.full(5, np.nan), np.full(5, np.nan)
        low[:2], high[:2] = (-most, 0.0), (reach - least, reach / least if least > 0 else np.inf)
    else:
        held = counts > 0
        drawn = _forms(uncertainty.replicate(sums, each, settings))
        jackknife = _forms((sums.sum(axis=0) - sums[held]) / np.maximum(counts.sum() - counts[held], 1)[:, None])
        low, high = uncertainty.bca(estimate, drawn, np.where(np.isfinite(jackknife), jackknife, estimate), settings.level)
    with np.errstate(divide="ignore", invalid="ignore"):
        low[[2, 4]], high[[2, 4]] = (1 - high[1], -np.log2(high[1])), (1 - low[1], -np.log2(low[1]))
    undefined = np.isnan(estimate) & (np.arange(5) != 4)  # bits of an arm that links nothing are infinite, and bounded below
    return estimate, np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def _forms(values: np.ndarray) -> np.ndarray:
    """Returns the five forms [n, 5] of rows (before, after, chance); NaN where undefined."""
    before, after, chance = values.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(before > 0, after / before, np.nan)
        excess = np.where(before > (1 + 1e-9) * chance, (before - after) / (before - chance), np.nan)
        bits = np.where((before > 0) & (after > 0), -np.log2(ratio), np.nan)
    return np.stack([after - before, ratio, 1 - ratio, excess, bits], axis=1)


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
