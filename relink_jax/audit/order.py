"""Does Recall rise with specialisation? Simultaneous intervals of the steps of a ladder of models, and how often the order holds.

All models are asked about the same queries and share every bootstrap draw of patients, so that what they have in common cancels. The steps
between neighbours get intervals that hold together (max-|t|): where all are above 0, the order is established at that level. The
share of resamples with the whole order intact says how firmly it stands; it is no p-value.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.audit import uncertainty
from relink_jax.audit.sample import Sample


def order(
    models: Sequence[str], values: Sequence[np.ndarray], sample: Sample, *, N: int, full: bool, attack: str = "cosine", rows: np.ndarray | None = None
) -> dict[str, Any]:  # fmt: skip
    """Returns the 'order' of one data set in results/comparisons.json.

    Args:
        models: names in rising specialisation. values: per-query values of each [n], such as Recall@1, of the same queries.
        N, full: pool size that they are of. rows: query numbers of the values in `sample`; None for all.
    Returns: {'N', 'full', 'attack', 'models', 'values', 'adjacent', 'share_of_resamples_in_order', 'level', 'B'}; 'adjacent' has
        {'lower', 'upper', 'difference', 'low', 'high'} for neighbours, the difference being upper minus lower, and low and high None where all
        patients differ by the same. A resample is in order when every difference is above 0.
    Raises: DataError: fewer than two models, or values that are not of the same queries.
    """
    owner = sample.patient if rows is None else sample.patient[rows]
    if len(models) < 2 or len(models) != len(values) or any(len(one) != len(owner) for one in values) or not len(owner):
        found = f"{len(models)} models with {', '.join(str(len(one)) for one in values)} values"
        raise errors.DataError(errors.describe("models differ", "order of models", f"two or more with {len(owner)} values each, and at least one", found))
    steps = np.diff(np.stack([np.asarray(one, np.float64) for one in values], axis=1), axis=1)
    tops = np.stack([uncertainty.patient_sums(owner, step, sample.n_patients) for step in steps.T], axis=1)
    counts = np.repeat(uncertainty.patient_sums(owner, np.ones(len(owner)), sample.n_patients)[:, None], steps.shape[1], axis=1)
    estimate = tops.sum(axis=0) / len(owner)
    drawn = uncertainty.replicate(tops, counts, sample.settings)
    reach, se = uncertainty.simultaneous(estimate, drawn, sample.settings.level)
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    return {
        "N": N,
        "full": full,
        "attack": attack,
        "models": list(models),
        "values": [float(np.mean(one)) for one in values],
        "adjacent": [_step(models[place : place + 2], float(estimate[place]), reach * float(se[place])) for place in range(len(estimate))],
        "share_of_resamples_in_order": float((drawn > 1e-12).all(axis=1).mean()),
        "level": sample.settings.level,
        "B": len(drawn),
    }


def _step(pair: Sequence[str], difference: float, reach: float) -> dict[str, Any]:
    low, high = (difference - reach, difference + reach) if reach > 0 else (None, None)
    return {"lower": pair[0], "upper": pair[1], "difference": difference, "low": low, "high": high}
