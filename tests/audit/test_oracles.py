"""Worked examples in exact fractions, from score matrices through the whole audit."""

from fractions import Fraction

import numpy as np
import pytest

from relink_jax.audit import inputs, metrics, queries, run, strata
from relink_jax.retrieval import expectation
from relink_jax.runtime import mesh as meshes

O1 = np.array([[9, 5, 4, 3, 3], [6, 6, 2, 1, 1], [7, 3, 5, 5, 5], [8, 2, 1, 7, 7], [4, 9, 3, 6, 6]])
O7 = np.array([[5, 4, 9, 3, 2, 1], [6, 5, 1, 4, 3, 2], [7, 1, 6, 2, 8, 3], [3, 9, 8, 5, 7, 1], [1, 2, 6, 3, 5, 9], [2, 3, 4, 5, 6, 7]])


def audited(scores, patient, labels=None, image_study=None, ks=(1, 2), pool_sizes=(2,), **options):
    """Audits a score matrix [images, studies]: images are its distinct columns, texts are unit vectors."""
    scores = np.asarray(scores)
    _, first, text = np.unique(scores, axis=1, return_index=True, return_inverse=True)
    image_study = np.arange(len(scores)) if image_study is None else image_study
    prepared = inputs.prepare(
        images=scores[:, first],
        texts=np.eye(len(first))[text.ravel()],
        image_study=image_study,
        text_study=range(scores.shape[1]),
        patient=patient,
        labels=labels,
        normalize=False,
    )
    return run.audit_inputs(prepared, mesh=meshes.make_mesh(1), ks=ks, pool_sizes=pool_sizes, top_k=2, bootstrap_replicates=100, **options)


def integers(result, direction="i2r", stratum="other_patient"):
    counted = result.counts[direction, stratum]
    return list(zip(*(counted[name].tolist() for name in "gtM"), strict=True))


def close(entry, *wanted):
    for name, want in zip(("value", "optimistic", "pessimistic"), wanted, strict=False):
        assert entry[name] == pytest.approx(float(want), abs=1e-13)


def test_o1_ranks_ties_duplicates_both_directions():
    result = audited(O1, "abcde", ks=(1, 2, 3))
    assert integers(result) == [(0, 0, 4), (0, 1, 4), (1, 2, 4), (1, 1, 4), (1, 1, 4)]
    close(result.metric("recall", k=1), Fraction(3, 10), Fraction(2, 5), Fraction(1, 5))
    close(result.metric("recall", k=2), Fraction(2, 3), 1, Fraction(2, 5))
    close(result.metric("recall", k=3), Fraction(14, 15), 1, Fraction(4, 5))
    close(result.metric("mean_rank"), Fraction(21, 10))
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


def test_o4_multiplicities():
    result = audited(np.array([[5, 5, 5, 7, 5, 5]]), "abcdef", image_study=[0], ks=(1, 2, 3))
    assert integers(result) == [(1, 4, 5)]
    assert [result.recall(k) for k in (1, 2, 3)] == pytest.approx([0, 1 / 5, 2 / 5], abs=1e-13)
    close(result.metric("mean_rank"), 4)


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
    strict = audited(O1, "AABCC", same_patient="negative")
    assert integers(strict) == [(0, 0, 4), (0, 1, 4), (1, 2, 4), (1, 1, 4), (1, 1, 4)]
    assert strict.protocol["same_patient"] == "negative"


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
        for k, value in zip((1, 2), values, strict=True):
            assert expectation.right_patient(6, [1], 2, N, k) == pytest.approx(float(value), abs=1e-13)
    assert [expectation.right_patient_chance(6, 2, N) for N in (2, 3, 4, 6, 7)] == pytest.approx([2 / 3, 5 / 9, 1 / 2, 4 / 9, 3 / 7])


def test_o7_matched_pools_beside_random_pools_on_the_same_queries():
    labels = np.array([{"a": (1, 0), "b": (0, 1), "c": (0, 0)}[code] for code in "aababc"])
    result = audited(O7, "uvwxyz", labels=labels, pool_sizes=(2, 3))
    counted = result.counts["i2r", "label_matched"]
    assert list(zip(counted["g"], counted["M"], strict=True)) == [(0, 2), (1, 2), (1, 1), (1, 2), (1, 1), (0, 0)]
    assert result.counts["i2r", "other_patient"]["g"].tolist() == [1, 1, 2, 3, 2, 0]
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
    labels = np.array([{"a": (1, 0), "b": (0, 1), "c": (0, 0)}[code] for code in "aababc"])
    result = audited(O7, "uvwxyz", labels=labels)
    M, K = result.counts["i2r", "other_patient"]["M"], result.counts["i2r", "label_matched"]["M"]
    by_size = [expectation.pool_metrics(M, 0 * K, K, N, [1])["recall@1"].expected for N in (2, 3, 6)]
    np.testing.assert_allclose(by_size[0], [4 / 5, 4 / 5, 9 / 10, 4 / 5, 9 / 10, 1])
    assert [one.mean() for one in by_size] == pytest.approx([13 / 15, 3 / 4, 1 / 2])


def test_o7b_label_codes():
    blank = strata.BLANK
    labels = np.array([[1, blank, -1], [1, 0, -1], [1, 0, 1], [1, blank, 0], [1, 1, 1]], np.int8)
    has = np.array([True, True, True, True, False])
    wanted = {"quaternary": [0, 1, 2, 3], "ternary": [0, 0, 1, 2], "u_one": [0, 0, 0, 1], "u_zero": [0, 0, 1, 0]}
    for policy, groups in wanted.items():
        codes = strata.label_codes(labels, has, policy)
        assert codes[4] == -1
        assert (codes[:4, None] == codes[None, :4]).tolist() == (np.array(groups)[:, None] == np.array(groups)[None]).tolist()


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
