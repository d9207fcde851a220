"""Which groups of people are at risk: means over groups with intervals, shrunken, tested, and hidden where they are small.

interval    bootstrap over patients, as everywhere
shrunken    the group's true mean is taken for a draw from a beta distribution around the overall mean; its precision is a moment estimate
            from all groups, and a group weighs as many independent records as its queries are worth given the correlation within patients.
            A tiny group then does not lead the list by chance.
p           of the group against all other queries, clustered by patient; the larger of two. With the variance under no difference, a few
            patients without a hit are no news; with the variances that were seen, neither is one hit among few patients.
hidden      a group of fewer than `FEWEST_PATIENTS` patients, and the next smallest of its attribute until the hidden ones have as
            many together, which is what follows from the total.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax.audit import attributes, multiplicity
from relink_jax.audit.metrics import FEWEST_PATIENTS
from relink_jax.audit.sample import Sample

_AT_ONCE = 16  # groups whose intervals are made together


@dataclasses.dataclass(frozen=True)
class _Cell:
    """One group: its attribute, its name, and the codes [n] of the attribute's groups with the code of this one."""

    attribute: str
    group: str
    codes: np.ndarray
    code: int

    @property
    def inside(self) -> np.ndarray:
        """Whether each query is in it, bool [n]."""
        return self.codes == self.code


@dataclasses.dataclass(frozen=True)
class Exchangeable:
    """Values around their mean with one variance, and one covariance between the queries of a patient; moments over patients.

    Attributes: variance, covariance: of one value, and of two of one patient. owner: patient of each value, int [n], numbered without gaps.
    """

    variance: float
    covariance: float
    owner: np.ndarray

    def of_sum(self, weights: np.ndarray) -> float:
        """Returns the variance of the sum of the values with `weights` [n]."""
        together = np.bincount(self.owner, weights)
        return float((self.variance - self.covariance) * (weights @ weights) + self.covariance * (together @ together))


def section(
    p: np.ndarray, rows: np.ndarray, attribute_of: Mapping[str, np.ndarray], sample: Sample, *, N: int, full: bool, fewest: int = FEWEST_PATIENTS
) -> dict[str, Any] | None:
    """Returns the results' section `groups`, most at risk first by shrunken mean; None where no query has a pool of this size.

    Args:
        p: probability of each query's being linked, float64 [n]; rows: their query numbers [n].
        attribute_of: by name, of every query [Q], see `attributes`. Attributes with one group only are left out.
        N, full: the pool size. fewest: patients that a group must have to be shown.
    """
    if not len(p):
        return None
    owner = sample.patient[rows]
    cells, hidden = _cells({name: values[rows] for name, values in attribute_of.items()}, owner, fewest)
    out: list[dict[str, Any]] = []
    if cells:
        model = exchangeable(p, owner)
        means = _means(cells, p, rows, sample)
        values = np.array([one["value"] for one in means])
        shares = np.array([one["n_queries"] for one in means]) / len(p)
        noise = np.array([model.of_sum(cell.inside / cell.inside.sum()) for cell in cells])
        shrunken = shrink(values, noise, shares, float(p.mean()))
        tested = np.array([against_rest(p, cell.inside, model) for cell in cells])
        adjusted = multiplicity.benjamini_hochberg(tested)
        for cell, mean, *found in zip(cells, means, shrunken, tested, adjusted, strict=True):
            told = {name: float(value) for name, value in zip(("shrunken", "p", "p_adjusted"), found, strict=True)}
            out.append({"attribute": cell.attribute, "group": cell.group, **mean, **told})
    out.sort(key=lambda row: (-row["shrunken"], row["attribute"], row["group"]))
    return {"N": N, "full": full, "rows": out, "suppressed": hidden, "fewest_patients": fewest}


def exchangeable(p: np.ndarray, owner: np.ndarray) -> Exchangeable:
    """Returns the moments of values [n] of patients `owner` [n]; no correlation where no patient has two values, nor a negative one."""
    apart = p - p.mean()
    _, owner = np.unique(owner, return_inverse=True)
    variance, sums, counts = float(apart @ apart) / len(p), np.bincount(owner, apart), np.bincount(owner)
    pairs = int((counts * (counts - 1)).sum())
    covariance = float(sums @ sums - apart @ apart) / pairs if pairs else 0.0
    return Exchangeable(variance, min(max(covariance, 0.0), variance), owner)


def shrink(values: np.ndarray, noise: np.ndarray, shares: np.ndarray, overall: float) -> np.ndarray:
    """Returns beta-binomial posterior means, float64 [G], of group means [G] whose prior is estimated from all of them.

    With prior variance V and binomial variance B = m (1 - m) around the overall mean m, a group mean of sampling variance v varies by
    V + v (1 - V / B), which gives V. The prior is then worth B / V - 1 records and the group B / v.

    Args: noise: sampling variance of each mean [G]. shares: of all queries in each group [G], which is that far part of the overall mean.
    """
    binomial = overall * (1 - overall)
    if binomial <= 0 or not (noise > 0).any():
        return values.astype(np.float64)
    seen = noise * (1 - shares)
    between = float(((values - overall) ** 2 - seen).sum() / (1 - seen / binomial).clip(1e-12).sum())
    if between <= 0:
        return np.full(len(values), overall)
    prior, worth = max(binomial / between - 1, 0.0), binomial / np.maximum(noise, 1e-300)
    return (prior * overall + worth * values) / (prior + worth)


def against_rest(p: np.ndarray, inside: np.ndarray, model: Exchangeable) -> float:
    """Returns the two-sided p value of the mean of `p` [n] inside a group against the mean outside it, neither of them empty."""
    n = np.array([(~inside).sum(), inside.sum()])
    means = np.bincount(inside, p, minlength=2) / n
    weights = np.where(inside, 1 / n[1], -1 / n[0])
    fewest = min(int(np.count_nonzero(np.bincount(model.owner[among]))) for among in (inside, ~inside))
    each = np.bincount(model.owner, weights * (p - means[inside.astype(np.int64)]))
    seen = float(each @ each) * fewest / max(fewest - 1, 1)
    gap, found = abs(float(means[1] - means[0])), [1e-300]
    for variance in (model.of_sum(weights), seen):
        statistic = gap / variance**0.5 if variance > 0 else math.inf if gap > 0 else 0.0
        found.append(multiplicity.two_sided(statistic, max(fewest - 1, 1)).item())
    return max(found)


def _cells(attribute_of: Mapping[str, np.ndarray], owner: np.ndarray, fewest: int) -> tuple[list[_Cell], int]:
    """Returns the groups that may be shown, and how many may not."""
    cells: list[_Cell] = []
    suppressed = 0
    for attribute, values in attribute_of.items():
        codes, names = attributes.grouped(attribute, values)
        if len(names) < 2:
            continue
        hidden = _hidden(codes, names, owner, fewest)
        suppressed += len(hidden)
        cells += [_Cell(attribute, name, codes, code) for code, name in enumerate(names) if code not in hidden]
    return cells, suppressed


def _hidden(codes: np.ndarray, names: Sequence[str], owner: np.ndarray, fewest: int) -> set[int]:
    """Returns which groups of one attribute may not be shown; where it was not recorded is no trait, so that group hides no other one with it."""
    absent = names.index(attributes.NOT_RECORDED) if attributes.NOT_RECORDED in names else -1
    recorded = codes != absent
    places, told = np.unique(codes[recorded], return_inverse=True)
    hidden = {int(places[one]) for one in hide(told, owner[recorded], fewest)}
    return hidden | ({absent} if absent >= 0 and len(np.unique(owner[~recorded])) < fewest else set())


def hide(codes: np.ndarray, owner: np.ndarray, fewest: int) -> set[int]:
    """Returns which groups of one attribute may not be shown.

    Args: codes: group of each query [n], from 0 without gaps. owner: patient of each query [n].
    """
    span = int(owner.max()) + 1
    patients = np.bincount(np.unique(codes.astype(np.int64) * span + owner) // span)
    smallest = np.argsort(patients, kind="stable").tolist()
    hidden = set(np.flatnonzero(patients < fewest).tolist())
    while hidden and len(hidden) < len(patients) and len(np.unique(owner[np.isin(codes, list(hidden))])) < fewest:
        hidden.add(next(code for code in smallest if code not in hidden))
    return hidden


def _means(cells: Sequence[_Cell], p: np.ndarray, rows: np.ndarray, sample: Sample) -> list[dict[str, Any]]:
    """Returns the mean of each group with its interval."""
    found: list[dict[str, Any]] = []
    for first in range(0, len(cells), _AT_ONCE):
        inside = np.stack([cell.inside for cell in cells[first : first + _AT_ONCE]], axis=1).astype(np.float64)
        found += sample.ratios(inside * p[:, None], inside, rows, bounded=True)
    return found
