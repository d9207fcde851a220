import numpy as np
import pytest
from cases import single, vector

from relink_jax import errors
from relink_jax.privacy import clipping, norms, objectives

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

IMPLEMENTATIONS = ("closed_form", "vmap")


def total(toy, rows, padding=None, *, images=None, texts=None, temperature=0.1, clip=1.0, implementation="closed_form", chunk=0):
    records = clipping.Records(toy.images if images is None else images, toy.texts if texts is None else texts)
    objective = objectives.get_objective("anchor_infonce", temperature)
    batch = single(rows, padding)
    return clipping.clipped_sum(objective, toy.heads, records, batch, toy.bank.arrays(), l2_norm_clip=clip, implementation=implementation, chunk=chunk)


def oracle(toy, rows, temperature, clip):
    """Sum of clipped gradients in NumPy float64, by the calculus of the loss and one record at a time."""
    anchors = toy.bank.features.astype(np.float64) @ toy.heads["text"]["kernel"]
    anchors /= np.linalg.norm(anchors, axis=1, keepdims=True)
    sums = [np.zeros(toy.heads[side]["kernel"].shape) for side in ("image", "text")]
    for k in rows:
        x, y = toy.images[k].astype(np.float64), toy.texts[k].astype(np.float64)
        z, w = x @ toy.heads["image"]["kernel"], y @ toy.heads["text"]["kernel"]
        u, v = z / np.linalg.norm(z), w / np.linalg.norm(w)
        logits = np.concatenate([anchors @ u, [u @ v]]) / temperature
        p = np.exp(logits - logits.max())
        p /= p.sum()
        slope_u = (p[:-1] @ anchors + (p[-1] - 1) * v) / temperature
        slope_v = (p[-1] - 1) * u / temperature
        parts = [np.outer(a, (s - n * (n @ s)) / np.linalg.norm(o)) for a, s, n, o in ((x, slope_u, u, z), (y, slope_v, v, w))]
        size = np.sqrt(sum(np.sum(part**2) for part in parts))
        sums = [s + part * min(1.0, clip / size) for s, part in zip(sums, parts, strict=True)]
    return np.concatenate([part.ravel() for part in sums])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("temperature", "clip"), [(0.1, 1.0), (0.1, 1000.0)])
def test_sum_equals_the_float64_oracle(toy, implementation, temperature, clip):
    rows = np.arange(32)
    expected = oracle(toy, rows, temperature, clip)
    found = vector(total(toy, rows, temperature=temperature, clip=clip, implementation=implementation, chunk=8))
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(("temperature", "clip", "chunk"), [(0.1, 1.0, 8)])
def test_closed_form_equals_vmap_to_1e_6(toy, temperature, clip, chunk):
    rows = np.arange(64)
    padding = rows % 7 == 0
    first, second = (vector(total(toy, rows, padding, temperature=temperature, clip=clip, implementation=name, chunk=chunk)) for name in IMPLEMENTATIONS)
    assert np.linalg.norm(first - second) < 1e-6 * np.linalg.norm(second)


def adversarial_records(toy):
    """Pairs of feature rows meant to break a norm bound: extreme scales, alignment, opposition, anchors, non-finite."""
    generator = np.random.default_rng(5)
    images, texts = toy.images[:1], toy.texts[:1]
    pairs = [(images * scale, texts * other) for scale in (1e-38, 1e-25, 3e-20, 1e-10, 1.0, 1e10, 1e19, 1e30, 1e38) for other in (1e-25, 1.0, 1e25)]
    pairs += [(images * bad, texts) for bad in (np.nan, np.inf, 0.0)] + [(images, texts * bad) for bad in (np.nan, np.inf, 0.0)]
    pairs += [(images, anchor[None]) for anchor in toy.bank.features[:5]] + [(images, -anchor[None]) for anchor in toy.bank.features[:5]]
    for _ in range(60):
        scale = 10.0 ** generator.uniform(-6, 6, 2)
        pairs.append((generator.standard_normal(images.shape) * scale[0], generator.standard_t(1, texts.shape) * scale[1]))
    with np.errstate(over="ignore"):
        return [(a.astype(np.float32), b.astype(np.float32)) for a, b in pairs]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_no_record_weighs_more_than_the_clip_norm(toy, implementation, temperature):
    largest = 0.0
    for images, texts in adversarial_records(toy):
        found = np.linalg.norm(vector(total(toy, [0], images=images, texts=texts, temperature=temperature, clip=0.75, implementation=implementation)))
        assert np.isfinite(found)
        assert found <= 0.75
        largest = max(largest, found)
    assert largest > 0.74


def test_tiny_features_do_not_underflow_past_the_clip(toy):
    images, texts = (np.full((1, features.shape[1]), 2e-20, np.float32) for features in (toy.images, toy.texts))
    slopes = np.float32([[1e19, 1e19]])
    size = float(norms.norm(images)[0] * norms.norm(slopes)[0])
    assert size == pytest.approx(np.linalg.norm(images.astype(np.float64)) * np.linalg.norm(slopes.astype(np.float64)), rel=1e-5)
    assert np.linalg.norm(vector(total(toy, [0], images=images, texts=texts, clip=1e-3))) <= 1e-3


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 1e38])
def test_unusable_record_counts_as_absent(toy, implementation, bad):
    images = toy.images.copy()
    images[3] = bad
    if bad == 1e38:
        images[3, 0] = np.nan
    rows = np.arange(8)
    with_bad = vector(total(toy, rows, images=images, implementation=implementation))
    without = vector(total(toy, rows, rows == 3, implementation=implementation))
    np.testing.assert_array_equal(with_bad, without)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_padding_content_is_irrelevant_and_full_padding_is_zero(toy, implementation):
    rows, padding = np.arange(8), np.arange(8) >= 5
    filler = rows.copy()
    filler[5:] = 90
    images = toy.images.copy()
    images[90] = np.nan
    np.testing.assert_array_equal(
        vector(total(toy, rows, padding, implementation=implementation)), vector(total(toy, filler, padding, images=images, implementation=implementation))
    )
    assert not vector(total(toy, rows, np.ones(8, bool), implementation=implementation)).any()


def test_chunk_changes_nothing_but_rounding(toy):
    rows = np.arange(96)
    whole = vector(total(toy, rows, chunk=96))
    few = vector(total(toy, rows[:5]))
    for chunk in (2,):
        np.testing.assert_allclose(vector(total(toy, rows[:5], chunk=chunk)), few, atol=1e-6)
    assert not vector(total(toy, [])).any()
    for chunk in (7,):
        assert np.linalg.norm(vector(total(toy, rows, chunk=chunk)) - whole) < 1e-6 * np.linalg.norm(whole)


def test_sensitivity_travels_with_the_sum(toy):
    first, second = total(toy, [0, 1], clip=2.5), total(toy, [2, 3], clip=2.5)
    assert (first.sensitivity, first.relation) == (2.5, "add_remove")
    both = clipping.add(first, second)
    assert both.sensitivity == 2.5
    np.testing.assert_allclose(vector(both), vector(total(toy, [0, 1, 2, 3], clip=2.5)), atol=1e-6)
    with pytest.raises(errors.UnsoundError, match="sensitivity"):
        clipping.add(first, total(toy, [2, 3], clip=1.0))
    empty = clipping.zero_sum(objectives.get_objective("anchor_infonce", 0.1), toy.heads, l2_norm_clip=2.5)
    assert empty.sensitivity == 2.5
    assert not vector(empty).any()


def test_clip_factors_keep_a_margin_and_drop_what_has_no_norm():
    sizes = np.float32([0.0, 0.5, 1.0, 2.0, np.inf, np.nan, 3.0])
    found = np.asarray(norms.clip_factors(sizes, np.float32(1.0), np.arange(7) == 6))
    np.testing.assert_allclose(found, [1, 1, 1 - 1e-6, 0.5 * (1 - 1e-6), 0, 0, 0], rtol=1e-7)


def test_wrong_arguments_are_named(toy):
    with pytest.raises(errors.UsageError, match="did you mean 'vmap'"):
        total(toy, [0], implementation="vmapp")
    with pytest.raises(errors.UsageError, match="chunk"):
        total(toy, [0, 1, 2], chunk=-1)
    for clip in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(errors.UsageError, match="l2_norm_clip"):
            total(toy, [0], clip=clip)
    objective, public = objectives.get_objective("align", 1.0), toy.bank.arrays()
    with pytest.raises(errors.DataError, match=r"one shape \[U, m\]"):
        clipping.clipped_sum(objective, toy.heads, toy.records, clipping.Batch([[0]], [[1.0, 0.0]]), public, l2_norm_clip=1.0)
    with pytest.raises(errors.DataError, match="at least one trained parameter"):
        clipping.clipped_sum(objective, {"image": {}, "text": {}}, toy.records, single([0]), public, l2_norm_clip=1.0)
