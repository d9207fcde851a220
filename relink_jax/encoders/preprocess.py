"""From a grey image to a tower's pixels, exactly as the checkpoint's `preprocessor_config.json` says.

Shorter side resized with PIL's own filter, centre crop, 1/255, mean and standard deviation: the steps, their order and
their dtypes are those of transformers' PIL CLIPImageProcessor, to the last bit. An input in [0, 1] becomes 8-bit grey
first (x * 255, rounded half to even), because that is what the reference resizes; a 16-bit source therefore has to be
windowed to [0, 1] by the reader before it comes here. Resampling decides more than any weight error: bicubic without
antialiasing moves a chest radiograph by 9 grey levels on average, a squash instead of a crop by 32.
"""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from relink_jax import errors
from relink_jax.encoders import specs

FILE = "preprocessor_config.json"
_LARGEST = 2**14


@dataclasses.dataclass(frozen=True)
class PreprocessSpec:
    """Sizes in pixels; `rescale` multiplies 8-bit grey levels; `mean` and `std` are per channel after rescaling."""

    short_side: int | None
    squash: tuple[int, int] | None
    resample: int
    crop: tuple[int, int] | None
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_spec(directory: pathlib.Path) -> PreprocessSpec:
    """Returns the preprocessing of a checkpoint directory.

    Raises: DataError: no such file, or an image size, filter or statistic that is missing or makes no sense.
    """
    config = specs.read_json(directory, FILE)
    short_side, squash, crop = None, None, None
    if config.get("do_resize", True):
        size = config.get("size")
        short_side = _side(size.get("shortest_edge") if isinstance(size, dict) else size)
        squash = _sides(size)
        if not (short_side or squash):
            raise errors.DataError(errors.describe("image size missing", f"{FILE} field 'size'", "shortest_edge, or height and width, in pixels", repr(size)))
    given = config.get("crop_size") if config.get("do_center_crop", True) else None
    if given is not None:
        crop = (given, given) if _side(given) else _sides(given)
        if not crop:
            raise errors.DataError(errors.describe("crop size", f"{FILE} field 'crop_size'", "height and width in pixels", repr(given)))
    resample = config.get("resample", Image.Resampling.BICUBIC.value)
    if isinstance(resample, bool) or resample not in [kind.value for kind in Image.Resampling]:
        raise errors.DataError(errors.describe("resampling filter", f"{FILE} field 'resample'", "a PIL filter number, 0 to 5", repr(resample)))
    rescale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    if not isinstance(rescale, float | int) or not 0 < rescale < math.inf:
        raise errors.DataError(errors.describe("scale", f"{FILE} field 'rescale_factor'", "a positive number", repr(rescale)))
    normalise = config.get("do_normalize", True)
    return PreprocessSpec(
        short_side=short_side,
        squash=squash,
        resample=int(resample),
        crop=crop,
        rescale=float(rescale),
        mean=_statistics(config, "image_mean") if normalise else (0.0, 0.0, 0.0),
        std=_statistics(config, "image_std") if normalise else (1.0, 1.0, 1.0),
    )


def pixels(image: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Returns pixels [h, w, 3] float32 of one grey image [H, W], float in [0, 1].

    Raises: DataError: not a two-dimensional finite image in [0, 1].
    """
    return normalised(resized(to_uint8(image), spec), spec)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Returns 8-bit grey levels [H, W] of an image in [0, 1]; refuses other shapes and ranges with `DataError`."""
    if image.ndim != 2 or min(image.shape) < 1:
        raise errors.DataError(errors.describe("image shape", "preprocessing", "[height, width]", str(image.shape)))
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise errors.DataError(
            errors.describe("pixel values", "preprocessing", "finite numbers in [0, 1]", f"minimum {image.min():g}, maximum {image.max():g}")
        )
    return np.rint(np.asarray(image, np.float32) * np.float32(255)).astype(np.uint8)


def resized(grey: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Returns 8-bit grey levels [h, w] after resize and centre crop (padded with black where the crop is larger)."""
    height, width = grey.shape
    target = spec.squash or (height, width)
    if spec.short_side and not spec.squash:
        long = int(spec.short_side * max(height, width) / min(height, width))
        target = (long, spec.short_side) if width <= height else (spec.short_side, long)
    picture = Image.fromarray(grey).resize((target[1], target[0]), resample=spec.resample)
    return _cropped(np.asarray(picture), spec.crop)


def normalised(grey: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Returns pixels [..., 3] float32 of 8-bit grey levels [...]: rescaled in float64, then standardised in float32."""
    scaled = (grey.astype(np.float64) * spec.rescale).astype(np.float32)[..., None]
    return np.asarray((scaled - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32))


def _side(value: Any) -> int | None:
    """Returns a length in pixels, None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST else None


def _sides(value: Any) -> tuple[int, int] | None:
    """Returns (height, width) of an object that has both, None for anything else."""
    height, width = (_side(value.get(name)) for name in ("height", "width")) if isinstance(value, dict) else (None, None)
    return (height, width) if height and width else None


def _cropped(grey: np.ndarray, crop: tuple[int, int] | None) -> np.ndarray:
    if crop is None:
        return grey
    lacking = [max(0, wanted - have) for wanted, have in zip(crop, grey.shape, strict=True)]
    if any(lacking):
        grey = np.pad(grey, [(-(-lack // 2), lack // 2) for lack in lacking])
    top, left = ((have - wanted) // 2 for wanted, have in zip(crop, grey.shape, strict=True))
    return grey[top : top + crop[0], left : left + crop[1]]


def _statistics(config: dict[str, Any], name: str) -> tuple[float, ...]:
    values = config.get(name)
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(value, float | int) and math.isfinite(value) for value in values):
        raise errors.DataError(errors.describe("channel statistics", f"{FILE} field {name!r}", "three numbers", repr(values)))
    if name == "image_std" and min(values) <= 0:
        raise errors.DataError(errors.describe("channel statistics", f"{FILE} field {name!r}", "positive numbers", repr(values)))
    return tuple(float(value) for value in values)
