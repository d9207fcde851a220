"""Attackers who fit a linear map: what they must undo, and what nobody may undo."""

import dataclasses

import linked
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.audit import moments, refit
from relink_jax.audit.attacks import base, linear, pairs

EVERY = (linear.Ridge, linear.CCA, linear.Procrustes)
D = linked.D


@pytest.fixture(scope="module")
def plain():
    generator = np.random.default_rng(0)
    return linked.rows(generator, 400), linked.rows(generator, 800)


def cosine(target):
    return base.Space(target.inputs.images, target.inputs.texts)


def through(plain, head):
    """The cohort with every image put through a head."""
    return linked.target(*((images @ head, texts) for images, texts in plain))


def test_an_invertible_head_is_undone_by_those_who_hold_pairs(plain):
    generator = np.random.default_rng(1)
    head = linked.turn(generator) @ np.diag(np.linspace(1, 4, D)) @ linked.turn(generator)
    before, after = linked.target(*plain), through(plain, head)
    whole = linked.recall(before.inputs, cosine(before))
    assert whole > 0.9
    assert linked.recall(after.inputs, cosine(after)) < 0.08
    for attack in (linear.Ridge(), linear.CCA()):
        assert linked.recall(after.inputs, attack.space(after)) > whole - 0.03


def test_a_rotation_is_undone_by_all_three_and_more_pairs_are_never_much_worse(plain):
    after = through(plain, linked.turn(np.random.default_rng(2)))
    assert linked.recall(after.inputs, cosine(after)) < 0.08
    for kind in EVERY:
        found = [linked.recall(after.inputs, kind(pairs=size).space(after)) for size in (12, 50, 200, None)]
        assert found[-1] > 0.9
        assert np.diff(found).min() > -0.03
        assert 0.1 < found[0] < found[1]


def test_a_destroyed_space_is_chance_for_all_three():
    generator = np.random.default_rng(3)
    nothing = linked.target(*(tuple(generator.standard_normal((2, n, D))) for n in (400, 800)))
    for kind in EVERY:
        for size in (12, None):
            assert abs(linked.apart(nothing.inputs, kind(pairs=size).space(nothing))) < 4


@pytest.mark.parametrize("size", [16, None])
@pytest.mark.parametrize("kind", EVERY)
def test_rotating_either_side_changes_no_score(plain, kind, size):
    generator = np.random.default_rng(4)
    turns = linked.turn(generator), linked.turn(generator)
    turned = linked.target(*((images @ turns[0], texts @ turns[1]) for images, texts in plain))
    spaces = [kind(pairs=size).space(target) for target in (linked.target(*plain), turned)]
    scores = [np.asarray(space.images) @ np.asarray(space.texts).T for space in spaces]
    np.testing.assert_allclose(scores[0], scores[1], atol=2e-5)
    for side in (spaces[0].images, spaces[0].texts):
        np.testing.assert_allclose(np.linalg.norm(side, axis=1), 1, atol=1e-5)


def test_fewer_pairs_are_among_more_and_come_patient_by_patient(plain):
    auxiliary = linked.cohort(*plain[1])
    order = pairs.order(auxiliary, 0)
    assert sorted(order.tolist()) == list(range(800))
    assert order.tolist() != pairs.order(auxiliary, 1).tolist()
    patient = auxiliary.study_patient[auxiliary.image_study[order]]
    assert (patient[::2] == patient[1::2]).all()
    target = linked.target(*plain)
    few, more = (pairs.known("ridge", target, size, pairs.EMBEDDINGS, 0) for size in (100, 300))
    np.testing.assert_array_equal(few.images, more.images[:100])
    own = {image.tobytes(): text.tobytes() for image, text in zip(auxiliary.images, auxiliary.texts[auxiliary.study_text], strict=True)}
    assert all(own[image.tobytes()] == text.tobytes() for image, text in zip(more.images, more.texts, strict=True))


def test_sizes_are_those_that_fit(plain):
    assert pairs.sizes(linked.cohort(*plain[1])) == [100, None]
    assert pairs.sizes(linked.cohort(*(side[:100] for side in plain[1]))) == [None]
    one = dataclasses.replace(linked.cohort(*plain[1]), patient_key=np.array(["0"], object))
    assert pairs.sizes(one) == []


@pytest.mark.parametrize("kind", EVERY)
def test_what_cannot_be_fitted_says_why(plain, kind):
    target = linked.target(*plain)
    assert kind().why_not(target) is None
    for attack, why in (
        (kind(pairs=2), "at least 2 patients, found 1"),
        (kind(pairs=801), "expected 2 to 800"),
        (kind(features=pairs.BEFORE_HEAD), "none kept"),
        (kind(features="after"), "'before_head', found 'after'"),
    ):
        assert why in attack.why_not(target)
        with pytest.raises(errors.DataError, match=why):
            attack.space(target)


def test_no_attack_reads_the_truth_of_the_audited(plain):
    target = linked.target(*plain)
    blind = dataclasses.replace(target.inputs, image_study=np.zeros(400, np.int32), study_patient=np.zeros(400, np.int32), study_text=np.zeros(400, np.int32))
    for kind in EVERY:
        first, second = (kind(pairs=100).space(dataclasses.replace(target, inputs=people)) for people in (target.inputs, blind))
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.texts, second.texts)


def test_features_before_the_head_may_be_wide_and_of_two_widths(plain):
    generator = np.random.default_rng(5)
    wide = generator.standard_normal((D, 90)) * np.exp(2 * generator.standard_normal(90)), generator.standard_normal((D, 40))
    features = [base.Features(images @ wide[0], texts @ wide[1]) for images, texts in plain]
    noise = [tuple(generator.standard_normal((2, n, 6))) for n in (400, 800)]
    target = linked.target(*noise, features=features[0], auxiliary_features=features[1])
    for kind in EVERY:
        for size, least in ((60, 0.3), (None, 0.7)):
            space = kind(pairs=size, features=pairs.BEFORE_HEAD).space(target)
            assert linked.recall(target.inputs, space) > least
            assert abs(linked.apart(target.inputs, kind(pairs=size).space(target))) < 4


@pytest.mark.parametrize("n", [10, 60])
def test_ridge_is_ridge_whether_pairs_are_few_or_many(n):
    generator = np.random.default_rng(6)
    x, y = generator.standard_normal((n, 20)), generator.standard_normal((n, 7))
    found = refit.fit(x, y, np.arange(n), strengths=[0.3])
    centred, penalty = x - x.mean(axis=0), 0.3 * np.sum((x - x.mean(axis=0)) ** 2) / 20
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(20), centred.T @ (y - y.mean(axis=0)))
    np.testing.assert_allclose(found.image_weights, weights, atol=1e-10)
    np.testing.assert_allclose(found.texts(y), y - y.mean(axis=0), atol=1e-12)
    assert found.strength == 0.3


def test_canonical_correlations_are_those_between_the_spans_of_both_sides():
    generator = np.random.default_rng(7)
    x, y = (side @ generator.standard_normal((D, width)) for side, width in zip(linked.rows(generator, 300), (9, 5), strict=True))
    found = refit.fit(x, y, np.arange(300), refit.CCA, strengths=[1e-12])
    images, texts = found.images(x), found.texts(y)
    spans = [np.linalg.qr(side - side.mean(axis=0))[0] for side in (x, y)]
    wanted = np.linalg.svd(spans[0].T @ spans[1])[1][::-1]
    np.testing.assert_allclose(np.diag(np.corrcoef(images.T, texts.T)[:5, 5:]), wanted, atol=1e-5)
    for side in (images, texts):
        np.testing.assert_allclose(side.std(axis=0) / side.std(axis=0)[-1], wanted / wanted[-1], atol=1e-5)


def test_procrustes_finds_the_rotation_itself():
    generator = np.random.default_rng(8)
    x, turned = generator.standard_normal((200, D)), linked.turn(generator)
    np.testing.assert_allclose(refit.fit(x, x @ turned, np.arange(200), refit.PROCRUSTES).image_weights, turned, atol=1e-10)
    few = refit.fit(x[:9], (x @ turned)[:9], np.arange(9), refit.PROCRUSTES).image_weights
    assert np.linalg.svd(few)[1] == pytest.approx([1.0] * 8 + [0.0] * (D - 8))
    shared = refit.fit(x, np.repeat(x[:3] @ turned, [70, 70, 60], axis=0), np.arange(200), refit.PROCRUSTES).image_weights
    assert np.linalg.svd(shared)[1] == pytest.approx([1.0] * 2 + [0.0] * (D - 2))


def test_moments_by_fold_are_those_of_the_rows(monkeypatch):
    generator = np.random.default_rng(9)
    monkeypatch.setattr(moments, "_BLOCK", 7)
    x, y, fold = generator.standard_normal((40, 5)) + 3, generator.standard_normal((40, 2)), generator.integers(0, 3, 40)
    sides = moments.side(x, standardise=True), moments.side(y)
    whole = moments.total(moments.by_fold(x, y, sides, fold))
    np.testing.assert_allclose(whole.about(whole.mean)[0], 40 * np.corrcoef(x.T), atol=1e-10)
    for number, part in enumerate(moments.by_fold(x, y, sides, fold)):
        rows = np.concatenate([(x - x.mean(axis=0)) / x.std(axis=0), y - y.mean(axis=0)], axis=1)[fold == number]
        wanted = (rows - rows.mean(axis=0)).T @ (rows - rows.mean(axis=0))
        for found, block in zip(part.about(part.mean), (wanted[:5, :5], wanted[:5, 5:], wanted[5:, 5:]), strict=True):
            np.testing.assert_allclose(found, block, atol=1e-10)
