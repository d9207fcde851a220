"""Sensitivity searches: no record found moves a clipped sum past its declared bound, and in-batch InfoNCE moves far past C."""

import numpy as np
import pytest
from cases import HEADS, clipped, draw, hub, problem, single

from relink_jax import errors
from relink_jax.privacy import banks, clipping, objectives

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

CAP = 16
BANK = banks.PublicBank(draw(60, 6, 16), "synthetic texts of a test")


def crafted(seed, count=CAP, width=16):
    """Returns (heads, records) meant to break a bound: a hub, a common direction, opposition, duplicates, extreme scales."""
    generator = np.random.default_rng(seed)
    heads, records = hub(count, width, seed)
    if seed % 4:
        shared = generator.standard_normal(width) * generator.uniform(0, 4)
        images, texts = (shared + generator.standard_normal((count, width)) for _ in range(2))
        images, texts = (rows * 10.0 ** generator.uniform(-2, 2, (count, 1)) for rows in (images, texts))
        texts[-1] = images[: count - 1].mean(axis=0) * generator.choice([-1, 1])
        images[-1] = generator.choice([-1, 1]) * texts[: count - 1].mean(axis=0)
        records = clipping.Records(images.astype(np.float32), texts.astype(np.float32))
    return heads, records


def moves(objective, heads, records, batch, bank=BANK):
    """Returns how far the sum moves in C when the last record leaves, and when it is replaced by its negative."""
    everyone = clipped(objective, heads, records, batch, bank)
    weights = np.where(batch.rows == len(records.images) - 1, 0, batch.weights).astype(np.float32)
    without = clipped(objective, heads, records, clipping.Batch(batch.rows, weights), bank)
    other = records._replace(images=records.images.copy(), texts=records.texts.copy())
    other.images[-1] *= -1
    return np.linalg.norm(everyone - without), np.linalg.norm(everyone - clipped(objective, heads, other, batch, bank))


def search(objective, batch, trials=16):
    found = np.max([moves(objective, *crafted(seed), batch) for seed in range(trials)], axis=0)
    bounds = [objective.sensitivity(relation, 1.0) for relation in ("add_remove", "replace_one")]
    assert (found <= np.array(bounds) + 1e-4).all()
    return found


def test_no_record_moves_a_per_record_sum_past_c():
    removed, replaced = search(objectives.get_objective("anchor_infonce", 0.07), single(range(CAP)))
    assert removed > 0.99
    assert replaced > 1.0


def test_no_record_moves_a_group_sum_past_2c():
    objective = objectives.get_objective("group_infonce", 0.07, group_size=4)
    removed, _ = search(objective, clipping.Batch(np.arange(CAP).reshape(4, 4), np.ones((4, 4), np.float32)))
    assert removed > 1.0


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_no_record_moves_a_pair_sum_past_3b(temperature):
    removed, _ = search(objectives.get_objective("pair_sigmoid", temperature, batch_cap=CAP), single(range(CAP)))
    assert removed > 0.5


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_no_record_moves_a_logit_dp_sum_past_its_constant(temperature):
    objective = objectives.get_objective("logit_dp", temperature, batch_cap=CAP)
    removed, _ = search(objective, single(range(CAP)))
    assert removed > 0.1 * objective.sensitivity("add_remove", 1.0)


def test_logit_dp_constant_grows_as_exp_of_two_over_the_temperature():
    at = {tau: objectives.get_objective("logit_dp", tau, batch_cap=1024).sensitivity("add_remove", 1.0) for tau in (1.0, 0.5)}
    assert at[1.0] == pytest.approx(17, abs=0.5)
    assert at[0.5] == pytest.approx(2.1e2, rel=0.05)
    small = objectives.get_objective("logit_dp", 1.0, batch_cap=16).sensitivity("add_remove", 1.0)
    assert small < at[1.0]


def test_a_hub_moves_the_in_batch_sum_far_past_c_and_further_the_larger_the_batch():
    found = []
    for count in (16, 64):
        heads, records = hub(count)
        objective = objectives.get_objective("inbatch_infonce_unsound", 0.07, allow_unsound=True)
        found.append(moves(objective, heads, records, single(range(count)))[0])
    assert found[0] > 4
    assert found[1] > 3 * found[0]


def test_batches_past_the_cap_are_refused():
    heads, records, bank = problem(count=CAP + 1)
    for name in ("pair_sigmoid", "logit_dp"):
        objective = objectives.get_objective(name, 0.5, batch_cap=CAP)
        with pytest.raises(errors.UnsoundError, match="at most batch_cap = 16 rows"):
            clipped(objective, heads, records, single(range(CAP + 1)), bank)
        with pytest.raises(errors.UnsoundError, match="one record a row"):
            clipped(objective, heads, records, clipping.Batch(np.zeros((2, 2), int), np.ones((2, 2))), bank)


def test_absent_records_of_any_content_change_nothing_for_the_rest():
    heads, records, bank = problem("affine", "linear", count=10)
    for name in ("pair_sigmoid", "logit_dp", "inbatch_infonce_unsound"):
        padding = np.arange(10) >= 7
        clean = clipped(name, heads, records, single(range(10), padding), bank)
        spoilt = records._replace(images=records.images.copy(), texts=records.texts.copy())
        spoilt.images[7], spoilt.texts[8], spoilt.images[9] = np.nan, 0.0, 1e38
        np.testing.assert_array_equal(clean, clipped(name, heads, spoilt, single(range(10), padding), bank))
        np.testing.assert_allclose(clean, clipped(name, heads, spoilt, single(range(10)), bank), atol=1e-6)
        assert np.linalg.norm(clean) > 0
        assert not clipped(name, heads, spoilt, single(range(10), np.ones(10, bool)), bank).any()


def test_a_lone_member_and_an_empty_group_have_no_gradient():
    heads, records, bank = problem("mlp", "linear")
    weights = np.float32([[1, 0, 0], [0, 0, 0]])
    assert not clipped("group_infonce", heads, records, clipping.Batch(np.arange(6).reshape(2, 3), weights), bank).any()


def test_group_loss_is_symmetric_infonce_among_members_in_float64():
    objective = objectives.get_objective("group_infonce", 0.4, group_size=2)
    u, v = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (draw(1, 4, 5), draw(2, 4, 5)))
    kept = np.array([0, 1, 3])
    logits = u[kept].astype(np.float64) @ v[kept].T / 0.4
    expected = np.mean([0.5 * (np.log(np.exp(one).sum(axis=1)) - np.diag(one)) for one in (logits, logits.T)], axis=1).sum()
    assert float(objective.unit_loss(u, v, None, np.float32([1, 1, 0, 1]), None)) == pytest.approx(expected, abs=1e-5)


def test_row_attribution_is_the_batch_gradient_when_nothing_is_clipped():
    """With a huge clip norm the unsound sum is the plain gradient of the batch loss, as Opacus' is."""
    import jax
    import jax.numpy as jnp

    from relink_jax import heads as projection
    from relink_jax.privacy import joint_objectives

    params, records, bank = problem("affine", "linear", count=8)

    def loss(params):
        u, v = projection.project(params["image"], records.images), projection.project(params["text"], records.texts)
        return joint_objectives.symmetric_infonce(u, v, jnp.ones(8, bool), 0.4)

    plain = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.grad(loss)(params))])
    np.testing.assert_allclose(clipped("inbatch_infonce_unsound", params, records, single(range(8)), bank, 1e6), plain, atol=1e-4)
    assert HEADS["affine"]["bias"].shape == (5,)
