"""Dense float64 counting, one query at a time, written from the definitions."""

import numpy as np


def count(records, direction, query):
    """Returns {stratum: (M, g, t)} of one query from all scores in float64."""
    scores = records.images.astype(np.float64) @ records.texts.astype(np.float64).T
    if direction == "i2r":
        study = records.image_study[query]
        candidates, row = np.arange(len(records.study_text)), scores[query, records.study_text]
        own = row[study]
    else:
        study = query
        candidates, row = records.image_study, scores[:, records.study_text[study]]
        own = row[records.image_study == study].max()
    eligible = records.exclusion[candidates] != records.exclusion[study]
    code = records.study_code[study]
    matched = eligible & (records.study_code[candidates] == code) & (code >= 0)
    return {name: (mask.sum(), (row[mask] > own).sum(), (row[mask] == own).sum()) for name, mask in (("other_patient", eligible), ("label_matched", matched))}


def top(records, direction, query, k):
    """Returns the k best candidate numbers by (score descending, number ascending)."""
    scores = records.images.astype(np.float64) @ records.texts.astype(np.float64).T
    row = scores[query, records.study_text] if direction == "i2r" else scores[:, records.study_text[query]]
    best = np.lexsort((np.arange(len(row)), -row))[:k]
    return np.concatenate([best, np.full(k - len(best), -1)])
