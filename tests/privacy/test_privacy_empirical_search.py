"""The search: sound objectives hold, wrong declarations are caught, and scenes are what they say."""

import dataclasses
import math

import numpy as np
import pytest

from relink_jax import errors, heads
from relink_jax.privacy import clipping, objectives
from relink_jax.privacy.empirical import gate, scenes, search, steps

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

LIKE = gate.toy_record()


def found(name: str, **settings) -> search.Search:
    return search.search(gate.toy_step(name), LIKE, n=gate.ROWS, **settings)


@pytest.mark.parametrize("name", [name for name in objectives.NAMES if name != gate.UNSOUND])
def test_declared_sensitivity_covers_everything_found(name):
    result = found(name)
    assert result.holds, result
    assert math.isfinite(result.declared_replaced)
    assert result.removed > 0.1 * result.declared_removed
    assert result.replaced > result.removed


def test_the_unsound_objective_moves_with_the_batch():
    small, large = (search.search(gate.toy_step(gate.UNSOUND), LIKE, n=n, climbs=0) for n in (16, 64))
    assert large.removed > 0.6 * 64
    assert small.removed > 0.6 * 16
    assert large.removed > 3 * small.removed
    assert large.declared_removed == math.inf


def test_groups_declared_as_records_are_caught(monkeypatch):
    step = gate.toy_step("group_infonce")
    monkeypatch.setattr(type(step.objective), "factor", lambda self: 1.0)
    result = search.search(step, LIKE, n=gate.ROWS)
    assert not result.holds
    assert result.removed > 1.3


def test_measured_in_units_of_the_clip_norm():
    step = gate.toy_step("anchor_infonce")
    small = search.search(dataclasses.replace(step, l2_norm_clip=0.01), LIKE, n=8, climbs=0)
    assert small.removed == pytest.approx(1.0, abs=1e-3)
    assert small.declared_removed == pytest.approx(1.0)


def test_search_is_deterministic():
    assert found("align", climbs=2) == found("align", climbs=2)
    assert found("align", climbs=2, seed=1) != found("align", climbs=2)


@pytest.mark.parametrize("form", [pytest.param("mlp", marks=pytest.mark.slow), "patch"])
def test_scenes_fit_heads_of_every_form_and_hubs_point_at_their_image(form):
    generator = np.random.default_rng(0)

    def kernel(*shape):
        return (generator.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    image = {
        "mlp": {"fc1": {"kernel": kernel(12, 20)}, "fc2": {"kernel": kernel(20, 6)}},
        "patch": {
            "conv1": {"kernel": kernel(12, 16)},
            "bn": {name: np.full(16, value, np.float32) for name, value in (("scale", 1), ("bias", 0), ("mean", 0), ("var", 1))},
            "conv2": {"kernel": kernel(16, 6), "bias": np.zeros(6, np.float32)},
        },
    }[form]
    params = {"image": image, "text": {"kernel": kernel(10, 6)}}
    like = clipping.Records(np.zeros((1, 5, 12) if form == "patch" else (1, 12), np.float32), np.zeros((1, 10), np.float32))
    built = scenes.build(params, like, n=8)
    hub, opposed = built[0].canaries["hub"], built[0].canaries["opposed pair"]

    def cosine(record):
        return float(np.sum(heads.project(image, record.images[0]) * heads.project(params["text"], record.texts[0])))

    assert cosine(hub) > 0.95
    assert cosine(opposed) < -0.95
    assert all(scene.records.images.shape == (8, *like.images.shape[1:]) for scene in built)
    placed = scenes.place(built[0], hub)
    np.testing.assert_array_equal(placed.images[0], hub.images[0])
    np.testing.assert_array_equal(placed.texts[1:], built[0].records.texts[1:])
    step = dataclasses.replace(gate.toy_step("align"), params=params)
    assert search.search(step, like, n=8, climbs=0).holds


def test_layout_keeps_the_joining_record_with_others():
    objective = gate.toy_step("group_infonce").objective
    present = np.array([True, True, False, True, True, True])
    batch = steps.layout(objective, present)
    assert batch.rows.shape == (2, 4)
    np.testing.assert_array_equal(np.asarray(batch.weights), [[1, 1, 0, 1], [1, 1, 0, 0]])
    single = steps.layout(gate.toy_step("align").objective, present)
    assert single.rows.shape == (6, 1)


def test_traced_sums_equal_the_trained_ones():
    generator = np.random.default_rng(0)
    records = clipping.Records(*(generator.standard_normal((10, np.shape(rows)[1])).astype(np.float32) for rows in LIKE))
    present = generator.random(10) < 0.6
    for name in ("group_infonce", gate.UNSOUND):
        step = gate.toy_step(name)
        traced = np.asarray(step.traced(step.params, records, present))
        np.testing.assert_allclose(traced, step.total(records, present), atol=1e-5)


def test_too_few_rows_are_refused():
    with pytest.raises(errors.UsageError, match="rows"):
        search.search(gate.toy_step("align"), LIKE, n=3)
