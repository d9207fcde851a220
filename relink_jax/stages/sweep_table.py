"""Every cell of a sweep with its figure, from the results files: rows for CSV, and the same as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax.stages import sweep_grid, sweep_plan, sweep_results, sweep_state

UNKNOWN_SET = "not known yet"
_SHOWN = ("model", "heads", "dataset", "stratum", "pool", "recall_at_1", "interval", "chance", "lift", "queries", "status")


def rows(states: Sequence[sweep_state.State]) -> list[dict[str, Any]]:
    """Returns a row for every cell of every evaluation set, with the numbers as the results file holds them, None where there is no figure.

    Columns: model, heads, dataset, stratum, pool ('full' for all candidates), candidates (N, the most a query has where pool is full),
    recall_at_1 of image queries with low and high ends of its interval, chance, lift with its ends, queries, patients, status.
    """
    return [_row(state, cell, name) for state in states for name in (state.sets or (UNKNOWN_SET,)) for cell in state.job.cells]


def text(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as a table, and how many cells have a figure."""
    shown = [_SHOWN, *(tuple(_texts(row)[name] for name in _SHOWN) for row in found)]
    return f"{sweep_plan.table(shown)}\n\n{counted(found)}"


def counted(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns how many of the rows have a figure, as a sentence."""
    present, missing = (sum(row["status"] == status for row in found) for status in (sweep_state.PRESENT, sweep_state.MISSING))
    few = len(found) - present - missing
    told = f"{present:,} of {len(found):,} cells have a figure, {missing:,} are missing"
    return told + (f", {few:,} cannot have one, since no query has that many candidates" if few else "")


def _row(state: sweep_state.State, cell: sweep_grid.Cell, name: str) -> dict[str, Any]:
    document = state.documents.get((cell.heads, name))
    entry: Mapping[str, Any] = (document and sweep_results.figure(document, cell)) or {}
    interval = entry.get("ci") or {}
    return {
        **{"model": cell.model, "heads": cell.heads, "dataset": name, "stratum": cell.stratum},
        "pool": sweep_grid.FULL if cell.pool is None else cell.pool,
        "candidates": entry.get("N"),
        "recall_at_1": entry.get("value"),
        **{end: interval.get(end) for end in ("low", "high")},
        **{number: entry.get(number) for number in ("chance", "lift")},
        **{end: interval.get(end) for end in ("lift_low", "lift_high")},
        **{"queries": entry.get("n_queries"), "patients": entry.get("n_patients")},
        "status": state.status(cell, name),
    }


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    """Returns a row's columns as they are read: rounded, '-' where there is no figure."""
    named = {name: str(row[name]) for name in ("model", "heads", "dataset", "stratum", "status")}
    pool = row["pool"] if row["pool"] == sweep_grid.FULL else f"{row['pool']:,}"
    if row["recall_at_1"] is None:
        return {**named, "pool": pool, **dict.fromkeys(("recall_at_1", "interval", "chance", "lift", "queries"), "-")}
    figures = {"recall_at_1": f"{row['recall_at_1']:.4f}", "chance": f"{row['chance']:.2g}", "lift": f"{row['lift']:.3g}", "queries": f"{row['queries']:,}"}
    return {**named, **figures, "pool": pool, "interval": f"[{row['low']:.4f}, {row['high']:.4f}]"}
