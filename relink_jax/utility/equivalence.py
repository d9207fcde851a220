"""Equivalence of two utilities by two one-sided tests: is the difference shown to be smaller than a margin declared beforehand?

Both tests at 5% reject exactly when the 90% interval of the difference lies inside (-margin, margin). That an interval holds 0 shows
nothing of the kind: with few patients every interval does.

References: Schuirmann (1987), J. Pharmacokinet. Biopharm. 15(6), 657-680; Lakens (2017), Soc. Psychol. Personal. Sci. 8(4), 355-362.
"""

from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.utility import auroc

LEVEL = 0.90


def equivalence(replicates: np.ndarray, margin: float) -> dict[str, Any] | None:
    """Returns {margin, equivalent, level, low, high} of paired differences `replicates` [B]; None when fewer than two are finite.

    Args: margin: the largest difference that does not matter, in the unit of the replicates.
    Raises: UsageError: a margin that is not positive.
    """
    if not 0 < margin < np.inf:
        raise errors.UsageError(errors.describe("equivalence margin", "paired utility", "a positive number", f"{margin:g}"))
    interval = auroc.percentile_interval(replicates, LEVEL)
    if interval is None:
        return None
    low, high = float(interval["low"]), float(interval["high"])
    return {"margin": margin, "equivalent": -margin < low and high < margin, "level": LEVEL, "low": low, "high": high}
