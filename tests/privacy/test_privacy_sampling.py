import fractions

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.privacy import sampling


def sampler(units, q, seed=0):
    return sampling.PoissonSampler(np.asarray(units), fractions.Fraction(q), np.random.default_rng(seed).bytes)


def test_inclusion_frequencies_are_poisson():
    units = np.arange(50)
    source = sampler(units, "3/10")
    steps = 4000
    drawn = np.zeros((steps, 50))
    for step in range(steps):
        drawn[step, source.sample()] = 1
    share = drawn.mean(axis=0)
    assert np.abs(share - 0.3).max() < 4.5 * np.sqrt(0.3 * 0.7 / steps)
    sizes = drawn.sum(axis=1)
    assert sizes.var() == pytest.approx(50 * 0.3 * 0.7, rel=0.1)
    correlation = np.corrcoef(drawn.T) - np.eye(50)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(steps)


def test_each_patient_gives_one_own_pair_chosen_uniformly():
    units = np.array([2, 0, 1, 0, 2, 2, 0, 2])
    source = sampler(units, "1/2")
    counts = np.zeros(8)
    steps = 6000
    for _ in range(steps):
        rows = source.sample()
        assert len(np.unique(units[rows])) == len(rows)
        counts[rows] += 1
    expected = 0.5 / np.bincount(units)[units]
    assert np.abs(counts / steps - expected).max() < 5 * np.sqrt(0.25 / steps)


def test_probability_one_draws_every_unit():
    assert sorted(sampler(np.arange(7), 1).sample()) == list(range(7))


def test_fresh_samplers_differ_and_show_no_state():
    first, second = (sampling.PoissonSampler(np.arange(200), fractions.Fraction(1, 2)) for _ in range(2))
    assert not np.array_equal(first.sample(), second.sample())
    assert repr(first) == "PoissonSampler(n_units=200, q=0.5)"


@pytest.mark.parametrize("drawn", [0, 1, 7, 8, 9, 25])
def test_blocks_drop_nothing_and_have_one_shape(drawn):
    pairs = np.arange(100, 100 + drawn, dtype=np.int32)
    found = sampling.blocks(pairs, 8)
    assert all(index.shape == padding.shape == (8,) for index, padding in found)
    kept = np.concatenate([index[~padding] for index, padding in found])
    np.testing.assert_array_equal(kept, pairs)
    assert len(found) == max(1, -(-drawn // 8))


def test_units_and_probability():
    np.testing.assert_array_equal(sampling.unit_index(np.array([7, 3, 7, 9]), "patient"), [1, 0, 1, 2])
    np.testing.assert_array_equal(sampling.unit_index(np.array([7, 3, 7, 9]), "pair"), [0, 1, 2, 3])
    assert sampling.sampling_probability(128, 400) == fractions.Fraction(8, 25)
    with pytest.raises(errors.UsageError, match="did you mean 'patient'"):
        sampling.unit_index(np.arange(3), "patients")
    with pytest.raises(errors.DataError, match="unit index"):
        sampling.unit_index(np.ones(3), "patient")
    for batch in (0, 401):
        with pytest.raises(errors.UsageError, match="expected_batch_size"):
            sampling.sampling_probability(batch, 400)


def test_physical_cap_is_mean_plus_eight_deviations_in_chunks():
    assert sampling.physical_cap(128, 10_000, 64) == (256, 64)
    assert sampling.physical_cap(128, 130, 256) == (130, 130)
    rows, chunk = sampling.physical_cap(1024, 10**6, 100)
    assert rows >= 1024 + 8 * 32
    assert rows % chunk == 0
