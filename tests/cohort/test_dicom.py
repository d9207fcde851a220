"""DICOM files: exact grey levels in every form they come in, and one sentence for what is no radiograph, cut or hostile."""

import collections
import csv
import gzip
import logging
import pathlib
import re
import sys
import types
import warnings

import numpy as np
import pytest
from PIL import Image

from relink_jax import errors
from relink_jax.cohort import codestreams, dicom, images
from relink_jax.cohort.layouts import dicom as layout
from relink_jax.cohort.layouts.exams import exams
from relink_jax.config import PhantomConfig

pydicom = pytest.importorskip("pydicom")
SHIPPED = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
PIXELS = np.random.default_rng(0).permutation(np.repeat(np.arange(256, dtype=np.uint8), 4)).reshape(16, 64)
EXACT = PIXELS.astype(np.float32) / np.float32(255)
SENTENCE = r"[^\n/]* in image 7: expected [^\n/]*, found [^\n/]*"
NATIVE = ["implicit", "explicit", "big_endian", "rle"]


def made(path, pixels=PIXELS, **options):
    layout.write_image(pixels, path, **options)
    return path


def read(path, **options):
    decisions = collections.Counter()
    return images.read_image(path, "image 7", decisions=decisions, **options), dict(decisions)


def refused(path, **options):
    with pytest.raises(errors.DataError) as caught:
        images.read_image(path, "image 7", **options)
    assert re.fullmatch(SENTENCE, str(caught.value))
    return str(caught.value)


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_every_level_is_exact_at_every_depth(tmp_path, syntax, photometric):
    for bits in (8, 10, 12, 14, 15, 16):
        for rescale in (None, (2.0, -1000.0), (0.5, 3.0)):
            found, decisions = read(made(tmp_path / "a.dcm", photometric=photometric, bits_stored=bits, rescale=rescale, syntax=syntax))
            assert found.dtype == np.float32
            assert np.array_equal(found, EXACT)
            assert decisions == {"VOI window": 1} | ({"inverted MONOCHROME1": 1} if photometric == "MONOCHROME1" else {})


@pytest.mark.parametrize("syntax", ["jpeg2000", "jpeg_ls"])
def test_compressed_equals_plain(tmp_path, syntax):
    pytest.importorskip({"jpeg2000": "openjpeg", "jpeg_ls": "jpeg_ls"}[syntax])
    for bits in (8, 12, 16):
        found, _ = read(made(tmp_path / "a.dcm", np.tile(PIXELS, (4, 1)), bits_stored=bits, syntax=syntax))
        assert np.array_equal(found, np.tile(EXACT, (4, 1)))


@pytest.mark.parametrize("name", ["_RLE.dcm", "_bigendian.dcm", "_expb.dcm", "_implicit.dcm", "_padded.dcm", "_jp2klossless.dcm", "_jpeg_ls_lossless.dcm"])
def test_one_picture_in_every_syntax_that_pydicom_ships_is_one_picture(monkeypatch, name):
    if not pydicom.pixels.get_decoder(pydicom.dcmread(SHIPPED / f"MR_small{name}", stop_before_pixels=True).file_meta.TransferSyntaxUID).is_available:
        pytest.skip("no decoder for this syntax")
    monkeypatch.setattr(dicom, "_RADIOGRAPHY", ("MR",))
    assert np.array_equal(read(SHIPPED / f"MR_small{name}")[0], read(SHIPPED / "MR_small.dcm")[0])


def test_gzip_and_bytes_read_as_the_file_does(tmp_path):
    path = made(tmp_path / "a.dcm")
    (tmp_path / "a.dcm.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert np.array_equal(read(tmp_path / "a.dcm.gz")[0], EXACT)
    assert np.array_equal(images.decode_image(path.read_bytes()), EXACT)
    assert dicom.header(tmp_path / "a.dcm.gz") == dicom.header(path)


def test_colour_is_luma(tmp_path):
    colours = np.random.default_rng(1).integers(0, 256, (*PIXELS.shape, 3), dtype=np.uint8)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "PixelData": colours.tobytes()}
    found, decisions = read(made(tmp_path / "a.dcm", bits_stored=8, tags=tags))
    assert np.array_equal(found, np.asarray(Image.fromarray(colours).convert("L"), np.float32) / np.float32(255))
    assert decisions == {"colour as luma": 1}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"Modality": "CR"}, {}),
        ({"Modality": "RG"}, {}),
        ({"Modality": "OT"}, {"modality not said": 1}),
        ({"Modality": None}, {"modality not said": 1}),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, {"secondary capture": 1}),
        ({"PresentationIntentType": "FOR PROCESSING"}, {"presentation intent FOR PROCESSING": 1}),
        ({"BurnedInAnnotation": "YES"}, {"burned-in annotation flagged": 1}),
    ],
)
def test_what_is_odd_is_counted_and_kept(tmp_path, tags, expected):
    found, decisions = read(made(tmp_path / "a.dcm", tags=tags))
    assert np.array_equal(found, EXACT)
    assert decisions == {"VOI window": 1, **expected}


@pytest.mark.parametrize(
    ("options", "tags", "sentence"),
    [
        ({}, {"Modality": "CT"}, "modality in image 7: expected CR, DX, RG or none, found another"),
        ({}, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "found a localizer"),
        ({"refuse_burned_in": True}, {"BurnedInAnnotation": "YES"}, "found BurnedInAnnotation YES"),
        ({}, {"NumberOfFrames": 2}, "expected one frame, found 2 frames"),
        ({}, {"Rows": 60000, "Columns": 60000}, "at most 67,108,864 pixels, found 60000 x 60000"),
        ({}, {"PhotometricInterpretation": "PALETTE COLOR"}, "another colour space"),
        ({}, {"BitsAllocated": 32, "BitsStored": 32}, "1 samples of 32 bits"),
        ({}, {"BitsStored": 17}, "bits stored within bits allocated"),
        ({}, {"PixelRepresentation": 7}, "bits stored within bits allocated"),
        ({}, {"Rows": None}, "found an object without one, such as a report or a plan"),
        ({}, {"PixelData": b""}, "found a header without pixels"),
        ({}, {"PixelData": b"\1\0" * 1023}, "found a truncated or damaged one (ValueError)"),
    ],
)
def test_what_is_no_radiograph_is_refused(tmp_path, options, tags, sentence):
    assert sentence in refused(made(tmp_path / "a.dcm", tags=tags), **options)


@pytest.mark.parametrize(
    "name",
    ["test-SR.dcm", "rtplan.dcm", "rtdose_1frame.dcm", "reportsi.dcm", "CT_small.dcm", "image_dfl.dcm", "no_meta.dcm", "MR_truncated.dcm", "waveform_ecg.dcm"],
)
def test_other_objects_that_pydicom_ships_are_refused(name):
    refused(SHIPPED / name)


def test_a_codestream_of_another_size_or_without_an_end_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom, "_RADIOGRAPHY", ("MR",))
    monkeypatch.setattr("pydicom.pixels.pixel_array", lambda _: pytest.fail("decoded"))
    monkeypatch.setattr(dicom, "_check_decoder", lambda *_: None)
    for name, marker, skip in (("jp2klossless", b"\xff\x4f\xff\x51", 8), ("jpeg_ls_lossless", b"\xff\xf7", 5)):
        data = (SHIPPED / f"MR_small_{name}.dcm").read_bytes()
        size = data.index(marker) + skip
        (tmp_path / "a.dcm").write_bytes(data[:size] + b"\x70" + data[size + 1 :])
        assert "expected the size that its header says" in refused(tmp_path / "a.dcm")
        end = data.rindex(b"\xff\xd9")
        (tmp_path / "b.dcm").write_bytes(data[:end] + b"\x11\x11" + data[end + 2 :])
        assert "found a truncated one" in refused(tmp_path / "b.dcm")


def test_a_frame_that_is_longer_than_its_picture_is_refused(tmp_path):
    path = made(tmp_path / "a.dcm", np.zeros((4, 4), np.uint8), syntax="rle")
    found = pydicom.dcmread(path)
    found.PixelData = pydicom.encaps.encapsulate([b"\x81\0" * 2**16])
    found.save_as(path)
    assert "one no longer than the plain picture" in refused(path)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"", None),
        (b"\xff\xd8\xff\xe0\0\4ab\xff\xff\xff\xc0\0\x0b\x08\1\2\3\4\1", (258, 772)),
        (b"\xff\xd8\xff\xc4\0\2\xff\xd0\xff\xf7\0\x0b\x08\0\1\0\2\1", (1, 2)),
        (b"\xff\xd8\0\xc0\0\x0b\x08\1\2\3\4\1", None),
        (b"\xff\xd8\xff\xe0\xff\xff", None),
        (b"\xff\x4f\xff\x51\0\x29\0\0" + bytes([0, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2]), (5, 8)),
        (b"\xff\x4f\xff\x51\0\x29\0\0\0\0\0\x09", None),
    ],
)
def test_sizes_of_codestreams(data, size):
    assert codestreams.size(data) == size


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "rle"])
def test_a_file_cut_anywhere_is_one_sentence_or_lacks_nothing_but_its_end(tmp_path, syntax):
    small = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data, whole, refusals = made(tmp_path / "a.dcm", small, syntax=syntax).read_bytes(), 0, []
    for length in range(0, len(data), 10):
        try:
            assert np.array_equal(images.decode_image(data[:length], "image 7"), small.astype(np.float32) / np.float32(255))
            whole += 1
        except errors.DataError as error:
            refusals.append(str(error))
    assert whole <= 1
    assert all(re.fullmatch(SENTENCE, one) for one in refusals)


def test_files_spoilt_at_random_are_a_picture_or_one_sentence(tmp_path):
    draw, refusals = np.random.default_rng(3), []
    whole = [made(tmp_path / "a.dcm", syntax=syntax).read_bytes() for syntax in NATIVE]
    for turn in range(300):
        spoilt = bytearray(whole[turn % len(whole)])
        for place in draw.integers(128, 900, 3):
            spoilt[place] = int(draw.integers(256))
        try:
            found = images.decode_image(bytes(spoilt), "image 7")
            assert 0 <= found.min() <= found.max() <= 1
        except errors.RelinkError as error:
            refusals.append(str(error))
    assert 50 < len(refusals) < 300
    assert all(re.fullmatch(SENTENCE, one) for one in refusals)


def test_nothing_of_the_person_is_kept_and_the_header_is_read_without_pixels(tmp_path, monkeypatch):
    path, kept = made(tmp_path / "a.dcm", tags={"ViewPosition": "PA"}), []
    assert pydicom.dcmread(path).PatientName == layout.PERSON["PatientName"]
    real = pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", lambda *args, **options: kept.append(real(*args, **options)) or kept[-1])
    read(path)
    dicom.header(path)
    assert len(kept) == 3
    assert all(str(value) not in repr(found) and name not in found for found in kept for name, value in layout.PERSON.items())
    assert "PixelData" not in kept[-1]


@pytest.mark.parametrize(
    ("position", "view"),
    [("PA", "PA"), ("AP", "AP"), ("LL", "LATERAL"), ("RL", "LATERAL"), ("LATERAL", "LATERAL"), ("AP AXIAL", "OTHER"), ("LAO", "OTHER"), ("", "")],
)
def test_the_header_says_what_a_table_needs(tmp_path, position, view):
    tags = {"ViewPosition": position, "BodyPartExamined": "chest", "Modality": "CR"}
    data = made(tmp_path / "a.dcm", photometric="MONOCHROME1", burned_in=True, tags=tags).read_bytes()
    (tmp_path / "a.dcm").write_bytes(data[: -len(PIXELS.tobytes())])
    found = dicom.header(tmp_path / "a.dcm")
    assert (found.view, found.view_position, found.modality, found.body_part, found.burned_in) == (view, position, "CR", "CHEST", True)
    assert (found.photometric, found.rows, found.columns, found.bits_stored, found.window) == ("MONOCHROME1", *PIXELS.shape, 12, True)
    assert (found.presentation_intent, found.image_type) == ("FOR PRESENTATION", ("DERIVED", "PRIMARY"))


def test_a_blank_view_position_falls_back_on_the_view_code(tmp_path):
    for meaning, view in (("postero-anterior", "PA"), ("antero-posterior", "AP"), ("lateral", "LATERAL"), ("oblique", "OTHER")):
        code = pydicom.Dataset()
        code.CodeMeaning = meaning
        assert dicom.header(made(tmp_path / "a.dcm", tags={"ViewPosition": "", "ViewCodeSequence": [code]})).view == view


def test_nothing_that_pydicom_warns_of_is_printed(tmp_path, caplog, capfd, monkeypatch):
    monkeypatch.setattr(pydicom.config.settings, "_writing_validation_mode", pydicom.config.IGNORE)
    made(tmp_path / "canary-1.dcm", tags={"Modality": "canary_2_" * 4, "ViewPosition": "canary 3 ü"})
    (tmp_path / "canary-4.dcm").write_bytes((tmp_path / "canary-1.dcm").read_bytes()[:700])
    data = made(tmp_path / "canary-5.dcm", rescale=(1234.5, 0)).read_bytes()
    (tmp_path / "canary-5.dcm").write_bytes(data.replace(b"1234.5", b"canary"))
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        said = [refused(path) for path in sorted(tmp_path.iterdir())]
    out = capfd.readouterr()
    assert len(said) == 3
    assert not told
    assert "canary" not in "".join([*said, caplog.text, out.out, out.err])


def test_without_pydicom_or_a_decoder_the_sentence_names_the_extra(tmp_path, monkeypatch):
    path = made(tmp_path / "a.dcm", syntax="rle")
    monkeypatch.setattr("pydicom.pixels.get_decoder", lambda _: types.SimpleNamespace(is_available=False))
    with pytest.raises(errors.UsageError, match=r"decoder missing in image 7: .*pip install 'relink_jax\[dicom\]'"):
        images.read_image(path, "image 7")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for failing in (images.read_image, dicom.header, lambda _: made(tmp_path / "b.dcm")):
        with pytest.raises(errors.UsageError, match=r"package missing in DICOM images: .*pip install 'relink_jax\[dicom\]'"):
            failing(path)


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(errors.UsageError, match=r"expected one of standard, raw, jpg_release, found 'standart'; did you mean 'standard'\?"):
        images.read_image(made(tmp_path / "a.dcm"), dicom="standart")


def test_the_written_archive_gives_back_pixels_texts_and_views(tmp_path):
    population = list(exams(PhantomConfig(seed=5, n_patients=4, image_size=24)))
    table, root = layout.write(population, tmp_path)
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    shots = [(exam, shot) for exam in population for shot in exam.shots]
    assert len(rows) == len(shots)
    inverted = 0
    for row, (exam, shot) in zip(rows, shots, strict=True):
        found, decisions = read(root / row["image_path"])
        assert np.array_equal(found, shot.pixels().astype(np.float32) / np.float32(255))
        assert (row["findings"], row["impression"], row["split"], row["view"]) == (exam.findings, exam.impression, exam.split, shot.view)
        assert dicom.header(root / row["image_path"]).view == shot.view
        inverted += decisions.get("inverted MONOCHROME1", 0)
    assert inverted == (len(rows) + 1) // 2
    assert all(path.stat().st_mode & 0o77 == 0 for path in tmp_path.rglob("*"))
