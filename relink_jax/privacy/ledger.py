"""`privacy_ledger.json`: what training runs spent, of whose privacy, by which mechanism, and what that does not promise.

The file is an append-only chain of entries (`ledger_chain`). A run is planned in it before its first step, charged for steps before their noisy
results are used, and released when its heads leave training; a second run in the same place appends to the first. The
facts in it are the truth; events, epsilons and statement are computed again whenever it is read, and a file that disagrees with them is refused. It
vouches for the heads whose digest it lists as released and for no others: consumers of heads read it by `load_for`.

The claim is zero-out: q = B/N and N are published, so add/remove, under which neighbors differ in N, cannot be what the numbers mean.
For the Poisson-subsampled Gaussian mechanism both relations have the same epsilon by both accountants.

Never in a ledger: seeds or keys, batch indices, realised batch sizes, gradient norms, losses on private data, identifiers.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from relink_jax import errors
from relink_jax.privacy import ledger_chain, ledger_claims, ledger_rules
from relink_jax.privacy.ledger_claims import RELATION, finite, mechanism_of
from relink_jax.privacy.ledger_plan import planned
from relink_jax.store import files

__all__ = ["FILE_NAME", "RELATION", "SCHEMA_VERSION", "Ledger", "finite", "load", "load_for", "mechanism_of", "opened", "planned", "record_audit", "resumable"]

SCHEMA_VERSION = "2.0"
FILE_NAME = "privacy_ledger.json"
_MAY_DIFFER = ("run_id", "created", "device")


class Ledger:
    """The entries of one place, in a file or, without a path, in memory; every method that adds one has written it when it returns.

    Raises: StoreError: an unwritable or damaged file, or an entry that may not follow; nothing is written then.
    """

    def __init__(self, path: pathlib.Path | None = None) -> None:
        self._path = path
        self._where = "memory" if path is None else f"file {path.name!r}"
        found = path is not None and path.exists()
        self._entries: list[dict[str, Any]] = _entries(path) if path is not None and found else []
        self._runs = ledger_chain.runs(self._entries, self._where) if found else []
        for run in self._runs:
            ledger_rules.check_plan(run.planned, self._where)

    @property
    def resumable(self) -> tuple[int, str] | None:
        """(step, sha256) of the last training state the newest run committed, None where it released its heads or committed none."""
        return self._runs[-1].checkpoint if self._runs and self._runs[-1].released is None else None

    @property
    def plan(self) -> dict[str, Any] | None:
        """What the newest run planned, None without a run."""
        return self._runs[-1].planned if self._runs else None

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Adds a run, before its first step."""
        ledger_rules.check_plan(plan, self._where)
        self._append("planned", plan)

    def resumes(self, plan: Mapping[str, Any]) -> bool:
        """Returns whether the newest run is unfinished, has a committed state, and has exactly this plan apart from name, time and device."""
        if self.resumable is None or self.plan is None:
            return False
        return _settings(plan) == _settings(self.plan)

    def resume(self) -> None:
        """Notes that the newest run goes on from its last committed state."""
        if self.resumable is None:
            raise errors.StoreError(errors.describe("ledger order", self._where, "an unfinished run with a committed state", "none"))
        step, sha256 = self.resumable
        self._append("resumed", {"step": step, "sha256": sha256})

    def charge(self, through: int) -> None:
        """Charges all steps before `through`; to be called before the noisy result of any of them is used. Steps charged before cost nothing again."""
        if not self._runs or through > self._runs[-1].charged:
            self._append("charged", {"through": through})

    def checkpoint(self, step: int, sha256: str) -> None:
        """Commits a training state of `step` finished steps, known by its digest; the state itself must be on disk already."""
        self._append("checkpoint", {"step": step, "sha256": sha256})

    def release(self, released: list[dict[str, Any]], self_test: str) -> None:
        """Ends the run with what leaves it: [{artifact, sha256, step}]."""
        content = {"released": released, "self_test": self_test, "epsilon_all_runs": None, "statement": None}
        run = self._runs[-1] if self._runs else None
        ledger_chain.check_next(run, "released", content, self._where)
        if run is not None:
            run.released = {"released": released, "self_test": self_test}
            try:
                content |= ledger_claims.at_release(self._runs, SCHEMA_VERSION)
            finally:
                run.released = None
        self._append("released", content)

    def record_audit(self, result: Mapping[str, Any]) -> None:
        """Adds an empirical audit of the newest run: method, claim, lower_bound, confidence, canaries, threat_model, power."""
        known = ledger_chain.KINDS["audit"]
        unknown = sorted(set(result) - set(known))
        if unknown:
            raise errors.UsageError(errors.describe("audit result", "ledger", f"only {list(known)}", f"{unknown}"))
        self._append("audit", {"claim": None, "power": None, **result})

    def document(self) -> dict[str, Any]:
        """Returns the flat ledger of the newest run, as `load` does."""
        return _document(self._entries, self._runs)

    def _append(self, kind: str, content: Mapping[str, Any]) -> None:
        run = self._runs[-1] if self._runs else None
        ledger_chain.check_next(run, kind, content, self._where)
        added = ledger_chain.entry(self._entries, kind, content)
        ledger_chain.runs([*self._entries, added], self._where)
        if self._path is not None:
            on_disk = _entries(self._path) if self._path.exists() else []
            if [one.get("sha256") for one in on_disk] != [one["sha256"] for one in self._entries]:
                raise errors.StoreError(errors.describe("ledger changed", self._where, "the entries this run read or wrote", "others; one run at a time"))
            files.write_json(self._path, {"schema_version": SCHEMA_VERSION, "entries": [*self._entries, added]})
        self._entries.append(added)
        if run is None or kind == "planned":
            self._runs.append(ledger_chain.Run(dict(content)))
        else:
            ledger_chain.advance(run, kind, content)


@contextlib.contextmanager
def opened(path: pathlib.Path | None, plan: Mapping[str, Any]) -> Iterator[Ledger]:
    """Yields the ledger at `path` with `plan` begun, or with the unfinished run of the very same plan to go on with.

    Whether to go on shows in `Ledger.resumable`, which is None for a run that was just begun. However the body ends, what was charged stays charged.

    Raises: StoreError: see `Ledger`.
    """
    ledger = Ledger(path)
    if ledger.resumes(plan):
        ledger.resume()
    else:
        ledger.begin(plan)
    yield ledger


def load(path: pathlib.Path) -> dict[str, Any]:
    """Returns the flat ledger of the newest run at `path`, after checking chain, fields, and its claims computed again from the facts.

    Raises: StoreError: missing, not JSON, another schema, a broken chain, a field missing or of another kind, or claims it does not support.
    """
    where = f"file {path.name!r}"
    entries = _entries(path)
    runs = ledger_chain.runs(entries, where)
    for run in runs:
        ledger_rules.check_plan(run.planned, where)
    try:
        for position, run in enumerate(runs):
            _check_claims(runs[: position + 1], run, where, newest=position == len(runs) - 1)
        return _document(entries, runs)
    except errors.StoreError:
        raise
    except errors.RelinkError as error:
        raise errors.StoreError(errors.describe("ledger damaged", where, "a mechanism that the accountants can price", str(error))) from error


def load_for(path: pathlib.Path, heads_sha256: str, *, data_used: bool) -> dict[str, Any]:
    """Returns the ledger at `path` after checking that it accounts for the heads it lies beside.

    Args:
        heads_sha256: digest of the heads, as `heads.save` returns it and their card records it.
        data_used: whether those heads were trained on data; false for the noise-only control.

    Raises: StoreError: see `load`; also a run that did not complete, one that released other heads, or one of the other kind.
    """
    ledger, where = load(path), f"file {path.name!r}"
    if ledger["steps"]["status"] != "complete":
        raise errors.StoreError(errors.describe("ledger of unfinished training", where, "status 'complete'", repr(ledger["steps"]["status"])))
    if heads_sha256 not in [one["sha256"] for one in ledger["released"]]:
        raise errors.StoreError(errors.describe("ledger of other heads", where, f"the release of heads with SHA-256 {heads_sha256[:12]}", "other heads"))
    if ledger["data_used"] is not data_used:
        kinds = {True: "training on data", False: "a noise-only control"}
        raise errors.StoreError(errors.describe("ledger of other heads", where, f"that of {kinds[data_used]}", f"that of {kinds[not data_used]}"))
    return ledger


def resumable(path: pathlib.Path) -> tuple[int, str, dict[str, Any]] | None:
    """Returns (step, sha256 of the training state, plan) of the unfinished newest run at `path`; None where there is none to go on with."""
    if not path.exists():
        return None
    ledger = Ledger(path)
    return None if ledger.resumable is None or ledger.plan is None else (*ledger.resumable, ledger.plan)


def record_audit(path: pathlib.Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Adds an audit of the newest run at `path`, see `Ledger.record_audit`, and returns the flat ledger."""
    load(path)
    ledger = Ledger(path)
    ledger.record_audit(result)
    return ledger.document()


def _entries(path: pathlib.Path) -> Any:
    found, where = files.read_json(path), f"file {path.name!r}"
    if not isinstance(found, dict) or found.get("schema_version") != SCHEMA_VERSION or sorted(found) != ["entries", "schema_version"]:
        shown = repr(found.get("schema_version"))[:20] if isinstance(found, dict) else type(found).__name__
        raise errors.StoreError(errors.describe("ledger schema", where, f"schema_version {SCHEMA_VERSION!r} and entries", shown))
    if not isinstance(found["entries"], list) or not all(isinstance(one, dict) for one in found["entries"]):
        raise errors.StoreError(errors.describe("ledger entries", where, "a list of objects", "something else"))
    return found["entries"]


def _document(entries: list[dict[str, Any]], runs: list[ledger_chain.Run]) -> dict[str, Any]:
    return {**ledger_claims.document(runs, SCHEMA_VERSION), "chain": {"entries": len(entries), "sha256": entries[-1]["sha256"]}}


def _check_claims(runs: list[ledger_chain.Run], run: ledger_chain.Run, where: str, *, newest: bool) -> None:
    """Raises `StoreError` unless the stored events, epsilons and sentences of a run are what its facts give.

    Epsilons and sentences of runs before the newest are not read by anyone and are not priced again; their events are, which is what composes.
    """
    mechanism = ledger_claims.planned_mechanism(run.planned, run.planned["steps"]["planned"])
    if run.planned["events"] != ledger_claims.events_of(mechanism):
        raise errors.StoreError(errors.describe("ledger events", where, "the events of its noise, sampling and steps", "other events"))
    if not newest:
        return
    if not ledger_rules.agree(run.planned["epsilon"], ledger_claims.epsilon_of(run.planned, mechanism)):
        raise errors.StoreError(errors.describe("ledger epsilon", where, "the numbers its events give", "other numbers"))
    if run.released is not None:
        again = ledger_claims.at_release(runs, SCHEMA_VERSION)
        if not ledger_rules.agree(run.released["epsilon_all_runs"], again["epsilon_all_runs"]):
            raise errors.StoreError(errors.describe("ledger epsilon_all_runs", where, "the numbers its events give", "other numbers"))
        if run.released["statement"] != again["statement"]:
            raise errors.StoreError(errors.describe("ledger statement", where, "the sentences its fields give", "other sentences"))


def _settings(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what two plans must share for one to go on with the other's state."""
    return {name: value for name, value in plan.items() if name not in _MAY_DIFFER}
