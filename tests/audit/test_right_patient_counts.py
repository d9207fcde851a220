"""Whose report comes first: worked examples, enumeration of pools with ties, and the count behind it against its definition."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from matrices import O1

from relink_jax import errors
from relink_jax.audit import right_patient, right_patient_counts, uncertainty
from relink_jax.audit.sample import Sample
from relink_jax.retrieval import right_patient as without_ties
from relink_jax.retrieval.counted import Records, StratumCounts
from relink_jax.runtime import mesh as meshes
from relink_jax.store import tables

pytestmark = pytest.mark.usefixtures("quick_module")


def records_of(scores, study, patient):
    """Records whose scores are a matrix [images, studies], equal columns being equal texts; with a code and blocks, which no sibling needs."""
    _, first, text = np.unique(scores, axis=1, return_index=True, return_inverse=True)
    n = scores.shape[1]
    rows = np.asarray(study, np.int32), np.eye(len(first), dtype=np.float32), text.ravel().astype(np.int32)
    code, block = {"label_matched": np.zeros(n, np.int32)}, np.arange(n, dtype=np.int32) % 2
    return Records(scores[:, first].astype(np.float32), *rows, np.asarray(patient, np.int32), code, block)


def counts_of(scores, study, patient):
    """Counts of other-patient negatives, from their definition."""
    other = patient[study][:, None] != patient[None]
    truth = scores[np.arange(len(study)), study][:, None]
    return StratumCounts(*((other & one).sum(axis=1) for one in (scores == scores, scores > truth, scores == truth)))


def found(scores, study, patient):
    scores, study, patient = np.asarray(scores), np.asarray(study), np.asarray(patient)
    counts = counts_of(scores, study, patient)
    return counts, right_patient_counts.find(records_of(scores, study, patient), counts, meshes.make_mesh(1))


def section(counts, siblings, sizes, patient_of_query):
    patient = np.asarray(patient_of_query)
    return right_patient.section(counts, siblings, sizes, Sample(patient, int(patient.max()) + 1, uncertainty.Bootstrap(100)))


def enumerated(row, own, patient, N):
    """Exact chances (right study, another study of the patient) of one query, over all pools and all orders of ties."""
    others = [study for study in range(len(row)) if study != own]
    pools = list(itertools.combinations(others, N - 1))
    right = other = Fraction(0)
    for pool in pools:
        best = [study for study in (own, *pool) if row[study] == max(row[[own, *pool]])]
        right += Fraction(own in best, len(best))
        other += Fraction(sum(patient[study] == patient[own] and study != own for study in best), len(best))
    return right / len(pools), other / len(pools)


def test_o5_right_study_three_tenths_right_patient_two_fifths():
    counts, siblings = found(O1, np.arange(5), np.array([0, 0, 1, 2, 2]))
    assert list(zip(counts.g, counts.t, counts.M, strict=True)) == [(0, 0, 3), (0, 0, 3), (1, 2, 4), (1, 0, 3), (1, 0, 3)]
    entry = section(counts, siblings, [None], [0, 0, 1, 2, 2])[0]
    assert (entry["N"], entry["full"]) == (5, True)
    assert entry["right_study"]["value"] == pytest.approx(float(Fraction(3, 10)))
    assert entry["right_patient"]["value"] == pytest.approx(float(Fraction(1, 10)))
    assert entry["wrong_patient"]["value"] == pytest.approx(float(Fraction(3, 5)))
    assert entry["chance_study"] == pytest.approx(1 / 5)
    assert entry["chance_patient"] == pytest.approx((4 * 2 + 1) / 25)
    assert (entry["right_study"]["n_queries"], entry["right_study"]["n_patients"]) == (5, 3)


def test_o6_closed_form():
    patient = np.array([{"n": 0, "p": 9, "T": 9}[one] for one in "npnTnpn"])
    patient[patient == 0] = 1 + np.arange(4)
    counts, siblings = found(np.arange(7, 0, -1)[None], [3], patient)
    assert [siblings.others.tolist(), siblings.beside.tolist(), siblings.studies.tolist(), siblings.greater.tolist()] == [[2], [0], [1], [1]]
    wanted = {
        2: (Fraction(1, 2), Fraction(2, 3), Fraction(2, 3)),
        3: (Fraction(1, 5), Fraction(7, 15), Fraction(5, 9)),
        4: (Fraction(1, 20), Fraction(7, 20), Fraction(1, 2)),
        6: (0, Fraction(1, 6), Fraction(4, 9)),
        7: (0, 0, Fraction(3, 7)),
    }
    for entry, (N, (study, patient_, chance)) in zip(section(counts, siblings, list(wanted), [0]), wanted.items(), strict=True):
        assert (entry["N"], entry["full"]) == (N, False)
        assert entry["right_study"]["value"] == pytest.approx(float(study), abs=1e-13)
        assert entry["right_study"]["value"] + entry["right_patient"]["value"] == pytest.approx(float(patient_), abs=1e-13)
        assert (entry["chance_study"], entry["chance_patient"]) == pytest.approx((1 / N, float(chance)))


@pytest.fixture(scope="module")
def crowded():
    """Scores with many ties, three patients of several studies, two images of some studies, two equal columns of different patients."""
    generator = np.random.default_rng(4)
    scores = generator.integers(0, 4, (24, 8))
    scores[:, 7] = scores[:, 2]
    patient, study = np.array([0, 0, 0, 1, 1, 2, 3, 3]), np.arange(24) % 8
    return scores, study, patient, *found(scores, study, patient)


def test_every_pool_of_tied_scores(crowded):
    scores, study, patient, counts, siblings = crowded
    assert siblings.beside.any()
    assert siblings.tied.any()
    assert siblings.studies.max() > 1
    for N in range(2, 9):
        mine = np.stack(right_patient.first_place(counts, siblings, N), axis=1)
        wanted = [[float(one) for one in enumerated(row, own, patient, N)] for row, own in zip(scores, study, strict=True)]
        np.testing.assert_allclose(mine, wanted, rtol=0, atol=1e-13)
    np.testing.assert_allclose(np.stack(right_patient.first_place(counts, siblings, None), axis=1), wanted, rtol=0, atol=1e-13)


def check_definition(scores, study, patient, siblings):
    for query, (row, own) in enumerate(zip(scores, study, strict=True)):
        same = (patient == patient[own]) & (np.arange(len(row)) != own)
        entries = slice(*siblings.offsets[query : query + 2])
        levels = sorted({int(score) for score in row[same] if score > row[own]}, reverse=True)
        assert siblings.others[query] == same.sum()
        assert siblings.beside[query] == (same & (row == row[own])).sum()
        assert siblings.studies[entries].tolist() == [int((same & (row == level)).sum()) for level in levels]
        strange = patient != patient[own]
        assert siblings.greater[entries].tolist() == [int((strange & (row > level)).sum()) for level in levels]
        assert siblings.tied[entries].tolist() == [int((strange & (row == level)).sum()) for level in levels]


def test_the_count_is_its_definition(crowded):
    scores, study, patient, _, siblings = crowded
    check_definition(scores, study, patient, siblings)


def test_shares_add_up_and_some_queries_alone(crowded):
    _, study, patient, counts, siblings = crowded
    for entry in section(counts, siblings, [2, 5, 8, 9, None], patient[study]):
        parts = [entry[name]["value"] for name in ("right_study", "right_patient", "wrong_patient")]
        assert sum(parts) == pytest.approx(1, abs=1e-12)
        assert all(entry[name]["ci"]["low"] <= entry[name]["value"] <= entry[name]["ci"]["high"] for name in ("right_study", "wrong_patient"))
        assert entry["N"] <= 8
    rows = np.array([20, 3, 3, 11])
    few = right_patient.first_place(StratumCounts(*(one[rows] for one in (counts.M, counts.g, counts.t))), siblings.of(rows), 4)
    np.testing.assert_array_equal(few, np.stack(right_patient.first_place(counts, siblings, 4))[:, rows])


def test_parts_of_pairs_and_of_images_change_nothing(crowded, monkeypatch):
    scores, study, patient, counts, siblings = crowded
    monkeypatch.setattr(right_patient_counts, "_PAIRS", 5)
    again = right_patient_counts.find(records_of(scores, study, patient), counts, meshes.make_mesh(1))
    for name in ("others", "beside", "offsets", "studies", "greater", "tied"):
        np.testing.assert_array_equal(getattr(again, name), getattr(siblings, name))


def test_without_ties_it_is_the_form_without_ties():
    """24 studies in random order per query; the closed form for any k knows no ties, and is another derivation."""
    generator = np.random.default_rng(9)
    scores = generator.permuted(np.tile(np.arange(24), (24, 1)), axis=1)
    patient, study = np.repeat(np.arange(6), 4), np.arange(24)
    counts, siblings = found(scores, study, patient)
    better = np.repeat(siblings.greater, siblings.studies)
    assert siblings.studies.max() == 1
    assert len(siblings.greater) > len(study)  # which takes two further passes
    check_definition(scores, study, patient, siblings)
    for N in (2, 5, 24):
        right, other = right_patient.first_place(counts, siblings, N)
        wanted = without_ties.recall(counts.M + siblings.others, counts.g, better, siblings.offsets, N, [1])[0]
        np.testing.assert_allclose(right + other, wanted, atol=1e-13)


def test_no_sibling_and_none_that_beats_the_truth():
    counts, siblings = found(np.array([[3, 2, 1], [1, 3, 2], [0, 1, 2]]), [0, 1, 2], np.array([0, 1, 1]))
    assert (siblings.others.tolist(), siblings.offsets.tolist(), len(siblings.greater)) == ([0, 1, 1], [0, 0, 0, 0], 0)
    entry = section(counts, siblings, [None], [0, 1, 1])[0]
    assert (entry["right_study"]["value"], entry["right_patient"]["value"], entry["wrong_patient"]["value"]) == (1, 0, 0)


def test_large_universes():
    """Two better studies at strangers' rank 0 and 10^6 of 10^7: pools of 1001 hold the first with chance 1e-4."""
    M, n = 10**7, 1000
    near = right_patient.Siblings(*(np.array(one) for one in ([2], [0], [0, 2], [1, 1], [0, 10**6], [0, 0])))
    right, other = right_patient.first_place(StratumCounts(np.array([M - 2]), np.array([2 * 10**6]), np.array([0])), near, n + 1)
    assert other[0] == pytest.approx(n / M, rel=1e-6)
    assert right[0] == pytest.approx(0.8**n, rel=0.2)


def test_counts_that_rounding_put_out_of_order():
    query, g = np.array([0, 0, 0, 2, 2]), np.array([5, 9, 4])
    greater, tied = right_patient_counts._ordered(query, np.array([2, 1, 7, 3, 6]), np.array([0, 3, 1, 9, 1]), g)
    assert greater.tolist() == [1, 1, 5, 3, 4]
    assert tied.tolist() == [0, 3, 0, 1, 0]


def test_table_round_trip(tmp_path, crowded):
    *_, siblings = crowded
    tables.write_table(tmp_path / "x.parquet", right_patient.to_columns(siblings))
    again = right_patient.from_columns(tables.read_table(tmp_path / "x.parquet"))
    for name in ("others", "beside", "offsets", "studies", "greater", "tied"):
        np.testing.assert_array_equal(getattr(again, name), getattr(siblings, name))
    columns = right_patient.to_columns(siblings)
    with pytest.raises(ValueError, match="unlike lengths"):
        right_patient.from_columns({**columns, "tied": columns["tied"][1:]})


def test_refuses_queries_of_another_table(crowded):
    _, study, patient, counts, siblings = crowded
    with pytest.raises(errors.DataError, match="lengths in right-patient section: expected 24 queries in all parts"):
        section(counts, siblings.of(np.arange(3)), [None], patient[study])
