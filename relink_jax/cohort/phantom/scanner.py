"""What the X-ray machine of each site does to a picture: exposure, contrast, noise, borders and markers.

Site B differs from site A in all of them, so that it is a real external cohort: brighter and flatter, noisier, with a
black border and a burnt-in side marker.
"""

import numpy as np


def expose(brightness: np.ndarray, rng: np.random.Generator, site: str) -> np.ndarray:
    """Returns uint8 [S, S] of float brightness [S, S]; noise per pixel falls with the pixel's area, as in a detector."""
    size = brightness.shape[0]
    draws = rng.random(6)
    if site == "A":
        gamma, gain, offset, noise, border = 0.9 + 0.25 * draws[0], 0.90 + 0.15 * draws[1], 0.03 * draws[2], 0.015, 0.0
    else:
        gamma, gain, offset, noise, border = 0.62 + 0.16 * draws[0], 0.74 + 0.12 * draws[1], 0.08 + 0.06 * draws[2], 0.035, 0.05 * draws[3]
    image = np.clip(brightness, 0, 1) ** np.float32(gamma) * np.float32(gain) + np.float32(offset)
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(noise * size / 128)
    if site == "B":
        edge = round(border * size)
        if edge:
            image[:, :edge] = image[:, -edge:] = 0.0
        if draws[4] < 0.6:
            top, left, side = round((0.03 + 0.05 * draws[5]) * size), round(0.88 * size), max(2, round(0.06 * size))
            image[top : top + side, left : left + max(1, side // 3)] = 1.0
            image[top + side - max(1, side // 3) : top + side, left : left + side] = 1.0
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
