"""From stored values to brightness, against pydicom's own functions, the published code of the modes, and values worked out by hand."""

import collections

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.cohort import greyscale, images
from relink_jax.cohort.layouts import dicom as layout
from relink_jax.encoders import recipes

pydicom = pytest.importorskip("pydicom")
DRAW = np.random.default_rng(0)
RAMP = np.arange(256, dtype=np.uint8).reshape(8, 32)


def made(path, stored, tags=None, **options):
    """Writes stored values [H, W] as they are, 16 bits allocated."""
    signed = stored.dtype.kind == "i"
    options = {"window": (), "bits_stored": 16, **options}
    layout.write_image(
        np.zeros(stored.shape, np.uint8),
        path,
        tags={"PixelData": stored.astype("<i2" if signed else "<u2").tobytes(), "PixelRepresentation": int(signed), **(tags or {})},
        **options,
    )
    return path


def read(path, mode="standard"):
    decisions = collections.Counter()
    return images.read_image(path, dicom=mode, decisions=decisions), dict(decisions)


def oracle(path):
    """Returns pydicom's modality and VOI functions, over the range that the second spreads a window on."""
    found = pydicom.dcmread(path)
    values = pydicom.pixels.apply_voi_lut(pydicom.pixels.apply_modality_lut(found.pixel_array, found), found)
    ends = (-(2 ** (found.BitsStored - 1)), 2 ** (found.BitsStored - 1) - 1) if found.PixelRepresentation else (0, 2**found.BitsStored - 1)
    low, high = (end * float(found.get("RescaleSlope", 1)) + float(found.get("RescaleIntercept", 0)) for end in ends)
    return (np.asarray(values, np.float64) - low) / (high - low)


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescale", [None, (1.0, -1024.0), (0.25, 17.5), (-2.0, 40000.0)])
@pytest.mark.parametrize(("kind", "bits"), [(np.uint16, 12), (np.uint16, 16), (np.int16, 14)])
def test_windows_are_those_of_pydicom(tmp_path, function, rescale, kind, bits):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if kind is np.int16 else (0, 2**bits)
    stored = DRAW.integers(low, high, (9, 21)).astype(kind)
    slope, intercept = rescale or (1.0, 0.0)
    for share, width in ((0.5, 1000.0), (0.3, 333.5), (0.9, 1.5)):
        window = (float(f"{slope * (low + share * (high - low)) + intercept:.1f}"), width)
        path = made(tmp_path / "a.dcm", stored, {"VOILUTFunction": function} if function else None, window=[window], rescale=rescale, bits_stored=bits)
        found, decisions = read(path)
        np.testing.assert_allclose(found, oracle(path), atol=2e-7)
        assert decisions == {"VOI window": 1}


def test_a_window_worked_out_by_hand(tmp_path):
    """Centre 100.5 and width 101: 50 and less is black, 150 and more is white, 75 a quarter."""
    stored = np.array([[0, 50, 75, 100, 150, 151, 4000]], np.uint16)
    for inverted, photometric in ((False, "MONOCHROME2"), (True, "MONOCHROME1")):
        found, decisions = read(made(tmp_path / "a.dcm", stored, {"WindowCenter": [100.5, 7], "WindowWidth": [101, 9]}, photometric=photometric))
        expected = np.array([[0, 0, 0.25, 0.5, 1, 1, 1]])
        assert np.array_equal(found, (1 - expected if inverted else expected).astype(np.float32))
        assert decisions == {"first of several windows": 1, "VOI window": 1} | ({"inverted MONOCHROME1": 1} if inverted else {})


@pytest.mark.parametrize(("centre", "width", "function"), [(5, 0, "LINEAR"), (5, 1, "LINEAR"), (5, 0, "SIGMOID"), (5, -3, "LINEAR_EXACT"), (5, 9, "CURVED")])
def test_a_window_that_spans_nothing_is_ignored_and_counted(tmp_path, centre, width, function):
    stored = RAMP.astype(np.uint16) + 7
    found, decisions = read(made(tmp_path / "a.dcm", stored, {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}))
    np.testing.assert_allclose(found, RAMP / 255, atol=1e-7)
    assert decisions == {"window without meaning ignored": 1, "stretched without a window": 1}


def lut(data, first, bits, **tags):
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [len(data) % 2**16, first, bits])
    item.add_new("LUTData", "OW", np.asarray(data, "<u2").tobytes())
    return [item]


def test_a_voi_sequence_is_pydicoms_and_goes_before_a_window(tmp_path):
    table = np.sort(DRAW.integers(0, 4096, 1000))
    stored = DRAW.integers(0, 4096, (9, 21)).astype(np.uint16)
    path = made(tmp_path / "a.dcm", stored, {"VOILUTSequence": lut(table, 1500, 12)}, window=[(5, 9)], bits_stored=12)
    found, decisions = read(path)
    ours = pydicom.dcmread(path)
    expected = (pydicom.pixels.apply_voi(ours.pixel_array, ours).astype(float) - table[0]) / (table[-1] - table[0])
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert decisions == {"VOI LUT": 1}
    made(tmp_path / "a.dcm", stored, {"VOILUTSequence": lut(table, 1500, 12)}, photometric="MONOCHROME1", bits_stored=12)
    np.testing.assert_allclose(read(path)[0], 1 - expected, atol=1e-7)


def test_a_voi_sequence_of_eight_bits_takes_values_of_twelve(tmp_path):
    """pydicom's own look-up keeps the index in the entries' 8 bits and wraps round."""
    table = np.arange(4096) // 16
    stored = np.array([[0, 255, 256, 4095]], np.uint16)
    assert np.array_equal(
        read(made(tmp_path / "a.dcm", stored, {"VOILUTSequence": lut(table, 0, 8)}, bits_stored=12))[0],
        np.array([[0, 15, 16, 255]], np.float32) / np.float32(255),
    )


def test_a_voi_sequence_with_fewer_entries_than_it_says_is_refused(tmp_path):
    sequence = lut(np.arange(100), 0, 12)
    sequence[0].LUTDescriptor = [101, 0, 12]
    with pytest.raises(errors.DataError, match="VOI LUT in image file: expected as many entries as it says"):
        read(made(tmp_path / "a.dcm", RAMP.astype(np.uint16), {"VOILUTSequence": sequence}))


def test_a_modality_table_comes_first(tmp_path):
    table = (np.arange(256) ** 2 // 256).astype(int)
    found, _ = read(made(tmp_path / "a.dcm", RAMP.astype(np.uint16), {"ModalityLUTSequence": lut(table, 0, 16)}, window=[(100.5, 101)]))
    np.testing.assert_allclose(found, np.clip((table[RAMP] - 50) / 100, 0, 1), atol=1e-7)


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME1", "", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
    ],
)
def test_inversion_happens_once(tmp_path, photometric, shape, inverted):
    found, decisions = read(made(tmp_path / "a.dcm", RAMP.astype(np.uint16), {"PresentationLUTShape": shape}, photometric=photometric))
    np.testing.assert_allclose(found, (255 - RAMP if inverted else RAMP) / 255, atol=1e-7)
    assert sum(count for name, count in decisions.items() if name.startswith("inverted")) == inverted


@pytest.mark.parametrize("window", [(), [(900.0, 1200.0)], [(2000.25, 777.5)]])
def test_monochrome1_of_inverted_pixels_is_monochrome2_of_the_pixels(tmp_path, window):
    stored = DRAW.integers(0, 4096, (30, 40)).astype(np.uint16)
    turned = [(4095 - centre + 1, width) for centre, width in window]
    plain, _ = read(made(tmp_path / "a.dcm", stored, window=window, bits_stored=12))
    other, _ = read(made(tmp_path / "b.dcm", 4095 - stored, window=turned, bits_stored=12, photometric="MONOCHROME1"))
    assert np.array_equal(plain, other)


@pytest.mark.parametrize("bits", [10, 12, 14, 15])
def test_open_i_depths_and_values_that_the_header_denies(tmp_path, bits):
    stored = np.linspace(0, 2**bits - 1, 60).astype(np.uint16).reshape(6, 10)
    found, decisions = read(made(tmp_path / "a.dcm", stored, bits_stored=bits))
    np.testing.assert_allclose(found, stored / (2**bits - 1), atol=1e-7)
    assert decisions == {"stretched without a window": 1}
    for mode in greyscale.MODES:
        plain, _ = read(tmp_path / "a.dcm", mode)
        above, decisions = read(made(tmp_path / "b.dcm", stored | np.uint16(2**15), bits_stored=bits), mode)
        assert decisions["bits above BitsStored cut"] == 1
        assert np.array_equal(above, plain)


def test_one_grey_level_is_refused_where_there_is_nothing_to_stretch(tmp_path):
    flat = np.full((4, 5), 9, np.uint16)
    for mode in ("standard", "jpg_release"):
        with pytest.raises(errors.DataError, match="constant image in image file: expected at least two grey levels, found one"):
            read(made(tmp_path / "a.dcm", flat), mode)
    assert set(read(made(tmp_path / "a.dcm", flat, window=[(9.5, 3)]))[0].ravel()) == {0.5}


def test_a_rescale_that_gives_no_numbers_is_refused(tmp_path):
    path = made(tmp_path / "a.dcm", RAMP.astype(np.uint16), rescale=(1e30, 0))
    path.write_bytes(path.read_bytes().replace(b"1e+30", b"1e999"))
    with pytest.raises(errors.DataError, match="in image file: expected "):
        read(path)


@pytest.mark.parametrize(("kind", "low", "high"), [(np.uint16, 0, 256), (np.uint16, 30, 3000), (np.uint16, 5, 65536), (np.int16, -2000, 2100)])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_raw_gives_biovil_the_published_bits(tmp_path, kind, low, high, photometric):
    """hi-ml's remap_to_uint8 of pixel_array, with a window and a rescale that it does not look at."""
    stored = DRAW.integers(low, high, (40, 50)).astype(kind)
    path = made(tmp_path / "a.dcm", stored, rescale=(3.0, -7.0), window=[(100, 50)], photometric=photometric)
    array = pydicom.dcmread(path).pixel_array.astype(float)
    array -= array.min()
    array /= array.max()
    array *= 255
    found, decisions = read(path, "raw")
    assert np.array_equal(recipes.stretched(found), array.astype(np.uint8))
    assert decisions == ({"MONOCHROME1 left as stored": 1} if photometric == "MONOCHROME1" else {})


def released(stored, bits, inverted):
    """The JPG releases' conversion as published, pixel by pixel, with OpenCV's equalizeHist written out."""
    stored = stored.astype(np.int64) & (2**bits - 1)
    stored = stored - stored.min()
    grey = (stored / stored.max() * 255).astype(np.uint8)
    grey = ~grey if inverted else grey
    histogram = [int((grey == level).sum()) for level in range(256)]
    darkest = next(level for level in range(256) if histogram[level])
    scale = np.float32(255) / np.float32(grey.size - histogram[darkest])
    levels, total = {darkest: 0}, 0
    for level in range(darkest + 1, 256):
        total += histogram[level]
        levels[level] = round(float(np.float32(total) * scale))
    return np.vectorize(levels.get)(grey)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("top", [300, 4096, 2**16])
def test_jpg_release_is_the_releases_conversion(tmp_path, photometric, top):
    stored = np.sort(DRAW.gamma(2, top / 12, (30, 40)).clip(0, top - 1)).astype(np.uint16)
    path = made(tmp_path / "a.dcm", stored, bits_stored=12, rescale=(2, 5), window=[(7, 9)], photometric=photometric)
    found, decisions = read(path, "jpg_release")
    expected = released(stored, 12, photometric == "MONOCHROME1")
    assert np.array_equal(found, expected.astype(np.float32) / np.float32(255))
    assert decisions["histogram equalised"] == 1


def test_equalised_is_opencvs():
    cv2 = pytest.importorskip("cv2")
    for top, size in ((256, (37, 41)), (20, (8, 9)), (3, (1, 5)), (1, (2, 2))):
        grey = DRAW.integers(0, top, size).astype(np.uint8)
        assert np.array_equal(greyscale.equalised(np.bincount(grey.ravel(), minlength=256))[grey], cv2.equalizeHist(grey))
