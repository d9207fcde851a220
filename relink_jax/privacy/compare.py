"""Privacy ledgers side by side: same quantities, common deltas, and what may not be compared.

Epsilons of different privacy units or neighboring relations are different promises, and epsilons at different deltas are points of
different curves. This module prices every run again from its events at the same deltas, converts a pair-level claim into what
it gives a patient with k pairs, and says in words where a ranking would mislead.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.privacy import accounting
from relink_jax.privacy import ledger as ledgers

COMMON_DELTAS = (1e-5, 1e-6)
PAIRS_PER_PATIENT = (1, 2, 3, 5, 10)
_COLUMNS = 4


@dataclasses.dataclass(frozen=True)
class Run:
    """One validated ledger, named by the last two directories of its path."""

    name: str
    ledger: dict[str, Any]


def read_runs(paths: Sequence[pathlib.Path | str]) -> list[Run]:
    """Returns the ledgers at `paths`: files, or directories searched for `privacy_ledger.json`.

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


def compare(paths: Sequence[pathlib.Path | str]) -> str:
    """Returns the side-by-side table, the common-delta table, the group-privacy table and the warnings, as text; see `read_runs`."""
    runs = read_runs(paths)
    parts = [_table("Runs as recorded", runs, _FACTS)]
    deltas = sorted({run.ledger["epsilon"]["delta"] for run in runs} | set(COMMON_DELTAS), reverse=True)
    parts.append(_table("Epsilon (RDP | PLD) priced again at common deltas", runs, [(f"delta {delta:g}", _at(delta)) for delta in deltas]))
    pairs = [run for run in runs if run.ledger["dataset"]["unit"] == "pair" and run.ledger["data_used"]]
    if pairs:
        rows = [(f"{k} pair{'s' if k > 1 else ''}", _group(k)) for k in PAIRS_PER_PATIENT]
        parts.append(_table("What a pair-level run gives a patient who owns k pairs (PLD epsilon at the run's delta, exact)", pairs, rows))
    notes = warnings(runs)
    parts.append("Warnings\n" + "\n".join(f"  ! {note}" for note in notes) if notes else "No warnings: same unit, relation and delta.")
    parts.append("Epsilon bounds what one training unit adds to the released heads; it bounds nothing about people outside the training set.")
    return "\n\n".join(parts) + "\n"


def warnings(runs: Sequence[Run]) -> list[str]:
    """Returns one sentence per reason why these runs' epsilons may not be ranked or trusted as they stand."""
    notes: list[str] = []
    on_data = [run.ledger for run in runs if run.ledger["data_used"]]
    for what, values in (
        ("privacy units", {ledger["dataset"]["unit"] for ledger in on_data}),
        ("neighboring relations", {ledger["events"][0]["relation"] for ledger in on_data}),
        ("numbers of units", {ledger["dataset"]["n_units_declared"] for ledger in on_data}),
    ):
        if len(values) > 1:
            ranked = "compare with care" if what == "numbers of units" else "not comparable as they stand, do not rank them"
            notes.append(f"{what} differ ({', '.join(sorted(map(str, values)))}): {ranked}.")
    if len({ledger["epsilon"]["delta"] for ledger in on_data}) > 1:
        notes.append("recorded deltas differ: compare the rows priced again at a common delta, not the recorded epsilons.")
    for run in runs:
        notes += [f"{run.name}: {note}" for note in _own_warnings(run.ledger)]
    names = {ledger["dataset"]["name"] for ledger in on_data}
    if len(on_data) > 1 and len(names) == 1 and None not in names:
        notes.append("these runs name the same cohort: if more than one is released, their events compose and the total is larger than any of them.")
    return notes


def _own_warnings(ledger: dict[str, Any]) -> list[str]:
    notes: list[str] = []
    if ledger["epsilon"]["infinite"]:
        notes.append("not private, epsilon is infinite" + (" (fixed random seed)." if ledger["noise"]["seed_disclosed"] else " (no noise)."))
    if ledger["objective"]["decomposition"] == "none":
        notes.append("its objective has no bounded sensitivity.")
    if ledger["data_used"] and ledger["epsilon"]["delta"] * ledger["dataset"]["n_units_declared"] >= 1:
        notes.append("delta times the number of units is not below 1.")
    if ledger["steps"]["status"] != "complete":
        notes.append(f"status is {ledger['steps']['status']}, epsilon counts its {'planned' if ledger['steps']['status'] == 'planned' else 'executed'} steps.")
    if ledger["clipping"]["self_test"] != "passed" and ledger["steps"]["status"] != "planned":
        notes.append("its sensitivity self-test did not pass.")
    rdp, pld = ledger["epsilon"]["rdp"], ledger["epsilon"]["pld"]
    if rdp and pld and rdp > 1.5 * pld:
        notes.append(f"RDP states {rdp / pld:.1f} times the PLD epsilon: the accountants differ more than the runs may.")
    return notes


def _number(value: float | None, infinite: bool = False) -> str:
    if infinite or (value is not None and math.isinf(value)):
        return "infinite"
    return "-" if value is None else f"{value:.4g}"


def _epsilon(view: str) -> Callable[[dict[str, Any]], str]:
    return lambda ledger: _number(ledger["epsilon"][view], ledger["epsilon"]["infinite"])


def _all_runs(ledger: dict[str, Any]) -> str:
    total = ledger["epsilon_all_runs"]
    return (
        "other unit earlier"
        if total["mixed_units"]
        else f"{_number(total['rdp'], total['infinite'])} | {_number(total['pld'], total['infinite'])} ({total['runs']})"
    )


def _replace_one(ledger: dict[str, Any]) -> str:
    swapped = dataclasses.replace(ledgers.mechanism_of(ledger), relation="replace_one")
    return _number(accounting.price(swapped, ledger["epsilon"]["delta"]).pld)


def _advantage(ledger: dict[str, Any]) -> str:
    epsilon, delta = ledger["epsilon"]["rdp"], ledger["epsilon"]["delta"]
    if not ledger["data_used"]:
        return "0"
    return f"{1.0 if epsilon is None else accounting.membership_advantage(epsilon, delta):.3f}"


def _noise_per_signal(ledger: dict[str, Any]) -> str:
    return f"{ledger['noise']['std_absolute'] * math.sqrt(ledger['optimizer']['n_parameters']) / ledger['sampling']['expected']:.4g}"


def _at(delta: float) -> Callable[[dict[str, Any]], str]:
    def cell(ledger: dict[str, Any]) -> str:
        mechanism = ledgers.mechanism_of(ledger)
        values: list[str] = []
        for view in accounting.VIEWS:
            event = accounting.build_event(mechanism, view)
            values.append(_number(None if event is None else accounting.epsilon_of(event, view, mechanism.relation, [delta])[0][0]))
        return " | ".join(values)

    return cell


def _group(pairs: int) -> Callable[[dict[str, Any]], str]:
    return lambda ledger: _number(accounting.group_epsilon(ledgers.mechanism_of(ledger), pairs, ledger["epsilon"]["delta"]))


_FACTS: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("run id", lambda ledger: ledger["run_id"]),
    ("uses private data", lambda ledger: "yes" if ledger["data_used"] else "no (noise-only control)"),
    ("privacy unit", lambda ledger: ledger["dataset"]["unit"]),
    ("number of units N", lambda ledger: str(ledger["dataset"]["n_units_declared"])),
    ("neighboring relation", lambda ledger: ledger["events"][0]["relation"]),
    ("objective", lambda ledger: ledger["objective"]["id"]),
    ("decomposition", lambda ledger: ledger["objective"]["decomposition"]),
    ("sampling", lambda ledger: f"{ledger['sampling']['kind']}, q = {ledger['sampling']['q']}"),
    ("expected batch B", lambda ledger: str(ledger["sampling"]["expected"])),
    ("l2_norm_clip C", lambda ledger: _number(ledger["clipping"]["norm"])),
    ("noise_multiplier sigma", lambda ledger: _number(ledger["noise"]["multiplier_vs_sensitivity"])),
    ("noise norm per step / B", _noise_per_signal),
    ("iterations T", lambda ledger: f"{ledger['steps']['executed']} of {ledger['steps']['planned']} ({ledger['steps']['status']})"),
    ("delta", lambda ledger: f"{ledger['epsilon']['delta']:g}"),
    ("delta x N", lambda ledger: f"{ledger['epsilon']['delta'] * ledger['dataset']['n_units_declared']:.2g}"),
    ("epsilon, RDP (headline)", _epsilon("rdp")),
    ("epsilon, PLD", _epsilon("pld")),
    ("epsilon, CLT (no bound)", lambda ledger: _number(ledger["epsilon"]["gdp_clt_approximation"])),
    ("epsilon, replace-one, PLD", _replace_one),
    ("with earlier runs (count)", _all_runs),
    ("membership advantage", _advantage),
    ("randomness", lambda ledger: ledger["noise"]["rng_mode"]),
]


def _table(title: str, runs: Sequence[Run], rows: Sequence[tuple[str, Callable[[dict[str, Any]], str]]]) -> str:
    """Returns quantities as rows and runs as columns, at most four columns side by side."""
    blocks: list[str] = []
    for start in range(0, len(runs), _COLUMNS):
        some = runs[start : start + _COLUMNS]
        cells = [["", *[run.name for run in some]], *[[label, *[cell(run.ledger) for run in some]] for label, cell in rows]]
        widths = [max(len(row[column]) for row in cells) for column in range(len(some) + 1)]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
        lines.insert(1, "  ".join("-" * width for width in widths))
        blocks.append("\n".join(lines))
    return f"{title}\n" + "\n\n".join(blocks)
