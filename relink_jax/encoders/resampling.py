"""The resampling filters that published models used and that Pillow does not have, in NumPy, in the order of their sources' arithmetic.

`cubic` is torch's `interpolate(mode='bicubic', align_corners=False, antialias=False)`, `floored_bilinear` TensorFlow's
`image.resize(method='bilinear', antialias=False)` cut to 8 bits, and `area` OpenCV's `INTER_AREA` with its 8-bit rounding: the mean
over each cell where the picture shrinks, and a fixed-point interpolation where it grows.
"""

import numpy as np

_CUBIC = np.float32(-0.75)
_FIXED_POINT = 2048


def cubic(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns float32 [height, width] of a float32 plane [H, W]: four taps each way, however much it shrinks; nothing is clamped."""
    for axis, size in ((1, width), (0, height)):
        low, weight = _centres(plane.shape[axis], size, np.float64)
        taps = [np.clip(low + offset, 0, plane.shape[axis] - 1) for offset in (-1, 0, 1, 2)]
        rest = np.float32(1) - weight
        weights = (_outer(weight + np.float32(1)), _inner(weight), _inner(rest), _outer(rest + np.float32(1)))
        total = np.zeros((1, 1), np.float32)
        for tap, factor in zip(taps, weights, strict=True):
            total = total + np.take(plane, tap, axis) * _along(factor, axis)
        plane = total
    return plane


def floored_bilinear(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns 8-bit grey [height, width] of 8-bit grey [H, W]: two taps each way, fractions of a level cut off."""
    plane = grey.astype(np.float32)
    for axis, size in ((1, width), (0, height)):
        low, weight = _centres(plane.shape[axis], size, np.float32)
        first, second = (np.take(plane, np.clip(low + offset, 0, plane.shape[axis] - 1), axis) for offset in (0, 1))
        plane = first + (second - first) * _along(weight, axis)
    return plane.astype(np.uint8)


def area(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns 8-bit grey [height, width] of 8-bit grey [H, W]."""
    if (height, width) == grey.shape:
        return grey
    if height > grey.shape[0] or width > grey.shape[1]:
        return _grown(grey, height, width)
    if grey.shape[0] % height == 0 and grey.shape[1] % width == 0:
        down, across = grey.shape[0] // height, grey.shape[1] // width
        sums = grey.reshape(height, down, width, across).sum(axis=(1, 3), dtype=np.int64)
        if (down, across) == (2, 2):
            return ((sums + 2) >> 2).astype(np.uint8)
        return np.rint(sums.astype(np.float32) * (np.float32(1) / np.float32(down * across))).astype(np.uint8)
    plane = grey.astype(np.float32)
    for axis, size in ((1, width), (0, height)):
        total = np.zeros((1, 1), np.float32)
        for tap, share in zip(*_cells(plane.shape[axis], size), strict=True):
            total = total + np.take(plane, tap, axis) * _along(share, axis)
        plane = total
    return np.clip(np.rint(plane), 0, 255).astype(np.uint8)


def _along(values: np.ndarray, axis: int) -> np.ndarray:
    return values[:, None] if axis == 0 else values[None, :]


def _centres(have: int, wanted: int, dtype: type[np.floating]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (index of the pixel at or before each output pixel's centre, -1 for before the first; distance from it in float32).

    `dtype`: of the product and the difference: float64 gives what a fused multiply-add gives (torch), float32 what two roundings give.
    """
    at = ((np.arange(wanted, dtype=dtype) + dtype(0.5)) * dtype(np.float32(have) / np.float32(wanted)) - dtype(0.5)).astype(np.float32)
    low = np.floor(at)
    return low.astype(np.int64), at - low


def _inner(x: np.ndarray) -> np.ndarray:
    """Weight of a tap at a distance `x` of at most 1."""
    return _fused(_fused(_CUBIC + 2, x, -(_CUBIC + 3)) * x, x, np.float32(1))


def _outer(x: np.ndarray) -> np.ndarray:
    """Weight of a tap at a distance `x` from 1 to 2; its terms cancel, so one rounding more or less shows."""
    return _fused(_fused(_fused(_CUBIC, x, -5 * _CUBIC), x, 8 * _CUBIC), x, -4 * _CUBIC)


def _fused(x: np.ndarray | np.float32, y: np.ndarray, z: np.ndarray | np.float32) -> np.ndarray:
    """Returns x * y + z rounded to float32 once, as torch's kernels do."""
    return np.asarray(np.multiply(x, y, dtype=np.float64) + z, np.float32)


def _cells(have: int, wanted: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns, tap by tap in OpenCV's order, the source index [wanted] and its share of the cell in float32, 0 where a cell has no such tap."""
    scale = 1.0 / (wanted / have)
    start = np.arange(wanted) * scale
    width = np.minimum(scale, have - start)
    last = np.minimum(np.floor(start + scale).astype(np.int64), have - 1)
    first = np.minimum(np.ceil(start).astype(np.int64), last)
    before, after = first - start, start + scale - last
    taps, shares = [np.maximum(first - 1, 0)], [np.where(before > 1e-3, before / width, 0)]
    for offset in range(int((last - first).max())):
        taps.append(np.minimum(first + offset, have - 1))
        shares.append(np.where(first + offset < last, 1.0 / width, 0))
    taps.append(last)
    shares.append(np.where(after > 1e-3, np.minimum(np.minimum(after, 1.0), width) / width, 0))
    return taps, [share.astype(np.float32) for share in shares]


def _grown(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    """OpenCV's stand-in for area means where a side grows: two taps in 11-bit fixed point, rounded by shifts."""
    (left, right, across), (top, bottom, down) = _pair(grey.shape[1], width), _pair(grey.shape[0], height)
    rows = grey.astype(np.int64)
    rows = rows[:, left] * across[0] + rows[:, right] * across[1]
    upper, lower = (((share[:, None] * (rows[tap] >> 4)) >> 16) for tap, share in ((top, down[0]), (bottom, down[1])))
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def _pair(have: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (first tap [wanted], second tap [wanted], their shares [2, wanted] in 1 / 2048)."""
    inverse = wanted / have
    index = np.arange(wanted)
    low = np.floor(index * (1.0 / inverse)).astype(np.int64)
    weight = ((index + 1) - (low + 1) * inverse).astype(np.float32)
    weight = np.where(weight <= 0, np.float32(0), weight - np.floor(weight))
    weight = np.where(low >= have - 1, np.float32(0), weight)
    low = np.minimum(low, have - 1)
    shares = np.rint(np.stack([np.float32(1) - weight, weight]) * np.float32(_FIXED_POINT)).astype(np.int64)
    return low, np.minimum(low + 1, have - 1), shares
