"""Reads one radiograph file as brightness in [0, 1], the same way every time.

The kind of file is told by its first bytes, never by its name. Eight-bit grey is divided by 255. Sixteen-bit grey is divided by
65535, or by 4095 when no pixel of the file exceeds 4095: archives often store 12-bit detectors in 16-bit files, and PNG
readers do not say which. Colour and palette images become ITU-R 601 luma, as Pillow computes it; transparent pixels are laid
over black. Nothing is inverted, cropped or stretched, nor turned as an EXIF note may ask: the pixels are taken in the order in
which the file stores them. DICOM files say more of themselves and are read by `dicom`, plain or in gzip.
"""

import collections
import io
import pathlib
from typing import BinaryIO

import numpy as np
from PIL import Image

from relink_jax import errors
from relink_jax.cohort import dicom as dicom_files

_FORMATS = ("PNG", "JPEG")
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_COLOURED = ("RGB", "RGBA", "CMYK", "YCbCr", "P", "PA")
_TWELVE_BIT, _SIXTEEN_BIT = 4095, 65535
_EXPECTED = "one whole PNG, JPEG or DICOM picture"
_GZIP = b"\x1f\x8b"


def read_image(
    path: pathlib.Path,
    where: str = "image file",
    *,
    dicom: str = "standard",
    decisions: collections.Counter[str] | None = None,
    refuse_burned_in: bool = False,
) -> np.ndarray:
    """Returns float32 [H, W] in [0, 1] of an 8-bit or 16-bit PNG, an 8-bit JPEG or a DICOM file (.dcm, .dcm.gz).

    Args:
        where: how errors call the file, such as 'image file of data row 7': file names can hold identifiers.
        dicom: how DICOM files become brightness, one of `dicom.MODES`.
        decisions: gets one for each thing done to the image, such as '16-bit as 12-bit' or 'inverted MONOCHROME1'.
        refuse_burned_in: refuse DICOM files that say that text is burnt into their pixels, instead of counting them.

    Raises: DataError: missing, unreadable, truncated, empty, too large or multi-frame file, or another format; see also `dicom`.
        UsageError: a DICOM file where pydicom or its decoder is not installed, or an unknown mode.
    """
    try:
        with open(path, "rb") as stream:
            return _read(stream, where, dicom, decisions, refuse_burned_in)
    except FileNotFoundError as error:
        raise errors.DataError(errors.describe("missing file", where, _EXPECTED, "no file")) from error
    except (OSError, ValueError) as error:
        raise errors.DataError(errors.describe("unreadable picture", where, _EXPECTED, "a file that cannot be opened")) from error


def decode_image(
    data: bytes,
    where: str = "image",
    *,
    dicom: str = "standard",
    decisions: collections.Counter[str] | None = None,
    refuse_burned_in: bool = False,
) -> np.ndarray:
    """Returns float32 [H, W] in [0, 1] of the bytes of such a file; arguments and errors as in `read_image`."""
    return _read(io.BytesIO(data), where, dicom, decisions, refuse_burned_in)


def _read(stream: BinaryIO, where: str, dicom: str, decisions: collections.Counter[str] | None, refuse_burned_in: bool) -> np.ndarray:
    head = stream.read(132)
    stream.seek(0)
    if head.startswith(_GZIP):
        stream = dicom_files.unzipped(stream, where)
        head = stream.getvalue()[:132]
        if not dicom_files.is_dicom(head):
            raise errors.DataError(errors.describe("unreadable picture", where, _EXPECTED, "something else in gzip"))
    if dicom_files.is_dicom(head):
        return dicom_files.decode(stream, where, mode=dicom, decisions=decisions, refuse_burned_in=refuse_burned_in)
    return _picture(stream, where, collections.Counter() if decisions is None else decisions)


def _picture(stream: BinaryIO, where: str, decisions: collections.Counter[str]) -> np.ndarray:
    try:
        with Image.open(stream, formats=_FORMATS) as opened:
            frames = int(getattr(opened, "n_frames", 1))
            if frames > 1:
                raise errors.DataError(errors.describe("picture", where, "one frame", f"{frames} frames"))
            if opened.width * opened.height > dicom_files.MOST_PIXELS:
                raise errors.DataError(errors.describe("picture", where, f"at most {dicom_files.MOST_PIXELS:,} pixels", f"{opened.width} x {opened.height}"))
            opened.load()
            return _brightness(opened, decisions)
    except Image.UnidentifiedImageError as error:
        raise errors.DataError(errors.describe("unreadable picture", where, _EXPECTED, "another or an empty file")) from error
    except Image.DecompressionBombError as error:
        raise errors.DataError(errors.describe("unreadable picture", where, _EXPECTED, "far more pixels than a radiograph has")) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise errors.DataError(errors.describe("unreadable picture", where, _EXPECTED, "a truncated or damaged file")) from error


def _brightness(picture: Image.Image, decisions: collections.Counter[str]) -> np.ndarray:
    if picture.mode in _DEEP:
        deep = np.asarray(picture).astype(np.float32)
        twelve = bool(deep.max() <= _TWELVE_BIT)
        decisions["16-bit as 12-bit" if twelve else "16-bit"] += 1
        return deep / np.float32(_TWELVE_BIT if twelve else _SIXTEEN_BIT)
    if picture.mode in _COLOURED:
        decisions["colour as luma"] += 1
    if picture.mode in ("LA", "RGBA", "PA") or "transparency" in picture.info:
        decisions["transparency over black"] += 1
        coloured = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured).convert("RGB")
    return np.asarray(picture.convert("L"), dtype=np.float32) / np.float32(255)
