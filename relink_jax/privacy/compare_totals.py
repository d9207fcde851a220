"""What several runs on the same people spend together: their events composed, never their epsilons added."""

from collections.abc import Mapping
from typing import Any

from relink_jax.privacy import accounting
from relink_jax.privacy.compare_conversions import mechanism_of, shown

_UNNAMED = "not named"  # the overlap group of a ledger whose cohort has no name


def compositions(named: Mapping[str, Mapping[str, Any]], delta: float) -> list[dict[str, Any]]:
    """Returns one entry per group of people that more than one run touches: {group, runs, count, delta, rdp, pld, why_not}.

    Runs belong together when their ledgers name the same overlap group, or the same cohort. Counted are runs on data that released something
    or are still planned, and the released ones before them that their ledgers list; `why_not` says why a group has no number.

    Args:
        named: ledgers by the run's name.
    """
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, ledger in named.items():
        if ledger["data_used"] and group_of(ledger) and (ledger["released"] or ledger["steps"]["status"] == "planned"):
            groups.setdefault(str(group_of(ledger)), {})[name] = ledger
    return [_total(group, members, delta) for group, members in groups.items() if len(members) > 1]


def group_of(ledger: Mapping[str, Any]) -> str | None:
    """Returns the name of the people that a run touches; None where its ledger names none."""
    named = ledger["dataset"].get("overlap_group")
    return ledger["dataset"]["name"] if named in (None, "", _UNNAMED) else named


def _total(group: str, members: Mapping[str, Mapping[str, Any]], delta: float) -> dict[str, Any]:
    parts = _parts(members)
    units = sorted({str(part["unit"]) for part in parts.values()})
    relations = sorted({part["relation"] for part in parts.values()})
    entry = {"group": group, "runs": list(members), "count": len(parts), "delta": delta, "rdp": None, "pld": None, "why_not": ""}
    for what, values in (("privacy units", units), ("neighboring relations", relations)):
        if len(values) > 1:
            return {
                **entry,
                "why_not": f"{what} differ ({', '.join(values)}), so their events do not compose into one epsilon; together they reveal more than each.",
            }
    spent = sum(part["overflow_delta"] for part in parts.values())
    if spent >= delta:
        return {**entry, "why_not": "the chances of overflowing batches already add up to delta."}
    return {**entry, **{view: _composed(parts, view, relations[0], delta - spent) for view in accounting.VIEWS}}


def _parts(members: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns by run id what composes: the members and the earlier released runs on data that they list."""
    parts: dict[str, dict[str, Any]] = {}
    for ledger in members.values():
        relation = ledger["events"][0]["relation"]
        overflow = mechanism_of(ledger).overflow_delta
        for one in ledger["earlier"]:
            if one["data_used"] and one["released"]:
                parts.setdefault(one["run_id"], {**_part(one["events"], one["unit"]), "overflow_delta": one.get("overflow_delta", 0.0)})
        parts[ledger["run_id"]] = {**_part(ledger["events"], ledger["dataset"]["unit"]), "relation": relation, "overflow_delta": overflow}
    return parts


def _part(events: list[Mapping[str, Any]], unit: str) -> dict[str, Any]:
    by_view = {event["accountant_view"]: accounting.event_from_json(event["dp_event"]) for event in events}
    return {"events": by_view, "unit": unit, "relation": events[0]["relation"]}


def _composed(parts: Mapping[str, Mapping[str, Any]], view: str, relation: str, delta: float) -> float | str | None:
    events = [part["events"].get(view) for part in parts.values()]
    if any(event is None for event in events):
        return None
    return shown(accounting.epsilon_of(accounting.compose(events), view, relation, [delta])[0][0])
