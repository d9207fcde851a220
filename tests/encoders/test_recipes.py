"""Every recipe, to the last bit, against its source's steps written out again with Pillow and NumPy; and what must not pass for it."""

import dataclasses
import math

import numpy as np
import pictures
import pytest
from PIL import Image

from relink_jax import errors
from relink_jax.cohort import images
from relink_jax.encoders import preprocess, recipes, resampling
from relink_jax.store import digests

CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5] * 3, [0.5] * 3)


def _shorter(picture, side, kind):
    width, height = picture.size
    size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    return picture.resize(size, kind)


def _centre(picture, side):
    """torchvision.transforms.functional.center_crop."""
    left, top = (round((length - side) / 2.0) for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


def _tensor(picture, mean, std):
    """torchvision's ToTensor and Normalize on three equal channels."""
    scaled = np.repeat((np.asarray(picture, np.float32) / np.float32(255))[..., None], 3, -1)
    return (scaled - np.float32(mean)) / np.float32(std)


def _pasted(picture, side):
    canvas = Image.new("L", (side, side))
    canvas.paste(picture, ((side - picture.size[0]) // 2, (side - picture.size[1]) // 2))
    return canvas


def _stretched(levels):
    levels = levels.astype(float)
    levels -= levels.min()
    levels /= levels.max()
    levels *= 255
    return Image.fromarray(levels.astype(np.uint8))


def _chexzero(path):
    picture = pictures.grey(path).convert("RGB")
    ratio = float(320) / max(picture.size)
    small = picture.resize(tuple(int(length * ratio) for length in picture.size), Image.Resampling.LANCZOS)
    plane = (np.asarray(_pasted(small, 320), np.float32) - np.float32(101.48761)) / np.float32(83.43944)
    return np.repeat(resampling.cubic(plane, 224, 224)[..., None], 3, -1)


def _gloria(path):
    levels = np.asarray(pictures.grey(path))
    height, width = levels.shape
    wanted = (256, int(float(width) * (256 / float(height)))) if height >= width else (int(float(height) * (256 / float(width))), 256)
    small = resampling.area(levels, *wanted)
    pads = [(math.floor((256 - length) / 2), math.ceil((256 - length) / 2)) for length in small.shape]
    return _tensor(np.pad(small, pads)[16:240, 16:240], *HALF)


def _medclip(path):
    picture = pictures.grey(path)
    square = _pasted(picture, max(224, *picture.size)).resize((224, 224), Image.Resampling.BICUBIC)
    scaled = np.asarray(square).astype(np.float32) * (1 / 255.0)
    one = (scaled - np.array(0.5862785803043838).astype(np.float32)) / np.array(0.27950088968644304).astype(np.float32)
    return np.repeat(one[..., None], 3, -1)


def _tensorflow(path):
    return _tensor(resampling.floored_bilinear(np.asarray(pictures.grey(path)), 448, 448), *HALF)


REFERENCES = {
    "clip": lambda path: _tensor(_centre(_shorter(pictures.grey(path), 224, Image.Resampling.BICUBIC), 224), *CLIP),
    "squash": lambda path: _tensor(pictures.grey(path).resize((448, 448), Image.Resampling.BICUBIC), *HALF),
    "medsiglip_tf": _tensorflow,
    "biovil": lambda path: _tensor(_centre(_shorter(_stretched(pictures.integers(path)), 512, Image.Resampling.BILINEAR), 480), [0], [1]),
    "biovil_t": lambda path: _tensor(_centre(_shorter(_stretched(pictures.integers(path)), 512, Image.Resampling.BILINEAR), 448), [0], [1]),
    "chexzero": _chexzero,
    "cxr_clip_resnet": lambda path: _tensor(_centre(_shorter(pictures.grey(path), 224, Image.Resampling.BILINEAR), 224), *IMAGENET),
    "cxr_clip_swin": lambda path: _tensor(_centre(_shorter(pictures.grey(path), 224, Image.Resampling.BILINEAR), 224), *HALF),
    "medclip": _medclip,
    "gloria": _gloria,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return pictures.write(tmp_path_factory.mktemp("pictures"))


def test_every_recipe_has_a_reference():
    assert REFERENCES.keys() == recipes.RECIPES.keys()


@pytest.mark.parametrize("kind", pictures.NAMES)
@pytest.mark.parametrize("name", REFERENCES)
def test_pixels_equal_the_reference_to_the_last_bit(files, name, kind):
    recipe = recipes.RECIPES[name]
    found = recipe.pixels(images.read_image(files[kind]))
    assert found.dtype == np.float32
    assert found.shape == (*recipe.size, 3)
    np.testing.assert_array_equal(found, REFERENCES[name](files[kind]))


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_table_and_the_plane_give_the_pixels(files, name):
    recipe, image = recipes.RECIPES[name], images.read_image(files["grey_16"])
    plane, levels = recipe.plane(image), recipe.levels
    assert plane.shape == recipe.size
    if name == "chexzero":
        assert levels is None
        assert plane.dtype == np.float32
    else:
        assert plane.dtype == np.uint8
        assert levels.shape == (256, 3)
        assert levels.dtype == np.float32
    expected = np.stack([plane] * 3, -1) if levels is None else levels[plane]
    np.testing.assert_array_equal(recipe.pixels(image), expected)
    assert digests.value_digest(dataclasses.asdict(recipe))


def test_recipes_are_told_apart_by_their_digests():
    found = {digests.value_digest(dataclasses.asdict(recipe)) for recipe in recipes.RECIPES.values()}
    assert len(found) == len(recipes.RECIPES)


def _changed(name, number, *values):
    recipe = recipes.RECIPES[name]
    steps = list(recipe.steps)
    steps[number] = recipes.Step(steps[number].name, values)
    return dataclasses.replace(recipe, steps=tuple(steps))


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("clip", _changed("clip", 1, 224, recipes.BILINEAR)),
        ("clip", _changed("clip", 2, 224, 224, "down")),
        ("biovil", _changed("biovil", 1, 512, recipes.BICUBIC)),
        ("biovil", dataclasses.replace(recipes.RECIPES["biovil"], steps=(recipes.Step("grey"), *recipes.RECIPES["biovil"].steps[1:]))),
        ("chexzero", _changed("chexzero", 1, 320, recipes.BICUBIC)),
        ("cxr_clip_swin", dataclasses.replace(recipes.RECIPES["cxr_clip_swin"], mean=IMAGENET[0])),
        ("medclip", dataclasses.replace(recipes.RECIPES["medclip"], product="float64")),
        ("squash", recipes.RECIPES["medsiglip_tf"]),
    ],
)
def test_a_wrong_filter_crop_stretch_or_statistic_would_be_seen(tmp_path, name, mutant):
    draw = np.random.default_rng(5)
    picture = Image.fromarray(draw.integers(40, 200, (30, 34)).astype(np.uint8)).resize((303, 233), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "picture.png")
    assert (mutant.pixels(images.read_image(tmp_path / "picture.png")) != REFERENCES[name](tmp_path / "picture.png")).any()


def test_the_two_ways_of_cutting_the_centre_differ_by_one_pixel_where_half_the_margin_is_odd():
    grey = np.arange(7, dtype=np.uint8)[None].repeat(4, 0)
    even, down = (recipes.STEPS["crop"](grey, 4, 4, rounding) for rounding in ("even", "down"))
    assert (even[0, 0], down[0, 0]) == (2, 1)


def test_a_crop_larger_than_the_image_is_padded_as_its_library_pads():
    grey = np.full((2, 2), 9, np.uint8)
    even, down = (recipes.STEPS["crop"](grey, 5, 5, rounding) for rounding in ("even", "down"))
    assert [even.any(1).tolist(), down.any(1).tolist()] == [[False, True, True, False, False], [False, False, True, True, False]]


@pytest.mark.parametrize("top", [255, 4095, 65535])
def test_the_stretch_sees_the_integers_behind_the_floats(top):
    draw = np.random.default_rng(top)
    for _ in range(20):
        levels = np.sort(draw.choice(top + 1, 200))[None].astype(np.float64)
        expected = ((levels - levels.min()) / (levels - levels.min()).max() * 255).astype(np.uint8)
        np.testing.assert_array_equal(recipes.stretched(levels.astype(np.float32) / np.float32(top)), expected)


def test_a_stretch_of_floats_without_integers_ends_at_0_and_255():
    found = recipes.stretched(np.random.default_rng(0).random((9, 9)).astype(np.float32))
    assert (found.min(), found.max()) == (0, 255)


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("biovil", np.full((5, 5), 0.3), "constant image in preprocessing step 'stretch'"),
        ("biovil", np.full((5, 5), np.nan), "pixel values"),
        ("biovil", np.zeros((2, 2, 3)), "image shape"),
        ("biovil", np.eye(2) * 2, "maximum 2"),
        ("clip", np.zeros((1, 2000)), "1 x 2000, to 224 x 448000"),
        ("gloria", np.zeros((1, 300)), "1 x 300, to 0 x 256"),
        ("chexzero", np.zeros((400, 1)), "400 x 1, to 320 x 0"),
    ],
)
def test_images_that_a_recipe_cannot_follow_are_refused(name, image, message):
    with pytest.raises(errors.DataError, match=message):
        recipes.RECIPES[name].pixels(image.astype(np.float32))


def test_a_model_gets_its_named_recipe_or_its_checkpoints_own():
    from relink_jax.encoders import zoo

    spec = zoo.get_vlm("phantom-3-specialist")
    own = preprocess.read_spec(spec.directory).recipe
    assert [preprocess.recipe_for(dataclasses.replace(spec, recipe=name)) for name in ("", "hf")] == [own, own]
    assert preprocess.recipe_for(dataclasses.replace(spec, recipe="gloria")) is recipes.RECIPES["gloria"]
    with pytest.raises(errors.UsageError, match="did you mean 'chexzero'"):
        preprocess.recipe_for(dataclasses.replace(spec, recipe="chexzro"))


def test_a_size_that_depends_on_the_image_is_no_size():
    assert recipes.Recipe((recipes.Step("grey"), recipes.Step("short_side", (32, recipes.BICUBIC)))).size is None
