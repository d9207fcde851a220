"""What is known of every image query beyond its counts by cosine: counts under attacks, tiers and blocks, scores, attributes.

It is written as Parquet beside the per-query table, one row per image query in the same order, so that every section of a results file can be
rebuilt without a device. It tells who is at risk, and of what kind they are: keep it where the data lives.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.audit import queries, right_patient
from relink_jax.retrieval.counted import StratumCounts

COSINE = "cosine"
SHUFFLE = "shuffle"  # the null experiment, kept like an attack
_SINGLE = ("duplicates", "label_code")
_INTEGERS = ("M", "g", "t")


@dataclasses.dataclass(frozen=True)
class PerImage:
    """One row per image query [Q].

    Attributes:
        attacks: counts by label of the attack, then stratum. tiers: counts in each tier of hard negatives, nearest first.
        blocks: other-patient counts in each jackknife block of the candidates; block: of the query's patient, int32 [Q], None without.
        scores: of the best attack, 'own', 'best_impostor' and 'second_impostor', float32 each (see `decisions`), and by cosine 'cosine_own';
            'log2_posterior' by cosine, float64. attributes: of the query's study, float64 or object each.
        duplicates: other-patient studies with the very text of the truth, int64 [Q]. label_code: of the query's study, int64 [Q], -1 without
            labels; None where nobody labelled.
        siblings: the other studies of the patient; None where they were not counted.
        evaluated: bool [Q], queries on which attacks are judged; the others gave the attacker his auxiliary pairs.
    """

    evaluated: np.ndarray
    attacks: Mapping[str, Mapping[str, StratumCounts]] = dataclasses.field(default_factory=dict)
    tiers: tuple[StratumCounts, ...] = ()
    block: np.ndarray | None = None
    blocks: tuple[StratumCounts, ...] = ()
    scores: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    attributes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    duplicates: np.ndarray | None = None
    label_code: np.ndarray | None = None
    siblings: right_patient.Siblings | None = None

    def seen_by(self, label: str, table: queries.Queries) -> queries.Queries:
        """Returns the table of image queries as an attack has them; itself for plain cosine.

        Raises: DataError: an attack that was not measured.
        """
        if label == COSINE:
            return table
        if label not in self.attacks:
            raise errors.DataError(errors.describe("attack not measured", "audit result", f"one of {', '.join((COSINE, *self.attacks))}", repr(label)))
        return dataclasses.replace(table, strata=dict(self.attacks[label]))


def to_columns(table: PerImage) -> dict[str, Any]:
    """Returns the columns of the Parquet table."""
    columns: dict[str, Any] = {"evaluated": table.evaluated}
    for label, strata in table.attacks.items():
        for stratum, counted in strata.items():
            columns |= {f"attack/{label}/{stratum}/{name}": getattr(counted, name) for name in _INTEGERS}
    for number, counted in enumerate(table.tiers):
        columns |= {f"tier/{number}/{name}": getattr(counted, name) for name in _INTEGERS}
    for kind, named in (("score", table.scores), ("attribute", table.attributes)):
        columns |= {f"{kind}/{name}": values for name, values in named.items()}
    if table.block is not None:
        columns["block"] = table.block
        columns |= {f"block/{name}": list(np.stack([getattr(one, name) for one in table.blocks], axis=1)) for name in _INTEGERS}
    columns |= {name: values for name in _SINGLE if (values := getattr(table, name)) is not None}
    if table.siblings is not None:
        columns |= {f"sibling/{name}": values for name, values in right_patient.to_columns(table.siblings).items()}
    return columns


def from_columns(columns: Mapping[str, np.ndarray]) -> PerImage:
    """Returns the table of columns written by `to_columns`; `StoreError` for columns that do not belong to one."""
    try:
        return _from_columns(columns)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise errors.StoreError(errors.describe("per-image table", "results", "the columns of an audit", f"others ({type(error).__name__})")) from error


def _from_columns(columns: Mapping[str, np.ndarray]) -> PerImage:
    attacks: dict[str, dict[str, StratumCounts]] = {}
    tiers: list[StratumCounts] = []
    named: dict[str, dict[str, np.ndarray]] = {"score": {}, "attribute": {}, "sibling": {}}
    for column in columns:
        kind, _, rest = column.partition("/")
        if kind in named:
            named[kind][rest] = columns[column]
        elif kind in ("attack", "tier") and rest.endswith("/M"):
            counted = StratumCounts(*(columns[f"{column[:-1]}{name}"].astype(np.int64) for name in _INTEGERS))
            if kind == "tier":
                tiers.append(counted)
            else:
                label, stratum = rest.removesuffix("/M").split("/")
                attacks.setdefault(label, {})[stratum] = counted
    block = columns.get("block")
    blocks: tuple[StratumCounts, ...] = ()
    if block is not None:
        wide = [np.stack([np.asarray(row, np.int64) for row in columns[f"block/{name}"]]) for name in _INTEGERS]
        blocks = tuple(StratumCounts(*(array[:, number] for array in wide)) for number in range(wide[0].shape[1]))
    siblings = right_patient.from_columns(named["sibling"]) if named["sibling"] else None
    return PerImage(
        columns["evaluated"].astype(bool),
        attacks,
        tuple(tiers),
        block,
        blocks,
        named["score"],
        named["attribute"],
        siblings=siblings,
        **{name: columns.get(name) for name in _SINGLE},
    )
