"""DICOM files of synthetic radiographs, with every choice a hospital's devices make, and a whole archive of them beside a pairs table."""

import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax.cohort import dicom
from relink_jax.cohort.layouts import table
from relink_jax.cohort.layouts.exams import Exam
from relink_jax.store import files

SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "big_endian": "1.2.840.10008.1.2.2",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
    "jpeg_ls": "1.2.840.10008.1.2.4.80",
}
PERSON = {"PatientName": "PHANTOM^SYNTHETIC", "PatientBirthDate": "19010203", "PatientID": "10000001"}
_DX = "1.2.840.10008.5.1.4.1.1.1.1.1"
_UID = "2.25.340000006"


def write_image(
    pixels: np.ndarray,
    path: pathlib.Path,
    *,
    photometric: str = "MONOCHROME2",
    bits_stored: int = 12,
    window: Sequence[tuple[float, float]] | None = None,
    rescale: tuple[float, float] | None = None,
    syntax: str = "explicit",
    burned_in: bool = False,
    tags: Mapping[str, Any] | None = None,
) -> None:
    """Writes grey levels uint8 [H, W] as a DICOM file, 0600, whose standard brightness is exactly `pixels / 255` with the default window.

    Args:
        photometric: MONOCHROME2, or MONOCHROME1, which stores `255 - pixels`.
        bits_stored: 8 to 16; a level is stored times 2^(bits_stored - 8); 8 bits are allocated for 8, otherwise 16.
        window: (centre, width) pairs in rescaled values; None, the one that spans every level; (), none.
        rescale: slope and intercept that are to be written.
        syntax: a name of `SYNTAXES`; 'jpeg2000' and 'jpeg_ls' need an encoder (pylibjpeg-openjpeg, from 32 pixels a side; pyjpegls).
        tags: further tags by keyword, None to leave one out; they win over all others.

    Raises: UsageError: no pydicom; StoreError: the directory cannot be written.
    """
    uid = f"{_UID}.{int.from_bytes(path.stem.encode()[-6:])}"
    found = _data_set(pixels, uid, photometric, bits_stored, syntax)
    if rescale is not None:
        found.RescaleSlope, found.RescaleIntercept = rescale
    windows = [_spanning(bits_stored, rescale or (1, 0))] if window is None else list(window)
    if windows:
        found.WindowCenter, found.WindowWidth = ([pair[side] for pair in windows] for side in (0, 1))
    found.BurnedInAnnotation = "YES" if burned_in else "NO"
    for name, value in (tags or {}).items():
        if value is None:
            delattr(found, name)
        else:
            setattr(found, name, value)
    if syntax in ("rle", "jpeg2000", "jpeg_ls"):
        found.compress(SYNTAXES[syntax], generate_instance_uid=False)
    encoding = {"implicit_vr": True} if syntax == "implicit" else {"implicit_vr": False}
    files.write_with(path, lambda temporary: found.save_as(temporary, enforce_file_format=True, little_endian=syntax != "big_endian", **encoding))


def write(exams: Iterable[Exam], directory: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes a hospital's archive and returns (pairs table, image root): every second image is MONOCHROME1.

    Patients are numbered from 10000001 and studies from 50000001; the images of a study lie in `PATIENT/STUDY/`.
    Raises: UsageError: no pydicom; StoreError: the directory cannot be written.
    """
    root, numbers = directory / "dicom", itertools.count(1)

    def save(exam: Exam, shot: int) -> str:
        patient, number = str(10000001 + exam.patient), next(numbers)
        path = f"{patient}/{50000001 + exam.study}/{number:06d}.dcm"
        kind, position = "MONOCHROME1" if number % 2 else "MONOCHROME2", _position(exam.shots[shot].view)
        write_image(exam.shots[shot].pixels(), root / path, photometric=kind, tags={"PatientID": patient, "ViewPosition": position})
        return path

    return table.write(exams, directory, save), root


def _position(view: str) -> str:
    return "LL" if view == "LATERAL" else view


def _spanning(bits_stored: int, rescale: tuple[float, float]) -> tuple[float, float]:
    """Returns the LINEAR window whose ends are the darkest and the brightest level (PS3.3 C.11.2.1.2)."""
    top = 255 * 2 ** (bits_stored - 8) * rescale[0]
    return top / 2 + rescale[1] + 0.5, top + 1


def _data_set(pixels: np.ndarray, uid: str, photometric: str, bits_stored: int, syntax: str) -> Any:
    pydicom = dicom.library()
    allocated = 8 if bits_stored == 8 else 16
    stored = (255 - pixels if photometric == "MONOCHROME1" else pixels).astype(np.uint16) << (bits_stored - 8)
    found = pydicom.dataset.Dataset()
    found.file_meta = pydicom.dataset.FileMetaDataset()
    plain = SYNTAXES["explicit"] if syntax in ("rle", "jpeg2000", "jpeg_ls") else SYNTAXES[syntax]
    found.file_meta.TransferSyntaxUID = plain
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = _DX
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = uid
    for name, value in PERSON.items():
        setattr(found, name, value)
    found.Modality, found.ImageType, found.PresentationIntentType = "DX", ["DERIVED", "PRIMARY"], "FOR PRESENTATION"
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, photometric
    found.Rows, found.Columns = pixels.shape
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = allocated, bits_stored, bits_stored - 1, 0
    order = ">" if syntax == "big_endian" else "<"
    data = stored.astype("u1" if allocated == 8 else f"{order}u2").tobytes()
    found.PixelData = data + b"\0" * (len(data) % 2)
    found["PixelData"].VR = "OB" if allocated == 8 else "OW"
    return found
