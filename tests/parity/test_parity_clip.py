"""Towers, heads, tokenizer and preprocessing against transformers' own CLIP in torch; needs the `convert` extra.

`python tests/parity/make_goldens.py` writes what the default tests compare with, from the same reference.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import make_goldens
import numpy as np
import pytest

from relink_jax import heads as heads_lib
from relink_jax.encoders import convert, tokenize, towers, zoo

pytestmark = pytest.mark.parity

PACKAGED = zoo.get_vlm("phantom-0-untrained")
VOCABULARY = PACKAGED.text.vocab_size
TEXTS = ["Small left pleural effusion.", "The heart is severely enlarged. Right port catheter.", "No acute disease.", ""]


def _published(directory, dtype, **text):
    """Saves a small random CLIP as its own library writes it, with random biases and LayerNorm scales."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    vision = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    towers = {
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 20,
    }
    ids = {"bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1, "pad_token_id": VOCABULARY - 1, **text}
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config={**towers, **ids}, projection_dim=24)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 1.2 * fan_in**-0.5 if parameter.ndim > 1 else 0.3)
    model.to(dtype).save_pretrained(directory)
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(PACKAGED.directory / name, directory / name)
    preprocessing = json.loads((PACKAGED.directory / "preprocessor_config.json").read_text())
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    (directory / "preprocessor_config.json").write_text(json.dumps({**preprocessing, **sizes}))
    return model.float()


def _ours(spec, converted, pixels, ids):
    features = (
        towers.image_features(spec, converted.params["image"], jnp.asarray(pixels)),
        towers.text_features(spec, converted.params["text"], jnp.asarray(ids)),
    )
    return features, [heads_lib.project(converted.heads[side], value) for side, value in zip(heads_lib.SIDES, features, strict=True)]


@pytest.mark.parametrize("text", [{}, {"eos_token_id": 2}])
def test_published_files_of_a_random_model_give_its_embeddings(tmp_path, text):
    import torch

    model = _published(tmp_path, torch.float32, **text)
    spec = zoo.from_directory(tmp_path)
    draw = np.random.default_rng(0)
    pixels = draw.standard_normal((4, 32, 32, 3)).astype(np.float32)
    ids = draw.integers(3, VOCABULARY - 1, (4, 20)).astype(np.int32)
    ids[np.arange(4), [3, 8, 19, 1]] = VOCABULARY - 1
    expected = make_goldens.reference(model, np.moveaxis(pixels, -1, 1), ids)
    features, embeddings = _ours(spec, convert.convert(spec), pixels, ids)
    for side, ours, projected in zip(heads_lib.SIDES, features, embeddings, strict=True):
        np.testing.assert_allclose(ours, expected[f"{side}_features"], atol=2e-5)
        np.testing.assert_allclose(projected, expected[f"{side}_embeddings"], atol=2e-6)


def test_float64_on_both_sides_agrees_to_rounding(tmp_path):
    import torch

    model = _published(tmp_path, torch.float32).double()
    spec = zoo.from_directory(tmp_path)
    converted = convert.convert(spec)
    draw = np.random.default_rng(1)
    pixels, ids = draw.standard_normal((2, 32, 32, 3)), np.tile(np.arange(VOCABULARY - 20, VOCABULARY, dtype=np.int32), (2, 1))
    expected = make_goldens.reference(model, np.moveaxis(pixels, -1, 1), ids)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), converted.params)
        image, text = towers.image_features(spec, wide["image"], jnp.asarray(pixels)), towers.text_features(spec, wide["text"], jnp.asarray(ids))
        np.testing.assert_allclose(image, expected["image_features"], atol=1e-9)
        np.testing.assert_allclose(text, expected["text_features"], atol=1e-9)


def test_half_precision_files_are_upcast(tmp_path):
    import torch

    model = _published(tmp_path, torch.float16)
    spec = zoo.from_directory(tmp_path)
    converted = convert.convert(spec)
    assert converted.provenance["source_dtypes"] == ["F16"]
    pixels, ids = np.ones((1, 32, 32, 3), np.float32), np.full((1, 20), VOCABULARY - 1, np.int32)
    expected = make_goldens.reference(model.half().float(), np.moveaxis(pixels, -1, 1), ids)
    _, embeddings = _ours(spec, converted, pixels, ids)
    for side, projected in zip(heads_lib.SIDES, embeddings, strict=True):
        np.testing.assert_allclose(projected, expected[f"{side}_embeddings"], atol=2e-6)


@pytest.mark.parametrize("name", zoo.list_vlms())
def test_packaged_models_load_in_the_reference_library(name):
    from transformers import CLIPModel

    spec = zoo.get_vlm(name)
    model, report = CLIPModel.from_pretrained(str(spec.directory), local_files_only=True, output_loading_info=True, dtype="float32")
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    draw = np.random.default_rng(2)
    pixels = draw.standard_normal((3, spec.image.image_size, spec.image.image_size, 3)).astype(np.float32)
    ids = tokenize.Tokenizer(spec.directory, spec.text.positions)(TEXTS[:3])
    expected = make_goldens.reference(model.eval(), np.moveaxis(pixels, -1, 1), ids)
    _, embeddings = _ours(spec, convert.convert(spec), pixels, ids)
    for side, projected in zip(heads_lib.SIDES, embeddings, strict=True):
        np.testing.assert_allclose(projected, expected[f"{side}_embeddings"], atol=1e-5)


def test_export_is_what_the_library_would_have_written(tmp_path):
    import torch
    from safetensors.numpy import load_file

    _published(tmp_path, torch.float32)
    converted = convert.convert(zoo.from_directory(tmp_path))
    state, source = convert.export_state(converted.params, converted.heads, converted.logit_scale), load_file(str(tmp_path / convert.WEIGHTS))
    assert {key: (array.shape, array.tobytes()) for key, array in state.items()} == {key: (array.shape, array.tobytes()) for key, array in source.items()}


def test_committed_goldens_are_those_of_the_reference():
    committed, fresh = np.load(make_goldens.PATH), make_goldens.make()
    assert json.dumps(sorted(committed.files)) == json.dumps(sorted(fresh))
    for name, array in fresh.items():
        np.testing.assert_allclose(committed[name], array, atol=1e-6)
