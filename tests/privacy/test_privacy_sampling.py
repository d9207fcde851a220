import fractions

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.privacy import randomness, sampling
from relink_jax.privacy.clipping import Batch


def sampler(units, q, seed=0):
    return sampling.PoissonSampler(np.asarray(units), fractions.Fraction(q), randomness.fresh(test_seed=seed))


def members(batch):
    """Pair indices that a batch really holds, row by row."""
    return [row[weight > 0].tolist() for row, weight in zip(batch.rows, batch.weights, strict=True)]


def joined(batches):
    return [pair for batch in batches for row in members(batch) for pair in row]


def test_inclusion_frequencies_are_poisson():
    source, steps = sampler(np.arange(50), "3/10"), 4000
    drawn = np.zeros((steps, 50))
    for step in range(steps):
        drawn[step, source.averaged(step).rows[:, 0]] = 1
    share = drawn.mean(axis=0)
    assert np.abs(share - 0.3).max() < 4.5 * np.sqrt(0.3 * 0.7 / steps)
    assert drawn.sum(axis=1).var() == pytest.approx(50 * 0.3 * 0.7, rel=0.1)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(50)).max() < 5.5 / np.sqrt(steps)


@pytest.mark.parametrize("most", [1, 2, 3, 9])
def test_a_unit_brings_a_uniform_subset_of_its_own_pairs(most):
    units = np.array([2, 0, 1, 0, 2, 2, 0, 2])
    sizes = np.bincount(units)
    source, steps = sampler(units, "1/2"), 4000
    counts, together = np.zeros(8), np.zeros((8, 8))
    for step in range(steps):
        batch = source.averaged(step, most)
        for row, weight in zip(batch.rows, batch.weights, strict=True):
            own = row[weight > 0]
            unit = units[own[0]]
            assert (units[own] == unit).all()
            assert len(set(own.tolist())) == len(own) == min(sizes[unit], most)
            assert weight.sum() == pytest.approx(1)
            assert len(np.unique(weight[weight > 0])) == 1
            counts[own] += 1
            together[np.ix_(own, own)] += 1
    kept = np.minimum(sizes, most)[units]
    assert np.abs(counts / steps - 0.5 * kept / sizes[units]).max() < 5 * np.sqrt(0.25 / steps)
    if most == 2:
        assert together[0, 4] / steps == pytest.approx(0.5 / 6, abs=5 * np.sqrt(0.08 / steps))


def test_probability_one_draws_every_unit():
    assert sorted(sampler(np.arange(7), 1).averaged(0).rows[:, 0]) == list(range(7))
    assert sorted(joined([sampler(np.arange(7), 1).capped(0, 9)])) == list(range(7))


def test_groups_are_chosen_by_each_record_alone():
    source, steps = sampler(np.arange(40), "1/2"), 2000
    where = np.full((steps, 40), -1)
    for step in range(steps):
        for group, own in enumerate(members(source.grouped(step, 5, 40))):
            where[step, own] = group
    drawn = where >= 0
    assert drawn.mean() == pytest.approx(0.5, abs=5 * np.sqrt(0.25 / (steps * 40)))
    shares = [(where[drawn] == group).mean() for group in range(5)]
    assert np.abs(np.array(shares) - 0.2).max() < 5 * np.sqrt(0.16 / drawn.sum())
    both = drawn[:, 3] & drawn[:, 9]
    assert (where[both, 3] == where[both, 9]).mean() == pytest.approx(0.2, abs=5 * np.sqrt(0.16 / both.sum()))


def test_a_full_group_drops_its_own_members_and_no_other_groups():
    units = np.arange(60)
    wide, narrow = members(sampler(units, 1).grouped(0, 6, 60)), members(sampler(units, 1).grouped(0, 6, 4))
    assert any(len(own) > 4 for own in wide)
    for whole, cut in zip(wide, narrow, strict=True):
        assert cut == whole[:4]
    dropped = [sampler(units, 1, seed).grouped(0, 6, 4).weights.sum() for seed in range(5)]
    assert max(dropped) <= 24


def test_a_capped_batch_keeps_random_units_in_one_shape():
    source = sampler(np.arange(30), 1)
    kept = np.zeros(30)
    for step in range(3000):
        batch = source.capped(step, 10)
        assert batch.rows.shape == batch.weights.shape == (10, 1)
        kept[batch.rows[batch.weights > 0]] += 1
    assert np.abs(kept / 3000 - 1 / 3).max() < 5 * np.sqrt(2 / 9 / 3000)
    few = sampler(np.arange(3), 1).capped(0, 10)
    assert few.weights.ravel().tolist() == [1.0] * 3 + [0.0] * 7


def test_a_step_is_drawn_again_the_same_and_steps_differ():
    source = sampler(np.arange(200), "1/2")
    for draw in (lambda step: source.averaged(step, 2), lambda step: source.grouped(step, 7, 30), lambda step: source.capped(step, 150)):
        first, again, other = draw(4), draw(4), draw(5)
        np.testing.assert_array_equal(first.rows, again.rows)
        assert not np.array_equal(first.rows, other.rows)
    fresh = [sampling.PoissonSampler(np.arange(200), fractions.Fraction(1, 2), randomness.fresh()) for _ in range(2)]
    assert not np.array_equal(fresh[0].averaged(0).rows, fresh[1].averaged(0).rows)
    assert repr(source) == "PoissonSampler(n_units=200, q=0.5)"


@pytest.mark.parametrize("drawn", [0, 1, 7, 8, 9, 25])
def test_blocks_drop_nothing_and_have_one_shape(drawn):
    rows = np.arange(2 * drawn, dtype=np.int32).reshape(drawn, 2)
    found = sampling.blocks(Batch(rows, np.full((drawn, 2), 0.5, np.float32)), 8)
    assert all(block.rows.shape == block.weights.shape == (8, 2) for block in found)
    assert joined(found) == rows.ravel().tolist()
    assert len(found) == max(1, -(-drawn // 8))


def test_units_and_probability():
    np.testing.assert_array_equal(sampling.unit_index(np.array([7, 3, 7, 9]), "patient"), [1, 0, 1, 2])
    np.testing.assert_array_equal(sampling.unit_index(np.array([7, 3, 7, 9]), "study"), [1, 0, 1, 2])
    np.testing.assert_array_equal(sampling.unit_index(np.array([7, 3, 7, 9]), "pair"), [0, 1, 2, 3])
    assert sampling.sampling_probability(128, 400) == fractions.Fraction(8, 25)
    with pytest.raises(errors.UsageError, match="did you mean 'patient'"):
        sampling.unit_index(np.arange(3), "patients")
    with pytest.raises(errors.DataError, match="unit index"):
        sampling.unit_index(np.ones(3), "patient")
    for batch in (0, 401):
        with pytest.raises(errors.UsageError, match="expected_batch_size"):
            sampling.sampling_probability(batch, 400)


def test_physical_shapes():
    assert sampling.physical_cap(128, 10_000) == 219
    assert sampling.physical_cap(128, 130) == 130
    assert sampling.group_shape(128, 4) == (32, 10)
    assert sampling.group_shape(1, 4) == (1, 10)
