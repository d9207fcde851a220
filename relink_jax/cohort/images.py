"""Reads one radiograph file as brightness in [0, 1], the same way every time.

Eight-bit grey is divided by 255. Sixteen-bit grey is divided by 65535, or by 4095 when no pixel of the file exceeds 4095:
archives often store 12-bit detectors in 16-bit files, and PNG readers do not say which. Colour and palette images become
ITU-R 601 luma, as Pillow computes it; transparent pixels are laid over black. Nothing is inverted, cropped or stretched,
nor turned as an EXIF note may ask: the pixels are taken in the order in which the file stores them.
"""

import pathlib

import numpy as np
from PIL import Image

from relink_jax import errors

_FORMATS = ("PNG", "JPEG")
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_MOST_PIXELS = 2**26
_TWELVE_BIT, _SIXTEEN_BIT = 4095, 65535


def read_image(path: pathlib.Path, where: str = "image file") -> np.ndarray:
    """Returns float32 [H, W] in [0, 1] of an 8-bit or 16-bit PNG or an 8-bit JPEG.

    Args: where: how errors call the file, such as 'image file of data row 7': file names can hold identifiers.
    Raises: DataError: missing, unreadable, truncated, empty, too large or multi-frame file, or another format.
    """
    expected = "one whole PNG or JPEG picture"
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            frames = int(getattr(opened, "n_frames", 1))
            if frames > 1:
                raise errors.DataError(errors.describe("picture", where, "one frame", f"{frames} frames"))
            if opened.width * opened.height > _MOST_PIXELS:
                raise errors.DataError(errors.describe("picture", where, f"at most {_MOST_PIXELS:,} pixels", f"{opened.width} x {opened.height}"))
            opened.load()
            return _brightness(opened)
    except FileNotFoundError as error:
        raise errors.DataError(errors.describe("missing file", where, expected, "no file")) from error
    except Image.UnidentifiedImageError as error:
        raise errors.DataError(errors.describe("unreadable picture", where, expected, "another or an empty file")) from error
    except Image.DecompressionBombError as error:
        raise errors.DataError(errors.describe("unreadable picture", where, expected, "far more pixels than a radiograph has")) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise errors.DataError(errors.describe("unreadable picture", where, expected, "a truncated or damaged file")) from error


def _brightness(picture: Image.Image) -> np.ndarray:
    if picture.mode in _DEEP:
        deep = np.asarray(picture).astype(np.float32)
        return deep / np.float32(_TWELVE_BIT if deep.max() <= _TWELVE_BIT else _SIXTEEN_BIT)
    if picture.mode in ("LA", "RGBA", "PA") or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured).convert("RGB")
    return np.asarray(picture.convert("L"), dtype=np.float32) / np.float32(255)
