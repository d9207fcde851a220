"""Swin towers against an oracle that rolls nothing: a pair of cells sees each other when its window of the shifted tiling is the same."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_params

from relink_jax import errors
from relink_jax.encoders import specs, swin

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

TINY = specs.SwinSpec(image_size=19, pool="mean", blocks=(2, 2, 2, 2), heads=(2, 4, 4, 8), width=8, window=3, patch_size=2, mlp_ratio=2)
SQUARE = [(0, 0), (1, 0), (0, 1), (1, 1)]


class Oracle:
    """One image [H, W, C] cell by cell; the fields are mutations."""

    def __init__(self, params, shifted=True, masked=True, transposed=False, order=SQUARE, pad_first=False, norm_merged=True, epsilon=1e-5):
        self.params, self.shifted, self.masked, self.transposed = params, shifted, masked, transposed
        self.order, self.pad_first, self.norm_merged, self.epsilon = order, pad_first, norm_merged, epsilon

    def attention(self, y, parameters, heads, window, shift):
        """Attention of a square grid [S, S, C] whose windows begin at `shift`; cells before it form windows of their own."""
        grid, side = y.shape[0], min(window, y.shape[0])
        cells = [divmod(cell, grid) for cell in range(grid * grid)]
        flat = y.reshape(len(cells), -1)
        query, key, value = (random_params.dense(flat, parameters[f"{part}_proj"]).reshape(len(cells), heads, -1) for part in "qkv")
        scores = np.einsum("lhd,mhd->hlm", query, key) / math.sqrt(flat.shape[1] // heads)
        for (a, cell), (b, other) in itertools.product(enumerate(cells), repeat=2):
            places = [((p - shift) % grid, (q - shift) % grid) for p, q in zip(cell, other, strict=True)]
            together = all(p // side == q // side for p, q in places)
            together &= not self.masked or all((p < shift) == (q < shift) for p, q in zip(cell, other, strict=True))
            dy, dx = ((q - p if self.transposed else p - q) + window - 1 for p, q in places)
            scores[:, a, b] += parameters["relative_position_bias"][dy * (2 * window - 1) + dx] if together else -np.inf
        return random_params.dense(np.einsum("hlm,mhd->lhd", random_params.softmax(scores), value).reshape(flat.shape), parameters["out_proj"]).reshape(y.shape)

    def block(self, x, block, heads, window, shifted):
        grid = x.shape[0]
        padding = -grid % min(window, grid)
        if self.pad_first:
            y = random_params.layer_norm(np.pad(x, ((0, padding), (0, padding), (0, 0))), block["norm1"], self.epsilon)
        else:
            y = np.pad(random_params.layer_norm(x, block["norm1"], self.epsilon), ((0, padding), (0, padding), (0, 0)))
        shift = window // 2 if shifted and self.shifted and grid > window else 0
        x = x + self.attention(y, block["attn"], heads, window, shift)[:grid, :grid]
        hidden = random_params.dense(random_params.layer_norm(x, block["norm2"], self.epsilon), block["fc1"])
        return x + random_params.dense(hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))), block["fc2"])

    def merge(self, x, downsample):
        half = -(-x.shape[0] // 2)
        padded = np.zeros((2 * half, 2 * half, x.shape[-1]))
        padded[: x.shape[0], : x.shape[0]] = x
        out = np.zeros((half, half, 4 * x.shape[-1]))
        for row, column in itertools.product(range(half), repeat=2):
            out[row, column] = np.concatenate([padded[2 * row + dy, 2 * column + dx] for dy, dx in self.order])
        norm = downsample["norm"] if self.norm_merged else {"scale": 1.0, "bias": 0.0}
        return random_params.dense(random_params.layer_norm(out, norm, 1e-5), downsample["reduction"])

    def tokens(self, pixels, spec):
        """Returns the last grid's tokens [P, F] after the last LayerNorm."""
        side = -(-pixels.shape[0] // spec.patch_size)
        padded = np.zeros((side * spec.patch_size, side * spec.patch_size, 3))
        padded[: pixels.shape[0], : pixels.shape[1]] = pixels
        x = np.zeros((side, side, spec.width))
        for row, column in itertools.product(range(side), repeat=2):
            patch = padded[row * spec.patch_size : (row + 1) * spec.patch_size, column * spec.patch_size : (column + 1) * spec.patch_size]
            x[row, column] = np.einsum("abc,abco->o", patch, self.params["patch_embedding"]["kernel"]) + self.params["patch_embedding"]["bias"]
        x = random_params.layer_norm(x, self.params["patch_norm"], 1e-5)
        for stage, depth in enumerate(spec.blocks):
            parameters = self.params[f"stage_{stage}"]
            for index in range(depth):
                x = self.block(x, parameters[f"block_{index}"], spec.heads[stage], spec.window, index % 2 == 1)
            x = self.merge(x, parameters["downsample"]) if stage < len(spec.blocks) - 1 else x
        return random_params.layer_norm(x, self.params["final_norm"], self.epsilon).reshape(-1, x.shape[-1])


@pytest.fixture(scope="module")
def tiny():
    """Grids 10, 5, 3 and 2 under a window of 3: padded to 12 and 6, equal to the window, smaller than it."""
    pixels = np.random.default_rng(1).standard_normal((2, 19, 19, 3))
    params = random_params.of(swin.SwinTower(TINY), pixels)
    return pixels, params, random_params.run(swin.SwinTower(TINY), params, pixels)


def test_tower_equals_the_oracle(tiny):
    pixels, params, found = tiny
    tokens = [Oracle(params).tokens(x, TINY) for x in pixels]
    np.testing.assert_allclose(found, np.mean(tokens, axis=1), atol=1e-9, rtol=0)
    first = random_params.run(swin.SwinTower(specs.SwinSpec(**{**vars(TINY), "pool": "first"})), params, pixels)
    np.testing.assert_allclose(first, [token[0] for token in tokens], atol=1e-9, rtol=0)
    assert found.shape == (2, *TINY.features) == (2, 64)
    assert np.abs(first - found).max() > 1e-2


@pytest.mark.parametrize(
    "mutation",
    [
        {"shifted": False},
        {"masked": False},
        {"transposed": True},
        {"order": [(0, 0), (0, 1), (1, 0), (1, 1)]},
        {"pad_first": True},
        {"norm_merged": False},
        {"epsilon": 1e-3},
    ],
    ids=lambda mutation: next(iter(mutation)),
)
def test_tower_differs_from_mutants(tiny, mutation):
    pixels, params, found = tiny
    assert np.abs(found[0] - Oracle(params, **mutation).tokens(pixels[0], TINY).mean(axis=0)).max() > 1e-4


@pytest.mark.parametrize(("grid", "shifted"), [(8, True), (8, False), (7, True), (4, True), (3, True)])
def test_one_block_equals_the_oracle(grid, shifted):
    """Window 4: two by two windows, a padded grid, a grid as large as the window and a smaller one."""
    spec = specs.SwinSpec(image_size=8, pool="mean", blocks=(2,), heads=(2,), width=8, window=4)
    x = np.random.default_rng(2).standard_normal((2, grid, grid, 8))
    module = swin.Block(spec, 2, shifted)
    params = random_params.of(module, x)
    found = random_params.run(module, params, x)
    np.testing.assert_allclose(found, [Oracle(params).block(y, params, 2, 4, shifted) for y in x], atol=1e-9, rtol=0)
    difference = np.abs(found[0] - Oracle(params, shifted=False).block(x[0], params, 2, 4, shifted)).max()
    assert difference > 1e-2 if shifted and grid > 4 else difference < 1e-9


def test_merging_order():
    x = np.arange(3 * 3 * 2, dtype=np.float32).reshape(1, 3, 3, 2)
    merged = np.asarray(swin.merge(jnp.asarray(x)))
    assert merged.shape == (1, 2, 2, 8)
    np.testing.assert_array_equal(merged[0, 0, 0], np.concatenate([x[0, 0, 0], x[0, 1, 0], x[0, 0, 1], x[0, 1, 1]]))
    np.testing.assert_array_equal(merged[0, 1, 1], [*x[0, 2, 2], 0, 0, 0, 0, 0, 0])


def test_windows_and_back():
    grid = np.random.default_rng(3).standard_normal((2, 6, 9, 4))
    parts = swin.windows(grid, 3)
    assert parts.shape == (2 * 6, 9, 4)
    np.testing.assert_array_equal(parts[1], grid[0, :3, 3:6].reshape(9, 4))
    np.testing.assert_array_equal(parts[3], grid[0, 3:, :3].reshape(9, 4))
    np.testing.assert_array_equal(swin.grid_of(jnp.asarray(parts), 3, 6, 9), grid.astype(np.float32))


def test_relative_positions():
    index = swin.relative_position_index(7, 7)
    assert index.shape == (49, 49)
    assert set(index.ravel()) == set(range(169))
    assert (index.diagonal() == 84).all()
    assert (index[0, 1], index[1, 0], index[0, 7], index[7, 0]) == (83, 85, 71, 97)
    small = swin.relative_position_index(2, 3)
    np.testing.assert_array_equal(small, swin.relative_position_index(3, 3)[np.ix_([0, 1, 3, 4], [0, 1, 3, 4])])


def test_shift_mask_separates_what_was_apart():
    mask = swin.shift_mask(6, 6, 3, 1)
    assert mask.shape == (4, 9, 9)
    assert set(np.unique(mask)) == {swin.MASKED, 0.0}
    assert not mask[0].any()
    assert [int((part == 0).sum()) for part in mask] == [81, 45, 45, 25]


def test_a_row_does_not_depend_on_its_batch(tiny):
    pixels, params, found = tiny
    neighbour = np.stack([pixels[0], 10.0 * pixels[0][::-1]])
    np.testing.assert_allclose(random_params.run(swin.SwinTower(TINY), params, neighbour)[0], found[0], atol=1e-12)


def test_published_size_and_names():
    shapes = jax.eval_shape(swin.SwinTower(specs.SwinSpec(224, "first")).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    found = random_params.paths(shapes["params"])
    expected = {"patch_embedding/kernel": (4, 4, 3, 96), "patch_embedding/bias": (96,), "patch_norm/scale": (96,), "patch_norm/bias": (96,)}
    expected |= {"final_norm/scale": (768,), "final_norm/bias": (768,)}
    for stage, (depth, heads) in enumerate(zip((2, 2, 6, 2), (3, 6, 12, 24), strict=True)):
        width = 96 * 2**stage
        block = {f"{norm}/{name}": (width,) for norm in ("norm1", "norm2") for name in ("scale", "bias")} | {"attn/relative_position_bias": (169, heads)}
        for layer, fan_in, fan_out in (*((f"attn/{part}_proj", width, width) for part in ("q", "k", "v", "out")), ("fc1", width, 4 * width)):
            block |= {f"{layer}/kernel": (fan_in, fan_out), f"{layer}/bias": (fan_out,)}
        block |= {"fc2/kernel": (4 * width, width), "fc2/bias": (width,)}
        expected |= {f"stage_{stage}/block_{index}/{path}": shape for index in range(depth) for path, shape in block.items()}
        if stage < 3:
            expected |= {f"stage_{stage}/downsample/norm/{name}": (4 * width,) for name in ("scale", "bias")}
            expected |= {f"stage_{stage}/downsample/reduction/kernel": (4 * width, 2 * width)}
    assert found == expected
    assert len(found) == 219
    assert sum(int(np.prod(shape)) for shape in found.values()) == 27_519_354


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": "cls"}, r"^pool in Swin specification: expected first or mean, found 'cls'(\n|$)"),
        ({"heads": (2, 4, 4)}, r"^heads in Swin specification: expected a divisor of each of the widths \[8, 16, 32, 64\], found \[2, 4, 4\](\n|$)"),
        ({"heads": (3, 4, 4, 8)}, r"^heads in Swin specification: expected a divisor of each of the widths .*, found \[3, 4, 4, 8\](\n|$)"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(change, message):
    with pytest.raises(errors.DataError, match=message):
        random_params.of(swin.SwinTower(specs.SwinSpec(**{**vars(TINY), **change})), np.zeros((1, 19, 19, 3)))
