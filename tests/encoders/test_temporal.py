"""BioViL-T's temporal pooler against a plain NumPy reading of it, and the mutations that its two halves and its marks invite."""

import math

import numpy as np
import pytest
import random_params

from relink_jax import errors
from relink_jax.encoders import temporal

GRID, WIDTH, HEADS, LAYERS = 3, 8, 2, 2


def _table(grid, width, x_first=False, split=False, start=1, normalised=True, temperature=1e4):
    """Fills the position table cell by cell; the fields are mutations."""
    half, table = width // 2, np.zeros((grid * grid, width))
    for y in range(grid):
        for x in range(grid):
            for axis, place in enumerate((x, y) if x_first else (y, x)):
                coordinate = (place + start) / (grid + 1e-6) * 2 * math.pi if normalised else place + start
                for channel in range(half):
                    wave, pair = (channel // (half // 2), channel % (half // 2)) if split else (channel % 2, channel // 2)
                    angle = coordinate / temperature ** (2 * pair / half)
                    table[y * grid + x, axis * half + channel] = math.cos(angle) if wave else math.sin(angle)
    return table


def test_sine_table_equals_the_oracle_and_not_its_mutants():
    found = temporal.sine_positions(5, 16)
    np.testing.assert_allclose(found, _table(5, 16), atol=1e-13)
    for mutation in ({"x_first": True}, {"split": True}, {"start": 0}, {"normalised": False}, {"temperature": 1e3}):
        assert np.abs(found - _table(5, 16, **mutation)).max() > 1e-2, mutation


def test_published_sine_table():
    table = temporal.sine_positions(14, 256)
    assert table.shape == (196, 256)
    assert len(np.unique(table.round(9), axis=0)) == 196
    np.testing.assert_allclose(table[0, [0, 1]], [math.sin(2 * math.pi / 14), math.cos(2 * math.pi / 14)], atol=1e-6)
    np.testing.assert_array_equal(table[:14, :128], np.tile(table[0, :128], (14, 1)))
    np.testing.assert_array_equal(table[::14, 128:], np.tile(table[0, 128:], (14, 1)))


def _oracle(params, current, prior, value_marks=True, pre_norm=True, types=(0, 1), half=0, epsilon=1e-6, post=True, marks_every_block=True):
    """One pair of images [P, J] through the pooler; the fields are mutations."""
    positions = _table(math.isqrt(len(current)), current.shape[-1])
    marks = np.concatenate([positions + params["type_embedding"][types[0]], positions + params["type_embedding"][types[1]]])
    x = np.concatenate([current, prior])
    for index in range(LAYERS):
        block = params[f"block_{index}"]
        normal = random_params.layer_norm(x, block["norm1"], epsilon)
        marked = normal + marks if pre_norm else random_params.layer_norm(x + marks, block["norm1"], epsilon)
        marked = marked if index == 0 or marks_every_block else normal
        sources = {"q": marked, "k": marked, "v": marked if value_marks else normal}
        query, key, value = (random_params.dense(sources[part], block["attn"][f"{part}_proj"]).reshape(len(x), HEADS, -1) for part in "qkv")
        weights = random_params.softmax(np.einsum("lhd,mhd->hlm", query, key) / math.sqrt(WIDTH // HEADS))
        x = x + random_params.dense(np.einsum("hlm,mhd->lhd", weights, value).reshape(x.shape), block["attn"]["out_proj"])
        hidden = random_params.dense(random_params.layer_norm(x, block["norm2"], epsilon), block["fc1"])
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        x = x + random_params.dense(hidden, block["fc2"])
    x = random_params.layer_norm(x, params["norm_post"], epsilon) if post else x
    return x[half * len(current) : (half + 1) * len(current)]


@pytest.fixture(scope="module")
def pooled():
    current, prior = np.random.default_rng(1).standard_normal((2, 2, GRID**2, WIDTH))
    module = temporal.TemporalPooler(LAYERS, HEADS)
    params = random_params.of(module, current, prior)
    return current, prior, params, random_params.run(module, params, current, prior)


def test_pooler_equals_the_oracle(pooled):
    current, prior, params, found = pooled
    np.testing.assert_allclose(found, [_oracle(params, *pair) for pair in zip(current, prior, strict=True)], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "mutation",
    [{"value_marks": False}, {"pre_norm": False}, {"types": (1, 0)}, {"types": (0, 0)}, {"half": 1}, {"post": False}, {"marks_every_block": False}],
    ids=str,
)
def test_pooler_differs_from_mutants(pooled, mutation):
    current, prior, params, found = pooled
    assert np.abs(found[0] - _oracle(params, current[0], prior[0], **mutation)).max() > 1e-3


def test_epsilon_is_seen(pooled):
    current, prior, params, found = pooled
    assert np.abs(found[0] - _oracle(params, current[0], prior[0], epsilon=1e-5)).max() > 1e-7


def test_what_cannot_be_is_refused_in_one_sentence():
    module, patches = temporal.TemporalPooler(1, 2), np.zeros((1, 9, 8), np.float32)
    for current, prior in ((patches, patches[:, :4]), (patches[:, :8], patches[:, :8])):
        with pytest.raises(errors.UsageError, match=r"^patches in temporal pooler: expected two images' patches of one square grid, found shapes "):
            random_params.of(module, current, prior)
    with pytest.raises(errors.DataError, match=r"^joint width in ResNet specification: expected a multiple of 4 and of 2 heads, found 6(\n|$)"):
        random_params.of(module, patches[..., :6], patches[..., :6])
