"""One draw of noise a step, on the whole gradient, after the sum and before the division; what draws none or two is caught."""

import jax
import numpy as np
import pytest
import test_privacy_training as training_tests

from relink_jax.privacy import noise, randomness


def test_one_draw_per_step_from_a_key_of_its_own(toy, monkeypatch):
    drawn, sound = [], noise.add_noise

    def spy(value, deviation, key, *rest):
        drawn.append(np.asarray(jax.random.key_data(key)).tobytes())
        return sound(value, deviation, key, *rest)

    monkeypatch.setattr(noise, "add_noise", spy)
    training_tests.train(toy)
    assert len(drawn) == 4
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("mode", ["research", "careful"])
def test_a_step_with_data_is_the_step_without_noise_and_one_draw_over_the_batch(toy, monkeypatch, mode):
    """The draw comes after the sum, on the whole gradient, before the division, once: what noise moved is what `add_noise` alone draws."""
    secret = randomness.Secret(bytes(range(32)))
    monkeypatch.setattr(randomness, "fresh", lambda seed=None: secret)
    monkeypatch.setattr(noise, "released", lambda value, mode: value)
    quiet, noisy = (training_tests.train(toy, iterations=1, learning_rate=1.0, noise_multiplier=one, rng_mode=mode) for one in (0.0, 2.0))
    zeros = jax.tree.map(np.zeros_like, toy.heads)
    drawn = noise.add_noise(zeros, 2.0, secret.key(randomness.NOISE, 0), noise.DRAWS[mode])
    np.testing.assert_allclose(training_tests.flat(quiet.heads) - training_tests.flat(noisy.heads), training_tests.flat(drawn) / 10, atol=1e-5)


@pytest.mark.parametrize("times", [0, 2])
def test_a_step_that_draws_no_noise_or_draws_twice_is_caught(toy, monkeypatch, times):
    sound = noise.add_noise

    def mutant(value, deviation, key, draws, then=None, *given):
        if then is None:
            return sound(value, deviation, key, draws)
        for one in jax.random.split(key, times):
            value = sound(value, deviation, one, draws)
        return then(value, *given)

    monkeypatch.setattr(noise, "add_noise", mutant)
    with pytest.raises(AssertionError):
        test_a_step_with_data_is_the_step_without_noise_and_one_draw_over_the_batch(toy, monkeypatch, "research")
    with pytest.raises(AssertionError):
        training_tests.test_noise_that_moved_the_heads_is_the_noise_in_the_ledger(toy, 1.0, 3.0, "research")
