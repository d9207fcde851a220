import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from scipy import special

from relink_jax import errors
from relink_jax.privacy import noise, randomness
from relink_jax.runtime import mesh


def tree(shape=(300, 200), fill=0.0):
    return {"image": {"kernel": np.full(shape, fill, np.float32)}, "text": {"kernel": np.full(shape, fill, np.float32), "bias": None}}


def key(seed=0, step=0):
    return randomness.fresh(test_seed=seed).key(randomness.NOISE, step)


def drawn(value):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(value)])


@pytest.mark.parametrize("draws", [1, 4])
@pytest.mark.parametrize("deviation", [1.0, 4.25, 0.28])
def test_noise_has_the_stated_deviation_and_law(deviation, draws):
    found = drawn(noise.add_noise(tree(fill=3.0), deviation, key(), draws)) - 3.0
    assert found.std() == pytest.approx(deviation, rel=5 / np.sqrt(2 * found.size))
    assert abs(found.mean()) < 5 * deviation / np.sqrt(found.size)
    assert np.mean(np.abs(found) > 2 * deviation) == pytest.approx(0.0455, abs=0.004)
    assert np.mean(found**4) == pytest.approx(3 * deviation**4, rel=0.06)


def test_leaves_steps_and_draws_are_independent():
    first, second = (noise.add_noise(tree(), 1.0, key(step=step), 4) for step in (0, 1))
    parts = [np.asarray(leaf).ravel() for noisy in (first, second) for leaf in jax.tree.leaves(noisy)]
    assert np.abs(np.corrcoef(parts) - np.eye(4)).max() < 5 / np.sqrt(parts[0].size)
    assert drawn(first)[:1000] == pytest.approx(drawn(noise.add_noise(tree(), 1.0, key(step=0), 4))[:1000])


@pytest.mark.parametrize("shape", [(), (7,), (8,), (5, 3), (2, 3, 4), (0, 3)])
def test_every_entry_of_every_draw_has_a_word_of_its_own_and_is_its_normal_quantile(shape):
    one = key(seed=2)
    found = noise._normals(one, shape, 5)
    assert [array.shape for array in found] == [shape] * 5
    counters = jnp.arange(5 * (int(np.prod(shape)) + 2), dtype=jnp.uint32)  # a draw starts at a block of its own
    words = np.asarray(threefry_2x32(jax.random.key_data(one), jnp.concatenate([counters, jnp.zeros_like(counters)])))
    uniform = (words.astype(np.uint64) >> np.uint64(9)) * 2.0**-22 - 1
    quantiles = np.sort(np.sqrt(2) * special.erfinv(np.maximum(uniform, np.nextafter(np.float32(-1), np.float32(0)))))
    drawn = np.concatenate([np.asarray(array).ravel() for array in found])
    places = np.searchsorted(quantiles, drawn)
    nearest = [
        min((i for i in (place - 1, place) if 0 <= i < len(quantiles)), key=lambda i: abs(quantiles[i] - value))
        for place, value in zip(places, drawn, strict=True)
    ]
    np.testing.assert_allclose(drawn, quantiles[nearest], rtol=2e-5, atol=1e-6)
    assert len(set(nearest)) == len(drawn)


def test_what_follows_the_noise_sees_the_noisy_tree():
    value, one = tree((6, 5), 1.0), key()
    noisy, other = noise.add_noise(value, 2.0, one, 4, lambda noisy, other: (noisy, other + 1), np.float32(3))
    assert drawn(noisy) == pytest.approx(drawn(noise.add_noise(value, 2.0, one, 4)), abs=1e-6)
    assert float(other) == 4


def test_leaves_that_are_not_trained_get_none():
    noisy = noise.add_noise(tree(), 1.0, key())
    assert noisy["text"]["bias"] is None


def test_noise_is_the_same_on_any_mesh():
    single = noise.add_noise(tree((64, 16)), 2.0, key(), 4)
    for sharding in (mesh.rows(mesh.make_mesh(8)), mesh.replicated(mesh.make_mesh(8))):
        placed = jax.device_put(tree((64, 16)), sharding)
        again = noise.add_noise(placed, 2.0, jax.device_put(key(), mesh.replicated(mesh.make_mesh(8))), 4)
        for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_unsound_scales_are_refused():
    assert noise.stddev(2.0, 1.5) == 3.0
    for multiplier in (-1.0, float("nan"), float("inf")):
        with pytest.raises(errors.UnsoundError, match="noise_multiplier"):
            noise.stddev(multiplier, 1.0)
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(errors.UnsoundError, match="sensitivity"):
            noise.stddev(1.0, scale)


def test_one_draw_has_a_small_support_and_four_do_not():
    """What sets the modes apart: jax's float32 normal takes 2^23 values, so 120,000 draws repeat some; sums of four hardly ever do."""
    few, many = (np.asarray(noise.add_noise(tree(), 1.0, key(), draws)["image"]["kernel"]).ravel() for draws in (1, 4))
    assert few.dtype == many.dtype == np.float32
    ulps = np.abs(np.diff(np.sort(np.unique(few[np.abs(few) < 0.1]))))
    finer = np.abs(np.diff(np.sort(np.unique(many[np.abs(many) < 0.1]))))
    assert len(np.unique(few)) < len(np.unique(many))
    assert ulps.min() > finer.min()


def test_released_heads_lie_on_the_public_grid_of_the_careful_mode_only():
    value = {"image": {"kernel": np.linspace(-1, 1, 1001, dtype=np.float32)}}
    careful, research = (noise.released(value, mode)["image"]["kernel"] for mode in noise.MODES[::-1])
    np.testing.assert_array_equal(research, value["image"]["kernel"])
    assert (careful.view(np.uint32) & 0xFFFF == 0).all()
    assert np.abs(careful - research).max() <= 2.0**-9
    assert noise.DRAWS == {"test": 1, "research": 1, "careful": 4}
