"""Features do not depend on mesh, batch or interruption, and bad input writes nothing that could be read."""

import json

import jax
import numpy as np
import pytest
import tiny_clip
from loose import Loose
from PIL import Image

from relink_jax import errors
from relink_jax.cohort import images
from relink_jax.encoders import convert, embed, preprocess, tokenize, towers, zoo
from relink_jax.runtime import mesh as meshes
from relink_jax.store import files, shards

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

COUNT = 21
TEXTS = [f"Small left effusion, {word}." for word in ("unchanged", "larger", "smaller", "new", "resolved")]
OPTIONS = {"batch_size": 8, "shard_rows": 6, "identity": {"weights": "tiny"}}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("embed")
    spec = zoo.from_directory(tiny_clip.write(root / "tiny"))
    draw = np.random.default_rng(0)
    for row in range(COUNT):
        Image.fromarray(draw.integers(0, 256, (40 + row, 50), dtype=np.uint8)).save(root / f"{row}.png")
    cohort = Loose(image_root=root, image_path=np.array([f"{row}.png" for row in range(COUNT)], dtype=object))
    return spec, convert.convert(spec).params, cohort


def _images(world, directory, rows=None, devices=1, **changes):
    spec, params, cohort = world
    rows = np.arange(COUNT) if rows is None else rows
    embed.embed_images(spec, params, cohort, rows, directory, meshes.make_mesh(devices), **{**OPTIONS, **changes})
    return shards.read(directory)


def test_features_are_those_of_the_tower_row_by_row(world, tmp_path):
    spec, params, cohort = world
    rows = np.array([20, 3, 3, 11])
    found = _images(world, tmp_path / "images", rows)
    recipe = preprocess.read_spec(spec.directory)
    pixels = np.stack([preprocess.pixels(np.asarray(Image.open(cohort.image_root / f"{row}.png"), np.float32) / 255, recipe) for row in rows])
    np.testing.assert_array_equal(found["index"], rows)
    assert found["index"].dtype == np.int32
    assert found["features"].dtype == np.float32
    np.testing.assert_allclose(found["features"], towers.image_features(spec, params["image"], pixels), atol=2e-6)


def test_mesh_batch_and_shard_size_change_nothing(world, tmp_path):
    assert len(jax.devices()) == 8
    one = _images(world, tmp_path / "one")
    eight = _images(world, tmp_path / "eight", devices=8, batch_size=5, shard_rows=9)
    np.testing.assert_array_equal(one["index"], eight["index"])
    np.testing.assert_allclose(one["features"], eight["features"], atol=1e-5)


def test_texts_equal_the_tower_and_follow_their_indices(world, tmp_path):
    spec, params, _ = world
    indices = np.array([4, 0, 2], np.int32)
    for devices in (1, 8):
        embed.embed_texts(spec, params, TEXTS, indices, tmp_path / str(devices), meshes.make_mesh(devices), **OPTIONS)
        found = shards.read(tmp_path / str(devices))
        ids = tokenize.Tokenizer(spec.directory, spec.text.positions)([TEXTS[index] for index in indices])
        np.testing.assert_array_equal(found["index"], indices)
        np.testing.assert_allclose(found["features"], towers.text_features(spec, params["text"], ids), atol=2e-6)


@pytest.mark.parametrize("write", [2, 4, 7, 10])
def test_a_run_that_dies_is_finished_byte_for_byte(world, tmp_path, write):
    _images(world, tmp_path / "whole")
    with files.fail_at(write), pytest.raises(errors.StoreError, match=r"write failed"):
        _images(world, tmp_path / "broken")
    with pytest.raises(errors.StoreError, match=r"unfinished"):
        shards.read(tmp_path / "broken")
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "broken").glob("*.ok")}
    _images(world, tmp_path / "broken")
    assert {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "broken").iterdir()
    }
    assert all((tmp_path / "broken" / name).stat().st_mtime_ns == when for name, when in kept.items())
    assert len(kept) == max(0, (write - 2) // 2)


def test_a_finished_directory_is_not_computed_again(world, tmp_path, monkeypatch):
    first = _images(world, tmp_path / "images")
    monkeypatch.setattr(images, "read_image", lambda *_, **__: pytest.fail("decoded again"))
    np.testing.assert_array_equal(_images(world, tmp_path / "images")["features"], first["features"])


@pytest.mark.parametrize("changes", [{"identity": {"weights": "other"}}, {"rows": np.arange(COUNT)[::-1]}])
def test_other_inputs_are_refused_on_resume(world, tmp_path, changes):
    _images(world, tmp_path / "images")
    with pytest.raises(errors.StoreError, match=r"inputs changed"):
        _images(world, tmp_path / "images", **changes)


def test_other_preprocessing_or_texts_are_refused_on_resume(world, tmp_path):
    spec, params, _ = world
    rows, mesh = np.arange(3), meshes.make_mesh(1)
    embed.embed_texts(spec, params, TEXTS, rows, tmp_path / "texts", mesh, **OPTIONS)
    with pytest.raises(errors.StoreError, match=r"different tokens"):
        embed.embed_texts(spec, params, [*TEXTS[:2], "Other."], rows, tmp_path / "texts", mesh, **OPTIONS)
    with pytest.raises(errors.StoreError, match=r"different tokens"):
        embed.embed_texts(spec, params, ["Other.", *TEXTS[1:3]], rows, tmp_path / "texts", mesh, **OPTIONS)
    other = tiny_clip.write(tmp_path / "other")
    merges = (other / "merges.txt").read_text().splitlines()
    (other / "merges.txt").write_text("\n".join(merges[:20]) + "\n")
    (other / "tokenizer.json").unlink()
    with pytest.raises(errors.StoreError, match=r"different tokens"):
        embed.embed_texts(zoo.from_directory(other), params, TEXTS, rows, tmp_path / "texts", mesh, **OPTIONS)


@pytest.mark.parametrize(
    ("field", "value"),
    [("image_mean", [0.5, 0.4, 0.61]), ("image_std", [0.25, 0.3, 0.21]), ("resample", 2), ("rescale_factor", 1 / 256), ("size", {"shortest_edge": 34})],
)
def test_another_preprocessor_config_is_refused_on_resume(world, tmp_path, field, value):
    _, params, cohort = world
    other = zoo.from_directory(tiny_clip.write(tmp_path / "tiny"))
    path = other.directory / preprocess.FILE
    before = path.read_text()
    first = _images((other, params, cohort), tmp_path / "images", np.arange(3))
    path.write_text(json.dumps({**json.loads(before), field: value}))
    with pytest.raises(errors.StoreError, match=r"inputs changed .*different preprocess"):
        _images((other, params, cohort), tmp_path / "images", np.arange(3))
    path.write_text(json.dumps({**json.loads(before), "processor_class": "a note that moves no pixel"}))
    np.testing.assert_array_equal(_images((other, params, cohort), tmp_path / "images", np.arange(3))["features"], first["features"])


def test_a_damaged_image_is_named_by_row_and_nothing_is_finished(world, tmp_path):
    spec, params, cohort = world
    (cohort.image_root / "broken.png").write_bytes((cohort.image_root / "0.png").read_bytes()[:60])
    broken = Loose(image_root=cohort.image_root, image_path=np.array([*cohort.image_path[:9], "broken.png", "gone.png"], dtype=object))
    for row in (9, 10):
        with pytest.raises(errors.DataError, match=f"in image {row + 1} of the cohort, counted from 1: "):
            _images((spec, params, broken), tmp_path / str(row), np.array([0, row]))
        assert not shards.finished(tmp_path / str(row))


def test_features_that_are_not_finite_are_refused(world, tmp_path):
    spec, params, cohort = world
    spoiled = jax.tree.map(np.array, params)
    spoiled["image"]["class_embedding"][0] = np.inf
    with pytest.raises(errors.DataError, match=r"features not finite in embed images, row 0"):
        _images((spec, spoiled, cohort), tmp_path / "images")
    assert not shards.finished(tmp_path / "images")


def test_a_row_that_is_not_finite_is_named_by_its_place_in_the_run():
    features = np.ones((3, 2, 2), np.float32)
    features[1, 0, 1] = np.nan
    with pytest.raises(errors.DataError, match=r"features not finite in embed texts, row 9: expected finite numbers, found 1 bad rows in a batch$"):
        embed._check_finite(features, np.array([4, 9, 2]), "embed texts")


def test_nothing_to_embed_is_refused(world, tmp_path):
    with pytest.raises(errors.DataError, match=r"nothing to embed"):
        _images(world, tmp_path / "images", np.arange(0))


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    spec = zoo.from_directory(tiny_clip.write(tmp_path / "small"))
    config = (spec.directory / "config.json").read_text()
    (spec.directory / "config.json").write_text(config.replace(f'"vocab_size": {spec.text.vocab_size}', '"vocab_size": 300'))
    small = zoo.from_directory(spec.directory)
    with pytest.raises(errors.DataError, match=r"token id in tokenizer of 'small': expected below the vocabulary size 300"):
        embed.embed_texts(small, {"text": {}}, TEXTS, np.arange(2), tmp_path / "texts", meshes.make_mesh(1), **OPTIONS)


def test_preprocessing_of_another_size_is_refused(world, tmp_path):
    spec = zoo.from_directory(tiny_clip.write(tmp_path / "odd"))
    path = spec.directory / "preprocessor_config.json"
    path.write_text(path.read_text().replace('{"height": 32, "width": 32}', '{"height": 30, "width": 32}'))
    with pytest.raises(errors.DataError, match=r"expected 32 x 32 pixels as in config.json, found 30 x 32"):
        _images((spec, *world[1:]), tmp_path / "images")
