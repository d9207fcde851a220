"""Small checkpoints in every published layout, converted here, against what the reference libraries made of them in float64: no torch needed.

The goldens are written by `tests/oracles/make.py`. OpenAI's TorchScript archive is not among them, since only torch reads it; its layout is
CheXzero's, and the parity tests cover the archive.
"""

import importlib.util
import json

import against_oracle as against
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relink_jax import heads as heads_lib
from relink_jax.encoders import convert, tokenize, towers, zoo

GOLDENS = against.TESTS / "goldens"
FAMILIES = sorted(path.parent.name for path in GOLDENS.glob("*/oracle.json"))
HUGGING_FACE = ("clip-hf", "clip-msgpack", "pubmedclip", "siglip", "xrayclip")


@pytest.fixture(scope="module")
def _conversions():
    return {}


@pytest.fixture
def stored(_conversions):
    """Returns (spec, tree, arrays) of a family's golden by name, in float64; conversions are made once."""
    made = _conversions

    def get(family):
        if family not in made:
            directory = GOLDENS / family
            spec = against.spec_of(directory, family, json.loads((directory / "oracle.json").read_text()))
            made[family] = spec, against.tree_of(convert.convert(spec)), dict(np.load(directory / "oracle.npz"))
        return made[family]

    with jax.enable_x64(True):
        yield get


def _worst(spec, tree, arrays, paired=False, compiled=True):
    """The largest difference to the stored outputs, with the prior image for `paired`."""
    prefix, prior = ("paired_", arrays["prior"]) if paired else ("", None)
    names = [name for name in arrays if name.endswith(("_features", "_embeddings")) and name.startswith("paired_") == paired]
    found = against.run(spec, tree, arrays["pixels"], arrays["ids"], prior, compiled=compiled)
    return against.worst(found, {name.removeprefix(prefix): arrays[name] for name in names})


def test_every_family_has_a_golden_and_all_are_small():
    files = [path for path in GOLDENS.rglob("*") if path.is_file()]
    assert len(FAMILIES) == 14
    assert sum(path.stat().st_size for path in files) < 3_000_000


@pytest.mark.parametrize("family", FAMILIES)
def test_converted_files_give_the_reference_outputs(stored, family):
    assert _worst(*stored(family)) <= against.TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", against.SIDES)
def test_goldens_would_notice_a_missing_transpose(stored, family, side):
    spec, tree, arrays = stored(family)

    def turned(path, leaf):
        square = leaf.ndim == 2 and path.endswith("kernel") and leaf.shape[0] == leaf.shape[1] and "pooler" not in path
        return leaf.T if square else leaf[:, :, ::-1] if leaf.ndim == 4 else leaf

    assert _worst(spec, {**tree, side: against.changed(tree[side], turned)}, arrays) > 10 * against.TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_goldens_would_notice_one_bias_that_is_off_by_a_millionth(stored, family):
    spec, tree, arrays = stored(family)
    for side in against.SIDES:
        last = [path for path in against.paths(tree[side]) if path.endswith("/bias") and "pooler" not in path and "k_proj" not in path][-1]
        mutant = against.changed(tree[side], lambda path, leaf, last=last: leaf.at[0].add(1e-6) if path == last else leaf)
        assert _worst(spec, {**tree, side: mutant}, arrays) > 10 * against.TOLERANCE, last


def test_a_prior_image_gives_the_reference_outputs(stored):
    spec, tree, arrays = stored("biovil-t")
    assert _worst(spec, tree, arrays, paired=True) <= against.TOLERANCE
    assert _worst(spec, tree, {**arrays, "prior": arrays["pixels"]}, paired=True) > 10 * against.TOLERANCE


@pytest.mark.parametrize("family", HUGGING_FACE)
def test_config_json_says_the_oracles_geometry(stored, family):
    spec, _, _ = stored(family)
    read = zoo.from_directory(spec.directory)
    assert [getattr(read, name) for name in ("dim", "image_head", "text_head")] == [getattr(spec, name) for name in ("dim", "image_head", "text_head")]
    assert read.image == spec.image
    assert read.text == spec.text


@pytest.mark.slow
def test_goldens_would_notice_padding_on_one_side_only(stored, monkeypatch):
    against.same_padding(monkeypatch)
    assert _worst(*stored("gloria"), compiled=False) > 10 * against.TOLERANCE


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDENS / "phantom-3-specialist.npz")


@pytest.fixture(scope="module")
def model():
    spec = zoo.get_vlm("phantom-3-specialist")
    return spec, convert.convert(spec)


def _texts():
    spec = importlib.util.spec_from_file_location("make_goldens", against.TESTS / "parity" / "make_goldens.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TEXTS


def test_features_and_embeddings_of_the_packaged_specialist_equal_the_reference(model, golden):
    spec, converted = model
    pixels = jnp.asarray(np.moveaxis(golden["pixels"], 1, -1))
    features = {
        "image": towers.image_features(spec, converted.params["image"], pixels),
        "text": towers.text_features(spec, converted.params["text"], golden["ids"]),
    }
    for side, found in features.items():
        np.testing.assert_allclose(found, golden[f"{side}_features"], atol=2e-5)
        np.testing.assert_allclose(heads_lib.project(converted.heads[side], found), golden[f"{side}_embeddings"], atol=1e-5)


def test_goldens_of_the_packaged_specialist_would_notice_a_missing_transpose_or_a_swapped_side(model, golden):
    _, converted = model
    kernel = converted.heads["image"]["kernel"]
    swapped = heads_lib.project({"kernel": np.roll(kernel, 1, axis=0)}, golden["image_features"])
    assert np.abs(swapped - golden["image_embeddings"]).max() > 1e-2
    assert len({row.tobytes() for row in np.round(golden["text_embeddings"], 3)}) == len(golden["text_embeddings"])


def test_ids_equal_the_reference(model, golden):
    spec, _ = model
    np.testing.assert_array_equal(tokenize.Tokenizer(spec.directory, spec.text.positions)(_texts()), golden["ids"])
