"""Recall at any k and any pool size: equal to what was measured, to all pools drawn one by one, or one sentence."""

import fractions
import itertools

import arrays
import numpy as np
import pytest
from matrices import O1, O7, O7_LABELS, audited

import relink_jax
from relink_jax import errors
from relink_jax.audit import metrics


@pytest.fixture(scope="module")
def measured():
    return relink_jax.audit(**arrays.cohort(), bootstrap_replicates=100, pool_sizes=[2, 3, 7, 10, 50], ks=[1, 2, 5, 40])


def drawn(M, g, t, n, k):
    """Exact Recall@k of one query over every pool of n negatives, ties broken at random inside the pool."""
    kinds = ["above"] * g + ["tied"] * t + ["below"] * (M - g - t)
    pools = [(pool.count("above"), pool.count("tied")) for pool in itertools.combinations(kinds, n)]
    return sum(fractions.Fraction(min(max(k - above, 0), tied + 1), tied + 1) for above, tied in pools) / len(pools)


def test_every_measured_entry_is_given_back(measured):
    recalls = [entry for entry in measured.metrics if entry["name"] == "recall"]
    assert len({(entry["direction"], entry["stratum"]) for entry in recalls}) == 6
    for entry in recalls:
        size = None if entry["full"] else entry["N"]
        assert measured.recall(entry["k"], size, entry["direction"], entry["stratum"]) == pytest.approx(entry["value"], rel=1e-12)


@pytest.mark.parametrize("scores", [O1, O7])
def test_sizes_that_were_not_measured_equal_all_pools_drawn(scores):
    result = audited(scores, "uvwxyz"[: len(scores)], labels=O7_LABELS[: len(scores)], pool_sizes=(2,), ks=(1,))
    for (direction, stratum), counted in result.counts.items():
        for N in range(2, int(counted["M"].max()) + 2):
            rows = [one for one in zip(*(counted[name].tolist() for name in "Mgt"), strict=True) if one[0] >= N - 1]
            for k in range(1, N + 1):
                wanted = sum(drawn(*one, N - 1, k) for one in rows) / len(rows)
                assert result.recall(k, N, direction, stratum) == pytest.approx(float(wanted), abs=1e-12)
    few = result.counts["i2r", "label_matched"]["M"] >= 1
    same = [
        drawn(*one, 1, 1)
        for one, chosen in zip(zip(*(result.counts["i2r", "other_patient"][n].tolist() for n in "Mgt"), strict=True), few, strict=True)
        if chosen
    ]
    assert result.recall(1, 2, stratum=metrics.PAIRED) == pytest.approx(float(sum(same) / len(same)))


def test_recall_grows_with_k_and_shrinks_with_n(measured):
    sizes = range(2, 40, 3)
    by_k = [measured.recall(k, 39) for k in range(1, 40)]
    by_size = [measured.recall(1, size) for size in sizes]
    assert by_k == sorted(by_k)
    assert by_k[-1] == 1
    assert by_size == sorted(by_size, reverse=True)


def test_a_paired_recall_is_over_the_matched_queries(measured):
    assert measured.recall(1, 4, stratum=metrics.PAIRED) != measured.recall(1, 4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((0, 5), "k in recall of i2r other_patient: expected a whole number from 1 to 5, the pool size, found 0"),
        ((1.5, 5), "k in recall of i2r other_patient: expected a whole number from 1 to 5, the pool size, found 1.5"),
        ((6, 5), "k in recall of i2r other_patient: expected a whole number from 1 to 5, the pool size, found 6"),
        ((1, 1), "pool size in recall of i2r other_patient: expected a whole number from 2 to 60, the largest pool, found 1"),
        ((1, 61), "pool size in recall of i2r other_patient: expected a whole number from 2 to 60, the largest pool, found 61"),
        ((1, 5.0), "pool size in recall of i2r other_patient: expected a whole number from 2 to 60, the largest pool, found 5.0"),
        ((1, True), "pool size in recall of i2r other_patient: expected a whole number from 2 to 60, the largest pool, found True"),
        ((500, None), "k in recall of i2r other_patient: expected a whole number from 1 to 60, the pool size, found 500"),
        ((1, 5, "i2t"), "direction in recall: expected one of i2r, r2i, found 'i2t'; did you mean 'i2r'?"),
        (
            (1, 5, "r2i", "label_match"),
            "stratum in recall of r2i: expected one of other_patient, label_matched, other_patient@label_matched, found 'label_match'; "
            "did you mean 'label_matched'?",
        ),
    ],
)
def test_what_the_data_cannot_answer_is_one_sentence(measured, arguments, sentence):
    largest = int(measured.counts["i2r", "other_patient"]["M"].max()) + 1
    with pytest.raises(errors.DataError) as caught:
        measured.recall(*arguments)
    assert str(caught.value) == sentence.replace("60", str(largest))


def test_a_stratum_without_candidates_is_one_sentence(measured):
    alone = audited(O7, "uvwxyz", labels=np.eye(6))
    with pytest.raises(errors.DataError, match="no negatives in recall of i2r label_matched: expected a query with a candidate, found none"):
        alone.recall(1, stratum="label_matched")
    pool = measured.metric("recall", k=1, stratum=metrics.PAIRED)["N"]
    assert measured.recall(pool, stratum=metrics.PAIRED) == 1
    with pytest.raises(errors.DataError, match=f"expected a whole number from 1 to {pool}, the pool size"):
        measured.recall(pool + 1, stratum=metrics.PAIRED)


def test_without_labels_the_matched_strata_are_unknown():
    result = audited(O1, "abcde")
    with pytest.raises(errors.DataError, match="stratum in recall of i2r: expected one of other_patient, found 'label_matched'"):
        result.recall(1, 2, stratum="label_matched")
    assert result.recall(np.int64(1), np.int32(3)) == result.recall(1, 3)
