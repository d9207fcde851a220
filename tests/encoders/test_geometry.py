"""OpenAI's own layout says its geometry by its shapes: read where nothing else does, compared where something does."""

import dataclasses
import functools
import json
import pathlib
import shutil

import numpy as np
import published as cases
import pytest
import torch_zip
from own_archive import archive, write

from relink_jax import cli, errors
from relink_jax.encoders import convert, geometry, layouts, preprocess, published, specs, zoo
from relink_jax.store import checkpoints, shards

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "goldens" / "chexzero"
SIDE_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
SMALL = {**cases.rows.SIZES, "V": 128, "M": 96, "W": 64, "N": 80, "P": 8, "X": 5, "L": 12, "K": 95, "D": 8}
IMAGE = specs.VitSpec(specs.StackSpec(128, 2, 2, 96, "quick_gelu", 1e-5), 16, 8)
WORDS = specs.TextSpec(specs.StackSpec(64, 2, 1, 80, "quick_gelu", 1e-5), 95, 12, 2)


def shapes_of(width, layers, patch, positions, text_width, dim):
    """Shapes of a file of OpenAI's, as models.md section 1 lists them."""
    shapes = {
        **{"visual.conv1.weight": (width, 3, patch, patch), "visual.class_embedding": (width,), "visual.positional_embedding": (positions, width)},
        **{"visual.proj": (width, dim), "text_projection": (text_width, dim), "token_embedding.weight": (49408, text_width)},
        **{"positional_embedding": (77, text_width), "ln_final.weight": (text_width,), "logit_scale": ()},
    }
    for prefix, size, depth in (("visual.transformer", width, layers), ("transformer", text_width, 12)):
        for layer in range(depth):
            shapes[f"{prefix}.resblocks.{layer}.attn.in_proj_weight"] = (3 * size, size)
            shapes[f"{prefix}.resblocks.{layer}.mlp.c_fc.weight"] = (4 * size, size)
    return shapes


PUBLISHED = {
    "clip-vit-b-32": (768, 12, 32, 50, 512, 512),
    "clip-vit-b-16": (768, 12, 16, 197, 512, 512),
    "clip-vit-l-14": (1024, 24, 14, 257, 768, 768),
    "chexzero": (768, 12, 32, 50, 512, 512),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_of_the_published_files_give_the_published_geometry(name):
    entry = published.MODELS[name]
    assert geometry.read(shapes_of(*PUBLISHED[name]), "x") == {"image": entry.image, "text": entry.text, "dim": entry.dim}
    geometry.check(zoo.published_spec(name, pathlib.Path()), layouts.OPENAI_CLIP, shapes_of(*PUBLISHED[name]), "x")


def test_a_larger_image_shows_in_the_positions_and_decides_the_preprocessing():
    image = geometry.read(shapes_of(1024, 24, 14, 577, 768, 768), "x")["image"]
    assert (image.image_size, image.patch_size, image.positions) == (336, 14, 577)
    recipe = preprocess.recipe_for(specs.VLMSpec("mine", pathlib.Path(), image, WORDS, 8, recipe="clip:336"))
    picture = np.random.default_rng(0).random((401, 357)).astype(np.float32)
    plain = dataclasses.replace(preprocess.RECIPES["clip"], steps=tuple(_of_336(step) for step in preprocess.RECIPES["clip"].steps))
    np.testing.assert_array_equal(recipe.pixels(picture), plain.pixels(picture))
    assert recipe.size == (336, 336)


def _of_336(step):
    return dataclasses.replace(step, values=tuple(336 if value == 224 else value for value in step.values))


def test_the_two_differ_in_every_size_that_is_named():
    small, large = (shapes_of(*PUBLISHED[name]) for name in ("clip-vit-b-32", "clip-vit-l-14"))
    with pytest.raises(errors.DataError) as caught:
        geometry.check(zoo.published_spec("clip-vit-b-32", pathlib.Path()), layouts.OPENAI_CLIP, large, "checkpoint of layout openai-clip")
    assert str(caught.value) == (
        "geometry in checkpoint of layout openai-clip: expected image width 768, image MLP width 3072, patch size 32, image positions 50, text width 512, "
        "text MLP width 2048, joint dimension 512, image layers 12, as 'clip-vit-b-32' is described, found image width 1024, image MLP width 4096, "
        "patch size 14, image positions 257, text width 768, text MLP width 3072, joint dimension 768, image layers 24 in the shapes"
    )
    assert geometry.sizes(small).keys() == geometry.sizes(large).keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"visual.conv1.weight": (96, 3, 32, 32)},
            "image tower in x: expected layers, and a width that is a multiple of 64, one head for each 64, found 12 layers of",
        ),
        ({"token_embedding.weight": (100, 0)}, "1: token_embedding.weight"),
        ({"token_embedding.weight": (100, 65)}, "text tower in x"),
        ({"visual.conv1.weight": (768, 3, 0, 0)}, "1: visual.conv1.weight"),
        ({"visual.positional_embedding": (51, 768)}, "image positions in x: expected a square of patches and a class token, found 51"),
        ({"visual.positional_embedding": (1, 768)}, "expected a square of patches and a class token, found 1"),
        ({"visual.positional_embedding": (50,)}, "expected the tensors whose shapes tell it, found none, or no such shape, for 1: visual.positional_embedding"),
        ({"text_projection": ()}, "1: text_projection"),
    ],
)
def test_shapes_that_are_no_model_are_one_sentence(change, message):
    with pytest.raises(errors.DataError) as caught:
        geometry.read(shapes_of(*PUBLISHED["clip-vit-b-32"]) | change, "x")
    assert message in str(caught.value)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A small model in OpenAI's layout: one weight file beside a tokenizer, and nothing that says what it is."""
    monkeypatch.setattr(cases.rows, "SIZES", SMALL)
    monkeypatch.setattr(convert, "target_shapes", functools.cache(convert.target_shapes))
    directory = tmp_path / "clip"
    directory.mkdir()
    for name in SIDE_FILES:
        shutil.copy(GOLDEN / name, directory / name)
    return torch_zip.write(directory / "ViT-Tiny.pt", cases.CASES["openai"].states()["model"])


def relink(*words):
    return cli.main(list(words))


def test_a_file_without_entry_and_config_converts_and_embeds(tmp_path, source, capsys):
    workdir = f"--workdir={tmp_path / 'w'}"
    assert relink("cohort", *write(tmp_path, archive(tmp_path))) == 0
    assert relink("convert", "--model=mine", f"--source={source}", workdir) == 0
    assert "mine: geometry read from the shapes of OpenAI's layout, which means quick_gelu, epsilon 1e-5" in capsys.readouterr().err
    params, provenance = checkpoints.restore(tmp_path / "w" / "models" / "mine")
    spec = specs.from_json(provenance["model"], source.parent)
    assert (spec.image, spec.text, spec.dim, spec.image_head, spec.text_head) == (IMAGE, WORDS, 8, "linear", "linear")
    assert (spec.recipe, spec.text_rule, spec.tier, spec.specialisation) == ("clip:16", "clip", "unknown", -1)
    expected, flat = cases.CASES["openai"].expected(cases.CASES["openai"].states()), checkpoints.flatten(params)
    assert all(np.array_equal(flat[path], array) for path, array in expected.items() if path in flat)
    assert len(flat) == len([path for path in expected if path.startswith(("image/", "text/"))])
    assert relink("embed", "--config.embed.batch_size=8", workdir) == 0
    assert shards.read(tmp_path / "w" / "features" / "mine" / "images")["features"].shape[1:] == (128,)
    assert shards.read(tmp_path / "w" / "features" / "mine" / "texts")["features"].shape[1:] == (64,)


def test_the_checkpoints_own_preprocessing_comes_first(source):
    steps = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert zoo.of_source("mine", source.parent).recipe == "clip:16"
    (source.parent / "preprocessor_config.json").write_text(json.dumps(steps))
    assert zoo.of_source("mine", source.parent).recipe == ""


def test_an_entry_of_another_geometry_is_refused_with_what_differs(tmp_path, source, capsys):
    assert relink("convert", "--model=clip-vit-b-32", f"--source={source}", f"--workdir={tmp_path / 'w'}") == 65
    told = capsys.readouterr().err
    assert "geometry in checkpoint of layout openai-clip: expected image width 768, " in told
    assert "as 'clip-vit-b-32' is described, found image width 128, " in told
    assert told.count("\n") == 1


def test_what_is_told_by_other_keys_needs_its_entry(tmp_path, source, capsys):
    workdir = f"--workdir={tmp_path / 'w'}"
    torch_zip.write(tmp_path / "chexpert.ckpt", cases.CASES["gloria"].states()["model"])
    assert relink("convert", "--model=glori", f"--source={tmp_path / 'chexpert.ckpt'}", workdir) == 65
    told = capsys.readouterr().err
    assert "or --entry with one of the published models of 'relink convert --help', found neither, and layout gloria; did you mean 'gloria'?" in told
    torch_zip.write(tmp_path / "script.pt", {}, **{"constants.pkl": b""})
    assert relink("convert", "--model=mine", f"--source={tmp_path / 'script.pt'}", workdir) == 65
    assert "or --trust_pickle to let torch run the file as a program, found a TorchScript program" in capsys.readouterr().err
    (source.parent / "vocab.json").unlink()
    assert relink("convert", "--model=mine", f"--source={source}", workdir) == 65
    assert "tokenizer missing in model directory 'clip': expected tokenizer.json, or vocab.json with merges.txt, found neither" in capsys.readouterr().err
