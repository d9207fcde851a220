"""Dense float64 counting, written from the definitions."""

import numpy as np


def scores_of(records, direction):
    """Returns (query numbers, scores float64 [Q, C], own scores [Q], study of each query, study of each candidate)."""
    scores = (records.images.astype(np.float64) @ records.texts.astype(np.float64).T)[:, records.study_text]
    own = scores[np.arange(len(scores)), records.image_study]
    if direction == "i2r":
        return np.arange(len(scores)), scores, own, records.image_study, np.arange(scores.shape[1])
    query = np.unique(records.image_study)
    best = np.array([own[records.image_study == study].max() for study in query])
    return query, scores.T[query], best, query, records.image_study


def count(records, direction):
    """Returns {stratum: int64 [J + 1, Q, 3]}: M, g and t of all candidates, then of each jackknife block's."""
    _, scores, own, asked, candidates = scores_of(records, direction)
    other = records.exclusion[asked][:, None] != records.exclusion[candidates][None]
    masks = {"other_patient": other}
    for name, code in records.codes.items():
        masks[name] = other & (code[asked][:, None] == code[candidates][None]) & (code[asked] >= 0)[:, None]
    among = [np.ones(len(candidates), bool)]
    if records.block is not None:
        among += [records.block[candidates] == number for number in range(records.block.max() + 1)]
    seen = (np.ones_like(scores, bool), scores > own[:, None], scores == own[:, None])
    return {name: np.array([[(mask & part & one).sum(axis=1) for one in seen] for part in among]).transpose(0, 2, 1) for name, mask in masks.items()}


def top(records, direction, k):
    """Returns the k best candidates of each query by (score descending, jackknife block of the study, number ascending)."""
    _, scores, _, _, candidates = scores_of(records, direction)
    first = np.zeros(len(candidates)) if records.block is None or direction == "r2i" else records.block[candidates]
    best = np.array([np.lexsort((np.arange(len(row)), first, -row))[:k] for row in scores])
    return np.pad(best, ((0, 0), (0, k - best.shape[1])), constant_values=-1)
