"""Reading picture files: every depth and mode on the same scale, and one sentence for what cannot be read."""

import collections
import gzip
import io
import re

import numpy as np
import pytest
from PIL import Image

from relink_jax import errors
from relink_jax.cohort import dicom
from relink_jax.cohort.images import decode_image, read_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def saved(path, array, mode=None, **options):
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


def test_eight_bit_grey_is_exact(tmp_path):
    read = read_image(saved(tmp_path / "a.png", RAMP))
    assert read.dtype == np.float32
    assert read.shape == (16, 16)
    assert np.array_equal(read, RAMP.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_grey_in_other_modes_reads_the_same(tmp_path, mode):
    assert np.array_equal(read_image(saved(tmp_path / "a.png", RAMP, mode)), read_image(saved(tmp_path / "b.png", RAMP)))


def test_palette_is_read_through_its_colours(tmp_path):
    picture = Image.fromarray(RAMP)
    palette = Image.new("P", (16, 16))
    palette.putpalette([value for level in range(256) for value in (255 - level,) * 3])
    palette.putdata(list(picture.get_flattened_data() if hasattr(picture, "get_flattened_data") else picture.getdata()))
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_image(tmp_path / "p.png"), (255 - RAMP).astype(np.float32) / np.float32(255))


def test_colour_becomes_luma(tmp_path):
    colours = np.zeros((1, 3, 3), np.uint8)
    colours[0, 0, 0] = colours[0, 1, 1] = colours[0, 2, 2] = 255
    assert np.allclose(read_image(saved(tmp_path / "c.png", colours))[0] * 255, [76, 150, 29], atol=1)


def test_transparent_pixels_are_black(tmp_path):
    pixels = np.full((2, 2, 4), 255, np.uint8)
    pixels[0, :, 3] = 0
    assert read_image(saved(tmp_path / "t.png", pixels)).tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_sixteen_bit_uses_the_full_range(tmp_path):
    deep = np.array([[0, 257, 32768, 65535]], np.uint16)
    assert np.allclose(read_image(saved(tmp_path / "d.png", deep)), deep / 65535, atol=1e-7)


def test_sixteen_bit_equals_eight_bit_of_the_same_picture(tmp_path):
    deep = read_image(saved(tmp_path / "d.png", RAMP.astype(np.uint16) * 257))
    assert np.allclose(deep, read_image(saved(tmp_path / "e.png", RAMP)), atol=1e-6)


def test_twelve_bit_in_sixteen_is_scaled_by_4095(tmp_path):
    deep = np.array([[0, 2048, 4095]], np.uint16)
    assert np.allclose(read_image(saved(tmp_path / "d.png", deep)), deep / 4095, atol=1e-7)


def test_jpeg_is_close_to_its_source(tmp_path):
    path = tmp_path / "j.jpg"
    saved(path, np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1)), quality=95)
    assert np.abs(read_image(path)[0] - np.linspace(0, 1, 64)).max() < 0.05


def truncated(path):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(stream, "PNG")
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])


def truncated_jpeg(path):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(stream, "JPEG")
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])


def moving(path):
    frames = [Image.fromarray(RAMP), Image.fromarray(255 - RAMP)]
    frames[0].save(path, "PNG", save_all=True, append_images=frames[1:])


def other_format(path):
    Image.fromarray(RAMP).save(path, "BMP")


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (truncated, "a truncated or damaged file"),
        (truncated_jpeg, "a truncated or damaged file"),
        (moving, "expected one frame, found 2 frames"),
        (other_format, "another or an empty file"),
        (lambda path: path.write_bytes(b""), "another or an empty file"),
        (lambda path: path.write_bytes(b"not a picture"), "another or an empty file"),
        (lambda path: None, "found no file"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_without_the_path(tmp_path, spoil, what):
    path = tmp_path / "patient-0042.png"
    spoil(path)
    with pytest.raises(errors.DataError) as caught:
        read_image(path, "image file of data row 7")
    message = str(caught.value)
    assert what in message
    assert "image file of data row 7" in message
    assert "0042" not in message
    assert str(tmp_path) not in message
    assert "\n" not in message


def whole(kind, array=RAMP):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_bytes_read_as_the_file_does_whatever_its_name(tmp_path, kind):
    (tmp_path / "named.dcm").write_bytes(whole(kind))
    assert np.array_equal(decode_image(whole(kind)), read_image(tmp_path / "named.dcm"))


@pytest.mark.parametrize(
    ("array", "mode", "expected"),
    [
        (RAMP, None, {}),
        (RAMP, "RGB", {"colour as luma": 1}),
        (RAMP, "LA", {"transparency over black": 1}),
        (RAMP.astype(np.uint16), None, {"16-bit as 12-bit": 1}),
        (RAMP.astype(np.uint16) * 257, None, {"16-bit": 1}),
    ],
)
def test_decisions_are_counted(tmp_path, array, mode, expected):
    path, decisions = saved(tmp_path / "a.png", array, mode), collections.Counter()
    for times in (1, 2):
        read_image(path, decisions=decisions)
        assert decisions == {name: times * count for name, count in expected.items()}


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_file_cut_anywhere_is_one_sentence_or_lacks_nothing_but_its_end(kind):
    data = whole(kind, np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8))
    image, read, refusals = decode_image(data), 0, []
    for length in range(0, len(data), 10):
        try:
            assert np.array_equal(decode_image(data[:length]), image)
            read += 1
        except errors.DataError as error:
            refusals.append(str(error))
    assert read <= 3
    assert all(re.match(r"^unreadable picture in image: expected [^\n]*, found [^\n]*$", one) for one in refusals)


@pytest.mark.parametrize("content", [b"", b"text", gzip.compress(RAMP.tobytes()), whole("PNG")])
def test_gzip_of_anything_but_dicom_is_refused(content):
    with pytest.raises(errors.DataError, match="found something else in gzip"):
        decode_image(gzip.compress(content))


@pytest.mark.parametrize("spoil", [lambda data: data[:20], lambda data: data[:-9], lambda data: data[:12] + b"\xff" * 20])
def test_damaged_gzip_is_one_sentence(spoil):
    with pytest.raises(errors.DataError, match="a truncated or damaged gzip file"):
        decode_image(spoil(gzip.compress(bytes(range(256)) * 4)))


def test_gzip_that_unpacks_to_more_than_an_image_is_refused(monkeypatch):
    monkeypatch.setattr(dicom, "_MOST_BYTES", 2**16)
    with pytest.raises(errors.DataError, match=r"^file size in image: expected at most 65,536 bytes, found more$"):
        decode_image(gzip.compress(b"\0" * 2**17))


def test_a_directory_and_a_name_too_long_are_one_sentence(tmp_path):
    for path in (tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(errors.DataError, match="found a file that cannot be opened"):
            read_image(path)
