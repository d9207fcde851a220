"""Reading picture files: every depth and mode on the same scale, and one sentence for what cannot be read."""

import io

import numpy as np
import pytest
from PIL import Image

from relink_jax import errors
from relink_jax.cohort.images import read_image

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
