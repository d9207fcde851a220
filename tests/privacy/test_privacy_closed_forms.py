"""Closed forms equal `vmap(grad)` for every head form, decomposition and number of slots; hostile units stay inside the clip."""

import jax
import numpy as np
import pytest
from cases import HEADS, OPTIONS, P, batch_for, clipped, problem, vector

from relink_jax import heads
from relink_jax.privacy import clipping, closed_form, objectives

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

FORMS = [("linear", "affine"), ("mlp", "cxr_bert"), ("patch", "mlp"), ("patch_missing", "linear"), ("map", "none"), ("none", "affine")]
CASES = [(name, *forms, slots) for forms in FORMS for name, slots in (("anchor_infonce", 1), ("anchor_infonce", 3), ("group_infonce", 3))]


def agree(name, image, text, slots, clip, wide=None, **settings):
    params, records, bank = problem(image, text, wide=wide)
    batch = batch_for(objectives.get_objective(name, 0.4, **OPTIONS), slots)
    first, second = (clipped(name, params, records, batch, bank, clip, implementation=one, **settings) for one in ("closed_form", "vmap"))
    assert np.linalg.norm(second) > 0
    return np.linalg.norm(first - second) / np.linalg.norm(second)


@pytest.mark.parametrize(("name", "image", "text", "slots"), [CASES[1], CASES[7], CASES[14]])
def test_closed_form_equals_vmap_to_1e_6(name, image, text, slots):
    assert agree(name, image, text, slots, 0.3) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("name", "image", "text", "slots"), CASES)
def test_closed_form_equals_vmap_to_1e_6_for_every_form(name, image, text, slots):
    assert agree(name, image, text, slots, 0.3) < 1e-6
    assert agree(name, image, text, slots, 1e3) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pair_sigmoid", "logit_dp", "inbatch_infonce_unsound"])
@pytest.mark.parametrize(("image", "text"), [("affine", "linear"), ("patch_missing", "mlp"), ("map", "none")])
def test_closed_form_equals_vmap_for_objectives_of_the_whole_batch(name, image, text):
    assert agree(name, image, text, 1, 0.3) < 1e-6
    assert agree(name, image, text, 1, 1e3, chunk=7) < 1e-6


@pytest.mark.parametrize(("name", "image", "text"), [("pair_sigmoid", "affine", "linear"), ("inbatch_infonce_unsound", "linear", "mlp")])
def test_pairs_and_rows_equal_vmap_to_1e_6(name, image, text):
    assert agree(name, image, text, 1, 0.3, chunk=5) < 1e-6


def test_layers_whose_gram_matrix_is_larger_than_the_gradient_are_formed():
    assert not closed_form._gram_is_cheaper(9, 7, 6)
    assert closed_form._gram_is_cheaper(2, 7, 6)
    assert agree("align", "patch", "linear", 1, 0.2, wide=9) < 1e-6


def test_several_records_of_a_unit_are_averaged_before_the_clip():
    params, records, bank = problem()
    rows = np.int32([[0, 1, 2]])
    mean = clipped("align", params, records, clipping.Batch(rows, np.float32([[0.25, 0.25, 0.5]])), bank, 1e6)
    single = [clipped("align", params, records, clipping.Batch(rows[:, k : k + 1], np.ones((1, 1), np.float32)), bank, 1e6) for k in range(3)]
    np.testing.assert_allclose(mean, 0.25 * single[0] + 0.25 * single[1] + 0.5 * single[2], atol=2e-6)


@pytest.mark.parametrize("implementation", ["closed_form", "vmap"])
@pytest.mark.parametrize("form", ["patch_missing"])
def test_filler_slots_are_irrelevant_and_a_bad_record_drops_its_unit_only(form, implementation):
    params, records, bank = problem(form, "mlp")
    batch = clipping.Batch(np.arange(12).reshape(4, 3), np.float32([[0.5, 0.5, 0], [1, 0, 0], [1 / 3] * 3, [0, 0, 0]]))
    spoilt = records._replace(images=records.images.copy(), texts=records.texts.copy())
    for filler, bad in ((2, np.nan), (4, np.inf), (5, 1e30), (9, np.nan), (10, 0.0)):
        spoilt.images[filler], spoilt.texts[filler] = bad, bad
    clean = clipped("anchor_infonce", params, records, batch, bank, implementation=implementation)
    np.testing.assert_array_equal(clean, clipped("anchor_infonce", params, spoilt, batch, bank, implementation=implementation))
    spoilt.images[7, 0] = np.nan
    absent = clipping.Batch(batch.rows, batch.weights * np.float32([1, 1, 0, 1])[:, None])
    np.testing.assert_array_equal(
        clipped("anchor_infonce", params, spoilt, batch, bank, implementation=implementation),
        clipped("anchor_infonce", params, records, absent, bank, implementation=implementation),
    )


def test_records_that_cancel_each_other_cannot_hide_a_large_gradient():
    """Two nearly equal records with nearly opposite slopes: the double sum of the Gram matrix is all rounding."""
    generator, worst = np.random.default_rng(0), 0.0
    for size in 10.0 ** np.arange(0, 13, 2):
        x = (np.repeat(generator.standard_normal((64, 1, 40)), 2, axis=1) * (1 + 1e-7 * generator.standard_normal((64, 2, 1)))).astype(np.float32)
        d = (size * np.float32([[1], [-1]]) * generator.standard_normal((64, 1, 30)) * (1 + 1e-7 * generator.standard_normal((64, 2, 1)))).astype(np.float32)
        true = np.linalg.norm(np.einsum("uai,uao->uio", x.astype(np.float64), d.astype(np.float64)).reshape(64, -1), axis=1)
        found = np.asarray(closed_form._gram(x, d, np.float32(0)))
        assert (found >= true * (1 - 1e-6)).all()
        worst = max(worst, float(np.max(found / np.maximum(size, 1e-30))))
    assert worst < 1e3


@pytest.mark.slow
def test_numpy_and_device_records_give_the_same_sum_in_any_chunks():
    params, records, bank = problem("patch", "cxr_bert")
    batch = batch_for(objectives.get_objective("align", 1.0), 3)
    whole = clipped("align", params, records, batch, bank)
    device = clipping.Records(*map(jax.numpy.asarray, records))
    np.testing.assert_allclose(clipped("align", params, device, batch, bank), whole, atol=1e-6)
    np.testing.assert_allclose(clipped("align", params, records, batch, bank, chunk=3), whole, atol=1e-5)
    np.testing.assert_allclose(clipped("align", params, records, batch, bank, memory=1), whole, atol=1e-5)


def test_values_live_on_the_trained_leaves():
    params, records, bank = problem("patch_missing", "linear")
    found = clipping.clipped_sum(objectives.get_objective("align", 1.0), params, records, clipping.Batch([[0]], [[1.0]]), bank.arrays(), l2_norm_clip=1.0)
    trained, fixed = heads.partition(params)
    assert jax.tree.structure(found.value) == jax.tree.structure(trained)
    assert found.value["image"]["missing"] is None
    jax.tree.map(np.testing.assert_array_equal, heads.combine(trained, fixed), params)
    empty = clipping.zero_sum(objectives.get_objective("align", 1.0), params, l2_norm_clip=1.0)
    assert not vector(clipping.add(empty, empty)).any()
    assert jax.tree.structure(empty.value) == jax.tree.structure(trained)


def test_every_form_has_its_dense_layers_tapped():
    for name, head in HEADS.items():
        layers = heads.dense_layers(head)
        kernels = [path for path, _ in jax.tree_util.tree_leaves_with_path(head) if path[-1].key == "kernel"]
        assert len(layers) == len(kernels)
        x = problem(name, "linear")[1].images[:2]
        outputs, inputs = heads.tapped(head, x)
        assert set(inputs) == set(layers)
        np.testing.assert_array_equal(heads.unit_norm(outputs), heads.project(head, x))
        taps = heads.zero_taps(head, x.shape)
        assert all(taps[layer].shape[:-1] == inputs[layer].shape[:-1] for layer in layers)
        assert name != "patch_missing" or inputs["conv1"].shape == (2, P, 4)
