"""The controls in words and as a table, from results/controls.json alone; the page and the command line show the same rows and sentences."""

import dataclasses
from collections.abc import Sequence
from typing import Any

ATTACKERS = {"raw": "plain cosine", "refit": "re-fit attacker"}
COLUMNS = ("epsilon RDP | PLD", "Recall@1, cosine", "Recall@1, re-fit", "members - held-out", "zero-shot AUROC", "probe AUROC")
NOT_RELEASED = (
    "Nothing here is released: every draw has a disclosed seed, which voids any guarantee. The epsilons are those that the same options would have "
    "with secret randomness. Linkage and utility are read on held-out people, so choosing a mitigation by this page is tuning on them."
)
_FAMILIES = {"dp": "DP training", "noise_only": "noise only", "unsound": "the unsound objective"}
_PLUS_MINUS, _INFINITE = "\N{PLUS-MINUS SIGN}", "\N{INFINITY}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One condition: its number in the list of controls, name, a few words, and a cell for each of `COLUMNS`."""

    control: str
    id: str
    label: str
    cells: tuple[str, ...]


def rows(document: dict[str, Any]) -> list[Row]:
    """Returns the conditions in order, and the chance line."""
    found = [_row(entry) for entry in document["conditions"]]
    chance = _percent(document["chance"])
    return [*found, Row("", "chance", "a random guess", ("", chance, chance, "0", "0.500", "0.500"))]


def statements(document: dict[str, Any]) -> list[str]:
    """Returns what the controls say together, a sentence each."""
    return [*_shares(document), *_ladders(document), *_gaps(document)]


def text(document: dict[str, Any]) -> str:
    """Returns table and sentences for a terminal."""
    table = [("", "condition", "", *COLUMNS)] + [(row.control, row.id, row.label, *row.cells) for row in rows(document)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([heading(document), "", *lines, "", *statements(document), NOT_RELEASED])


def heading(document: dict[str, Any]) -> str:
    """Returns what was measured, on whom."""
    sizes = document["sizes"]
    return (
        f"{document['model']} on {document['set']}: Recall@1 among {document['pool']:,} reports, {sizes['held-out images']:,} held-out images of "
        f"{sizes['held-out patients']:,} patients; {sizes['training pairs']:,} training pairs of {sizes['training units']:,} units; "
        f"{document['seeds']} draws, {document['probe_seeds']} of them probed; re-fit on {sizes['pairs of the re-fit attacker']:,} other pairs"
    )


def _row(entry: dict[str, Any]) -> Row:
    label = entry["label"] + (f", {entry['pairs_left_out']} pairs without a partner left out" if entry["pairs_left_out"] else "")
    cells = (
        _epsilon(entry["epsilon"]),
        _spread(entry["raw"], _percent),
        _spread(entry["refit"], _percent),
        _spread(entry["gap_raw"], lambda value: f"{100 * value:+.1f}"),
        _spread(entry["zero_shot"], lambda value: f"{value:.3f}"),
        _spread(entry["probe"], lambda value: f"{value:.3f}"),
    )
    return Row(str(entry["control"]), entry["id"], label, cells)


def _shares(document: dict[str, Any]) -> list[str]:
    said = []
    for one in document["explained"]:
        attacker = ATTACKERS[one["measure"]]
        if one["share"] is None:
            fell = f"changed by {-100 * one['fall']:+.1f} percentage points, less than 1 point down or no more than draws scatter"
            said.append(f"At epsilon {one['epsilon']:g} linkage by {attacker} {fell}: there is nothing for noise to explain.")
            continue
        spread = f"; over draws {100 * one['low']:.0f}% to {100 * one['high']:.0f}%" + (f", sd {100 * one['sd']:.0f}%" if one["sd"] is not None else "")
        said.append(
            f"At epsilon {one['epsilon']:g} noise alone, which reads no record, reproduces {100 * one['share']:.0f}% of the fall in linkage "
            f"by {attacker} ({one['draws']} draws{spread if one['draws'] else ''})."
        )
    return said


def _ladders(document: dict[str, Any]) -> list[str]:
    said = []
    for one in document["monotone"]:
        verdict = "rises with epsilon throughout" if one["monotone"] else "does not rise with epsilon throughout"
        if not one["monotone"]:
            verdict += ", by no more than the draws scatter" if one["within_noise"] else ", by more than the draws scatter"
        ladder = ", ".join(f"{epsilon:g}" for epsilon in one["epsilons"])
        said.append(f"Linkage by {ATTACKERS[one['measure']]} under {_FAMILIES[one['family']]} {verdict} (epsilon {ladder}).")
    return said


def _gaps(document: dict[str, Any]) -> list[str]:
    """Says how much better people trained on are linked than held-out ones, before and after: the only linkage that DP speaks about."""
    shown = [entry for entry in document["conditions"] if entry["family"] in ("baseline", "no_noise") or (entry["family"] == "dp" and not entry["unit"])]
    gaps = "; ".join(f"{entry['id']} {_spread(entry['gap_raw'], lambda value: f'{100 * value:+.1f}')}" for entry in shown)
    return [
        "Recall@1 by plain cosine of people trained on, minus that of held-out ones, in percentage points; its change from the published heads' is the "
        f"only linkage that an epsilon says anything about: {gaps}."
    ]


def _epsilon(epsilon: dict[str, Any] | None) -> str:
    if epsilon is None:
        return "-"
    if epsilon["infinite"]:
        return _INFINITE
    return " | ".join("-" if epsilon[view] is None else f"{epsilon[view]:.3g}" for view in ("rdp", "pld"))


def _spread(measure: dict[str, Any], write: Any) -> str:
    if measure["mean"] is None:
        return "-"
    return write(measure["mean"]) + (f" {_PLUS_MINUS} {write(measure['sd']).lstrip('+')}" if measure["sd"] is not None else "")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def alt_text(document: dict[str, Any], panels: Sequence[str]) -> str:
    """Returns what the figure shows, for who cannot see it; the table holds its numbers."""
    return (
        f"{len(document['conditions'])} conditions as points: utility lost to the right, linkage removed upwards, in panels {'; '.join(panels)}. "
        "A dashed line marks the fall at which linkage is chance. All values are in the table."
    )
