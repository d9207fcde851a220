"""How much of the linkage is left among hard negatives, and how much of it disease labels alone explain.

For each stratum and pool size, on the queries that have enough candidates in the stratum and on no others: Recall@1 in pools of the stratum
and in random pools, and the attacker who knows only the query's label code. In bits of lift, log2(recall / chance), the retained share is
matched over random, and what the model knows is what the labels tell and what is beyond them:
log2 lift(model) = log2 lift(label-only) + log2(model / label-only).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax.audit import uncertainty
from relink_jax.audit.sample import Sample
from relink_jax.retrieval import expectation
from relink_jax.retrieval.counted import LABEL_MATCHED, OTHER_PATIENT, StratumCounts

_FIELDS = ("matched", "random", "label_only", "macro_matched", "macro_random")
_MOST_UNDEFINED = 0.05  # share of replicates without a retained share that an interval may leave out


def section(
    counted: Mapping[str, StratumCounts], code: np.ndarray | None, sample: Sample, pool_sizes: Sequence[int | None], same_code: str = LABEL_MATCHED
) -> list[dict[str, Any]]:
    """Returns the 'matched' entries of results, for every stratum but `other_patient` and every pool size that some query is large enough for.

    Each has stratum, N, full, n_queries, eligible_share, matched and random (Recall@1) and their chances, retained_share, label_only, bits_labels,
    bits_beyond, and 'macro': the means over label codes of the means within a code, so that the commonest code does not speak for all.
    retained_share is null where the random lift is not above 1. Its interval, and those of macro, are null where more than 5% of the replicates
    are undefined, or none differs from another.

    Args:
        counted: counts of the image queries of `sample` by stratum, [Q] each.
        code: label code of each query's study, int [Q], -1 for none; None where nobody labelled.
        same_code: the stratum whose M counts the reports of the query's label code.
    """
    out = []
    for name in counted:
        if name != OTHER_PATIENT:
            out += _stratum(name, counted, code, sample, pool_sizes, counted.get(same_code))
    return out


def _stratum(
    name: str, counted: Mapping[str, StratumCounts], code: np.ndarray | None, sample: Sample, pool_sizes: Sequence[int | None], same: StratumCounts | None
) -> list[dict[str, Any]]:
    matched, random = counted[name], counted[OTHER_PATIENT]
    entries, above, below, chances = [], [], [], []
    for size in pool_sizes:
        rows = np.flatnonzero((size or 2) <= matched.M + 1)
        if not len(rows):
            continue
        values, weights = np.zeros((2, len(matched.M), len(_FIELDS)))
        columns = [_recall(matched, rows, size), _recall(random, rows, size), _label_only(random, same, code, rows, size)]
        values[rows, :3], weights[rows, :3] = np.stack(columns, axis=1), 1
        labelled = rows if code is None else rows[code[rows] >= 0]
        if code is not None and len(labelled):
            _, place, many = np.unique(code[labelled], return_inverse=True, return_counts=True)
            weights[labelled, 3:] = (1 / many[place])[:, None]
            values[labelled, 3:] = values[labelled, :2] / many[place][:, None]
        above.append(_by_patient(sample, values))
        below.append(_by_patient(sample, weights))
        sizes = [part.M[rows] + 1 if size is None else np.full(len(rows), size) for part in (matched, random)]
        chances.append([float((1 / one).mean()) if size is None else 1 / size for one in sizes])
        entries.append({"stratum": name, "N": int(sizes[0].max()), "full": size is None, "n_queries": len(rows), "eligible_share": len(rows) / len(matched.M)})
    if not entries:
        return []
    return [entry | one for entry, one in zip(entries, _measured(np.stack(above), np.stack(below), np.array(chances), sample.settings), strict=True)]


def _recall(counted: StratumCounts, rows: np.ndarray, size: int | None) -> np.ndarray:
    return expectation.pool_metrics(counted.M[rows], counted.g[rows], counted.t[rows], size, [1])["recall@1"].expected


def _label_only(random: StratumCounts, same: StratumCounts | None, code: np.ndarray | None, rows: np.ndarray, size: int | None) -> np.ndarray:
    """Returns Recall@1 of who knows the label code, in random pools; where a study has none he guesses."""
    M = random.M[rows]
    told = M if same is None or code is None else np.where(code[rows] >= 0, same.M[rows], M)
    return expectation.label_only(M, told, size, [1])["recall@1"]


def _by_patient(sample: Sample, columns: np.ndarray) -> np.ndarray:
    return np.stack([uncertainty.patient_sums(sample.patient, column, sample.n_patients) for column in columns.T], axis=1)


def _measured(above: np.ndarray, below: np.ndarray, chances: np.ndarray, settings: uncertainty.Bootstrap) -> list[dict[str, Any]]:
    """Returns what is measured at each pool size from sums of patients [n_sizes, P, fields]; all share one set of draws."""
    tops, bottoms = (np.concatenate(list(part), axis=1) for part in (above, below))
    shape = (len(above), len(_FIELDS))

    def means(weights: np.ndarray) -> np.ndarray:
        return uncertainty.ratios(weights, tops, bottoms).reshape(-1, *shape)

    estimate = _with_share(means(np.ones((1, tops.shape[0]))), chances)
    drawn = _with_share(uncertainty.replicate(tops, bottoms, settings).reshape(-1, *shape), chances)
    left = bottoms.sum(axis=0) - bottoms
    jackknife = np.divide(tops.sum(axis=0) - tops, left, out=np.full(left.shape, np.nan), where=left > 0)
    jackknife = _with_share(jackknife.reshape(-1, *shape), chances)
    flat = [part.reshape(len(part), -1) for part in (estimate, drawn, np.where(np.isfinite(jackknife), jackknife, estimate))]
    low, high = (part.reshape(estimate.shape[1:]) for part in uncertainty.bca(flat[0][0], flat[1], flat[2], settings.level))
    low, high = (np.where(_untold(drawn), np.nan, part) for part in (low, high))
    return [_entry(*parts) for parts in zip(estimate[0], low, high, chances, strict=True)]


def _untold(drawn: np.ndarray) -> np.ndarray:
    """Returns where replicates [B, ...] give no interval: too many are undefined, or none differs from another, which is no certainty."""
    defined = ~np.isnan(drawn)
    spread = np.max(drawn, axis=0, where=defined, initial=-np.inf) - np.min(drawn, axis=0, where=defined, initial=np.inf)
    return (defined.mean(axis=0) < 1 - _MOST_UNDEFINED) | ~(spread > 1e-12)


def _with_share(values: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Returns `values` [n, n_sizes, fields] with the retained share behind them, NaN where the random lift is not above 1 or nothing is linked."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.log2(values[:, :, :2] / chances)
        share = np.where((bits[:, :, 1] > 1e-12) & np.isfinite(bits[:, :, 0]), bits[:, :, 0] / bits[:, :, 1], np.nan)
    return np.concatenate([values, share[:, :, None]], axis=2)


def _entry(value: np.ndarray, low: np.ndarray, high: np.ndarray, chance: np.ndarray) -> dict[str, Any]:
    intervals = [{"value": _plain(one), "low": _plain(least), "high": _plain(most)} for one, least, most in zip(value, low, high, strict=True)]
    named = dict(zip((*_FIELDS, "retained_share"), intervals, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        labels, beyond = np.log2(value[2] / chance[1]), np.log2(value[1] / value[2])
    return {
        "retained_share": named["retained_share"],
        "matched": float(value[0]),
        "random": float(value[1]),
        "chance": float(chance[0]),
        "chance_random": float(chance[1]),
        "label_only": float(value[2]),
        "bits_labels": _plain(labels),
        "bits_beyond": _plain(beyond),
        "macro": None if named["macro_matched"]["value"] is None else {"matched": named["macro_matched"], "random": named["macro_random"]},
    }


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
