"""Preprocessing equals the reference processor to the last bit, and refuses what it cannot mean."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from relink_jax import errors
from relink_jax.encoders import preprocess, zoo

GOLDEN = pathlib.Path(__file__).parent.parent / "goldens" / "phantom-3-specialist.npz"
SPEC = preprocess.PreprocessSpec(48, None, 3, (64, 40), 1 / 255, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def _reference(spec):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    crop = {"height": spec.crop[0], "width": spec.crop[1]}
    return CLIPImageProcessorPil(size={"shortest_edge": spec.short_side}, crop_size=crop, image_mean=list(spec.mean), image_std=list(spec.std))


@pytest.mark.parametrize("shape", [(48, 48), (70, 131), (131, 70), (51, 77), (333, 340)])
def test_pixels_equal_the_reference_processor(shape):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    picture = Image.fromarray(preprocess.to_uint8(image))
    expected = np.asarray(_reference(SPEC)(picture, return_tensors="np")["pixel_values"])[0]
    np.testing.assert_array_equal(preprocess.pixels(image, SPEC), np.moveaxis(expected, 0, -1))


def test_pixels_equal_the_golden_of_the_packaged_model():
    golden = np.load(GOLDEN)
    spec = preprocess.read_spec(zoo.get_vlm("phantom-3-specialist").directory)
    found = np.stack([preprocess.normalised(preprocess.resized(grey, spec), spec) for grey in golden["grey"]])
    np.testing.assert_array_equal(np.moveaxis(found, -1, 1), golden["pixels"])


def test_an_8_bit_image_survives_the_way_through_floats():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(preprocess.to_uint8(levels.astype(np.float32) / np.float32(255)), levels)


def test_squash_ignores_the_aspect_ratio():
    spec = dataclasses.replace(SPEC, short_side=None, squash=(10, 20), crop=None)
    assert preprocess.resized(np.zeros((50, 50), np.uint8), spec).shape == (10, 20)


@pytest.mark.parametrize(
    ("image", "message"),
    [(np.zeros((4, 4, 3)), "image shape"), (np.full((4, 4), 1.5), "maximum 1.5"), (np.full((4, 4), np.nan), "pixel values"), (np.zeros((0, 4)), "image shape")],
)
def test_images_that_make_no_sense_are_refused(image, message):
    with pytest.raises(errors.DataError, match=message):
        preprocess.pixels(image, SPEC)


def _config(tmp_path, **changes):
    config = json.loads((zoo.get_vlm("phantom-3-specialist").directory / preprocess.FILE).read_text())
    (tmp_path / preprocess.FILE).write_text(json.dumps({**config, **changes}))
    return tmp_path


def test_old_configs_with_plain_numbers_are_read(tmp_path):
    spec = preprocess.read_spec(_config(tmp_path, size=224, crop_size=200))
    assert (spec.short_side, spec.crop) == (224, (200, 200))


def test_steps_that_are_switched_off_are_left_out(tmp_path):
    spec = preprocess.read_spec(_config(tmp_path, do_resize=False, do_center_crop=False, do_normalize=False, do_rescale=False))
    image = np.random.default_rng(1).integers(0, 256, (5, 7), dtype=np.uint8)
    np.testing.assert_array_equal(preprocess.normalised(preprocess.resized(image, spec), spec)[..., 1], image.astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": {}}, "field 'size'"),
        ({"resample": 9}, "field 'resample'"),
        ({"image_mean": [0.5]}, "field 'image_mean': expected three numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "field 'image_std': expected positive numbers"),
        ({"crop_size": {"width": 3}}, "field 'crop_size'"),
        ({"crop_size": 0}, "field 'crop_size'"),
        ({"crop_size": True}, "field 'crop_size'"),
        ({"crop_size": [3, 3]}, "field 'crop_size'"),
        ({"size": -224}, "field 'size'"),
        ({"size": 2.5}, "field 'size'"),
        ({"size": "224"}, "field 'size'"),
        ({"size": {"height": 10, "width": 0}}, "field 'size'"),
        ({"size": {"longest_edge": 224}}, "field 'size'"),
        ({"resample": "bicubic"}, "field 'resample'"),
        ({"resample": True}, "field 'resample'"),
        ({"rescale_factor": "1/255"}, "field 'rescale_factor'"),
        ({"rescale_factor": 0}, "field 'rescale_factor'"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, "field 'image_mean'"),
    ],
)
def test_configs_that_cannot_be_followed_are_refused(tmp_path, changes, message):
    with pytest.raises(errors.DataError, match=message):
        preprocess.read_spec(_config(tmp_path, **changes))


def test_what_a_config_leaves_out_is_what_the_reference_fills_in(tmp_path):
    path = _config(tmp_path) / preprocess.FILE
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: config[name] for name in ("size", "crop_size", "image_mean", "image_std")}))
    spec = preprocess.read_spec(tmp_path)
    assert (spec.resample, spec.rescale) == (Image.Resampling.BICUBIC.value, 1 / 255)


@pytest.mark.parametrize("shape", [(333, 250), (17, 90), (3, 2)])
def test_a_siglip_config_squashes_without_a_crop_as_its_processor_does(tmp_path, shape):
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(size={"height": 96, "width": 64})
    processor.save_pretrained(tmp_path)
    spec = preprocess.read_spec(tmp_path)
    assert (spec.squash, spec.crop, spec.recipe.size) == ((96, 64), None, (96, 64))
    image = np.random.default_rng(4).random(shape).astype(np.float32)
    expected = processor(Image.fromarray(preprocess.to_uint8(image)), return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(preprocess.pixels(image, spec), np.moveaxis(expected, 0, -1))
    path = tmp_path / preprocess.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_processor_type": "SiglipImageProcessor", "crop_size": {"height": 8, "width": 8}}))
    config = json.loads(path.read_text())
    config.pop("do_center_crop", None)
    path.write_text(json.dumps(config))
    assert preprocess.read_spec(tmp_path).crop is None
