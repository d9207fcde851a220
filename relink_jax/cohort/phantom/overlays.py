"""Draws each kind of finding onto a frontal phantom; `DRAW` maps a finding's kind to its drawing function.

Kinds that change the geometry itself (scoliosis, low volumes, a raised hemidiaphragm, a wide mediastinum) are drawn by
`frontal`. Sizes are exaggerated so that a small model can see them on 64 x 64 pixels.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from relink_jax.cohort.phantom.anatomy import Finding
from relink_jax.cohort.phantom.canvas import Canvas

if TYPE_CHECKING:
    from relink_jax.cohort.phantom.frontal import Frame


def nothing(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    """Draws nothing: the finding is part of the geometry."""


def _effusion(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    sign, base = frame.hemi(finding.side)
    height = {"small": 0.07, "moderate": 0.19, "large": 0.37}[finding.grade]
    outward = np.clip(frame.aside / frame.half_width - 0.25, 0, 1)
    level = base + 0.06 - height - (0.09 if finding.grade == "small" else 0.14) * outward**2
    fluid = canvas.soft(canvas.y - level, 0.03) * canvas.soft(frame.lateral + 0.01 - frame.aside) * _half(canvas, frame, sign)
    canvas.paint(fluid * canvas.soft(frame.dome + 0.14 - canvas.y), 0.84, 0.55 if finding.hedged else 0.92)


def _opacity(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    centre = frame.zone(finding.side, finding.place)
    if finding.count == 3:
        canvas.disk(centre, (0.062, 0.062), 0.80, 0.95, edge=0.1)
        return
    strength = {"faint": 0.45, "patchy": 0.75, "dense": 1.0}[finding.grade]
    sign, _ = frame.hemi(finding.side)
    if finding.grade == "patchy":
        for dx, dy in ((-0.045, -0.04), (0.05, 0.0), (-0.02, 0.055)):
            canvas.blob((centre[0] + sign * dx, centre[1] + dy), (0.034, 0.034), 0.80, strength, frame.lung)
    else:
        canvas.blob(centre, (0.078, 0.078), 0.80, strength, frame.lung)


def _atelectasis(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    x, y = frame.zone(finding.side, finding.place)
    sign, _ = frame.hemi(finding.side)
    bright = 0.45 if finding.hedged else 0.62
    if finding.grade == "linear":
        canvas.line([(x - sign * 0.10, y + 0.045), (x + sign * 0.10, y - 0.005)], 0.012, bright)
    else:
        canvas.line([(x - sign * 0.11, y + 0.02), (x + sign * 0.09, y + 0.02)], 0.03, bright)


def _edema(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    reach, strength = {"mild": ((0.055, 0.09), 0.5), "moderate": ((0.075, 0.12), 0.7), "severe": ((0.105, 0.16), 0.92)}[finding.grade]
    for sign in (-1, 1):
        canvas.blob((frame.cx + sign * 0.135, frame.carina + 0.10), reach, 0.72, strength * (0.7 if finding.hedged else 1.0), frame.lung)


def _pneumothorax(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    sign, base = frame.hemi(finding.side)
    depth = {"small": 0.055, "moderate": 0.11, "large": 0.19}[finding.grade]
    reach = {"small": 0.35, "moderate": 0.65, "large": 1.1}[finding.grade] * (base - frame.apex)
    edge = frame.lateral - depth * np.clip(1.3 - (canvas.y - frame.apex) / reach, 0, 1)
    side = _half(canvas, frame, sign)
    air = canvas.soft(frame.aside - edge) * frame.lung * side * canvas.soft(frame.apex + reach * 1.3 - canvas.y, 0.1)
    canvas.paint(air, 0.0, 0.95)
    rim = np.exp(-0.5 * ((frame.aside - edge) / 0.008) ** 2).astype(np.float32) * frame.lung * side * canvas.soft(frame.apex + reach * 1.1 - canvas.y)
    canvas.paint(rim * canvas.soft(frame.lateral - edge - 0.01), 0.85, 0.9)


def _nodule(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    x, y = frame.zone(finding.side, finding.place)
    radius = {8: 0.022, 12: 0.030, 16: 0.038, 22: 0.048}[finding.count]
    canvas.disk((x + 0.02, y - 0.03), (radius, radius), 0.82, 0.95, edge=0.2)


def _granuloma(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    x, y = frame.zone(finding.side, finding.place)
    canvas.dot((x - 0.03, y + 0.03), 0.013, 1.0)


def _aorta(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    x, y = frame.cx + 0.075, frame.carina - 0.04
    if finding.grade == "calcified":
        canvas.ring((x, y), (0.045, 0.045), 0.014, 0.95)
    elif finding.grade == "tortuous":
        canvas.disk((x + 0.005, y + 0.14), (0.05, 0.17), 0.62, 0.8)
    else:
        canvas.disk((x + 0.03, y), (0.085, 0.085), 0.66, 0.95)


def _degenerative(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    bright, wide = (0.55, 0.045) if finding.grade == "mild" else (0.8, 0.065)
    for step in range(6):
        y = frame.carina + 0.02 + 0.085 * step
        canvas.line([(frame.cx - wide, y), (frame.cx + wide, y)], 0.012, bright)


def _ribs(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    sign, _ = frame.hemi(finding.side)
    for step in range(finding.count):
        x, y = frame.cx + sign * frame.half_width * (0.93 + 0.02 * step), frame.carina + 0.10 + 0.085 * step
        if finding.kind == "old_rib":
            canvas.dot((x, y), 0.02, 0.85)
        else:
            canvas.line([(x - 0.035, y - 0.02), (x + 0.005, y + 0.012)], 0.014, 0.85)
            canvas.line([(x + 0.005, y - 0.02), (x + 0.04, y + 0.02)], 0.014, 0.85)


def _pacemaker(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    sign, _ = frame.hemi(finding.side)
    x, y = frame.cx + sign * 0.29, frame.apex + 0.13
    canvas.box((x - 0.05, y - 0.04), (x + 0.05, y + 0.045))
    hx, hy = frame.heart
    vein = [(x, y - 0.03), (x - sign * 0.10, y - 0.06), (frame.cx - 0.045, frame.carina - 0.06)]
    thick = 0.022 if finding.grade == "defibrillator" else 0.011
    canvas.line([*vein, (frame.cx - 0.05, hy), (hx + 0.30 * frame.heart_radii[0], hy + 0.07)], thick, 0.95)
    if finding.grade == "dual":
        canvas.line([(frame.cx - 0.05, hy - 0.06), (frame.cx - 0.085, hy), (frame.cx - 0.11, hy - 0.045)], 0.011, 0.95)


def _port(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    sign, _ = frame.hemi(finding.side)
    x, y = frame.cx + sign * 0.25, frame.apex + 0.20
    canvas.ring((x, y), (0.035, 0.035), 0.02)
    canvas.line(
        [
            (x, y),
            (x - sign * 0.02, frame.apex + 0.04),
            (frame.cx + sign * 0.07, frame.apex + 0.03),
            (frame.cx - 0.045, frame.carina - 0.04),
            (frame.cx - 0.05, frame.carina + 0.06),
        ],
        0.010,
        0.9,
    )


def _sternotomy(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    for step in range(finding.count):
        canvas.ring((frame.cx + 0.005, frame.apex + 0.10 + 0.065 * step), (0.022, 0.014), 0.011, 1.0)


def _valve(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    hx, hy = frame.heart
    at = (frame.cx + 0.01, hy - 0.055) if finding.place == "aortic" else (hx + 0.055, hy + 0.03)
    canvas.ring(at, (0.040, 0.028), 0.016)


def _clips(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    sign, _ = frame.hemi(finding.side)
    for dx, dy in ((0.0, 0.0), (0.03, 0.035), (-0.01, 0.06), (0.035, 0.09)):
        x, y = frame.cx + sign * (frame.half_width + 0.035 + dx), frame.apex + 0.16 + dy
        canvas.line([(x - 0.012, y), (x + 0.012, y + 0.010)], 0.012)


def _spinal_hardware(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    top = frame.apex + 0.02 if finding.place == "upper" else 0.70
    for sign in (-1, 1):
        canvas.line([(frame.cx + sign * 0.028, top), (frame.cx + sign * 0.028, top + 0.24)], 0.014)
    for step in range(4):
        canvas.line([(frame.cx - 0.04, top + 0.03 + 0.06 * step), (frame.cx + 0.04, top + 0.03 + 0.06 * step)], 0.014)


def _arthroplasty(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    sign, _ = frame.hemi(finding.side)
    x = 0.5 + sign * 0.445
    canvas.dot((x, frame.apex + 0.07), 0.05)
    canvas.line([(x, frame.apex + 0.07), (x + sign * 0.025, frame.apex + 0.27)], 0.03)


def _clavicle_plate(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    sign, _ = frame.hemi(finding.side)
    canvas.line([(frame.cx + sign * 0.10, frame.apex + 0.055), (frame.cx + sign * 0.28, frame.apex + 0.0)], 0.022)


def _hernia(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    radius = 0.055 if finding.grade == "small" else 0.10
    x, y = frame.cx + 0.05, frame.base[1] - 0.02 - 0.5 * radius
    canvas.disk((x, y), (radius, radius), 0.86, 1.0)
    canvas.disk((x, y - 0.25 * radius), (0.72 * radius, 0.5 * radius), 0.12, 1.0)


def _pleural_thickening(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    sign, base = frame.hemi(finding.side)
    depth = canvas.soft(frame.aside - frame.lateral + 0.045, 0.02) * frame.cavity * _half(canvas, frame, sign)
    band = (
        canvas.soft(frame.apex + 0.12 - canvas.y) if finding.place == "apical" else canvas.soft(canvas.y - frame.carina - 0.02) * canvas.soft(base - canvas.y)
    )
    canvas.paint(depth * band, 0.72, 0.9)


def _hilum(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    sign, _ = frame.hemi(finding.side)
    canvas.disk((frame.cx + sign * 0.11, frame.carina + 0.05), (0.055, 0.075), 0.70, 0.95)


def _gastric(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    canvas.disk((frame.cx + 0.20, frame.base[1] + 0.125), (0.12, 0.085), 0.10, 0.95)


def _tube(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    canvas.line([(frame.cx, 0.0), (frame.cx, frame.carina - 0.026 * finding.count)], 0.020, 0.95)


def _gastric_tube(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    x, base = frame.cx + 0.028, frame.base[1]
    path = [(x, 0.0), (x, {"stomach": base, "gastroesophageal junction": base + 0.02, "distal esophagus": base - 0.16}[finding.place])]
    if finding.place == "stomach":
        path += [(x + 0.03, base + 0.07), (x + 0.15, base + 0.12)]
    canvas.line(path, 0.011, 0.85)


def _line(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    sign, _ = frame.hemi(finding.side)
    cava, apex = frame.cx - 0.05, frame.apex
    tip = frame.carina + {"upper superior vena cava": -0.07, "mid superior vena cava": 0.01, "cavoatrial junction": 0.10, "right atrium": 0.20}[finding.place]
    entry = [(frame.cx + sign * 0.085, 0.0), (frame.cx + sign * 0.075, apex)]
    if finding.grade == "subclavian":
        entry = [(frame.cx + sign * 0.30, apex + 0.10), (frame.cx + sign * 0.18, apex + 0.03), (frame.cx + sign * 0.08, apex + 0.05)]
    elif finding.grade == "picc":
        entry = [
            (0.5 + sign * 0.48, apex + 0.36),
            (0.5 + sign * 0.43, apex + 0.12),
            (frame.cx + sign * 0.20, apex + 0.05),
            (frame.cx + sign * 0.08, apex + 0.05),
        ]
    canvas.line([*entry, (cava, min(apex + 0.12, tip - 0.02)), (cava, tip)], 0.013, 0.9)


def _swan(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    hx, hy = frame.heart
    end = {"right": (frame.cx - 0.14, frame.carina + 0.06), "left": (frame.cx + 0.15, frame.carina + 0.03), "main": (frame.cx + 0.04, frame.carina + 0.05)}[
        finding.place
    ]
    path = [
        (frame.cx - 0.08, 0.0),
        (frame.cx - 0.055, frame.carina),
        (frame.cx - 0.06, hy),
        (hx, hy + 0.075),
        (hx + 0.03, hy),
        (frame.cx + 0.04, frame.carina + 0.05),
        end,
    ]
    canvas.line(path, 0.011, 0.85)


def _chest_tube(canvas: Canvas, frame: "Frame", finding: Finding) -> None:
    sign, base = frame.hemi(finding.side)
    edge = frame.cx + sign * (frame.half_width + 0.06)
    end = (frame.cx + sign * 0.13, frame.apex + 0.06) if finding.place == "apex" else (frame.cx + sign * 0.12, base - 0.02)
    canvas.line([(edge, base - 0.06), (frame.cx + sign * frame.half_width * 0.85, base - 0.10), end], 0.024, 0.95)


def _half(canvas: Canvas, frame: "Frame", sign: float) -> np.ndarray:
    return canvas.soft(np.float32(sign) * (canvas.x - np.float32(frame.cx)))


DRAW: dict[str, Callable[[Canvas, "Frame", Finding], None]] = {
    "effusion": _effusion,
    "opacity": _opacity,
    "atelectasis": _atelectasis,
    "edema": _edema,
    "pneumothorax": _pneumothorax,
    "nodule": _nodule,
    "granuloma": _granuloma,
    "aorta": _aorta,
    "degenerative": _degenerative,
    "old_rib": _ribs,
    "rib_fracture": _ribs,
    "pacemaker": _pacemaker,
    "port": _port,
    "sternotomy": _sternotomy,
    "valve": _valve,
    "clips": _clips,
    "spinal_hardware": _spinal_hardware,
    "arthroplasty": _arthroplasty,
    "clavicle_plate": _clavicle_plate,
    "hernia": _hernia,
    "pleural_thickening": _pleural_thickening,
    "hilum": _hilum,
    "gastric": _gastric,
    "tube": _tube,
    "gastric_tube": _gastric_tube,
    "line": _line,
    "swan": _swan,
    "chest_tube": _chest_tube,
}
