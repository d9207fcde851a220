"""The Flax towers against a plain NumPy oracle, and the properties that retrieval relies on."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clip

from relink_jax import errors
from relink_jax.encoders import blocks, convert, specs, text, zoo


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    directory = tiny_clip.write(tmp_path_factory.mktemp("towers") / "tiny")
    spec = zoo.from_directory(directory)
    return spec, convert.convert(spec), tiny_clip.load(directory)


def _image_features(spec, converted, pixels):
    return np.asarray(convert.image_features(spec, converted.params["image"], jnp.asarray(pixels)))


def _text_features(spec, converted, ids):
    return np.asarray(convert.text_features(spec, converted.params["text"], jnp.asarray(ids)))


def _ids(spec, draw, lengths):
    """Ids with the end token at the given positions and junk after it."""
    ids = draw.integers(0, spec.text.vocab_size - 1, (len(lengths), spec.text.positions)).astype(np.int32)
    ids[np.arange(len(lengths)), lengths] = spec.text.vocab_size - 1
    return ids


def test_image_tower_equals_the_oracle_and_not_its_mutants(tiny):
    spec, converted, tensors = tiny
    pixels = np.random.default_rng(1).standard_normal((3, 32, 32, 3)).astype(np.float32)
    found = _image_features(spec, converted, pixels)
    np.testing.assert_allclose(found, [tiny_clip.Oracle(tensors).image(x) for x in pixels], atol=5e-6)
    erf = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))
    for mutant in (tiny_clip.Oracle(tensors, act=erf), tiny_clip.Oracle(tensors, epsilon=1e-4)):
        assert np.abs(found - [mutant.image(x) for x in pixels]).max() > 2e-5


def test_text_tower_equals_the_oracle(tiny):
    spec, converted, tensors = tiny
    lengths = np.array([1, 7, 23])
    ids = _ids(spec, np.random.default_rng(2), lengths)
    oracle = tiny_clip.Oracle(tensors)
    np.testing.assert_allclose(_text_features(spec, converted, ids), [oracle.text(row, end) for row, end in zip(ids, lengths, strict=True)], atol=5e-6)


def test_tokens_after_the_end_token_change_nothing(tiny):
    spec, converted, _ = tiny
    draw = np.random.default_rng(3)
    ids = _ids(spec, draw, np.array([4, 9]))
    other = ids.copy()
    other[0, 5:], other[1, 10:] = draw.integers(0, 100, 19), draw.integers(0, 100, 14)
    np.testing.assert_array_equal(_text_features(spec, converted, ids), _text_features(spec, converted, other))
    np.testing.assert_allclose(_text_features(spec, converted, ids[:, :12]), _text_features(spec, converted, ids), atol=1e-6)
    ids[0, 2] = (ids[0, 2] + 1) % 100
    assert np.abs(_text_features(spec, converted, ids)[0] - _text_features(spec, converted, other)[0]).max() > 1e-3


def test_both_forms_of_the_end_of_text_rule():
    ids = jnp.asarray([[9, 3, 2, 8, 9, 9], [1, 5, 5, 2, 2, 0]])
    np.testing.assert_array_equal(text.eos_position(ids, text.LEGACY_EOS), [0, 1])
    np.testing.assert_array_equal(text.eos_position(ids, 5), [0, 1])
    np.testing.assert_array_equal(text.eos_position(ids, 9), [0, 0])
    np.testing.assert_array_equal(text.eos_position(ids[1:], 0), [5])


def test_legacy_configs_pool_the_largest_id(tmp_path):
    legacy, current = (zoo.from_directory(tiny_clip.write(tmp_path / name, **extra)) for name, extra in (("legacy", {"eos_token_id": 2}), ("current", {})))
    ids = _ids(current, np.random.default_rng(4), np.array([6, 11]))
    np.testing.assert_array_equal(_text_features(legacy, convert.convert(legacy), ids), _text_features(current, convert.convert(current), ids))


def test_a_row_does_not_depend_on_its_batch(tiny):
    spec, converted, _ = tiny
    pixels = np.random.default_rng(5).standard_normal((5, 32, 32, 3)).astype(np.float32)
    together = _image_features(spec, converted, pixels)
    alone = np.concatenate([_image_features(spec, converted, pixels[row : row + 1]) for row in range(5)])
    np.testing.assert_allclose(together, alone, atol=2e-6)


def test_activation_must_be_named_and_known():
    with pytest.raises(TypeError):
        specs.StackSpec(width=8, layers=1, heads=2, mlp_width=8, epsilon=1e-5)
    with pytest.raises(errors.DataError, match="quick_gelu or gelu, found 'relu'"):
        blocks.activation("relu")


def test_layer_norm_is_stable_far_from_zero():
    x = jnp.asarray(1000 + np.random.default_rng(6).standard_normal((4, 64)), jnp.float32)
    norm = blocks.layer_norm(1e-5, "norm")
    found = norm.apply(norm.init(jax.random.key(0), x), x)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-3)
