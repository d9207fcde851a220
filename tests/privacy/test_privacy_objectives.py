import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import OPTIONS, problem

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
        found = objective.loss(toy.heads, (toy.images[k], toy.texts[k], None), toy.bank.arrays())
        assert float(found) == pytest.approx(numpy_loss(toy.images[k], toy.texts[k], toy.bank.features, toy.heads, temperature), abs=2e-5)


def test_record_gradient_of_each_head_is_one_outer_product(toy):
    objective = objectives.get_objective("anchor_infonce", 0.1)
    gradient = jax.grad(objective.loss)(toy.heads, (toy.images[0], toy.texts[0], None), toy.bank.arrays())
    for side, features in (("image", toy.images[0]), ("text", toy.texts[0])):
        found = np.asarray(gradient[side]["kernel"], np.float64)
        spectrum = np.linalg.svd(found, compute_uv=False)
        assert spectrum[0] > 1e-3
        assert spectrum[1] < 1e-5 * spectrum[0]
        slope = features @ found / (features @ features)
        np.testing.assert_allclose(found, np.outer(features, slope), atol=1e-5)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def log_softmax(logits):
    return logits - logits.max() - np.log(np.sum(np.exp(logits - logits.max())))


ORACLES = {
    "align": lambda u, v, b, a, y: 1 - u @ v,
    "anchor_infonce": lambda u, v, b, a, y: -0.5 * sum(log_softmax(np.append(one, u @ v) / 0.3)[-1] for one in (b @ u, a @ v)),
    "anchor_sigmoid": lambda u, v, b, a, y: np.log1p(np.exp(-(u @ v / 0.3 - 2))) + np.sum(np.log1p(np.exp(np.append(b @ u, a @ v) / 0.3 - 2))),
    "prototype": lambda u, v, b, a, y: -0.5 * sum(np.sum(y / max(y.sum(), 1) * log_softmax(b @ one / 0.3)) for one in (u, v)),
}


@pytest.mark.parametrize("name", ORACLES)
def test_per_record_losses_are_their_definitions_in_float64(name):
    params, records, bank = problem()
    objective = objectives.get_objective(name, 0.3, bias=-2.0)
    u, v, b, a = (
        unit(np.asarray(x, np.float64) @ params[side]["kernel"])
        for x, side in ((records.images, "image"), (records.texts, "text"), (bank.features, "text"), (bank.image_features, "image"))
    )
    for k in range(4):
        found = objective.loss(params, jax.tree.map(lambda rows, k=k: rows[k], records), bank.arrays())
        assert float(found) == pytest.approx(ORACLES[name](u[k], v[k], b, a, records.labels[k].astype(np.float64)), abs=2e-5)


def test_a_record_without_positive_labels_has_no_prototype_loss():
    params, records, bank = problem()
    objective = objectives.get_objective("prototype", 0.3)
    for empty in ([0] * 6, [np.nan, -1, 0, np.nan, 0, -1]):
        record = (records.images[0], records.texts[0], np.float32(empty))
        assert float(objective.loss(params, record, bank.arrays())) == 0
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(jax.grad(objective.loss)(params, record, bank.arrays())))
    for labels in (None, np.ones(5, np.float32)):
        with pytest.raises(errors.DataError, match="one per row of the public bank"):
            objective.loss(params, (records.images[0], records.texts[0], labels), bank.arrays())


def test_no_gradient_flows_through_the_anchors():
    params, _, bank = problem()
    for name in ("anchor_infonce", "anchor_sigmoid", "prototype"):
        objective = objectives.get_objective(name, 0.3)
        slopes = jax.grad(lambda params, one=objective: sum(jnp.sum(x) for x in one.public_state(params, bank.arrays())))(params)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(slopes))


def test_sensitivity_comes_from_relation_and_clip_norm():
    objective = objectives.get_objective("anchor_infonce", 0.1)
    expected = {"per_record": 1.0, "per_group": 2.0, "per_pair": 3.0}
    for name in set(objectives.NAMES) - {"logit_dp", "inbatch_infonce_unsound"}:
        one = objectives.get_objective(name, 0.4, **OPTIONS)
        assert [one.sensitivity(relation, 1.5) / 1.5 / expected[one.decomposition] for relation in accounting.RELATIONS] == [1.0, 1.0, 2.0]
        assert one.noise_scale(1.5) == one.sensitivity("add_remove", 1.5)
    unsound = objectives.get_objective("inbatch_infonce_unsound", 0.4, allow_unsound=True)
    assert [unsound.sensitivity(relation, 1.5) for relation in accounting.RELATIONS] == [np.inf] * 3
    assert unsound.noise_scale(1.5) == 1.5
    with pytest.raises(errors.UsageError, match="add_remove"):
        objective.sensitivity("add_remov", 1.0)


def test_unknown_objective_and_bad_temperature_are_refused():
    with pytest.raises(errors.UsageError, match="did you mean 'anchor_infonce'"):
        objectives.get_objective("anchor_infonc", 0.1)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(errors.UsageError, match="temperature"):
            objectives.get_objective("anchor_infonce", temperature)


def test_settings_are_ready_for_json_and_derivations_say_whose_they_are():
    for name in objectives.NAMES:
        objective = objectives.get_objective(name, 0.4, **OPTIONS)
        assert objective.name == name
        settings = json.loads(json.dumps(objective.settings()))
        assert ("temperature" in settings) == (name != "align")
        assert ("own derivation" in objective.derivation) == (objective.decomposition in ("per_group", "per_pair"))
    assert objectives.get_objective("pair_sigmoid", 0.1, bias=-3, batch_cap=9).settings() == {"temperature": 0.1, "bias": -3.0, "batch_cap": 9}


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("inbatch_infonce_unsound", {}, "allow_unsound"),
        ("logit_dp", {"temperature": 0.29, "batch_cap": 8}, "at least 0.3"),
        ("logit_dp", {"batch_cap": 1}, "batch_cap"),
        ("pair_sigmoid", {}, "batch_cap"),
        ("pair_sigmoid", {"bias": float("nan"), "batch_cap": 8}, "bias"),
        ("group_infonce", {"group_size": 1}, "group_size"),
    ],
)
def test_settings_without_a_sound_bound_are_refused(name, options, match):
    with pytest.raises(errors.UsageError, match=match):
        objectives.get_objective(name, **{"temperature": 0.5, **options})
