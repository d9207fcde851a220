"""A fresh head on features before the released one."""

import dataclasses

import linked
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.audit.attacks import base, fresh_head, linear, pairs

pytestmark = pytest.mark.usefixtures("quick_module")

SIZES = 200, 800
HEAD = fresh_head.FreshHead(steps=100)


def made(generator, rows):
    """Embeddings without anything in them, of people whose features are `rows` of both sizes, mixed."""
    mixed = generator.standard_normal((2, linked.D, linked.D))
    features = [base.Features(images @ mixed[0], texts @ mixed[1]) for images, texts in map(rows, SIZES)]
    destroyed = [tuple(generator.standard_normal((2, n, 8))) for n in SIZES]
    return linked.target(*destroyed, features=features[0], auxiliary_features=features[1])


@pytest.fixture(scope="module")
def hidden():
    """Images and reports that share a vector, each under noise of a strength of its own."""
    generator = np.random.default_rng(0)

    def rows(n):
        shared = generator.standard_normal((n, linked.D))
        noise = generator.standard_normal((2, n, linked.D)) * np.exp(1.5 * generator.standard_normal((2, n, 1)))
        return shared + 0.5 * noise[0], shared + 0.5 * noise[1]

    return made(generator, rows)


def test_it_recovers_what_a_destroyed_head_hides_and_training_is_what_does_it(hidden):
    assert abs(linked.apart(hidden.inputs, linear.CCA().space(hidden), 20)) < 4
    trained = HEAD.space(hidden)
    start = linear.CCA(features=pairs.BEFORE_HEAD).space(hidden)
    assert linked.recall(hidden.inputs, trained, 20) > linked.recall(hidden.inputs, start, 20) + 0.1 > 0.2
    assert trained.params["steps"] >= HEAD.look
    assert trained.params["loss_aside"][1] < trained.params["loss_aside"][0] - 0.1
    assert trained.params["fitted_pairs"] == SIZES[1]
    np.testing.assert_allclose(np.linalg.norm(trained.images, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_features_that_do_not_link_are_chance():
    generator = np.random.default_rng(1)
    nothing = made(generator, lambda n: tuple(generator.standard_normal((2, n, linked.D))))
    assert abs(linked.apart(nothing.inputs, HEAD.space(nothing), 20)) < 4


@pytest.mark.slow
def test_equal_seeds_give_equal_heads(hidden):
    short = dataclasses.replace(HEAD, pairs=800, steps=20, batch_size=256)
    first, again, other = (dataclasses.replace(short, seed=seed).space(hidden).images for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_patients_left_aside_are_never_learned_from():
    patient = np.repeat([7, 3, 9, 1, 4, 8, 2], 3)
    aside = fresh_head._aside(patient)
    assert set(patient[aside]) == {3, 2}
    assert aside.sum() == 6
    assert fresh_head._aside(np.array([5, 5, 6])).tolist() == [False, False, True]


@pytest.mark.slow
def test_other_pairs_of_a_patient_are_neither_right_nor_wrong():
    generator = np.random.default_rng(2)
    x, y = generator.standard_normal((2, 6, 4)).astype(np.float32)
    params = fresh_head._before(fresh_head._Batch(x, y, None))
    loss = [float(fresh_head._loss(params, fresh_head._Batch(x, y, np.array(patient)))) for patient in ([0] * 6, [0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2])]
    assert loss[0] == pytest.approx(0, abs=1e-5)
    u, v = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y))
    logits = u @ v.T / 0.07
    spread = np.log(np.exp(logits).sum(axis=1)) + np.log(np.exp(logits).sum(axis=0))
    assert loss[1] == pytest.approx(np.mean(spread / 2 - np.diag(logits)), rel=1e-4)
    assert loss[2] < loss[1]


def test_what_cannot_be_trained_says_why(hidden):
    assert HEAD.why_not(hidden) is None
    for attack, target, why in (
        (HEAD, dataclasses.replace(hidden, auxiliary_features=None), "none kept"),
        (dataclasses.replace(HEAD, pairs=3), hidden, "at least 3 patients, one to stop by, found 2"),
        (dataclasses.replace(HEAD, pairs=2), hidden, "at least 2 patients"),
    ):
        assert why in attack.why_not(target)
        with pytest.raises(errors.DataError, match=why):
            attack.space(target)
