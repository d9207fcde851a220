"""The shuffle null: reports change hands among studies of one label code, after which nothing may link above label-matched chance.

Whatever counting, ties, duplicates or a stratum do wrong in favour of the truth shows here. Patients fall into two halves, and every study takes the report
of a study of the other half with its label code, drawn without replacement; it competes with reports that other studies of its own half took. So neither
its own report, nor any of its patient, is among the candidates, the one it was dealt is any of them with equal chance, and expected Recall@k is exactly
k/N for every space, however well it links. (Shuffling within the code alone would deal some studies their own report, or leave it among the candidates.)
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from relink_jax.audit import metrics
from relink_jax.retrieval import expectation
from relink_jax.retrieval.counted import LABEL_MATCHED, StratumCounts

SHUFFLE = "shuffle"


@dataclasses.dataclass(frozen=True)
class Dealt:
    """Reports after they changed hands.

    Attributes:
        study_text: row of the distinct reports of each study, int32 [S]; in place of the inputs' own.
        codes: stratum in which to count, int32 [S]: label code and half; -1 for studies left without a partner, which neither ask nor answer.
    """

    study_text: np.ndarray
    codes: np.ndarray


def deal(study_text: np.ndarray, study_patient: np.ndarray, codes: np.ndarray, seed: int = 0) -> Dealt:
    """Returns the reports dealt anew.

    Args: study_text, study_patient: of the inputs, int [S]. codes: label code of each study, int [S], -1 without labels.
    """
    generator = np.random.default_rng([seed, len(codes)])
    half = generator.permutation(int(study_patient.max(initial=0)) + 1)[study_patient] % 2
    order = np.lexsort((generator.permutation(len(codes)), half, codes))
    new_text, stratum = np.array(study_text, np.int32), np.full(len(codes), -1, np.int32)
    for members in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        if not len(members) or codes[members[0]] < 0:
            continue
        first, second = members[half[members] == 0], members[half[members] == 1]
        size = min(len(first), len(second))
        first, second = first[:size], second[:size]
        new_text[first], new_text[second] = study_text[generator.permutation(second)], study_text[generator.permutation(first)]
        stratum[first], stratum[second] = 2 * codes[first], 2 * codes[first] + 1
    return Dealt(new_text, stratum)


def null(counted: StratumCounts, patient: np.ndarray, pool_sizes: Sequence[int | None]) -> dict[str, Any]:
    """Returns the null of the results schema: Recall@1 of dealt reports beside chance, and how many standard errors they lie apart.

    Args:
        counted: counts of the stratum `Dealt.codes`, int64 [Q]. patient: whose each query is, int [Q]. pool_sizes: None for each query's full pool;
            sizes that fit no query are left out.
    Returns: z is clustered by patient about chance itself, and None where chance expects fewer than 10 hits, or all other than chance are of one patient.
    """
    points = [_point(counted, patient, size) for size in pool_sizes if ((size or 2) - 1 <= counted.M).any()]
    return {"name": SHUFFLE, "stratum": LABEL_MATCHED, "points": points}


def _point(counted: StratumCounts, patient: np.ndarray, size: int | None) -> dict[str, Any]:
    rows = np.flatnonzero((size or 2) - 1 <= counted.M)
    M, g, t = (array[rows] for array in (counted.M, counted.g, counted.t))
    hits = expectation.pool_metrics(M, g, t, size, [1])["recall@1"].expected
    chance = 1 / (M + 1) if size is None else np.full(len(rows), 1 / size)
    owner = np.unique(patient[rows], return_inverse=True)[1].ravel()
    apart = np.bincount(owner, weights=hits - chance)
    error = float(np.sqrt(np.sum(apart**2)))
    enough = chance.sum() >= metrics.FEW_HITS and (np.abs(apart) > 1e-9).sum() != 1
    z = float(apart.sum()) / error if error > 1e-9 else 0.0
    shown = {"value": float(hits.mean()), "chance": float(chance.mean()), "z": z if enough else None, "n_queries": len(rows)}
    return {"N": int(M.max()) + 1 if size is None else int(size), "full": size is None} | shown
