"""The Flax towers against a plain NumPy oracle, and the properties that retrieval relies on."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clip

from relink_jax import errors, heads
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
    for mutant in (tiny_clip.Oracle(tensors, act=tiny_clip.gelu), tiny_clip.Oracle(tensors, epsilon=1e-4)):
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


ACTS = {"quick_gelu": tiny_clip.quick_gelu, "gelu": tiny_clip.gelu, "gelu_tanh": tiny_clip.gelu_tanh}


def test_activations_equal_their_definitions_in_float64():
    x = np.concatenate([np.linspace(-9, 9, 1801), [-60.0, 60.0, 1e-8, 0.0]])
    found = {name: np.asarray(blocks.activation(name)(jnp.asarray(x, jnp.float32)), np.float64) for name in blocks.ACTIVATIONS}
    assert found.keys() == {"quick_gelu", "gelu"}
    for name, values in found.items():
        np.testing.assert_allclose(values, ACTS[name](x), atol=1e-6)
        for other in ACTS.keys() - {name}:
            assert np.abs(values - ACTS[other](x)).max() > 4e-4
    worked = [-1, 0, 1, 2]
    np.testing.assert_allclose(blocks.activation("gelu")(jnp.asarray(worked, jnp.float32)), [-0.15865525, 0, 0.84134475, 1.9544997], atol=1e-6)
    np.testing.assert_allclose(blocks.activation("quick_gelu")(jnp.asarray(worked, jnp.float32)), [-0.15420423, 0, 0.84579577, 1.9356586], atol=1e-6)


@pytest.mark.parametrize(
    ("vision", "report"),
    [
        ({"hidden_act": "gelu"}, {"hidden_act": "quick_gelu"}),
        ({"hidden_act": "quick_gelu"}, {"hidden_act": "gelu"}),
        ({"layer_norm_eps": 0.03}, {"layer_norm_eps": 1e-5}),
        ({"layer_norm_eps": 1e-5}, {"layer_norm_eps": 0.03}),
    ],
)
def test_each_tower_follows_its_own_config(tmp_path, vision, report):
    spec = zoo.from_directory(tiny_clip.write(tmp_path / "tiny", vision=vision, **report))
    converted, tensors = convert.convert(spec), tiny_clip.load(spec.directory)
    draw = np.random.default_rng(7)
    pixels, ids = draw.standard_normal((2, 32, 32, 3)).astype(np.float32), _ids(spec, draw, np.array([5, 20]))

    def oracle(fields, **changes):
        return tiny_clip.Oracle(tensors, **{"act": ACTS[fields.get("hidden_act", "quick_gelu")], "epsilon": fields.get("layer_norm_eps", 1e-5), **changes})

    for fields, found, side in ((vision, _image_features(spec, converted, pixels), "image"), (report, _text_features(spec, converted, ids), "text")):

        def expected(model, side=side):
            return [model.image(x) for x in pixels] if side == "image" else [model.text(row, end) for row, end in zip(ids, (5, 20), strict=True)]

        np.testing.assert_allclose(found, expected(oracle(fields)), atol=5e-6)
        mutants = [oracle(fields, act=act) for name, act in ACTS.items() if name != fields.get("hidden_act", "quick_gelu")]
        mutants.append(oracle(fields, epsilon=1e-5 if fields.get("layer_norm_eps") == 0.03 else 0.03))
        assert min(np.abs(found - np.array(expected(mutant))).max() for mutant in mutants) > 1e-4


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


def asked(function, *arguments):
    """Returns (precision of every product of a traced function, number of products)."""
    text = str(jax.make_jaxpr(function)(*arguments))
    return re.findall(r"precision=(\(.*?\)|\w[\w.]*)", text), len(re.findall(r"= (?:dot_general|conv_general_dilated)\[", text))


def test_every_product_of_towers_and_heads_asks_for_full_precision():
    spec = zoo.get_vlm("phantom-3-specialist")
    params = jax.eval_shape(lambda key: convert.init(spec, key), jax.random.key(0))
    side = spec.image.image_size
    for found, products in (
        asked(lambda p, x: convert.image_tower(spec).apply({"params": p}, x), params["image"], jnp.zeros((1, side, side, 3))),
        asked(lambda p, x: convert.text_tower(spec).apply({"params": p}, x), params["text"], jnp.zeros((1, spec.text.positions), jnp.int32)),
        asked(heads.project, {"kernel": jnp.zeros((4, 3))}, jnp.zeros((2, 4))),
    ):
        assert products == len(found) > 0
        assert {one for one in found if "HIGHEST" not in one} == set()
