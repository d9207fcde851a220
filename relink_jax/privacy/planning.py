"""A DP-SGD run planned before it starts: any one of noise, steps, batch and epsilon from the other three, and what the epsilon means.

Everything is arithmetic on public numbers; no data is read. The claim is add/remove or zero-out of one unit under Poisson sampling.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.privacy import accounting, compare_text

SCHEMA_VERSION = "1.0"
KNOWN = {"batch": "expected_batch_size", "iterations": "iterations", "noise_multiplier": "noise_multiplier", "epsilon": "epsilon"}
TABLES = {"short": ((0.5, 1, 2), (1, 5, 20)), "full": ((0.25, 0.5, 1, 2, 4), (1, 3, 5, 10, 20)), "none": ((), ())}
_Track = Callable[[Sequence[tuple[int, float]]], Iterable[tuple[int, float]]]


def plan(
    *,
    units: int,
    delta: float,
    batch: int | None = None,
    iterations: int | None = None,
    epochs: float | None = None,
    noise_multiplier: float | None = None,
    epsilon: float | None = None,
    accountant: str = "rdp",
    table: str = "short",
    track: _Track = iter,
) -> dict[str, Any]:
    """Returns {plan, meaning, warnings, table} as a JSON-ready document.

    Args:
        units: number N of privacy units in training, public.
        batch, iterations, noise_multiplier, epsilon: three of them; the fourth is found, whole numbers as large as epsilon allows.
        epochs: passes over the units, in place of `iterations`: ceil(epochs x N / B); needs `batch`.
        accountant: 'rdp', the headline, or 'pld'; the plan is priced by both.
        table: 'short', 'full' or 'none': noise multipliers for the plan's epsilon at other batches and epochs.
        track: wraps the table's cells as they are computed, to show progress.

    Raises: UsageError: not exactly three given, a value out of range, or a target that nothing reaches.
    """
    if table not in TABLES:
        raise errors.UsageError(errors.describe("table", "flag --table", f"one of {', '.join(TABLES)}", repr(table)) + errors.suggest(table, TABLES))
    steps = _steps(units, batch, iterations, epochs)
    given = {"batch": batch, "iterations": steps, "noise_multiplier": noise_multiplier, "epsilon": epsilon}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) != 1:
        found = ", ".join(f"--{name}" for name, value in given.items() if value is not None) or "none of them"
        expected = "exactly three of --batch, --iterations (or --epochs), --noise_multiplier and --epsilon"
        raise errors.UsageError(errors.describe("plan", "'relink accountants plan'", expected, found))
    solved = accounting.solve(n_units=units, delta=delta, accountant=accountant, **{KNOWN[name]: value for name, value in given.items()})  # type: ignore[arg-type]
    return {
        "kind": "relink accountants plan",
        "schema_version": SCHEMA_VERSION,
        "plan": {**dataclasses.asdict(solved), "epochs": solved.iterations * solved.expected_batch_size / units},
        "meaning": _meaning(solved),
        "warnings": _warnings(solved),
        "table": {"epsilon": solved.epsilon, "accountant": accountant, "rows": _table(solved, table, track)},
    }


def _steps(units: int, batch: int | None, iterations: int | None, epochs: float | None) -> int | None:
    if epochs is None:
        return iterations
    if iterations is not None:
        raise errors.UsageError(errors.describe("steps", "'relink accountants plan'", "--iterations or --epochs", "both"))
    if batch is None:
        raise errors.UsageError(errors.describe("epochs", "'relink accountants plan'", "--batch beside --epochs, or --iterations in its place", "no --batch"))
    if not (epochs > 0 and batch >= 1 and units >= 1):
        raise errors.UsageError(
            errors.describe("epochs", "'relink accountants plan'", "positive --units, --batch and --epochs", f"{units}, {batch}, {epochs:g}")
        )
    return accounting.steps_of(units, batch, epochs)


def _meaning(solved: accounting.Solution) -> dict[str, float]:
    """Returns what the chosen accountant's epsilon allows an attacker: advantage, and mean belief from a prior of 50%."""
    spent = solved.rdp if solved.accountant == "rdp" else solved.pld
    return {
        "membership_advantage": accounting.membership_advantage(spent, solved.delta),
        "posterior_of_even_odds": accounting.posterior(0.5, spent, solved.delta),
    }


def _warnings(solved: accounting.Solution) -> list[str]:
    warned = []
    if solved.delta * solved.n_units >= 1:
        warned.append(
            f"delta x N = {solved.delta * solved.n_units:.3g} is not below 1: such a delta permits publishing a whole record; choose one below {1 / solved.n_units:.2g}."
        )
    if solved.rdp > 1.5 * solved.pld > 0:
        warned.append(f"RDP states {solved.rdp / solved.pld:.1f} times the PLD epsilon here; by PLD the same promise needs less noise (--accountant=pld).")
    if max(solved.rdp, solved.pld) > 10:
        warned.append("an epsilon above 10 promises next to nothing to anyone.")
    return warned


def _table(solved: accounting.Solution, table: str, track: _Track) -> list[dict[str, Any]]:
    factors, epochs = TABLES[table]
    batches = sorted({round(factor * solved.expected_batch_size) for factor in factors if 1 <= factor * solved.expected_batch_size <= solved.n_units})
    cells: list[tuple[int, float]] = [(batch, passes) for batch in batches for passes in epochs]
    rows: list[dict[str, Any]] = []
    for batch, passes in track(cells):
        rows += accounting.sigma_table(solved.n_units, solved.epsilon, solved.delta, [batch], [passes], solved.accountant)
    return rows


def text(document: Mapping[str, Any]) -> str:
    """Returns the plan, what it means, the table and the warnings as text."""
    found, meaning = document["plan"], document["meaning"]
    marked = {name: "  <- solved" if name == found["solved_for"] else "" for name in KNOWN.values()}
    by = found["accountant"].upper()
    lines = [
        f"Plan for N = {found['n_units']:,} privacy units, Poisson sampling, add/remove or zero-out, solved by {by}",
        f"  expected batch B    {found['expected_batch_size']:,}{marked['expected_batch_size']}",
        f"  iterations T        {found['iterations']:,} ({found['epochs']:.3g} epochs){marked['iterations']}",
        f"  noise_multiplier    {found['noise_multiplier']:.5g}{marked['noise_multiplier']}",
        f"  delta               {found['delta']:g} (delta x N = {found['delta'] * found['n_units']:.2g})",
        f"  epsilon by RDP      {found['rdp']:.5g}{marked['epsilon'] if by == 'RDP' else ''}",
        f"  epsilon by PLD      {found['pld']:.5g}{marked['epsilon'] if by == 'PLD' else ''}",
        "",
        f"What the {by} epsilon means for one unit",
        f"  a test for membership gains at most {meaning['membership_advantage']:.3f} in true minus false positive rate",
        f"  an attacker at even odds ends at most {100 * meaning['posterior_of_even_odds']:.1f}% sure, on average",
        "  it bounds what one training unit adds to the released heads, and nothing about people outside the training set",
    ]
    blocks = ["\n".join(lines), _table_text(document["table"])]
    blocks.append("\n".join(f"! {warning}" for warning in document["warnings"]))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table_text(table: Mapping[str, Any]) -> str:
    rows = table["rows"]
    if not rows:
        return ""
    epochs = list(dict.fromkeys(row["epochs"] for row in rows))
    cells = {(row["expected_batch_size"], row["epochs"]): f"{row['noise_multiplier']:.3f}" for row in rows}
    batches = list(dict.fromkeys(row["expected_batch_size"] for row in rows))
    grid = [["batch B", *[f"{passes:g} epochs" if passes != 1 else "1 epoch" for passes in epochs]]]
    grid += [[f"{batch:,}", *[cells[batch, passes] for passes in epochs]] for batch in batches]
    return f"noise_multiplier for epsilon {table['epsilon']:.4g} by {table['accountant'].upper()}, at other batches and epochs\n{compare_text.grid(grid)}"
