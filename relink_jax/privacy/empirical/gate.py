"""The gate: every check that must hold before an epsilon printed by this package may be believed, on small heads in about a minute.

It runs the auditors on scores that carry nothing, searches every objective's sensitivity, and attacks mechanisms that are right (sound
objectives), wrong (in-batch InfoNCE, groups accounted with C instead of 2C, no sampling where sampling is claimed) and open (no noise).
An audit that cannot tell these apart proves nothing about a run.

Design note: everything is crafted, no private record is read, and all randomness comes from `seed`. Checks of right mechanisms hold with
`CONFIDENCE` each, so about one seed in a hundred may fail one of them without a fault; the released gate runs one fixed seed.
"""

import dataclasses
import fractions
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from relink_jax import heads
from relink_jax.privacy import accounting, banks, clipping, objectives
from relink_jax.privacy.empirical import bounds, guesses, paired, search, steps, tails, trajectories

CONFIDENCE = 0.99
CLAIMS = (0.34, 1.0, 4.0)
ROWS = 64
UNSOUND = "inbatch_infonce_unsound"
_AUDITED = ("align", "anchor_infonce", "group_infonce", "pair_sigmoid")
_TEMPERATURE, _WARM = 0.07, 0.5
_WIDTH, _EMBEDDING, _ANCHORS, _GROUP = 16, 8, 24, 4
_NULL_CHANCE = 1e-3
_OPEN = 4.0
_Q, _ITERATIONS = fractions.Fraction(1, 4), 50


@dataclasses.dataclass(frozen=True)
class Row:
    """One check: what is claimed or required, what was found, and whether that is as it should be."""

    check: str
    claim: str
    found: str
    passed: bool

    @property
    def verdict(self) -> str:
        """'passed' or 'FAILED'."""
        return "passed" if self.passed else "FAILED"


def gate(seed: int = 0, *, draws: int = 4000, null_seeds: int = 40, runs: int = 0, names: Sequence[str] = objectives.NAMES) -> list[Row]:
    """Returns one row per check; the mechanism may be released when every row passed.

    Args:
        draws: noisy releases of each dataset in the one-step audits.
        null_seeds: repetitions of the audits of scores that carry nothing.
        runs: training runs with and without the record in the trajectory audits; 0 leaves them out; 200 are enough.
        names: objectives that are searched and, where the gate audits them, attacked.
    """
    rows = null_rows(seed, null_seeds)
    for name in names:
        step = toy_step(name, seed)
        found = search.neighbours(step, toy_record(), n=ROWS, seed=seed)
        rows.append(search_row(search.summarise(step, found)))
        audited: Callable[..., paired.Paired] = _audit(step, found, draws, seed)
        if name in _AUDITED:
            rows += [_sound(f"one step, {name}", audited(noise_multiplier=paired.multiplier_for(claim))) for claim in CLAIMS]
        if name == "group_infonce":
            wrong = audited(noise_multiplier=paired.multiplier_for(CLAIMS[-1]), noise_scale=step.l2_norm_clip)
            rows.append(_caught("one step, groups with noise for C instead of 2C", wrong, wrong.bounds.gaussian))
        if name == "anchor_infonce":
            without = audited(noise_multiplier=0.0)
            rows.append(Row("one step without noise", f"at least {_OPEN:g} found", _both(without), without.bounds.clopper_pearson >= _OPEN))
        if name == UNSOUND:
            wrong = audited(noise_multiplier=paired.multiplier_for(CLAIMS[0]))
            rows.append(_caught(f"one step, {name}", wrong, wrong.bounds.clopper_pearson))
        if runs:
            rows += trajectory_rows(step, found[0], runs, seed)
    return rows


def null_rows(seed: int, null_seeds: int) -> list[Row]:
    """Returns the checks that auditors find nothing in scores of one distribution: at the stated confidence, more often than chance allows fails."""
    generator = np.random.default_rng(seed)
    positive = {"Clopper-Pearson bound": 0, "Gaussian bound": 0, "one-run bound": 0}
    for _ in range(null_seeds):
        found = bounds.from_scores(generator.standard_normal(1000), generator.standard_normal(1000))
        guessed = guesses.from_scores(generator.standard_normal(500), generator.random(500) < 0.5)
        for name, bound in zip(positive, (found.clopper_pearson, found.gaussian, guessed.lower_bound), strict=True):
            positive[name] += bound > 0
    allowed = 1 - bounds.CONFIDENCE
    claim = f"at most {allowed:.0%} above 0"
    return [
        Row(f"null scores, {name}", claim, f"{count} of {null_seeds} above 0", tails.upper_tail(count, null_seeds, allowed) > _NULL_CHANCE)
        for name, count in positive.items()
    ]


def search_row(found: search.Search) -> Row:
    """Returns the check that declared sensitivity covers what was found; for an objective that declares none, that the search shows why."""
    measured = f"{found.removed:.2f} C, {found.replaced:.2f} C replaced ({found.worst})"
    if np.isinf(found.declared_removed):
        return Row(f"sensitivity, {found.objective}", "none declared; the search exceeds 5 C", measured, found.removed > 5)
    claim = f"{found.declared_removed:.4g} C, {found.declared_replaced:.4g} C replaced"
    return Row(f"sensitivity, {found.objective}", claim, measured, found.holds)


def trajectory_rows(step: steps.Step, neighbour: search.Neighbour, runs: int, seed: int) -> list[Row]:
    """Returns the audits of whole runs: an anchor run as claimed, one that claims sampling and uses everyone, and an in-batch run."""
    wanted = CLAIMS[1] if step.objective.name == UNSOUND else CLAIMS[-1]  # few runs refute small claims of open runs, and large ones of near misses
    multiplier = accounting.calibrate(_Q, _ITERATIONS, wanted, bounds.DELTA)
    claim = paired.claimed(_Q, multiplier, _ITERATIONS, bounds.DELTA)
    stddev = multiplier * step.objective.noise_scale(step.l2_norm_clip)
    what = f"{_ITERATIONS} steps, {step.objective.name}"

    def audited(q: float) -> paired.Paired:
        settings: dict[str, Any] = {"iterations": _ITERATIONS, "runs": runs, "confidence": CONFIDENCE, "seed": seed}
        return trajectories.audit(step, neighbour, claim, sampling_probability=q, noise_stddev=stddev, **settings)

    if step.objective.name == UNSOUND:
        wrong = audited(float(_Q))
        return [_caught(what, wrong, wrong.bounds.clopper_pearson)]
    if step.objective.name != "anchor_infonce":
        return []
    everyone = audited(1.0)
    return [_sound(what, audited(float(_Q))), _caught(f"{what}, q = {float(_Q):g} claimed and everyone used", everyone, everyone.bounds.gaussian)]


def describe(rows: Sequence[Row]) -> str:
    """Returns the rows as a text table with one line per check."""
    table = [("check", "claimed or required", "found", "verdict"), *((row.check, row.claim, row.found, row.verdict) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table)


def toy_step(name: str, seed: int = 0) -> steps.Step:
    """Returns an objective of the gate at small random linear heads and a synthetic bank."""
    generator = np.random.default_rng(seed)
    params = {side: {"kernel": (generator.standard_normal((_WIDTH, _EMBEDDING)) / np.sqrt(_WIDTH)).astype(np.float32)} for side in heads.SIDES}
    bank = banks.PublicBank(generator.standard_normal((_ANCHORS, _WIDTH)).astype(np.float32), "random directions of the audit gate")
    temperature = _WARM if name == "logit_dp" else _TEMPERATURE
    objective = objectives.get_objective(name, temperature, batch_cap=ROWS, group_size=_GROUP, allow_unsound=name == UNSOUND)
    return steps.Step(objective, params, bank.arrays())


def toy_record() -> clipping.Records:
    """Returns one record of the shapes that `toy_step` takes."""
    return clipping.Records(*(np.ones((1, width), np.float32) for width in (_WIDTH, _WIDTH, _ANCHORS)))


def _audit(step: steps.Step, found: Sequence[search.Neighbour], draws: int, seed: int) -> Callable[..., paired.Paired]:
    def audited(**settings: Any) -> paired.Paired:
        return paired.audit(step, found, draws=draws, confidence=CONFIDENCE, seed=seed, **settings)

    return audited


def _sound(check: str, result: paired.Paired) -> Row:
    return Row(check, f"epsilon {result.claim_rdp:.3g}", _both(result), not result.refuted)


def _caught(check: str, result: paired.Paired, bound: float) -> Row:
    return Row(f"{check} (must be caught)", f"epsilon {result.claim_rdp:.3g}", _both(result), bound > result.claim_rdp)


def _both(result: paired.Paired) -> str:
    return f"at least {result.bounds.clopper_pearson:.2f} (Gaussian {result.bounds.gaussian:.2f}), AUROC {result.bounds.auroc:.3f}"
