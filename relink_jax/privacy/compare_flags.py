"""Red flags of privacy ledgers: reasons why a stated epsilon is void, weaker than it looks, or not to be set against another.

A flag is {code, severity, text}: 'void' where the number promises nothing, 'caution' where it must not be read alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_FAR_APART = 1.5  # RDP over PLD from which the choice of accountant can decide a comparison


def own(ledger: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns the flags of one run, worst first."""
    found = [_flag(code, severity, text) for code, severity, holds, text in _RULES if holds(ledger)]
    found += [_flag("audit_above_claim", "void", _refuted(one)) for one in audits(ledger) if one.get("claim") is not None and one["lower_bound"] > one["claim"]]
    rdp, pld = ledger["epsilon"]["rdp"], ledger["epsilon"]["pld"]
    if rdp and pld and rdp > _FAR_APART * pld:
        found.append(_flag("accountants_differ", "caution", f"RDP states {rdp / pld:.1f} times the PLD epsilon: the accountants differ more than runs may."))
    return sorted(found, key=lambda flag: flag["severity"] != "void")


def across(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Returns the flags of runs taken together; `entries` are those of `compare.comparison`. Noise-only controls do not count."""
    facts = [entry["facts"] for entry in entries if entry["facts"]["data_used"]]
    found = []
    for code, what, key, ranked in (
        ("mixed_units", "privacy units", "unit", "not comparable as they stand"),
        ("mixed_relations", "neighboring relations", "relation", "not comparable as they stand"),
        ("mixed_numbers", "numbers of units", "n_units", "compare with care, delta should be below 1/N of each"),
    ):
        values = sorted({str(one[key]) for one in facts})
        if len(values) > 1:
            found.append(_flag(code, "caution", f"{what} differ ({', '.join(values)}): {ranked}."))
    if len({one["delta"] for one in facts}) > 1:
        found.append(_flag("mixed_deltas", "caution", "recorded deltas differ: compare the epsilons at the common delta, not the recorded ones."))
    return found


def audits(ledger: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the empirical audits that the ledger records, oldest first."""
    recorded = ledger.get("audit")
    listed = recorded if isinstance(recorded, list) else [recorded] if recorded else []
    return [one for one in listed if isinstance(one.get("lower_bound"), int | float)]


def _refuted(audit: Mapping[str, Any]) -> str:
    method, low, claim = audit.get("method", "an audit"), audit["lower_bound"], audit["claim"]
    return f"{method} measured an epsilon of at least {low:.3g} where {claim:.3g} is claimed: the claim is wrong."


def _flag(code: str, severity: str, text: str) -> dict[str, str]:
    return {"code": code, "severity": severity, "text": text}


def _truncation_unpriced(ledger: Mapping[str, Any]) -> bool:
    priced = any("TruncatedSubsampled" in str(event["dp_event"]) for event in ledger["events"])
    return ledger["sampling"]["truncation"] not in ("none", "in_group") and not priced and not ledger["sampling"].get("overflow_delta")


def _delta_too_large(ledger: Mapping[str, Any]) -> bool:
    return ledger["data_used"] and ledger["epsilon"]["delta"] * ledger["dataset"]["n_units_declared"] >= 1


def _unbounded(ledger: Mapping[str, Any]) -> bool:
    return ledger["objective"]["decomposition"] == "none"


def _untested(ledger: Mapping[str, Any]) -> bool:
    return ledger["clipping"]["self_test"] != "passed" and ledger["steps"]["status"] == "complete"


_RULES: tuple[tuple[str, str, Callable[[Mapping[str, Any]], bool], str], ...] = (
    ("unsound_objective", "void", _unbounded, "not private: its objective has no bounded sensitivity, so no noise gives it an epsilon."),
    (
        "fixed_seed",
        "void",
        lambda ledger: ledger["noise"]["seed_disclosed"],
        "not private: its random seed is fixed and known, so the noise can be subtracted.",
    ),
    ("no_noise", "void", lambda ledger: ledger["noise"]["std_absolute"] == 0 and ledger["data_used"], "not private: no noise was added."),
    ("delta_too_large", "void", _delta_too_large, "delta times the number of units is not below 1: such a delta permits publishing a whole record."),
    ("truncation_unpriced", "void", _truncation_unpriced, "batches that overflow are cut, and its events do not price that."),
    ("interrupted", "caution", lambda ledger: ledger["steps"]["status"] == "interrupted", "it was interrupted: epsilon counts the steps that were charged."),
    ("planned", "caution", lambda ledger: ledger["steps"]["status"] == "planned", "it is planned: epsilon counts steps that may not have run yet."),
    ("self_test", "caution", _untested, "its sensitivity self-test is not recorded as passed."),
    ("private_metrics", "caution", lambda ledger: ledger["private_metrics_logged"], "metrics of private data were logged; epsilon does not cover them."),
    (
        "tuned",
        "caution",
        lambda ledger: bool(ledger["selection"].get("tuned")),
        "its settings were tuned; epsilon does not cover that choice (see the tuning table).",
    ),
)
