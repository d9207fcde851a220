"""A square of brightness with the few drawing operations the phantom needs, on unit coordinates.

Soft structures are computed on a NumPy grid; thin bright ones (tubes, wires, metal) are drawn by Pillow at three times the
size, averaged down and laid over. The result depends on the size only through sampling.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

_OVERSAMPLE = 3
Point = tuple[float, float]


class Canvas:
    """An image [S, S] of float32 brightness in about [0, 1], with the grids `x` [1, S] and `y` [S, 1] of pixel centres."""

    def __init__(self, size: int) -> None:
        self.size = size
        centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
        self.x, self.y = centres[None, :], centres[:, None]
        self.image = np.full((size, size), 0.03, np.float32)
        self._fine = size * _OVERSAMPLE
        self._metal: Image.Image | None = None
        self._draw: ImageDraw.ImageDraw | None = None

    def soft(self, distance: np.ndarray, width: float = 0.02) -> np.ndarray:
        """Returns 1 where `distance` > 0 and 0 where < 0, with a linear edge `width` wide."""
        return np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)

    def paint(self, mask: np.ndarray, brightness: float, strength: float = 1.0) -> None:
        """Moves the image towards `brightness` where `mask` is 1."""
        self.image += mask * np.float32(strength) * (np.float32(brightness) - self.image)

    def blob(self, centre: Point, radii: Point, brightness: float, strength: float, mask: np.ndarray | None = None) -> None:
        """Paints a Gaussian blob with standard deviations `radii`, only within its neighbourhood (and within `mask`)."""
        rows, columns = self._window(centre, (2.6 * radii[0], 2.6 * radii[1]))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        bell = np.exp(-0.5 * ((self.y[rows] - centre[1]) / radii[1]) ** 2) * np.exp(-0.5 * ((self.x[:, columns] - centre[0]) / radii[0]) ** 2)
        bell = (bell * strength).astype(np.float32)
        if mask is not None:
            bell *= mask[rows, columns]
        part = self.image[rows, columns]
        part += bell * (np.float32(brightness) - part)

    def disk(self, centre: Point, radii: Point, brightness: float, strength: float = 1.0, edge: float = 0.15) -> None:
        """Paints an ellipse with a soft rim, `edge` of its radius wide."""
        rows, columns = self._window(centre, (1.2 * radii[0], 1.2 * radii[1]))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        square = ((self.y[rows] - centre[1]) / radii[1]) ** 2 + ((self.x[:, columns] - centre[0]) / radii[0]) ** 2
        part = self.image[rows, columns]
        part += self.soft(1 - square, 2 * edge) * np.float32(strength) * (np.float32(brightness) - part)

    def line(self, points: Sequence[Point], width: float, brightness: float = 1.0) -> None:
        """Draws a bright polyline `width` wide on the metal layer."""
        self._layer().line([self._at(p) for p in points], fill=int(255 * brightness), width=max(1, round(width * self._fine)), joint="curve")

    def box(self, corner: Point, opposite: Point, brightness: float = 1.0) -> None:
        """Draws a bright rounded box on the metal layer."""
        first, second = self._at(corner), self._at(opposite)
        self._layer().rounded_rectangle((*first, *second), radius=max(1, round(0.015 * self._fine)), fill=int(255 * brightness))

    def ring(self, centre: Point, radii: Point, width: float, brightness: float = 1.0) -> None:
        """Draws a bright ellipse outline on the metal layer."""
        low, high = self._at((centre[0] - radii[0], centre[1] - radii[1])), self._at((centre[0] + radii[0], centre[1] + radii[1]))
        self._layer().ellipse((*low, *high), outline=int(255 * brightness), width=max(1, round(width * self._fine)))

    def dot(self, centre: Point, radius: float, brightness: float = 1.0) -> None:
        """Draws a bright filled disk on the metal layer."""
        low, high = self._at((centre[0] - radius, centre[1] - radius)), self._at((centre[0] + radius, centre[1] + radius))
        self._layer().ellipse((*low, *high), fill=int(255 * brightness))

    def finish(self) -> np.ndarray:
        """Lays the metal layer over the image and returns it, float32 [S, S]."""
        if self._metal is not None:
            metal = np.asarray(self._metal.reduce(_OVERSAMPLE), dtype=np.float32) / np.float32(255)
            self.image += metal * (np.float32(1.05) - self.image)
        return self.image

    def _layer(self) -> ImageDraw.ImageDraw:
        if self._draw is None:
            self._metal = Image.new("L", (self._fine, self._fine), 0)
            self._draw = ImageDraw.Draw(self._metal)
        return self._draw

    def _at(self, point: Point) -> Point:
        return point[0] * self._fine, point[1] * self._fine

    def _window(self, centre: Point, reach: Point) -> tuple[slice, slice]:
        size = self.size
        rows = slice(max(0, int((centre[1] - reach[1]) * size)), min(size, int((centre[1] + reach[1]) * size) + 2))
        columns = slice(max(0, int((centre[0] - reach[0]) * size)), min(size, int((centre[0] + reach[0]) * size) + 2))
        return rows, columns
