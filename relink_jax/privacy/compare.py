"""Privacy ledgers side by side, as one JSON-ready document: the same quantities, a common delta, and what may not be compared.

Epsilons of different privacy units or neighboring relations are different promises, and epsilons at different deltas are points of
different curves. Every run is priced again from its own mechanism at one delta, and runs are ranked only where the promise is the same,
or where the caller asks for a conversion, which is then labelled. `compare_text` prints the document; the report room draws it.

Numbers in the document: a float, None where an accountant has no bound for the event, or `INFINITE` where nothing is promised.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.privacy import accounting, compare_conversions, compare_curves, compare_flags, compare_totals
from relink_jax.privacy import ledger as ledgers

SCHEMA_VERSION = "1.0"
INFINITE = compare_conversions.INFINITE


@dataclasses.dataclass(frozen=True)
class Run:
    """One validated ledger, named by the last two directories of its path."""

    name: str
    ledger: Mapping[str, Any]


def read_runs(paths: Sequence[pathlib.Path | str]) -> list[Run]:
    """Returns the ledgers at `paths`: files, or directories searched for `privacy_ledger.json`; a run found twice counts once.

    Raises:
        UsageError: no path given.
        StoreError: a path with no ledger, or a ledger that fails validation.
    """
    if not paths:
        raise errors.UsageError("runs missing on the command line: expected one or more ledgers or directories, found none")
    runs: list[Run] = []
    for given in map(pathlib.Path, paths):
        found = sorted(given.rglob(ledgers.FILE_NAME)) if os.path.isdir(given) else [given]
        if not found:
            raise errors.StoreError(errors.describe("no run", f"directory {given.name!r}", f"at least one {ledgers.FILE_NAME}", "none"))
        for path in found:
            parents = [part.name for part in (path.resolve().parent.parent, path.resolve().parent) if part.name]
            runs.append(Run("/".join(parents), ledgers.load(path)))
    unique = {run.ledger["run_id"]: run for run in runs}
    return list(unique.values())


def comparison(
    runs: Sequence[Run],
    *,
    delta: float | None = None,
    convert: bool = False,
    per_patient: int | None = None,
    curves: bool = False,
    track: Callable[[Sequence[Run]], Iterable[Run]] = iter,
) -> dict[str, Any]:
    """Returns runs, warnings, ranking, compositions and conversions as one JSON-ready document.

    Args:
        delta: common delta of the ranking; default the smallest that a run on data recorded.
        convert: price runs of different unit or relation as one promise, zero-out of a patient, and label how.
        per_patient: pairs (or studies) of a patient that such a conversion assumes; default the cap a ledger declares (`k_max`).
        curves: also compute what only the page shows: curves and the noise another accountant would need. Takes seconds per run.
        track: wraps the runs as they are priced, to show progress.

    Raises: UsageError: a delta outside (0, 1), or a conversion without the number of pairs per patient; UnsoundError: a delta too large to price.
    """
    if delta is not None and not 0 < delta < 1:
        raise errors.UsageError(errors.describe("delta", "flag --delta", "a number between 0 and 1", f"{delta:g}"))
    on_data = [run.ledger for run in runs if run.ledger["data_used"]]
    common = delta if delta is not None else min([ledger["epsilon"]["delta"] for ledger in on_data] or [_any_delta(runs)])
    promises = compare_conversions.promises({run.name: run.ledger for run in runs}, common, per_patient) if convert else {}
    entries = [_entry(run, common, promises.get(run.name), curves) for run in track(runs)]
    ranking, refusal = None, ""
    try:
        ranking = rank(entries)
    except errors.UsageError as error:
        refusal = str(error)
    return {
        "kind": "relink accountants compare",
        "schema_version": SCHEMA_VERSION,
        "common_delta": common,
        "converted": convert,
        "runs": entries,
        "flags": compare_flags.across(entries),
        "ranking": ranking,
        "not_ranked": refusal,
        "compositions": compare_totals.compositions({run.name: run.ledger for run in runs}, common),
    }


def _any_delta(runs: Sequence[Run]) -> float:
    """Returns the smallest delta that any run recorded, noise-only controls included."""
    return min(run.ledger["epsilon"]["delta"] for run in runs)


def rank(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the runs on data in order of epsilon at the common delta, smallest (strongest promise) first, with the accountant that ranked them.

    By RDP, or by PLD where RDP has no bound for one of them. Noise-only controls read no data and are not ranked.

    Raises: UsageError: runs of different unit or relation that were not converted to one promise; names both.
    """
    on_data = [entry for entry in entries if entry["facts"]["data_used"]]
    for what in ("unit", "relation"):
        values = sorted({(entry["promise"] or entry["facts"])[what] for entry in on_data})
        if len(values) > 1:
            named = " and ".join(f"{value} ({_first(on_data, what, value)})" for value in values)
            words = {"unit": "privacy units", "relation": "neighboring relations"}[what]
            raise errors.UsageError(errors.describe("ranking", "these runs", f"one of each, or --convert: {words} that are equal", named))
    priced = {entry["name"]: entry["promise"] or entry["epsilon"]["common"] for entry in on_data}
    view = "rdp" if all(one["rdp"] is not None for one in priced.values()) else "pld"
    rows = [{"name": name, "epsilon": one[view], "label": one.get("label", "")} for name, one in priced.items() if one[view] is not None]
    rows.sort(key=lambda row: (math.inf if row["epsilon"] == INFINITE else row["epsilon"], row["name"]))
    return {"accountant": view, "rows": rows}


def _first(entries: Sequence[Mapping[str, Any]], what: str, value: str) -> str:
    return next(entry["name"] for entry in entries if entry["facts"][what] == value)


def _entry(run: Run, common: float, promise: Mapping[str, Any] | None, curves: bool) -> dict[str, Any]:
    ledger, mechanism = run.ledger, compare_conversions.mechanism_of(run.ledger)
    own = {**{view: _own(ledger, view) for view in accounting.VIEWS}, "clt": ledger["epsilon"]["gdp_clt_approximation"]}
    priced = accounting.price(mechanism, common)
    at_common = {"rdp": compare_conversions.shown(priced.rdp), "pld": compare_conversions.shown(priced.pld), "clt": accounting.gaussian_clt(mechanism, common)}
    entry = {
        "name": run.name,
        "facts": _facts(ledger, mechanism),
        "epsilon": {"own": {"delta": ledger["epsilon"]["delta"], **own}, "common": {"delta": common, **at_common}, "gap": _gap(own)},
        "infinite": ledger["epsilon"]["infinite"],
        "all_runs": dict(ledger["epsilon_all_runs"]),
        "promise": None if promise is None else dict(promise),
        "flags": compare_flags.own(ledger),
        "conversions": compare_conversions.conversions(ledger, mechanism),
        "per_patient": compare_conversions.per_patient_table(ledger, mechanism),
        "tuning": compare_conversions.tuning(mechanism, ledger["epsilon"]["delta"]),
        "audit": compare_flags.audits(ledger),
        "statement": ledger["statement"],
    }
    return {**entry, "curves": compare_curves.curves(ledger, mechanism)} if curves else entry


def _own(ledger: Mapping[str, Any], view: str) -> float | str | None:
    return INFINITE if ledger["epsilon"]["infinite"] else ledger["epsilon"][view]


def _gap(own: Mapping[str, Any]) -> float | None:
    rdp, pld = own["rdp"], own["pld"]
    return rdp / pld if isinstance(rdp, float) and isinstance(pld, float) and pld > 0 else None


def _facts(ledger: Mapping[str, Any], mechanism: accounting.Mechanism) -> dict[str, Any]:
    dataset, sampling, noise, steps = ledger["dataset"], ledger["sampling"], ledger["noise"], ledger["steps"]
    delta, units = ledger["epsilon"]["delta"], dataset["n_units_declared"]
    return {
        "run_id": ledger["run_id"],
        "data_used": ledger["data_used"],
        "dataset": dataset["name"],
        "unit": dataset["unit"],
        "n_units": units,
        "pairs_per_unit": dataset["pairs_per_unit_per_step"],
        "relation": ledger["events"][0]["relation"],
        "objective": ledger["objective"]["id"],
        "decomposition": ledger["objective"]["decomposition"],
        "sampling": sampling["kind"],
        "sampling_probability": sampling["q"],
        "expected_batch_size": sampling["expected"],
        "truncation": sampling["truncation"],
        "l2_norm_clip": ledger["clipping"]["norm"],
        "noise_multiplier": noise["multiplier_vs_sensitivity"],
        "noise_stddev": noise["std_absolute"],
        "noise_per_signal": noise["std_absolute"] * math.sqrt(ledger["optimizer"]["n_parameters"]) / sampling["expected"],
        "iterations_counted": mechanism.iterations,
        "iterations_planned": steps["planned"],
        "status": steps["status"],
        "delta": delta,
        "delta_times_units": delta * units,
        "randomness": noise["rng_mode"],
        "released": len(ledger["released"]),
    }
