"""Study-level findings: what is new, worse, better or gone at each of a patient's studies.

Lines and tubes belong to intensive patients; lung and pleural findings change by a step of severity between studies, so
that follow-up reports have something true to compare with.
"""

import dataclasses

import numpy as np

from relink_jax.cohort.phantom.anatomy import SIDES, ZONES, Finding, Patient, pick

GRADES = {
    "effusion": ("small", "moderate", "large"),
    "pneumothorax": ("small", "moderate", "large"),
    "edema": ("mild", "moderate", "severe"),
    "opacity": ("faint", "patchy", "dense"),
}
LINE_TIPS = ("upper superior vena cava", "mid superior vena cava", "cavoatrial junction", "right atrium")


@dataclasses.dataclass(frozen=True)
class Study:
    """One examination: the acute findings, those of the study before, and whether it was portable."""

    order: int
    acute: tuple[Finding, ...]
    before: tuple[Finding, ...]
    portable: bool


def draw_studies(rng: np.random.Generator, patient: Patient, count: int) -> list[Study]:
    """Returns `count` studies in time order."""
    studies: list[Study] = []
    before: tuple[Finding, ...] = ()
    for order in range(count):
        acute = _first(rng, patient) if order == 0 or rng.random() < 0.15 else _next(rng, patient, before)
        portable = rng.random() < {"outpatient": 0.12, "ward": 0.5, "intensive": 0.97}[patient.setting] or any(f.kind == "tube" for f in acute)
        studies.append(Study(order, acute, before, portable))
        before = acute
    return studies


def _first(rng: np.random.Generator, patient: Patient) -> tuple[Finding, ...]:
    ill = {"outpatient": 0, "ward": 1, "intensive": 2}[patient.setting]
    found: list[Finding] = []
    if rng.random() < (0.04, 0.34, 0.50)[ill]:
        sides = pick(rng, (("right",), ("left",), SIDES), (0.38, 0.32, 0.30))
        found += [_hedge(rng, Finding("effusion", side, pick(rng, GRADES["effusion"], (0.45, 0.33, 0.22)))) for side in sides]
    for chance in ((0.09, 0.5, 0.55)[ill], (0.01, 0.15, 0.22)[ill]):
        if rng.random() < chance:
            opacity = _opacity(rng)
            if all((f.side, f.place) != (opacity.side, opacity.place) for f in found):
                found.append(opacity)
    if rng.random() < (0.03, 0.22, 0.25)[ill]:
        found.append(
            Finding("atelectasis", pick(rng, SIDES), pick(rng, ("linear", "plate-like")), pick(rng, ("mid", "lower"), (0.35, 0.65)), hedged=rng.random() < 0.2)
        )
    if rng.random() < (0.02, 0.16, 0.32)[ill]:
        found.append(_hedge(rng, Finding("edema", grade=pick(rng, GRADES["edema"], (0.45, 0.33, 0.22)))))
    if rng.random() < (0.02, 0.07, 0.12)[ill]:
        found.append(Finding("pneumothorax", pick(rng, SIDES), pick(rng, GRADES["pneumothorax"], (0.45, 0.33, 0.22)), hedged=False))
    if rng.random() < (0.03, 0.16, 0.24)[ill] and not any(f.kind == "hyperinflation" for f in patient.chronic):
        found.append(Finding("low_volumes"))
    if rng.random() < (0.015, 0.04, 0.05)[ill]:
        found.append(Finding("rib_fracture", pick(rng, SIDES), count=int(rng.integers(1, 4)), hedged=rng.random() < 0.15))
    if rng.random() < (0.01, 0.04, 0.03)[ill]:
        found.append(Finding("hilum", pick(rng, SIDES)))
    if rng.random() < (0.01, 0.05, 0.08)[ill]:
        found.append(Finding("gastric"))
    if ill:
        found += _lines(rng, ill, found)
    return tuple(found)


def _opacity(rng: np.random.Generator) -> Finding:
    """An opacity; `count` is how the reader names it: 0 opacity, 1 consolidation, 2 pneumonia, 3 mass."""
    reading = pick(rng, (0, 1, 2, 3), (0.40, 0.27, 0.25, 0.08))
    grade = pick(rng, GRADES["opacity"], (0.25, 0.4, 0.35)) if reading != 3 else "dense"
    return Finding("opacity", pick(rng, SIDES), grade, pick(rng, ZONES, (0.28, 0.30, 0.42)), reading, hedged=reading == 2 and rng.random() < 0.65)


def _lines(rng: np.random.Generator, ill: int, found: list[Finding]) -> list[Finding]:
    lines: list[Finding] = []
    intensive = ill == 2
    if rng.random() < (0.42 if intensive else 0.02):
        lines.append(Finding("tube", count=int(rng.integers(1, 9))))
        lines.append(Finding("gastric_tube", place=pick(rng, ("stomach", "gastroesophageal junction", "distal esophagus"), (0.7, 0.15, 0.15))))
    if rng.random() < (0.62 if intensive else 0.16):
        kind = pick(rng, ("jugular", "subclavian", "picc"), (0.4, 0.2, 0.4))
        lines.append(Finding("line", pick(rng, SIDES), kind, pick(rng, LINE_TIPS, (0.2, 0.3, 0.3, 0.2))))
    if rng.random() < (0.10 if intensive else 0.01):
        lines.append(Finding("swan", place=pick(rng, ("right", "left", "main"))))
    drained = [f.side for f in found if f.kind in ("pneumothorax", "effusion") and f.grade != "small"]
    if drained and rng.random() < 0.5:
        lines.append(Finding("chest_tube", drained[0], place=pick(rng, ("apex", "base"))))
    return lines


def _next(rng: np.random.Generator, patient: Patient, before: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Evolves the last study: each finding stays, steps up or down, or goes; new ones appear now and then."""
    after: list[Finding] = []
    for finding in before:
        fate = rng.random()
        if fate < 0.22:
            continue
        grades = GRADES.get(finding.kind)
        if grades and fate > 0.5 and finding.count != 3:
            step = grades.index(finding.grade) + (1 if fate > 0.75 else -1)
            finding = dataclasses.replace(finding, grade=grades[min(max(step, 0), 2)], hedged=False)
        elif finding.kind == "tube" and fate > 0.5:
            finding = dataclasses.replace(finding, count=int(rng.integers(1, 9)))
        elif finding.kind == "line" and fate > 0.6:
            finding = dataclasses.replace(finding, place=pick(rng, LINE_TIPS))
        after.append(finding)
    for finding in _first(rng, patient):
        new = all((finding.kind, finding.side) != (f.kind, f.side) for f in after)
        if new and rng.random() < 0.4 and not (finding.kind == "line" and any(f.kind == "line" for f in after)):
            after.append(finding)
    return tuple(after)


def _hedge(rng: np.random.Generator, finding: Finding) -> Finding:
    if finding.grade in ("small", "mild") and rng.random() < 0.22:
        return dataclasses.replace(finding, hedged=True)
    return finding
