"""Every head form equals its definition in float64, differentiates per record, folds, draws and round trips."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relink_jax import errors, heads

F, M, H, D, P = 7, 3, 6, 5, 4
GELU = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def dense(seed, inputs, outputs, bias=True):
    return {"kernel": draw(seed, inputs, outputs)} | ({"bias": draw(seed + 100, outputs)} if bias else {})


def norm(seed, width):
    return {"scale": 1 + 0.3 * draw(seed, width), "bias": draw(seed + 100, width)}


def patch(missing=False):
    bn = {**norm(2, H), "mean": draw(3, H), "var": np.exp(draw(4, H))}
    return {"conv1": dense(1, F, H, bias=False), "bn": bn, "conv2": dense(5, H, D)} | ({"missing": draw(6, M)} if missing else {})


HEADS = {
    "linear": dense(1, F, D, bias=False),
    "affine": dense(1, F, D),
    "mlp": {"fc1": dense(1, F, H, bias=False), "fc2": dense(2, H, D, bias=False)},
    "cxr_bert": {"dense_to_hidden": dense(1, F, H), "norm": norm(2, H), "dense_to_output": dense(3, H, D)},
    "patch": patch(),
    "map": {"norm": norm(1, F), "fc1": dense(2, F, H), "fc2": dense(3, H, F)},
    "none": {},
}
SHAPED = {**HEADS, "patch_missing": patch(missing=True)}


def features(name, count=9):
    width = F - M if name == "patch_missing" else F
    return draw(50, count, P, width) if name.startswith("patch") else draw(50, count, width)


def oracle(name, head, x, act=GELU, epsilon=None):
    """The definitions once more, one record at a time, in float64."""
    w = jax.tree.map(lambda array: np.asarray(array, np.float64), head)
    x = np.asarray(x, np.float64)

    def layer(part, x):
        return x @ part["kernel"] + part.get("bias", 0.0)

    def standard(part, x, eps):
        return (x - x.mean()) / np.sqrt(x.var() + eps) * part["scale"] + part["bias"]

    if name in ("linear", "affine"):
        y = layer(w, x)
    elif name == "mlp":
        y = layer(w["fc2"], act(layer(w["fc1"], x)))
    elif name == "cxr_bert":
        y = layer(w["dense_to_output"], standard(w["norm"], act(layer(w["dense_to_hidden"], x)), 1e-12 if epsilon is None else epsilon))
    elif name == "map":
        hidden = layer(w["fc1"], standard(w["norm"], x, 1e-6 if epsilon is None else epsilon))
        y = x + layer(w["fc2"], 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3))) if act is GELU else act(hidden))
    elif name.startswith("patch"):
        rows = []
        for cell in x:
            full = np.concatenate([cell, w["missing"]]) if len(cell) < F else cell
            hidden = layer(w["conv1"], full)
            hidden = (hidden - w["bn"]["mean"]) / np.sqrt(w["bn"]["var"] + (1e-5 if epsilon is None else epsilon)) * w["bn"]["scale"] + w["bn"]["bias"]
            rows.append(layer(w["conv2"], np.maximum(hidden, 0)))
        y = np.mean(rows, axis=0)
    else:
        y = x
    return y / np.linalg.norm(y)


@pytest.mark.parametrize("name", SHAPED)
def test_every_form_is_its_definition_in_float64(name):
    head, x = SHAPED[name], features(name)
    found = heads.project(head, x)
    assert heads.form_of(head) == name.split("_")[0] or name == "cxr_bert"
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [oracle(name, head, one) for one in x], atol=2e-6)
    np.testing.assert_allclose(jnp.linalg.norm(found, axis=1), 1, atol=1e-6)
    with jax.enable_x64():
        exact = heads.project(jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), head), x.astype(np.float64))
        assert exact.dtype == jnp.float64
        np.testing.assert_allclose(exact, [oracle(name, head, one) for one in x], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "mutation"),
    [
        ("mlp", {"act": lambda x: x / (1 + np.exp(-1.702 * x))}),
        ("mlp", {"act": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))}),
        ("cxr_bert", {"act": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))}),
        ("cxr_bert", {"epsilon": 1e-6}),
        ("map", {"act": lambda x: GELU(x)}),
        ("map", {"epsilon": 1e-5}),
        ("patch", {"epsilon": 1e-6}),
    ],
)
def test_the_oracle_sees_a_wrong_activation_or_epsilon(name, mutation):
    with jax.enable_x64():
        found = heads.project(jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), HEADS[name]), features(name).astype(np.float64))
    wrong = np.array([oracle(name, HEADS[name], one, **mutation) for one in features(name)])
    assert np.max(np.abs(np.asarray(found) - wrong)) > 1e-8


@pytest.mark.parametrize("name", SHAPED)
def test_records_can_be_mapped_over_and_differentiated_one_at_a_time(name):
    head, x = SHAPED[name], features(name, 3)
    np.testing.assert_allclose(jax.vmap(lambda one: heads.project(head, one))(x), heads.project(head, x), atol=1e-6)
    target = draw(70, *np.shape(heads.project(head, x[0])))

    def loss(head, one):
        return jnp.vdot(heads.project(head, one), target)

    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(head, x)
    assert jax.tree.structure(gradients) == jax.tree.structure(head)
    alone = jax.grad(loss)(head, x[1])
    jax.tree.map(lambda many, one: np.testing.assert_allclose(many[1], one, atol=1e-5), gradients, alone)
    assert all(np.any(np.abs(leaf) > 0) for leaf in jax.tree.leaves(alone))


def test_missing_is_appended_to_every_patch_unless_the_features_are_complete():
    head, x = patch(missing=True), features("patch_missing")
    complete = np.concatenate([x, np.broadcast_to(head["missing"], (*x.shape[:2], M))], axis=-1)
    np.testing.assert_allclose(heads.project(head, x), heads.project(head, complete), atol=1e-6)
    np.testing.assert_allclose(heads.project(head, complete), heads.project(patch(), complete), atol=0)
    other = {**head, "missing": head["missing"] + 1}
    assert np.max(np.abs(heads.project(other, x) - heads.project(head, x))) > 0.01
    np.testing.assert_array_equal(heads.project(other, complete), heads.project(head, complete))


def test_the_mean_over_patches_comes_after_the_head():
    head, x = patch(), features("patch")
    before = heads.project(head, x.mean(axis=1, keepdims=True))
    assert np.max(np.abs(before - heads.project(head, x))) > 0.05


@pytest.mark.parametrize("name", SHAPED)
def test_folding_keeps_embeddings_and_drops_parameters(name):
    head, x = SHAPED[name], features(name)
    folded = heads.fold(head)
    np.testing.assert_allclose(heads.project(folded, x), heads.project(head, x), atol=1e-6)
    before, after = (sum(np.size(leaf) for leaf in jax.tree.leaves(tree)) for tree in (head, folded))
    if not name.startswith("patch"):
        assert folded is head
        return
    assert before - after == 3 * H
    assert heads.form_of(folded) == "patch"
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(folded))
    assert heads.fold(folded) is folded


def test_what_may_be_trained():
    for head in SHAPED.values():
        flags = heads.trainable(head)
        assert jax.tree.structure(flags) == jax.tree.structure(head)
    flags = heads.trainable(patch(missing=True))
    assert not flags["missing"]
    assert flags["bn"] == {"scale": True, "bias": True, "mean": False, "var": False}
    assert flags["conv1"]["kernel"]
    assert flags["conv2"] == {"kernel": True, "bias": True}
    for name in ("linear", "affine", "mlp", "cxr_bert", "map"):
        assert all(jax.tree.leaves(heads.trainable(HEADS[name])))
    assert heads.trainable({}) == {}


@pytest.mark.parametrize("name", SHAPED)
def test_random_heads_have_the_form_and_none_of_the_values(name):
    like = {"image": SHAPED[name], "text": HEADS["linear"]}
    drawn = heads.random_heads(1, like)
    assert jax.tree.structure(drawn) == jax.tree.structure(like)
    assert jax.tree.map(np.shape, drawn) == jax.tree.map(np.shape, like)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(drawn))
    jax.tree.map(np.testing.assert_array_equal, drawn, heads.random_heads(1, like))
    kept = jax.tree.map(lambda new, old: bool(np.array_equal(new, old)), drawn["image"], like["image"])
    assert kept == jax.tree.map(lambda flag: not flag, heads.trainable(like["image"]))
    again = heads.random_heads(2, like)
    assert not np.array_equal(again["text"]["kernel"], drawn["text"]["kernel"])
    assert np.isfinite(heads.project(drawn["image"], features(name))).all()


def test_random_kernels_have_variance_one_over_inputs_and_norms_are_neutral():
    like = {"image": {"conv1": dense(1, 400, 300, bias=False), "bn": {**norm(2, 300), "mean": draw(3, 300), "var": np.exp(draw(4, 300))}}, "text": {}}
    like["image"]["conv2"] = dense(5, 300, 200)
    drawn = heads.random_heads(3, like)["image"]
    assert np.var(drawn["conv1"]["kernel"]) * 400 == pytest.approx(1, abs=0.02)
    assert np.var(drawn["conv2"]["kernel"]) * 300 == pytest.approx(1, abs=0.02)
    assert (drawn["conv2"]["bias"] == 0).all()
    assert (drawn["bn"]["bias"] == 0).all()
    assert (drawn["bn"]["scale"] == 1).all()
    assert abs(np.corrcoef(drawn["conv1"]["kernel"][:300, :200].ravel(), drawn["conv2"]["kernel"].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("image", SHAPED)
@pytest.mark.parametrize("text", ["linear", "none"])
def test_every_form_round_trips_through_a_directory(tmp_path, image, text):
    saved = {"image": SHAPED[image], "text": HEADS[text]}
    digest = heads.save(tmp_path / "h", saved, {"arm": "original"})
    found, card = heads.load(tmp_path / "h")
    assert card["heads_sha256"] == digest
    assert card["forms"] == {"image": heads.form_of(saved["image"]), "text": text}
    assert jax.tree.structure(found) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, found, saved)


def test_heads_without_any_array_round_trip(tmp_path):
    heads.save(tmp_path / "h", {"image": {}, "text": {}}, {"arm": "original"})
    assert heads.load(tmp_path / "h")[0] == {"image": {}, "text": {}}


@pytest.mark.parametrize("forms", [None, {"image": "linear", "text": "affine"}, {"image": "linear"}])
def test_a_card_that_names_other_forms_is_refused(tmp_path, forms):
    heads.save(tmp_path / "h", {"image": HEADS["linear"], "text": {}}, {"arm": "original"})
    path = tmp_path / "h" / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "forms": forms}))
    with pytest.raises(errors.StoreError, match=r"heads of other forms in heads 'h': expected .*, found .*'text': 'none'"):
        heads.load(tmp_path / "h")


@pytest.mark.parametrize(
    "head", [{"kernel": 0, "scale": 0}, {"bias": 0}, {"fc1": {"kernel": 0}}, {"missing": 0}, {"kernel": {"kernel": 0}}, {**patch(), "extra": 0}]
)
def test_parameters_of_no_form_are_refused(head):
    with pytest.raises(errors.DataError, match=r"head of no known form in heads: expected the parameters of one of linear, affine, .*, found "):
        heads.form_of(head)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("linear", (2, F + 1)),
        ("affine", (2, P, F)),
        ("mlp", (2, D)),
        ("cxr_bert", (F + 1,)),
        ("patch", (F,)),
        ("patch", (2, P, F - M)),
        ("patch_missing", (2, P, F - 1)),
        ("map", (2, P, F)),
        ("none", (2, P, F)),
    ],
)
def test_features_of_another_shape_are_refused(name, shape):
    with pytest.raises(errors.DataError, match=r"features in head of form \w+: expected \[N, .*, found \("):
        heads.project(SHAPED[name], np.ones(shape, np.float32))


def test_half_precision_features_are_computed_with_in_float32():
    x = features("patch").astype(np.float16)
    np.testing.assert_array_equal(heads.project(patch(), x), heads.project(patch(), x.astype(np.float32)))


def test_every_product_asks_for_highest_precision():
    for name, head in SHAPED.items():
        jaxpr = str(jax.make_jaxpr(heads.project)(head, features(name)))
        assert jaxpr.count("dot_general") == jaxpr.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
