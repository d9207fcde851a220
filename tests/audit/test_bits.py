"""InfoNCE and rank bits: the worked examples, chance, limits, the temperature, and posteriors of a pass against float64 enumeration."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import special

from relink_jax.audit import bits, posterior, rescored, sample, uncertainty
from relink_jax.retrieval import unique
from relink_jax.retrieval.counted import Records
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes

O11 = np.array([[5, 2, 2], [6, 5, 2], [3, 2, 3]], float)


def people(n, replicates=100):
    return sample.Sample(np.arange(n), n, uncertainty.Bootstrap(replicates))


def of_matrix(scores):
    """Returns records whose scores are a matrix [images, studies]; study j is patient j, image i belongs to study i."""
    n = np.arange(len(scores), dtype=np.int32)
    return Records(np.asarray(scores, np.float32), n, np.eye(len(n), dtype=np.float32), n, n, {})


def records(seed=0, dim=24):
    """Returns 120 images of 90 studies of 30 patients with unit rows, duplicated reports within and between patients."""
    generator = np.random.default_rng(seed)
    texts, noise = generator.standard_normal((90, dim)), generator.standard_normal((120, dim))
    texts[generator.random(90) < 0.2] = texts[0]
    texts[3:6] = texts[3]  # one patient, one text: his other studies have all that the truth has
    texts[9:11] = generator.standard_normal((2, dim))
    study = np.append(generator.integers(0, 90, 117), [4, 9, 6]).astype(np.int32)
    images = texts[study] + noise
    images[-1] = texts[7]  # another study of the same patient is far ahead of the truth
    texts, images = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (texts, images))
    images[-2] = (texts[9] + texts[10]) / np.linalg.norm(texts[9] + texts[10]) + 0.1 * (texts[10] - texts[9])  # and here somewhat ahead
    first, study_text = unique.unique_rows(texts.astype(np.float32))
    return Records(images.astype(np.float32), study, texts.astype(np.float32)[first], study_text, (np.arange(90) // 3).astype(np.int32), {})


def sums(data, beta):
    """Returns (beta times own scores, log sums over every pool, log sums over all studies) in float64."""
    scores = (data.images.astype(np.float64) @ data.texts.astype(np.float64).T)[:, data.study_text] * beta
    pool = data.exclusion[data.image_study][:, None] != data.exclusion[None]
    pool[np.arange(len(scores)), data.image_study] = True
    own = scores[np.arange(len(scores)), data.image_study]
    return own, special.logsumexp(np.where(pool, scores, -np.inf), axis=1), special.logsumexp(scores, axis=1)


def enumerated(data, beta):
    own, pool, _ = sums(data, beta)
    return (own - pool) / np.log(2)


@pytest.mark.usefixtures("quick_module")
def test_the_worked_example_of_infonce():
    found = posterior.log2_posterior(of_matrix(O11), math.log(2), meshes.make_mesh(1), layout=Layout(query_block=128, tile=128))
    np.testing.assert_allclose(3 * 2**found, [12 / 5, 24 / 25, 6 / 5], rtol=1e-5)
    shown = bits.infonce(found, np.full(3, 2), math.log(2), people(3))
    assert shown["value"] == pytest.approx(0.489058374, abs=1e-5)
    assert (shown["N"], shown["n_queries"]) == (3, 3)
    exact = bits.infonce(np.log2([4 / 5, 8 / 25, 2 / 5]), np.full(3, 2), math.log(2), people(3))
    assert exact["value"] == pytest.approx(0.489058374, abs=1e-9)
    assert exact["ci"]["method"] == "patient_bca"


@pytest.mark.usefixtures("quick_module")
@pytest.mark.parametrize("beta", [0.0, 3.0, 40.0, 2000.0])
def test_posteriors_of_a_pass_are_those_of_every_pool(beta, monkeypatch):
    data, again, honest = records(), [], posterior._summed_again
    monkeypatch.setattr(posterior, "_ROWS", 50)
    monkeypatch.setattr(posterior, "_summed_again", lambda *given: (again.append(given[1]), honest(*given))[1])
    found = posterior.log2_posterior(data, beta, meshes.make_mesh(1), layout=Layout(query_block=128, tile=128))
    np.testing.assert_allclose(found, enumerated(data, beta), atol=1e-4 + 1e-6 * beta)
    assert found.max() <= 0
    if beta:  # where others of the patient have nearly all, the rest is summed again
        _, pool, everyone = sums(data, beta)
        few = [set(np.flatnonzero(np.exp(pool - everyone) < share).tolist()) for share in (0.0099, 0.0101)]
        assert few[0] <= set(again[0].tolist()) <= few[1]
        assert beta != 40 or 1e-5 < np.exp(pool - everyone)[-2] < 0.0099
        assert (0 < len(again[0]) < 60) == (beta > 10)
    np.testing.assert_allclose(rescored.own_scores(data), np.einsum("nd,nd->n", data.images.astype(float), data.texts[data.study_text[data.image_study]]))


def test_bits_at_the_ends():
    n = np.full(50, 1023)
    assert bits.infonce(np.zeros(50), n, 5.0, people(50))["value"] == 10  # a perfect attacker has log2 N
    flat = posterior.log2_posterior(of_matrix(np.eye(50)), 0.0, meshes.make_mesh(1))
    shown = bits.infonce(flat, np.full(50, 49), 0.0, people(50))
    assert shown["value"] == pytest.approx(0, abs=1e-15)
    assert shown["beta"] == 0
    assert bits.infonce(np.zeros(3), np.zeros(3, int), 1.0, people(3)) is None
    assert bits.rank_corrected(*np.zeros((3, 3), int), people(3)) is None
    mixed = bits.infonce(np.array([0, -1.0, 0]), np.array([3, 7, 0]), 1.0, people(3))
    assert mixed["value"] == 2
    assert mixed["n_queries"] == 2
    assert mixed["N"] == 8


def mean_bits(scores, beta):
    exponent = beta * (scores - np.diag(scores)[:, None])
    return math.log2(scores.shape[1]) - np.log2(np.exp(exponent).sum(axis=1)).mean()


def test_the_temperature_is_the_best_one():
    generator = np.random.default_rng(1)
    scores = generator.standard_normal((80, 80)) / 10 + 0.15 * np.eye(80)
    beta = posterior.fitted_beta(scores, np.arange(80))
    grid = np.geomspace(0.1, 1000, 400)
    best = [mean_bits(scores, one) for one in grid]
    assert grid[np.argmax(best)] == pytest.approx(beta, rel=0.03)
    assert mean_bits(scores, beta) >= max(best) > 0.2
    assert posterior.fitted_beta(7 * scores + 3, np.arange(80)) == pytest.approx(beta / 7, rel=1e-6)
    order = generator.permutation(80)
    assert posterior.fitted_beta(scores[:, order], np.argsort(order)) == pytest.approx(beta)


def test_the_temperature_where_scores_say_nothing_or_everything():
    generator = np.random.default_rng(2)
    assert posterior.fitted_beta(np.ones((9, 9)), np.arange(9)) == 0
    assert posterior.fitted_beta(generator.standard_normal((80, 80)) - np.eye(80), np.arange(80)) == 0
    certain = posterior.fitted_beta(np.eye(9) / 4, np.arange(9))
    assert certain == 4e4
    assert mean_bits(np.eye(9) / 4, certain) == pytest.approx(math.log2(9))
    among = ~np.eye(9, dtype=bool)
    among[:, 1:] = False  # the only rival is worse for all but himself
    assert posterior.fitted_beta(np.eye(9), np.arange(9), among) == 1e4


def test_calibration_leaves_out_the_patients_other_studies():
    data = records()
    strict = dataclasses.replace(data, exclusion=np.arange(90, dtype=np.int32))
    for one, other in ((data, strict), (strict, data)):
        best = posterior.calibrated_beta(one, seed=2)
        assert best == pytest.approx(posterior.calibrated_beta(one, seed=3))
        assert enumerated(one, best).mean() > enumerated(one, posterior.calibrated_beta(other, seed=2)).mean()
    few = posterior.calibrated_beta(data, seed=1, n_queries=40, n_candidates=60)
    assert few == posterior.calibrated_beta(data, seed=1, n_queries=40, n_candidates=60) > 0


def test_the_worked_example_of_rank_bits():
    shown = bits.rank_corrected(np.full(4, 7), np.array([0, 0, 1, 3]), np.zeros(4, int), people(4))
    assert shown["value"] == pytest.approx(1.162401002, abs=1e-9)
    assert shown["chance"] == pytest.approx(1.087598998, abs=1e-9)
    assert shown["value"] + shown["chance"] == pytest.approx(2.25)
    assert shown["N"] == 8


def test_ranks_of_chance_have_no_bits():
    M = np.arange(1, 60)
    M = np.repeat(M, M + 1)
    g = np.concatenate([np.arange(size + 1) for size in range(1, 60)])
    mean = [(bits.mean_log2_rank(g[size == M], 0 * g[size == M])).mean() for size in range(1, 60)]
    np.testing.assert_allclose(mean, bits.mean_log2_rank(np.zeros(59, int), np.arange(1, 60)), rtol=1e-12)
    for size, wanted in ((1, 0.5), (99, 1.396), (9999, 1.4419)):
        assert bits.rank_corrected(*np.array([[size] * 2, [0] * 2, [size] * 2]), people(2))["chance"] == pytest.approx(wanted, abs=1e-4 * 5)
    collapsed = bits.rank_corrected(np.array([5, 9, 400_000]), np.zeros(3, int), np.array([5, 9, 400_000]), people(3))
    assert collapsed["value"] == pytest.approx(0, abs=1e-12)


def test_ties_share_their_ranks():
    g, t = np.array([0, 3, 10, 43_000]), np.array([0, 2, 500, 7])
    wanted = [np.log2(np.arange(low + 1, low + more + 2)).mean() for low, more in zip(g, t, strict=True)]
    np.testing.assert_allclose(bits.mean_log2_rank(g, t), wanted, rtol=1e-9)
