"""The accountants stage: privacy ledgers side by side as text, JSON and a page, and the noise that a run would need before it starts."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.privacy import compare, compare_text, planning
from relink_jax.report import accountants_page
from relink_jax.runtime import progress
from relink_jax.store import files

SUBJECTS = {
    "compare": ("delta", "convert", "per_patient", "rank", "page"),
    "audit": ("seed", "full", "canaries"),
    "plan": ("units", "delta", "batch", "iterations", "epochs", "noise_multiplier", "epsilon", "accountant", "table"),
}  # and the flags of each besides --json
_RUNS = 200  # training runs on each side that the trajectory audits need


@dataclasses.dataclass(frozen=True)
class Answer:
    """A text, and the same as JSON-ready values."""

    text: str
    values: Mapping[str, Any]


def run(config: config_lib.RunConfig, workdir: str, words: Sequence[str] = (), *, json: str | None = None, **flags: Any) -> Answer:
    """Answers `compare RUN...` (also without the word: ledgers, or directories that hold them; default the workdir's own), `plan` or `audit`.

    Args:
        json: file for the same values as JSON.
        flags: as given on the command line, texts or switches, None where not given; see `SUBJECTS`.

    Raises: UsageError: another word, a flag of another subcommand, a value out of range, or --rank of runs that may not be ranked;
        StoreError: no ledger there, or a damaged one; UnsoundError: an audit gate that fails.
    """
    subject, runs = _subject(words)
    given = {name: value for name, value in flags.items() if value not in (None, False, "")}
    for name in given:
        if name not in SUBJECTS[subject]:
            known = ", ".join(f"--{flag}" for flag in (*SUBJECTS[subject], "json"))
            raise errors.UsageError(errors.describe("flag of another subcommand", f"'relink accountants {subject}'", known, f"--{name}"))
    answer = (
        _compare(runs or ([workdir] if workdir else []), given)
        if subject == "compare"
        else _plan(runs, given)
        if subject == "plan"
        else _audit(config, workdir, runs, given)
    )
    if json:
        files.write_json(pathlib.Path(json), dict(answer.values))
    return answer


def describe(answer: Answer) -> str:
    """Returns the text."""
    return answer.text.rstrip("\n")


def _subject(words: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the subcommand and the words after it; words that are no subcommand are runs to compare."""
    if words and words[0] in SUBJECTS:
        return words[0], list(words[1:])
    if words and not pathlib.Path(words[0]).exists() and "/" not in words[0] and "." not in words[0]:
        hint = errors.suggest(words[0], SUBJECTS)
        if hint:
            raise errors.UsageError(errors.describe("subcommand", "'relink accountants'", f"{', '.join(SUBJECTS)}, or runs", repr(words[0])) + hint)
    return "compare", list(words)


def _compare(paths: Sequence[str], given: Mapping[str, Any]) -> Answer:
    page, delta, per_patient = given.get("page"), _real("delta", given), _whole("per_patient", given)
    if per_patient and "convert" not in given:
        raise errors.UsageError(errors.describe("flag --per_patient", "'relink accountants compare'", "--convert beside it", "no --convert"))
    runs = compare.read_runs(paths)
    document = compare.comparison(
        runs,
        delta=delta,
        convert="convert" in given,
        per_patient=per_patient,
        curves=bool(page),
        track=lambda some: progress.track(some, len(runs), "pricing", "runs"),
    )
    if "rank" in given and document["not_ranked"]:
        raise errors.UsageError(document["not_ranked"])
    if page:
        accountants_page.write(document, pathlib.Path(page))
    return Answer(compare_text.text(document), document)


def _plan(words: Sequence[str], given: Mapping[str, Any]) -> Answer:
    if words:
        raise errors.UsageError(errors.describe("extra words", "'relink accountants plan'", "flags only", f"{len(words)} other words"))
    units, delta = _whole("units", given), _real("delta", given)
    if units is None or delta is None:
        missing = " and ".join(f"--{name}" for name, value in (("units", units), ("delta", delta)) if value is None)
        raise errors.UsageError(errors.describe("plan", "'relink accountants plan'", "--units=N and --delta=VALUE", f"no {missing}"))
    document = planning.plan(
        units=units,
        delta=delta,
        batch=_whole("batch", given),
        iterations=_whole("iterations", given),
        epochs=_real("epochs", given),
        noise_multiplier=_real("noise_multiplier", given),
        epsilon=_real("epsilon", given),
        accountant=given.get("accountant", "rdp"),
        table=given.get("table", "short"),
        track=lambda cells: progress.track(cells, len(cells), "noise table", "cells"),
    )
    return Answer(planning.text(document), document)


def _audit(config: config_lib.RunConfig, workdir: str, words: Sequence[str], given: Mapping[str, Any]) -> Answer:
    """Runs the gate of the empirical audit; with --full also whole training runs; with a workdir the audit of its own configuration too."""
    from relink_jax.privacy.empirical import gate  # loads jax, which compare and plan do without

    if words:
        raise errors.UsageError(errors.describe("extra words", "'relink accountants audit'", "flags only", f"{len(words)} other words"))
    if "canaries" in given and not workdir:
        raise errors.UsageError(errors.describe("flag --canaries", "'relink accountants audit'", "--workdir beside it", "no --workdir"))
    seed = _whole("seed", given) or 0
    rows = gate.gate(seed, runs=_RUNS if "full" in given else 0)
    failed = [row.check for row in rows if not row.passed]
    if failed:
        expected = "every sound claim to hold and every wrong one to be caught"
        raise errors.UnsoundError(f"{gate.describe(rows)}\n{errors.describe('audit gate', 'relink accountants audit', expected, '; '.join(failed))}")
    values = [{"check": row.check, "claim": row.claim, "found": row.found, "verdict": row.verdict} for row in rows]
    document: dict[str, Any] = {"kind": "relink accountants audit", "rows": values}
    if not workdir:
        return Answer(gate.describe(rows), document)
    from relink_jax.stages import accountants_audit

    told, own = accountants_audit.run(config, workdir, _whole("canaries", given) or accountants_audit.CANARIES, seed)
    return Answer(f"{gate.describe(rows)}\n\n{told}", {**document, "configuration": own})


def _whole(name: str, given: Mapping[str, Any]) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not (str(text).isascii() and str(text).isdigit() and 0 < int(text) < 2**53):
        raise errors.UsageError(errors.describe("value", f"flag --{name}", "a whole number of at least 1", repr(text)))
    return int(text)


def _real(name: str, given: Mapping[str, Any]) -> float | None:
    text = given.get(name)
    try:
        value = None if text is None else float(text)
    except ValueError:
        value = math.nan
    if value is not None and not 0 < value < math.inf:
        raise errors.UsageError(errors.describe("value", f"flag --{name}", "a positive number", repr(text)))
    return value
