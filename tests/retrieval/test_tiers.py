"""Counts in tiers of label codes against dense float64 counting, on any mesh, tile and panel."""

import dataclasses

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.retrieval import counts, tiers, unique
from relink_jax.retrieval.counted import OTHER_PATIENT, Records
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes

SIZE, CODES = 4, 7


def made(n_images=150, n_studies=333, seed=0):
    """Returns (records with duplicated reports and two studies a patient, codes with some missing, a random tier matrix)."""
    draw = np.random.default_rng(seed)
    texts, images = (draw.integers(-2, 3, (n, 4)).astype(np.float32) for n in (n_studies, n_images))
    texts[draw.random(n_studies) < 0.3] = texts[0]
    first, study_text = unique.unique_rows(texts)
    image_study = draw.integers(0, n_studies, n_images).astype(np.int32)
    records = Records(images, image_study, texts[first], study_text, (np.arange(n_studies) // 2).astype(np.int32), {})
    code = draw.integers(-1, CODES, n_studies).astype(np.int32)
    return records, code, draw.integers(-1, SIZE, (CODES, CODES)).astype(np.int8)


def brute(records, code, matrix, n_tiers):
    scores = (records.images.astype(np.float64) @ records.texts.astype(np.float64).T)[:, records.study_text]
    asked = records.image_study
    own = scores[np.arange(len(scores)), asked][:, None]
    told = (code[asked] >= 0)[:, None] & (code >= 0)[None] & (records.exclusion[asked][:, None] != records.exclusion[None])
    tier = np.where(told, matrix[code[asked]][:, code], -1)
    return [np.stack([((tier == one) & also).sum(axis=1) for also in (scores == scores, scores > own, scores == own)]) for one in range(n_tiers)]


def same(found, expected):
    for one, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal([one.M, one.g, one.t], wanted)


@pytest.mark.parametrize(
    ("devices", "layout"),
    [
        (1, Layout("images", 64, 128)),
        (3, Layout(query_block=192, tile=128, panel=256)),
        pytest.param(8, Layout("ring"), marks=pytest.mark.slow),
        pytest.param(2, Layout("studies", 128, 128, kernel="never"), marks=pytest.mark.slow),
    ],
)
def test_equals_dense_counting(devices, layout):
    records, code, matrix = made()
    expected = brute(records, code, matrix, SIZE)
    assert all((part > 0).any() for tier in expected for part in tier)
    same(tiers.count(records, code, matrix, SIZE, mesh=meshes.make_mesh(devices), layout=layout), expected)


class Lazy:
    """Rows of a matrix, made when asked for."""

    def __init__(self, matrix):
        self.shape, self._matrix, self.most = matrix.shape, matrix, 0

    def __getitem__(self, codes):
        self.most = max(self.most, len(codes))
        return self._matrix[codes]


def test_a_batch_asks_for_the_row_of_each_code_and_tiers_add_up_to_all_candidates():
    records, code, _ = made()
    code = np.maximum(code, 0)
    upper = Lazy(np.triu(np.ones((CODES, CODES), np.int8)) + np.eye(CODES, dtype=np.int8))
    layout = Layout("images", 64, 128)
    found = tiers.count(records, code, upper, SIZE, mesh=meshes.make_mesh(1), layout=layout)
    assert 1 < upper.most <= CODES + 1
    whole = counts.count(records, mesh=meshes.make_mesh(1), top_k=0, layout=layout, directions=("i2r",))["i2r"].strata[OTHER_PATIENT]
    for field in ("M", "g", "t"):
        np.testing.assert_array_equal(sum(getattr(one, field) for one in found), getattr(whole, field))
    assert not found[3].M.any()


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_scores_of_real_embeddings_meet_their_own_thresholds(devices):
    """In float32 nothing is exact: thresholds must have the bits of the tiles, and integers those of the counting pass."""
    records, code, _ = made(n_images=100)
    draw = np.random.default_rng(3)
    images, texts = (draw.standard_normal((n, 37)).astype(np.float32) for n in (100, len(records.texts)))
    records = dataclasses.replace(records, images=images, texts=texts)
    layout = Layout("images", 64 * devices, 128)
    found = tiers.count(records, np.zeros_like(code), np.zeros((1, 1), np.int8), 1, mesh=meshes.make_mesh(devices), layout=layout)[0]
    whole = counts.count(records, mesh=meshes.make_mesh(devices), top_k=0, layout=layout, directions=("i2r",))["i2r"].strata[OTHER_PATIENT]
    same([found], [[whole.M, whole.g, whole.t]])
    assert (whole.t > 0).any()


def test_codes_beyond_the_matrix_are_refused():
    records, code, matrix = made()
    with pytest.raises(errors.DataError, match="label codes in tiers: expected a code for each of 333 studies, below the 3"):
        tiers.count(records, code, matrix[:3, :3], SIZE, mesh=meshes.make_mesh(1))
