"""The entries of a ledger: an append-only chain in which every entry holds the SHA-256 of the one before it.

Editing, dropping or swapping an entry breaks the chain from there on, and so does an entry that was edited and hashed again alone. Somebody who
rewrites the whole file is not stopped by that: whoever needs proof against it keeps the digest of the last entry elsewhere.

One file can hold several runs, one after the other. A run is its 'planned' entry, before the first step, and what follows until the next one:
'charged' (steps whose noisy results may have been computed, written before those are used), 'checkpoint' (a training state that commits
with the ledger), 'resumed', 'released' (what left training, which ends it) and 'audit' (an empirical test of the claim).
"""

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.store import digests

GENESIS = "0" * 64
UNTESTABLE = "not applicable: unsound objective"
KINDS = {
    "planned": (),
    "charged": ("through",),
    "checkpoint": ("sha256", "step"),
    "resumed": ("sha256", "step"),
    "released": ("epsilon_all_runs", "released", "self_test", "statement"),
    "audit": ("canaries", "claim", "confidence", "lower_bound", "method", "power", "threat_model"),
}
_FIELDS = ("content", "created", "kind", "number", "previous", "sha256")


@dataclasses.dataclass
class Run:
    """One run folded from its entries.

    Attributes:
        planned: content of its first entry.
        charged: steps that may have been computed.
        checkpoint: (step, sha256) of the last committed training state, None before the first.
        resumed_from: steps at which it went on after an interruption.
        released: content of the entry that ended it, None while it is unfinished.
        audits: contents of its audits.
    """

    planned: dict[str, Any]
    charged: int = 0
    checkpoint: tuple[int, str] | None = None
    resumed_from: list[int] = dataclasses.field(default_factory=list)
    released: dict[str, Any] | None = None
    audits: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def entry(before: Sequence[Mapping[str, Any]], kind: str, content: Mapping[str, Any], created: str | None = None) -> dict[str, Any]:
    """Returns the entry that follows `before`, with its digest."""
    previous = before[-1]["sha256"] if before else GENESIS
    now = created or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    made = {"number": len(before), "kind": kind, "created": now, "previous": previous, "content": dict(content)}
    return {**made, "sha256": digests.value_digest(made)}


def runs(entries: Any, where: str) -> list[Run]:
    """Returns the runs of a chain, oldest first, after checking every link and that each entry may follow the one before it.

    Raises: StoreError: names the entry by number, never its values.
    """
    if not isinstance(entries, list) or not entries:
        raise errors.StoreError(errors.describe("ledger entries", where, "a list with at least one entry", type(entries).__name__))
    previous = GENESIS
    folded: list[Run] = []
    for number, one in enumerate(entries):
        place = f"entry {number} of {where}"
        _check_link(one, number, previous, place)
        previous = one["sha256"]
        _fold(folded, one["kind"], one["content"], place)
    return folded


def _check_link(one: Any, number: int, previous: str, place: str) -> None:
    if not isinstance(one, dict) or sorted(one) != sorted(_FIELDS) or not isinstance(one["content"], dict):
        raise errors.StoreError(errors.describe("ledger entry", place, f"the fields {list(_FIELDS)}", "other fields"))
    covered = {name: value for name, value in one.items() if name != "sha256"}
    if type(one["number"]) is not int or one["number"] != number or one["previous"] != previous or one["sha256"] != _digest(covered):
        raise errors.StoreError(errors.describe("ledger edited", place, "the number, the digest of the entry before and its own digest", "a broken chain"))
    if not isinstance(one["kind"], str) or one["kind"] not in KINDS:
        raise errors.StoreError(errors.describe("ledger entry", place, f"one of {list(KINDS)}", "another kind"))
    if not isinstance(one["created"], str) or not one["created"].strip():
        raise errors.StoreError(errors.describe("ledger entry", place, "the time it was written", "none"))
    if one["kind"] != "planned" and sorted(one["content"]) != sorted(KINDS[one["kind"]]):
        raise errors.StoreError(errors.describe("ledger entry", place, f"a {one['kind']} entry with {list(KINDS[one['kind']])}", "other fields"))


def _digest(covered: Mapping[str, Any]) -> str:
    try:
        return digests.value_digest(covered)
    except (TypeError, ValueError, RecursionError):
        return ""


def check_next(run: Run | None, kind: str, content: Mapping[str, Any], place: str) -> None:
    """Raises `StoreError` unless an entry of this kind and content may follow in a run that stands at `run`."""
    if kind == "planned":
        return
    if run is None:
        raise errors.StoreError(errors.describe("ledger order", place, "a planned entry first", repr(kind)))
    steps = run.planned.get("steps")
    planned = steps.get("planned") if isinstance(steps, dict) else None
    if type(planned) is not int:
        raise errors.StoreError(errors.describe("ledger field steps/planned", place, "a whole number", "another value"))
    if run.released is not None and kind != "audit":
        raise errors.StoreError(errors.describe("ledger order", place, "an audit or a new run after a release", repr(kind)))
    if not _ALLOWED[kind](run, content, planned):
        raise errors.StoreError(errors.describe("ledger order", place, _EXPECTED[kind], "another number or value"))


def _fold(folded: list[Run], kind: str, content: dict[str, Any], place: str) -> None:
    check_next(folded[-1] if folded else None, kind, content, place)
    if kind == "planned":
        folded.append(Run(content))
    else:
        advance(folded[-1], kind, content)


def advance(run: Run, kind: str, content: Mapping[str, Any]) -> None:
    """Changes `run` by one checked entry."""
    if kind == "charged":
        run.charged = content["through"]
    elif kind == "checkpoint":
        run.checkpoint = (content["step"], content["sha256"])
    elif kind == "resumed":
        run.resumed_from.append(content["step"])
    elif kind == "released":
        run.released = dict(content)
    elif kind == "audit":
        run.audits.append(dict(content))


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _digits(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _charged(run: Run, content: Mapping[str, Any], planned: int) -> bool:
    through = content["through"]
    return _whole(through) and run.charged < through <= planned


def _checkpoint(run: Run, content: Mapping[str, Any], planned: int) -> bool:
    step = content["step"]
    return _whole(step) and _digits(content["sha256"]) and (run.checkpoint[0] if run.checkpoint else 0) <= step <= run.charged


def _resumed(run: Run, content: Mapping[str, Any], planned: int) -> bool:
    return run.checkpoint is not None and _whole(content["step"]) and (content["step"], content["sha256"]) == run.checkpoint


def _tested(run: Run) -> str:
    """Returns what the self-test must have said; an objective that is declared unsound has none to pass."""
    objective = run.planned.get("objective")
    unsound = isinstance(objective, dict) and objective.get("decomposition") == "none"
    return UNTESTABLE if unsound else "passed"


def _released(run: Run, content: Mapping[str, Any], planned: int) -> bool:
    items = content["released"]
    if not (run.charged == planned and content["self_test"] == _tested(run) and isinstance(items, list) and items):
        return False
    fields = ["artifact", "sha256", "step"]
    return all(
        isinstance(item, dict) and sorted(item) == fields and _digits(item["sha256"]) and _whole(item["step"]) and item["step"] == planned for item in items
    ) and all(isinstance(item["artifact"], str) and item["artifact"].strip() for item in items)


def _audit(run: Run, content: Mapping[str, Any], planned: int) -> bool:
    def real(value: Any, low: float, high: float) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high

    claim, power = content["claim"], content["power"]
    return (
        all(isinstance(content[name], str) and content[name].strip() for name in ("method", "threat_model"))
        and (claim is None or real(claim, 0, 1e9))
        and real(content["lower_bound"], 0, 1e9)
        and real(content["confidence"], 0, 1)
        and _whole(content["canaries"])
        and (power is None or (isinstance(power, dict) and all(value is None or real(value, 0, 1e9) for value in power.values())))
    )


_ALLOWED = {"charged": _charged, "checkpoint": _checkpoint, "resumed": _resumed, "released": _released, "audit": _audit}
_EXPECTED = {
    "charged": "more steps than charged before, up to the planned ones",
    "checkpoint": "a digest, and a step from the last checkpoint's to the charged ones",
    "resumed": "the last checkpoint",
    "released": "all planned steps charged, a passed self-test (where the objective is sound) and artifacts of the last step",
    "audit": "method, threat model, claim, lower bound, confidence, number of canaries and power",
}
