"""Every draw derives from one secret, purpose and step: the same when asked for again, unlike any other, and never shown."""

import itertools

import jax
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.privacy import randomness


def test_a_draw_is_a_function_of_secret_purpose_and_step():
    secret = randomness.Secret(bytes(range(32)))
    again = randomness.Secret(bytes(range(32)))
    assert secret.generator("batch", 3).random() == again.generator("batch", 3).random()
    np.testing.assert_array_equal(jax.random.key_data(secret.key("noise", 3)), jax.random.key_data(again.key("noise", 3)))


def test_draws_of_other_secrets_purposes_and_steps_differ():
    secrets = [randomness.Secret(bytes([first]) + bytes(31)) for first in range(3)]
    draws = {one.generator(purpose, step).bytes(8) for one, purpose, step in itertools.product(secrets, ("batch", "noise"), range(200))}
    assert len(draws) == 3 * 2 * 200
    keys = {np.asarray(jax.random.key_data(one.key("noise", step))).tobytes() for one, step in itertools.product(secrets, range(200))}
    assert len(keys) == 3 * 200


def test_every_bit_of_the_secret_counts_and_all_64_bits_of_a_key_are_used():
    base = randomness.Secret(bytes(32))
    for bit in (0, 37, 255):
        flipped = bytearray(32)
        flipped[bit // 8] ^= 1 << bit % 8
        other = randomness.Secret(bytes(flipped))
        assert base.generator("batch", 0).bytes(8) != other.generator("batch", 0).bytes(8)
    bits = np.array([np.asarray(jax.random.key_data(base.key("noise", step))) for step in range(300)], np.uint32)
    shares = np.unpackbits(bits.view(np.uint8), axis=1).mean(axis=0)
    assert bits.shape == (300, 2)
    assert np.abs(shares - 0.5).max() < 5 * 0.5 / np.sqrt(300)


def test_a_fresh_secret_is_operating_system_entropy_and_is_not_shown(monkeypatch):
    first, second = randomness.fresh(), randomness.fresh()
    assert first.seed != second.seed
    assert not first.disclosed
    assert first.seed.hex() not in repr(first)
    assert repr(first.seed)[2:10] not in repr(first)
    seeded = randomness.fresh(test_seed=1)
    assert seeded.disclosed
    assert seeded == randomness.fresh(test_seed=1)
    asked = []
    monkeypatch.setattr(randomness.secrets, "token_bytes", lambda size: asked.append(size) or bytes(size))
    assert randomness.fresh().seed == bytes(32)
    assert asked == [32]


def test_a_short_secret_is_refused():
    with pytest.raises(errors.UsageError, match="32 bytes, found 8"):
        randomness.Secret(bytes(8))
