import jax
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.privacy import clipping, noise, objectives
from relink_jax.runtime import mesh


def clipped(sensitivity, shape=(300, 200), relation="add_remove", fill=0.0):
    return clipping.ClippedSum(
        {"image": {"kernel": np.full(shape, fill, np.float32)}, "text": {"kernel": np.full(shape, fill, np.float32)}}, sensitivity, relation
    )


@pytest.mark.parametrize(("multiplier", "sensitivity"), [(1.0, 1.0), (1.7, 2.5), (28.0, 0.01)])
def test_noise_has_the_stated_deviation_and_no_mean(multiplier, sensitivity):
    noisy = noise.add_noise(clipped(sensitivity, fill=3.0), multiplier, noise.fresh_key())
    drawn = np.concatenate([np.asarray(leaf, np.float64).ravel() - 3.0 for leaf in jax.tree.leaves(noisy)])
    expected = multiplier * sensitivity
    assert drawn.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * drawn.size))
    assert abs(drawn.mean()) < 5 * expected / np.sqrt(drawn.size)
    assert np.mean(np.abs(drawn) > 2 * expected) == pytest.approx(0.0455, abs=0.004)


def test_heads_and_draws_are_independent():
    first, second = (noise.add_noise(clipped(1.0), 1.0, noise.fresh_key()) for _ in range(2))
    parts = [np.asarray(leaf).ravel() for noisy in (first, second) for leaf in jax.tree.leaves(noisy)]
    correlation = np.corrcoef(parts) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(parts[0].size)


def test_key_holds_all_sixty_four_bits():
    bits = bytes([1, 2, 3, 4, 5, 6, 7, 8])
    key = noise.fresh_key(lambda size: bits[:size])
    np.testing.assert_array_equal(np.asarray(jax.random.key_data(key)), np.frombuffer(bits, np.uint32))
    other = noise.fresh_key(lambda size: bytes([1, 2, 3, 4, 5, 6, 7, 9]))
    first, second = (np.asarray(noise.add_noise(clipped(1.0, (8, 8)), 1.0, k)["image"]["kernel"]) for k in (key, other))
    assert not np.array_equal(first, second)


def test_noise_is_the_same_on_any_mesh():
    bits = np.random.default_rng(0).bytes(8)
    single = noise.add_noise(clipped(1.0, (64, 16)), 2.0, noise.fresh_key(lambda size: bits))
    for sharding in (mesh.rows(mesh.make_mesh(8)), mesh.replicated(mesh.make_mesh(8))):
        placed = clipping.ClippedSum(jax.device_put(clipped(1.0, (64, 16)).value, sharding), 1.0, "add_remove")
        key = jax.device_put(noise.fresh_key(lambda size: bits), mesh.replicated(mesh.make_mesh(8)))
        for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(noise.add_noise(placed, 2.0, key)), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_unsound_scales_are_refused():
    assert noise.stddev(2.0, 1.5) == 3.0
    for multiplier in (-1.0, float("nan"), float("inf")):
        with pytest.raises(errors.UnsoundError, match="noise_multiplier"):
            noise.stddev(multiplier, 1.0)
    for sensitivity in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(errors.UnsoundError, match="sensitivity"):
            noise.stddev(1.0, sensitivity)
    with pytest.raises(errors.UnsoundError, match="relation"):
        noise.add_noise(clipped(2.0, (2, 2), "replace_one"), 1.0, noise.fresh_key())


def test_sensitivity_of_the_objective_reaches_the_noise():
    objective = objectives.get_objective("anchor_infonce", 0.1)
    total = clipping.zero_sum(objective, clipped(1.0).value, l2_norm_clip=7.0)
    drawn = np.asarray(noise.add_noise(total, 1.0, noise.fresh_key())["image"]["kernel"])
    assert drawn.std() == pytest.approx(7.0, rel=0.02)


def test_noise_is_drawn_in_full_float32():
    entries = np.asarray(noise.add_noise(clipped(1.0), 1.0, jax.random.key(0))["image"]["kernel"]).ravel()
    assert entries.dtype == np.float32
    assert len(np.unique(entries)) > 0.99 * len(entries)
