"""The contrastive objective, its shortcuts, and a training small enough to run here."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relink_jax.encoders import convert, phantom_models, phantom_training, specs, towers, zoo

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

STACK = specs.StackSpec(width=24, layers=1, heads=2, mlp_width=24, act="quick_gelu", epsilon=1e-5)
SPEC = specs.VLMSpec("tiny", pathlib.Path(), specs.VitSpec(STACK, 16, 8), specs.TextSpec(STACK, 40, 12, 39), 16)


def _unit(draw, rows):
    x = draw.standard_normal((rows, 5)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _pairs(draw, count, kinds):
    """Images whose bright quadrant and level say which of `kinds` texts is theirs."""
    text = draw.integers(0, kinds, count).astype(np.int32)
    images = draw.integers(0, 20, (count, 16, 16)).astype(np.uint8)
    for row, kind in enumerate(text):
        top, left = 8 * (kind % 2), 8 * (kind // 2 % 2)
        images[row, top : top + 8, left : left + 8] += np.uint8(60 + 80 * (kind // 4))
    ids = np.full((kinds, 12), 39, np.int32)
    ids[:, 0] = 38
    for kind in range(kinds):
        ids[kind, 1 : 2 + kind % 5] = kind
    return phantom_training.Pairs(images, text, ids)


def test_loss_is_the_mean_of_both_directions():
    draw = np.random.default_rng(0)
    image, text = _unit(draw, 6), _unit(draw, 6)
    logits = np.exp(1.3) * (image.astype(np.float64) @ text.T)
    rows = np.log(np.exp(logits).sum(1)) - np.diagonal(logits)
    columns = np.log(np.exp(logits).sum(0)) - np.diagonal(logits)
    found = phantom_training.contrastive_loss(jnp.asarray(image), jnp.asarray(text), jnp.float32(1.3), jnp.arange(6))
    np.testing.assert_allclose(found, (rows.mean() + columns.mean()) / 2, rtol=1e-5)


def test_identical_texts_are_positives_of_each_other():
    draw = np.random.default_rng(1)
    image, text = _unit(draw, 4), _unit(draw, 4)
    text[3] = text[1]
    logits = np.exp(1.0) * (image.astype(np.float64) @ text.T)
    log_rows = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    log_columns = (logits - np.log(np.exp(logits).sum(0, keepdims=True))).T
    target = np.eye(4)
    target[1, 3] = target[3, 1] = target[1, 1] = target[3, 3] = 0.5
    expected = -((target * log_rows).sum(1).mean() + (target * log_columns).sum(1).mean()) / 2
    found = phantom_training.contrastive_loss(jnp.asarray(image), jnp.asarray(text), jnp.float32(1.0), jnp.asarray([0, 1, 2, 1]))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_reading_short_texts_only_as_far_as_they_go_changes_nothing():
    draw = np.random.default_rng(2)
    pairs = _pairs(draw, 8, 8)
    params = towers.init(SPEC, jax.random.key(0))
    order = np.argsort((pairs.ids[pairs.text] != 39).sum(1), kind="stable")
    ids, pixels = pairs.ids[pairs.text[order]], jnp.asarray(draw.standard_normal((8, 16, 16, 3)), jnp.float32)
    compiled = jax.jit(phantom_training.embed, static_argnums=(0, 4))
    whole, cut = compiled(SPEC, params, pixels, ids), compiled(SPEC, params, pixels, ids, (7, 12))
    for one, other in zip(whole, cut, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-6)


def test_batches_keep_every_text_within_its_cut():
    lengths = np.random.default_rng(3).integers(3, 60, 500)
    cuts = phantom_training.length_cuts(lengths)
    batches = phantom_training._batches(lengths, cuts, 32, seed=0)
    seen = np.concatenate([next(batches) for _ in range(10)])
    assert len(np.unique(seen)) == 320
    for part, cut in zip(np.split(lengths[seen].reshape(10, 32), 4, axis=1), cuts, strict=True):
        assert part.max() <= cut


def test_validation_recall_is_chance_for_noise_and_shares_out_ties():
    draw = np.random.default_rng(4)
    image, text = _unit(draw, 4000), _unit(draw, 4000)
    assert abs(phantom_training.validation_recall(image, text, np.arange(4000), 20) - 0.05) < 0.012
    same = np.tile(image[:1], (40, 1))
    assert phantom_training.validation_recall(same, same, np.arange(40), 20) == pytest.approx(1 / 20)
    assert phantom_training.validation_recall(image[:40], image[:40], np.arange(40), 20) == 1.0
    assert phantom_training.validation_recall(image[:40], image[:40], np.arange(40) // 2, 20) == 0.5


@pytest.mark.slow
def test_a_short_training_links_what_it_can_see():
    draw = np.random.default_rng(5)
    pairs, unseen = _pairs(draw, 512, 8), _pairs(draw, 200, 8)
    params = towers.init(SPEC, jax.random.key(1))
    reports = []
    recipe = phantom_training.Recipe(batch_size=64, learning_rate=4e-3, mean=0.5, std=0.25, seed=0)
    phantom_training.train(SPEC, params, pairs, recipe, phantom_training.Budget(steps=150), 75, lambda *state: reports.append(state))
    assert [step for step, _, _ in reports] == [75, 150, 150]
    assert reports[-1][1] < reports[0][1]
    image, text = phantom_training.embed_pairs(SPEC, reports[-1][2], unseen, 0.5, 0.25)
    kinds = unseen.text[(image @ text.T).argmax(axis=1)]
    assert (kinds == unseen.text).mean() > 0.8


def test_a_budget_counts_steps_or_seconds():
    assert phantom_training.Budget(steps=10).used(5, 0.0) == 0.5
    assert phantom_training.Budget(seconds=1e-3).used(5, 0.0) == 1.0


@pytest.mark.slow
def test_the_packaged_models_can_be_made_again(tmp_path):
    training, validation = phantom_models.corpus(20_001, 400), phantom_models.corpus(20_002, 250)
    lines = []
    log = phantom_models.make(tmp_path, training, validation, 20_001, steps=30, say=lines.append)
    assert list(log["rungs"]) == list(zoo.list_vlms())
    assert len(lines) == 4
    for name in zoo.list_vlms():
        made, packaged = zoo.from_directory(tmp_path / name), zoo.get_vlm(name)
        assert (made.image, made.text.stack, made.dim) == (packaged.image, packaged.text.stack, packaged.dim)
        assert {path.name for path in made.directory.iterdir()} == {path.name for path in packaged.directory.iterdir()}
        assert convert.convert(made).provenance["rules_sha256"] == convert.convert(packaged).provenance["rules_sha256"]
