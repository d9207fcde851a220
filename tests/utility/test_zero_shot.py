"""Zero-shot AUROC on planted embeddings, equivalence within a margin, and label-level retrieval against brute force over orders."""

import itertools

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.utility import auroc, equivalence, label_retrieval, macro, zero_shot

NAMES = ("Edema", "Fracture")
PAIRS = [([0, 1], [2]), ([3], [4, 5])]
PROMPTS = np.eye(6)


def planted(strength, seed=0, n=300):
    """Returns unit images [n, 6] that lie `strength` towards the prompts of their labels, labels, known and patients."""
    rng = np.random.default_rng(seed)
    y, known, patients = rng.random((n, 2)) < 0.4, rng.random((n, 2)) < 0.9, rng.integers(0, n // 2, n)
    sides = np.stack([np.where(y[:, :1], [1, 1, 0], [0, 0, 2]), np.where(y[:, 1:], [2, 0, 0], [0, 1, 1])], axis=1).reshape(n, 6)
    images = strength * sides + rng.standard_normal((n, 6))
    return images / np.linalg.norm(images, axis=1, keepdims=True), y, known, patients


def evaluated(rows, features="original", pairs=PAIRS, **settings):
    return zero_shot.evaluate(rows[0], PROMPTS, pairs, *rows[1:], NAMES, features=features, bootstrap_replicates=200, **settings)


@pytest.mark.parametrize(("strength", "low", "high"), [(40, 1.0, 1.0), (0, 0.42, 0.58), (-40, 0.0, 0.0)])
def test_planted_alignment_none_and_inverted(strength, low, high):
    result = evaluated(planted(strength))
    assert low <= result.macro_auroc <= high
    entry = result.to_json()
    assert {"features", "macro_auroc", "ci", "per_label", "undefined", "l2", "chance"} <= set(entry)
    assert (entry["l2"], entry["n_prompts"], entry["undefined"]) == ({}, 6, [])


def test_the_order_of_prompts_and_the_softmax_change_nothing():
    rows, draw = planted(1), np.random.default_rng(1)
    plain = evaluated(rows)
    assert 0.6 < plain.macro_auroc < 0.95
    assert evaluated(rows, pairs=[([1, 0], [2]), ([3], [5, 4])]).per_label == pytest.approx(plain.per_label, abs=1e-12)
    order = draw.permutation(6)
    moved = zero_shot.evaluate(
        rows[0], PROMPTS[order], [tuple([int(np.flatnonzero(order == p)[0]) for p in side] for side in pair) for pair in PAIRS], *rows[1:], NAMES
    )
    assert moved.per_label == pytest.approx(plain.per_label, abs=1e-12)
    cosines = [rows[0] @ zero_shot.prototypes(PROMPTS, [pair[side] for pair in PAIRS]).T for side in (0, 1)]
    chance_of = 1 / (1 + np.exp((cosines[1] - cosines[0]) * 3))
    for label, name in enumerate(NAMES):
        kept = rows[2][:, label]
        assert plain.per_label[name] == pytest.approx(auroc.auroc(chance_of[kept, label], rows[1][kept, label]), abs=1e-12)


def test_prototypes_are_mean_directions_and_prompts_that_cancel_are_refused():
    np.testing.assert_allclose(zero_shot.prototypes(PROMPTS, [[0, 1], [2]])[0], [2**-0.5, 2**-0.5, 0, 0, 0, 0])
    with pytest.raises(errors.DataError, match="whose mean has a direction"):
        zero_shot.prototypes(np.array([[1.0, 0], [-1.0, 0]]), [[0, 1]])


def test_arms_are_paired_on_one_draw_and_a_change_beyond_the_margin_is_not_equivalent():
    rows = planted(1)
    worse = (planted(0.3)[0], *rows[1:])
    before, after = evaluated(rows), evaluated(worse, "dp")
    found = macro.paired_difference(after, before, task="zero_shot", margin=0.01)
    assert (found["task"], found["features"], found["against"]) == ("zero_shot", "dp", "original")
    assert found["ci"]["high"] < 0
    assert found["equivalence"]["equivalent"] is False
    assert found["equivalence"]["low"] > found["ci"]["low"]  # a 90% interval lies inside the 95% one
    same = macro.paired_difference(evaluated(rows, "dp"), before, task="zero_shot")
    assert same["equivalence"] == {"margin": 0.01, "equivalent": True, "level": 0.9, "low": 0.0, "high": 0.0}
    with pytest.raises(errors.DataError, match="paired difference"):
        macro.paired_difference(after, evaluated(rows, seed=1))


def test_labels_with_too_few_of_a_class_are_listed_and_left_out():
    images, y, known, patients = planted(40)
    y[:, 1] = np.arange(len(y)) < 4
    result = evaluated((images, y, known, patients))
    assert (result.undefined, result.per_label["Fracture"], result.macro_auroc) == (("Fracture",), None, 1.0)
    assert result.warnings[0] == "zero-shot of Fracture: undefined, fewer than 5 positives or negatives in test"


@pytest.mark.parametrize(
    ("shift", "margin", "equivalent"), [(0, 0.0101, True), (0, 0.0089, False), (0.0009, 0.0101, True), (0.002, 0.0101, False), (-0.002, 0.0101, False)]
)
def test_both_ends_of_the_ninety_percent_interval_decide(shift, margin, equivalent):
    replicates = np.linspace(-0.01, 0.01, 10001) + shift  # its 5% and 95% quantiles are shift +- 0.009
    found = equivalence.equivalence(replicates, margin)
    assert (found["low"], found["high"]) == pytest.approx((shift - 0.009, shift + 0.009))
    assert found["equivalent"] is equivalent


def test_equivalence_needs_replicates_and_a_positive_margin():
    assert equivalence.equivalence(np.full(5, np.nan), 0.01) is None
    with pytest.raises(errors.UsageError, match="expected a positive number, found 0"):
        equivalence.equivalence(np.zeros(9), 0.0)


def brute_force(scores, values):
    """Returns what each candidate expects, over all orders that respect the scores."""
    total, count = np.zeros(len(scores)), 0
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            count += 1
            total[list(order[: len(values)])] += values
    return total / count


@pytest.mark.parametrize("scores", [[3, 2, 1, 0, -1], [1, 1, 1, 1, 1], [2, 2, 1, 1, 0], [0, 1, 1, 1, 2], [1, 2, 2, 3, 3]])
def test_places_among_equal_scores_are_shared_as_over_all_orders(scores):
    values = np.array([1.0, 0.6, 0.5])
    np.testing.assert_allclose(label_retrieval.top_share(np.array(scores, float), values), brute_force(scores, values), atol=1e-12)


STUDIES = label_retrieval.Studies(
    text=np.array([0, 1, 2, 2, 3, 4]),
    patient=np.array([0, 1, 2, 3, 4, 0]),
    code=np.array([0, 0, 1, 1, -1, 0]),
    positive=np.array([[1, 0], [1, 0], [1, 1], [1, 1], [0, 1], [1, 0]], bool),
)


def retrieved(images, texts, image_study, studies=STUDIES, **settings):
    return label_retrieval.label_retrieval(np.asarray(images, np.float32), np.asarray(texts, np.float32), np.asarray(image_study), studies, **settings)


def test_label_retrieval_by_hand():
    """One image of study 0: studies 1, 2, 3 are candidates; 4 has no labels and 5 is the same patient's, though both score higher."""
    texts = np.array([[9.0], [3], [2], [8], [7]])
    found = retrieved([[1.0]], texts, [0], k=2)
    assert found["precision_at_2"]["value"] == pytest.approx(1 / 2)  # study 1, then one of the equal 2 and 3
    assert found["chance"] == pytest.approx(1 / 3)
    discount = np.array([1, 1 / np.log2(3)])
    assert found["ndcg_at_2"]["value"] == pytest.approx(1.0)  # gains 1, 1/2: the ideal order
    assert found["chance_ndcg"] == pytest.approx((2 / 3) * discount.sum() / (discount @ [1, 0.5]))
    upside_down = retrieved([[-1.0]], texts, [0], k=2)
    assert upside_down["precision_at_2"]["value"] == 0
    assert upside_down["ndcg_at_2"]["value"] == pytest.approx(0.5 * discount.sum() / (discount @ [1, 0.5]))


def test_constant_embeddings_give_chance_exactly_and_perfect_ones_everything():
    rng = np.random.default_rng(0)
    sets = rng.random((120, 3)) < 0.5
    code = np.unique(sets, axis=0, return_inverse=True)[1].ravel()
    studies = label_retrieval.Studies(np.arange(120), np.arange(120) // 2, code, sets)
    flat = retrieved(np.ones((120, 2)), np.ones((120, 2)), np.arange(120), studies, bootstrap_replicates=100)
    assert flat["precision_at_10"]["value"] == pytest.approx(flat["chance"], abs=1e-12)
    assert flat["ndcg_at_10"]["value"] == pytest.approx(flat["chance_ndcg"], abs=1e-12)
    own = np.eye(8)[code]
    perfect = retrieved(own, own, np.arange(120), studies, k=5, bootstrap_replicates=100)
    assert (perfect["precision_at_5"]["value"], perfect["ndcg_at_5"]["value"]) == pytest.approx((1, 1))
    assert (perfect["precision_at_5"]["n_queries"], perfect["precision_at_5"]["n_patients"]) == (120, 60)
    assert perfect["chance"] < 0.3


def test_a_sample_of_queries_is_the_same_for_every_arm_and_clustered_by_patient():
    rng = np.random.default_rng(1)
    code = rng.integers(0, 3, 90)
    studies = label_retrieval.Studies(np.arange(90), np.arange(90) // 3, code, np.eye(3, dtype=bool)[code])
    images, texts = rng.standard_normal((90, 4)), rng.standard_normal((90, 4))
    some, again = (retrieved(images, texts, np.arange(90), studies, most=30, bootstrap_replicates=100) for _ in range(2))
    assert some == again
    assert some["precision_at_10"]["n_queries"] == 30
    apart = label_retrieval.Studies(np.arange(90), np.arange(90), code, np.eye(3, dtype=bool)[code])
    assert retrieved(images, texts, np.arange(90), apart, most=80)["precision_at_10"]["n_patients"] == 80  # no image twice
    every = retrieved(images, texts, np.arange(90), studies, bootstrap_replicates=100)
    assert every["precision_at_10"]["ci"]["low"] < every["precision_at_10"]["value"] < every["precision_at_10"]["ci"]["high"]


def test_nothing_to_ask_gives_nothing():
    found = retrieved([[1.0]], np.ones((5, 1)), [4], k=2)
    empty = {"value": None, "ci": None, "n_queries": 0, "n_patients": 0}
    assert found == {"precision_at_2": empty, "ndcg_at_2": empty, "chance": None, "chance_ndcg": None, "k": 2}
    with pytest.raises(errors.UsageError, match="at least 1"):
        retrieved([[1.0]], np.ones((5, 1)), [0], k=0)
