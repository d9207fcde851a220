"""Small picture files of every kind that an archive holds, and their 8-bit grey as read without relink_jax."""

import pathlib

import numpy as np
from PIL import Image

NAMES = ("grey", "grey_16", "grey_12", "colour", "palette", "jpeg", "tiny", "tall", "wide", "square", "odd")


def write(directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes one file per name of `NAMES` and returns where each lies."""
    draw = np.random.default_rng(11)

    def smooth(height: int, width: int, top: int) -> np.ndarray:
        coarse = Image.fromarray(draw.random((max(2, height // 24), max(2, width // 24))).astype(np.float32))
        plane = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + draw.normal(0, 0.04, (height, width))
        return np.clip(plane * top, 0, top)

    eight = {
        **{"grey": smooth(333, 250, 255), "tiny": smooth(3, 2, 255), "tall": smooth(900, 31, 255), "wide": smooth(17, 640, 255)},
        **{"square": smooth(512, 512, 255), "odd": smooth(641, 702, 255)},
    }
    pictures = {name: Image.fromarray(plane.astype(np.uint8)) for name, plane in eight.items()}
    pictures["grey_16"] = Image.fromarray(smooth(301, 420, 65535).astype(np.uint16))
    pictures["grey_12"] = Image.fromarray(smooth(255, 257, 4095).astype(np.uint16))
    pictures["colour"] = Image.fromarray(np.stack([smooth(240, 331, 255) for _ in range(3)], -1).astype(np.uint8))
    pictures["palette"] = Image.fromarray(np.stack([smooth(229, 224, 255) for _ in range(3)], -1).astype(np.uint8)).quantize(64)
    pictures["jpeg"] = Image.fromarray(smooth(448, 381, 255).astype(np.uint8))
    paths = {name: directory / f"{name}.{'jpg' if name == 'jpeg' else 'png'}" for name in NAMES}
    for name, path in paths.items():
        pictures[name].save(path)
    return paths


def integers(path: pathlib.Path) -> np.ndarray:
    """Returns a file's own grey integers [H, W]; colours as Pillow's luma."""
    with Image.open(path) as picture:
        return np.asarray(picture if picture.mode == "I;16" else picture.convert("L"))


def grey(path: pathlib.Path) -> Image.Image:
    """Returns a file as an 8-bit grey picture: integers over the largest that their depth has, times 255, rounded."""
    levels = integers(path)
    if levels.dtype != np.uint8:
        levels = np.rint(levels.astype(np.float64) * 255 / (4095 if levels.max() <= 4095 else 65535)).astype(np.uint8)
    return Image.fromarray(levels)
