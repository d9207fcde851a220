"""Every published model is a complete spec of published size, and says what it has seen."""

import json
import pathlib

import jax
import numpy as np
import pytest

from relink_jax import errors
from relink_jax.encoders import hf_config, published, specs, towers, zoo
from relink_jax.stages import catalogue

# Parameters of image tower, text tower and heads, batch-norm statistics included; the totals with the logit scale (and SigLIP's bias) are the
# published ones: CLIP 151,277,313 and 427,616,513, BiomedCLIP 195,902,721, MedSigLIP 878,300,338, ResNet-50 25,557,032 less 2,049,000 of its
# classifier plus 53,120 statistics, Swin-T 27,519,354.
RESNET, SWIN, CLINICAL = 23_561_152, 27_519_354, 107_719_680
COUNTS = {
    "clip-vit-b-32": (87_456_000, 63_165_952, 655_360),
    "clip-vit-b-16": (85_799_424, 63_165_952, 655_360),
    "clip-vit-l-14": (303_179_776, 123_060_480, 1_376_256),
    "pubmedclip": (87_456_000, 63_165_952, 655_360),
    "biomedclip": (85_798_656, 108_891_648, 1_212_416),
    "siglip-base-patch16-224": (88_160_256, 109_681_152, 5_314_560),
    "medsiglip-448": (418_641_264, 448_406_640, 11_252_432),
    "biovil": (RESNET, 108_891_648, 394_368),
    "biovil-t": (25_271_488, 108_891_648, 198_016),
    "chexzero": (87_456_000, 63_165_952, 655_360),
    "cxr-clip-resnet50": (RESNET, CLINICAL, 1_442_816),
    "cxr-clip-swin-t": (SWIN, CLINICAL, 787_456),
    "medclip-resnet50": (RESNET, CLINICAL, 1_441_792),
    "medclip-swin-t": (SWIN, CLINICAL, 786_432),
    "xrayclip-vit-b-16": (85_799_424, 63_165_952, 655_360),
    "xrayclip-vit-l-14": (303_179_776, 123_060_480, 1_376_256),
    "xrayclip-vit-b-16-siglip-512": (88_796_160, 109_681_152, 5_314_560),
    "xrayclip-vit-l-16-siglip-384": (307_888_128, 335_144_960, 9_445_376),
    "xraysiglip-vit-b-16": (85_799_424, 63_165_952, 655_360),
    "xraysiglip-vit-l-14": (303_179_776, 123_060_480, 1_376_256),
    "xraysiglip-vit-b-16-siglip-512": (88_796_160, 109_681_152, 5_314_560),
    "xraysiglip-vit-l-16-siglip-384": (307_888_128, 335_144_960, 9_445_376),
    "gloria": (RESNET, CLINICAL, 1_573_632),
}
PUBLISHED_TOTALS = {"clip-vit-b-32": 151_277_313, "clip-vit-l-14": 427_616_513, "biomedclip": 195_902_721}


def spec_of(name):
    return zoo.published_spec(name, pathlib.Path("nowhere"))


def test_no_model_lacks_a_count():
    assert set(COUNTS) == set(published.MODELS)


_QUICK = ("clip-vit-b-32", "biovil-t", "siglip-base-patch16-224", "gloria")  # one of each way to be built; the others are slow


@pytest.mark.parametrize("name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COUNTS])
def test_full_size_parameter_counts_and_shapes(name):
    spec = spec_of(name)
    tree = jax.eval_shape(lambda key: towers.init(spec, key), jax.random.key(0))
    counts = tuple(sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree[side])) for side in ("image", "text", "heads"))
    assert counts == COUNTS[name]
    assert sum(counts) + 1 == PUBLISHED_TOTALS.get(name, sum(counts) + 1)
    pixels = jax.ShapeDtypeStruct((2, *towers.image_shape(spec)), np.float32)
    ids = jax.ShapeDtypeStruct((2, towers.text_length(spec)), np.int32)
    for side, given in (("image", pixels), ("text", ids)):
        features = jax.eval_shape(lambda p, x, side=side: getattr(towers, f"{side}_features")(spec, p, x), tree[side], given)
        assert (features.shape, features.dtype) == ((2, *getattr(spec, side).features), np.float32)


def test_every_entry_says_what_it_has_seen_where_it_comes_from_and_under_which_licence():
    for name, entry in published.MODELS.items():
        assert [one.dataset for one in entry.exposure] == ["MIMIC-CXR", "CheXpert Plus"], name
        for one in entry.exposure:
            assert one.kind in ("none", "images", "labels", "reports", "pairs"), name
            assert one.confidence in ("stated", "inferred", "unknown"), name
            assert one.source, name
            assert one.split or one.kind == "none", name
        assert entry.origin, name
        assert entry.files, name
        assert entry.licence, name
        assert 0 <= entry.rung <= 3, name
        assert entry.hf or entry.recipe, name


def test_a_spec_survives_its_provenance():
    for name in published.MODELS:
        spec = spec_of(name)
        assert specs.from_json(json.loads(json.dumps(specs.to_json(spec))), spec.directory) == spec
    damaged = specs.to_json(spec_of("gloria"))
    del damaged["text"]["stack"]
    with pytest.raises(errors.StoreError, match="spec damaged"):
        specs.from_json(damaged, pathlib.Path("nowhere"))


def test_a_mistyped_published_name_gets_a_suggestion():
    with pytest.raises(errors.UsageError, match="did you mean 'biomedclip'"):
        spec_of("biomedclp")
    with pytest.raises(errors.UsageError, match="relink convert --model=biomedclip --source=DIR"):
        zoo.get_vlm("biomedclip")


def test_the_users_config_decides_the_geometry_of_hugging_face_layouts(tmp_path):
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 48, "patch_size": 16}
    words = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 99, "max_position_embeddings": 16}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": vision, "text_config": words}))
    spec = zoo.of_source("medsiglip-448", tmp_path)
    assert (spec.image.image_size, spec.text.positions, spec.dim, spec.tier) == (48, 16, 32, "medical")
    assert (spec.image.stack.act, spec.image.stack.epsilon, spec.image.pool, spec.text.pool) == ("gelu_pytorch_tanh", 1e-6, "probe", "last")
    assert zoo.of_source("mine", tmp_path).text_rule == "siglip"
    with pytest.raises(errors.DataError, match="unknown model type"):
        hf_config.read({"model_type": "bert"})
    with pytest.raises(errors.DataError, match="joint dimension"):
        hf_config.read({"model_type": "siglip", "vision_config": vision, "text_config": {**words, "projection_size": 33}})


def test_an_absent_field_has_the_formats_default():
    decided = hf_config.read({"model_type": "siglip", "vision_config": {}, "text_config": {}})
    assert decided["image"] == published.MODELS["siglip-base-patch16-224"].image
    assert decided["text"] == published.MODELS["siglip-base-patch16-224"].text
    clip = hf_config.read({"model_type": "clip", "vision_config": {}, "text_config": {"eos_token_id": 2}})
    assert (clip["image"], clip["text"], clip["dim"]) == (published.MODELS["clip-vit-b-32"].image, published.MODELS["clip-vit-b-32"].text, 512)


def test_a_source_that_says_nothing_of_itself_is_asked_for_its_published_name(tmp_path):
    with pytest.raises(errors.DataError, match=r"expected a file config\.json, or --entry with one of the published models"):
        zoo.of_source("best_64", tmp_path)
    with pytest.raises(errors.DataError, match="did you mean 'biomedclip'"):
        zoo.of_source("biomedclp", tmp_path)


def test_the_docs_list_every_model_and_so_does_the_help():
    page = pathlib.Path(__file__).resolve().parents[2] / "docs" / "models.md"
    assert published.table() in page.read_text()
    helped = catalogue.stage_help("convert", [])
    assert all(name in helped for name in published.MODELS)
