"""Means over queries with their patient-clustered intervals, for everything that is measured per query.

All figures of one audit, and of the audits it is compared with, share the same draws of patients (`uncertainty.weights`).
"""

import dataclasses
from typing import Any

import numpy as np

from relink_jax.audit import uncertainty


@dataclasses.dataclass(frozen=True)
class Sample:
    """Queries of one direction: whose they are, and how intervals are made.

    Attributes:
        patient: int64 [Q], numbers below n_patients. n_patients: patients of the whole audit, both directions.
    """

    patient: np.ndarray
    n_patients: int
    settings: uncertainty.Bootstrap

    def means(self, values: np.ndarray, rows: np.ndarray | None = None, *, bounded: bool = True) -> list[dict[str, Any]]:
        """Returns {'value', 'ci', 'n_queries', 'n_patients'} of the mean of each column of `values` [n, C] over queries `rows` [n].

        Args:
            rows: query numbers of the values; None for all. bounded: values lie in [0, 1], so that columns without any spread between
                patients get the exact bound of `uncertainty.no_spread`.
        """
        columns = np.asarray(values, np.float64).reshape(len(values), -1)
        return self.ratios(columns, np.ones_like(columns), rows, bounded=bounded)

    def mean(self, values: np.ndarray, rows: np.ndarray | None = None, *, bounded: bool = True) -> dict[str, Any]:
        """Returns what `means` does of one column [n]."""
        return self.means(np.asarray(values)[:, None], rows, bounded=bounded)[0]

    def ratios(self, above: np.ndarray, below: np.ndarray, rows: np.ndarray | None = None, *, bounded: bool = False) -> list[dict[str, Any]]:
        """Returns {'value', 'ci', 'n_queries', 'n_patients'} of sum(above) / sum(below), columns [n, C] over queries `rows` [n].

        A ratio that is undefined has value and interval None; n_queries counts rows with `below` above 0.
        """
        owner = self.patient if rows is None else self.patient[rows]
        tops, bottoms = (np.stack([uncertainty.patient_sums(owner, column, self.n_patients) for column in part.T], axis=1) for part in (above, below))
        found = uncertainty.intervals(tops, bottoms, self.settings)
        out = []
        for column in range(above.shape[1]):
            held = bottoms[:, column] > 0
            shown: dict[str, Any] = {"value": None, "ci": None, "n_queries": int((below[:, column] > 0).sum()), "n_patients": int(held.sum())}
            if held.any():
                shown |= {"value": float(found.estimate[column]), "ci": self._interval(found, column, tops[:, column], bottoms[:, column], bounded)}
            out.append(shown)
        return out

    def _interval(self, found: uncertainty.Interval, column: int, tops: np.ndarray, bottoms: np.ndarray, bounded: bool) -> dict[str, Any] | None:
        method, low, high, se = "patient_bca", float(found.low[column]), float(found.high[column]), float(found.se[column])
        exact = uncertainty.no_spread(tops, bottoms, self.settings.level) if bounded else None
        if exact is not None:
            method, (low, high) = "exact_extreme", exact
        if not np.isfinite([low, high, se]).all():
            return None
        return {"method": method, "level": self.settings.level, "low": low, "high": high, "B": self.settings.replicates, "se": se}
