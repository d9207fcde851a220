"""One image of a cohort as a record of a TFDS dataset: the encoded picture, the report it belongs to, and pseudonyms as features.

A PNG or JPEG keeps its own bytes. Where `Settings.short_side` is set a larger picture is resized by Pillow, and a DICOM always becomes
a PNG: 8-bit grey from 8-bit sources, 16-bit grey from deeper ones. Nothing is ever enlarged. `encoding` says which of the three it is.

Design note: the picture is a `Text` feature, plain bytes, and not an `Image`: TFDS decodes an `Image` with Pillow by casting to uint8, which
drops the high byte of 16-bit PNGs without a word, and needs TensorFlow to encode an array. `brightness` decodes it as `images` does.
Every value is checked here, because TFDS puts the whole example, report text included, into the message of an encoding error.

References: tensorflow_datasets/core/features/image_feature.py and core/split_builder.py, release 4.9.10.
"""

import collections
import dataclasses
import functools
import io
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from relink_jax import errors
from relink_jax.cohort import images, schema

RESAMPLE = ("lanczos", "bicubic", "hamming", "bilinear", "box")
ORIGINAL, GREY8, GREY16 = "original", "grey8", "grey16"
DICOM_REDRAWN = "DICOM stored as PNG"
_SMALLEST, _LARGEST = 16, 2**14
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_PNG_DEPTH = 24  # byte of a PNG file that holds the bits per sample
_FAST = 1  # zlib level of re-encoded PNGs: three times as fast as the default, a tenth larger
_DOCS = {
    "image": "PNG or JPEG file",
    "encoding": "original: the archive's own bytes; grey8, grey16: PNG whose full range is 0 to 255, 0 to 65535",
    "image_key": "keyed pseudonym of the image: what records are joined by",
    "study_key": "keyed pseudonym of the study",
    "patient_key": "keyed pseudonym of the patient",
    "text": "report text of the study, UTF-8",
    "view": "PA, AP, FRONTAL, LATERAL, OTHER or blank",
    "split": "train, validate or test",
    "site": "the archive",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What records hold, and how they are cut into files.

    Attributes:
        short_side: pixels of the shorter side of resized pictures, 0 for the archive's own bytes; smaller pictures are left alone.
        resample: Pillow filter of the resize, antialiased; one of `RESAMPLE`.
        dicom: how DICOM pixels become brightness, a mode of `images`.
        shard_rows: records in a file: the unit of work, of resume and of what a pod may read alone.
    Raises: UsageError: a value that makes no sense, naming the field.
    """

    short_side: int = 0
    resample: str = "lanczos"
    dicom: str = "standard"
    shard_rows: int = 1024

    def __post_init__(self) -> None:
        if self.short_side and not _SMALLEST <= self.short_side <= _LARGEST:
            raise errors.UsageError(errors.describe("short_side", "records", f"0, or {_SMALLEST} to {_LARGEST} pixels", str(self.short_side)))
        if self.resample not in RESAMPLE:
            raise errors.UsageError(
                errors.describe("resample", "records", f"one of {', '.join(RESAMPLE)}", repr(self.resample)) + errors.suggest(self.resample, RESAMPLE)
            )
        if self.shard_rows < 1:
            raise errors.UsageError(errors.describe("shard_rows", "records", "at least 1", str(self.shard_rows)))


def connector() -> Any:
    """Returns the `tfds.features.FeaturesDict` of a record."""
    import tensorflow_datasets as tfds

    texts = {name: tfds.features.Text(doc=doc) for name, doc in _DOCS.items()}
    labels = tfds.features.Tensor(shape=(len(schema.LABELS),), dtype=np.int64, doc=f"1, 0, -1 uncertain, {schema.BLANK} blank: {', '.join(schema.LABELS)}")
    return tfds.features.FeaturesDict({**texts, "labels": labels, "index": tfds.features.Scalar(dtype=np.int64, doc="image number in the cohort, from 0")})


def example(cohort: schema.Cohort, row: int, settings: Settings, decisions: collections.Counter[str] | None = None) -> dict[str, Any]:
    """Returns the record of image `row`: bytes, strings, a list of 14 int and an int, under the names of `connector`.

    Args: decisions: counts what was done to the picture, `images`' decisions and the encodings.
    Raises: DataError: a missing or unreadable picture, by the number of the image in the cohort.
    """
    study = int(cohort.image_study[row])
    data, encoding = _picture(cohort.image_file(row), schema.called(row), settings, collections.Counter() if decisions is None else decisions)
    return {
        "image": data,
        "encoding": encoding,
        "image_key": str(cohort.image_key[row]),
        "study_key": str(cohort.study_key[study]),
        "patient_key": str(cohort.patient_key[cohort.study_patient[study]]),
        "text": cohort.text[cohort.study_text[study]],
        "view": str(cohort.image_view[row]),
        "split": str(cohort.study_split[study]),
        "site": str(cohort.study_site[study]),
        "labels": [int(code) for code in cohort.study_labels[study]],
        "index": int(row),
    }


def serialised(record: Mapping[str, Any], where: str) -> bytes:
    """Returns a record as the bytes of a tf.Example.

    Raises: DataError: a feature missing or of another type, by its name alone: what TFDS would say holds the report.
    """
    kinds: dict[str, tuple[type, ...]] = {**dict.fromkeys(_DOCS, (str,)), "image": (bytes,), "labels": (list,), "index": (int,)}
    for name, kind in kinds.items():
        if not isinstance(record.get(name), kind):
            raise errors.DataError(errors.describe(f"feature {name!r}", where, kind[0].__name__, type(record.get(name)).__name__))
    features, serializer = _serializer()
    try:
        made = serializer.get_tf_example(features.encode_example(dict(record)))
        return bytes(made.SerializeToString(deterministic=True))  # else the order of features is another in every process
    except Exception as error:  # its message may hold the example
        failed = type(error).__name__
    raise errors.DataError(errors.describe("record not encoded", where, "values that its features take", failed))


def parsed(data: bytes) -> dict[str, Any]:
    """Returns the record of `serialised` bytes: the picture as bytes, texts as str, labels as int64 [14], index as int."""
    return plain(_serializer()[0].deserialize_example_np(data))


def plain(read: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record as a TFDS data source gives it with its texts as str, which TFDS leaves as bytes."""
    return {name: value.decode("utf-8") if name in _DOCS and name != "image" else value for name, value in read.items()}


def brightness(record: Mapping[str, Any], where: str, *, dicom: str = "standard", decisions: collections.Counter[str] | None = None) -> np.ndarray:
    """Returns float32 [H, W] in [0, 1] of a record as of `plain`; of the archive's own bytes exactly what `images` reads from the file.

    Raises: DataError: bytes that are no picture.
    """
    if record["encoding"] != GREY16:
        return images.decode_image(record["image"], where, dicom=dicom, decisions=decisions)
    with Image.open(io.BytesIO(record["image"]), formats=("PNG",)) as picture:
        return np.asarray(picture).astype(np.float32) / np.float32(65535)  # full range, whatever its largest value


def _picture(path: pathlib.Path, where: str, settings: Settings, decisions: collections.Counter[str]) -> tuple[bytes, str]:
    """Returns (bytes, encoding) of a picture file. It is always decoded, so that a damaged one is found here and not by a pod."""
    data = _bytes(path, where)
    levels = images.decode_image(data, where, dicom=settings.dicom, decisions=decisions)
    web, larger = data.startswith((_PNG, _JPEG)), 0 < settings.short_side < min(levels.shape)
    if web and not larger:
        return data, _counted(ORIGINAL, decisions)
    decisions[DICOM_REDRAWN] += not web
    deep = not web or (data.startswith(_PNG) and data[_PNG_DEPTH] == 16)
    return _png(_resized(levels, settings, deep) if larger else levels, deep), _counted(GREY16 if deep else GREY8, decisions)


def _bytes(path: pathlib.Path, where: str) -> bytes:
    """Returns the bytes of a file; its path goes into no message and no chained exception."""
    try:
        return path.read_bytes()
    except OSError as error:
        failed = error.strerror or type(error).__name__
    raise errors.DataError(errors.describe("missing file", where, "a readable picture", failed))


def _resized(levels: np.ndarray, settings: Settings, deep: bool) -> np.ndarray:
    """Returns brightness [h, w] with the shorter side of `settings`; 8-bit sources are resized as Pillow resizes 8-bit grey."""
    height, width = levels.shape
    scale = settings.short_side / min(height, width)
    size = max(settings.short_side, round(width * scale)), max(settings.short_side, round(height * scale))
    picture = Image.fromarray(levels if deep else _rounded(levels, 255).astype(np.uint8))
    small = np.asarray(picture.resize(size, Image.Resampling[settings.resample.upper()]), dtype=np.float32)
    return np.clip(small, 0, 1) if deep else small / np.float32(255)


def _png(levels: np.ndarray, deep: bool) -> bytes:
    stream = io.BytesIO()
    grey = _rounded(levels, 65535).astype(np.uint16) if deep else _rounded(levels, 255).astype(np.uint8)
    Image.fromarray(grey).save(stream, "PNG", compress_level=_FAST)
    return stream.getvalue()


def _rounded(levels: np.ndarray, top: int) -> np.ndarray:
    return np.rint(levels.astype(np.float64) * top)


def _counted(encoding: str, decisions: collections.Counter[str]) -> str:
    decisions[f"stored as {encoding}"] += 1
    return encoding


@functools.cache
def _serializer() -> tuple[Any, Any]:
    from tensorflow_datasets.core import example_serializer

    features = connector()
    return features, example_serializer.ExampleSerializer(features.get_serialized_info())
