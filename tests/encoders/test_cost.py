"""What a tower costs by formula: against XLA's count of the very programs, and against counts published elsewhere."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from test_published import COUNTS

from relink_jax.encoders import cost, specs, towers, zoo

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

# XLA counts activations, norms and softmax too, and leaves out what a convolution multiplies by its padding of zeros.
MARGINS = {
    "clip-vit-b-32": (0.99, 1.0),
    "siglip-base-patch16-224": (0.99, 1.0),
    "biomedclip": (0.98, 1.0),
    "cxr-clip-resnet50": (1.0, 1.035),
    "biovil-t": (1.0, 1.02),
    "gloria": (1.0, 1.03),
    "cxr-clip-swin-t": (0.94, 1.0),
}


def counted(apply, params, shape, dtype):
    """FLOP of one row in the program that XLA would compile; nothing is compiled or run."""
    lowered = jax.jit(lambda given, batch: apply({"params": given}, batch)).lower(params, jax.ShapeDtypeStruct((1, *shape), dtype))
    return lowered.cost_analysis()["flops"]


@functools.cache
def parameters(name):
    return jax.eval_shape(functools.partial(towers.init, zoo.described(name)), jax.random.key(0))


@pytest.mark.parametrize("name", MARGINS)
def test_an_images_flop_are_those_of_the_program(name):
    spec, (low, high) = zoo.described(name), MARGINS[name]
    program = counted(towers.image_tower(spec).apply, parameters(name)["image"], towers.image_shape(spec), jnp.float32)
    assert low * program < cost.image_flop(spec.image) < high * program


def test_an_image_beside_its_prior_costs_both_and_the_pooler():
    spec, given = zoo.described("biovil-t"), parameters("biovil-t")["image"]
    pair = [jax.ShapeDtypeStruct((1, *towers.image_shape(spec)), jnp.float32)] * 2
    lowered = jax.jit(lambda held, *images: towers.image_tower(spec).apply({"params": held}, *images)).lower(given, *pair)
    assert cost.image_flop(spec.image, prior=True) > 2.02 * cost.image_flop(spec.image)
    assert lowered.cost_analysis()["flops"] < cost.image_flop(spec.image, prior=True) < 1.02 * lowered.cost_analysis()["flops"]
    assert cost.of(spec, prior=True)["image"].features == (196, 512)
    assert cost.of(zoo.described("biovil"), prior=True) == cost.of(zoo.described("biovil"))


@pytest.mark.parametrize("name", ["clip-vit-b-32", "siglip-base-patch16-224", "biomedclip"])
def test_a_texts_flop_are_those_of_the_program(name):
    spec = zoo.described(name)
    program = counted(towers.text_tower(spec).apply, parameters(name)["text"], (towers.text_length(spec),), jnp.int32)
    assert 0.98 * program < cost.text_flop(spec.text) < program


@pytest.mark.parametrize(("name", "giga"), [("clip-vit-b-32", 4.41), ("cxr-clip-resnet50", 4.09), ("cxr-clip-swin-t", 4.49)])
def test_multiply_adds_of_an_image_are_the_known_ones(name, giga):
    """ViT-B/32 and ResNet-50 as torchvision's weights list them, Swin-T as its paper and torchvision do (4.5)."""
    assert cost.image_flop(zoo.described(name).image) / 2e9 == pytest.approx(giga, rel=0.005)


def test_a_swin_of_another_grid_pads_its_windows():
    tower = specs.SwinSpec(64, "mean", (1, 2), (2, 4), width=32)  # grids of 16 and 8 in windows of 7: padded to 21 and 14
    spec = dataclasses.replace(zoo.described("cxr-clip-swin-t"), image=tower)
    params = jax.eval_shape(functools.partial(towers.init, spec), jax.random.key(0))["image"]
    program = counted(towers.image_tower(spec).apply, params, towers.image_shape(spec), jnp.float32)
    assert 0.85 * program < cost.image_flop(tower) < program
    by_hand = 16**2 * 48 * 32 + (21**2 * (4 * 32**2 + 98 * 32) + 16**2 * 8 * 32**2) + 8**2 * 128 * 64
    by_hand += 2 * (14**2 * (4 * 64**2 + 98 * 64) + 8**2 * 8 * 64**2)
    assert cost.image_flop(tower) == 2 * by_hand


@pytest.mark.parametrize("name", ["biovil-t", "medclip-swin-t", "clip-vit-b-32"])
def test_parameters_and_features_are_the_towers(name):
    found, spec = cost.of(zoo.described(name)), zoo.described(name)
    assert (found["image"].parameters, found["text"].parameters) == COUNTS[name][:2]
    assert (found["image"].features, found["text"].features) == (spec.image.features, spec.text.features)
