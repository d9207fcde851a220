"""The search for L2 strengths on planted validation curves: where it extends the grid, where it stops, and where it refuses."""

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.utility import strength

GRID = np.array([0.01, 0.1, 1.0])


def search(curves, grid=GRID):
    """Returns {label: chosen strength} and the strengths fitted for each label, of curves from log10(strength) to AUROC."""
    names, asked = list(curves), {name: [] for name in curves}

    def fit(l2, wanted):
        for name, one, use in zip(names, l2, wanted, strict=True):
            if use:
                asked[name].append(float(one))
        return np.asarray(l2)[:, None], np.zeros(len(names)), np.ones(len(names))

    def value(label, weights, intercept):
        return curves[names[label]](round(np.log10(weights[0]), 6)) + intercept

    chosen = strength.choose(fit, value, np.asarray(grid), names)
    assert all(one.l2 == one.weights[0] for one in chosen)
    return {name: one.l2 for name, one in zip(names, chosen, strict=True)}, asked


def test_a_rising_curve_extends_its_side_by_decades_until_it_falls_and_only_for_its_label():
    chosen, asked = search(
        {"weak": lambda p: 0.8 - 0.01 * abs(p + 5), "strong": lambda p: 0.8 - 0.01 * abs(p - 2), "inside": lambda p: 0.8 - 0.01 * abs(p + 1)}
    )
    assert chosen == {"weak": 1e-5, "strong": 100.0, "inside": 0.1}
    assert asked["weak"] == [1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6]
    assert asked["strong"] == [1.0, 0.1, 0.01, 10.0, 100.0, 1000.0]
    assert asked["inside"] == [1.0, 0.1, 0.01]


def test_an_edge_on_a_plateau_stands():
    flat = {"low": lambda p: 0.8 - 0.99e-4 * p, "level": lambda p: 0.7, "high": lambda p: 0.8 + 0.99e-4 * p}
    chosen, asked = search(flat)
    assert chosen == {"low": 0.01, "level": 1.0, "high": 1.0}  # of equals the strongest
    assert all(fitted == [1.0, 0.1, 0.01] for fitted in asked.values())


def test_it_stops_where_the_gain_of_a_decade_is_no_more_than_the_tolerance():
    chosen, asked = search({"label": lambda p: 0.8 - (0.01 * (p + 3) if p > -3 else 0.99e-4 * (p + 3))})
    assert asked["label"] == [1.0, 0.1, 0.01, 1e-3, 1e-4]
    assert chosen == {"label": 1e-4}


@pytest.mark.parametrize(("sign", "last"), [(-1, "1e-10"), (1, r"1e\+06")])
def test_a_curve_that_rises_up_to_the_limit_is_refused_by_name(sign, last):
    with pytest.raises(errors.DataError, match=f"L2 strength without a best value in probe of Edema: .*found one that still rises at {last}$"):
        search({"Fracture": lambda p: 0.8 - 0.01 * abs(p + 1), "Edema": lambda p: 0.6 + sign * 0.01 * p})


def test_a_grid_of_one_fixes_the_strength():
    assert search({"label": lambda p: 0.5 - 0.01 * p}, [0.3]) == ({"label": 0.3}, {"label": [0.3]})
