"""The Flax towers against a plain NumPy oracle, and the properties that retrieval relies on."""

import dataclasses
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clip
import tower_oracle

from relink_jax import errors, heads
from relink_jax.encoders import blocks, convert, specs, text, towers, zoo

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    directory = tiny_clip.write(tmp_path_factory.mktemp("towers") / "tiny")
    spec = zoo.from_directory(directory)
    return spec, convert.convert(spec), tiny_clip.load(directory)


def _image_features(spec, converted, pixels):
    return np.asarray(towers.image_features(spec, converted.params["image"], jnp.asarray(pixels)))


def _text_features(spec, converted, ids):
    return np.asarray(towers.text_features(spec, converted.params["text"], jnp.asarray(ids)))


def _ids(spec, draw, lengths):
    """Ids with the end token at the given positions and junk after it."""
    ids = draw.integers(0, spec.text.vocab_size - 1, (len(lengths), spec.text.positions)).astype(np.int32)
    ids[np.arange(len(lengths)), lengths] = spec.text.vocab_size - 1
    return ids


def test_image_tower_equals_the_oracle_and_not_its_mutants(tiny):
    spec, converted, tensors = tiny
    pixels = np.random.default_rng(1).standard_normal((3, 32, 32, 3)).astype(np.float32)
    found = _image_features(spec, converted, pixels)
    np.testing.assert_allclose(found, [tiny_clip.Oracle(tensors).image(x) for x in pixels], atol=5e-6)
    for mutant in (tiny_clip.Oracle(tensors, act=tiny_clip.gelu), tiny_clip.Oracle(tensors, epsilon=1e-4)):
        assert np.abs(found - [mutant.image(x) for x in pixels]).max() > 2e-5


def test_text_tower_equals_the_oracle(tiny):
    spec, converted, tensors = tiny
    lengths = np.array([1, 7, 23])
    ids = _ids(spec, np.random.default_rng(2), lengths)
    oracle = tiny_clip.Oracle(tensors)
    np.testing.assert_allclose(_text_features(spec, converted, ids), [oracle.text(row, end) for row, end in zip(ids, lengths, strict=True)], atol=5e-6)


def test_tokens_after_the_end_token_change_nothing(tiny):
    spec, converted, _ = tiny
    draw = np.random.default_rng(3)
    ids = _ids(spec, draw, np.array([4, 9]))
    other = ids.copy()
    other[0, 5:], other[1, 10:] = draw.integers(0, 100, 19), draw.integers(0, 100, 14)
    np.testing.assert_array_equal(_text_features(spec, converted, ids), _text_features(spec, converted, other))
    np.testing.assert_allclose(_text_features(spec, converted, ids[:, :12]), _text_features(spec, converted, ids), atol=1e-6)
    ids[0, 2] = (ids[0, 2] + 1) % 100
    assert np.abs(_text_features(spec, converted, ids)[0] - _text_features(spec, converted, other)[0]).max() > 1e-3


def test_both_forms_of_the_end_of_text_rule():
    ids = jnp.asarray([[9, 3, 2, 8, 9, 9], [1, 5, 5, 2, 2, 0]])
    np.testing.assert_array_equal(text.eos_position(ids, text.LEGACY_EOS), [0, 1])
    np.testing.assert_array_equal(text.eos_position(ids, 5), [0, 1])
    np.testing.assert_array_equal(text.eos_position(ids, 9), [0, 0])
    np.testing.assert_array_equal(text.eos_position(ids[1:], 0), [5])


def test_legacy_configs_pool_the_largest_id(tmp_path):
    legacy, current = (zoo.from_directory(tiny_clip.write(tmp_path / name, **extra)) for name, extra in (("legacy", {"eos_token_id": 2}), ("current", {})))
    ids = _ids(current, np.random.default_rng(4), np.array([6, 11]))
    np.testing.assert_array_equal(_text_features(legacy, convert.convert(legacy), ids), _text_features(current, convert.convert(current), ids))


def test_a_row_does_not_depend_on_its_batch(tiny):
    spec, converted, _ = tiny
    pixels = np.random.default_rng(5).standard_normal((5, 32, 32, 3)).astype(np.float32)
    together = _image_features(spec, converted, pixels)
    alone = np.concatenate([_image_features(spec, converted, pixels[row : row + 1]) for row in range(5)])
    np.testing.assert_allclose(together, alone, atol=2e-6)


ACTS = {**tower_oracle.ACTS, "gelu_pytorch_tanh": tiny_clip.gelu_tanh, "gelu_new": tiny_clip.gelu_tanh}


def test_activations_equal_their_definitions_in_float64():
    x = np.concatenate([np.linspace(-9, 9, 1801), [-60.0, 60.0, 1e-8, 0.0]])
    with jax.enable_x64(True):
        found = {name: np.asarray(blocks.activation(name)(jnp.asarray(x))) for name in blocks.ACTIVATIONS}
    assert found.keys() == ACTS.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, ACTS[name](x), atol=1e-14)
        assert {other for other in ACTS if np.abs(values - ACTS[other](x)).max() < 4e-4} == {other for other in ACTS if ACTS[other] is ACTS[name]}
    worked = jnp.asarray([-1, 0, 1, 2], jnp.float32)
    np.testing.assert_allclose(blocks.activation("gelu")(worked), [-0.15865525, 0, 0.84134475, 1.9544997], atol=1e-6)
    np.testing.assert_allclose(blocks.activation("quick_gelu")(worked), [-0.15420423, 0, 0.84579577, 1.9356586], atol=1e-6)
    np.testing.assert_allclose(blocks.activation("gelu_tanh")(worked), [-0.15880801, 0, 0.841192, 1.954597], atol=1e-6)


@pytest.mark.parametrize(
    ("vision", "report"),
    [
        ({"hidden_act": "gelu"}, {"hidden_act": "quick_gelu"}),
        ({"hidden_act": "quick_gelu"}, {"hidden_act": "gelu"}),
        ({"layer_norm_eps": 0.03}, {"layer_norm_eps": 1e-5}),
        ({"layer_norm_eps": 1e-5}, {"layer_norm_eps": 0.03}),
    ],
)
def test_each_tower_follows_its_own_config(tmp_path, vision, report):
    spec = zoo.from_directory(tiny_clip.write(tmp_path / "tiny", vision=vision, **report))
    converted, tensors = convert.convert(spec), tiny_clip.load(spec.directory)
    draw = np.random.default_rng(7)
    pixels, ids = draw.standard_normal((2, 32, 32, 3)).astype(np.float32), _ids(spec, draw, np.array([5, 20]))

    def oracle(fields, **changes):
        return tiny_clip.Oracle(tensors, **{"act": ACTS[fields.get("hidden_act", "quick_gelu")], "epsilon": fields.get("layer_norm_eps", 1e-5), **changes})

    for fields, found, side in ((vision, _image_features(spec, converted, pixels), "image"), (report, _text_features(spec, converted, ids), "text")):

        def expected(model, side=side):
            return [model.image(x) for x in pixels] if side == "image" else [model.text(row, end) for row, end in zip(ids, (5, 20), strict=True)]

        np.testing.assert_allclose(found, expected(oracle(fields)), atol=5e-6)
        mutants = [oracle(fields, act=act) for name, act in tower_oracle.ACTS.items() if name != fields.get("hidden_act", "quick_gelu")]
        mutants.append(oracle(fields, epsilon=1e-5 if fields.get("layer_norm_eps") == 0.03 else 0.03))
        assert min(np.abs(found - np.array(expected(mutant))).max() for mutant in mutants) > 1e-4


def test_activation_must_be_named_and_known():
    with pytest.raises(TypeError):
        specs.StackSpec(width=8, layers=1, heads=2, mlp_width=8, epsilon=1e-5)
    with pytest.raises(errors.DataError, match="one of quick_gelu, gelu, gelu_tanh, gelu_pytorch_tanh, gelu_new, found 'relu'"):
        blocks.activation("relu")


def test_layer_norm_is_stable_far_from_zero():
    x = jnp.asarray(1000 + np.random.default_rng(6).standard_normal((4, 64)), jnp.float32)
    norm = blocks.layer_norm(1e-5, "norm")
    found = norm.apply(norm.init(jax.random.key(0), x), x)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def asked(function, *arguments):
    """Returns (precision of every product of a traced function, number of products)."""
    text = str(jax.make_jaxpr(function)(*arguments))
    return re.findall(r"precision=(\(.*?\)|\w[\w.]*)", text), len(re.findall(r"= (?:dot_general|conv_general_dilated)\[", text))


STACK = specs.StackSpec(width=16, layers=3, heads=2, mlp_width=20, act="gelu", epsilon=1e-6)
VIT = specs.VitSpec(stack=STACK, image_size=16, patch_size=8)
RESNET = specs.ResNetSpec(image_size=32, blocks=(1, 1), width=4, pool="map", joint_width=8, pooler_blocks=1, pooler_heads=2)
TEXT = specs.TextSpec(stack=STACK, vocab_size=30, positions=9, eos_token_id=29)
BERT = specs.BertSpec(stack=STACK, vocab_size=30, length=10, pool="cls", positions=12)
IMAGES = {
    "vit": VIT,
    "probe": dataclasses.replace(VIT, class_token=False, pre_norm=False, patch_bias=True, pool="probe"),
    "joint": RESNET,
    "resnet": dataclasses.replace(RESNET, pool="mean", joint_width=0, resize=40),
    "swin": specs.SwinSpec(image_size=16, pool="mean", blocks=(2, 1), heads=(1, 2), width=8, window=2, patch_size=2),
}
REPORTS = {
    "causal": TEXT,
    "bidirectional": dataclasses.replace(TEXT, causal=False, pool="last"),
    **{pool: dataclasses.replace(BERT, pool=pool) for pool in ("cls", "sep", "three_layers", "last_four")},
}
HEADS = {"joint": "patch", "probe": "map", "swin": "none", "resnet": "affine", "sep": "mlp", "cls": "cxr_bert"}


def _model(image, report):
    dim = IMAGES[image].features[-1] if HEADS.get(image) in ("map", "none") else 6
    heads_of = (HEADS.get(image, "linear"), HEADS.get(report, "linear"))
    return specs.VLMSpec("toy", pathlib.Path(), IMAGES[image], REPORTS[report], dim, *heads_of)


@functools.cache
def _shapes(image, report):
    """Returns the parameters of `_model` as shapes, traced once."""
    return jax.eval_shape(lambda key: towers.init(_model(image, report), key), jax.random.key(0))


PAIRS = [*zip([*IMAGES, "vit"], REPORTS, strict=True)]


@pytest.mark.parametrize(("image", "report"), PAIRS)
def test_every_kind_of_tower_gives_features_that_its_head_takes(image, report):
    spec, params = _model(image, report), _shapes(image, report)
    inputs = {"image": jnp.ones((2, *towers.image_shape(spec))), "text": jnp.ones((2, towers.text_length(spec)), jnp.int32)}
    for side, features in (("image", towers.image_features), ("text", towers.text_features)):
        found = jax.eval_shape(lambda p, x, features=features: features(spec, p, x), params[side], inputs[side])
        assert found.shape == (2, *getattr(spec, side).features)
        assert heads.form_of(params["heads"][side]) == getattr(spec, f"{side}_head")
        assert jax.eval_shape(heads.project, params["heads"][side], found).shape == (2, spec.dim)


def test_fresh_heads_are_drawn_apart_and_linear_ones_as_ever():
    shallow = dataclasses.replace(STACK, layers=1)
    spec, key = _model("vit", "sep"), jax.random.key(3)
    spec = dataclasses.replace(spec, image=dataclasses.replace(VIT, stack=shallow), text=dataclasses.replace(BERT, stack=shallow))
    made = towers.init(spec, key)["heads"]
    np.testing.assert_allclose(made["image"]["kernel"], jax.random.normal(jax.random.split(key, 4)[2], (16, 6)) / 4, rtol=1e-6)
    flat = [np.asarray(made["image"]["kernel"]), *(np.asarray(made["text"][name]["kernel"]) for name in ("fc1", "fc2"))]
    assert len({float(kernel.ravel()[0]) for kernel in flat}) == 3
    assert all(0.5 < kernel.std() * kernel.shape[0] ** 0.5 < 1.5 for kernel in flat)
    norm = towers._init_head({"norm/scale": (3,), "norm/bias": (3,), "bn/var": (2,), "bn/mean": (2,)}, key)
    np.testing.assert_array_equal([*norm["norm"]["scale"], *norm["norm"]["bias"], *norm["bn"]["var"], *norm["bn"]["mean"]], [1, 1, 1, 0, 0, 0, 1, 1, 0, 0])


@pytest.mark.parametrize(("image", "report"), PAIRS)
def test_every_product_of_towers_and_heads_asks_for_full_precision(image, report):
    spec, params = _model(image, report), _shapes(image, report)
    pixels, ids = jnp.zeros((1, *towers.image_shape(spec))), jnp.zeros((1, towers.text_length(spec)), jnp.int32)
    traced = [
        asked(lambda p, x: towers.image_tower(spec).apply({"params": p}, x), params["image"], pixels),
        asked(lambda p, x: towers.text_tower(spec).apply({"params": p}, x), params["text"], ids),
        asked(lambda key: towers.image_tower(spec).init(key, pixels), jax.random.key(0)),
    ]
    traced += [asked(heads.project, params["heads"][side], jnp.zeros((2, *getattr(spec, side).features))) for side in heads.SIDES if params["heads"][side]]
    for found, products in traced:
        assert products == len(found) > 0
        assert {one for one in found if "HIGHEST" not in one} == set()


def test_head_shapes_are_the_published_ones():
    bert = dataclasses.replace(BERT, stack=dataclasses.replace(STACK, width=768, heads=12))
    temporal = specs.ResNetSpec(image_size=448, pool="map", joint_width=256)
    biovil_t = towers.head_shapes(specs.VLMSpec("t", pathlib.Path(), temporal, bert, 128, "patch", "cxr_bert"))
    assert (biovil_t["image"]["conv1/kernel"], biovil_t["image"]["missing"], biovil_t["image"]["conv2/kernel"]) == ((512, 128), (256,), (128, 128))
    assert (biovil_t["text"]["dense_to_hidden/kernel"], biovil_t["text"]["norm/scale"]) == ((768, 128), (128,))
    plain = specs.VLMSpec("b", pathlib.Path(), dataclasses.replace(temporal, joint_width=0), bert, 512, "patch", "mlp")
    assert "missing" not in towers.head_shapes(plain)["image"]
    assert towers.head_shapes(plain)["image"]["conv1/kernel"] == (2048, 512)
    assert towers.head_shapes(plain)["text"] == {"fc1/kernel": (768, 640), "fc2/kernel": (640, 512)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_head": "pooler"},
            "head form in image head of 'toy': expected linear, affine, mlp, cxr_bert, patch, map of a transformer, or none, found 'pooler'",
        ),
        ({"text_head": "none"}, "joint dimension in text head of 'toy': expected 16, the width of the features, found 6"),
        ({"image_head": "map"}, "joint dimension in image head of 'toy': expected 16, the width of the features, found 6"),
    ],
)
def test_a_head_that_cannot_be_is_refused(changes, message):
    with pytest.raises(errors.DataError) as caught:
        towers.head_shapes(dataclasses.replace(_model("vit", "causal"), **changes))
    assert str(caught.value) == message


def test_biomedclip_has_its_published_number_of_parameters():
    stack = specs.StackSpec(width=768, layers=12, heads=12, mlp_width=3072, act="gelu", epsilon=1e-6)
    image = specs.VitSpec(stack=stack, image_size=224, patch_size=16, pre_norm=False, patch_bias=True)
    report = specs.BertSpec(stack=dataclasses.replace(stack, epsilon=1e-12), vocab_size=30522, length=256, pool="cls")
    spec = specs.VLMSpec("biomedclip", pathlib.Path(), image, report, 512, "linear", "mlp")
    tree = jax.eval_shape(lambda key: towers.init(spec, key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == 195_902_721
