"""Any tower's features, sharded over 8 devices or not, bucketed or not, in either precision, as vectors or maps."""

import dataclasses
import functools
import json
import pathlib
import tempfile
import types

import jax
import numpy as np
import pytest
import random_params
from jax.sharding import PartitionSpec
from loose import Loose
from PIL import Image

from relink_jax import errors
from relink_jax.encoders import embed, preprocess, recipes, specs, steps, tokenize, towers
from relink_jax.runtime import mesh as meshes
from relink_jax.store import shards

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

STACK = specs.StackSpec(width=16, layers=1, heads=2, mlp_width=24, act="gelu", epsilon=1e-6)
VIT = specs.VitSpec(STACK, image_size=32, patch_size=8)
IMAGE = {
    "vit": VIT,
    "probe": dataclasses.replace(VIT, class_token=False, pre_norm=False, patch_bias=True, pool="probe"),
    "resnet": specs.ResNetSpec(image_size=32, blocks=(1, 1, 1, 1), width=4),
    "map": specs.ResNetSpec(image_size=64, blocks=(1, 1, 1, 1), width=4, pool="map"),
    "swin": specs.SwinSpec(image_size=56, pool="mean", blocks=(1, 2), heads=(2, 4), width=8),
}
TEXT = {
    "clip": specs.TextSpec(STACK, vocab_size=90, positions=77, eos_token_id=89),
    "siglip": specs.TextSpec(STACK, vocab_size=90, positions=64, eos_token_id=1, causal=False, pool="last"),
    **{pool: specs.BertSpec(STACK, vocab_size=90, length=70, pool=pool) for pool in ("cls", "sep")},
    "three_layers": specs.BertSpec(dataclasses.replace(STACK, layers=3), vocab_size=90, length=70, pool="three_layers"),
}
COUNT = 21
OPTIONS = {"batch_size": 8, "shard_rows": 16, "identity": {"weights": "random"}}


FOLDER = tempfile.TemporaryDirectory()  # of every spec, since a spec in another directory is another program


@functools.cache
def model(image="vit", text="clip"):
    """Returns (spec, random parameters) of tiny towers; no tower is idle anywhere."""
    side, directory = IMAGE[image].image_size, pathlib.Path(FOLDER.name) / image
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}, "resample": 3, "rescale_factor": 1 / 255}
    directory.mkdir(exist_ok=True)
    (directory / preprocess.FILE).write_text(json.dumps({**sizes, "image_mean": [0.5, 0.4, 0.6], "image_std": [0.25, 0.3, 0.2]}))
    spec = specs.VLMSpec(name=f"{image}-{text}", directory=directory, image=IMAGE[image], text=TEXT[text], dim=16)
    shapes = jax.eval_shape(lambda: {side: towers.init(spec, jax.random.key(0))[side] for side in ("image", "text")})
    return spec, jax.tree.map(lambda array: array.astype(np.float32), random_params.fill(shapes))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for row in range(COUNT):
        Image.fromarray(draw.integers(0, 256, (40 + row, 50), dtype=np.uint8)).save(root / f"{row}.png")
    return Loose(image_root=root, image_path=np.array([f"{row}.png" for row in range(COUNT)], dtype=object))


def images(tmp_path, pictures, image, name, devices=1, **changes):
    spec, params = model(image)
    embed.embed_images(spec, params, pictures, np.arange(COUNT), tmp_path / name, meshes.make_mesh(devices), **{**OPTIONS, **changes})
    return shards.read(tmp_path / name)["features"]


class FakeTokenizer:
    """Ids of texts "tokens[ seed]": 1 + that many ids of their own, then the tower's end and padding."""

    def __init__(self, tower, bucketed=True):
        self.tower, self.rule = tower, types.SimpleNamespace(bucketed=bucketed)

    def __call__(self, texts):
        length = towers.text_length(types.SimpleNamespace(text=self.tower))
        end, padding = (89, 89) if isinstance(self.tower, specs.TextSpec) else (2, 0)
        words = [[int(word) for word in text.split()] for text in texts]
        rows = [[3, *np.random.default_rng(seeds).integers(4, 80, min(seeds[0], length - 2)), end] for seeds in words]
        return np.array([[*row, *[padding] * (length - len(row))] for row in rows], np.int32)


LENGTHS = [3, 60, 14, 15, 16, 1, 75, 75, 30, 31, 2, 5, 13, 40, 61, 62, 63, 3, 4, 100, 9, 7]
TEXTS = [f"{length} {row}" for row, length in enumerate(LENGTHS)]
ENDS = np.flatnonzero((np.array(LENGTHS) < 15) | (np.array(LENGTHS) > 70))  # texts of the shortest and the longest program


def texts(tmp_path, monkeypatch, text, name, devices=1, bucketed=True, rows=None, **changes):
    spec, params = model(text=text)
    monkeypatch.setattr(tokenize, "tokenizer_for", lambda _: FakeTokenizer(spec.text, bucketed))
    monkeypatch.setattr(steps, "_WORTH", 0)
    rows = np.arange(len(LENGTHS)) if rows is None else rows
    embed.embed_texts(spec, params, TEXTS, rows, tmp_path / name, meshes.make_mesh(devices), **{**OPTIONS, **changes})
    found = shards.read(tmp_path / name)
    np.testing.assert_array_equal(found["index"], rows)
    return found["features"]


def whole(text):
    """Returns the features of all texts under one call of the tower, nothing cut."""
    spec, params = model(text=text)
    return np.asarray(towers.text_features(spec, params["text"], FakeTokenizer(spec.text)(TEXTS)))


@pytest.mark.parametrize("image", IMAGE)
def test_every_image_tower_gives_its_shape_and_the_same_on_8_devices(tmp_path, pictures, image):
    one = images(tmp_path, pictures, image, "one")
    eight = images(tmp_path, pictures, image, "eight", devices=8, batch_size=5, shard_rows=13)
    assert one.shape == (COUNT, *IMAGE[image].features)
    assert one.dtype == np.float32
    assert len(np.unique(one.reshape(COUNT, -1), axis=0)) == COUNT
    np.testing.assert_allclose(one, eight, rtol=1e-5, atol=1e-5 * np.abs(one).max())


def identity(tmp_path, name):
    return shards.manifest(tmp_path / name)["identity"]


@pytest.mark.parametrize("image", IMAGE)
def test_bf16_is_near_float32_and_says_so(tmp_path, pictures, image):
    exact = images(tmp_path, pictures, image, "float32").reshape(COUNT, -1)
    rough = images(tmp_path, pictures, image, "bf16", precision="bf16").reshape(COUNT, -1)
    assert rough.dtype == np.float32
    cosine = np.sum(exact * rough, axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.99
    assert np.max(np.abs(exact - rough)) > 1e-4
    assert [identity(tmp_path, name)["precision"] for name in ("float32", "bf16")] == ["float32", "bf16"]
    with pytest.raises(errors.StoreError, match=r"inputs changed .*different precision"):
        images(tmp_path, pictures, image, "float32", precision="bf16")


def test_devices_agree_exactly_on_small_integers():
    """Whole-number weights make every product and sum exact, so nothing but a wrong row or column could differ."""
    spec, params = model("resnet")
    draw = np.random.default_rng(3)
    params = jax.tree.map(lambda array: draw.integers(-1, 2, array.shape).astype(np.float32), params["image"])
    exact = jax.tree_util.tree_map_with_path(lambda path, array: np.full_like(array, 1 - 1e-5) if path[-1].key == "var" else array, params)
    inputs = {"params": exact, "levels": np.repeat(np.arange(256, dtype=np.float32)[:, None] % 3, 3, axis=1)}
    batch = draw.integers(0, 256, (8, 32, 32), dtype=np.uint8)
    one, eight = (np.asarray(steps.program(spec, "image", meshes.make_mesh(devices))(inputs, batch)) for devices in (1, 8))
    np.testing.assert_array_equal(one, eight)
    assert len(np.unique(one, axis=0)) == 8


def test_maps_can_be_stored_in_half_precision_and_vectors_cannot(tmp_path, pictures):
    full = images(tmp_path, pictures, "map", "full")
    half = images(tmp_path, pictures, "map", "half", map_dtype="float16")
    np.testing.assert_array_equal(half, full.astype(np.float16))
    assert half.dtype == np.float16
    assert [identity(tmp_path, name)["dtype"] for name in ("full", "half")] == ["float32", "float16"]
    assert images(tmp_path, pictures, "vit", "vectors", map_dtype="float16").dtype == np.float32
    assert identity(tmp_path, "vectors")["dtype"] == "float32"
    with pytest.raises(errors.StoreError, match=r"inputs changed .*different dtype"):
        images(tmp_path, pictures, "map", "full", map_dtype="float16")


def test_a_shard_of_maps_stays_small_enough_to_be_read(tmp_path, pictures, monkeypatch):
    width = 4 * np.prod(IMAGE["map"].features)
    monkeypatch.setattr(embed, "SHARD_BYTES", int(width * 11))
    small = images(tmp_path, pictures, "map", "small")
    assert shards.manifest(tmp_path / "small")["shard_rows"] == 8
    monkeypatch.setattr(embed, "SHARD_BYTES", 1)
    one = images(tmp_path, pictures, "map", "one")
    assert shards.manifest(tmp_path / "one")["shard_rows"] == 1
    np.testing.assert_allclose(small, one, rtol=1e-5, atol=1e-5 * np.abs(one).max())
    images(tmp_path, pictures, "vit", "vectors")
    assert shards.manifest(tmp_path / "vectors")["shard_rows"] == 16


def test_planes_without_a_table_of_levels_reach_the_tower_as_pixels(tmp_path, pictures, monkeypatch):
    side = IMAGE["vit"].image_size
    recipe = recipes.Recipe(tuple(recipes.Step(*step) for step in (("grey",), ("standardise", (100.0, 80.0)), ("cubic", (side, side)))))
    monkeypatch.setattr(preprocess, "recipe_for", lambda _: recipe)
    found = images(tmp_path, pictures, "vit", "planes")
    spec, params = model()
    pixels = np.stack([recipe.pixels(np.asarray(Image.open(pictures.image_root / f"{row}.png"), np.float32) / 255) for row in range(COUNT)])
    np.testing.assert_allclose(found, towers.image_features(spec, params["image"], pixels), atol=2e-6)
    seen, real = [], towers.image_features
    monkeypatch.setattr(towers, "image_features", lambda spec, params, shown: seen.append(shown.dtype.name) or real(spec, params, shown))
    rough = images(tmp_path, pictures, "vit", "rough", precision="bf16")
    assert seen == ["bfloat16"]
    assert 1e-4 < np.max(np.abs(rough - found)) < 0.3


def test_an_image_that_a_recipe_refuses_is_named(tmp_path, pictures, monkeypatch):
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(tmp_path / "flat.png")
    (tmp_path / "0.png").write_bytes((pictures.image_root / "0.png").read_bytes())
    broken = Loose(image_root=tmp_path, image_path=np.array(["0.png", "flat.png"] * COUNT, dtype=object))
    monkeypatch.setattr(preprocess, "recipe_for", lambda _: recipes.Recipe((recipes.Step("stretch"), recipes.Step("squash", (32, 32, 2)))))
    with pytest.raises(errors.DataError, match=r"^image 2 of the cohort, counted from 1: constant image in "):
        images(tmp_path, broken, "vit", "images")


@pytest.mark.parametrize("text", TEXT)
def test_every_text_tower_gives_the_features_of_whole_rows_on_1_and_8_devices(tmp_path, monkeypatch, text):
    expected = whole(text)
    assert expected.std(axis=0).min() > 0.01
    np.testing.assert_allclose(texts(tmp_path, monkeypatch, text, "one"), expected, atol=2e-6)
    np.testing.assert_allclose(texts(tmp_path, monkeypatch, text, "eight", devices=8, rows=ENDS), expected[ENDS], atol=2e-6)
    np.testing.assert_allclose(texts(tmp_path, monkeypatch, text, "whole", bucketed=False), expected, atol=2e-6)


@pytest.mark.parametrize("text", ["clip", "cls"])
def test_bf16_texts_are_near_float32(tmp_path, monkeypatch, text):
    exact, rough = (texts(tmp_path, monkeypatch, text, precision, rows=ENDS, precision=precision) for precision in ("float32", "bf16"))
    cosine = np.sum(exact * rough, axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.99
    assert cosine.min() < 1 - 1e-6


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("devices", [1, 8])
def test_the_output_stays_split_over_the_mesh(side, devices):
    spec, params = model("map") if side == "image" else model(text="cls")
    mesh = meshes.make_mesh(devices)
    batch = np.zeros((8, 64, 64), np.uint8) if side == "image" else np.ones((8, 70), np.int32)
    inputs = {"params": params[side], **({"levels": np.zeros((256, 3), np.float32)} if side == "image" else {})}
    found = steps.program(spec, side, mesh)(inputs, batch)
    assert found.sharding.spec == PartitionSpec("data")
    assert {piece.data.shape for piece in found.addressable_shards} == {(8 // devices, *getattr(spec, side).features)}


def test_lengths_are_few_and_cover_the_longest():
    assert steps.bucket_lengths(77) == [16, 32, 64, 77]
    assert steps.bucket_lengths(256) == [16, 32, 64, 128, 256]
    assert steps.bucket_lengths(512) == [32, 64, 128, 256, 512]
    assert steps.bucket_lengths(16) == [16]
    assert steps.bucket_lengths(5) == [5]


def test_a_length_that_few_texts_have_is_not_worth_a_program():
    needed = np.array([3, 16, 9, 17, 30, 33, 60, 61, 62, 63, 70, 1])
    assert steps.padded_lengths(needed, 77, 1).tolist() == [16, 16, 16, 64, 64, 64, 64, 64, 64, 64, 77, 16]
    assert steps.padded_lengths(needed, 77, 2).tolist() == [64] * 10 + [77, 64]
    assert steps.padded_lengths(needed, 77, 9).tolist() == [77] * 12


@pytest.mark.parametrize(("text", "needed"), [("clip", [5, 62, 77]), ("cls", [5, 62, 70]), ("sep", [5, 62, 70]), ("siglip", None), ("three_layers", None)])
def test_only_texts_that_padding_cannot_reach_are_cut(text, needed):
    found = steps.needed_tokens(TEXT[text], FakeTokenizer(TEXT[text])(["3", "60", "75"]))
    assert (found if needed is None else found.tolist()) == needed


def test_a_cut_below_the_needed_tokens_would_be_seen(tmp_path, monkeypatch):
    right = steps.needed_tokens
    monkeypatch.setattr(steps, "needed_tokens", lambda *arguments: np.minimum(right(*arguments), 16))
    assert np.max(np.abs(texts(tmp_path, monkeypatch, "clip", "cut") - whole("clip"))) > 0.01


@pytest.mark.parametrize("text", ["siglip", "three_layers"])
def test_padding_does_reach_the_towers_that_are_never_cut(text):
    spec, params = model(text=text)
    ids = FakeTokenizer(spec.text)(["3", "9"])
    full, cut = (np.asarray(towers.text_features(spec, params["text"], ids[:, :length])) for length in (ids.shape[1], 16))
    assert np.max(np.abs(full - cut)) > 0.01


def test_a_run_traces_one_program_per_length_and_a_second_run_none(tmp_path, monkeypatch):
    traced, real = [], towers.text_features
    monkeypatch.setattr(towers, "text_features", lambda spec, params, ids: traced.append(ids.shape) or real(spec, params, ids))
    steps.program.cache_clear()
    texts(tmp_path, monkeypatch, "clip", "first", batch_size=2)
    assert sorted(traced) == [(2, 16), (2, 32), (2, 64), (2, 77)]
    texts(tmp_path, monkeypatch, "clip", "second", batch_size=2, rows=np.arange(20)[::-1])
    assert len(traced) == 4
    steps.program.cache_clear()
    texts(tmp_path, monkeypatch, "clip", "third", batch_size=2, bucketed=False)
    assert traced[4:] == [(2, 77)]
    steps.program.cache_clear()


def test_maps_too_large_for_half_precision_are_refused(tmp_path, pictures, monkeypatch):
    real = towers.image_features
    monkeypatch.setattr(towers, "image_features", lambda *arguments: real(*arguments) * 1e6)
    steps.program.cache_clear()
    with pytest.raises(errors.DataError, match=r"features not finite in embed images, row \d+: .*too large for float16"):
        images(tmp_path, pictures, "map", "half", map_dtype="float16")
    steps.program.cache_clear()


def test_steps_are_full_and_the_longest_go_first():
    lengths = np.array([16, 64, 16, 32, 16, 64, 16])
    found = steps.planned([(0, 0, 5), (2, 5, 7)], 2, lengths=lengths)
    assert [(step.shard, step.places.tolist(), step.length, step.last) for step in found] == [
        (0, [1, 3], 64, False),
        (0, [0, 2], 16, False),
        (0, [4], 16, True),
        (2, [5, 6], 64, True),
    ]
    assert [step.places.tolist() for step in steps.planned([(0, 0, 5)], 3)] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"precision": "bfloat16"}, r"precision in embed: expected one of float32, bf16, found 'bfloat16'; did you mean"), ({"map_dtype": "int8"}, "map_dtype")],
)
def test_an_unknown_precision_is_refused_before_anything_is_read(tmp_path, pictures, changes, sentence):
    with pytest.raises(errors.UsageError, match=sentence):
        images(tmp_path, pictures, "map", "none", **changes)
    assert not (tmp_path / "none").exists()
