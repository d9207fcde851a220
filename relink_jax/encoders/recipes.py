"""Preprocessing as data: a recipe is the ordered, named steps from a grey image in [0, 1] to a tower's pixels.

`RECIPES` follows, to the last bit, what each model's authors ran (source beside each entry). Most recipes end in 8-bit grey, which
travels to the device as such and becomes pixels there through `levels`, a table of the 256 values; where the source interpolates
after standardising (CheXzero) the plane is float32 and there is no table.

Two libraries cut the centre differently: torchvision rounds an odd half margin to even, transformers always down; 'even' and 'down'
name them, since they differ by one pixel wherever half the margin is odd. Where upstream would saturate or cut a 16-bit file to 8
bits, the image comes here already scaled by `cohort.images`; and a coloured one as luma, also where upstream stretched it first.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from relink_jax import errors
from relink_jax.encoders import resampling

BILINEAR, BICUBIC, LANCZOS = (int(kind.value) for kind in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS))
_MOST_PIXELS = 2**26


@dataclasses.dataclass(frozen=True)
class Step:
    """One step: a name of `STEPS` and its numbers. Sizes are in pixels, height before width; filters are Pillow's numbers."""

    name: str
    values: tuple[int | float | str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Steps, then `grey * rescale`, less `mean`, over `std` per channel; the product is taken in `product`, the rest in float32."""

    steps: tuple[Step, ...]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    rescale: float = 1 / 255
    product: str = "float64"

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of every plane; None where they depend on the image."""
        for step in reversed(self.steps):
            if step.name in ("crop", "squash", "squash_tensorflow", "cubic"):
                return int(step.values[0]), int(step.values[1])
        return None

    @property
    def levels(self) -> np.ndarray | None:
        """Pixels [256, 3] float32 of the 256 grey levels; None where the plane is float32 and stands for itself in every channel."""
        return None if any(step.name == "standardise" for step in self.steps) else self.standardised(np.arange(256, dtype=np.uint8))

    def plane(self, image: np.ndarray) -> np.ndarray:
        """Returns [h, w] of one grey image [H, W] in [0, 1]: 8-bit levels, or float32 where `levels` is None.

        Raises: DataError: not a two-dimensional finite image in [0, 1], a constant one where a step stretches it, or one so long
            that a side vanishes or the resized image is larger than an archive's largest.
        """
        return self.run(image)

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """Returns pixels [h, w, 3] float32 of one grey image [H, W] in [0, 1]; errors as in `plane`."""
        plane, levels = self.plane(image), self.levels
        return np.repeat(plane[..., None], 3, axis=-1) if levels is None else levels[plane]

    def run(self, image: np.ndarray, first: int = 0) -> np.ndarray:
        """Returns what the steps from number `first` on make of `image`."""
        for step in self.steps[first:]:
            image = STEPS[step.name](image, *step.values)
        return image

    def standardised(self, grey: np.ndarray) -> np.ndarray:
        """Returns pixels [..., 3] float32 of grey levels [...]."""
        product = np.dtype(self.product).type
        scaled = (grey.astype(product) * product(self.rescale)).astype(np.float32)[..., None]
        return np.asarray((scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Returns 8-bit grey levels [H, W] of an image in [0, 1], rounded half to even; refuses other shapes and ranges with `DataError`."""
    return np.rint(_checked(image) * np.float32(255)).astype(np.uint8)


def stretched(image: np.ndarray) -> np.ndarray:
    """Returns 8-bit grey levels [H, W], darkest 0 and brightest 255, fractions cut off (BioViL); a constant image is a `DataError`.

    Truncation makes the last bit of a division count, so the file's integers are recovered first wherever the image is made of such.
    """
    found = _checked(image)
    levels = found.astype(np.float64)
    for top in (255, 4095, 65535):
        whole = np.rint(levels * top)
        if np.array_equal(whole.astype(np.float32) / np.float32(top), found):
            levels = whole
            break
    levels = levels - levels.min()
    if not levels.max():
        raise errors.DataError(errors.describe("constant image", "preprocessing step 'stretch'", "at least two brightnesses", "one"))
    return (levels / levels.max() * 255).astype(np.uint8)


def _checked(image: np.ndarray) -> np.ndarray:
    """Returns the image as float32; refuses what is not a picture in [0, 1] with `DataError`."""
    if image.ndim != 2 or min(image.shape) < 1:
        raise errors.DataError(errors.describe("image shape", "preprocessing", "[height, width]", str(image.shape)))
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise errors.DataError(
            errors.describe("pixel values", "preprocessing", "finite numbers in [0, 1]", f"minimum {image.min():g}, maximum {image.max():g}")
        )
    return np.asarray(image, np.float32)


def _fitted(grey: np.ndarray, height: int, width: int) -> tuple[int, int]:
    if min(height, width) < 1 or height * width > _MOST_PIXELS:
        raise errors.DataError(
            errors.describe("image shape", "preprocessing", "a picture that can be resized", f"{grey.shape[0]} x {grey.shape[1]}, to {height} x {width}")
        )
    return height, width


def _squash(grey: np.ndarray, height: int, width: int, kind: int) -> np.ndarray:
    return np.asarray(Image.fromarray(grey).resize((width, height), resample=kind))


def _short_side(grey: np.ndarray, side: int, kind: int) -> np.ndarray:
    """Resizes with Pillow; the longer side is cut to whole pixels, as torchvision and transformers do."""
    height, width = grey.shape
    long = int(side * max(height, width) / min(height, width))
    return _squash(grey, *_fitted(grey, *((long, side) if width <= height else (side, long))), kind)


def _long_side(grey: np.ndarray, side: int, kind: int) -> np.ndarray:
    """Resizes with Pillow; both sides are cut to whole pixels, so the longer one can come out one short (CheXzero's `preprocess`)."""
    ratio = float(side) / max(grey.shape)
    return _squash(grey, *_fitted(grey, *(int(length * ratio) for length in grey.shape)), kind)


def _long_side_area(grey: np.ndarray, side: int) -> np.ndarray:
    """Resizes as OpenCV's INTER_AREA does; the shorter side is cut to whole pixels (GLoRIA's `_resize_img`)."""
    height, width = grey.shape
    wanted = (side, int(float(width) * (side / float(height)))) if height >= width else (int(float(height) * (side / float(width))), side)
    return resampling.area(grey, *_fitted(grey, *wanted))


def _pad_square(grey: np.ndarray, least: int) -> np.ndarray:
    """Puts black around, the odd pixel below and to the right, up to a square of side max(least, height, width)."""
    side = max(least, *grey.shape)
    lacking = [side - length for length in grey.shape]
    return np.pad(grey, [(lack // 2, lack - lack // 2) for lack in lacking])


def _crop(grey: np.ndarray, height: int, width: int, rounding: str) -> np.ndarray:
    """Cuts the centre out, of black-padded grey where the crop is larger."""
    lacking = [max(0, wanted - have) for wanted, have in zip((height, width), grey.shape, strict=True)]
    less, more = [lack // 2 for lack in lacking], [lack - lack // 2 for lack in lacking]
    grey = np.pad(grey, list(zip(less, more, strict=True) if rounding == "even" else zip(more, less, strict=True)))
    spare = [have - wanted for wanted, have in zip((height, width), grey.shape, strict=True)]
    top, left = (round(room / 2) if rounding == "even" else room // 2 for room in spare)
    return grey[top : top + height, left : left + width]


def _standardise(grey: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    return (grey.astype(np.float32) - np.float32(mean)) / np.float32(deviation)


STEPS: dict[str, Callable[..., np.ndarray]] = {
    "grey": to_uint8,
    "stretch": stretched,
    "squash": _squash,
    "squash_tensorflow": resampling.floored_bilinear,
    "short_side": _short_side,
    "long_side": _long_side,
    "long_side_area": _long_side_area,
    "pad_square": _pad_square,
    "crop": _crop,
    "standardise": _standardise,
    "cubic": resampling.cubic,
}

_GREY = Step("grey")
_HALF: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
_CLIP: dict[str, Any] = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CLIP_SIDE = 224
_CXR_CLIP = (_GREY, Step("short_side", (224, BILINEAR)), Step("crop", (224, 224, "even")))
_BIOVIL = (Step("stretch"), Step("short_side", (512, BILINEAR)))


def clip_name(side: int) -> str:
    """Returns the name of CLIP's recipe for images of `side` pixels: 'clip', or 'clip:336' for another side than 224."""
    return "clip" if side == _CLIP_SIDE else f"clip:{side}"


def named(name: str) -> Recipe | None:
    """Returns the recipe of that name: one of `RECIPES`, or CLIP's for another side, 'clip:SIDE'; None for any other name."""
    family, _, side = name.partition(":")
    if family == "clip" and re.fullmatch(r"[1-9]\d{0,3}", side):
        return _clip(int(side))
    return RECIPES.get(name)


def _clip(side: int) -> Recipe:
    """openai/CLIP clip.py `_transform`; open_clip transform.py, resize mode 'shortest'."""
    return Recipe((_GREY, Step("short_side", (side, BICUBIC)), Step("crop", (side, side, "even"))), **_CLIP)


RECIPES: dict[str, Recipe] = {
    "clip": _clip(_CLIP_SIDE),
    # google/medsiglip-448 preprocessor_config.json, with transformers' Pillow processor
    "squash": Recipe((_GREY, Step("squash", (448, 448, BICUBIC))), **_HALF),
    # Google-Health/medsiglip notebooks/quick_start_with_hugging_face.ipynb: how the published numbers were made
    "medsiglip_tf": Recipe((_GREY, Step("squash_tensorflow", (448, 448))), **_HALF),
    # hi-ml-multimodal image/data/io.py `remap_to_uint8`, image/data/transforms.py
    "biovil": Recipe((*_BIOVIL, Step("crop", (480, 480, "even")))),
    "biovil_t": Recipe((*_BIOVIL, Step("crop", (448, 448, "even")))),
    # CheXzero data_process.py `preprocess`, train.py `load_data(pretrained=True)` under its pinned torchvision 0.11
    "chexzero": Recipe(
        (_GREY, Step("long_side", (320, LANCZOS)), Step("pad_square", (320,)), Step("standardise", (101.48761, 83.43944)), Step("cubic", (224, 224)))
    ),
    # cxr-clip configs/transform/default.yaml, data/data_utils.py `transform_image`
    "cxr_clip_resnet": Recipe(_CXR_CLIP, **_IMAGENET),
    "cxr_clip_swin": Recipe(_CXR_CLIP, **_HALF),
    # MedCLIP dataset.py `MedCLIPFeatureExtractor` on transformers 4.24, whose product is single
    "medclip": Recipe(
        (_GREY, Step("pad_square", (224,)), Step("squash", (224, 224, BICUBIC))),
        mean=(0.5862785803043838,) * 3,
        std=(0.27950088968644304,) * 3,
        product="float32",
    ),
    # gloria models/gloria_model.py `process_img`
    "gloria": Recipe((_GREY, Step("long_side_area", (256,)), Step("pad_square", (256,)), Step("crop", (224, 224, "even"))), **_HALF),
}

# How DICOM files become the grey image that a recipe starts from, `cohort.greyscale.MODES`; 'standard' for every other recipe. BioViL's
# authors read DICOM so (hi-ml-multimodal, image/data/io.py); the others were trained on MIMIC-CXR-JPG or CheXpert and bring no DICOM code.
# CXR-CLIP was trained on MIMIC-CXR-JPG too, but its authors' own DICOM code is the standard way (datasets/README.md).
DICOM: dict[str, str] = {
    "biovil": "raw",
    "biovil_t": "raw",
    "chexzero": "jpg_release",
    "medclip": "jpg_release",
    "gloria": "jpg_release",
}
