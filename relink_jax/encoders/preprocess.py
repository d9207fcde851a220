"""From a grey image to a tower's pixels: a named recipe, or exactly what the checkpoint's `preprocessor_config.json` says.

Shorter side resized with PIL's own filter, centre crop, 1/255, mean and standard deviation: the steps, their order and
their dtypes are those of transformers' PIL CLIPImageProcessor and SiglipImageProcessor, to the last bit. An input in [0, 1]
becomes 8-bit grey first (x * 255, rounded half to even), because that is what the reference resizes; a 16-bit source therefore
has to be windowed to [0, 1] by the reader before it comes here. Resampling decides more than any weight error: bicubic without
antialiasing moves a chest radiograph by 9 grey levels on average, a squash instead of a crop by 32.
"""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from relink_jax import errors
from relink_jax.encoders import recipes, specs
from relink_jax.encoders.recipes import RECIPES, to_uint8

__all__ = ["FILE", "OWN", "RECIPES", "PreprocessSpec", "dicom_mode", "normalised", "pixels", "read_spec", "recipe_for", "resized", "to_uint8"]

FILE = "preprocessor_config.json"
OWN = "hf"
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

    @property
    def recipe(self) -> recipes.Recipe:
        """The same as steps; transformers cuts the centre with the half margin rounded down."""
        steps = [recipes.Step("grey")]
        if self.squash:
            steps.append(recipes.Step("squash", (*self.squash, self.resample)))
        elif self.short_side:
            steps.append(recipes.Step("short_side", (self.short_side, self.resample)))
        if self.crop:
            steps.append(recipes.Step("crop", (*self.crop, "down")))
        return recipes.Recipe(tuple(steps), self.mean, self.std, self.rescale)


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
    squashes = str(config.get("image_processor_type", "")).startswith("Siglip")
    given = config.get("crop_size") if config.get("do_center_crop", not squashes) else None
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


def recipe_for(spec: specs.VLMSpec) -> recipes.Recipe:
    """Returns the preprocessing of a model: the recipe that its spec names, or else its checkpoint's own.

    Raises: UsageError: no recipe has that name. DataError: as in `read_spec`.
    """
    if not spec.recipe or spec.recipe == OWN:
        return read_spec(spec.directory).recipe
    found = recipes.named(spec.recipe)
    if found is None:
        expected = f"one of {', '.join(map(repr, (OWN, *RECIPES)))}"
        raise errors.UsageError(errors.describe("preprocessing", f"model {spec.name!r}", expected, repr(spec.recipe)) + errors.suggest(spec.recipe, RECIPES))
    return found


def dicom_mode(spec: specs.VLMSpec) -> str:
    """Returns how DICOM files become the image that this model's recipe starts from: one of `cohort.greyscale.MODES`."""
    return recipes.DICOM.get(spec.recipe, "standard")


def pixels(image: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Returns pixels [h, w, 3] float32 of one grey image [H, W], float in [0, 1].

    Raises: DataError: not a two-dimensional finite image in [0, 1].
    """
    return spec.recipe.pixels(image)


def resized(grey: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Returns 8-bit grey levels [h, w] of such levels [H, W] after resize and centre crop (padded with black where the crop is larger)."""
    return spec.recipe.run(grey, first=1)


def normalised(grey: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Returns pixels [..., 3] float32 of 8-bit grey levels [...]: rescaled in float64, then standardised in float32."""
    return spec.recipe.standardised(grey)


def _side(value: Any) -> int | None:
    """Returns a length in pixels, None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST else None


def _sides(value: Any) -> tuple[int, int] | None:
    """Returns (height, width) of an object that has both, None for anything else."""
    height, width = (_side(value.get(name)) for name in ("height", "width")) if isinstance(value, dict) else (None, None)
    return (height, width) if height and width else None


def _statistics(config: dict[str, Any], name: str) -> tuple[float, ...]:
    values = config.get(name)
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(value, float | int) and math.isfinite(value) for value in values):
        raise errors.DataError(errors.describe("channel statistics", f"{FILE} field {name!r}", "three numbers", repr(values)))
    if name == "image_std" and min(values) <= 0:
        raise errors.DataError(errors.describe("channel statistics", f"{FILE} field {name!r}", "positive numbers", repr(values)))
    return tuple(float(value) for value in values)
