"""Label codes: which studies count as hard negatives of each other.

Two studies are label-matched when their 14 CheXpert observations agree under a policy that says which states are told apart:
  quaternary  positive, negative, uncertain and not mentioned are four states (also matches which negatives are mentioned)
  ternary     positive, uncertain, and everything else (default)
  u_one       uncertain counts as positive
  u_zero      uncertain counts as not positive

`LABELS` and `ALIASES` repeat those of `cohort`, which this room does not import; a test holds them equal.
"""

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
POLICIES = ("quaternary", "ternary", "u_one", "u_zero")


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
    if policy != "quaternary":
        states[states == BLANK] = 0
    if policy in ("u_one", "u_zero"):
        states[states == -1] = 1 if policy == "u_one" else 0
    codes[has_labels] = np.unique(states, axis=0, return_inverse=True)[1].ravel()
    return codes


def jaccard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns |A and B| / |A or B| of sets of positive labels, bool [..., L] broadcast together; float64 [...], 1 where both are empty.

    It orders the nearest other label codes when a query has too few matched studies.
    """
    shared, either = (first & second).sum(axis=-1), (first | second).sum(axis=-1)
    return np.where(either > 0, shared / np.maximum(either, 1), 1.0)
