"""Precisions that round more than float32: their bands hold, and they end with the same integers."""

import dataclasses
import fractions

import brute
import ml_dtypes
import numpy as np
import pytest
from test_counts import check, flat, records

from relink_jax import errors
from relink_jax.retrieval import counts, faster, product
from relink_jax.retrieval.counted import Records
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes

FASTER = product.PRECISIONS[1:]


def near(n=600, dim=24, seed=0):
    """Unit vectors of one crowded direction with near-duplicates, so that many scores lie close to each threshold."""
    generator = np.random.default_rng(seed)

    def unit(rows):
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    texts = unit(generator.standard_normal((n, dim)) + 2 * generator.standard_normal((1, dim)))
    texts[n // 2 :] = unit(texts[: n - n // 2] + 1e-3 * generator.standard_normal((n - n // 2, dim)))
    images = unit(texts + 0.4 * generator.standard_normal((n, dim)))
    number = np.arange(n, dtype=np.int32)
    return Records(images, number, texts, number, number // 2, {"site": generator.integers(-1, 4, n).astype(np.int32)})


def crowded(data, direction):
    """Returns g of every query in float64, which no precision here may miss."""
    return {name: counted[0, :, 1] for name, counted in brute.count(data, direction).items()}


@pytest.mark.parametrize("precision", product.PRECISIONS)
def test_the_band_holds_every_score(precision):
    data = near()
    left, right = product.encode(data.images, precision), product.encode(data.texts, precision, candidates=True)
    scores = np.asarray(product.product(left, np.ascontiguousarray(right.T), precision), np.float64)
    error = np.abs(scores - data.images.astype(np.float64) @ data.texts.astype(np.float64).T).max(axis=1)
    band = product.band(data.images, product.extent(data.texts, precision), precision)
    assert (error <= band).all()
    assert band.max() < {"float32": 3e-5, "bf16x3": 1e-4, "tf32": 2e-3, "bf16": 1.6e-2}[precision]
    if precision != product.FLOAT32:
        assert (error > 0.02 * band).any()


def test_tf32_rounds_to_nearest_even_with_ten_fraction_bits():
    one = fractions.Fraction(1)
    given = [1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-11 + 2.0**-20, -1 - 2.0**-10, 0.0, 3.5]
    wanted = [one, one + fractions.Fraction(2, 2**10), one + fractions.Fraction(1, 2**10), -one - fractions.Fraction(1, 2**10), 0, fractions.Fraction(7, 2)]
    rounded = product.encode(np.array([given], np.float32), product.TF32)
    assert [fractions.Fraction(float(value)) for value in rounded[0]] == wanted


def test_two_halves_hold_sixteen_bits_and_lie_as_the_product_needs_them():
    rows = np.random.default_rng(1).standard_normal((5, 7)).astype(np.float32)
    query, candidate = (product.encode(rows, product.BF16X3, candidates=side).reshape(5, 3, 7).astype(np.float64) for side in (False, True))
    np.testing.assert_array_equal(query[:, 0], rows.astype(ml_dtypes.bfloat16).astype(np.float64))
    np.testing.assert_array_equal(query[:, [0, 1, 0]], query)
    np.testing.assert_array_equal(candidate, query[:, [0, 0, 1]])
    assert (np.abs(query[:, 0] + query[:, 1] - rows) <= 2.0**-16 * np.abs(rows)).all()


@pytest.fixture(scope="module")
def plain():
    """Counts in float32 of the records whose scores are exact; blocks change none of what is compared."""
    return counts.count(records(259, 401, 5, seed=1), mesh=meshes.make_mesh(1), top_k=0)


@pytest.mark.usefixtures("quick")  # scores are exact, whatever order they are summed in
@pytest.mark.parametrize(
    ("precision", "split", "devices", "blocks", "panel"),
    [
        pytest.param(precision, *split, marks=() if (precision, split[0]) in (("bf16x3", "images"), ("bf16", "ring")) else pytest.mark.slow)
        for precision in FASTER
        for split in (("images", 3, 3, 0), ("ring", 4, 0, 0), ("studies", 2, 0, 256))
    ],
)
def test_the_same_integers_as_dense_counting_where_scores_are_exact(plain, precision, split, devices, blocks, panel):
    data = records(259, 401, 5, seed=1, blocks=blocks)
    counted = counts.count(data, mesh=meshes.make_mesh(devices), top_k=7, precision=precision, layout=Layout(split, 64, 128, panel))
    check(data, counted, 7)
    np.testing.assert_array_equal(counted["i2r"].near, plain["i2r"].near)
    assert counted["i2r"].settling["queries_inside"] > 0
    assert counted["i2r"].settling["queries_recounted"] == counted["r2i"].settling["queries_recounted"] == 0
    assert not plain["i2r"].settling


@pytest.mark.parametrize("precision", [pytest.param(name, marks=pytest.mark.slow) if name == product.TF32 else name for name in FASTER])
@pytest.mark.parametrize("inside", [256, 3])
def test_the_integers_of_exact_scores_where_many_lie_inside_the_band(monkeypatch, precision, inside):
    """A query with more candidates inside its band than may be scored again is counted in float32, whose own interval is stated."""
    monkeypatch.setattr(faster, "INSIDE", inside)
    data = near()
    counted = counts.count(data, mesh=meshes.make_mesh(2), top_k=5, precision=precision)
    plain = counts.count(data, mesh=meshes.make_mesh(2), top_k=5)
    for direction, found in counted.items():
        assert inside == 256 or precision == product.BF16X3 or found.settling["queries_recounted"] > 0
        assert found.settling["pairs_rescored"] > 0
        for name, wanted in crowded(data, direction).items():
            if inside == 256:
                np.testing.assert_array_equal(found.strata[name].g, wanted)
            assert (np.abs(found.strata[name].g - wanted) <= 1).all()
        assert (found.top_id == plain[direction].top_id).mean() > 0.99
    low, high = (counted["i2r"].near[:, number] for number in (0, 1))
    g = counted["i2r"].strata["other_patient"].g
    assert ((low <= g) & (g <= high)).all()


def test_lists_that_the_band_leaves_open_are_made_again(monkeypatch):
    data = near()
    again, honest = [], faster.exact.Pass.lists

    def seen(self, asked, *rest):
        again.append(len(asked.images))
        return honest(self, asked, *rest)

    monkeypatch.setattr(faster.exact.Pass, "lists", seen)
    monkeypatch.setattr(faster, "_SPARE", 1)
    counted = counts.count(data, mesh=meshes.make_mesh(2), top_k=5, precision="bf16")
    assert max(again) > 50
    scores = data.images.astype(np.float64) @ data.texts.astype(np.float64).T
    assert (counted["i2r"].top_id == np.argsort(-scores, axis=1, kind="stable")[:, :5]).mean() > 0.999


def test_a_truth_outside_its_band_is_refused(monkeypatch):
    monkeypatch.setattr(product, "band", lambda queries, *_: np.full(len(queries), 1e-9))
    with pytest.raises(errors.UnsoundError, match="scores changed between passes"):
        counts.count(near(), mesh=meshes.make_mesh(2), top_k=5, precision="bf16")


def test_an_unknown_precision_is_refused():
    with pytest.raises(errors.UsageError, match=r"unknown precision in counting pass: expected one of float32, bf16x3, tf32, bf16.*did you mean 'bf16'"):
        counts.count(near(), mesh=meshes.make_mesh(1), precision="bf61")


def test_a_count_at_a_faster_precision_goes_on_where_it_was(tmp_path):
    data = near()
    whole = flat(counts.count(data, mesh=meshes.make_mesh(2), top_k=5, precision="bf16"))
    first = flat(counts.count(data, mesh=meshes.make_mesh(2), top_k=5, precision="bf16", directory=tmp_path))
    again = flat(counts.count(data, mesh=meshes.make_mesh(2), top_k=5, precision="bf16", directory=tmp_path))
    with pytest.raises(errors.StoreError, match="inputs changed"):
        counts.count(dataclasses.replace(data, images=data.texts), mesh=meshes.make_mesh(2), top_k=5, precision="bf16", directory=tmp_path)
    for name, array in whole.items():
        np.testing.assert_array_equal(first[name], array, err_msg=name)
        np.testing.assert_array_equal(again[name], array, err_msg=name)
