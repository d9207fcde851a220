"""Draws the frontal (PA or AP) radiograph of a phantom study: anatomy first, then what `overlays` adds for each finding.

Not a physical model: attenuation is painted, not integrated. It only has to carry what a report names, in the right place.
"""

import dataclasses

import numpy as np

from relink_jax.cohort.phantom import overlays
from relink_jax.cohort.phantom.anatomy import Anatomy, Finding
from relink_jax.cohort.phantom.canvas import Canvas


@dataclasses.dataclass(frozen=True)
class Pose:
    """How one image was taken: shift, magnification of the heart by AP projection, tilt of the patient."""

    dx: float
    dy: float
    portable: bool
    tilt: float


@dataclasses.dataclass(frozen=True)
class Frame:
    """Landmarks that overlays need: midline and dimensions in image coordinates, and masks on the canvas grid."""

    cx: float
    apex: float
    half_width: float
    base: tuple[float, float]
    carina: float
    heart: tuple[float, float]
    heart_radii: tuple[float, float]
    aside: np.ndarray
    lateral: np.ndarray
    dome: np.ndarray
    cavity: np.ndarray
    lung: np.ndarray

    def hemi(self, side: str) -> tuple[float, float]:
        """Returns (sign, dome height) of a side: the patient's right is drawn on the left."""
        return (-1.0, self.base[0]) if side == "right" else (1.0, self.base[1])

    def zone(self, side: str, place: str) -> tuple[float, float]:
        """Returns the centre of a lung zone."""
        sign, base = self.hemi(side)
        share = {"upper": 0.26, "mid": 0.53, "lower": 0.82}[place]
        return self.cx + sign * self.half_width * (0.46 if place == "upper" else 0.60), self.apex + share * (base - self.apex)


def draw_frontal(size: int, anatomy: Anatomy, findings: tuple[Finding, ...], pose: Pose) -> np.ndarray:
    """Returns brightness [size, size] float32 in about [0, 1], white is dense, before exposure and noise."""
    canvas = Canvas(size)
    kinds = {f.kind: f for f in findings}
    frame = _frame(canvas, anatomy, findings, pose)
    _body(canvas, anatomy, frame)
    _mediastinum(canvas, anatomy, frame, kinds, pose)
    _bones(canvas, anatomy, frame)
    for finding in findings:
        overlays.DRAW.get(finding.kind, overlays.nothing)(canvas, frame, finding)
    return canvas.finish()


def _frame(canvas: Canvas, anatomy: Anatomy, findings: tuple[Finding, ...], pose: Pose) -> Frame:
    cx, apex = 0.5 + pose.dx, anatomy.apex + pose.dy
    raised = {f.side: {"mild": 0.075, "marked": 0.16}[f.grade] for f in findings if f.kind == "hemidiaphragm"}
    kinds = {f.kind for f in findings}
    lower = (0.085 if "hyperinflation" in kinds else 0.0) - (0.12 if "low_volumes" in kinds else 0.0)
    right = anatomy.base + pose.dy + lower - raised.get("right", 0.0)
    left = anatomy.base + pose.dy + lower + anatomy.left_drop - raised.get("left", 0.0)
    foot = anatomy.base + pose.dy + lower + 0.10
    x, y, half = canvas.x, canvas.y, anatomy.half_width
    midline = cx + pose.tilt * (y - 0.5)
    offset = x - midline
    aside = np.abs(offset)
    rise = np.clip((foot - y) / (foot - apex), 0, 1)
    lateral = (half * (1 - rise**anatomy.arch) ** 0.6).astype(np.float32)
    curve = 0.14 if "hyperinflation" in kinds else 0.34
    top = np.where(offset < 0, np.float32(right), np.float32(left))
    dome = top + np.float32(curve) * (aside - 0.42 * half) ** 2 / half
    medial = 0.045 + 0.03 * np.clip((y - apex) / 0.5, 0, 1)
    cavity = canvas.soft(lateral - aside) * canvas.soft(aside - medial.astype(np.float32))
    lung = cavity * canvas.soft(dome - y)
    ratio = anatomy.heart_ratio * (1.05 if pose.portable else 1.0)
    radii = (ratio * half, (0.115 + 0.30 * ratio * half) * anatomy.heart_tall)
    heart = (cx + anatomy.heart_shift * radii[0], max(right, left) - 0.42 * radii[1])
    return Frame(cx, apex, half, (right, left), apex + 0.23, heart, radii, aside, lateral, dome, cavity, lung)


def _body(canvas: Canvas, anatomy: Anatomy, frame: Frame) -> None:
    y = canvas.y
    chest = frame.half_width + anatomy.soft_tissue
    outline = np.where(
        y < frame.apex + 0.08, 0.10 + 0.9 * np.clip((y - 0.01) / (frame.apex + 0.07), 0, 1) ** 1.6, np.maximum(chest, 0.62 - 1.4 * (y - frame.apex - 0.08))
    )
    canvas.paint(canvas.soft(outline.astype(np.float32) - frame.aside, 0.03), 0.55)
    canvas.paint(canvas.soft(frame.half_width + 0.02 - frame.aside, 0.05) * canvas.soft(y - frame.dome) * canvas.soft(y - frame.base[0] - 0.0, 0.1), 0.70)
    sway = frame.cx + anatomy.spine_sway * np.sin(np.pi * np.clip((y - frame.apex) / (1.0 - frame.apex), 0, 1) * 1.6)
    canvas.image += (0.16 * np.exp(-0.5 * ((canvas.x - sway) / 0.026) ** 2) * (0.8 + 0.2 * np.sin(2 * np.pi * y / 0.07))).astype(np.float32)
    canvas.paint(frame.lung, 0.17, 0.93)
    canvas.blob((frame.cx + 0.20, frame.base[1] + 0.10), (anatomy.bubble, 0.6 * anatomy.bubble), 0.25, 0.8)


def _mediastinum(canvas: Canvas, anatomy: Anatomy, frame: Frame, kinds: dict[str, Finding], pose: Pose) -> None:
    wide = 0.055 if "mediastinum" in kinds else 0.0
    carina, cx, y = frame.carina, frame.cx, canvas.y
    half = anatomy.mediastinum + wide + (0.008 if pose.portable else 0.0)
    column = canvas.soft(half + 0.02 * np.clip((y - carina) / 0.3, 0, 1).astype(np.float32) - frame.aside, 0.03) * canvas.soft(y - frame.apex + 0.03, 0.06)
    canvas.paint(column * canvas.soft(frame.base[1] - y, 0.05), 0.60, 0.75)
    canvas.disk((cx + half + 0.005, carina - 0.045), (anatomy.knob, anatomy.knob * 1.15), 0.62, 0.8)
    canvas.disk(frame.heart, frame.heart_radii, 0.70, 0.9, edge=0.08)
    sway = cx + anatomy.spine_sway * np.sin(np.pi * np.clip((y - frame.apex) / (1.0 - frame.apex), 0, 1) * 1.6)
    canvas.image += (0.10 * np.exp(-0.5 * ((canvas.x - sway) / 0.022) ** 2)).astype(np.float32)
    for sign in (-1, 1):
        canvas.blob((cx + sign * (half + 0.03), carina + 0.04), (0.026, 0.04), 0.5, 0.55)
    canvas.paint(np.exp(-0.5 * ((canvas.x - cx) / 0.011) ** 2).astype(np.float32) * canvas.soft(carina - y, 0.03), 0.30, 0.7)


def _bones(canvas: Canvas, anatomy: Anatomy, frame: Frame) -> None:
    away = frame.aside / frame.half_width
    phase = (canvas.y - frame.apex + 0.02 - anatomy.rib_tilt * 0.18 * away**2 + 0.05 * away) / anatomy.rib_spacing
    ribs = np.clip(1.6 * np.cos((2 * np.pi) * phase) - 0.55, 0, 1) * canvas.soft(frame.lateral + 0.02 - frame.aside)
    canvas.image += ribs.astype(np.float32) * np.float32(anatomy.rib_contrast) * canvas.soft(frame.dome + 0.03 - canvas.y, 0.05)
    rows = slice(0, int(0.4 * canvas.size))
    clavicle = frame.apex + anatomy.clavicle - anatomy.clavicle_slope * (frame.aside[rows] - 0.15)
    bar = (
        np.exp(-0.5 * ((canvas.y[rows] - clavicle) / 0.012) ** 2)
        * canvas.soft(frame.half_width + 0.04 - frame.aside[rows])
        * canvas.soft(frame.aside[rows] - 0.05)
    )
    canvas.image[rows] += (0.16 * bar).astype(np.float32)
