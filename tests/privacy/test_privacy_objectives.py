import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.privacy import accounting, objectives


def numpy_loss(images, texts, anchors, heads, temperature):
    """Independent float64 oracle of the loss of one record."""

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    u = unit(images.astype(np.float64) @ heads["image"]["kernel"])
    v, bank = (unit(rows.astype(np.float64) @ heads["text"]["kernel"]) for rows in (texts, anchors))
    logits = np.concatenate([[u @ v], bank @ u]) / temperature
    return -(logits[0] - np.log(np.sum(np.exp(logits - logits.max()))) - logits.max())


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_loss_is_infonce_against_the_public_anchors(toy, temperature):
    objective = objectives.get_objective("anchor_infonce", temperature)
    for k in range(5):
        found = objective.loss(toy.heads, (toy.images[k], toy.texts[k]), toy.bank.features)
        assert float(found) == pytest.approx(numpy_loss(toy.images[k], toy.texts[k], toy.bank.features, toy.heads, temperature), abs=2e-5)


def test_record_gradient_of_each_head_is_one_outer_product(toy):
    objective = objectives.get_objective("anchor_infonce", 0.1)
    gradient = jax.grad(objective.loss)(toy.heads, (toy.images[0], toy.texts[0]), toy.bank.features)
    for side, features in (("image", toy.images[0]), ("text", toy.texts[0])):
        found = np.asarray(gradient[side]["kernel"], np.float64)
        spectrum = np.linalg.svd(found, compute_uv=False)
        assert spectrum[0] > 1e-3
        assert spectrum[1] < 1e-5 * spectrum[0]
        slope = features @ found / (features @ features)
        np.testing.assert_allclose(found, np.outer(features, slope), atol=1e-5)


def test_loss_and_loss_at_outputs_agree(toy):
    objective = objectives.get_objective("anchor_infonce", 0.1)
    params = jax.tree.map(jnp.asarray, toy.heads)
    state = objective.public_state(params, toy.bank.features)
    outputs = (toy.images[1] @ params["image"]["kernel"], toy.texts[1] @ params["text"]["kernel"])
    assert float(objective.loss_at_outputs(*outputs, state)) == pytest.approx(
        float(objective.loss(params, (toy.images[1], toy.texts[1]), toy.bank.features)), abs=1e-5
    )


def test_sensitivity_comes_from_relation_and_clip_norm():
    objective = objectives.get_objective("anchor_infonce", 0.1)
    assert [objective.sensitivity(relation, 1.5) for relation in accounting.RELATIONS] == [1.5, 1.5, 3.0]
    with pytest.raises(errors.UsageError, match="add_remove"):
        objective.sensitivity("add_remov", 1.0)


def test_unknown_objective_and_bad_temperature_are_refused():
    with pytest.raises(errors.UsageError, match="did you mean 'anchor_infonce'"):
        objectives.get_objective("anchor_infonc", 0.1)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(errors.UsageError, match="temperature"):
            objectives.get_objective("anchor_infonce", temperature)


def test_public_bank_refuses_private_rows_and_missing_provenance():
    rows = np.ones((3, 4), np.float32)
    with pytest.raises(errors.UnsoundError, match="1 rows flagged"):
        objectives.PublicBank(rows, "somewhere", private=np.array([False, True, False]))
    with pytest.raises(errors.UnsoundError, match="3 rows flagged"):
        objectives.PublicBank(rows, "somewhere", private=True)
    with pytest.raises(errors.UnsoundError, match="provenance"):
        objectives.PublicBank(rows, " ")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_public_bank_refuses_unusable_rows(bad):
    rows = np.ones((3, 4), np.float32)
    rows[1] = bad
    with pytest.raises(errors.DataError, match="1 other rows"):
        objectives.PublicBank(rows, "somewhere")
    with pytest.raises(errors.DataError, match="at least one row"):
        objectives.PublicBank(np.ones((0, 4), np.float32), "somewhere")


def test_public_bank_is_frozen_and_hashed():
    rows = np.ones((3, 4), np.float32)
    bank = objectives.PublicBank(rows, "somewhere")
    before = bank.sha256
    rows[0] = 5.0
    assert bank.features[0, 0] == 1.0
    assert objectives.PublicBank(rows, "somewhere").sha256 != before
    with pytest.raises(ValueError):
        bank.features[0, 0] = 2.0


def test_bank_made_of_private_rows_is_refused_but_a_chance_match_is_not(toy):
    private = objectives.PublicBank(toy.texts[:20], "claimed public")
    with pytest.raises(errors.UnsoundError, match="half of the rows or more") as caught:
        private.refuse_private(toy.texts)
    assert not any(character.isdigit() for character in str(caught.value))
    mostly = np.concatenate([toy.texts[:2], toy.bank.features])
    objectives.PublicBank(mostly, "synthetic").refuse_private(toy.texts)


def test_a_bank_of_which_half_is_private_is_refused():
    rows = np.eye(4, dtype=np.float32)
    bank = objectives.PublicBank(rows, provenance="test")
    bank.refuse_private(np.concatenate([rows[:1], -rows]))
    with pytest.raises(errors.UnsoundError, match="anchors"):
        bank.refuse_private(np.concatenate([rows[:2], -rows]))
