"""Worked examples in exact fractions, from score matrices through the whole audit."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from matrices import O1, O7, O7_LABELS, audited, close, integers

from relink_jax.audit import inputs, metrics, monte_carlo, queries, run, strata
from relink_jax.retrieval import counts, expectation, right_patient, tiered
from relink_jax.retrieval.counted import LABEL_MATCHED, Records, StratumCounts
from relink_jax.runtime import mesh as meshes


def test_o1_ranks_ties_duplicates_both_directions():
    result = audited(O1, "abcde", ks=(1, 2, 3))
    assert integers(result) == [(0, 0, 4), (0, 1, 4), (1, 2, 4), (1, 1, 4), (1, 1, 4)]
    close(result.metric("recall", k=1), Fraction(3, 10), Fraction(2, 5), Fraction(1, 5))
    close(result.metric("recall", k=2), Fraction(2, 3), 1, Fraction(2, 5))
    close(result.metric("recall", k=3), Fraction(14, 15), 1, Fraction(4, 5))
    close(result.metric("mean_rank"), Fraction(21, 10))
    triple = result.counts["i2r", "other_patient"].values()
    assert expectation.mean_rank(*triple, None).expected.tolist() == [1, 3 / 2, 3, 5 / 2, 5 / 2]
    assert expectation.median_rank(*triple, None) == 5 / 2
    close(result.metric("mrr"), Fraction(53, 90), Fraction(7, 10), Fraction(29, 60))
    close(result.metric("auc_within_query"), Fraction(29, 40))
    assert integers(result, "r2i") == [(0, 0, 4), (1, 0, 4), (0, 0, 4), (0, 0, 4), (1, 0, 4)]
    for name, k, want in (
        ("recall", 1, Fraction(3, 5)),
        ("recall", 2, 1),
        ("mrr", None, Fraction(4, 5)),
        ("mean_rank", None, Fraction(7, 5)),
        ("auc_within_query", None, Fraction(9, 10)),
    ):
        close(result.metric(name, k=k, direction="r2i"), want)


def test_o1_content_truth_on_unique_texts():
    result = audited(O1[:, :4], "abcd", image_study=[0, 1, 2, 3, 3])
    assert integers(result) == [(0, 0, 3), (0, 1, 3), (1, 1, 3), (1, 0, 3), (1, 0, 3)]
    close(result.metric("recall", k=1), Fraction(3, 10), Fraction(2, 5), Fraction(1, 5))
    close(result.metric("recall", k=2), Fraction(9, 10))
    close(result.metric("mrr"), Fraction(19, 30))
    close(result.metric("auc_within_query"), Fraction(11, 15))


def test_content_truth_is_the_optimistic_bound_when_all_ties_are_duplicates():
    text = np.array([0, 1, 1, 2, 1, 2])
    scores = np.array([[7, 3, 5], [2, 4, 9], [1, 8, 6], [5, 6, 2], [3, 2, 1], [9, 4, 7]])[:, text]
    result = audited(scores, "abcdef", pool_sizes=(2, 4, 6))
    for N, k in itertools.product((2, 4, 6), (1, 2)):
        found = []
        for own, row in enumerate(scores):
            for pool in itertools.combinations([study for study in range(6) if study != own], N - 1):
                for order in itertools.permutations((own, *pool)):
                    found.append(text[own] in text[sorted(order, key=lambda study: -row[study])[:k]])
        assert result.metric("recall", k=k, pool_size=N)["optimistic"] == pytest.approx(np.mean(found), abs=1e-13)
    assert result.metric("recall", k=1, pool_size=4)["optimistic"] > result.recall(1, 4)


def test_o2_every_pool_size():
    result = audited(O1, "abcde", pool_sizes=(2, 3, 4, 5))
    for N, first, second, mrr in (
        (2, Fraction(29, 40), 1, Fraction(69, 80)),
        (3, Fraction(19, 36), Fraction(83, 90), Fraction(811, 1080)),
        (4, Fraction(47, 120), Fraction(4, 5), Fraction(119, 180)),
        (5, Fraction(3, 10), Fraction(2, 3), Fraction(53, 90)),
    ):
        assert result.recall(1, N) == pytest.approx(float(first), abs=1e-13)
        assert result.recall(2, N) == pytest.approx(float(second), abs=1e-13)
        close(result.metric("mrr", pool_size=N), mrr)
    assert result.metric("recall", k=1, pool_size=3)["lift"] == pytest.approx(19 / 12)
    table = result.queries["i2r"]
    found = metrics.per_query(table, "i2r", "other_patient", [3], [1])[0].bounds.expected
    np.testing.assert_allclose(found, [1, 3 / 4, 2 / 9, 1 / 3, 1 / 3], atol=1e-13)
    assert (found * (1 - found)).sum() / 25 == pytest.approx(1043 / 32400)
    assert monte_carlo.z_score(found.mean() + 0.01, found, 50) == pytest.approx(0.01 / np.sqrt(1043 / 32400 / 50))


def test_o2_equals_every_subset_of_pairs_ranked_against_itself():
    wanted = {2: (Fraction(29, 40), Fraction(69, 80)), 3: (Fraction(19, 36), Fraction(811, 1080)), 4: (Fraction(47, 120), Fraction(119, 180))}
    for N, values in (wanted | {5: (Fraction(3, 10), Fraction(53, 90))}).items():
        first, reciprocal = [], []
        for subset in itertools.combinations(range(5), N):
            for own in subset:
                greater, equal = (sum(compare(O1[own, study], O1[own, own]) for study in subset) for compare in (np.greater, np.equal))
                places = range(greater + 1, greater + equal + 1)
                first.append(Fraction(sum(place == 1 for place in places), int(equal)))
                reciprocal.append(sum(Fraction(1, int(place)) for place in places) / int(equal))
        assert (sum(first) / len(first), sum(reciprocal) / len(reciprocal)) == values


def test_o4_multiplicities():
    result = audited(np.array([[5, 5, 5, 7, 5, 5]]), "abcdef", image_study=[0], ks=(1, 2, 3))
    assert integers(result) == [(1, 4, 5)]
    assert [result.recall(k) for k in (1, 2, 3)] == pytest.approx([0, 1 / 5, 2 / 5], abs=1e-13)
    close(result.metric("mean_rank"), 4)


def test_o4_anonymity_sets_by_score_and_by_text():
    records = Records(
        images=np.ones((1, 2), np.float32),
        image_study=np.zeros(1, np.int32),
        texts=np.array([[5, 0], [7, 0], [0, 5]], np.float32),
        study_text=np.array([0, 0, 0, 1, 2, 2], np.int32),
        exclusion=np.arange(6, dtype=np.int32),
        codes={LABEL_MATCHED: np.zeros(6, np.int32)},
    )
    found = counts.count(records, mesh=meshes.make_mesh(1), top_k=0)["i2r"]
    by_score = found.strata["other_patient"]
    assert (by_score.M.tolist(), by_score.g.tolist(), by_score.t.tolist()) == ([5], [1], [4])
    assert by_score.t[0] + 1 == 5
    assert found.near[0, 2] + 1 == 3


def test_o4_equal_scores_of_different_texts_and_duplicates_add_up():
    texts = np.array([[1, 0], [1, 0], [1, 0], [0, 7], [5, 0.0], [5, 0]])
    prepared = inputs.prepare(images=[[5.0, 1.0]], texts=texts, image_study=[0], text_study=range(6), patient=range(6), normalize=False)
    result = run.audit_inputs(prepared, mesh=meshes.make_mesh(1), ks=(1,), pool_sizes=(2,), bootstrap_replicates=100)
    assert integers(result) == [(3, 2, 5)]


def test_o5_same_patient_left_out():
    result = audited(O1, "AABCC", pool_sizes=(3,))
    assert integers(result) == [(0, 0, 3), (0, 0, 3), (1, 2, 4), (1, 0, 3), (1, 0, 3)]
    assert result.recall(1) == pytest.approx(2 / 5)
    assert result.recall(2) == pytest.approx(13 / 15)
    close(result.metric("mrr"), Fraction(121, 180))
    close(result.metric("auc_within_query"), Fraction(23, 30))
    assert result.recall(1, 3) == pytest.approx(26 / 45)
    per_query = metrics.per_query(result.queries["i2r"], "i2r", "other_patient", [3], [1])[0].bounds.expected
    np.testing.assert_allclose(per_query, [1, 1, 2 / 9, 1 / 3, 1 / 3], atol=1e-13)
    strict = audited(O1, "AABCC", same_patient="negative")
    assert integers(strict) == [(0, 0, 4), (0, 1, 4), (1, 2, 4), (1, 1, 4), (1, 1, 4)]
    assert strict.protocol["same_patient"] == "negative"


def test_o5_right_study_right_patient():
    """Ties are broken in every order, since the closed form of the right patient has none."""
    patient = np.array(list("AABCC"))
    right, study = [], []
    for own, order in itertools.product(range(5), itertools.permutations(range(5))):
        ranked = np.array(sorted(order, key=lambda candidate: -O1[own, candidate]))
        ahead = ranked[: list(ranked).index(own)]
        strangers = np.cumsum(patient[ahead] != patient[own])
        better = strangers[patient[ahead] == patient[own]].tolist()
        right.append(right_patient.recall([4], [len(ahead) - len(better)], better, [0, len(better)], 5, [1])[0, 0])
        assert right[-1] == (patient[ranked[0]] == patient[own])
        study.append(ranked[0] == own)
    assert np.mean(right) == pytest.approx(2 / 5)
    assert np.mean(study) == pytest.approx(3 / 10)
    assert audited(O1, "AABCC", same_patient="negative").recall(1) == pytest.approx(3 / 10)
    assert np.mean(right) - np.mean(study) == pytest.approx(1 / 10)


def test_o6_same_patient_as_wrong_and_as_right():
    order = "npnTnpn"
    scores = np.arange(7, 0, -1)[None]
    strict = audited(
        scores,
        ["T" if study in "pT" else f"n{place}" for place, study in enumerate(order)],
        image_study=[3],
        pool_sizes=(2, 3, 4, 6, 7),
        same_patient="negative",
    )
    assert integers(strict) == [(3, 0, 6)]
    wanted = {2: (Fraction(1, 2), 1), 3: (Fraction(1, 5), Fraction(4, 5)), 4: (Fraction(1, 20), Fraction(1, 2)), 6: (0, 0), 7: (0, 0)}
    for N, values in wanted.items():
        for k, value in zip((1, 2), values, strict=True):
            assert strict.recall(k, N) == pytest.approx(float(value), abs=1e-13)
    right = {
        2: (Fraction(2, 3), 1),
        3: (Fraction(7, 15), Fraction(14, 15)),
        4: (Fraction(7, 20), Fraction(17, 20)),
        6: (Fraction(1, 6), Fraction(5, 6)),
        7: (0, 1),
    }
    for N, values in right.items():
        found = right_patient.recall([6], [2], [1], [0, 1], N, (1, 2))
        assert found[:, 0] == pytest.approx([float(value) for value in values], abs=1e-13)
    assert [right_patient.chance(6, 2, N) for N in (2, 3, 4, 6, 7)] == pytest.approx([2 / 3, 5 / 9, 1 / 2, 4 / 9, 3 / 7])


def test_o7_matched_pools_beside_random_pools_on_the_same_queries():
    result = audited(O7, "uvwxyz", labels=O7_LABELS, pool_sizes=(2, 3))
    counted = result.counts["i2r", "label_matched"]
    assert list(zip(counted["g"], counted["M"], strict=True)) == [(0, 2), (1, 2), (1, 1), (1, 2), (1, 1), (0, 0)]
    assert integers(result) == [(g, 0, 5) for g in (1, 1, 2, 3, 2, 0)]
    for N, matched, same, everyone, n in (
        (2, Fraction(2, 5), Fraction(16, 25), Fraction(7, 10), 5),
        (3, Fraction(1, 3), Fraction(13, 30), Fraction(29, 60), 3),
    ):
        assert result.recall(1, N, stratum="label_matched") == pytest.approx(float(matched))
        assert result.recall(1, N, stratum="other_patient@label_matched") == pytest.approx(float(same))
        assert result.recall(1, N) == pytest.approx(float(everyone))
        entry = result.metric("recall", k=1, pool_size=N, stratum="label_matched")
        assert (entry["n_queries"], entry["n_eligible_share"]) == (n, n / 6)
    close(result.metric("auc_within_query", stratum="label_matched"), Fraction(2, 5))
    assert result.metric("auc_within_query", stratum="label_matched")["n_queries"] == 5


def test_o7_label_only_attacker_is_everything_matched_tied():
    result = audited(O7, "uvwxyz", labels=O7_LABELS)
    M, K = result.counts["i2r", "other_patient"]["M"], result.counts["i2r", "label_matched"]["M"]
    by_size = [expectation.label_only(M, K, N, [1])["recall@1"] for N in (2, 3, 6)]
    np.testing.assert_allclose(by_size[0], [4 / 5, 4 / 5, 9 / 10, 4 / 5, 9 / 10, 1])
    assert [one.mean() for one in by_size] == pytest.approx([13 / 15, 3 / 4, 1 / 2])
    for n, found in zip((1, 2, 5), by_size, strict=True):
        shortcut = [Fraction(6, (n + 1) * (same + 1)) * (1 - Fraction(math.comb(5 - same, n + 1), math.comb(6, n + 1))) for same in K.tolist()]
        np.testing.assert_allclose(found, [float(one) for one in shortcut], atol=1e-13)


def test_o7_pools_filled_up_from_unmatched_studies():
    result = audited(O7, "uvwxyz", labels=O7_LABELS)
    counted = result.counts["i2r", "label_matched"], result.counts["i2r", "other_patient"]
    matched = StratumCounts(*counted[0].values())
    rest = StratumCounts(*(everyone - near for near, everyone in zip(*(one.values() for one in counted), strict=True)))
    filled = tiered.recall(matched, rest, 3, [1])[0]
    assert filled == pytest.approx([1, 0, 0, 0, 0, 1])
    assert filled.mean() == pytest.approx(1 / 3)
    assert tiered.recall(matched, rest, 6, [1]).mean() == pytest.approx(result.recall(1))


def test_o7b_label_codes():
    blank = strata.BLANK
    labels = np.array([[1, blank, -1], [1, 0, -1], [1, 0, 1], [1, blank, 0], [1, 1, 1]], np.int8)
    has = np.array([True, True, True, True, False])
    wanted = {"quaternary": [0, 1, 2, 3], "ternary": [0, 0, 1, 2], "u_one": [0, 0, 0, 1], "u_zero": [0, 0, 1, 0]}
    for policy, groups in wanted.items():
        codes = strata.label_codes(labels, has, policy)
        assert codes[4] == -1
        assert (codes[:4, None] == codes[None, :4]).tolist() == (np.array(groups)[:, None] == np.array(groups)[None]).tolist()


def test_o7b_jaccard_of_positive_sets():
    sets = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0]], bool)
    np.testing.assert_allclose(strata.jaccard(sets, sets), [[1, 1 / 3, 0, 0], [1 / 3, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])


def test_study_with_several_images_is_found_by_its_best():
    scores = np.array([[3, 9], [8, 1], [5, 7], [4, 6]])
    result = audited(scores, "ab", image_study=[0, 0, 1, 1])
    assert result.queries["r2i"].query_key.tolist() == ["0", "1"]
    assert integers(result, "r2i") == [(0, 0, 2), (1, 0, 2)]


def test_queries_table_round_trip():
    result = audited(O7, "uvwxyz", labels=np.eye(6))
    columns = {name: np.array(values, dtype=object) for name, values in queries.to_columns(result.queries).items()}
    again = queries.from_columns(columns)
    for direction, table in result.queries.items():
        for name, stratum in table.strata.items():
            np.testing.assert_array_equal(again[direction].strata[name].g, stratum.g)


def test_report_queries_keep_their_patient_where_studies_have_no_image():
    table = audited(np.array([[1, 5, 2, 0], [0, 1, 2, 7]]), "wxyz", image_study=[1, 3]).queries["r2i"]
    assert (table.query_key.tolist(), table.patient_key.tolist()) == (["1", "3"], ["1", "3"])
