import numpy as np
import pytest

from relink_jax import errors, heads
from relink_jax.privacy import controls

MECHANISM = {"iterations": 30, "noise_multiplier": 3.0, "l2_norm_clip": 1.5, "expected_batch_size": 10}


def moved(trained, initial):
    return np.sqrt(sum(np.sum((trained.heads[s]["kernel"].astype(np.float64) - initial[s]["kernel"]) ** 2) for s in heads.SIDES))


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("sgd", 0.05), ("adam", 0.01)])
def test_expected_displacement_is_what_noise_only_does(toy, optimizer, learning_rate):
    trained = controls.noise_only(*toy.arguments, **MECHANISM, optimizer=optimizer, learning_rate=learning_rate)
    entries = sum(toy.heads[s]["kernel"].size for s in heads.SIDES)
    expected = controls.expected_displacement(learning_rate=learning_rate, parameters=entries, optimizer=optimizer, **MECHANISM)
    assert moved(trained, toy.heads) == pytest.approx(expected, rel=5 / np.sqrt(2 * entries) + 0.02)


def test_sgd_displacement_closed_form():
    found = controls.expected_displacement(learning_rate=0.1, parameters=400, **MECHANISM)
    assert found == pytest.approx(0.1 * np.sqrt(30) * (3.0 * 1.5 / 10) * 20)


def test_learning_rate_for_inverts_relative_displacement(toy):
    rate = controls.learning_rate_for(toy.heads, 0.8, **MECHANISM)
    assert controls.relative_displacement(toy.heads, learning_rate=rate, **MECHANISM) == pytest.approx(0.8)
    with pytest.raises(errors.UsageError, match="relative displacement"):
        controls.learning_rate_for(toy.heads, 0.0, **MECHANISM)
    with pytest.raises(errors.UsageError, match="relative displacement"):
        controls.learning_rate_for(toy.heads, 1.0, **{**MECHANISM, "noise_multiplier": 0.0})
    with pytest.raises(errors.UsageError, match="optimizer"):
        controls.expected_displacement(learning_rate=0.1, parameters=4, optimizer="lion", **MECHANISM)
