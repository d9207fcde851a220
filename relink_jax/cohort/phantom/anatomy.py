"""A phantom patient: thorax geometry and chronic findings that persist over the patient's studies.

Lengths are in units of the image side, x to the right and y down; a patient's right side is on the left of the image.
Geometry is drawn from ranges wide enough to be seen on a 64 x 64 image; categories that reports name are separated by gaps.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
HEART_RATIOS = {"normal": (0.40, 0.49), "borderline": (0.51, 0.54), "mild": (0.56, 0.60), "moderate": (0.63, 0.68), "severe": (0.72, 0.80)}
SIDES = ("right", "left")
ZONES = ("upper", "mid", "lower")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that an image shows and a report may name.

    `kind` selects how it is drawn and worded; `place` is a lung zone or a tip position; `count` a number of wires, ribs,
    millimetres or centimetres; `hedged` findings are drawn fainter and worded as uncertain.
    """

    kind: str
    side: str = ""
    grade: str = ""
    place: str = ""
    count: int = 0
    hedged: bool = False


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """Geometry of one patient; see the module's units."""

    half_width: float
    apex: float
    base: float
    left_drop: float
    arch: float
    heart_grade: str
    heart_ratio: float
    heart_shift: float
    heart_tall: float
    mediastinum: float
    knob: float
    rib_spacing: float
    rib_tilt: float
    rib_contrast: float
    clavicle: float
    clavicle_slope: float
    soft_tissue: float
    spine_sway: float
    bubble: float


@dataclasses.dataclass(frozen=True)
class Patient:
    """Anatomy, chronic findings and how ill the patient is: outpatient, ward or intensive."""

    anatomy: Anatomy
    chronic: tuple[Finding, ...]
    setting: str
    age: int
    sex: str


def pick(rng: np.random.Generator, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
    """Returns one of `options`, uniformly or with probabilities proportional to `weights` (faster than `rng.choice`)."""
    draw = rng.random()
    if weights is None:
        return options[int(draw * len(options))]
    left = draw * sum(weights)
    for option, weight in zip(options, weights, strict=True):
        left -= weight
        if left < 0:
            return option
    return options[-1]


def draw_patient(rng: np.random.Generator) -> Patient:
    """Returns a patient drawn from `rng`."""
    setting = pick(rng, ("outpatient", "ward", "intensive"), (0.52, 0.28, 0.20))
    ill = {"outpatient": 0, "ward": 1, "intensive": 2}[setting]
    heart = pick(rng, tuple(HEART_RATIOS), ((0.88, 0.05, 0.04, 0.02, 0.01), (0.46, 0.12, 0.20, 0.14, 0.08), (0.36, 0.12, 0.24, 0.17, 0.11))[ill])
    uniform = rng.uniform
    chronic = _chronic(rng, ill)
    sway = 0.0
    for finding in chronic:
        if finding.kind == "scoliosis":
            sway = {"mild": 0.035, "moderate": 0.065, "severe": 0.10}[finding.grade] * (-1 if finding.side == "right" else 1)
    anatomy = Anatomy(
        half_width=uniform(0.32, 0.42),
        apex=uniform(0.10, 0.16),
        base=uniform(0.70, 0.76),
        left_drop=uniform(0.0, 0.025),
        arch=uniform(1.7, 3.2),
        heart_grade=heart,
        heart_ratio=uniform(*HEART_RATIOS[heart]),
        heart_shift=uniform(0.18, 0.34),
        heart_tall=uniform(0.85, 1.1),
        mediastinum=uniform(0.048, 0.066),
        knob=uniform(0.03, 0.045),
        rib_spacing=uniform(0.058, 0.080),
        rib_tilt=uniform(0.05, 0.45),
        rib_contrast=uniform(0.05, 0.10),
        clavicle=uniform(0.02, 0.07),
        clavicle_slope=uniform(0.05, 0.35),
        soft_tissue=uniform(0.04, 0.11),
        spine_sway=sway,
        bubble=uniform(0.02, 0.05),
    )
    return Patient(anatomy, chronic, setting, int(rng.integers(24, 90)), pick(rng, ("F", "M")))


def _chronic(rng: np.random.Generator, ill: int) -> tuple[Finding, ...]:
    """Draws persistent findings; `ill` is 0 (outpatient) to 2 (intensive)."""
    found: list[Finding] = []
    if ill == 0 and rng.random() < 0.55:
        return ()

    def maybe(
        chance: Sequence[float], kind: str, grades: Sequence[str] = ("",), sided: bool = False, places: Sequence[str] = ("",), counts: Sequence[int] = (0,)
    ) -> None:
        draws = rng.random(5)
        if draws[0] < chance[ill]:
            side = SIDES[int(draws[1] * 2)] if sided else ""
            found.append(Finding(kind, side, grades[int(draws[2] * len(grades))], places[int(draws[3] * len(places))], counts[int(draws[4] * len(counts))]))

    maybe((0.10, 0.22, 0.22), "aorta", ("tortuous", "calcified", "dilated"))
    maybe((0.02, 0.05, 0.07), "mediastinum")
    maybe((0.12, 0.17, 0.14), "scoliosis", ("mild", "moderate", "severe"), sided=True)
    maybe((0.10, 0.16, 0.14), "degenerative", ("mild", "severe"))
    maybe((0.06, 0.12, 0.12), "hemidiaphragm", ("mild", "marked"), sided=True)
    maybe((0.05, 0.11, 0.10), "old_rib", sided=True, counts=(1, 2, 3))
    maybe((0.06, 0.08, 0.07), "granuloma", sided=True, places=ZONES)
    maybe((0.05, 0.09, 0.08), "nodule", sided=True, places=ZONES, counts=(8, 12, 16, 22))
    maybe((0.03, 0.15, 0.16), "pacemaker", ("single", "dual", "defibrillator"), sided=True)
    maybe((0.02, 0.09, 0.09), "port", sided=True)
    maybe((0.04, 0.17, 0.22), "sternotomy", counts=(4, 5, 6, 7))
    maybe((0.01, 0.06, 0.08), "valve", places=("aortic", "mitral"))
    maybe((0.04, 0.06, 0.05), "clips", sided=True)
    maybe((0.02, 0.04, 0.04), "spinal_hardware", places=("upper", "lower"))
    maybe((0.03, 0.05, 0.04), "arthroplasty", sided=True)
    maybe((0.03, 0.06, 0.06), "hernia", ("small", "large"))
    maybe((0.04, 0.08, 0.06), "pleural_thickening", sided=True, places=("apical", "lateral"))
    maybe((0.06, 0.10, 0.09), "hyperinflation")
    maybe((0.02, 0.03, 0.03), "clavicle_plate", sided=True)
    return tuple(found)
