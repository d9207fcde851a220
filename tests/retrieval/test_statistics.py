"""Statistics over a bank against float64 brute force, on every mesh and layout."""

import math

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.retrieval import statistics
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes
from relink_jax.store import rows as stored


def sides(n_candidates, n_bank, dim, seed=0, grid=False):
    generator = np.random.default_rng(seed)
    if grid:
        candidates, bank = (generator.integers(-2, 3, (n, dim)).astype(np.float32) for n in (n_candidates, n_bank))
        bank[generator.integers(0, n_bank, n_bank // 3)] = bank[0]
        return candidates, bank
    candidates, bank = (generator.standard_normal((n, dim)) for n in (n_candidates, n_bank))
    return tuple((one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32) for one in (candidates, bank))


def exact(candidates, bank):
    return candidates.astype(np.float64) @ bank.astype(np.float64).T


def log_sum(values):
    top = values.max(axis=1)
    return top + np.log(np.exp(values - top[:, None]).sum(axis=1))


def test_the_worked_example_of_normalisation():
    """Reports' scores [[5,2,2],[6,5,2],[3,2,3]] by image: base-2 column sums 104, 40, 16 and CSLS terms 11/2, 7/2, 5/2."""
    bank = np.array([[5, 2, 2], [6, 5, 2], [3, 2, 3]], np.float32)
    found = statistics.over_bank(np.eye(3, dtype=np.float32), bank, meshes.make_mesh(1), [1 / math.log(2)], 2)
    np.testing.assert_allclose(found.logsumexp[:, 0], np.log([104, 40, 16]), atol=1e-6)
    assert found.csls_term().tolist() == [5.5, 3.5, 2.5]
    assert found.csls_term(1).tolist() == [6, 5, 3]
    assert found.top_id.tolist() == [[1, 0], [1, 0], [2, 0]]
    np.testing.assert_allclose(found.sum, [14, 9, 7])
    np.testing.assert_allclose(found.sum_squares, [70, 33, 17])


@pytest.mark.parametrize(
    ("devices", "layout", "offset"),
    [
        pytest.param(1, Layout(), False, marks=pytest.mark.slow),
        (3, Layout("auto", 200, 256), True),
        (2, Layout("studies", 128, 128, panel=400), True),
        pytest.param(8, Layout("auto", 0, 512), False, marks=pytest.mark.slow),
    ],
)
def test_unit_rows_agree_with_float64(devices, layout, offset):
    candidates, bank = sides(301, 1111, 24)
    added = np.random.default_rng(1).standard_normal(1111) / 5 if offset else None
    temperatures = [0.004, 0.05, 1.0, 40.0]
    found = statistics.over_bank(candidates, bank, meshes.make_mesh(devices), temperatures, 7, offset=added, layout=layout)
    scores = exact(candidates, bank)
    np.testing.assert_allclose(found.mean, scores.mean(axis=1), atol=1e-14)
    np.testing.assert_allclose(found.standard_deviation, scores.std(axis=1), rtol=1e-12)
    adjusted = scores + (added.astype(np.float32) if offset else 0)
    for column, temperature in enumerate(temperatures):
        error = np.abs(found.logsumexp[:, column] - log_sum(adjusted / temperature))
        assert error.max() < 1e-5 + 2e-7 / temperature
    best = np.sort(scores, axis=1)[:, ::-1][:, :7]
    np.testing.assert_allclose(found.top_score, best, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(scores, found.top_id, axis=1), best, atol=1e-6)


@pytest.mark.slow
def test_log_sums_of_exact_scores_are_within_a_hundred_thousandth():
    """Scores of a grid of small integers over 64 have no rounding, so all of the error is that of the sum."""
    candidates, bank = sides(70, 20_000, 6, grid=True)
    temperatures = [0.5 / 64, 3 / 64]
    expected = np.stack([log_sum(exact(candidates, bank / 64) / temperature) for temperature in temperatures], axis=1)
    for devices, tile in ((2, 1024), (1, 20_096)):
        found = statistics.over_bank(candidates, bank / 64, meshes.make_mesh(devices), temperatures, layout=Layout(tile=tile))
        assert np.abs(found.logsumexp - expected).max() < 5e-6
        assert found.top_id.shape == (70, 0)


def test_a_long_sum_of_like_terms_does_not_drift():
    row = np.ones((1, 1), np.float32)
    found = statistics.over_bank(row, np.repeat(row / 3, 100_003, 0), meshes.make_mesh(1), [1.0], layout=Layout(tile=100_096))
    assert abs(found.logsumexp[0, 0] - (np.float32(1 / 3) + math.log(100_003))) < 4e-6


def test_same_lists_and_sums_on_any_mesh_and_layout():
    candidates, bank = sides(205, 1203, 4, seed=2, grid=True)
    scores = exact(candidates, bank)
    order = np.array([np.lexsort((np.arange(len(row)), -row))[:40] for row in scores])
    sums = []
    for devices, layout in [(1, Layout()), (3, Layout(tile=256, panel=512)), (8, Layout("ring", 512, 128, panel=640))]:
        found = statistics.over_bank(candidates, bank, meshes.make_mesh(devices), [1.0], 40, layout=layout)
        np.testing.assert_array_equal(found.top_id, order)
        np.testing.assert_array_equal(found.top_score, np.take_along_axis(scores, order, axis=1))
        sums.append(found.logsumexp)
    assert max(np.abs(one - sums[0]).max() for one in sums) < 1e-5


def test_lists_from_too_few_groups_are_computed_again(monkeypatch):
    """The 30 best bank rows are in 30 groups of one tile of 32 groups, of which far fewer are kept at first."""
    score = np.random.default_rng(0).permutation(4096) / 64
    best = 512 * 6 + 16 * np.arange(30) + 5
    score[best] = 100 + np.random.default_rng(1).permutation(30)
    again, honest = [], statistics._settle
    monkeypatch.setattr(statistics, "_settle", lambda *given: (again.append(len(given[3])), honest(*given)))
    layout = Layout("auto", 64, 512, panel=2048)
    found = statistics.over_bank(np.ones((70, 1), np.float32), score[:, None].astype(np.float32), meshes.make_mesh(1), (), 30, layout=layout)
    assert (found.top_id == best[np.argsort(-score[best])]).all()
    assert 70 in again


def test_lists_end_with_the_bank():
    candidates, bank = sides(5, 3, 4)
    found = statistics.over_bank(candidates, bank, meshes.make_mesh(2), [0.1], 6)
    assert (np.sort(found.top_id[:, :3], axis=1) == np.arange(3)).all()
    assert (found.top_id[:, 3:] == -1).all()
    assert (found.top_score[:, 3:] == -np.inf).all()
    np.testing.assert_allclose(found.csls_term(), exact(candidates, bank).mean(axis=1), atol=1e-6)
    with pytest.raises(errors.UsageError, match="neighbours of CSLS in statistics over a bank: expected 1 to 3, found 4"):
        found.csls_term(4)


def test_a_bank_of_equal_rows_has_no_variance():
    candidates, bank = sides(9, 1, 300)
    found = statistics.over_bank(candidates, np.repeat(bank, 5000, 0), meshes.make_mesh(1))
    assert (found.standard_deviation < 1e-16).all()
    np.testing.assert_allclose(found.mean, exact(candidates, bank)[:, 0], atol=1e-15)


def test_moments_alone_need_no_pass(monkeypatch):
    monkeypatch.setattr(statistics, "_pass", None)
    candidates, bank = sides(9, 40, 5)
    assert statistics.over_bank(candidates, bank, meshes.make_mesh(1)).logsumexp.shape == (9, 0)


def test_rows_are_read_from_parts():
    candidates, bank = sides(90, 70, 5)
    source = [
        stored.Rows(stored.Parts(-(-len(array) // 16), 16, lambda part, array=array: array[16 * part :][:16]), np.arange(len(array)))
        for array in (candidates, bank)
    ]
    first, second = (statistics.over_bank(*given, meshes.make_mesh(2), [0.1], 3) for given in ((candidates, bank), source))
    for name in ("mean", "variance", "logsumexp", "top_id", "top_score"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"temperatures": [0.0]}, errors.UsageError, "temperature in statistics over a bank: expected a number above 0, found 0.0"),
        ({"temperatures": [math.nan]}, errors.UsageError, "temperature"),
        ({"top_k": -1}, errors.UsageError, "length of lists"),
        ({"offset": np.zeros(3)}, errors.DataError, "offsets in statistics over a bank: expected 4, one for each bank row"),
        ({"bank": np.zeros((0, 2), np.float32)}, errors.DataError, "bank rows in statistics over a bank: expected at least one"),
        ({"bank": np.zeros((4, 3), np.float32)}, errors.DataError, "width of bank rows"),
        ({"candidates": np.zeros((0, 2), np.float32)}, errors.DataError, "candidates"),
    ],
)
def test_wrong_arguments_are_refused(given, error, words):
    plain = {"candidates": np.ones((2, 2), np.float32), "bank": np.ones((4, 2), np.float32), "mesh": meshes.make_mesh(1)}
    with pytest.raises(error, match=words):
        statistics.over_bank(**{**plain, **given})
