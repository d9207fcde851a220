"""Every metric of a results file, with chance beside it, from the per-query table.

For each direction, stratum, pool size N (and the full pool) and k: Recall@k expected under random tie-breaking with its
optimistic and pessimistic bounds, MRR, mean rank, and the pool-free within-query AUC.

Strata: `other_patient`; `label_matched` on the queries that have at least N - 1 label-matched negatives; `other_patient@label_matched`, the
random pool on those same queries, which is what a matched figure must be compared with; and both for every further stratum that was counted, of
which Recall@1 and the AUC of image queries are told. `full` is each query's whole pool of its stratum, M + 1 candidates; N is then the largest of them and chance the mean.
"""

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.audit import monte_carlo, queries, uncertainty
from relink_jax.retrieval import expectation
from relink_jax.retrieval.counted import I2R, LABEL_MATCHED, OTHER_PATIENT, StratumCounts

_SAME_QUERIES = f"{OTHER_PATIENT}@"
PAIRED = f"{_SAME_QUERIES}{LABEL_MATCHED}"
FEW_HITS = 10
FEWEST_PATIENTS = 10  # a group of fewer is not shown


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric of one direction, stratum and pool, per eligible query.

    Attributes:
        name: 'recall', 'mrr', 'mean_rank' or 'auc_within_query'. k, N: None where they do not apply.
        eligible: query numbers of its direction, int64 [n].
        bounds: expected, optimistic and pessimistic values [n]. chance: value of a random ranking [n].
    """

    name: str
    k: int | None
    N: int | None
    full: bool
    direction: str
    stratum: str
    eligible: np.ndarray
    bounds: expectation.Bounds
    chance: np.ndarray

    @property
    def mean_chance(self) -> float:
        """Mean chance over queries; exactly k/N (or H_N/N, (N+1)/2, 1/2) where all pools have one size."""
        return float(self.chance.mean() if self.full else self.chance[0])


def per_query(queries_of: queries.Queries, direction: str, stratum: str, pool_sizes: Sequence[int | None], ks: Sequence[int]) -> list[Metric]:
    """Returns the metrics of one direction and stratum; pool sizes (None: full) without an eligible query, and k > N, are left out."""
    selecting, counted = (queries_of.strata[name] for name in sources(stratum))
    out = []
    for size in pool_sizes:
        eligible = np.flatnonzero((size or 2) <= selecting.M + 1)
        if not len(eligible):
            continue
        chosen = StratumCounts(counted.M[eligible], counted.g[eligible], counted.t[eligible])
        triple = chosen.M, chosen.g, chosen.t
        sizes = chosen.M + 1 if size is None else np.full(len(eligible), size)
        largest, fitting = int(sizes.max()), [k for k in ks if k <= sizes.max()]
        found = expectation.pool_metrics(*triple, size, fitting)
        rows: list[tuple[str, int | None, expectation.Bounds, np.ndarray]] = [("recall", k, found[f"recall@{k}"], np.minimum(k / sizes, 1.0)) for k in fitting]
        rows.append(("mrr", None, found["mrr"], expectation.chance_mrr(sizes)))
        rows.append(("mean_rank", None, expectation.mean_rank(*triple, size), (sizes + 1) / 2))
        out += [Metric(name, k, largest, size is None, direction, stratum, eligible, bounds, chance) for name, k, bounds, chance in rows]
    eligible = np.flatnonzero(selecting.M >= 1)
    if len(eligible):
        bounds = expectation.auc(*(array[eligible] for array in (counted.M, counted.g, counted.t)))
        out.append(Metric("auc_within_query", None, None, False, direction, stratum, eligible, bounds, np.full(len(eligible), 0.5)))
    return out


def paired_pool(stratum: str) -> str:
    """Returns the name of the random pool on the queries that a stratum selects."""
    return f"{_SAME_QUERIES}{stratum}"


def sources(stratum: str) -> tuple[str, str]:
    """Returns the counted strata that select the queries of `stratum` and that its pools are drawn from."""
    selecting = stratum.removeprefix(_SAME_QUERIES)
    return selecting, (OTHER_PATIENT if stratum != selecting else stratum)


def measured(table: queries.Queries) -> list[str]:
    """Returns the strata of a direction's metrics, in order: all other patients, then every other stratum with its paired random pool."""
    further = [name for name in table.strata if name != OTHER_PATIENT]
    return [OTHER_PATIENT, *(name for stratum in further for name in (stratum, paired_pool(stratum)))]


def recall(queries_of: queries.Queries, direction: str, stratum: str, pool_size: int | None, k: int) -> float:
    """Returns mean expected Recall@k in random pools of `pool_size` (None: each query's full pool), exactly, from the counts.

    Raises: DataError: an unknown stratum, k or N not whole, N outside 2 to the largest pool of the stratum, or k outside 1 to N.
    """
    strata = measured(queries_of)
    if stratum not in strata:
        expected = f"one of {', '.join(strata)}"
        raise errors.DataError(errors.describe("stratum", f"recall of {direction}", expected, repr(stratum)) + errors.suggest(str(stratum), strata))
    where = f"recall of {direction} {stratum}"
    selecting, drawn = sources(stratum)
    asked = queries_of.strata[selecting].M
    largest = int(asked.max(initial=0)) + 1
    if largest < 2:
        raise errors.DataError(errors.describe("no negatives", where, "a query with a candidate", "none"))
    if pool_size is not None and not (_whole(pool_size) and 2 <= pool_size <= largest):
        raise errors.DataError(errors.describe("pool size", where, f"a whole number from 2 to {largest}, the largest pool", repr(pool_size)))
    full = int(queries_of.strata[drawn].M[asked > 0].max()) + 1
    if not (_whole(k) and 1 <= k <= (pool_size or full)):
        raise errors.DataError(errors.describe("k", where, f"a whole number from 1 to {pool_size or full}, the pool size", repr(k)))
    found = next(metric for metric in per_query(queries_of, direction, stratum, [pool_size], [k]) if metric.name == "recall")
    return float(found.bounds.expected.mean())


def _whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_sizes(largest: int, pool_sizes: Sequence[int], ks: Sequence[int]) -> None:
    """Refuses k or N that no query allows; `largest`: candidates, truth included, of the query that has most.

    Raises: DataError: no negatives, no pool size that fits, or a k above the largest pool.
    """
    if largest < 2:
        raise errors.DataError(errors.describe("no negatives", "other-patient candidates", "at least one", "none"))
    where = f"at most {largest}, the largest pool of these data"
    if min(pool_sizes) > largest:
        raise errors.DataError(errors.describe("pool size", "argument 'pool_sizes'", where, str(min(pool_sizes))))
    if max(ks) > largest:
        raise errors.DataError(errors.describe("k", "argument 'ks'", where, str(max(ks))))


def compute(tables: Mapping[str, queries.Queries], protocol: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns (metrics entries, warnings) of a per-query table under `protocol` (ks, pool_sizes, bootstrap, mc_repeats)."""
    ks, sizes = protocol["ks"], [*protocol["pool_sizes"], None]
    names, patient_of = queries.patients(tables)
    metrics = [metric for direction, table in tables.items() for stratum in measured(table) for metric in _told(table, direction, stratum, sizes, ks)]
    entries = entries_of(metrics, tables, protocol, patient_of, len(names))
    return entries, _warnings(tables, entries, protocol)


def by_exposure(tables: Mapping[str, queries.Queries], protocol: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns entries of Recall@k of image queries for each group of `Queries.exposure`, with the group as 'exposure'; the candidates are everybody.

    Nothing where no exposure is recorded or all queries share one, and nothing for groups of fewer than `FEWEST_PATIENTS` patients.
    """
    table = tables.get(I2R)
    if table is None or table.exposure is None or len(set(table.exposure.tolist())) < 2:
        return []
    names, patient_of = queries.patients(tables)
    every = per_query(table, I2R, OTHER_PATIENT, [*protocol["pool_sizes"], None], protocol["ks"])
    groups: list[str] = []
    metrics: list[Metric] = []
    for group in sorted(set(table.exposure.tolist())):
        inside = table.exposure == group
        if len(np.unique(patient_of[I2R][inside])) < FEWEST_PATIENTS:
            continue
        chosen = [only(metric, inside[metric.eligible]) for metric in every if metric.name == "recall" and inside[metric.eligible].any()]
        metrics, groups = metrics + chosen, groups + [group] * len(chosen)
    if not metrics:
        return []
    entries = entries_of(metrics, tables, {**protocol, "mc_repeats": 0}, patient_of, len(names))
    return [{"exposure": group, **entry} for group, entry in zip(groups, entries, strict=True)]


def _told(table: queries.Queries, direction: str, stratum: str, sizes: Sequence[int | None], ks: Sequence[int]) -> list[Metric]:
    """Returns what results tell of a stratum: everything, or of further strata Recall@1 and the AUC of image queries."""
    if sources(stratum)[0] in (OTHER_PATIENT, LABEL_MATCHED):
        return per_query(table, direction, stratum, sizes, ks)
    return [one for one in per_query(table, direction, stratum, sizes, [1]) if one.name in ("recall", "auc_within_query")] if direction == I2R else []


def only(metric: Metric, rows: np.ndarray) -> Metric:
    """Returns a metric on those of its eligible queries that `rows` (bool, one each) names."""
    bounds = expectation.Bounds(metric.bounds.expected[rows], metric.bounds.optimistic[rows], metric.bounds.pessimistic[rows])
    return dataclasses.replace(metric, eligible=metric.eligible[rows], bounds=bounds, chance=metric.chance[rows])


def entries_of(
    metrics: Sequence[Metric], tables: Mapping[str, queries.Queries], protocol: Mapping[str, Any], patient_of: Mapping[str, np.ndarray], n_patients: int
) -> list[dict[str, Any]]:
    """Returns an entry of the results schema for each metric, with its patient-clustered interval."""
    settings = uncertainty.Bootstrap(**protocol["bootstrap"])
    values = _sums(metrics, patient_of, n_patients, lambda metric: metric.bounds.expected)
    counts = _sums(metrics, patient_of, n_patients, lambda metric: np.ones(len(metric.eligible)))
    chances = _sums(metrics, patient_of, n_patients, lambda metric: metric.chance)
    plain = uncertainty.intervals(values, counts, settings)
    varying = [column for column, metric in enumerate(metrics) if metric.full]
    lifted = uncertainty.intervals(values[:, varying], chances[:, varying], settings)
    lifts = {column: (float(lifted.low[place]), float(lifted.high[place])) for place, column in enumerate(varying)}
    entries = []
    for column, metric in enumerate(metrics):
        entry = _entry(metric, len(tables[metric.direction].query_key), counts[:, column])
        entry["ci"] = _interval(metric, plain, column, lifts.get(column), (values[:, column], counts[:, column]), settings)
        entry["mc_check"] = _sampled(metric, tables, protocol["mc_repeats"], settings.seed)
        entries.append(entry)
    return entries


def _sums(metrics: Sequence[Metric], patient_of: Mapping[str, np.ndarray], n_patients: int, of: Any) -> np.ndarray:
    """Returns per-patient sums [P, metrics] of a per-query quantity."""
    return np.stack([uncertainty.patient_sums(patient_of[metric.direction][metric.eligible], of(metric), n_patients) for metric in metrics], axis=1)


def _entry(metric: Metric, n_queries: int, counts: np.ndarray) -> dict[str, Any]:
    value, chance = float(metric.bounds.expected.mean()), metric.mean_chance
    lift = value / chance if metric.name in ("recall", "mrr") else None
    return {
        "name": metric.name,
        "k": metric.k,
        "N": metric.N,
        "full": metric.full,
        "direction": metric.direction,
        "stratum": metric.stratum,
        "value": value,
        "chance": chance,
        "lift": lift,
        "log2_lift": float(np.log2(lift)) if lift else None,
        "optimistic": float(metric.bounds.optimistic.mean()),
        "pessimistic": float(metric.bounds.pessimistic.mean()),
        "n_queries": len(metric.eligible),
        "n_eligible_share": len(metric.eligible) / n_queries,
        "n_patients": int((counts > 0).sum()),
    }


def _interval(
    metric: Metric,
    plain: uncertainty.Interval,
    column: int,
    lift: tuple[float, float] | None,
    sums: tuple[np.ndarray, np.ndarray],
    settings: uncertainty.Bootstrap,
) -> dict[str, Any]:
    """Returns the `ci` of one entry; `sums`: per-patient sums and numbers of queries [P] each."""
    low, high, se = (float(array[column]) for array in (plain.low, plain.high, plain.se))
    method, value, chance = "patient_bca", metric.bounds.expected, metric.mean_chance
    lift_low, lift_high = lift or (low / chance, high / chance)
    certain = metric.name == "recall" and chance >= 1
    bound = None if certain or metric.name == "mean_rank" else uncertainty.no_spread(*sums, settings.level)
    if bound is not None:
        low, high = bound
        lift_low, lift_high, method = low / chance, high / chance, "exact_extreme"
    iid = float(value.std(ddof=1)) / np.sqrt(len(value)) if len(value) > 1 else 0.0
    ranked = metric.name in ("recall", "mrr")
    return {
        "method": method,
        "level": settings.level,
        "low": low,
        "high": high,
        "B": settings.replicates,
        "se": se,
        "design_effect": float(se / iid) ** 2 if iid > 1e-9 * max(1.0, abs(float(value.mean()))) else None,
        "lift_low": lift_low if ranked else None,
        "lift_high": lift_high if ranked else None,
    }


def _sampled(metric: Metric, tables: Mapping[str, queries.Queries], repeats: int, seed: int) -> dict[str, Any] | None:
    """Returns the Monte Carlo cross-check of a recall at a finite pool size, or None."""
    if not repeats or metric.name != "recall" or metric.full or metric.k is None or metric.N is None:
        return None
    counted = tables[metric.direction].strata[sources(metric.stratum)[1]]
    chosen = StratumCounts(*(array[metric.eligible] for array in (counted.M, counted.g, counted.t)))
    place = measured(tables[metric.direction]).index(metric.stratum)
    generator = np.random.default_rng([seed, metric.k, metric.N, place, int(metric.direction == "r2i")])
    sampled = monte_carlo.recall(chosen, metric.N, metric.k, repeats, generator)
    hits = repeats * float(np.minimum(metric.bounds.expected, 1 - metric.bounds.expected).sum())
    z = monte_carlo.z_score(sampled, metric.bounds.expected, repeats)
    normal = hits == 0 or hits >= FEW_HITS  # a standard error says nothing about a handful of expected hits
    return {"value": sampled, "repeats": repeats, "z": z if normal and np.isfinite(z) else None, "passed": bool(abs(z) <= 4) if normal else None}


def _warnings(tables: Mapping[str, queries.Queries], entries: Sequence[Mapping[str, Any]], protocol: Mapping[str, Any]) -> list[str]:
    found = []
    for direction, table in tables.items():
        told = {entry["stratum"] for entry in entries if entry["direction"] == direction}
        expected = [name for name in table.strata if direction == I2R or name in (OTHER_PATIENT, LABEL_MATCHED)]
        found += [f"{direction} {stratum}: absent, no query has a candidate in it" for stratum in expected if stratum not in told]
        for stratum in (name for name in measured(table) if name in told and sources(name)[0] in (OTHER_PATIENT, LABEL_MATCHED)):
            here = [entry for entry in entries if (entry["direction"], entry["stratum"], entry["name"]) == (direction, stratum, "recall")]
            largest = int(table.strata[sources(stratum)[1]].M.max()) + 1
            absent = [str(size) for size in protocol["pool_sizes"] if size > largest]
            if absent and stratum != PAIRED:
                found.append(f"{direction} {stratum}: pool sizes {', '.join(absent)} left out, no query has that many candidates")
            small = [str(size) for size in protocol["pool_sizes"] if size < min(protocol["ks"])]
            if small and stratum != PAIRED:
                found.append(f"{direction} {stratum}: no Recall at pool sizes {', '.join(small)}, smaller than every k")
            if any(entry["lift"] == 0 for entry in here):
                found.append(f"{direction} {stratum}: log2 lift is null where recall is 0")
    failed = sum(1 for entry in entries if entry["mc_check"] and entry["mc_check"]["passed"] is False)
    if failed:
        found.append(f"Monte Carlo cross-check: {failed} recalls are more than 4 standard errors from the closed form")
    return found
