"""What a sweep will cost, told before it starts: cells, counting passes, arithmetic by formula, and the privacy that all its heads spend together."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.encoders import cost, published, specs, towers, zoo
from relink_jax.privacy import accounting, ledger_claims
from relink_jax.privacy import design as designs
from relink_jax.privacy import ledger as ledger_lib
from relink_jax.privacy import options as options_lib
from relink_jax.runtime import plan
from relink_jax.stages import heads, sweep_grid, sweep_state
from relink_jax.store import checkpoints

_TRAINED = "dp"  # the only heads that read private data
_UNKNOWN = "-"
_AXES = {"models": "models", "heads": "kinds of heads", "strata": "strata", "pools": "pool sizes"}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Arithmetic that a job still needs, in FLOP; None where the model or the sizes are not known."""

    encoding: int | None
    counting: int | None


def text(grid: sweep_grid.Grid, states: Sequence[sweep_state.State], known: sweep_state.People | None, root: pathlib.Path) -> str:
    """Returns the plan: what is asked, a row per job, and what all of it costs."""
    costs = {state.job.model: cost_of(state, known, root) for state in states}
    rows: list[tuple[str, ...]] = [("job", "heads", "cells", "present", "missing", "still to run", "encoding", "counting", "epsilon")]
    for state in states:
        present, every = state.count()
        rows.append(
            (
                state.job.model,
                ",".join(dict.fromkeys(cell.heads for cell in state.job.cells)),
                *(f"{number:,}" for number in (every, present, every - present)),
                ", ".join(state.todo) or "nothing",
                *map(_flop, dataclasses.astuple(costs[state.job.model])),
                _spends(state, root),
            )
        )
    numbers = [sum(pair) for pair in zip(*(state.count() for state in states), strict=True)]
    totals = [_sum([getattr(one, side) for one in costs.values()]) for side in ("encoding", "counting")]
    rows.append(("total", "", f"{numbers[1]:,}", f"{numbers[0]:,}", f"{numbers[1] - numbers[0]:,}", "", *map(_flop, totals), ""))
    notes = [_question(grid, states), table(rows), *_reasons(states), *_notes(grid, states, known), *together(grid, known, root)]
    return "\n\n".join(notes)


def cost_of(state: sweep_state.State, known: sweep_state.People | None, root: pathlib.Path) -> Cost:
    """Returns what a job still needs: encoding where features are missing, all its passes where a result is, since an audit makes them together."""
    spec = _spec(state.job, root)
    if spec is None or known is None:
        return Cost(None, None)
    paired = state.job.config.embed.prior == "table" and bool(towers.prior_shape(spec))
    encoding = known.images * cost.image_flop(spec.image, paired) + known.texts * cost.text_flop(spec.text)
    counting = len(state.job.arms) * sum(2 * images * studies * spec.dim for images, studies in known.sets.values())
    return Cost(encoding if "embed" in state.todo else 0, counting if "audit" in state.todo else 0)


def together(grid: sweep_grid.Grid, known: sweep_state.People | None, root: pathlib.Path) -> list[str]:
    """Returns what the heads of all mitigated models spend on the people they share: their events composed, or while those people are not
    counted the plain sum, which bounds it. Heads that were trained count by their ledger, with what it lists before them."""
    jobs = [job for job in grid.jobs if job.config.mitigate and _TRAINED in job.arms]
    if len(jobs) < 2:
        return []
    mechanism = jobs[0].config.heads.mechanism
    told = f"the {_TRAINED} heads of {len(jobs)} models learn from the same people, whose epsilons add up:"
    priced = [_parts(job, known, root) for job in jobs]
    if not all(priced):
        total, delta = len(jobs) * mechanism.target_epsilon, len(jobs) * mechanism.target_delta
        return [f"{told} all together spend at most epsilon {total:.4g} at delta {delta:.3g} (plain sum; the accountants compose it once the cohort is read)"]
    *earlier, last = [part for one in priced for part in one]
    found = ledger_claims.composed(
        {
            **{"earlier": earlier, "events": last["events"], "dataset": {"unit": last["unit"]}},
            "epsilon": {"delta": mechanism.target_delta, "overflow_delta": last["overflow_delta"]},
        }
    )
    if found["infinite"] or (found["rdp"] is None and found["pld"] is None):
        return [f"{told} no epsilon can be stated for all of them"]
    spent = ", ".join(f"{found[view]:.4g} ({view.upper()})" for view in accounting.VIEWS if found[view] is not None)
    return [f"{told} all together spend epsilon {spent} at delta {mechanism.target_delta:g} per {mechanism.unit}, {found['runs']} trainings composed"]


def _parts(job: sweep_grid.Job, known: sweep_state.People | None, root: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the trainings of one model as ledgers list earlier ones: those of its ledger, else the one that is planned, none while that has no price."""
    path = sweep_state.workdir(root, job).heads(job.model, _TRAINED) / ledger_lib.FILE_NAME
    if path.exists():
        ledger = ledger_lib.load(path)
        return [*ledger["earlier"], _part(ledger["events"], ledger["dataset"]["unit"], ledger["epsilon"]["overflow_delta"])]
    if known is None or not known.units:
        return []
    mechanism = planned(job.config.heads.mechanism, known.units)
    return [_part(ledger_claims.events_of(mechanism), job.config.heads.mechanism.unit, mechanism.overflow_delta)]


def _part(events: list[dict[str, Any]], unit: str, overflow_delta: float) -> dict[str, Any]:
    return {"events": events, "unit": unit, "overflow_delta": overflow_delta, "data_used": True, "released": True}


def planned(mechanism: config_lib.MechanismConfig, units: int) -> accounting.Mechanism:
    """Returns the mechanism that the heads stage will run on so many privacy units; its step size, which costs no privacy, is left out."""
    fields = heads.resolved(dataclasses.replace(mechanism, learning_rate=1.0), {}, units)
    return designs.design(options_lib.Options(**fields), units).mechanism


def table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as aligned text, the first as its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def check_models(grid: sweep_grid.Grid, root: pathlib.Path) -> None:
    """Raises `UsageError` for a model that is neither packaged nor published nor already converted in its workdir."""
    known = [*zoo.list_vlms(), *published.MODELS]
    for job in grid.jobs:
        if job.model not in known and not sweep_state.workdir(root, job).model(job.model).is_dir():
            expected = (
                f"of {', '.join(known)}, or one converted with 'relink convert --source=DIR --model={job.model}' into the sweep's directory {job.model!r}"
            )
            raise errors.UsageError(errors.describe("unknown model", "flag --models", expected, repr(job.model)) + errors.suggest(job.model, known))


def _question(grid: sweep_grid.Grid, states: Sequence[sweep_state.State]) -> str:
    axes, sets = grid.axes, states[0].sets
    asked = ", ".join(f"{said} {len(axes[name])}" for name, said in _AXES.items())
    many = len(sets) or 1
    where = f"{many} evaluation set{'s' if many > 1 else ''} ({', '.join(sets)})" if sets else "one evaluation set (how many there are, the cohort will say)"
    passes = "1 counting pass" if grid.passes * many == 1 else f"{grid.passes * many:,} counting passes"
    why = "a pass counts what every pool size and stratum of one model, heads and set follow from"
    return f"sweep: {asked}\n{grid.cells * many:,} cells on {where}, answered by {passes}: {why}"


def _reasons(states: Sequence[sweep_state.State]) -> list[str]:
    """Returns why results that are there do not count, once per job and reason."""
    found = [(state.job.model, reason) for state in states for reason in dict.fromkeys(state.why.values()) if reason != sweep_state.NOT_YET]
    return ["\n".join(f"{model}: {reason}" for model, reason in found)] if found else []


def _notes(grid: sweep_grid.Grid, states: Sequence[sweep_state.State], known: sweep_state.People | None) -> list[str]:
    audit, notes = grid.jobs[0].config.audit, []
    if known is None:
        notes.append("sizes are not known before the cohort is read; --images and --studies state them for this plan")
    if any("audit" in state.todo for state in states) and (audit.attacks or audit.measures):
        told = f"{len(audit.attacks)} attacks and {len(audit.measures)} measures of every result"
        notes.append(f"counting is that of the cells; {told} take passes of their own ('relink plan audit')")
    return ["\n".join(notes)] if notes else []


def _spends(state: sweep_state.State, root: pathlib.Path) -> str:
    """Returns the epsilon that a job's heads will spend, or have spent."""
    job = state.job
    if _TRAINED not in job.arms:
        return ""
    there = (sweep_state.workdir(root, job).heads(job.model, _TRAINED) / "card.json").exists()
    return f"{job.config.heads.mechanism.target_epsilon:g} {'spent' if there else 'to be spent'}"


def _spec(job: sweep_grid.Job, root: pathlib.Path) -> specs.VLMSpec | None:
    """Returns a model's spec, as converted or else as known by name; None for an ensemble, which has no towers."""
    directory = sweep_state.workdir(root, job).model(job.model)
    try:
        if (directory / "provenance.json").exists():
            return specs.from_json(checkpoints.provenance_of(directory)["model"], directory)
        return zoo.described(job.model)
    except errors.RelinkError:
        return None


def _sum(values: Sequence[int | None]) -> int | None:
    return None if any(value is None for value in values) else sum(value for value in values if value is not None)


def _flop(value: int | None) -> str:
    return _UNKNOWN if value is None else plan.human(value, "FLOP", 1000) if value else "0"
