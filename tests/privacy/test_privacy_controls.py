import jax
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.privacy import clipping, controls, design, options

SIZES = {"iterations": 30, "noise_stddev": 4.5, "expected_batch_size": 10}


def moved(trained, initial):
    return np.sqrt(sum(np.sum((a.astype(np.float64) - b) ** 2) for a, b in zip(jax.tree.leaves(trained.heads), jax.tree.leaves(initial), strict=True)))


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("sgd", 0.05), ("adam", 0.01)])
def test_expected_displacement_is_what_noise_only_does(toy, optimizer, learning_rate):
    given = options.Options(
        expected_batch_size=10, iterations=30, noise_multiplier=3.0, l2_norm_clip=1.5, optimizer=optimizer, learning_rate=learning_rate, rng_mode="research"
    )
    assert design.design(given, 40).mechanism.noise_stddev == pytest.approx(4.5)
    trained = controls.noise_only(toy.heads, clipping.Records(toy.images, toy.texts), toy.patient, toy.bank, given)
    entries = sum(leaf.size for leaf in jax.tree.leaves(toy.heads))
    expected = controls.expected_displacement(learning_rate=learning_rate, parameters=entries, optimizer=optimizer, **SIZES)
    assert moved(trained, toy.heads) == pytest.approx(expected, rel=5 / np.sqrt(2 * entries) + 0.02)


def test_sgd_displacement_closed_form():
    found = controls.expected_displacement(learning_rate=0.1, parameters=400, **SIZES)
    assert found == pytest.approx(0.1 * np.sqrt(30) * 0.45 * 20)


def test_learning_rate_for_inverts_relative_displacement(toy):
    rate = controls.learning_rate_for(toy.heads, 0.8, **SIZES)
    assert controls.relative_displacement(toy.heads, learning_rate=rate, **SIZES) == pytest.approx(0.8)
    with pytest.raises(errors.UsageError, match="relative displacement"):
        controls.learning_rate_for(toy.heads, 0.0, **SIZES)
    with pytest.raises(errors.UsageError, match="relative displacement"):
        controls.learning_rate_for(toy.heads, 1.0, **{**SIZES, "noise_stddev": 0.0})
    with pytest.raises(errors.UsageError, match="optimizer"):
        controls.expected_displacement(learning_rate=0.1, parameters=4, optimizer="lion", **SIZES)
