"""Which traits of a record go with its risk: fractional logistic regression of linking probabilities, with errors clustered by patient.

The mean of p given the terms is modelled as logistic, by Bernoulli quasi-likelihood, which needs nothing but that mean to be right
(Papke and Wooldridge 1996); the sandwich over patients (Liang and Zeger 1986), times P/(P-1), makes up for the rest. Numbers are standardised,
words become one term per group against the commonest. A term is left out, and named, where it says nothing (constant, or a combination of terms
before it), where it rests on fewer than `FEWEST_PATIENTS` patients, where the patients are too few for so many terms, and where it
separates: no finite odds ratio fits best.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special

from relink_jax.audit import attributes, multiplicity
from relink_jax.audit.metrics import FEWEST_PATIENTS
from relink_jax.audit.sample import Sample

PATIENTS_PER_TERM = 5
_SEPARATED = 12.0  # log odds that no term reaches without separating
_ALIKE = 1e-3  # what must be left of a term, of its length, when those before it are taken out
_STEPS, _CLOSE = 200, 1e-10


@dataclasses.dataclass(frozen=True)
class Term:
    """One column of the design: its name, what one unit of it is, and its values [n]."""

    name: str
    per: str
    column: np.ndarray


def section(p: np.ndarray, rows: np.ndarray, attribute_of: Mapping[str, np.ndarray], sample: Sample, *, N: int, full: bool) -> dict[str, Any] | None:
    """Returns the results' section `regression`: odds ratios with intervals, each with all other terms held; None where there is nothing to explain.

    Args:
        p: probability of each query's being linked, float64 [n]; rows: their query numbers [n].
        attribute_of: by name, of every query [Q], see `attributes`; where two say the same, the first is kept.
        N, full: the pool size.
    """
    _, owner = np.unique(sample.patient[rows], return_inverse=True)
    n_patients = int(owner.max(initial=-1)) + 1
    if n_patients < FEWEST_PATIENTS or not 0 < p.sum() < len(p):
        return None
    kept, left_out = _telling({name: values[rows] for name, values in attribute_of.items()}, owner, n_patients)
    kept, beta, separated = _finite(kept, p)
    design = _design(kept, len(p))
    error = np.sqrt(np.diag(clustered_covariance(design, p, beta, owner)))[1:]
    reach = float(special.stdtrit(n_patients - 1, (1 + sample.settings.level) / 2)) * error
    tested = multiplicity.two_sided(beta[1:] / np.maximum(error, 1e-300), n_patients - 1)
    columns = {"odds_ratio": beta[1:], "low": beta[1:] - reach, "high": beta[1:] + reach}
    told = {name: np.exp(values) for name, values in columns.items()} | {"p": tested, "p_adjusted": multiplicity.benjamini_hochberg(tested)}
    terms = [{"name": term.name, "per": term.per, **{name: float(values[place]) for name, values in told.items()}} for place, term in enumerate(kept)]
    return {"N": N, "full": full, "terms": terms, "n_queries": len(p), "n_patients": n_patients, "left_out": left_out + separated}


def fit(design: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, bool]:
    """Returns (coefficients float64 [k], whether they maximise the Bernoulli quasi-likelihood) of `p` [n] in [0, 1] on `design` [n, k].

    Newton steps, shortened where they do not climb; the first column is the intercept. It stops, unfinished, where a slope
    leaves what is taken for finite.
    """
    beta = np.zeros(design.shape[1])
    beta[0] = special.logit(p.mean())
    here = _likelihood(design, p, beta)
    for _ in range(_STEPS):
        mean = special.expit(design @ beta)
        curvature = (design * (mean * (1 - mean))[:, None]).T @ design
        try:
            step = np.linalg.solve(curvature, design.T @ (p - mean))
        except np.linalg.LinAlgError:
            return beta, False
        if np.abs(step).max() <= _CLOSE:
            return beta + step, True
        while (there := _likelihood(design, p, beta + step)) < here and np.abs(step).max() > _CLOSE:
            step /= 2
        beta, here = beta + step, there
        if np.abs(beta[1:]).max(initial=0.0) > _SEPARATED:
            return beta, False
    return beta, False


def clustered_covariance(design: np.ndarray, p: np.ndarray, beta: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Returns the covariance [k, k] of fitted coefficients [k], from scores summed within patients `owner` [n], numbered without gaps."""
    mean = special.expit(design @ beta)
    bread = np.linalg.inv((design * (mean * (1 - mean))[:, None]).T @ design)
    scores = np.stack([np.bincount(owner, column * (p - mean)) for column in design.T], axis=1)
    return bread @ (scores.T @ scores) @ bread * (len(scores) / (len(scores) - 1))


def terms_of(name: str, values: np.ndarray) -> list[Term]:
    """Returns the terms of one attribute [n]: a standardised number, and whether it is recorded, or one term per group but the commonest."""
    if not attributes.is_numeric(values):
        return _by_group(name, *attributes.grouped(name, values))
    wide = values.astype(np.float64)
    known = np.isfinite(wide)
    centre, spread = (float(wide[known].mean()), float(wide[known].std())) if known.any() else (0.0, 0.0)
    standard = np.where(known, (wide - centre) / spread, 0.0) if spread > 1e-9 * abs(centre) else np.zeros(len(wide))
    unit = f"{spread:.3g} {attributes.UNITS.get(name, '')}".strip()
    found = [Term(name, f"one standard deviation more, {unit}", standard)]
    return found if known.all() else [*found, Term(f"{name}: {attributes.NOT_RECORDED}", "rather than recorded", (~known).astype(np.float64))]


def _by_group(name: str, codes: np.ndarray, groups: list[str]) -> list[Term]:
    if set(groups) == {attributes.YES, attributes.NO}:
        return [Term(name, "yes rather than no", (codes == groups.index(attributes.YES)).astype(np.float64))]
    often = [-1 if group == attributes.NOT_RECORDED else count for group, count in zip(groups, np.bincount(codes), strict=True)]
    against = attributes.NO if attributes.NO in groups else groups[int(np.argmax(often))]
    return [Term(f"{name}: {group}", f"rather than {against}", (codes == code).astype(np.float64)) for code, group in enumerate(groups) if group != against]


def _telling(attribute_of: Mapping[str, np.ndarray], owner: np.ndarray, n_patients: int) -> tuple[list[Term], list[str]]:
    """Returns the terms that can be estimated, and the names of the others; groups of few patients are named by their attribute alone."""
    kept: list[Term] = []
    left_out: list[str] = []
    basis = np.full((1, len(owner)), len(owner) ** -0.5)
    for name, values in attribute_of.items():
        for term in terms_of(name, values) or [Term(name, "", np.zeros(len(owner)))]:
            size, rest = np.linalg.norm(term.column), term.column
            for _ in range(2):  # twice is enough (Kahan, Parlett)
                rest = rest - (basis @ rest) @ basis
            few = set(np.unique(term.column)) <= {0.0, 1.0} and _fewest(term.column > 0, owner) < FEWEST_PATIENTS
            if few and np.ptp(term.column) > 0:
                left_out.append(f"{name}: small groups")
            elif np.linalg.norm(rest) <= _ALIKE * max(float(size), 1e-300) or (len(kept) + 1) * PATIENTS_PER_TERM > n_patients:
                left_out.append(term.name)
            else:
                kept.append(term)
                basis = np.vstack([basis, rest / np.linalg.norm(rest)])
    return kept, list(dict.fromkeys(left_out))


def _fewest(inside: np.ndarray, owner: np.ndarray) -> int:
    return min(int(np.count_nonzero(np.bincount(owner[among]))) for among in (inside, ~inside))


def _finite(kept: list[Term], p: np.ndarray) -> tuple[list[Term], np.ndarray, list[str]]:
    """Returns (terms with finite coefficients, the fit [1 + k], names of those that separate), the steepest left out one at a time."""
    separated: list[str] = []
    while True:
        beta, done = fit(_design(kept, len(p)), p)
        if done or not kept:
            return kept, beta, separated
        steepest = int(np.argmax(np.abs(beta[1:])))
        separated.append(kept[steepest].name)
        kept = [term for place, term in enumerate(kept) if place != steepest]


def _design(terms: list[Term], n: int) -> np.ndarray:
    return np.stack([np.ones(n), *(term.column for term in terms)], axis=1)


def _likelihood(design: np.ndarray, p: np.ndarray, beta: np.ndarray) -> float:
    linear = design @ beta
    return float(p @ linear - np.logaddexp(0, linear).sum())
