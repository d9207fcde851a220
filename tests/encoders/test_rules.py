"""The rule tables read the same in both directions."""

import dataclasses

import numpy as np
import pytest
import tiny_clip

from relink_jax import errors
from relink_jax.encoders import rules
from relink_jax.encoders.layouts import HF_CLIP

KEYS = tuple(tiny_clip.state(20, 0))


def test_every_key_goes_to_one_path_and_back():
    places, ignored = HF_CLIP.assign(KEYS)
    assert not ignored
    assert sorted(places) == sorted(KEYS)
    for key, (rule, paths) in places.items():
        assert [HF_CLIP.source_key(path) for path in paths] == [(key, rule)]


@pytest.mark.parametrize(
    ("operation", "source", "target"),
    [
        (rules.IDENTITY, (2, 3, 5), (2, 3, 5)),
        (rules.LINEAR, (10, 12), (12, 10)),
        (rules.KERNEL, (10, 12), (10, 12)),
        (rules.CONV, (2, 3, 4, 5), (4, 5, 3, 2)),
        (rules.POINT, (2, 3, 1, 1), (3, 2)),
        (rules.TOKEN, (1, 1, 5), (5,)),
        (rules.BATCH, (1, 4, 5), (4, 5)),
        (rules.MIDDLE, (2, 1, 5), (2, 5)),
        (rules.CHANNELS, (1, 5, 1, 1), (5,)),
        (rules.SCALAR, (1,), ()),
    ],
)
def test_operations_are_inverses(operation, source, target):
    array = np.arange(np.prod(source)).reshape(source)
    changed = operation.forward(array)
    assert changed.shape == target
    np.testing.assert_array_equal(operation.backward(changed), array)
    assert rules.Rule("key", "path", operation).source_shape(target) == source


@pytest.mark.parametrize(("operation", "shape"), [(rules.POINT, (2, 3, 3, 3)), (rules.TOKEN, (2, 1, 5)), (rules.SCALAR, (2,)), (rules.CHANNELS, (1, 5, 1, 2))])
def test_an_axis_to_drop_must_have_length_one(operation, shape):
    with pytest.raises(errors.DataError, match=r"tensor shape in checkpoint key 'key': expected .*, found \["):
        rules.Rule("key", "path", operation).convert("key", np.zeros(shape))


THIRDS = rules.Rule("layer.{layer}.in_proj_weight", "block_{layer}/{qkv}_proj/kernel", rules.LINEAR)


def test_one_tensor_fills_three_places_and_comes_back():
    array = np.arange(24).reshape(6, 4)
    assert THIRDS.to_targets("layer.3.in_proj_weight") == ("block_3/q_proj/kernel", "block_3/k_proj/kernel", "block_3/v_proj/kernel")
    assert {THIRDS.to_source(f"block_3/{part}_proj/kernel") for part in "qkv"} == {"layer.3.in_proj_weight"}
    assert THIRDS.to_source("block_3/out_proj/kernel") is None
    parts = THIRDS.convert("key", array)
    np.testing.assert_array_equal(parts[1], array[2:4].T)
    np.testing.assert_array_equal(THIRDS.export(parts), array)
    assert THIRDS.source_shape((4, 2)) == (6, 4)
    with pytest.raises(errors.DataError, match=r"expected a first axis divisible by 3, found \[7, 4\]"):
        THIRDS.convert("key", np.zeros((7, 4)))


def test_wrappers_and_old_spellings_are_undone():
    assert rules.canonical(["module.a", "module.b"]) == {"a": "module.a", "b": "module.b"}
    assert rules.canonical(["module.a", "b"]) == {"module.a": "module.a", "b": "b"}
    assert rules.canonical(["gloria.x.gloria.a", "gloria.b"]) == {"a": "gloria.x.gloria.a", "b": "gloria.b"}
    assert rules.canonical(["e.LayerNorm.gamma", "e.LayerNorm.beta", "gamma"]) == {
        "e.LayerNorm.weight": "e.LayerNorm.gamma",
        "e.LayerNorm.bias": "e.LayerNorm.beta",
        "gamma": "gamma",
    }
    with pytest.raises(errors.DataError, match=r"doubled key in checkpoint: expected one key 'a', found 'a' and 'gloria.a'"):
        rules.canonical(["a", "gloria.a"])


def test_convolution_order():
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert rules.CONV.forward(array).shape == (4, 5, 3, 2)
    assert rules.CONV.forward(array)[3, 4, 2, 1] == array[1, 2, 3, 4]


@pytest.mark.parametrize(
    "key", ["vision_model.encoder.layers.01.mlp.fc1.weight", "xvision_model.post_layernorm.bias", "logit_scale2", "vision_model-post_layernorm.bias"]
)
def test_near_misses_are_unexpected(key):
    with pytest.raises(errors.DataError, match=r"unexpected keys"):
        HF_CLIP.assign([*KEYS, key])


def test_two_rules_for_one_key_are_ambiguous():
    twice = dataclasses.replace(HF_CLIP, rules=(*HF_CLIP.rules, rules.Rule("logit_scale", "scale", rules.IDENTITY)))
    with pytest.raises(errors.DataError, match=r"ambiguous key .*'logit_scale'.* found 2"):
        twice.assign(KEYS)


def test_a_path_no_rule_makes_is_refused():
    with pytest.raises(errors.DataError, match=r"parameter without a place"):
        HF_CLIP.source_key("image/adapter/kernel")


def test_the_digest_follows_the_table():
    shorter = dataclasses.replace(HF_CLIP, rules=HF_CLIP.rules[1:])
    assert shorter.digest() != HF_CLIP.digest()
