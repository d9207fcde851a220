"""From the stored values of a grey DICOM image to brightness in [0, 1], in the ways that published models were shown them.

`MODES`, and whose they are:
- 'standard': modality LUT or rescale, then VOI LUT or window (the first of several, a sequence before a window), then inversion
  of MONOCHROME1. What a radiologist's screen shows, and what CXR-CLIP's authors do with DICOM files (cxr-clip, datasets/README.md,
  VinDr-CXR). A window is spread over [0, 1]; where there is none, the values that occur are. The models' own recipes then resize.
- 'raw': the stored values as they are, darkest 0: no LUT, no window, no inversion (hi-ml-multimodal, image/data/io.py `load_image`, of
  BioViL and BioViL-T). They stay whole numbers over 255, 4095 or 65535, so that the recipe's own stretching gives the published bits.
- 'jpg_release': how MIMIC-CXR-JPG and CheXpert were made from DICOM: stretched to 8 bits, MONOCHROME1 inverted, histogram equalised with
  OpenCV, no LUT and no window (Irvin's code for CheXpert in QTIM-Lab/PXS-score, PXS_preprocessing.py; Johnson et al., arXiv
  1901.07042). Their JPEG compression at quality 95 is not repeated.

Bits above BitsStored are not part of the image (PS3.5 8.1.1) and are cut in every mode. Everything else is a function of the stored value,
so it is computed once per value that occurs and looked up per pixel.
"""

import collections
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from relink_jax import errors

_DEPTHS = (255, 4095, 65535)
Decisions = collections.Counter[str]


def brightness(pixels: np.ndarray, header: Any, mode: str, where: str, decisions: Decisions) -> np.ndarray:
    """Returns float32 [H, W] in [0, 1] of stored values [H, W] of at most 16 bits, signed or not.

    Args: header: the pydicom Dataset; decisions: gets one for each thing that was done to the image.
    Raises: DataError: one value everywhere where a stretch needs two, or a LUT, rescale or window that gives no numbers.
    """
    top = 2 ** int(header.BitsStored) - 1
    if header.PixelRepresentation == 0 and pixels.max() > top:
        decisions["bits above BitsStored cut"] += 1
        pixels = pixels & top
    lowest = int(pixels.min())
    places = np.subtract(pixels, lowest, dtype=np.int32)
    counts = np.bincount(places.ravel())
    present = np.flatnonzero(counts)
    shown = np.asarray(_MODES[mode](present + lowest, counts[present], header, where, decisions), np.float32)
    if not (np.isfinite(shown).all() and shown.min() >= 0 and shown.max() <= 1):
        raise errors.DataError(errors.describe("grey levels", where, "a LUT, rescale and window that give numbers", "others"))
    table = np.zeros(len(counts), np.float32)
    table[present] = shown
    return table[places]


def _standard(levels: np.ndarray, counts: np.ndarray, header: Any, where: str, decisions: Decisions) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut

    sign = -1 if _is_inverted(header, decisions) else 1
    values = np.asarray(apply_modality_lut(levels, header), np.float64)
    sequence = header.get("VOILUTSequence")
    if sequence:
        decisions["VOI LUT"] += 1
        table, first = _voi_table(sequence[0], header, where)
        return _spread(sign * table[np.clip(values - first, 0, len(table) - 1).astype(np.int64)], sign * table, where)
    window = _window(header, decisions)
    if window:
        decisions["VOI window"] += 1
        return _windowed(values, *window, sign)
    decisions["stretched without a window"] += 1
    return _spread(sign * values, sign * values, where)


def _raw(levels: np.ndarray, counts: np.ndarray, header: Any, where: str, decisions: Decisions) -> np.ndarray:
    decisions["MONOCHROME1 left as stored"] += header.PhotometricInterpretation == "MONOCHROME1"
    shifted = levels - levels.min()
    top = next(depth for depth in _DEPTHS if shifted.max() <= depth)
    return shifted.astype(np.float32) / np.float32(top)


def _jpg_release(levels: np.ndarray, counts: np.ndarray, header: Any, where: str, decisions: Decisions) -> np.ndarray:
    grey = (_spread(levels, levels, where) * 255).astype(np.uint8)
    if header.PhotometricInterpretation == "MONOCHROME1":
        decisions["inverted MONOCHROME1"] += 1
        grey = 255 - grey
    decisions["histogram equalised"] += 1
    return equalised(np.bincount(grey, counts, 256).astype(np.int64))[grey].astype(np.float32) / np.float32(255)


def equalised(histogram: np.ndarray) -> np.ndarray:
    """Returns the level uint8 [256] that each grey level becomes, of a histogram int [256]: OpenCV's equalizeHist, to the last bit."""
    darkest = int(np.flatnonzero(histogram)[0])
    rest = int(histogram.sum() - histogram[darkest])
    if not rest:
        return np.full(256, darkest, np.uint8)
    above = histogram.copy()
    above[: darkest + 1] = 0
    return np.rint(np.cumsum(above).astype(np.float32) * np.float32(np.float32(255) / np.float32(rest))).astype(np.uint8)


_Mode = Callable[[np.ndarray, np.ndarray, Any, str, Decisions], np.ndarray]
_MODES: dict[str, _Mode] = {"standard": _standard, "raw": _raw, "jpg_release": _jpg_release}
MODES = tuple(_MODES)


def _is_inverted(header: Any, decisions: Decisions) -> bool:
    """Whether bright means dark: once, since a MONOCHROME1 image of the DX kind also says INVERSE (PS3.3 C.8.11.3.1.2)."""
    decisions["presentation LUT sequence not applied"] += "PresentationLUTSequence" in header
    if header.PhotometricInterpretation == "MONOCHROME1":
        decisions["inverted MONOCHROME1"] += 1
        return True
    if str(header.get("PresentationLUTShape") or "").strip().upper() == "INVERSE":
        decisions["inverted presentation LUT shape INVERSE"] += 1
        return True
    return False


def _spread(values: np.ndarray, over: np.ndarray, where: str) -> np.ndarray:
    """Returns `values` with the extent of `over` spread over [0, 1]."""
    lowest, span = over.min(), over.max() - over.min()
    if not span:
        raise errors.DataError(errors.describe("constant image", where, "at least two grey levels", "one"))
    return (values - lowest) / span


def _window(header: Any, decisions: Decisions) -> tuple[float, float, str] | None:
    """Returns centre, width and function of the first window; None where there is none or where it spans nothing."""
    centres, widths = (_all(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if not (centres and widths):
        return None
    decisions["first of several windows"] += len(centres) > 1
    function = str(header.get("VOILUTFunction") or "LINEAR").strip().upper()
    centre, width = centres[0], widths[0]
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID") or not (math.isfinite(centre) and width > (function == "LINEAR")):
        decisions["window without meaning ignored"] += 1
        return None
    return centre, width, function


def _all(value: Any) -> list[float]:
    if value is None or value == "":
        return []
    return [float(one) for one in ([value] if isinstance(value, str | int | float) or not hasattr(value, "__iter__") else value)]


def _windowed(values: np.ndarray, centre: float, width: float, function: str, sign: int) -> np.ndarray:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, with the output range [0, 1] instead of the stored one; `sign` -1 turns it round."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * sign * (values - centre) / width, -700, 700)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return np.clip(sign * (values - centre) / width + 0.5, 0, 1)


def _voi_table(item: Any, header: Any, where: str) -> tuple[np.ndarray, int]:
    """Returns the entries of a VOI LUT and the value that the first of them is for (PS3.3 C.11.2.1.1).

    pydicom's own look-up wraps round where entries are 8 bits wide and values wider, hence this one.
    """
    length, first, bits = (int(value) for value in item.LUTDescriptor)
    length = length or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        order = ">" if header.original_encoding[1] is False else "<"
        data = np.frombuffer(data, "u1" if bits == 8 and len(data) < 2 * length else f"{order}u2")
    entries = np.atleast_1d(np.asarray(data, np.int64))[:length]
    if len(entries) < length or not 8 <= bits <= 16:
        raise errors.DataError(errors.describe("VOI LUT", where, "as many entries as it says, of 8 to 16 bits", "others"))
    return entries, first
