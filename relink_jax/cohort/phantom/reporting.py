"""Writes the report of a phantom study in one of two styles, with the labels a report labeler would read from it.

Style A is prose dictated by an attending; style B is a structured template of another hospital, in another order and terser.
A report names most but not all of what the image shows, hedges faint findings, denies some absent ones and compares
follow-ups with a prior whose date is a de-identification mark `___`.
"""

import dataclasses

import numpy as np

from relink_jax.cohort.phantom import wording
from relink_jax.cohort.phantom.anatomy import Finding, Patient, pick
from relink_jax.cohort.phantom.findings import GRADES, Study
from relink_jax.cohort.phantom.words_acute import ACUTE
from relink_jax.cohort.phantom.words_chronic import CHRONIC
from relink_jax.cohort.schema import BLANK, LABELS

_WORDINGS = ACUTE | CHRONIC
_ORDER = {"A": ("devices", "lungs", "pleura", "heart", "bones", "other"), "B": ("heart", "lungs", "pleura", "bones", "devices", "other")}
_HEADS = {"heart": "HEART", "lungs": "LUNGS", "pleura": "PLEURA", "bones": "BONES", "devices": "LINES AND DEVICES", "other": "OTHER"}
_NUMBERS = ("zero", "one", "two", "three")


@dataclasses.dataclass(frozen=True)
class Report:
    """Two sections (either may be empty), the 14 label codes of `schema.LABELS`, and the findings that the text states."""

    findings: str
    impression: str
    labels: tuple[int, ...]
    stated: tuple[Finding, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Said:
    group: str
    text: str
    labels: dict[str, int]
    brief: str
    weight: int
    of: tuple[Finding, ...] = ()


def write_report(rng: np.random.Generator, patient: Patient, study: Study, site: str) -> Report:
    """Returns the report of `study` in the style of `site` ('A' or 'B')."""
    shown = visible(patient, study)
    minor = all(_wording(f).weight == 0 for f in shown)
    if rng.random() < (0.93 if not shown else 0.45 if minor else 0.0):
        macros = wording.MACROS[site]
        findings, impression, absent, _ = pick(rng, macros, [m[3] for m in macros])
        return _close(rng, findings, impression, [_Said("", "", dict.fromkeys(absent, 0), "", 0)], [], False)
    said = [_say(rng, group, site, study) for group in _paired(shown) if rng.random() < _wording(group[0]).mention]
    said += _resolved(rng, study, shown)
    said += _denied(rng, shown)
    said.sort(key=lambda s: _ORDER[site].index(s.group))
    findings = _opening(rng, study, site) + _body(said, site)
    impression, named = _impression(rng, said, study, site)
    return _close(rng, findings, impression, said, named, True)


def visible(patient: Patient, study: Study) -> tuple[Finding, ...]:
    """Returns everything abnormal that the images of `study` show, heart size included."""
    heart = patient.anatomy.heart_grade
    grown = () if heart == "normal" else (Finding("heart", grade=heart, hedged=heart == "borderline"),)
    return (*study.acute, *patient.chronic, *grown)


def _wording(finding: Finding) -> wording.Wording:
    name = finding.kind
    if name == "opacity":
        name = f"opacity{finding.count}"
    elif name in ("line", "pacemaker", "aorta", "heart"):
        name = f"{name}_{finding.grade}"
    return _WORDINGS[name]


def _paired(shown: tuple[Finding, ...]) -> list[tuple[Finding, ...]]:
    """Groups two-sided effusions of equal grade, so that they are said once as bilateral."""
    groups: list[tuple[Finding, ...]] = []
    for finding in shown:
        twin = next(
            (g for g in groups if finding.kind == "effusion" and g[0].kind == "effusion" and (g[0].grade, g[0].hedged) == (finding.grade, finding.hedged)), None
        )
        if twin is None:
            groups.append((finding,))
        else:
            groups[groups.index(twin)] = (*twin, finding)
    return groups


def _say(rng: np.random.Generator, group: tuple[Finding, ...], site: str, study: Study) -> _Said:
    finding, words = group[0], _wording(group[0])
    hedged = bool(words.hedged) and (finding.hedged or not words.plain)
    template = pick(rng, words.hedged if hedged else words.plain if site == "A" else words.terse)
    grade = pick(rng, wording.GRADE_WORDS.get(finding.grade, (finding.grade,)))
    both = len(group) > 1
    count = _NUMBERS[finding.count] if finding.kind in ("rib_fracture", "old_rib") else str(finding.count)
    several = finding.kind in ("rib_fracture", "old_rib") and finding.count > 1
    slots = {
        "side": "bilateral" if both else finding.side,
        "grade": grade,
        "place": finding.place,
        "n": count,
        "s": "s" if both else "",
        "p": "s" if several else "",
        "is": "are" if both else "is",
        "are": "are" if several else "is",
        "a": "" if both else "a ",
    }
    text = template.format(**slots).replace("on the bilateral", "on both sides")
    text = text[:-1] + _change(rng, finding, study) + "."
    labels = {label: 1 for label in words.labels}
    if hedged and words.labels:
        labels[words.labels[0]] = -1
    doubt = "possible " if hedged and words.plain else ""
    brief = words.brief.format(**slots, h=doubt) if "{h}" in words.brief else doubt + words.brief.format(**slots)
    return _Said(words.group, text, labels, brief, words.weight, group)


def _change(rng: np.random.Generator, finding: Finding, study: Study) -> str:
    """Returns how an acute finding compares with the prior study, or nothing."""
    if study.order == 0 or finding not in study.acute or rng.random() < 0.45:
        return ""
    prior = next((f for f in study.before if (f.kind, f.side, f.place) == (finding.kind, finding.side, finding.place)), None)
    grades = GRADES.get(finding.kind)
    if prior is None:
        return ", new from prior" if grades else ""
    if not grades or finding.grade not in grades or prior.grade not in grades:
        return ", unchanged"
    step = grades.index(finding.grade) - grades.index(prior.grade)
    return ", increased from prior" if step > 0 else ", decreased from prior" if step < 0 else pick(rng, (", unchanged", ", stable"))


def _resolved(rng: np.random.Generator, study: Study, shown: tuple[Finding, ...]) -> list[_Said]:
    kinds, said = {f.kind for f in shown}, []
    for finding in study.before:
        if finding.kind in ("effusion", "pneumothorax", "edema") and finding.kind not in kinds and rng.random() < 0.5:
            words = _wording(finding)
            name = {"effusion": "pleural effusion", "pneumothorax": "pneumothorax", "edema": "pulmonary edema"}[finding.kind]
            kinds.add(finding.kind)
            said.append(_Said(words.group, f"previously seen {name} has resolved.", {words.labels[0]: 0}, f"resolved {name}", 1))
    return said


def _denied(rng: np.random.Generator, shown: tuple[Finding, ...]) -> list[_Said]:
    """Draws up to three negated statements about labels that nothing visible carries."""
    taken = {label for f in shown for label in _wording(f).labels}
    said: list[_Said] = []
    start = int(rng.integers(len(wording.NEGATIONS)))
    for step in range(len(wording.NEGATIONS)):
        group, text, labels = wording.NEGATIONS[(start + 4 * step) % len(wording.NEGATIONS)]
        if len(said) < 3 and not taken & set(labels) and rng.random() < 0.6:
            taken |= set(labels)
            said.append(_Said(group, text, dict.fromkeys(labels, 0), "", 0))
    return said


def _opening(rng: np.random.Generator, study: Study, site: str) -> str:
    draw = rng.random()
    if study.order:
        if site == "B":
            return "COMPARISON: ___. " if draw < 0.7 else ""
        return pick(rng, ("Compared to prior from ___. ", "Comparison with the study of ___. ", "Comparison: ___. ")) if draw < 0.6 else ""
    if draw < 0.25:
        return (
            ("Portable AP view. " if study.portable else "PA view of the chest. ")
            if site == "A"
            else ("TECHNIQUE: portable. " if study.portable else "TECHNIQUE: PA. ")
        )
    return "No prior from ___ available. " if draw < 0.30 and site == "A" else ""


def _body(said: list[_Said], site: str) -> str:
    if site == "A":
        return " ".join(_capital(s.text) for s in said)
    parts = []
    for group in _ORDER["B"]:
        lines = [s.text for s in said if s.group == group]
        if lines:
            parts.append(f"{_HEADS[group]}: {' '.join(lines)}")
    return " ".join(parts)


def _impression(rng: np.random.Generator, said: list[_Said], study: Study, site: str) -> tuple[str, list[_Said]]:
    """Returns the impression and what it names: the two to three weightiest findings."""
    named = sorted((s for s in said if s.weight > 0), key=lambda s: -s.weight)[: int(rng.integers(2, 4))]
    if not named:
        return pick(rng, wording.QUIET[site]), []
    if site == "B":
        return " ".join(f"{number}. {_capital(s.brief)}." for number, s in enumerate(named, 1)), named
    text = _capital(", ".join(s.brief for s in named)) + "."
    if study.order and rng.random() < 0.2:
        text += " Findings discussed with Dr. ___ at ___."
    return text, named


def _close(rng: np.random.Generator, findings: str, impression: str, first: list[_Said], second: list[_Said], vary: bool) -> Report:
    """Leaves out a section now and then and reads the labels from what remains."""
    draw = rng.random() if vary else 1.0
    if draw < 0.03:
        findings, first = "", []
    elif draw < 0.06:
        impression, second = "", []
    codes = dict.fromkeys(LABELS, BLANK)
    rank = {BLANK: 0, 0: 1, -1: 2, 1: 3}
    for said in (*first, *second):
        for label, value in said.labels.items():
            codes[label] = max(codes[label], value, key=rank.__getitem__)
    if not any(codes[label] in (1, -1) for label in LABELS[1:-1]):
        codes["No Finding"] = 1
    stated = dict.fromkeys(finding for said in (*first, *second) for finding in said.of)
    return Report(findings, impression, tuple(codes[label] for label in LABELS), tuple(stated))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
