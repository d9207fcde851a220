"""Images beside their prior ones: each row is the tower's of (image, prior), or the image's own beside the learned stand-in."""

import functools
import json
import re

import jax
import numpy as np
import pytest
import random_params
import test_resnet
import test_temporal
from loose import Loose
from PIL import Image

from relink_jax import errors, heads
from relink_jax.cohort import images
from relink_jax.encoders import embed, preprocess, specs, steps, towers
from relink_jax.runtime import mesh as meshes
from relink_jax.store import files, shards

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

COUNT, JOINT = 11, 8
TOWER = specs.ResNetSpec(16, (1, 1), 4, pool="map", joint_width=JOINT, pooler_blocks=test_temporal.LAYERS, pooler_heads=test_temporal.HEADS)
WORDS = specs.BertSpec(specs.StackSpec(8, 1, 2, 8, "gelu", 1e-12), vocab_size=9, length=4, pool="cls")
PRIORS = np.array([-1, 0, -1, 2, 3, -1, 5, -1, -1, 8, 9], np.int32)
PAIRED = PRIORS >= 0
OPTIONS = {"batch_size": 4, "shard_rows": 6, "identity": {"weights": "random"}}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Returns (spec, parameters with the heads, cohort, pixels [COUNT, H, W, 3]) of a tiny BioViL-T and small pictures."""
    root = tmp_path_factory.mktemp("pictures")
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "resample": 3, "rescale_factor": 1 / 255}
    (root / preprocess.FILE).write_text(json.dumps({**sizes, "image_mean": [0.5, 0.4, 0.6], "image_std": [0.25, 0.3, 0.2]}))
    draw = np.random.default_rng(0)
    for row in range(COUNT):
        Image.fromarray(draw.integers(0, 256, (20 + row, 18), dtype=np.uint8)).save(root / f"{row}.png")
    cohort = Loose(image_root=root, image_path=np.array([f"{row}.png" for row in range(COUNT)], dtype=object), image_prior=PRIORS)
    spec = specs.VLMSpec("tiny", root, TOWER, WORDS, 8, image_head="patch", text_head="cxr_bert")
    shapes = jax.eval_shape(lambda: towers.init(spec, jax.random.key(0)))
    params = jax.tree.map(lambda array: array.astype(np.float32), random_params.fill({name: shapes[name] for name in ("image", "heads")}))
    recipe = preprocess.recipe_for(spec)
    pixels = np.stack([recipe.pixels(np.asarray(Image.open(root / f"{row}.png"), np.float32) / 255) for row in range(COUNT)])
    return spec, params, cohort, pixels


def embedded(world, directory, devices=1, rows=None, **changes):
    spec, params, cohort, _ = world
    options = {**OPTIONS, "missing": params["heads"]["image"]["missing"], **changes}
    rows = np.arange(COUNT) if rows is None else rows
    embed.embed_images(spec, params, options.pop("cohort", cohort), rows, directory, meshes.make_mesh(devices), **options)
    found = shards.read(directory)
    np.testing.assert_array_equal(found["index"], rows)
    return found["features"]


@pytest.fixture(scope="module")
def found(world, tmp_path_factory):
    return embedded(world, tmp_path_factory.mktemp("features") / "both")


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    return embedded(world, tmp_path_factory.mktemp("features") / "alone", missing=None)


def test_every_row_is_that_of_plain_loops_over_the_image_and_its_prior(world, found):
    _, params, _, pixels = world
    tree = jax.tree.map(lambda array: array.astype(np.float64), params)
    image, missing = tree["image"], tree["heads"]["image"]["missing"]
    oracle = test_resnet.Oracle(image)
    maps = [oracle.patches(one.astype(np.float64), TOWER.blocks) @ image["backbone_to_vit"]["kernel"][0, 0] for one in pixels]

    def expected(current, prior):
        half = np.tile(missing, (len(maps[0]), 1)) if prior < 0 else test_temporal._oracle(image["pooler"], maps[current], maps[prior])
        return np.concatenate([maps[current], half], axis=1)

    assert found.shape == (COUNT, 4, 2 * JOINT)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [expected(row, prior) for row, prior in enumerate(PRIORS)], atol=2e-5)
    row = np.flatnonzero(PAIRED)[0]
    assert np.abs(found[row] - expected(PRIORS[row], row)).max() > 0.1
    assert np.abs(found[row, :, JOINT:] - expected(row, row)[:, JOINT:]).max() > 0.01


def test_every_row_is_that_of_the_tower(world, found):
    spec, params, _, pixels = world
    both = np.asarray(towers.image_features(spec, params["image"], pixels[PAIRED], pixels[PRIORS[PAIRED]]))
    np.testing.assert_allclose(found[PAIRED], both, atol=2e-6)
    with jax.enable_x64(True):
        exact = towers.image_tower(spec).apply({"params": params["image"]}, pixels[PAIRED].astype(np.float64), pixels[PRIORS[PAIRED]].astype(np.float64))
    np.testing.assert_allclose(found[PAIRED], exact, atol=2e-5)


def test_rows_without_a_prior_are_embedded_as_in_the_mode_without_priors(world, found, alone):
    _, params, _, _ = world
    head = params["heads"]["image"]
    np.testing.assert_array_equal(found[~PAIRED, :, :JOINT], alone[~PAIRED])
    for trained in (head, heads.random_heads(3, {"image": head, "text": params["heads"]["text"]})["image"], heads.fold(head)):
        same, other = (np.asarray(heads.project(trained, features)) for features in (alone, found))
        np.testing.assert_allclose(same[~PAIRED], other[~PAIRED], atol=1e-6)
        assert np.abs(same[PAIRED] - other[PAIRED]).max(axis=1).min() > 1e-3


@pytest.mark.parametrize(("devices", "batch", "shard"), [(8, 3, 6), (1, 5, 4), pytest.param(8, 20, 20, marks=pytest.mark.slow)])
def test_mesh_batch_and_shard_size_change_nothing(world, found, tmp_path, devices, batch, shard):
    np.testing.assert_allclose(embedded(world, tmp_path / "x", devices, batch_size=batch, shard_rows=shard), found, atol=1e-5)


def test_rows_in_any_order_keep_their_priors(world, found, tmp_path):
    rows = np.array([10, 0, 3, 3, 9, 7])
    np.testing.assert_allclose(embedded(world, tmp_path / "x", rows=rows), found[rows], atol=1e-5)


def test_a_pair_stays_on_its_device(world):
    spec, params, _, _ = world
    inputs = {"params": params["image"], "levels": np.zeros((256, 3), np.float32)}
    lowered = steps.program(spec, steps.PAIR, meshes.make_mesh(8)).lower(inputs, np.zeros((16, 2, 16, 16), np.uint8))
    assert not re.findall(r"all-gather|all-to-all|collective-permute|all-reduce", lowered.compile().as_text())


def test_only_rows_with_a_prior_pay_for_one(world, found, tmp_path, monkeypatch):
    read, ran, real = [], [], steps.program
    picture = images.read_image
    monkeypatch.setattr(images, "read_image", lambda path, *rest, **options: read.append(int(path.stem)) or picture(path, *rest, **options))

    def counted(spec, kind, mesh, compiled):
        return lambda inputs, batch: ran.append((kind, batch.shape)) or compiled(inputs, batch)

    monkeypatch.setattr(steps, "program", lambda *key: counted(*key, compiled=real(*key)))
    embedded(world, tmp_path / "x")
    assert sorted(read) == sorted([*range(COUNT), *PRIORS[PAIRED]])
    pairs, singles = (steps.PAIR, (4, 2, 16, 16)), ("image", (4, 16, 16))
    assert ran == [pairs, singles, pairs, singles]


def test_steps_never_mix_and_the_cheaper_ones_end_a_shard():
    paired = np.array([False, True, True, False, True, False, False, True, True])
    planned = steps.planned([(0, 0, 5), (1, 5, 7), (2, 7, 9)], 2, paired=paired)
    assert [(step.shard, step.places.tolist(), step.paired, step.last) for step in planned] == [
        (0, [1, 2], True, False),
        (0, [4], True, False),
        (0, [0, 3], False, True),
        (1, [5, 6], False, True),
        (2, [7, 8], True, True),
    ]


def test_a_run_that_dies_is_finished_byte_for_byte(world, tmp_path):
    embedded(world, tmp_path / "whole")
    with files.fail_at(4), pytest.raises(errors.StoreError, match="write failed"):
        embedded(world, tmp_path / "broken")
    embedded(world, tmp_path / "broken")
    whole, broken = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "broken"))
    assert whole == broken


def test_another_mode_or_other_priors_are_refused_on_resume(world, tmp_path):
    _, params, cohort, _ = world
    embedded(world, tmp_path / "both", rows=np.arange(3))
    identity = shards.manifest(tmp_path / "both")["identity"]
    assert (identity["prior"], identity["images_with_prior"]) == ("table", 1)
    embedded(world, tmp_path / "alone", rows=np.arange(3), missing=None)
    assert not {name for name in shards.manifest(tmp_path / "alone")["identity"] if "prior" in name}
    again = functools.partial(embedded, world, rows=np.arange(3))
    other = Loose(**{**vars(cohort), "image_prior": np.array([-1, 2, *PRIORS[2:]], np.int32)})
    for directory, changes, sentence in (
        ("both", {"missing": None}, "images_with_prior, prior, prior_sha256"),
        ("alone", {}, "images_with_prior, prior, prior_sha256"),
        ("both", {"cohort": other}, "prior_sha256"),
        ("both", {"missing": params["heads"]["image"]["missing"] + 1}, "prior_sha256"),
    ):
        with pytest.raises(errors.StoreError, match=f"inputs changed .*found different {sentence}; use a fresh"):
            again(tmp_path / directory, **changes)


def test_half_precision_keeps_the_stand_in_and_stays_near(world, found, tmp_path):
    missing = world[1]["heads"]["image"]["missing"]
    rough = embedded(world, tmp_path / "bf16", precision="bf16")
    assert 1e-4 < np.abs(rough - found).max() < 0.2
    np.testing.assert_array_equal(rough[~PAIRED, :, JOINT:], np.broadcast_to(missing, (np.count_nonzero(~PAIRED), 4, JOINT)))
    np.testing.assert_array_equal(embedded(world, tmp_path / "float16", map_dtype="float16"), found.astype(np.float16))


def test_a_shard_holds_half_as_many_rows_of_twice_the_width(world, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "SHARD_BYTES", 4 * 4 * JOINT * 8)
    for missing, rows in ((None, 8), (world[1]["heads"]["image"]["missing"], 4)):
        embedded(world, tmp_path / str(rows), missing=missing, shard_rows=100)
        assert shards.manifest(tmp_path / str(rows))["shard_rows"] == rows


def test_a_damaged_prior_is_named_by_its_own_row(world, tmp_path):
    cohort = world[2]
    (cohort.image_root / "broken.png").write_bytes(b"no picture")
    paths = cohort.image_path.copy()
    paths[9] = "broken.png"
    broken = Loose(**{**vars(cohort), "image_path": paths})
    with pytest.raises(errors.DataError, match="in image 10 of the cohort, counted from 1: "):
        embedded(world, tmp_path / "x", rows=np.array([10]), cohort=broken)


def test_a_stand_in_for_a_model_that_compares_nothing_is_refused(world, tmp_path):
    spec, params, cohort, pixels = world
    with pytest.raises(errors.UsageError, match=r"prior images in model 'tiny': expected a stand-in of shape \(8,\), found one of shape \(3,\)"):
        embedded(world, tmp_path / "x", missing=np.zeros(3, np.float32))
    plain = specs.VLMSpec("plain", spec.directory, specs.ResNetSpec(16, (1, 1), 4, pool="map"), WORDS, 8, image_head="patch")
    with pytest.raises(errors.UsageError, match="prior images in model 'plain': expected none, since the model compares no images"):
        embedded((plain, params, cohort, pixels), tmp_path / "x")
    assert not (tmp_path / "x").exists()
