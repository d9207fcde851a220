"""Draws the lateral radiograph of a phantom study: heart in front, spine behind, and the findings that show from the side."""

import numpy as np

from relink_jax.cohort.phantom.anatomy import Anatomy, Finding
from relink_jax.cohort.phantom.canvas import Canvas


def draw_lateral(size: int, anatomy: Anatomy, findings: tuple[Finding, ...], dx: float) -> np.ndarray:
    """Returns brightness [size, size] float32 in about [0, 1]; the patient faces left."""
    canvas = Canvas(size)
    x, y = canvas.x - np.float32(dx), canvas.y
    top, base = anatomy.apex, anatomy.base + 0.04
    depth = 0.30 + 0.25 * (anatomy.half_width - 0.32)
    canvas.paint(canvas.soft(depth + 0.10 - np.abs(x - 0.5) - 0.12 * np.clip(0.2 - y, 0, 1), 0.03), 0.55)
    rise = np.clip((base + 0.1 - y) / (base + 0.1 - top), 0, 1)
    chest = canvas.soft((depth * (1 - rise**anatomy.arch) ** 0.5).astype(np.float32) - 0.01 - np.abs(x - 0.5))
    lung = chest * canvas.soft(base - 0.10 * (0.5 - x) - y)
    canvas.paint(lung, 0.20, 0.9)
    spine = 0.5 + depth * 0.72 + 0.05 * np.sin(np.pi * y)
    canvas.image += (0.28 * np.exp(-0.5 * ((x - spine) / 0.04) ** 2) * (0.8 + 0.2 * np.sin(2 * np.pi * y / 0.075))).astype(np.float32)
    reach = 0.9 * anatomy.heart_ratio * anatomy.half_width
    canvas.disk((0.5 - depth * 0.35 + dx, base - 0.14), (reach * 0.8, reach), 0.70, 0.85, edge=0.1)
    for finding in findings:
        if finding.kind == "effusion":
            height = {"small": 0.05, "moderate": 0.14, "large": 0.28}[finding.grade]
            canvas.paint(chest * canvas.soft(y - (base + 0.03 - height - 0.1 * np.clip(x - 0.5, 0, 1).astype(np.float32))), 0.82, 0.8)
        elif finding.kind == "opacity":
            canvas.blob((0.52 + dx, {"upper": 0.32, "mid": 0.47, "lower": 0.62}[finding.place]), (0.08, 0.08), 0.8, 0.7, lung)
        elif finding.kind == "sternotomy":
            for step in range(finding.count):
                canvas.ring((0.5 - depth * 0.97 + dx, top + 0.12 + 0.065 * step), (0.012, 0.014), 0.011)
        elif finding.kind == "pacemaker":
            canvas.box((0.5 - depth + dx, top + 0.05), (0.5 - depth + 0.03 + dx, top + 0.15))
            canvas.line([(0.5 - depth + dx, top + 0.1), (0.46 + dx, top + 0.12), (0.5 - depth * 0.4 + dx, base - 0.06)], 0.011)
    return canvas.finish()
