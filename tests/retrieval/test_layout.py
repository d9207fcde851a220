"""The choice of what devices share: it fits the memory it is given, and panels change no number."""

import dataclasses

import jax
import numpy as np
import pytest
from test_counts import check, flat, records

from relink_jax import config, errors
from relink_jax.retrieval import counts, engine, layout, limits, product, sides
from relink_jax.retrieval.layout import Layout, Size, chosen, taken
from relink_jax.runtime import mesh as meshes

GIB = 2**30
FULL = Size(406_241, 4 * 512, devices=8, platform="gpu")


def test_reports_are_replicated_where_they_fit_and_shared_where_they_do_not():
    assert chosen(FULL, Layout(), 0) == chosen(FULL, Layout(), 16 * GIB) == Layout("images")
    assert chosen(FULL, Layout(tile=4096, query_block=4096), 1 * GIB).split == "studies"
    assert chosen(Size(406_241, 4 * 512, k=1000, devices=64, platform="tpu"), Layout(tile=4096, query_block=4096), GIB // 2).split == "ring"
    assert chosen(FULL, Layout("ring"), 16 * GIB) == Layout("ring")


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("memory", [GIB // 4, GIB // 2, GIB])
def test_what_is_chosen_fits_and_a_larger_panel_would_not(devices, memory):
    size = Size(1_000_000, 4 * 512, devices=devices, platform="cpu")
    found = chosen(size, Layout(), memory)
    assert taken(size, found).total <= 0.8 * memory
    if found.panel:
        unit = 8832 * (devices if found.split != "images" else 1)
        assert found.panel % unit == 0
        assert taken(size, Layout(found.split, panel=found.panel + unit)).total > 0.8 * memory


def test_what_cannot_fit_is_refused():
    with pytest.raises(errors.UsageError, match="device memory in counting pass: expected at least"):
        chosen(FULL, Layout(), 10**6)
    with pytest.raises(errors.UsageError, match="panel in counting pass: expected at most"):
        chosen(FULL, Layout(panel=400_000), GIB // 2)
    with pytest.raises(errors.UsageError, match=r"unknown split in counting pass.*did you mean 'studies'"):
        Layout("study")


@pytest.mark.parametrize("split", ["images", "studies", "ring"])
def test_the_bytes_of_the_plan_are_those_of_the_arrays(split):
    data, mesh = records(700, 3000, 32, codes=1), meshes.make_mesh(4)
    work = engine.Engine(data, mesh, Layout(split, 256, 256))
    columns, state = work.columns(limits.nowhere(700, 3000)), work.empty(work.shaped(sides.Wanted(k=3)))
    held = sum(shard.data.nbytes for array in (*columns, state) for shard in array.addressable_shards if shard.device == jax.devices()[0])
    padding = work.studies.number.size / len(data.study_text)
    size = Size(3000, 4 * 32, 1, 1, 3, 4, "cpu")
    assert held == pytest.approx(taken(size, Layout(split, 256, 256)).candidates * padding, rel=0.03)


@pytest.mark.usefixtures("quick")  # scores are exact, whatever order they are summed in
@pytest.mark.parametrize(("split", "devices", "panel", "blocks"), [("images", 1, 128, 0), ("images", 2, 300, 3), ("studies", 3, 400, 3), ("ring", 4, 512, 0)])
def test_panels_change_no_integer_and_no_list(split, devices, panel, blocks):
    data = records(333, 801, 5, seed=2, blocks=blocks)
    layout = Layout(split, 64, 128, panel)
    assert engine.Engine(data, meshes.make_mesh(devices), layout).panels > 1
    check(data, counts.count(data, mesh=meshes.make_mesh(devices), top_k=9, layout=layout), 9)


@pytest.mark.usefixtures("quick")  # scores are exact, whatever order they are summed in
def test_a_count_in_panels_goes_on_where_it_was(tmp_path, monkeypatch):
    data, taken_steps, honest = records(333, 801, 5, seed=2), [], engine.Engine.batch
    monkeypatch.setattr(engine.Engine, "batch", lambda *given: (taken_steps.append(1), honest(*given))[1])
    given = {"mesh": meshes.make_mesh(2), "top_k": 4, "layout": Layout("images", 64, 128, 260), "lists": ("i2r",)}
    whole = flat(counts.count(data, **given, directory=tmp_path))
    steps, last = len(taken_steps), sorted((tmp_path / "links").iterdir())[-1]
    assert last.name == "panel-003"
    next(last.glob("part-*.safetensors")).unlink()
    taken_steps.clear()
    for name, array in flat(counts.count(data, **given, directory=tmp_path)).items():
        np.testing.assert_array_equal(array, whole[name], err_msg=name)
    assert 0 < len(taken_steps) < steps / 2


@pytest.mark.parametrize(
    ("n", "devices", "split", "width", "height"),
    [(600, 2, "images", 640, 320), (3000, 2, "images", 3072, 256), (3000, 2, "studies", 1024, 256), (200, 1, "ring", 256, 256)],
)
def test_a_step_is_made_of_whole_products(n, devices, split, width, height):
    work = engine.Engine(records(n, 40, 4), meshes.make_mesh(devices), Layout(split))
    assert (work.images.width, work.height) == (width, height)
    assert work.shaped(sides.Wanted()).height == height


def test_a_panel_counts_twice_since_the_next_is_placed_meanwhile():
    size = Size(10_000, 4 * 512)
    whole = taken(dataclasses.replace(size, studies=3000), Layout("images")).candidates
    assert taken(size, Layout("images", panel=3000)).candidates == 2 * whole
    assert taken(size, Layout("images", panel=10_000)) == taken(size, Layout("images"))


def test_the_settings_of_an_audit_are_those_of_the_engine():
    assert config._CHOICES["audit.precision"] == product.PRECISIONS
    assert config._CHOICES["audit.split"] == (layout.AUTO, *layout.SPLITS)
    assert config._CHOICES["audit.kernel"] == (layout.AUTO, *layout.KERNELS)
    with pytest.raises(errors.UsageError, match=r"unknown kernel in counting pass.*did you mean 'never'"):
        Layout(kernel="nevr")
