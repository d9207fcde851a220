"""From a grey image to a tower's pixels, exactly as the checkpoint's `preprocessor_config.json` says.

Shorter side resized with PIL's own filter, centre crop, 1/255, mean and standard deviation: the steps, their order and
their dtypes are those of transformers' PIL CLIPImageProcessor, to the last bit. An input in [0, 1] becomes 8-bit grey
first (x * 255, rounded half to even), because that is what the reference resizes; a 16-bit source therefore has to be
windowed to [0, 1] by the reader before it comes here. Resampling decides more than any weight error: bicubic without
antialiasing moves a chest radiograph by 9 grey levels on average, a squash instead of a crop by 32.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from relink_jax import errors
from relink_jax.store import files

FILE = "preprocessor_config.json"


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

    Raises: DataError: an image size, filter or statistic that is missing or makes no sense. StoreError: no such file.
    """
    config = files.read_json(directory / FILE)
    size = config.get("size") if config.get("do_resize", True) else {}
    size = {"shortest_edge": size} if isinstance(size, int) else size
    short_side = size.get("shortest_edge") if isinstance(size, dict) else None
    squash = (size["height"], size["width"]) if isinstance(size, dict) and {"height", "width"} <= set(size) else None
    if config.get("do_resize", True) and not (short_side or squash):
        raise errors.DataError(errors.describe("image size missing", f"{FILE} field 'size'", "shortest_edge, or height and width", repr(size)))
    crop = config.get("crop_size") if config.get("do_center_crop", True) else None
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    if crop and not (isinstance(crop, dict) and {"height", "width"} <= set(crop)):
        raise errors.DataError(errors.describe("crop size", f"{FILE} field 'crop_size'", "height and width", repr(crop)))
    resample = config.get("resample", Image.Resampling.BICUBIC.value)
    if resample not in [kind.value for kind in Image.Resampling]:
        raise errors.DataError(errors.describe("resampling filter", f"{FILE} field 'resample'", "a PIL filter number, 0 to 5", repr(resample)))
    normalise = config.get("do_normalize", True)
    return PreprocessSpec(
        short_side=short_side,
        squash=squash,
        resample=resample,
        crop=(crop["height"], crop["width"]) if crop else None,
        rescale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
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
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(value, float | int) for value in values):
        raise errors.DataError(errors.describe("channel statistics", f"{FILE} field {name!r}", "three numbers", repr(values)))
    if name == "image_std" and min(values) <= 0:
        raise errors.DataError(errors.describe("channel statistics", f"{FILE} field {name!r}", "positive numbers", repr(values)))
    return tuple(float(value) for value in values)
