"""Nearest-label pools and shares in bits: worked examples in fractions, and dense counting of generated labels."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from matrices import O7, O7_LABELS

from relink_jax.audit import hard_negatives, matched, strata, uncertainty
from relink_jax.audit.sample import Sample
from relink_jax.retrieval.counted import LABEL_MATCHED, OTHER_PATIENT, Records, StratumCounts
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes

pytestmark = pytest.mark.usefixtures("quick_module")
LAYOUT = Layout("images", 64, 128)
SETTINGS = uncertainty.Bootstrap(400, 0.95, 3)


def counts_of(*triples):
    return StratumCounts(*np.array(triples, np.int64).reshape(-1, 3).T)


def everything(counted):
    return StratumCounts(*(sum(getattr(one, field) for one in counted) for field in ("M", "g", "t")))


@pytest.fixture(scope="module")
def o7():
    """The worked example's three tiers, counted on a device."""
    number = np.arange(6, dtype=np.int32)
    records = Records(O7.astype(np.float32), number, np.eye(6, dtype=np.float32), number, number, {})
    labels = np.pad(O7_LABELS, ((0, 0), (0, 12))).astype(np.int8)
    return hard_negatives.count(records, labels, np.ones(6, bool), mesh=meshes.make_mesh(1), layout=LAYOUT)


def test_o7_tiers_are_the_matched_and_the_others(o7):
    assert list(zip(o7[0].g.tolist(), o7[0].M.tolist(), strict=True)) == [(0, 2), (1, 2), (1, 1), (1, 2), (1, 1), (0, 0)]
    assert not o7[1].M.any()
    assert everything(o7).g.tolist() == [1, 1, 2, 3, 2, 0]


def test_o7_tiered_fill(o7):
    eligible, recall = hard_negatives.filled(o7, 3)
    assert (eligible.tolist(), recall.tolist()) == ([0, 1, 2, 3, 4, 5], pytest.approx([1, 0, 0, 0, 0, 1]))
    three, six = hard_negatives.section(o7, Sample(np.arange(6), 6, SETTINGS), [3, 6, 7, None])
    assert (three["N"], three["value"]["value"], three["chance"], three["filled_share"]) == (3, pytest.approx(1 / 3), 1 / 3, 1 / 2)
    assert three["value"]["ci"]["low"] < 1 / 3 < three["value"]["ci"]["high"]
    assert (six["N"], six["value"]["value"], six["filled_share"], six["eligible_share"]) == (6, pytest.approx(1 / 6), 1, 1)


def test_o7_smallest_tier_keeps_whoever_needs_more(o7):
    """Queries 1, 2 and 4 draw both of their code; the others draw two of all five."""
    _, recall, last = hard_negatives.smallest(o7, 3)
    assert last.tolist() == [0, 0, 2, 0, 2, 2]
    assert recall == pytest.approx([1, 0, 3 / 10, 0, 3 / 10, 1])
    (entry,) = hard_negatives.section(o7, Sample(np.arange(6), 6, SETTINGS), [3])
    assert entry["smallest_tier"]["value"]["value"] == pytest.approx(float(Fraction(26, 60)))
    assert entry["smallest_tier"]["shares"] == [1 / 2, 0, 1 / 2]


def o7_strata(o7):
    return {OTHER_PATIENT: everything(o7), LABEL_MATCHED: o7[0]}


def test_o7_shares_in_bits_on_the_same_queries(o7):
    code = np.array([0, 0, 1, 0, 1, 2])
    two, three, full = matched.section(o7_strata(o7), code, Sample(np.arange(6), 6, SETTINGS), [2, 3, None])
    assert [(one["N"], one["full"], one["n_queries"], one["eligible_share"]) for one in (two, three, full)] == [
        (2, False, 5, 5 / 6),
        (3, False, 3, 1 / 2),
        (3, True, 5, 5 / 6),
    ]
    assert (two["matched"], two["random"]) == pytest.approx((2 / 5, 16 / 25))
    assert (three["matched"], three["random"]) == pytest.approx((1 / 3, 13 / 30))
    assert two["label_only"] == pytest.approx(float(Fraction(21, 25)))
    assert three["label_only"] == pytest.approx(float(Fraction(19, 30)))
    assert two["retained_share"]["value"] == pytest.approx(np.log2(4 / 5) / np.log2(32 / 25))
    assert three["retained_share"]["value"] == pytest.approx(0, abs=1e-12)
    assert two["macro"]["matched"]["value"] == pytest.approx(np.mean([(1 + 1 / 2 + 1 / 2) / 3, 0]))
    for one in (two, three):
        assert one["bits_labels"] + one["bits_beyond"] == pytest.approx(np.log2(one["random"] * one["N"]))
    assert (full["chance"], full["chance_random"]) == pytest.approx((np.mean([1 / 3, 1 / 3, 1 / 2, 1 / 3, 1 / 2]), 1 / 6))
    assert full["label_only"] == pytest.approx(np.mean([1 / 3, 1 / 3, 1 / 2, 1 / 3, 1 / 2]))


def test_o7_label_only_of_queries_that_nobody_labelled_is_a_guess(o7):
    strata_of = {**o7_strata(o7), "view": everything(o7)}
    sample = Sample(np.arange(6), 6, SETTINGS)
    guessed = matched.section(strata_of, None, sample, [3])[1]
    assert (guessed["label_only"], guessed["bits_labels"], guessed["macro"]) == (pytest.approx(1 / 3), pytest.approx(0, abs=1e-9), None)
    told = matched.section(strata_of, np.array([0, 0, 1, 0, 1, 2]), sample, [3])[1]
    assert (told["label_only"], told["retained_share"]["value"], told["n_queries"]) == (pytest.approx(3 / 4), pytest.approx(1), 6)
    half = matched.section(strata_of, np.array([0, 0, -1, 0, -1, -1]), sample, [3])[1]
    assert half["label_only"] == pytest.approx((3 * 19 / 30 + 3 / 3) / 6)


def test_the_interval_of_a_share_is_that_of_shared_draws():
    """Two halves of patients: matched and random move together, so their ratio of bits is far less uncertain than either."""
    draw = np.random.default_rng(0)
    n = 600
    g = draw.geometric(0.05, n) - 1
    random = StratumCounts(np.full(n, 999), np.minimum(g, 999), np.zeros(n, int))
    near = StratumCounts(np.full(n, 99), np.minimum(g // 5, 99), np.zeros(n, int))
    sample = Sample(np.arange(n) // 2, n // 2, SETTINGS)
    (entry,) = matched.section({OTHER_PATIENT: random, "view": near}, None, sample, [50])
    found = entry["retained_share"]
    assert found["low"] < found["value"] < found["high"]
    bits = [np.log2(50 * entry[name]) for name in ("matched", "random")]
    assert found["value"] == pytest.approx(bits[0] / bits[1])
    owner = [uncertainty.patient_sums(sample.patient, one, n // 2) for one in matched_columns(near, random)]
    drawn = np.concatenate([weight @ np.stack(owner, axis=1) for weight in uncertainty.weights(n // 2, 400, 3)]) / n
    share = np.log2(drawn[:, 0] * 50) / np.log2(drawn[:, 1] * 50)
    assert (found["high"] - found["low"]) == pytest.approx(np.ptp(np.quantile(share, (0.025, 0.975))), rel=0.2)


def matched_columns(*counted):
    return [matched._recall(one, np.arange(len(one.M)), 50) for one in counted]


def test_no_share_without_a_random_lift_or_a_spread():
    sample = Sample(np.arange(4), 4, SETTINGS)
    chance = {OTHER_PATIENT: counts_of(*[(9, 0, 9)] * 4), "view": counts_of(*[(5, 0, 0)] * 4)}
    (entry,) = matched.section(chance, None, sample, [4])
    assert entry["retained_share"] == {"value": None, "low": None, "high": None}
    perfect = {OTHER_PATIENT: counts_of(*[(9, 0, 0)] * 4), "view": counts_of(*[(5, 0, 0)] * 4), "near_text": counts_of(*[(0, 0, 0)] * 4)}
    (entry,) = matched.section(perfect, None, sample, [4])
    assert entry["retained_share"] == {"value": 1, "low": None, "high": None}
    lost = {OTHER_PATIENT: counts_of(*[(9, 9, 0)] * 4), "view": counts_of(*[(5, 5, 0)] * 4)}
    (entry,) = matched.section(lost, None, sample, [4])
    assert (entry["random"], entry["retained_share"]["value"], entry["bits_beyond"]) == (0, None, None)


def enumerated(tiers, N):
    """Recall@1 of one query whose pool takes tiers whole while they fit and draws the rest from the next."""
    kept, missing = [], N - 1
    kinds = [["above"] * g + ["tied"] * t + ["below"] * (M - g - t) for M, g, t in tiers]
    while missing and missing >= len(kinds[0]):
        kept, missing = kept + kinds[0], missing - len(kinds[0])
        kinds = kinds[1:]
    pools = [kept + list(drawn) for drawn in itertools.combinations(kinds[0] if missing else [], missing)]
    return np.mean([0 if "above" in pool else 1 / (1 + pool.count("tied")) for pool in pools])


def test_filled_pools_equal_enumeration():
    draw = np.random.default_rng(1)
    M = draw.integers(0, 4, (3, 40))
    g = draw.integers(0, 2, M.shape) * (M > 2)
    counted = [StratumCounts(m, one, np.minimum(m - one, draw.integers(0, 3, 40))) for m, one in zip(M, g, strict=True)]
    for N in (2, 4, 6):
        eligible, recall = hard_negatives.filled(counted, N)
        assert eligible.tolist() == np.flatnonzero(M.sum(axis=0) >= N - 1).tolist()
        wanted = [enumerated([(one.M[query], one.g[query], one.t[query]) for one in counted], N) for query in eligible]
        np.testing.assert_allclose(recall, wanted, atol=1e-12)


@pytest.mark.parametrize("policy", ["ternary", "u_one"])
def test_tiers_of_generated_labels_equal_dense_counting(policy):
    draw = np.random.default_rng(2)
    labels = draw.choice([1, 0, -1, -2], (90, 14), p=[0.12, 0.1, 0.08, 0.7]).astype(np.int8)
    labels[:, 4:] = -2
    has = draw.random(90) < 0.9
    labels[~has] = -2
    study = draw.integers(0, 90, 70).astype(np.int32)
    images, texts = (draw.integers(-2, 3, (n, 6)).astype(np.float32) for n in (70, 90))
    texts = np.unique(texts, axis=0)
    number = draw.integers(0, len(texts), 90).astype(np.int32)
    records = Records(images, study, texts, number, (np.arange(90) // 2).astype(np.int32), {})
    found = hard_negatives.count(records, labels, has, policy, mesh=meshes.make_mesh(1), layout=LAYOUT)
    code = strata.label_codes(labels, has, policy)
    sets = [frozenset(np.flatnonzero((row == 1) | ((row == -1) & (policy == "u_one"))).tolist()) for row in labels]
    scores = (images @ texts.T)[:, number]
    wanted = np.zeros((3, 70, 3), int)
    for query, own in enumerate(study):
        for other in range(90):
            if own // 2 == other // 2 or not has[own]:
                continue
            near = has[other] and 2 * len(sets[own] & sets[other]) >= len(sets[own] | sets[other])
            tier = 0 if code[own] == code[other] else 1 if near else 2
            wanted[tier, query] += (1, scores[query, other] > scores[query, own], scores[query, other] == scores[query, own])
    assert (wanted.sum(axis=1) > 0).all()
    for one, tier in zip(found, wanted, strict=True):
        np.testing.assert_array_equal([one.M, one.g, one.t], tier.T)
