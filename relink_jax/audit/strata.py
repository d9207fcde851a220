"""Strata: which studies count as hard negatives of each other, as one integer code per study.

Two studies are label-matched when their 14 CheXpert observations agree under a policy that says which states are told apart:
  quaternary  positive, negative, uncertain and not mentioned are four states (also matches which negatives are mentioned)
  ternary     positive, uncertain, and everything else (default)
  u_one       uncertain counts as positive
  u_zero      uncertain counts as not positive

`LABELS` and `ALIASES` repeat those of `cohort`, which this room does not import; a test holds them equal.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from relink_jax import errors

LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
ALIASES = {"Airspace Opacity": "Lung Opacity", "No Findings": "No Finding"}
BLANK = -2
POLICIES = QUATERNARY, TERNARY, U_ONE, U_ZERO = ("quaternary", "ternary", "u_one", "u_zero")
VIEW, LABEL_VIEW, SEX_AGE, LENGTH, NEAR_TEXT = "view", "label_view", "sex_age", "length", "near_text"


def label_codes(labels: np.ndarray | None, has_labels: np.ndarray, policy: str) -> np.ndarray:
    """Returns one integer per study, int32 [S], equal exactly for matched studies; -1 where a study has no label row.

    Args:
        labels: int8 [S, L] in {1, 0, -1, BLANK}, or None when no study is labelled.
        has_labels: bool [S].
    Raises: UsageError: unknown policy.
    """
    if policy not in POLICIES:
        raise errors.UsageError(
            errors.describe("unknown policy", "label matching", f"one of {', '.join(POLICIES)}", repr(policy)) + errors.suggest(str(policy), POLICIES)
        )
    codes = np.full(len(has_labels), -1, np.int32)
    if labels is None or not has_labels.any():
        return codes
    states = labels[has_labels].copy()
    if policy != QUATERNARY:
        states[states == BLANK] = 0
    if policy in (U_ONE, U_ZERO):
        states[states == -1] = 1 if policy == U_ONE else 0
    codes[has_labels] = np.unique(states, axis=0, return_inverse=True)[1].ravel()
    return codes


def jaccard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns |A and B| / |A or B| of each set of positive labels, bool [n, L], with each of [m, L]; float64 [n, m], 1 where both are empty."""
    shared = first.astype(np.float32) @ second.astype(np.float32).T
    either = first.sum(axis=1)[:, None] + second.sum(axis=1)[None] - shared
    return np.where(either > 0, shared / np.maximum(either, 1), 1.0)


def positive(labels: np.ndarray, policy: str) -> np.ndarray:
    """Returns which observations a policy takes for positive, bool [S, L]."""
    return (labels == 1) | (labels == -1 if policy == U_ONE else False)


def contradictions(labels: np.ndarray | None) -> int:
    """Returns how many studies, int8 [S, 14], have 'No Finding' and a pathology; support devices are none, as in the CheXpert labeler.

    Irvin et al. (2019), "CheXpert: a large chest radiograph dataset with uncertainty labels and expert comparison", arXiv 1901.07031.
    """
    if labels is None:
        return 0
    pathology = [place for place, name in enumerate(LABELS) if name not in ("No Finding", "Support Devices")]
    return int(((labels[:, LABELS.index("No Finding")] == 1) & (labels[:, pathology] == 1).any(axis=1)).sum())


def codes(
    names: Sequence[str],
    *,
    labels: np.ndarray | None,
    has_labels: np.ndarray,
    facts: Mapping[str, np.ndarray],
    near_text: np.ndarray | None = None,
    policy: str = TERNARY,
) -> dict[str, np.ndarray]:
    """Returns the strata `names`, int32 [S] each: studies of one code are each other's hard negatives, -1 where it is not recorded.

      label_POLICY   observations agree under that policy
      view           the same views in the study
      label_view     label code under `policy`, and view
      sex_age        sex, and band of 10 years of age
      length         quintile of words of the report among these studies
      near_text      reports that are near duplicates
      NAME           the same value of that fact; a fact that is a number, the same quintile

    Args:
        labels, has_labels: as in `label_codes`.
        facts: by name, str objects [S] with '' where not recorded, or float64 [S] with NaN; 'views', 'sex', 'age_years' and 'report_words' are
            those that the strata above ask for.
        near_text: group of each study's report [S], -1 for none.
        policy: of label_view.
    Raises: UsageError: an unknown name or policy.
    """
    known = (*(f"label_{one}" for one in POLICIES), VIEW, LABEL_VIEW, SEX_AGE, LENGTH, NEAR_TEXT, *facts)
    size, out = len(has_labels), {}
    for name in names:
        if name not in known:
            raise errors.UsageError(
                errors.describe("unknown stratum", "hard negatives", f"one of {', '.join(known)}", repr(name)) + errors.suggest(name, known)
            )
        if name.startswith("label_") and name != LABEL_VIEW and name not in facts:
            out[name] = label_codes(labels, has_labels, name.removeprefix("label_"))
        elif name == NEAR_TEXT:
            out[name] = np.full(size, -1, np.int32) if near_text is None else near_text.astype(np.int32)
        elif name == LABEL_VIEW:
            out[name] = _both(label_codes(labels, has_labels, policy), _fact(facts, "views", size))
        elif name == SEX_AGE:
            out[name] = _both(_fact(facts, "sex", size), _decade(facts, size))
        else:
            out[name] = _fact(facts, {VIEW: "views", LENGTH: "report_words"}.get(name, name), size)
    return out


def _fact(facts: Mapping[str, np.ndarray], name: str, size: int) -> np.ndarray:
    """Returns codes of one fact, int32 [S]: of its values, or of the quintile of its numbers; -1 where it is not recorded."""
    values = facts.get(name, np.full(size, "", object))
    if values.dtype == object:
        told = values != ""
        return _numbered(values.astype(str), told)
    told = np.isfinite(values)
    edges = np.quantile(values[told], (0.2, 0.4, 0.6, 0.8)) if told.any() else np.zeros(4)
    return np.where(told, np.searchsorted(edges, values), -1).astype(np.int32)


def _decade(facts: Mapping[str, np.ndarray], size: int) -> np.ndarray:
    age = facts.get("age_years", np.full(size, np.nan))
    return np.where(np.isfinite(age), np.nan_to_num(age) // 10, -1).astype(np.int32)


def _both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    told = (first >= 0) & (second >= 0)
    return _numbered(first.astype(np.int64) * (int(second.max(initial=0)) + 1) + second, told)


def _numbered(values: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Returns equal numbers for equal values, int32 [S], -1 where not told."""
    out = np.full(len(values), -1, np.int32)
    out[told] = np.unique(values[told], return_inverse=True)[1]
    return out
