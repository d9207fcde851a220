"""What must and what must not change the integers, on score matrices given outright: images are their columns, texts unit vectors."""

import numpy as np
import pytest

from relink_jax.retrieval import counts, expectation, unique
from relink_jax.retrieval.counted import LABEL_MATCHED, Records
from relink_jax.runtime import mesh as meshes
from relink_jax.utility import auroc

FIELDS = ("M", "g", "t")


def tally(scores, exclusion, code, image_study):
    """Returns {(direction, stratum): int64 [Q, 3]} of a matrix [images, studies]; equal columns are one text."""
    first, text = unique.unique_rows(np.asarray(scores, np.float32).T)
    texts = np.eye(len(first), dtype=np.float32)
    exclusion, code = (np.asarray(column, np.int32) for column in (exclusion, code))
    records = Records(np.asarray(scores, np.float32)[:, first], np.asarray(image_study, np.int32), texts, text, exclusion, {LABEL_MATCHED: code})
    counted = counts.count(records, mesh=meshes.make_mesh(1), top_k=0)
    return {
        (direction, name): np.stack([getattr(stratum, field) for field in FIELDS], axis=1)
        for direction, found in counted.items()
        for name, stratum in found.strata.items()
    }


def example(seed=0, n_images=24, n_studies=16):
    """Returns the arguments of `tally`: ties, a duplicated report, same-patient studies, unlabelled studies, studies with several images."""
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 9, (n_images, n_studies))
    scores[:, 5] = scores[:, 2]
    image_study = np.concatenate([np.arange(n_studies), generator.integers(0, n_studies, n_images - n_studies)])
    return scores, np.arange(n_studies) // 2, generator.integers(-1, 2, n_studies), image_study


def assert_same(first, second, directions=("i2r", "r2i")):
    for direction, name in first:
        if direction in directions:
            np.testing.assert_array_equal(first[direction, name], second[direction, name], err_msg=f"{direction} {name}")


@pytest.mark.parametrize("transform", [lambda s: s**3, lambda s: 2.0**s - 100, lambda s: np.sqrt(s + 1), lambda s: -1.0 / (s + 1)])
def test_strictly_monotone_transform_of_scores_changes_nothing(transform):
    scores, *rest = example()
    assert_same(tally(scores, *rest), tally(transform(scores.astype(np.float64)), *rest))


def test_a_transform_that_merges_scores_is_seen():
    scores, *rest = example()
    merged = tally(scores // 2, *rest)["i2r", "other_patient"]
    assert (merged != tally(scores, *rest)["i2r", "other_patient"]).any()


def test_duplicate_of_a_negative_changes_only_m_and_its_own_side_of_the_truth():
    scores, patient, code, image_study = example(1)
    before = tally(scores, patient, code, image_study)
    own = scores[np.arange(len(scores)), image_study]
    for study in range(scores.shape[1]):
        column = scores[:, study]
        after = tally(np.column_stack([scores, column]), [*patient, patient.max() + 1], [*code, code[study]], image_study)
        added = np.stack([np.ones(len(scores)), column > own, column == own], axis=1).astype(np.int64)
        np.testing.assert_array_equal(after["i2r", "other_patient"] - before["i2r", "other_patient"], added)
        matched = (code[image_study] == code[study]) & (code[study] >= 0)
        np.testing.assert_array_equal(after["i2r", "label_matched"] - before["i2r", "label_matched"], added * matched[:, None])
        assert_same(before, after, ["r2i"])


def test_counts_of_candidate_blocks_sum_to_the_total():
    """Queries exclude one another, so each is counted against every other candidate exactly once, whatever the blocks."""
    scores, exclusion, code, image_study = example(2, n_images=60, n_studies=40)
    exclusion = np.where(np.arange(40) < 10, 0, 1 + exclusion)
    asked = image_study < 10
    total = tally(scores, exclusion, code, image_study)
    block = np.random.default_rng(0).integers(0, 4, 40)
    parts = []
    for number in range(4):
        studies = np.flatnonzero((np.arange(40) < 10) | (block == number))
        images = np.flatnonzero(np.isin(image_study, studies))
        found = tally(scores[np.ix_(images, studies)], exclusion[studies], code[studies], np.searchsorted(studies, image_study[images]))
        parts.append({key: value[asked[images]] if key[0] == "i2r" else value[:10] for key, value in found.items()})
    for (direction, name), value in total.items():
        whole = value[asked] if direction == "i2r" else value[:10]
        np.testing.assert_array_equal(sum(part[direction, name] for part in parts), whole, err_msg=f"{direction} {name}")
        assert whole[:, 1:].sum() > 0


def test_constant_per_query_moves_pooled_auc_alone():
    scores, patient, code, image_study = example(3)
    generator = np.random.default_rng(0)
    per_image, per_study = generator.integers(-40, 40, (len(scores), 1)), generator.integers(-40, 40, (1, scores.shape[1]))
    per_study[0, 5] = per_study[0, 2]
    before = tally(scores, patient, code, image_study)
    by_image, by_study = (tally(scores + moved, patient, code, image_study) for moved in (per_image, per_study))
    assert_same(before, by_image, ["i2r"])
    assert_same(before, by_study, ["r2i"])
    assert (before["r2i", "other_patient"] != by_image["r2i", "other_patient"]).any()
    assert (before["i2r", "other_patient"] != by_study["i2r", "other_patient"]).any()
    positive = image_study[:, None] == np.arange(scores.shape[1])
    kept = positive | (patient[image_study][:, None] != patient)
    pooled = [auroc.auroc((scores + moved)[kept].astype(np.float64), positive[kept]) for moved in (0, per_image)]
    within = [expectation.auc(*counted["i2r", "other_patient"].T).expected.mean() for counted in (before, by_image)]
    assert within[0] == within[1]
    assert abs(pooled[0] - pooled[1]) > 0.01
