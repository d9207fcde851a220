"""Float64 recount of random queries on the host: the exactness check that travels with every result."""

import numpy as np

from relink_jax import errors
from relink_jax.retrieval.counted import I2R, OTHER_PATIENT, DirectionCounts, Records
from relink_jax.store.rows import RowSource, blocks

TOLERANCE = 1e-6


def recheck(records: Records, counted: dict[str, DirectionCounts], *, n_queries: int = 50, seed: int = 0) -> dict[str, float | int]:
    """Recounts up to `n_queries` random queries per direction in float64 and returns what it found.

    A query agrees when every candidate further than 1e-6 (times the largest score, when that exceeds 1) from the threshold is
    on the same side in both counts: g lies between the surely greater and the possibly greater, and so does g + t.

    Returns: {'queries', 'strata_checked', 'identical', 'near_threshold_candidates', 'tolerance'}; `identical` counts strata whose
        g and t equal the float64 ones outright.
    Raises: UnsoundError: a query disagrees beyond rounding.
    """
    generator = np.random.default_rng(seed)
    queries = checked = identical = near = 0
    for direction, found in counted.items():
        rows = generator.permutation(len(found.query))[:n_queries]
        for row, scores in zip(rows, _scores(records, direction, found.query[rows]), strict=True):
            queries += 1
            for name, (size, greater, tied, low, high) in _recount(records, direction, int(found.query[row]), scores).items():
                stratum = found.strata[name]
                M, g, t = int(stratum.M[row]), int(stratum.g[row]), int(stratum.t[row])
                checked, near, identical = checked + 1, near + high - low, identical + ((g, t) == (greater, tied))
                if size != M or not low <= g <= g + t <= high:
                    raise errors.UnsoundError(
                        errors.describe(
                            "counts differ from float64", f"recheck of {direction} {name}", f"M={size}, g>={low}, g+t<={high}", f"M={M}, g={g}, t={t}"
                        )
                    )
    return {"queries": queries, "strata_checked": checked, "identical": identical, "near_threshold_candidates": near, "tolerance": TOLERANCE}


def _scores(records: Records, direction: str, queries: np.ndarray) -> np.ndarray:
    """Returns the scores of every text (i2r) or image for queries [K], float64 [K, U] or [K, Q], from a block of candidates at a time."""
    candidates: RowSource = records.texts if direction == I2R else records.images
    asked = records.images[queries] if direction == I2R else records.texts[records.study_text[queries]]
    scores = np.empty((len(queries), len(candidates)))
    for part in blocks(candidates):
        wide = candidates[part].astype(np.float64)
        for row, vector in zip(scores, asked.astype(np.float64), strict=True):
            row[part] = wide @ vector
    return scores


def _recount(records: Records, direction: str, query: int, scores: np.ndarray) -> dict[str, tuple[int, int, int, int, int]]:
    """Returns {stratum: (M, g, t, surely greater, not surely below)} of one query, from its row of `_scores`."""
    if direction == I2R:
        study = int(records.image_study[query])
        truth = scores[records.study_text[study]]
        scores, candidates, exact = scores[records.study_text], np.arange(len(records.study_text)), records.study_text == records.study_text[study]
    else:
        study, candidates, exact = query, records.image_study, np.zeros(len(scores), bool)
        truth = scores[records.image_study == study].max()
    tolerance = TOLERANCE * max(1.0, float(np.abs(scores).max()))
    eligible = records.exclusion[candidates] != records.exclusion[study]
    masks = {OTHER_PATIENT: eligible} | {name: eligible & (code[candidates] == code[study]) & (code[study] >= 0) for name, code in records.codes.items()}
    out = {}
    for name, mask in masks.items():
        compared = scores[mask & ~exact]
        duplicates = int((mask & exact).sum())
        sure, possible = int((compared > truth + tolerance).sum()), int((compared >= truth - tolerance).sum())
        out[name] = (int(mask.sum()), int((compared > truth).sum()), int((compared == truth).sum()) + duplicates, sure, possible + duplicates)
    return out
