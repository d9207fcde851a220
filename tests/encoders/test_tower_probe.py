"""A tower before its weights are there: shapes of the very step that embedding runs, its bytes by hand, and a speed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relink_jax.encoders import cost, steps, tower_probe, towers, zoo
from relink_jax.runtime import mesh as meshes

pytestmark = pytest.mark.usefixtures("quick_module")  # no figure of rounding here

SPEC = zoo.get_vlm("phantom-1-labels")


@pytest.mark.parametrize(("kind", "levelled"), [("text", True), ("image", True), ("image", False)])
def test_the_shapes_run_and_the_bytes_hold_weights_and_features(kind, levelled):
    mesh, rows = meshes.make_mesh(2), 16
    inputs, batch = tower_probe.shapes(SPEC, kind, mesh, rows, jnp.float32, levelled)
    features = jax.eval_shape(steps.program(SPEC, kind, mesh), inputs, batch)
    assert features.shape == (rows, *getattr(SPEC, kind).features)
    weights = sum(int(np.prod(leaf.shape)) * 4 for leaf in jax.tree.leaves(inputs["params"]))
    assert weights == 4 * cost.of(SPEC)[kind].parameters
    held = tower_probe.device_bytes(SPEC, kind, mesh, rows, jnp.float32, levelled)
    each = batch.dtype.itemsize * batch.size // 2
    least = weights + 2 * each + 2 * features.size * 4 // 2
    assert least < held < least + 40 * 2**20
    more = tower_probe.device_bytes(SPEC, kind, mesh, 4 * rows, jnp.float32, levelled)
    assert 2 < (more - weights) / (held - weights) < 6  # all but the weights grows with the batch


def test_weights_in_bfloat16_take_half():
    inputs, _ = tower_probe.shapes(SPEC, "image", meshes.make_mesh(1), 8, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(inputs)} == {jnp.dtype(jnp.bfloat16)}


def test_a_pair_is_an_image_and_its_prior():
    spec = zoo.described("biovil-t")
    _, batch = tower_probe.shapes(spec, steps.PAIR, meshes.make_mesh(1), 4, jnp.float32)
    assert batch.shape == (4, 2, *towers.image_shape(spec)[:2])


def test_a_row_takes_some_time():
    assert 0 < tower_probe.seconds_per_row(SPEC, "image", meshes.make_mesh(2), 8, jnp.float32) < 10
