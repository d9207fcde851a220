"""The BERT encoder and its four pools against a plain NumPy oracle in float64, and what padding may and may not change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_params
import tower_oracle

from relink_jax import errors
from relink_jax.encoders import bert, blocks, specs

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

PAD = 0
STACK = specs.StackSpec(width=24, layers=4, heads=3, mlp_width=40, act="gelu", epsilon=1e-12)
SPEC = specs.BertSpec(stack=STACK, vocab_size=50, length=16, pool="cls", positions=20)
POOLS = ("cls", "sep", "three_layers", "last_four")
TEXTS = ([7, 3, 21, 9, 30, 12, 3, 8], [7, 44, 8], [7, 11, 49, 1, 2, 5, 6, 31, 12, 14, 15, 8])


def _ids(length=14):
    return np.array([row + [PAD] * (length - len(row)) for row in TEXTS], np.int32)


def _spec(pool, **stack):
    return dataclasses.replace(SPEC, pool=pool, stack=dataclasses.replace(STACK, **stack))


@pytest.fixture(scope="module")
def params():
    return random_params.of(bert.BertTower(SPEC), _ids())


def _oracle(spec, params, ids):
    return np.stack([tower_oracle.bert(spec, params, row) for row in ids])


@pytest.mark.parametrize(("pool", "act"), [*((pool, "gelu") for pool in POOLS), ("cls", "gelu_tanh"), ("cls", "quick_gelu")])
def test_features_equal_the_oracle(params, pool, act):
    spec = _spec(pool, act=act)
    found = random_params.run(bert.BertTower(spec), params, _ids())
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, _oracle(spec, params, _ids()), atol=1e-9)


MUTANTS = {
    "erf for tanh": lambda spec, params: (_spec(spec.pool, act="gelu_tanh"), params),
    "quick gelu": lambda spec, params: (_spec(spec.pool, act="quick_gelu"), params),
    "epsilon 1e-6": lambda spec, params: (_spec(spec.pool, epsilon=1e-6), params),
    "epsilon 1e-5": lambda spec, params: (_spec(spec.pool, epsilon=1e-5), params),
    "mask ignored": lambda spec, params: (dataclasses.replace(spec, pad_id=-1), params),
    "another padding": lambda spec, params: (dataclasses.replace(spec, pad_id=3), params),
    "query and key": lambda spec, params: (spec, tower_oracle.swapped(params, "block_1/self_attn")),
    "blocks": lambda spec, params: (spec, {**params, "block_0": params["block_1"], "block_1": params["block_0"]}),
    "square not transposed": lambda spec, params: (spec, tower_oracle.changed(params, "block_0/self_attn/v_proj/kernel", np.transpose)),
    "norms": lambda spec, params: (
        spec,
        tower_oracle.changed(params, "block_0", lambda b: {**b, "attention_norm": b["output_norm"], "output_norm": b["attention_norm"]}),
    ),
    "second type": lambda spec, params: (spec, tower_oracle.changed(params, "type_embedding", lambda table: table[::-1])),
    "positions from one": lambda spec, params: (spec, tower_oracle.changed(params, "position_embedding", lambda table: np.roll(table, -1, axis=0))),
    "heads": lambda spec, params: (_spec(spec.pool, heads=4), params),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(params, mutant, pool):
    spec = _spec(pool)
    found = random_params.run(bert.BertTower(spec), params, _ids())
    assert np.abs(found - _oracle(*MUTANTS[mutant](spec, params), _ids())).max() > 1e-7


def test_every_dropped_bias_is_caught(params):
    found = random_params.run(bert.BertTower(SPEC), params, _ids())
    paths = [path for path in tower_oracle.biases(params) if "k_proj" not in path]  # a key's bias shifts all scores of a query alike
    assert len(paths) == 1 + 4 * 7
    for path in paths:
        assert np.abs(found - _oracle(SPEC, tower_oracle.changed(params, path, np.zeros_like), _ids())).max() > 1e-6, path


@pytest.mark.parametrize("pool", POOLS)
def test_other_readings_of_a_pool_are_caught(params, pool):
    found = random_params.run(bert.BertTower(_spec(pool)), params, _ids())
    others = {
        *POOLS,
        "last",
        "mean",
        "last_three",
        "three_layers, masked",
        "three_layers, from embeddings",
        "last_four, of all positions",
        "last_four, by count",
    }
    for other in others - {pool}:
        assert np.abs(found - _oracle(dataclasses.replace(SPEC, pool=other), params, _ids())).max() > 1e-2, other


@pytest.mark.parametrize("pool", ["cls", "sep"])
def test_features_do_not_depend_on_padding(params, pool):
    tower = bert.BertTower(_spec(pool))
    short = random_params.run(tower, params, _ids(12))  # the longest text has no padding
    np.testing.assert_allclose(random_params.run(tower, params, _ids()), short, atol=1e-12)


def test_two_pools_belong_to_one_length_of_padding(params):
    for pool in ("three_layers", "last_four"):
        short, long = (random_params.run(bert.BertTower(_spec(pool)), params, _ids(length)) for length in (12, 14))
        assert np.abs(short - long).max(axis=1).min() > 1e-2
        if pool == "last_four":
            np.testing.assert_allclose(short * 12, long * 14, atol=1e-10)


def test_masked_positions_reach_nothing_and_every_token_reaches_the_features(params):
    for pool in POOLS:
        tower, ids = bert.BertTower(_spec(pool)), _ids()
        found = random_params.run(tower, params, ids)
        for position in range(len(TEXTS[0])):
            other = ids.copy()
            other[0, position] = 40
            moved = np.abs(random_params.run(tower, params, other) - found).max(axis=1)
            assert moved[0] > 1e-4
            assert moved[1:].max() == 0


def test_pools_by_hand():
    states = [jnp.full((2, 3, 1), value) * jnp.asarray([[1.0, 2, 3], [10, 20, 30]])[..., None] for value in (1000.0, 1, 2, 4, 8)]
    seen = jnp.asarray([[True, True, False], [True, True, True]])
    np.testing.assert_allclose(bert.pooled("cls", states, seen)[:, 0], [8, 80])
    np.testing.assert_allclose(bert.pooled("sep", states, seen)[:, 0], [16, 240])
    np.testing.assert_allclose(bert.pooled("three_layers", states, seen)[:, 0], [2 * (1 + 2 + 8) / 3, 20 * (1 + 2 + 8) / 3])
    np.testing.assert_allclose(bert.pooled("last_four", states, seen)[:, 0], [15 * 3 / 3, 15 * 60 / 3])


def test_last_four_is_the_upstream_sum_over_words():
    """GLoRIA's loop: pieces summed to words, zeros after the last word, mean over as many words as there are positions, sum over layers."""
    draw = np.random.default_rng(3)
    states, pieces = draw.standard_normal((5, 9, 4)), ["[CLS]", "atelec", "##tas", "##is", "of", "lung", "[SEP]", "[PAD]", "[PAD]"]
    layers = []
    for state in states[-4:]:
        words = []
        for vector, piece in zip(state, pieces, strict=True):
            words[-1:] = [words[-1] + vector] if piece.startswith("##") else [*words[-1:], vector]
            if piece == "[SEP]":
                break
        layers.append(np.concatenate([words, np.zeros((len(pieces) - len(words), 4))]).mean(axis=0))
    seen = np.array([[piece != "[PAD]" for piece in pieces]])
    found = bert.pooled("last_four", [jnp.asarray(state[None], jnp.float32) for state in states], jnp.asarray(seen))
    np.testing.assert_allclose(found[0], np.sum(layers, axis=0), atol=1e-5)


def test_a_text_of_nothing_but_padding_is_finite(params):
    for pool in POOLS:
        assert np.isfinite(random_params.run(bert.BertTower(_spec(pool)), params, np.zeros_like(_ids()))).all()


@pytest.mark.parametrize(("pool", "layers"), [("pooler", 4), ("mean", 4), ("three_layers", 1), ("last_four", 2)])
def test_a_pool_that_cannot_be_is_refused(pool, layers):
    with pytest.raises(errors.DataError) as caught:
        bert.BertTower(_spec(pool, layers=layers)).apply({"params": {}}, _ids())
    expected = "'cls' from 1 layers, 'sep' from 1 layers, 'three_layers' from 2 layers, 'last_four' from 3 layers"
    assert str(caught.value) == f"pool in BERT encoder: expected one of {expected}, found {pool!r} with {layers} layers"


@pytest.mark.parametrize("masked", ["none", "causal", "padding", "both", "bias", "biases"])
def test_attention_is_the_same_in_any_groups_of_heads(monkeypatch, masked):
    batch, length, heads, width = 3, 7, 5, 20
    draw = np.random.default_rng(0)
    query, key, value = (draw.standard_normal((batch * length, width)) for _ in range(3))
    causal, seen = np.tril(np.ones((length, length), bool)), np.arange(length) < np.array([7, 4, 1])[:, None]
    mask = {"causal": causal, "padding": seen[:, None], "both": seen[:, None] & causal}.get(masked)
    bias = {"bias": draw.standard_normal((heads, length, length)), "biases": draw.standard_normal((batch, heads, length, length))}.get(masked)

    def plain():
        split = (part.reshape(batch, length, heads, -1).transpose(0, 2, 1, 3) for part in (query, key, value))
        q, k, v = split
        scores = q @ k.swapaxes(2, 3) / np.sqrt(width / heads) + (0 if bias is None else bias)
        allowed = True if mask is None else mask[:, None] if mask.ndim == 3 else mask
        weights = np.exp(np.where(allowed, scores, -np.inf))
        return (weights / weights.sum(axis=-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(-1, width)

    with jax.enable_x64(True):
        for cached in (2**24, 2 * batch * length**2 * 8, 1):
            monkeypatch.setattr(blocks, "_CACHED", cached)
            found = blocks.attend(*map(jnp.asarray, (query, key, value)), batch, heads, mask, bias)
            np.testing.assert_allclose(found, plain(), atol=1e-13, err_msg=f"{cached} bytes")
