"""ResNet towers against direct loops in NumPy, and against the mutations that a wrong padding, stride or statistic would be."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_params

from relink_jax import errors
from relink_jax.encoders import resnet, specs, temporal

TINY = specs.ResNetSpec(image_size=16, blocks=(1, 2), width=4, pool="map")
JOINT = specs.ResNetSpec(image_size=16, blocks=(1, 1), width=4, pool="map", joint_width=8, pooler_blocks=2, pooler_heads=2)


class Oracle:
    """One image [H, W, C] through plain loops; the fields are mutations."""

    def __init__(self, params, epsilon=1e-5, same=False, stride_first=False, swapped=False, relu_last=True, order=(0, 1)):
        self.params, self.epsilon, self.same, self.stride_first = params, epsilon, same, stride_first
        self.swapped, self.relu_last, self.order = swapped, relu_last, order

    def windows(self, x, kernel, stride, border):
        """Yields the output's place and the kernel's view of the padded input."""
        size = -(-x.shape[0] // stride)
        total = max((size - 1) * stride + kernel - x.shape[0], 0)
        before, after = (total // 2, total - total // 2) if self.same else (kernel // 2, kernel // 2)
        padded = np.pad(x, ((before, after), (before, after), (0, 0)), constant_values=border)
        for row, column in itertools.product(range(size), repeat=2):
            yield row, column, size, padded[row * stride : row * stride + kernel, column * stride : column * stride + kernel]

    def conv(self, x, kernel, stride):
        cells = list(self.windows(x, kernel.shape[0], stride, 0.0))
        out = np.zeros((cells[0][2],) * 2 + kernel.shape[-1:])
        for row, column, _, view in cells:
            out[row, column] = np.einsum("abc,abco->o", view, kernel)
        return out

    def max_pool(self, x, border=-np.inf):
        cells = list(self.windows(x, 3, 2, border))
        out = np.zeros((cells[0][2],) * 2 + x.shape[-1:])
        for row, column, _, view in cells:
            out[row, column] = view.max((0, 1))
        return out

    def norm(self, x, bn):
        mean, var = (bn["var"], np.abs(bn["mean"])) if self.swapped else (bn["mean"], bn["var"])
        return (x - mean) / np.sqrt(var + self.epsilon) * bn["scale"] + bn["bias"]

    def bottleneck(self, x, block, stride):
        strides = (stride, 1, 1) if self.stride_first else (1, stride, 1)
        y = x
        for index in (1, 2, 3):
            y = self.norm(self.conv(y, block[f"conv{index}"]["kernel"], strides[index - 1]), block[f"bn{index}"])
            y = np.maximum(y, 0) if index < 3 else y
        if "downsample" in block:
            x = self.norm(self.conv(x, block["downsample"]["conv"]["kernel"], stride), block["downsample"]["bn"])
        return np.maximum(x + y, 0) if self.relu_last else x + np.maximum(y, 0)

    def patches(self, x, depths):
        x = self.max_pool(np.maximum(self.norm(self.conv(x, self.params["stem"]["conv"]["kernel"], 2), self.params["stem"]["bn"]), 0))
        for stage, depth in enumerate(depths, start=1):
            for block in range(depth):
                x = self.bottleneck(x, self.params[f"stage_{stage}"][f"block_{block}"], 2 if stage > 1 and block == 0 else 1)
        return x.transpose(*self.order, 2).reshape(-1, x.shape[-1])


@pytest.fixture(scope="module")
def tiny():
    pixels = np.random.default_rng(1).standard_normal((2, 16, 16, 3))
    params = random_params.of(resnet.ResNetTower(TINY), pixels)
    return pixels, params, random_params.run(resnet.ResNetTower(TINY), params, pixels)


def test_map_equals_the_oracle(tiny):
    pixels, params, found = tiny
    assert found.shape == (2, *TINY.features) == (2, 4, 32)
    np.testing.assert_allclose(found, [Oracle(params).patches(x, TINY.blocks) for x in pixels], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "mutation",
    [{"same": True}, {"stride_first": True}, {"swapped": True}, {"relu_last": False}, {"epsilon": 1e-3}, {"order": (1, 0)}],
    ids=lambda mutation: next(iter(mutation)),
)
def test_map_differs_from_mutants(tiny, mutation):
    pixels, params, found = tiny
    assert np.abs(found[0] - Oracle(params, **mutation).patches(pixels[0], TINY.blocks)).max() > 1e-3


def test_mean_pool_is_the_mean_of_the_map(tiny):
    pixels, params, found = tiny
    spec = specs.ResNetSpec(image_size=16, blocks=TINY.blocks, width=4)
    pooled = random_params.run(resnet.ResNetTower(spec), params, pixels)
    assert pooled.shape == (2, *spec.features)
    np.testing.assert_allclose(pooled, found.mean(axis=1), atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_bottleneck_equals_the_oracle(stride):
    x = np.random.default_rng(2).standard_normal((1, 8, 8, 16 if stride == 1 else 6))
    module = resnet.Bottleneck(4, stride, 1e-5)
    params = random_params.of(module, x)
    assert ("downsample" in params) == (stride == 2)
    np.testing.assert_allclose(random_params.run(module, params, x)[0], Oracle(params).bottleneck(x[0], params, stride), atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", [7, 8])
def test_max_pool_pads_both_sides_with_minus_infinity(size):
    x = -1.0 - np.random.default_rng(3).random((1, size, size, 2))
    found = np.asarray(resnet.max_pool(jnp.asarray(x, jnp.float32)))[0]
    np.testing.assert_allclose(found, Oracle({}).max_pool(x[0]), atol=1e-6)
    assert found.max() < 0
    assert np.abs(found - Oracle({}).max_pool(x[0], border=0.0)).max() > 0.5
    if size % 2 == 0:
        assert np.abs(found - Oracle({}, same=True).max_pool(x[0])).max() > 1e-3


def _bilinear(image, side, half_pixel=False):
    """Interpolates point by point."""
    out = np.zeros((side, side, image.shape[-1]))
    for row, column in itertools.product(range(side), repeat=2):
        places = [(i + 0.5) * n / side - 0.5 if half_pixel else i * (n - 1) / (side - 1) for i, n in ((row, image.shape[0]), (column, image.shape[1]))]
        (y, x), (height, width) = np.clip(places, 0, None), image.shape[:2]
        top, left = min(int(y), height - 1), min(int(x), width - 1)
        bottom, right, v, u = min(top + 1, height - 1), min(left + 1, width - 1), y - top, x - left
        upper, lower = ((1 - u) * image[r, left] + u * image[r, right] for r in (top, bottom))
        out[row, column] = (1 - v) * upper + v * lower
    return out


@pytest.mark.parametrize(("shape", "side"), [((8, 8), 11), ((6, 9), 13), ((8, 8), 5), ((8, 8), 8)])
def test_upsampling_keeps_the_corners(shape, side):
    image = np.random.default_rng(4).standard_normal((*shape, 3))
    with jax.enable_x64(True):
        found = np.asarray(resnet.resize(jnp.asarray(image[None]), side))[0]
    np.testing.assert_allclose(found, _bilinear(image, side), atol=1e-12)
    np.testing.assert_allclose(found[[0, 0, -1, -1], [0, -1, 0, -1]], image[[0, 0, -1, -1], [0, -1, 0, -1]], atol=1e-12)
    if shape != (side, side):
        assert np.abs(found - _bilinear(image, side, half_pixel=True)).max() > 1e-2


def test_the_tower_upsamples_its_own_input():
    plain = specs.ResNetSpec(image_size=16, blocks=(1, 1), width=4)
    small = specs.ResNetSpec(image_size=12, blocks=(1, 1), width=4, resize=16)
    pixels = np.random.default_rng(5).standard_normal((1, 12, 12, 3))
    params = random_params.of(resnet.ResNetTower(small), pixels)
    expected = random_params.run(resnet.ResNetTower(plain), params, _bilinear(pixels[0], 16)[None])
    np.testing.assert_allclose(random_params.run(resnet.ResNetTower(small), params, pixels), expected, atol=1e-10)
    assert specs.ResNetSpec(image_size=224, resize=299).grid == 10


def test_a_row_does_not_depend_on_its_batch(tiny):
    pixels, params, found = tiny
    neighbour = np.stack([pixels[0], 10.0 * pixels[0][::-1]])
    np.testing.assert_allclose(random_params.run(resnet.ResNetTower(TINY), params, neighbour)[0], found[0], atol=1e-12)


@pytest.fixture(scope="module")
def joint():
    pixels, prior = np.random.default_rng(6).standard_normal((2, 2, 16, 16, 3))
    params = random_params.of(resnet.ResNetTower(JOINT), pixels)
    return pixels, prior, params


def test_joint_map_is_a_linear_map_of_each_patch(joint):
    pixels, _, params = joint
    found = random_params.run(resnet.ResNetTower(JOINT), params, pixels)
    assert found.shape == (2, *JOINT.features) == (2, 4, 8)
    patches = np.stack([Oracle(params).patches(x, JOINT.blocks) for x in pixels])
    np.testing.assert_allclose(found, patches @ params["backbone_to_vit"]["kernel"][0, 0], atol=1e-9)


def test_a_prior_image_appends_the_difference_half(joint):
    pixels, prior, params = joint
    tower = resnet.ResNetTower(JOINT)
    single, earlier, both = (random_params.run(tower, params, *inputs) for inputs in ((pixels,), (prior,), (pixels, prior)))
    assert both.shape == (2, 4, 16)
    np.testing.assert_allclose(both[..., :8], single, atol=1e-10)
    pooler = temporal.TemporalPooler(JOINT.pooler_blocks, JOINT.pooler_heads)
    np.testing.assert_allclose(both[..., 8:], random_params.run(pooler, params["pooler"], single, earlier), atol=1e-10)
    assert np.abs(both - random_params.run(tower, params, prior, pixels)).max() > 1e-2
    assert np.abs(both[..., 8:] - random_params.run(pooler, params["pooler"], earlier, single)).max() > 1e-2


def test_parameters_of_the_pooler_exist_whether_or_not_a_prior_image_was_there(joint):
    pixels, prior, params = joint
    tower = resnet.ResNetTower(JOINT)
    assert random_params.paths(params) == random_params.paths(random_params.of(tower, pixels, prior))
    pooler = {path: shape for path, shape in random_params.paths(params).items() if path.startswith("pooler/")}
    block = {f"{part}_proj/kernel": (8, 8) for part in ("attn/q", "attn/k", "attn/v", "attn/out")} | {"attn/out_proj/bias": (8,)}
    block |= {f"{layer}/{name}": shape for layer in ("fc1", "fc2") for name, shape in (("kernel", (8, 8)), ("bias", (8,)))}
    block |= {f"norm{index}/{name}": (8,) for index in (1, 2) for name in ("scale", "bias")}
    expected = {f"pooler/block_{index}/{path}": shape for index in range(2) for path, shape in block.items()}
    assert pooler == expected | {"pooler/type_embedding": (2, 8), "pooler/norm_post/scale": (8,), "pooler/norm_post/bias": (8,)}


def test_published_sizes():
    def sizes(spec):
        shapes = jax.eval_shape(resnet.ResNetTower(spec).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))["params"]
        return {path: int(np.prod(shape)) for path, shape in random_params.paths(shapes).items()}

    plain, joint = sizes(specs.ResNetSpec(image_size=224)), sizes(specs.ResNetSpec(image_size=448, pool="map", joint_width=256))
    statistics = sum(size for path, size in plain.items() if path.endswith(("/mean", "/var")))
    assert (len(plain), sum(plain.values()) - statistics, statistics) == (53 + 4 * 53, 23_508_032, 2 * 26_560)
    # keys_dump: 1,793,153 beside the ResNet, of which 82,561 in the projector (with its batch counter) and 256 in the missing prior's embedding
    assert sum(joint.values()) - sum(plain.values()) == 1_793_153 - 82_561 - 256
    assert [specs.ResNetSpec(size).grid for size in (224, 299, 448, 480)] == [7, 10, 14, 15]


def test_names_are_those_of_the_plan():
    found = random_params.paths(random_params.of(resnet.ResNetTower(TINY), np.zeros((1, 16, 16, 3))))
    assert found["stem/conv/kernel"] == (7, 7, 3, 4)
    assert found["stage_1/block_0/conv2/kernel"] == (3, 3, 4, 4)
    assert found["stage_2/block_0/downsample/conv/kernel"] == (1, 1, 16, 32)
    assert found["stage_2/block_1/conv3/kernel"] == (1, 1, 8, 32)
    assert {path for path in found if path.startswith("stage_2/block_0/downsample/bn/")} == {
        f"stage_2/block_0/downsample/bn/{name}" for name in ("scale", "bias", "mean", "var")
    }
    assert not any(path.startswith(("pooler", "backbone_to_vit", "stage_0", "stage_2/block_1/downsample")) for path in found)


def test_what_cannot_be_is_refused_in_one_sentence(joint):
    pixels, prior, params = joint
    plain = resnet.ResNetTower(TINY)
    with pytest.raises(errors.UsageError, match=r"^prior image in image tower: expected none, since the model compares no images, found shape"):
        plain.init(jax.random.key(0), pixels, prior)
    with pytest.raises(errors.UsageError, match=r"^prior image in image tower: expected shape \(2, 16, 16, 3\), found shape \(1, 16, 16, 3\)(\n|$)"):
        resnet.ResNetTower(JOINT).apply({"params": params}, pixels, prior[:1])
    with pytest.raises(errors.DataError, match=r"^pool in ResNet specification: expected mean or map, found 'max'(\n|$)"):
        resnet.ResNetTower(specs.ResNetSpec(image_size=16, pool="max")).init(jax.random.key(0), pixels)
