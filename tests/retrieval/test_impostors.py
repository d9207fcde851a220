"""Impostor scores against float64 brute force: every pair once, exact edges, an exact and certified tail."""

import dataclasses
import math

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.retrieval import engine, impostor_pass, impostors, unique
from relink_jax.retrieval.counted import Records
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes


def records(n_images, n_studies, dim, seed=0, grid=True):
    """Returns records with duplicated reports, studies without images and two studies a patient; scores of a grid are multiples of 1/64."""
    generator = np.random.default_rng(seed)
    texts, images = (generator.integers(-2, 3, (n, dim)) / 8 if grid else generator.standard_normal((n, dim)) for n in (n_studies, n_images))
    if not grid:
        texts, images = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (texts, images))
    texts[generator.random(n_studies) < 0.3] = texts[0]
    first, study_text = unique.unique_rows(texts.astype(np.float32))
    image_study = generator.integers(0, n_studies, n_images).astype(np.int32)
    patient = (np.arange(n_studies) // 2).astype(np.int32)
    block = patient % 3
    return Records(images.astype(np.float32), image_study, texts.astype(np.float32)[first], study_text, patient, {"label": patient}, block)


def brute(data):
    """Returns (scores, images, studies) of all impostor pairs in float64, by score descending, image, study."""
    scores = (data.images.astype(np.float64) @ data.texts.astype(np.float64).T)[:, data.study_text]
    image, study = np.nonzero(data.exclusion[data.image_study][:, None] != data.exclusion[None])
    order = np.lexsort((study, image, -scores[image, study]))
    return scores[image, study][order], image[order], study[order]


def check(found, data, wanted):
    score, image, study = brute(data)
    assert (found.total, found.reach) == (len(score), wanted)
    half = len(found.histogram) // 2
    np.testing.assert_array_equal(found.histogram, np.bincount(np.clip(np.floor(score * half), -half, half - 1).astype(int) + half, minlength=2 * half))
    assert found.cut == score[wanted - 1]
    above = score > found.cut
    for name, expected in (("score", score), ("image", image), ("study", study)):
        np.testing.assert_array_equal(getattr(found, name), expected[above])


GRID = records(150, 333, 4)


@pytest.mark.parametrize(
    ("devices", "layout", "bins"),
    [
        pytest.param(1, Layout(), 1 << 20, marks=pytest.mark.slow),
        pytest.param(2, Layout("studies", 128, 128), 32, marks=pytest.mark.slow),
        (3, Layout(query_block=192, tile=128, panel=256), 64),
        (8, Layout(), 2),
    ],
)
def test_equals_brute_force_on_any_mesh_and_layout(devices, layout, bins):
    found = impostors.count(GRID, meshes.make_mesh(devices), bins=bins, tail_share=0.01, layout=layout)
    check(found, GRID, math.ceil(0.01 * found.total))
    assert len(found.score) > 100


def test_a_limit_shortens_the_tail_and_nothing_else():
    found = impostors.count(GRID, meshes.make_mesh(1), tail_share=0.01, tail_limit=77)
    check(found, GRID, 77)


def test_a_share_of_one_keeps_every_pair():
    data = records(20, 15, 3)
    found, (score, image, study) = impostors.count(data, meshes.make_mesh(2), tail_share=1), brute(data)
    assert found.cut == -np.inf
    for name, expected in (("score", score), ("image", image), ("study", study)):
        np.testing.assert_array_equal(getattr(found, name), expected)
    assert found.threshold(1) == -np.inf
    assert found.at_least(-np.inf) == (len(score), len(score))


def test_no_tail_leaves_the_bins():
    found, (score, _, _) = impostors.count(GRID, meshes.make_mesh(1), bins=64, tail_share=0), brute(GRID)
    assert (len(found.score), found.cut, found.reach) == (0, np.inf, 0)
    for asked in (-1.5, -0.25, -0.01, 0.0, 0.109375, 0.125, 0.5, 2.0):
        low, high = found.at_least(asked)
        assert low <= (score >= asked).sum() <= high
        assert low == high or asked not in impostor_pass.edges(64)


@pytest.mark.parametrize("guess", [0.9, pytest.param(-np.inf, marks=pytest.mark.slow), 0.1])
def test_any_guess_of_the_floor_ends_in_the_same_tail(guess, monkeypatch):
    runs, looked_through = [], []
    run, tile = impostor_pass.run, impostor_pass._tile
    monkeypatch.setattr(impostor_pass, "_guess", lambda *_: guess)
    monkeypatch.setattr(impostor_pass, "run", lambda *given, **named: (runs.append(given), run(*given, **named))[1])
    monkeypatch.setattr(impostor_pass, "_tile", lambda mesh: (looked_through.append(mesh), tile(mesh))[1])
    monkeypatch.setattr(impostor_pass, "room", lambda *_: 4)
    found = impostors.count(GRID, meshes.make_mesh(2), tail_share=0.01, layout=Layout(query_block=128, tile=128))
    check(found, GRID, math.ceil(0.01 * found.total))
    assert len(runs) == 1 + (guess == 0.9)
    assert looked_through


@pytest.mark.slow
def test_the_floor_of_a_sample_is_near_the_cut():
    data = records(600, 500, 8, seed=3, grid=False)
    work = impostors.streamed.engine(data, meshes.make_mesh(1), Layout(query_block=64))
    columns = next(impostors.streamed.panels(work))
    floor = impostor_pass._guess(work, columns, 1 << 20, 0.001)
    score, _, _ = brute(data)
    assert 0.001 < (score > floor).mean() < 0.01


def test_equal_scores_leave_an_empty_tail():
    number = np.arange(300, dtype=np.int32)
    data = Records(np.full((300, 1), 0.5, np.float32), number, np.ones((1, 1), np.float32), np.zeros_like(number), number, {})
    found = impostors.count(data, meshes.make_mesh(2), tail_share=1e-3)
    assert (found.cut, len(found.score), found.reach) == (0.5, 0, 90)
    assert found.at_least(0.5) == (89_700, 89_700)
    assert found.threshold(1e-4) == np.nextafter(np.float32(0.5), np.float32(1))
    assert found.at_least(found.threshold(1e-4)) == (0, 0)


def test_counts_go_to_the_host_before_they_overflow(monkeypatch):
    seen, put = [], impostor_pass.Pass._empty
    monkeypatch.setattr(impostor_pass, "MOST", 64 * 256)
    monkeypatch.setattr(impostor_pass.Pass, "_empty", lambda self: (seen.append(self.work.panels), put(self))[1])
    found = impostors.count(GRID, meshes.make_mesh(1), tail_share=0.01, layout=Layout(query_block=64, tile=128))
    check(found, GRID, math.ceil(0.01 * found.total))
    assert set(seen) == {3}
    assert len(seen) > 6


def test_unit_rows_agree_with_float64():
    data = records(200, 300, 16, seed=1, grid=False)
    found, (score, _, _) = impostors.count(data, meshes.make_mesh(2), tail_share=0.005), brute(data)
    np.testing.assert_allclose(found.score, score[: len(found.score)], atol=1e-6)
    assert found.reach - 2 <= len(found.score) < found.reach
    for asked in np.linspace(-0.99, 0.99, 41):
        low, high = found.at_least(asked)
        assert low - (np.abs(score - asked) < 1e-6).sum() <= (score >= asked).sum() <= high + (np.abs(score - asked) < 1e-6).sum()
        assert high - low < 20
    for rate in (0, 1e-4, 1e-3, 0.004, 0.0049, 0.01, 0.2, 0.9):
        threshold = found.threshold(rate)
        assert found.at_least(threshold).high <= rate * found.total
        one_lower = np.nextafter(np.float32(threshold), np.float32(-9)) if rate < 0.005 else threshold - 2.0**-18
        assert found.at_least(one_lower).high > rate * found.total


@pytest.mark.parametrize("tail_share", [1, 0.5, 0])
def test_ties_count_against_the_attacker(tail_share):
    """Own scores 9,8,8,6,3 and impostors 8,7,6,6,5,4,3,2,1,0: TPR 1/5, 1/5, 3/5, 3/5, 4/5 at FPR 0, 1/20, 1/10, 1/5, 2/5."""
    texts = np.array([[8], [7], [6], [6], [5], [4], [3], [2], [1], [0], [9]], np.float32) / 16
    number = np.arange(11, dtype=np.int32)
    data = Records(np.ones((1, 1), np.float32), number[10:], texts, number, number, {})
    found = impostors.count(data, meshes.make_mesh(1), bins=32, tail_share=tail_share)
    own = np.array([9, 8, 8, 6, 3], np.float32) / 16
    rates = [found.operating_point(own, rate).true_positive_rate for rate in (0, 1 / 20, 1 / 10, 1 / 5, 2 / 5)]
    assert rates == [1 / 5, 1 / 5, 3 / 5, 3 / 5, 4 / 5]
    assert found.operating_point(own, 0.2).false_positive_rate == 0.2


def test_a_low_rate_is_not_few_false_matches():
    found = impostors.Impostors(np.array([99_999, 1]), 100_000, 2, 0.5, np.float32([0.75]), np.zeros(1, np.int32), np.zeros(1, np.int32))
    point = found.operating_point(np.repeat(np.float32([0.6, 0.4]), [3, 7]), 1e-5, (100, 10_000, 43_793, 1))
    assert point.false_positive_rate == 1e-5
    np.testing.assert_allclose(point.positive_predictive_value, [0.997, 0.75, 0.41, 1], atol=0.004)
    assert math.isnan(found.operating_point(np.float32([0.1]), 0, (10,)).positive_predictive_value[0])


def test_a_pair_that_is_missed_is_refused(monkeypatch):
    honest = engine.Engine.batch
    monkeypatch.setattr(engine.Engine, "batch", lambda *given: honest(*given)._replace(key=np.full(len(given[1]), -9, np.int32)))
    with pytest.raises(errors.UnsoundError, match=r"pairs in the histogram in impostor scores: expected .*, all eligible ones, found"):
        impostors.count(GRID, meshes.make_mesh(1))


def test_a_tail_that_contradicts_the_histogram_is_refused():
    found = impostors.count(GRID, meshes.make_mesh(1), tail_share=0.01)
    with pytest.raises(errors.UnsoundError, match="tail and histogram in impostor scores: expected the same pairs above the cut, found others in 1 bins"):
        impostors.check_tail(dataclasses.replace(found, score=found.score[1:]), found.reach)
    with pytest.raises(errors.UnsoundError, match="scores of the tail"):
        impostors.check_tail(found, found.reach - 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bins": 1000}, "bins in impostor scores: expected a power of two from 2 to 1,048,576, found 1000"),
        ({"bins": 1 << 21}, "bins"),
        ({"tail_share": 1.5}, "share of the tail"),
        ({"tail_share": math.nan}, "share of the tail"),
        ({"tail_limit": -1}, "limit of the tail"),
    ],
)
def test_wrong_arguments_are_refused(given, words):
    with pytest.raises(errors.UsageError, match=words):
        impostors.count(GRID, meshes.make_mesh(1), **given)


def test_pairs_of_one_patient_alone_are_refused():
    data = dataclasses.replace(GRID, exclusion=np.zeros_like(GRID.exclusion))
    with pytest.raises(errors.DataError, match="impostor pairs"):
        impostors.count(data, meshes.make_mesh(1))
    found = impostors.Impostors(np.array([1, 1]), 2, 0, math.inf, *(np.zeros(0, kind) for kind in (np.float32, np.int32, np.int32)))
    with pytest.raises(errors.UsageError, match="false-positive rate"):
        found.threshold(-0.1)
    with pytest.raises(errors.DataError, match="true pairs"):
        found.operating_point(np.zeros(0, np.float32), 0.1)
    with pytest.raises(errors.UsageError, match="pool size"):
        found.operating_point(np.zeros(1, np.float32), 0.1, (0,))
