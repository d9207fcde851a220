"""The per-query table: keys and the integers M, g, t of every stratum. All metrics are computed from it, and from nothing else.

It is written as Parquet beside each results file, one row per (direction, stratum, query), so that every number can be
rebuilt without a device. It tells who is at risk: keep it where the data lives.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.audit import inputs as audit_inputs
from relink_jax.retrieval.counted import I2R, LABEL_MATCHED, DirectionCounts, StratumCounts

COLUMNS = ("query_key", "patient_key", "direction", "stratum", "M", "g", "t")
EXPOSURE = "exposure"


@dataclasses.dataclass(frozen=True)
class Queries:
    """Queries of one direction: pseudonyms [Q] (object arrays of str) and counts per stratum, in one order.

    `exposure`: whether the model's training has seen each query's study ('seen', 'unseen' or 'unknown'), object [Q]; None where nobody says.
    """

    query_key: np.ndarray
    patient_key: np.ndarray
    strata: dict[str, StratumCounts]
    exposure: np.ndarray | None = None


def from_counts(inputs: audit_inputs.AuditInputs, counted: Mapping[str, DirectionCounts]) -> dict[str, Queries]:
    """Returns the table of each direction; `label_matched` only when some study has labels."""
    tables = {}
    for direction, found in counted.items():
        studies = inputs.image_study if direction == I2R else found.query
        keys = inputs.image_key if direction == I2R else inputs.study_key[found.query]
        strata = {name: value for name, value in found.strata.items() if name != LABEL_MATCHED or inputs.study_has_labels.any()}
        exposure = None if inputs.study_exposure is None else inputs.study_exposure[studies]
        tables[direction] = Queries(keys, inputs.patient_key[inputs.study_patient[studies]], strata, exposure)
    return tables


def to_columns(tables: Mapping[str, Queries]) -> dict[str, Any]:
    """Returns the table's columns, directions and strata end to end."""
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    told = all(queries.exposure is not None for queries in tables.values())
    columns |= {EXPOSURE: []} if told else {}
    for direction, queries in tables.items():
        for stratum, counted in queries.strata.items():
            n = len(queries.query_key)
            parts: tuple[Any, ...] = (queries.query_key, queries.patient_key, [direction] * n, [stratum] * n, counted.M, counted.g, counted.t)
            for name, part in zip(COLUMNS, parts, strict=True):
                columns[name].extend(part.tolist() if isinstance(part, np.ndarray) else part)
            if told and queries.exposure is not None:
                columns[EXPOSURE].extend(queries.exposure.tolist())
    return columns


def from_columns(columns: Mapping[str, np.ndarray]) -> dict[str, Queries]:
    """Returns the tables of columns written by `to_columns`.

    Raises: StoreError: columns missing, or strata of one direction that do not hold the same queries in the same order.
    """
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise errors.StoreError(errors.describe("columns missing", "per-query table", ", ".join(COLUMNS), f"no {', '.join(missing)}"))
    tables: dict[str, Queries] = {}
    directions, strata = columns["direction"].astype(str), columns["stratum"].astype(str)
    for direction in dict.fromkeys(directions):
        for stratum in dict.fromkeys(strata[directions == direction]):
            rows = (directions == direction) & (strata == stratum)
            counted = StratumCounts(*(columns[name][rows].astype(np.int64) for name in ("M", "g", "t")))
            keys = columns["query_key"][rows]
            exposure = columns[EXPOSURE][rows] if EXPOSURE in columns else None
            known = tables.setdefault(direction, Queries(keys, columns["patient_key"][rows], {}, exposure))
            if len(keys) != len(known.query_key) or (keys != known.query_key).any():
                raise errors.StoreError(
                    errors.describe("rows out of order", "per-query table", "the same queries in every stratum", f"others in {direction} {stratum}")
                )
            known.strata[stratum] = counted
    return tables


def patients(tables: Mapping[str, Queries]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns (patient keys in order of first appearance, patient number per query of each direction).

    Numbers follow the rows, not the keys: keys differ between workdirs, and the bootstrap must draw the same patients in each.
    """
    number: dict[str, int] = {}
    found = {direction: np.array([number.setdefault(str(key), len(number)) for key in queries.patient_key], np.int64) for direction, queries in tables.items()}
    return np.array(list(number)), found
