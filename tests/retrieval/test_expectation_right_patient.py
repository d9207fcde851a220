"""The right-patient form against enumeration of pools, for many queries at once."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.retrieval import expectation, right_patient

ORDERS = ("npnTn", "nnTpn", "Tppnn", "nppTn", "nnnnT", "pTpnn")  # best to worst: T truth, p other study of the patient, n stranger


def counts(orders):
    """Returns M, g, better and offsets of `recall`; the better studies of a query from worst to best."""
    ahead = [order[: order.index("T")] for order in orders]
    better = [[order[:place].count("n") for place in range(len(part)) if order[place] == "p"][::-1] for order, part in zip(orders, ahead, strict=True)]
    M, g = np.array([len(order) - 1 for order in orders]), np.array([part.count("n") for part in ahead])
    return M, g, np.array([*itertools.chain(*better)], int), np.cumsum([0, *map(len, better)])


def enumerated(order, N, k):
    truth = order.index("T")
    pools = [sorted([truth, *pool]) for pool in itertools.combinations([place for place in range(len(order)) if place != truth], N - 1)]
    return Fraction(sum(any(order[place] in "pT" for place in pool[:k]) for pool in pools), len(pools))


def test_equals_enumeration():
    for N in range(2, 6):
        found = right_patient.recall(*counts(ORDERS), N, (1, 2, 3, 7))
        for row, k in zip(found, (1, 2, 3, 7), strict=True):
            np.testing.assert_allclose(row, [float(enumerated(order, N, k)) for order in ORDERS], rtol=0, atol=1e-14)


def test_worked_example():
    wanted = {
        2: (Fraction(2, 3), 1),
        3: (Fraction(7, 15), Fraction(14, 15)),
        4: (Fraction(7, 20), Fraction(17, 20)),
        6: (Fraction(1, 6), Fraction(5, 6)),
        7: (0, 1),
    }
    for N, values in wanted.items():
        np.testing.assert_allclose(right_patient.recall(*counts(["npnTnpn"]), N, (1, 2))[:, 0], [float(value) for value in values], atol=1e-14)
    np.testing.assert_allclose([right_patient.chance(6, 2, N) for N in wanted], [2 / 3, 5 / 9, 1 / 2, 4 / 9, 3 / 7], rtol=1e-14)


def test_without_other_studies_it_is_recall():
    M, g = np.array([500, 80, 90]), np.array([3, 40, 0])
    found = right_patient.recall(M, g, np.zeros(0, int), np.zeros(4, int), 60, (1, 5))
    wanted = expectation.pool_metrics(M, g, np.zeros(3, int), 60, (1, 5))
    np.testing.assert_allclose(found, [wanted["recall@1"].expected, wanted["recall@5"].expected], atol=1e-14)


def test_chance_is_the_mean_over_rankings():
    orders = sorted(set(map("".join, itertools.permutations("Tppnn"))))
    for N in range(2, 6):
        for k, row in zip(range(1, N + 1), right_patient.recall(*counts(orders), N, range(1, N + 1)), strict=True):
            assert row.mean() == pytest.approx(float(right_patient.chance(4, 2, N, k)), abs=1e-14)


def test_large_universes():
    """Nine of ten better studies stand behind 40 strangers: what is left once they are seldom drawn is the first study and the truth."""
    M, n = 10**7, 1000
    found = right_patient.recall([M], [10**6], [0, *[10**6] * 9], [0, 10], n + 1, [1])[0, 0]
    first = n / M
    assert found == pytest.approx(first + (1 - first) * (1 - 0.1) ** n, rel=1e-3)


def test_refuses_counts_that_cannot_be():
    good = [np.array([6]), np.array([2]), np.array([1]), np.array([0, 1])]
    for place, value, told in ((2, [3], "better in right-patient recall"), (3, [0, 2], "offsets in right-patient recall"), (1, [6], "g \\+ t <= M")):
        with pytest.raises(errors.DataError, match=told):
            right_patient.recall(*[np.array(value) if number == place else column for number, column in enumerate(good)], 3, [1])
    with pytest.raises(errors.DataError, match="pool size in expected metrics: expected 2 to 7"):
        right_patient.recall(*good, 8, [1])
