"""DICOM radiographs: what is refused, what is counted, and the pixels; needs pydicom, which `relink_jax[dicom]` brings.

Only the tags named here are kept from a file, so that a patient's name or birth date never enters a data set. The header is
judged before the pixels are touched. Refused: objects without one picture (reports, plans), several frames, other modalities than
plain radiography, localizers, palette colour, more than 16 bits. Counted and kept: a modality that is not said or OTHER,
secondary captures (processed exports are marked so), images FOR PROCESSING, and text burnt into the pixels, which can also be
refused. Nothing that pydicom warns of is printed: its messages quote the file.
"""

import collections
import dataclasses
import gzip
import io
import logging
import pathlib
import re
import warnings
import zlib
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from relink_jax import errors
from relink_jax.cohort import codestreams, greyscale

MODES = greyscale.MODES
MOST_PIXELS = 2**26
_MOST_BYTES = 2**28
_ROOM = 2**16  # bytes, beside a quarter, that a compressed frame may be longer than the plain one; no lossless code needs as many
_EXPECTED = "one whole DICOM radiograph"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_RLE = "1.2.840.10008.1.2.5"
_RUST = "pyo3_runtime"
_RADIOGRAPHY = ("CR", "DX", "RG")
_UNSAID = ("", "OT")
_GREY, _COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_LATERAL = ("LL", "RL", "LATERAL", "LARGE LATERAL", "XTABLE LATERAL")
_VIEW_CODES = {"postero-anterior": "PA", "antero-posterior": "AP", "lateral": "LATERAL", "left lateral": "LATERAL", "right lateral": "LATERAL"}

_HEADER = [
    *("Modality", "ImageType", "PresentationIntentType", "BurnedInAnnotation", "ViewPosition", "ViewCodeSequence", "BodyPartExamined"),
    *("PhotometricInterpretation", "SamplesPerPixel", "Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PlanarConfiguration", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "PresentationLUTShape", "PresentationLUTSequence"),
]
_QUIET = ("ignore", None, Warning, re.compile(r"pydicom|relink_jax\.cohort"), 0)


@dataclasses.dataclass(frozen=True)
class Header:
    """What a DICOM header says that a pairs table may need; nothing of the person. Texts are '' where the tag is absent.

    `view` is one of `schema.VIEWS`; `view_position` is the tag as it stands, `window` whether a window or VOI LUT is given.
    """

    view: str
    view_position: str
    modality: str
    body_part: str
    presentation_intent: str
    image_type: tuple[str, ...]
    burned_in: bool
    photometric: str
    rows: int
    columns: int
    bits_stored: int
    window: bool


def is_dicom(head: bytes) -> bool:
    """Whether a file that starts with these 132 bytes is a DICOM file."""
    return head[128:132] == b"DICM"


def unzipped(stream: BinaryIO, where: str) -> io.BytesIO:
    """Returns the content of a gzip file; `DataError` where it is damaged or more than a radiograph can be."""
    try:
        with gzip.GzipFile(fileobj=stream) as zipped:
            data = zipped.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise errors.DataError(errors.describe("unreadable DICOM", where, _EXPECTED, "a truncated or damaged gzip file")) from error
    _check_length(len(data), where)
    return io.BytesIO(data)


def header(path: pathlib.Path, where: str = "image file") -> Header:
    """Returns the header of a DICOM file (or one in gzip) without reading its pixels or any tag of the person.

    Raises: DataError: no such file, or not a DICOM file of an image; UsageError: no pydicom.
    """
    try:
        with open(path, "rb") as stream:
            plain: BinaryIO = stream if stream.read(2) != b"\x1f\x8b" else unzipped(_rewound(stream), where)
            found, _ = _guarded(_read_header, plain, where)
    except OSError as error:
        raise errors.DataError(errors.describe("unreadable DICOM", where, _EXPECTED, "no readable file")) from error
    return _guarded(_described, found, where)


def decode(
    stream: BinaryIO, where: str, *, mode: str = "standard", decisions: collections.Counter[str] | None = None, refuse_burned_in: bool = False
) -> np.ndarray:
    """Returns float32 [H, W] in [0, 1] of a DICOM file.

    Args: mode: one of `MODES`, see `greyscale`; decisions: gets one for each thing that was done to or noticed of the image.
    Raises: DataError: see the module; UsageError: another mode, no pydicom, or no decoder for the file's compression.
    """
    if mode not in MODES:
        raise errors.UsageError(errors.describe("DICOM mode", "images", f"one of {', '.join(MODES)}", repr(mode)) + errors.suggest(mode, MODES))
    counted: collections.Counter[str] = collections.Counter()
    image: np.ndarray = _guarded(_decoded, stream, where, mode, counted, refuse_burned_in)
    if decisions is not None:
        decisions.update(+counted)
    return image


def _guarded(work: Any, subject: Any, where: str, *rest: Any) -> Any:
    """Returns `work(subject, where, *rest)`, with whatever a damaged file makes pydicom raise as one sentence that does not quote it."""
    _quieten()
    try:
        return work(subject, where, *rest)
    except (errors.RelinkError, MemoryError):
        raise
    except BaseException as error:  # pydicom and the decoders have no common error, theirs quote values, and Rust's panics are no Exception
        if not isinstance(error, Exception) and type(error).__module__ != _RUST:
            raise
        raise errors.DataError(errors.describe("unreadable DICOM", where, _EXPECTED, f"a truncated or damaged one ({type(error).__name__})")) from None


def _quieten() -> None:
    pydicom = library()
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    for name in ("pydicom", "pylibjpeg", "openjpeg", "libjpeg"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=_QUIET[3].pattern)


def library() -> Any:
    """Returns pydicom; `UsageError` where it is not installed."""
    try:
        import pydicom
    except ImportError as error:
        raise errors.UsageError(
            errors.describe("package missing", "DICOM images", "pydicom, which `pip install 'relink_jax[dicom]'` brings", "none")
        ) from error
    return pydicom


def _rewound(stream: BinaryIO) -> BinaryIO:
    stream.seek(0)
    return stream


def _check_length(length: int, where: str) -> None:
    if length > _MOST_BYTES:
        raise errors.DataError(errors.describe("file size", where, f"at most {_MOST_BYTES:,} bytes", "more"))


def _read_header(stream: BinaryIO, where: str) -> tuple[Any, str]:
    """Returns the header's tags and the transfer syntax, which is read first: a deflated file would be inflated whole."""
    from pydicom.filereader import read_dataset
    from pydicom.tag import Tag

    _check_length(stream.seek(0, io.SEEK_END), where)
    if not is_dicom(_rewound(stream).read(132)):
        raise errors.DataError(errors.describe("unreadable DICOM", where, _EXPECTED, "another or an empty file"))
    meta = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group != 2, specific_tags=[Tag("TransferSyntaxUID")])
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax == _DEFLATED:
        raise errors.DataError(errors.describe("transfer syntax", where, "an image compressed by itself, or not at all", "a deflated data set"))
    found = library().dcmread(_rewound(stream), stop_before_pixels=True, specific_tags=_HEADER)
    if not found.get("Rows") or not found.get("Columns"):
        raise errors.DataError(errors.describe("no picture", where, _EXPECTED, "an object without one, such as a report or a plan"))
    return found, syntax


def _decoded(stream: BinaryIO, where: str, mode: str, decisions: collections.Counter[str], refuse_burned_in: bool) -> np.ndarray:
    from pydicom.pixels import pixel_array

    found, syntax = _read_header(stream, where)
    _check_kind(_described(found, where), found, where, decisions, refuse_burned_in)
    _check_shape(found, where)
    _check_decoder(syntax, where)
    full = library().dcmread(_rewound(stream), specific_tags=[*_HEADER, "PixelData"])
    _check_pixels(full, syntax, where)
    # what lies above BitsStored is cut by `greyscale`, which counts it; pydicom would cut it in silence
    options: dict[str, Any] = {"correct_unused_bits": False} if full.PixelRepresentation == 0 else {}
    pixels = np.asarray(pixel_array(full, **options))
    if str(found.PhotometricInterpretation) in _GREY:
        return greyscale.brightness(pixels, full, mode, where, decisions)
    decisions["colour as luma"] += 1
    return np.asarray(Image.fromarray(pixels).convert("L"), np.float32) / np.float32(255)


def _described(found: Any, where: str) -> Header:
    def text(name: str) -> str:
        return str(found.get(name) or "").strip().upper()

    position = text("ViewPosition")
    kinds = found.get("ImageType") or ()
    return Header(
        view=_view(position, found.get("ViewCodeSequence")),
        view_position=position,
        modality=text("Modality"),
        body_part=text("BodyPartExamined"),
        presentation_intent=text("PresentationIntentType"),
        image_type=tuple(str(kind).strip().upper() for kind in ([kinds] if isinstance(kinds, str) else kinds)),
        burned_in=text("BurnedInAnnotation") == "YES",
        photometric=text("PhotometricInterpretation"),
        rows=int(found.Rows),
        columns=int(found.Columns),
        bits_stored=int(found.get("BitsStored") or 0),
        window=bool(found.get("VOILUTSequence")) or found.get("WindowCenter") not in (None, ""),
    )


def _view(position: str, codes: Any) -> str:
    """Returns the view of a View Position, or, where that is blank, of the View Code's meaning."""
    if not position and codes:
        meaning = str(codes[0].get("CodeMeaning") or "").strip().lower()
        return _VIEW_CODES.get(meaning, "OTHER" if meaning else "")
    if position in ("", "PA", "AP"):
        return position
    return "LATERAL" if position in _LATERAL else "OTHER"


def _check_kind(described: Header, found: Any, where: str, decisions: collections.Counter[str], refuse_burned_in: bool) -> None:
    if described.modality not in (*_RADIOGRAPHY, *_UNSAID):
        raise errors.DataError(errors.describe("modality", where, f"{', '.join(_RADIOGRAPHY)} or none", "another, which is no plain radiograph"))
    if "LOCALIZER" in described.image_type:
        raise errors.DataError(errors.describe("image type", where, "a radiograph", "a localizer"))
    if described.burned_in and refuse_burned_in:
        raise errors.DataError(errors.describe("burned-in annotation", where, "pixels without text", "BurnedInAnnotation YES"))
    decisions["burned-in annotation flagged"] += described.burned_in
    decisions["modality not said"] += described.modality in _UNSAID
    decisions["secondary capture"] += "SECONDARY" in described.image_type
    decisions["presentation intent FOR PROCESSING"] += described.presentation_intent == "FOR PROCESSING"


def _check_shape(found: Any, where: str) -> None:
    frames = int(found.get("NumberOfFrames") or 1)
    if frames != 1:
        raise errors.DataError(errors.describe("picture", where, "one frame", f"{frames} frames"))
    if int(found.Rows) * int(found.Columns) > MOST_PIXELS:
        raise errors.DataError(errors.describe("picture", where, f"at most {MOST_PIXELS:,} pixels", f"{found.Rows} x {found.Columns}"))
    layout = str(found.PhotometricInterpretation), int(found.get("SamplesPerPixel") or 1), int(found.BitsAllocated)
    if not ((layout[0] in _GREY and layout[1] == 1 and layout[2] in (8, 16)) or (layout[0] in _COLOUR and layout[1:] == (3, 8))):
        expected = "grey of 8 or 16 bits allocated, or RGB or YBR of 8"
        raise errors.DataError(errors.describe("pixel layout", where, expected, f"{layout[1]} samples of {layout[2]} bits, or another colour space"))
    if not 1 <= int(found.BitsStored) <= layout[2] or int(found.PixelRepresentation) not in (0, 1):
        raise errors.DataError(errors.describe("pixel layout", where, "bits stored within bits allocated", "others"))


def _check_decoder(syntax: str, where: str) -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    try:
        there = get_decoder(UID(syntax)).is_available
    except NotImplementedError:
        raise errors.DataError(errors.describe("transfer syntax", where, "one of a still picture that pydicom knows", "another")) from None
    if not there:
        raise errors.UsageError(
            errors.describe("decoder missing", where, "the decoders that `pip install 'relink_jax[dicom]'` brings", "none for its compression")
        )


def _check_pixels(full: Any, syntax: str, where: str) -> None:
    """Refuses pixels that are not there, and a compressed frame that claims another size than the header or is longer than the plain one."""
    from pydicom.encaps import get_frame

    data = full.get("PixelData")
    if not data:
        raise errors.DataError(errors.describe("no picture", where, _EXPECTED, "a header without pixels"))
    if syntax in _NATIVE:
        return
    plain = int(full.Rows) * int(full.Columns) * int(full.get("SamplesPerPixel") or 1) * int(full.BitsAllocated) // 8
    if len(data) > plain + plain // 4 + _ROOM:
        raise errors.DataError(errors.describe("compressed frame", where, "one no longer than the plain picture", "a longer one"))
    if syntax == _RLE:
        return
    frame = get_frame(data, 0, number_of_frames=1)
    if codestreams.size(frame) != (full.Rows, full.Columns):
        raise errors.DataError(errors.describe("compressed frame", where, "the size that its header says", "another or none"))
    if not codestreams.is_whole(frame):
        raise errors.DataError(errors.describe("compressed frame", where, "one that comes to its end", "a truncated one"))
