"""The packaged specialist against stored outputs of the reference library, so that parity needs no torch here."""

import importlib.util
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from relink_jax import heads as heads_lib
from relink_jax.encoders import convert, tokenize, zoo

TESTS = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def golden():
    return np.load(TESTS / "goldens" / "phantom-3-specialist.npz")


@pytest.fixture(scope="module")
def model():
    spec = zoo.get_vlm("phantom-3-specialist")
    return spec, convert.convert(spec)


def _texts():
    spec = importlib.util.spec_from_file_location("make_goldens", TESTS / "parity" / "make_goldens.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TEXTS


def test_features_and_embeddings_equal_the_reference(model, golden):
    spec, converted = model
    pixels = jnp.asarray(np.moveaxis(golden["pixels"], 1, -1))
    features = {
        "image": convert.image_features(spec, converted.params["image"], pixels),
        "text": convert.text_features(spec, converted.params["text"], golden["ids"]),
    }
    for side, found in features.items():
        np.testing.assert_allclose(found, golden[f"{side}_features"], atol=2e-5)
        np.testing.assert_allclose(heads_lib.project(converted.heads[side], found), golden[f"{side}_embeddings"], atol=1e-5)


def test_goldens_would_notice_a_missing_transpose_or_a_swapped_side(model, golden):
    _, converted = model
    kernel = converted.heads["image"]["kernel"]
    swapped = heads_lib.project({"kernel": np.roll(kernel, 1, axis=0)}, golden["image_features"])
    assert np.abs(swapped - golden["image_embeddings"]).max() > 1e-2
    assert len({row.tobytes() for row in np.round(golden["text_embeddings"], 3)}) == len(golden["text_embeddings"])


def test_ids_equal_the_reference(model, golden):
    spec, _ = model
    np.testing.assert_array_equal(tokenize.Tokenizer(spec.directory, spec.text.positions)(_texts()), golden["ids"])
