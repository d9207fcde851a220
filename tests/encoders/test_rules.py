"""The rule tables read the same in both directions."""

import numpy as np
import pytest
import tiny_clip

from relink_jax import errors
from relink_jax.encoders import rules

KEYS = tuple(tiny_clip.state(20, 0))


def test_every_key_goes_to_one_path_and_back():
    assigned, ignored = rules.HF_CLIP.assign(KEYS)
    assert not ignored
    assert sorted(key for key, _ in assigned.values()) == sorted(KEYS)
    for path, (key, rule) in assigned.items():
        assert rules.HF_CLIP.source_key(path) == (key, rule)


@pytest.mark.parametrize("operation", [rules.IDENTITY, rules.LINEAR, rules.CONV])
def test_operations_are_inverses(operation):
    array = np.arange(2 * 3 * 4 * 5).reshape((2, 3, 4, 5) if operation is rules.CONV else (10, 12))
    np.testing.assert_array_equal(operation.backward(operation.forward(array)), array)
    np.testing.assert_array_equal(operation.forward(operation.backward(array)), array)


def test_convolution_order():
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert rules.CONV.forward(array).shape == (4, 5, 3, 2)
    assert rules.CONV.forward(array)[3, 4, 2, 1] == array[1, 2, 3, 4]


@pytest.mark.parametrize(
    "key", ["vision_model.encoder.layers.01.mlp.fc1.weight", "xvision_model.post_layernorm.bias", "logit_scale2", "vision_model-post_layernorm.bias"]
)
def test_near_misses_are_unexpected(key):
    with pytest.raises(errors.DataError, match=r"unexpected keys"):
        rules.HF_CLIP.assign([*KEYS, key])


def test_two_rules_for_one_key_are_ambiguous():
    twice = rules.Dialect("twice", "clip", frozenset(), (*rules.HF_CLIP.rules, rules.Rule("logit_scale", "scale", rules.IDENTITY)), ())
    with pytest.raises(errors.DataError, match=r"ambiguous key .*'logit_scale'.* found 2"):
        twice.assign(KEYS)


def test_a_path_no_rule_makes_is_refused():
    with pytest.raises(errors.DataError, match=r"parameter without a place"):
        rules.HF_CLIP.source_key("image/adapter/kernel")


def test_the_digest_follows_the_table():
    shorter = rules.Dialect("hf-clip", "clip", rules.HF_CLIP.fingerprint, rules.HF_CLIP.rules[1:], rules.HF_CLIP.ignored)
    assert shorter.digest() != rules.HF_CLIP.digest()


def test_ignored_keys_have_reasons():
    assert all(len(entry.reason) > 20 for dialect in rules.DIALECTS for entry in dialect.ignored)
