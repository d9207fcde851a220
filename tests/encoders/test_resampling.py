"""The filters that Pillow lacks, against their definitions in float64 and values that their own libraries gave."""

import itertools

import numpy as np
import pytest

from relink_jax.encoders import resampling

SMALL = (np.arange(30).reshape(5, 6) * 37 % 251).astype(np.uint8)


def _cubic_weights(have, wanted, sharpness=-0.75):
    matrix = np.zeros((wanted, have))
    for row in range(wanted):
        centre = (row + 0.5) * have / wanted - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x = abs(centre - tap)
            weight = (sharpness + 2) * x**3 - (sharpness + 3) * x**2 + 1 if x <= 1 else sharpness * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[row, min(max(tap, 0), have - 1)] += weight
    return matrix


@pytest.mark.parametrize(("shape", "size"), [((5, 6), (3, 4)), ((5, 6), (9, 11)), ((31, 32), (22, 23)), ((7, 7), (7, 7)), ((1, 3), (2, 2))])
def test_cubic_is_the_four_tap_kernel_without_antialiasing(shape, size):
    plane = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    across, down = _cubic_weights(shape[1], size[1]), _cubic_weights(shape[0], size[0])
    found = resampling.cubic(plane, *size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, down @ plane.astype(np.float64) @ across.T, rtol=0, atol=2e-5)


def test_the_sharpness_of_the_kernel_would_be_seen():
    plane = np.random.default_rng(0).normal(size=(31, 32)).astype(np.float32)
    other = _cubic_weights(31, 22, -0.5) @ plane @ _cubic_weights(32, 23, -0.5).T
    assert np.abs(resampling.cubic(plane, 22, 23) - other).max() > 0.05


@pytest.mark.parametrize(("shape", "size"), [((5, 6), (3, 4)), ((5, 6), (9, 11)), ((6, 4), (3, 2)), ((1, 1), (3, 3)), ((4, 4), (4, 4))])
def test_floored_bilinear_equals_a_loop_over_single_numbers(shape, size):
    grey = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    one = np.float32

    def at(index, have, wanted):
        centre = (one(index) + one(0.5)) * (one(have) / one(wanted)) - one(0.5)
        return max(int(np.floor(centre)), 0), min(int(np.ceil(centre)), have - 1), centre - np.floor(centre)

    expected = np.empty(size, np.uint8)
    for row in range(size[0]):
        top, bottom, down = at(row, shape[0], size[0])
        for column in range(size[1]):
            left, right, across = at(column, shape[1], size[1])
            upper = one(grey[top, left]) + (one(grey[top, right]) - one(grey[top, left])) * across
            lower = one(grey[bottom, left]) + (one(grey[bottom, right]) - one(grey[bottom, left])) * across
            expected[row, column] = np.uint8(upper + (lower - upper) * down)
    np.testing.assert_array_equal(resampling.floored_bilinear(grey, *size), expected)


def _overlaps(have, wanted):
    edges = np.arange(wanted + 1) * have / wanted
    cells = [[max(0, min(high, cell + 1) - max(low, cell)) for cell in range(have)] for low, high in itertools.pairwise(edges)]
    return np.array(cells) * wanted / have


@pytest.mark.parametrize(("shape", "size"), [((50, 61), (20, 23)), ((64, 48), (32, 24)), ((90, 60), (30, 20)), ((90, 60), (30, 15)), ((257, 256), (256, 255))])
def test_area_is_the_mean_over_each_cell_rounded(shape, size):
    grey = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    exact = _overlaps(shape[0], size[0]) @ grey @ _overlaps(shape[1], size[1]).T
    assert np.abs(resampling.area(grey, *size) - exact).max() <= 0.5 + 1e-3 * 255


def test_area_of_the_same_size_is_the_image_and_of_a_constant_is_constant():
    np.testing.assert_array_equal(resampling.area(SMALL, 5, 6), SMALL)
    for size in ((3, 4), (5, 3), (8, 9), (7, 6)):
        np.testing.assert_array_equal(resampling.area(np.full((5, 6), 251, np.uint8), *size), np.full(size, 251))


OPENCV = {  # cv2 5.0.0, INTER_AREA of SMALL and of WIDER
    (3, 4): [[68, 50, 112, 161], [189, 104, 65, 115], [159, 208, 119, 68]],
    (5, 3): [[18, 92, 166], [115, 64, 138], [212, 34, 108], [182, 131, 80], [154, 228, 50]],
    (7, 6): [
        *([0, 37, 74, 111, 148, 185], [133, 20, 57, 93, 130, 167], [216, 52, 39, 76, 113, 150], [193, 230, 16, 53, 90, 127]),
        *([170, 207, 193, 30, 67, 104], [152, 189, 226, 113, 49, 86], [135, 172, 209, 246, 32, 69]),
    ],
}
WIDER = (np.arange(48).reshape(6, 8) * 37 % 251).astype(np.uint8)
TORCH = [  # torch 2.13.0, interpolate(mode='bicubic', align_corners=False) of (SMALL - 100) / 50 to 3 x 4
    [-0.8594020009040833, -1.0186083316802979, 0.28931695222854614, 1.4079890251159668],
    [2.1781249046325684, -0.76234370470047, -0.7203124761581421, 0.39835938811302185],
    [0.9822059273719788, 2.5224802494049072, 0.7343021631240845, -0.7321946024894714],
]


@pytest.mark.parametrize("size", OPENCV)
def test_area_equals_what_opencv_gave(size):
    np.testing.assert_array_equal(resampling.area(SMALL, *size), OPENCV[size])


def test_area_of_whole_cells_equals_what_opencv_gave():
    np.testing.assert_array_equal(resampling.area(WIDER, 3, 4), [[41, 115, 189, 75], [131, 205, 91, 102], [158, 44, 118, 192]])
    np.testing.assert_array_equal(resampling.area(WIDER, 2, 2), [[100, 123], [131, 132]])


def test_cubic_equals_what_torch_gave():
    found = resampling.cubic((SMALL.astype(np.float32) - 100) / 50, 3, 4)
    np.testing.assert_allclose(found, TORCH, rtol=0, atol=1e-6)


def test_floored_bilinear_equals_what_tensorflow_gave():
    """TensorFlow 2.21.0, image.resize(SMALL, [4, 4], method='bilinear', antialias=False), cast to uint8."""
    np.testing.assert_array_equal(resampling.floored_bilinear(SMALL, 4, 4), [[29, 61, 116, 172], [181, 48, 80, 135], [184, 169, 44, 99], [147, 203, 172, 63]])
