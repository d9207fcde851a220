"""What is known of each query besides its vectors: who is at risk is told by these.

An attribute is an array [Q] of numbers or of words. None, '' and NaN are 'not recorded', which is a group of its own.
"""

import itertools

import numpy as np

from relink_jax.audit import strata

NOT_RECORDED = "not recorded"
YES, NO = "yes", "no"
RARITY, PATIENT_STUDIES = "rarity", "patient_studies"
UNITS = {"report_words": "words", "sentences": "sentences", "age_years": "years", "rare_words": "bits", RARITY: "bits", PATIENT_STUDIES: "studies"}
_FIFTHS = (0.2, 0.4, 0.6, 0.8)
_DIGITS = range(3, 18)


def describe_attributes(
    labels: np.ndarray | None, has_labels: np.ndarray, study_patient: np.ndarray, image_study: np.ndarray, policy: str = "ternary"
) -> dict[str, np.ndarray]:
    """Returns what labels and patients alone tell of every image's study, by name, [Q] each.

    Args:
        labels: int8 [S, 14] as `strata` has them, or None. has_labels: bool [S]. study_patient: int [S]. image_study: int [Q].
        policy: of the label codes, see `strata`.
    Returns: 'patient_studies', the number of studies of the patient, float64; with labels also 'rarity', minus log2 of the share of labelled
        studies that have the study's label code, float64, NaN without labels; and each of `strata.LABELS`, 'yes' where positive, 'no' where
        not, None without labels, object.
    Raises: UsageError: unknown policy.
    """
    found: dict[str, np.ndarray] = {PATIENT_STUDIES: np.bincount(study_patient)[study_patient[image_study]].astype(np.float64)}
    if labels is None or not has_labels.any():
        return found
    codes, known = strata.label_codes(labels, has_labels, policy), has_labels[image_study]
    share = np.bincount(codes[has_labels]) / has_labels.sum()
    found[RARITY] = np.where(known, -np.log2(share)[codes[image_study]], np.nan)
    for column, name in enumerate(strata.LABELS):
        found[name] = np.where(labels[image_study, column] == 1, YES, NO).astype(object)
        found[name][~known] = None
    return found


def is_numeric(values: np.ndarray) -> bool:
    """Returns whether an attribute is a number, and not words or yes and no."""
    return values.dtype.kind in "iuf"


def grouped(name: str, values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Returns (number of its group for each query, int64 [n]; names of the groups) of an attribute [n]; every group has a query.

    Words are groups as they are. Numbers are cut into fifths, fewer where many are equal, and named by where they are cut, such as '62 to 95
    words'; the outer ones are open, since the least and the greatest number belong to one person.
    """
    numbers, names = _fifths(values.astype(np.float64), UNITS.get(name, "")) if is_numeric(values) else _words(values)
    present, codes = np.unique(numbers, return_inverse=True)
    return codes.astype(np.int64), [names[number] for number in present]


def _words(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    names, codes = np.unique(np.array([_word(value) for value in values.tolist()], dtype=np.str_), return_inverse=True)
    return codes, names.tolist()


def _word(value: object) -> str:
    if value is None or value == "" or value != value:
        return NOT_RECORDED
    return (YES if value else NO) if isinstance(value, bool) else str(value)


def _fifths(values: np.ndarray, unit: str) -> tuple[np.ndarray, list[str]]:
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(len(values), np.int64), [NOT_RECORDED]
    cuts = np.unique(np.quantile(values[known], _FIFTHS, method="inverted_cdf"))
    cuts = cuts[cuts < values[known].max()]
    whole = bool((values[known] == np.round(values[known])).all())
    names = [f"{told} {unit}".strip() for told in (_whole(cuts) if whole else _between(cuts))]
    return np.where(known, np.searchsorted(cuts, values), len(cuts) + 1), [*names, NOT_RECORDED]


def _whole(cuts: np.ndarray) -> list[str]:
    """Returns names of the groups of whole numbers up to each cut and beyond the last."""
    ends = [int(cut) for cut in cuts]
    if not ends:
        return ["recorded"]
    inner = [str(high) if low + 1 == high else f"{low + 1} to {high}" for low, high in itertools.pairwise(ends)]
    return [f"up to {ends[0]}", *inner, f"{ends[-1] + 1} or more"]


def _between(cuts: np.ndarray) -> list[str]:
    if not len(cuts):
        return ["recorded"]
    ends = next(told for digits in _DIGITS if len(set(told := [f"{cut:.{digits}g}" for cut in cuts])) == len(cuts))
    return [f"up to {ends[0]}", *(f"{low} to {high}" for low, high in itertools.pairwise(ends)), f"above {ends[-1]}"]
