"""A counting step as shapes: those of the arrays that a pass places, and the compiled bytes that follow."""

import dataclasses

import jax
import numpy as np
import pytest
from test_counts import records

from relink_jax.retrieval import engine, layout, limits, shapes, sides
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes

pytestmark = pytest.mark.usefixtures("quick_module")  # nothing is computed here


def work_of(split="images", devices=4, precision="float32", panel=0, blocks=3, n=(700, 3000), dim=32, codes=2):
    data = records(*n, dim, codes=codes, blocks=blocks)
    work = engine.Engine(data, meshes.make_mesh(devices), Layout(split, 256, 256, panel), precision)
    return work, work.shaped(sides.Wanted(codes=len(data.codes), k=5))


def told(tree):
    return [(one.shape, one.dtype, one.sharding.shard_shape(one.shape)) for one in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    ("split", "devices", "precision", "panel"),
    [("images", 4, "float32", 0), ("images", 1, "bf16", 512), ("studies", 4, "bf16x3", 0), ("ring", 2, "float32", 1024)],
)
def test_the_shapes_are_those_of_the_arrays_that_a_pass_places(split, devices, precision, panel):
    work, wanted = work_of(split, devices, precision, panel)
    around = limits.nowhere(len(work.records.images), len(work.records.study_text))
    placed = work.batch(work.images.number[0], work.images.block[0], around), work.columns(around), work.empty(wanted)
    assert told(shapes.arguments(work, wanted)) == told(placed)


def test_what_studies_are_not_asked_has_no_counts():
    work, wanted = work_of(codes=1)
    alone = dataclasses.replace(wanted, studies=False)
    assert told(shapes.arguments(work, alone)[2]) == told(work.empty(alone))
    assert shapes.state_bytes(work, alone) == 0
    assert shapes.state_bytes(work, wanted) == work.empty(wanted).nbytes


@pytest.mark.parametrize("split", ["images", "studies"])
def test_the_compiled_bytes_are_those_of_the_arrays_and_near_the_formula(split):
    work, wanted = work_of(split, n=(2000, 6000), dim=64)
    held = shapes.compiled(work, wanted)
    images, studies, state = (
        sum(shape.dtype.itemsize * int(np.prod(shape.sharding.shard_shape(shape.shape))) for shape in part) for part in apart(work, wanted)
    )
    assert held.batch == images
    assert 0.97 * (studies + state) < held.candidates <= studies + state  # what a step does not read is not among its arguments
    rows = 256 if split == "studies" else 64
    assert held.found == pytest.approx(4 * rows * (wanted.blocks * (wanted.image_answers + 1) + 2 * wanted.k + 0.25), rel=0.01)
    size = layout.Size(6000, 4 * 64, 2, 3, 5, 4, "cpu")
    assert 1 / 3 < held.in_flight(1) / layout.taken(size, work.layout).total < 2
    assert held.in_flight(2) == held.in_flight(1) + held.candidates == held.total + 2 * (held.batch + held.found) + held.candidates


def apart(work, wanted):
    images, studies, state = shapes.arguments(work, wanted)
    return images, studies, (state,)


def test_rows_of_a_plan_take_no_memory():
    rows = shapes.rows(406_241, 512)
    assert rows.shape == (406_241, 512)
    assert rows.strides == (0, 0)
    assert rows[[3, 5]].sum() == 0


@pytest.mark.slow
@pytest.mark.parametrize("split", ["images", "studies", "ring"])
def test_buffers_do_not_depend_on_how_well_code_is_optimised(split, monkeypatch):
    work, wanted = work_of(split)
    quickly = shapes.compiled(work, wanted)
    monkeypatch.setattr(shapes, "_QUICKLY", {"xla_backend_optimization_level": 3})
    jax.config.update("jax_disable_most_optimizations", False)
    assert shapes.compiled(work, wanted) == quickly
