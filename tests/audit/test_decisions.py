"""The facts of an attacker's decision against dense enumeration, with lists of any length, and their agreement with the integers."""

import dataclasses

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.audit import decisions, rescored
from relink_jax.retrieval import counts as counting
from relink_jax.retrieval import unique
from relink_jax.retrieval.counted import OTHER_PATIENT, Records, StratumCounts
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes
from relink_jax.store import rows

pytestmark = pytest.mark.usefixtures("quick_module")
LAYOUT = Layout(query_block=128, tile=128)


def records(seed=0, grid=True, dim=4):
    """Returns 120 images of 90 studies: patients with 1 to 14 studies, duplicated reports, a report of everybody's."""
    generator = np.random.default_rng(seed)
    texts, noise = (generator.integers(-2, 3, (n, dim)) if grid else generator.standard_normal((n, dim)) for n in (90, 120))
    texts[generator.random(90) < 0.2] = texts[0]
    patient = np.repeat(np.arange(20), [14, 12, 9, 8, *[3] * 15, 2]).astype(np.int32)
    texts[:14] = 4 * np.eye(dim)[0] + np.outer(np.arange(14) % 3 == 2, np.eye(dim)[1])  # the first patient's reports fill his lists
    study = generator.integers(0, 90, 120).astype(np.int32)
    study[:20] = np.arange(20) % 14
    first, study_text = unique.unique_rows(texts.astype(np.float32))
    return Records((texts[study] + noise).astype(np.float32), study, texts.astype(np.float32)[first], study_text, patient, {})


def counted(data, k=12, precision="float32"):
    return counting.count(data, mesh=meshes.make_mesh(1), top_k=k, layout=LAYOUT, precision=precision, directions=["i2r"])["i2r"]


def shortened(found, k):
    return dataclasses.replace(found, top_id=found.top_id[:, :k], top_score=found.top_score[:, :k])


def enumerated(data):
    """Returns (own, best, second, right) of each image from all of its scores in float64."""
    scores = (np.asarray(data.images, np.float64) @ np.asarray(data.texts, np.float64).T)[:, data.study_text]
    facts = []
    for row, study in zip(scores, data.image_study, strict=True):
        others = np.sort(row[data.exclusion != data.exclusion[study]])[::-1]
        facts.append((row[study], others[0], others[1], (others[0] <= row[study]) / (1 + (others == row[study]).sum())))
    return np.array(facts).T


@pytest.fixture(scope="module")
def small():
    data = records()
    return data, counted(data)


@pytest.mark.parametrize("k", [12, 3, 1, 0])
def test_lists_of_any_length_give_what_enumeration_gives(small, k, monkeypatch):
    monkeypatch.setattr(rescored, "_QUERIES", 13)
    monkeypatch.setattr(rows, "_BLOCK_BYTES", 7 * 8 * 4)  # seven reports at a time
    data, found = small
    given = shortened(found, k)
    ended = ((data.exclusion[given.top_id] != data.exclusion[data.image_study][:, None]).sum(axis=1) < 2).sum()
    assert 0 < ended <= len(data.images)
    assert k > 1 or ended == len(data.images)
    got = decisions.from_counts(data, given)
    own, best, second, right = enumerated(data)
    assert (found.strata[OTHER_PATIENT].t > 0).any()
    assert 0 < right.mean() < 1
    for name, wanted in (("own_score", own), ("best_impostor", best), ("second_impostor", second), ("right", right)):
        np.testing.assert_array_equal(getattr(got, name), wanted)
    top = -np.sort(-np.stack([own, best, second]), axis=0)
    np.testing.assert_array_equal((got.top1_score, got.top2_score, got.margin), (top[0], top[1], top[0] - top[1]))


def test_scores_with_rounding_keep_the_order_that_was_counted():
    data = records(seed=1, grid=False, dim=24)
    found = counted(data)
    stratum = found.strata[OTHER_PATIENT]
    listed, again = decisions.from_counts(data, found), decisions.from_counts(data, shortened(found, 0))
    for got in (listed, again):
        assert ((got.best_impostor > got.own_score) == (stratum.g > 0)).all()
        assert ((got.best_impostor == got.own_score) == ((stratum.g == 0) & (stratum.t > 0))).all()
        assert ((got.second_impostor > got.own_score) == (stratum.g > 1)).all()
    assert (stratum.t > 0).any()
    assert not np.array_equal(listed.best_impostor, enumerated(data)[1])
    np.testing.assert_allclose(again.best_impostor, listed.best_impostor, atol=1e-5)
    np.testing.assert_allclose(again.second_impostor, listed.second_impostor, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "bf16x3", "tf32"])
def test_a_pass_at_any_precision_will_do(precision):
    data = records(seed=2, grid=False, dim=24)
    got = decisions.from_counts(data, counted(data, precision=precision))
    np.testing.assert_allclose(np.stack([got.own_score, got.best_impostor, got.second_impostor, got.right]), np.stack(enumerated(data)), atol=1e-5)


def test_what_was_stored_gives_the_same_again(small):
    data, found = small
    once = decisions.from_counts(data, shortened(found, 2))
    again = decisions.decide(once.own_score, once.best_impostor, once.second_impostor, found.strata[OTHER_PATIENT])
    for field in dataclasses.fields(once):
        np.testing.assert_array_equal(getattr(once, field.name), getattr(again, field.name))


@pytest.mark.parametrize(("name", "step"), [("g", 1), ("g", -1), ("t", 1)])
def test_integers_that_lists_contradict_are_refused(small, name, step):
    data, found = small
    stratum = found.strata[OTHER_PATIENT]
    row = np.flatnonzero(stratum.g + stratum.t == 0 if step > 0 else (stratum.g == 1) & (stratum.t == 0))[0]
    changed = getattr(stratum, name).copy()
    changed[row] += step
    wrong = dataclasses.replace(found, strata={OTHER_PATIENT: dataclasses.replace(stratum, **{name: changed})})
    with pytest.raises(errors.UnsoundError, match="best candidates in decisions: expected scores in the order that g and t count, found others in 1 queries"):
        decisions.from_counts(data, wrong)


def one(own, best, second, g, t, M=5, band=0.0):
    return decisions.decide(*(np.array([score], np.float32) for score in (own, best, second)), StratumCounts(*(np.array([x]) for x in (M, g, t))), band)


def test_near_ties_follow_the_integers_and_nothing_else_does():
    assert one(0.5, 0.5 + 3e-7, 0.1, g=0, t=0, band=1e-6).best_impostor == [0.5]
    assert one(0.5, 0.5 - 3e-7, 0.5 - 3e-7, g=1, t=1, band=1e-6).second_impostor == [0.5]
    for wrong in [
        {"best": 0.5 + 3e-7, "g": 0, "t": 0},
        {"best": 0.5 + 3e-6, "g": 0, "t": 0, "band": 1e-6},
        {"best": 0.4, "g": 1, "t": 0, "band": 1e-6},
        {"best": np.nan, "g": 0, "t": 0},
        {"best": 0.4, "second": -np.inf, "g": 0, "t": 0},
        {"best": 0.4, "second": 0.3, "g": 0, "t": 0, "M": 1},
    ]:
        with pytest.raises(errors.UnsoundError):
            one(0.5, **{"second": 0.1} | wrong)


def test_a_query_without_candidates_has_no_second():
    got = one(0.5, -np.inf, -np.inf, g=0, t=0, M=0)
    assert (got.top1_score[0], got.top2_score[0], got.right[0], got.margin[0]) == (0.5, -np.inf, 1, np.inf)


def test_equal_embeddings_link_by_chance():
    data = dataclasses.replace(records(), images=np.ones((120, 4), np.float32), texts=np.ones((1, 4), np.float32), study_text=np.zeros(90, np.int32))
    got = decisions.from_counts(data, counted(data))
    own_studies = np.bincount(data.exclusion)[data.exclusion[data.image_study]]
    np.testing.assert_array_equal(got.right, 1 / (90 - own_studies + 1))
    assert (got.margin == 0).all()
