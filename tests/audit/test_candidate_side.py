"""The two-sided jackknife against worked patients and against counting again without each block."""

import numpy as np
import pytest
from scipy import stats

from relink_jax import errors
from relink_jax.audit import candidate_side
from relink_jax.retrieval import expectation


def counted(scores, patient, block):
    """Returns (M, g, t, M_b, g_b, t_b) of a square score matrix whose truth is the diagonal, same-patient reports left out."""
    own = np.diag(scores)[:, None]
    eligible = patient[:, None] != patient[None]
    parts = [eligible, eligible & (scores > own), eligible & (scores == own)]
    inside = block[:, None] == np.arange(block.max() + 1)
    by_block = [(part.astype(int) @ inside).T for part in parts]
    return *(part.sum(axis=1) for part in parts), *by_block


@pytest.fixture(scope="module")
def cohort():
    """Forty studies of sixteen patients, integer scores with ties, in four blocks."""
    generator = np.random.default_rng(1)
    patient = np.concatenate([np.arange(16), generator.integers(0, 16, 24)])
    scores = generator.integers(0, 9, (40, 40)) + 3 * np.eye(40, dtype=int)
    return scores, patient, candidate_side.assign(patient, 4)


def test_worked_patients_have_the_worked_variance():
    hit = np.array([1, 1, 0, 0, 1, 0, 0, 0])
    block = np.array([0, 0, 0, 1, 2, 2, 2, 2])
    M_b = np.full((3, 8), 4)
    g_b = (1 - hit) * (np.arange(3)[:, None] != block)  # a miss is beaten by both other patients, so that leaving one out undoes none
    found = candidate_side.left_out(M_b.sum(0), g_b.sum(0), 0 * hit, M_b, g_b, 0 * g_b, block, None, [1])
    np.testing.assert_allclose(found[:, 0], [1 / 5, 3 / 7, 1 / 2])
    shown = candidate_side.interval(M_b.sum(0), g_b.sum(0), 0 * hit, M_b, g_b, 0 * g_b, block, None, 1, 0.9)
    assert shown["se"] ** 2 == pytest.approx(361 / 11025)
    assert (shown["method"], shown["level"], shown["blocks"]) == ("two_sided_jackknife", 0.9, 3)
    reach = stats.t.ppf(0.95, 2) * shown["se"] / (3 / 8 * 5 / 8)
    assert shown["low"] / (1 - shown["low"]) == pytest.approx(3 / 5 * np.exp(-reach))
    assert shown["high"] / (1 - shown["high"]) == pytest.approx(3 / 5 * np.exp(reach))


@pytest.mark.parametrize("size", [4, 12, None])
def test_leaving_a_block_out_is_counting_again_without_it(cohort, size):
    scores, patient, block = cohort
    counts = counted(scores, patient, block)
    found = candidate_side.left_out(*counts, block, size, [1, 3])
    for number in range(4):
        kept = np.flatnonzero(block != number)
        again = counted(scores[np.ix_(kept, kept)], patient[kept], np.zeros(len(kept), int))
        recalls = expectation.pool_metrics(*again[:3], size, [1, 3])
        np.testing.assert_allclose(found[number], [recalls[f"recall@{k}"].expected.mean() for k in (1, 3)], rtol=1e-10)
    shown = candidate_side.intervals(*counts, block, size, [1, 3], 0.95)
    assert [one["se"] for one in shown] == pytest.approx(np.sqrt(3 / 4 * ((found - found.mean(axis=0)) ** 2).sum(axis=0)))
    assert candidate_side.interval(*counts, block, size, 3, 0.95) == shown[1]
    value = expectation.pool_metrics(*counts[:3], size, [1])["recall@1"].expected.mean()
    odds = [one / (1 - one) for one in (shown[0]["low"], value, shown[0]["high"])]
    assert odds[0] < odds[1] == pytest.approx(np.sqrt(odds[0] * odds[2]))


def test_recall_that_is_taken_for_nothing_is_nothing():
    generator = np.random.default_rng(0)
    M, g, t = np.full(4000, 30000), generator.integers(0, 30000, 4000), np.zeros(4000, int)
    for size in (10, 1000, 20000):
        whole = expectation.pool_metrics(M, g, t, size, [1, 5])
        wanted = [whole[f"recall@{k}"].expected.mean() for k in (1, 5)]
        np.testing.assert_allclose(candidate_side._recalls(M, g, t, size, [1, 5]), wanted, rtol=1e-9, atol=1e-25)


def test_no_interval_where_there_is_nothing_to_say(cohort):
    scores, patient, block = cohort
    counts = counted(scores, patient, block)
    most = min(int((counts[0] - counts[3][number])[block != number].min()) for number in range(4)) + 1
    assert candidate_side.interval(*counts, block, most, 1, 0.95) is not None
    assert candidate_side.interval(*counts, block, most + 1, 1, 0.95) is None  # some query has no pool of this size without some block
    alike = counted(0 * scores, patient, block)
    assert candidate_side.interval(*alike, block, 5, 1, 0.95) is None  # chance whoever is left out
    never = counted(scores - 100 * np.eye(40, dtype=int), patient, block)
    assert candidate_side.interval(*never, block, None, 1, 0.95) is None
    always = counted(scores + 100 * np.eye(40, dtype=int), patient, block)
    assert candidate_side.interval(*always, block, None, 1, 0.95) is None
    assert candidate_side.interval(*counts, 0 * block, 5, 1, 0.95) is None  # no query outside the block


def test_blocks_hold_whole_patients_evenly_and_at_random():
    patient = np.random.default_rng(2).integers(0, 100, 300)
    patient[:100] = np.arange(100)
    block = candidate_side.assign(patient)
    assert (block.dtype, block.min(), block.max()) == (np.int32, 0, 31)
    by_patient = block[:100]
    np.testing.assert_array_equal(block, by_patient[patient])
    assert set(np.bincount(by_patient)) == {3, 4}
    np.testing.assert_array_equal(block, candidate_side.assign(patient))
    assert (block != candidate_side.assign(patient, seed=1)).any()
    assert (np.diff(by_patient) % 32 != 1).any()
    assert candidate_side.assign(np.arange(9)).max() == 3
    assert min(np.bincount(candidate_side.assign(np.arange(9)))) == 2
    assert candidate_side.assign(np.arange(3)) is None
    assert candidate_side.assign(np.zeros(0, int)) is None


def test_blocks_that_do_not_add_up_are_refused(cohort):
    scores, patient, block = cohort
    counts = list(counted(scores, patient, block))
    with pytest.raises(errors.DataError, match="add up"):
        candidate_side.left_out(counts[0], counts[1] + 1, *counts[2:], block, 5, [1])
    with pytest.raises(errors.DataError, match="shapes differ"):
        candidate_side.left_out(*counts, block[1:], 5, [1])
