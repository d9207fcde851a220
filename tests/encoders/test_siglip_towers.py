"""The options of the vision and text transformers that CLIP does not use, against a plain NumPy oracle in float64."""

import dataclasses

import numpy as np
import pytest
import random_params
import tower_oracle

from relink_jax import errors
from relink_jax.encoders import specs, text, vit

STACK = specs.StackSpec(width=24, layers=3, heads=3, mlp_width=40, act="gelu_tanh", epsilon=1e-6)
PROBE = specs.VitSpec(stack=STACK, image_size=16, patch_size=4, class_token=False, pre_norm=False, patch_bias=True, pool="probe")
TIMM = specs.VitSpec(stack=dataclasses.replace(STACK, act="gelu"), image_size=16, patch_size=4, pre_norm=False, patch_bias=True)
CLIP = specs.VitSpec(stack=dataclasses.replace(STACK, act="quick_gelu", epsilon=1e-5), image_size=16, patch_size=4)
VITS = {"probe": PROBE, "timm": TIMM, "clip": CLIP}
END = 1
TEXT = specs.TextSpec(stack=STACK, vocab_size=40, positions=12, eos_token_id=END, causal=False, pool="last")
PIXELS = np.random.default_rng(1).standard_normal((3, 16, 16, 3))
LENGTHS = (3, 7, 11)


def _ids(length=12):
    ids = np.random.default_rng(2).integers(2, TEXT.vocab_size, (len(LENGTHS), length)).astype(np.int32)
    for row, end in zip(ids, LENGTHS, strict=True):
        row[end:] = END
    return ids


@pytest.fixture(scope="module")
def params():
    made = {name: random_params.of(vit.ImageTower(spec), PIXELS) for name, spec in VITS.items()}
    return {**made, "text": random_params.of(text.TextTower(TEXT), _ids())}


def _with(spec, **stack):
    return dataclasses.replace(spec, stack=dataclasses.replace(spec.stack, **stack))


def _image(spec, params, pixels=PIXELS):
    return np.stack([tower_oracle.image(spec, params, one) for one in pixels])


def _text(spec, params, ids):
    return np.stack([tower_oracle.text(spec, params, row) for row in ids])


@pytest.mark.parametrize("name", VITS)
def test_vision_transformers_equal_the_oracle(params, name):
    spec = VITS[name]
    found = random_params.run(vit.ImageTower(spec), params[name], PIXELS)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, _image(spec, params[name]), atol=1e-9)


@pytest.mark.parametrize(("causal", "pool", "act"), [(False, "last", "gelu_tanh"), (True, "eos", "quick_gelu"), (True, "last", "gelu"), (False, "eos", "gelu")])
def test_text_transformers_equal_the_oracle(params, causal, pool, act):
    spec = dataclasses.replace(_with(TEXT, act=act), causal=causal, pool=pool)
    np.testing.assert_allclose(random_params.run(text.TextTower(spec), params["text"], _ids()), _text(spec, params["text"], _ids()), atol=1e-9)


def _stack_mutants(spec):
    yield from (_with(spec, act=act) for act in tower_oracle.ACTS if act != spec.stack.act)
    yield from (_with(spec, epsilon=epsilon) for epsilon in (1e-5, 1e-6, 1e-12) if epsilon != spec.stack.epsilon)
    yield _with(spec, heads=4)


def _image_mutants(name, params):
    spec, probed = VITS[name], VITS[name].pool == "probe"
    yield from ((other, params) for other in _stack_mutants(spec))
    yield from ((dataclasses.replace(spec, pool=pool), params) for pool in (("first", "mean", "raw") if probed else ("mean",)))
    if name == "clip":
        yield dataclasses.replace(spec, pre_norm=False), params
    else:
        yield dataclasses.replace(spec, pre_norm=True), {**params, "pre_layernorm": params["post_layernorm"]}
    yield spec, tower_oracle.swapped(params, "encoder/block_1/self_attn")
    yield spec, tower_oracle.changed(params, "patch_embedding/kernel", lambda kernel: kernel.swapaxes(0, 1))
    yield spec, tower_oracle.changed(params, "position_embedding", lambda table: table[::-1])
    if probed:
        yield spec, tower_oracle.swapped(params, "probe_attn")
        yield spec, tower_oracle.changed(params, "probe_attn/out_proj/kernel", np.transpose)


@pytest.mark.parametrize("name", VITS)
def test_mutants_of_the_vision_transformers_are_caught(params, name):
    found = random_params.run(vit.ImageTower(VITS[name]), params[name], PIXELS)
    mutants = list(_image_mutants(name, params[name]))
    assert len(mutants) == {"probe": 14, "timm": 10, "clip": 10}[name]
    for index, (spec, changed) in enumerate(mutants):
        assert np.abs(found - _image(spec, changed)).max() > 1e-7, index


@pytest.mark.parametrize("name", [*VITS, "text"])
def test_every_dropped_bias_is_caught(params, name):
    tower, oracle, inputs = (text.TextTower(TEXT), _text, _ids()) if name == "text" else (vit.ImageTower(VITS[name]), _image, PIXELS)
    found = random_params.run(tower, params[name], inputs)
    paths = [path for path in tower_oracle.biases(params[name]) if "k_proj" not in path]  # a key's bias shifts all scores of a query alike
    assert len(paths) == 3 * 7 + {"probe": 5, "timm": 2, "clip": 2, "text": 1}[name]
    for path in paths:
        assert np.abs(found - oracle(tower.spec, tower_oracle.changed(params[name], path, np.zeros_like), inputs)).max() > 1e-6, path


def test_mutants_of_the_text_transformer_are_caught(params):
    found = random_params.run(text.TextTower(TEXT), params["text"], _ids())
    mutants = [(spec, params["text"]) for spec in _stack_mutants(TEXT)]
    mutants += [(dataclasses.replace(TEXT, causal=True), params["text"])]
    mutants += [(dataclasses.replace(TEXT, pool=pool), params["text"]) for pool in ("eos", "first", "mean")]
    mutants += [(TEXT, tower_oracle.swapped(params["text"], "encoder/block_0/self_attn"))]
    for index, (spec, changed) in enumerate(mutants):
        assert np.abs(found - _text(spec, changed, _ids())).max() > 1e-7, index


def test_a_bidirectional_text_belongs_to_one_length_of_padding(params):
    tower = text.TextTower(TEXT)
    whole = random_params.run(tower, params["text"], _ids())
    assert np.abs(random_params.run(tower, params["text"], _ids()[:, :11]) - whole).max(axis=1).min() > 1e-2
    causal = text.TextTower(dataclasses.replace(TEXT, causal=True, pool="eos"))
    ends = np.where(np.arange(12) == np.array(LENGTHS)[:, None], END, np.where(_ids() == END, 5, _ids()))
    np.testing.assert_allclose(random_params.run(causal, params["text"], ends[:2, :8]), random_params.run(causal, params["text"], ends[:2]), atol=1e-12)


def test_every_token_reaches_the_last_position_but_not_another_row(params):
    tower, ids = text.TextTower(TEXT), _ids()
    found = random_params.run(tower, params["text"], ids)
    for position in range(12):
        other = ids.copy()
        other[0, position] = (other[0, position] + 7) % TEXT.vocab_size
        moved = np.abs(random_params.run(tower, params["text"], other) - found).max(axis=1)
        assert moved[0] > 1e-4
        assert moved[1:].max() == 0


def test_the_probe_takes_tokens_in_any_order(params):
    """Without positions the attention pool is a set function: patches may change places."""
    plain = tower_oracle.changed(params["probe"], "position_embedding", np.zeros_like)
    grid = PIXELS.reshape(3, 4, 4, 4, 4, 3)
    moved = grid[:, ::-1, :, ::-1].reshape(PIXELS.shape)
    tower = vit.ImageTower(PROBE)
    np.testing.assert_allclose(random_params.run(tower, plain, moved), random_params.run(tower, plain, PIXELS), atol=1e-10)
    assert np.abs(random_params.run(tower, params["probe"], moved) - random_params.run(tower, params["probe"], PIXELS)).max() > 1e-2


@pytest.mark.parametrize("name", VITS)
def test_only_the_options_asked_for_have_parameters(params, name):
    spec, found = VITS[name], params[name]
    assert ("class_embedding" in found, "pre_layernorm" in found) == (spec.class_token, spec.pre_norm)
    assert ("bias" in found["patch_embedding"], "probe" in found, "probe_attn" in found) == (spec.patch_bias, spec.pool == "probe", spec.pool == "probe")
    assert found["position_embedding"].shape == (16 + spec.class_token, 24)


def test_a_pool_that_cannot_be_is_refused():
    for spec, found in ((dataclasses.replace(PROBE, pool="class"), "'class' without a class token"), (dataclasses.replace(CLIP, pool="mean"), "'mean' with")):
        with pytest.raises(errors.DataError, match=f"pool in vision transformer: expected 'class' with a class token, or 'probe', found {found}"):
            vit.ImageTower(spec).apply({"params": {}}, PIXELS)
    with pytest.raises(errors.DataError, match="pool in text transformer: expected 'eos' or 'last', found 'cls'"):
        text.TextTower(dataclasses.replace(TEXT, pool="cls")).apply({"params": {}}, _ids())
