"""Order of models by specialisation: worked patients, planted ladders, and models that are one."""

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.audit import uncertainty
from relink_jax.audit.order import order
from relink_jax.audit.sample import Sample

AFTER, BEFORE = np.array([1.0, 0, 0, 0, 0, 0, 0, 0]), np.array([1.0, 1, 0, 0, 1, 0, 0, 0])
WORKED = Sample(np.array([0, 0, 0, 1, 2, 2, 2, 2]), 3, uncertainty.Bootstrap(40000))


def test_worked_patients():
    found = order(["after", "before"], [AFTER, BEFORE], WORKED, N=11, full=True)
    assert {key: found[key] for key in ("N", "full", "attack", "models", "values", "level", "B")} == {
        "N": 11,
        "full": True,
        "attack": "cosine",
        "models": ["after", "before"],
        "values": [1 / 8, 3 / 8],
        "level": 0.95,
        "B": 40000,
    }
    (step,) = found["adjacent"]
    assert (step["lower"], step["upper"], step["difference"]) == ("after", "before", 1 / 4)
    assert found["share_of_resamples_in_order"] == pytest.approx(26 / 27, abs=0.004)  # only three times B has no difference
    every = np.array([np.bincount(draw, minlength=3) for draw in np.ndindex(3, 3, 3)]) @ np.array([[1.0, 3], [0, 1], [1, 4]])
    deviation = np.sort(np.abs(every[:, 0] / every[:, 1] - 1 / 4))
    assert step["high"] - step["difference"] == pytest.approx(deviation[-2])  # the farthest, without B's difference, is rarer than 1 in 20
    assert step["high"] + step["low"] == pytest.approx(1 / 2)


def test_a_planted_ladder_is_seen_and_its_steps_hold_together():
    generator = np.random.default_rng(3)
    patient = generator.integers(0, 80, 400)
    shared = generator.random(400)
    values = [(shared < risk[patient]).astype(float) for risk in (np.full(80, 0.1), np.full(80, 0.3), np.full(80, 0.5))]
    sample = Sample(patient, 80, uncertainty.Bootstrap(1000))
    found = order(["a", "b", "c"], values, sample, N=10, full=False, attack="best")
    assert (found["share_of_resamples_in_order"], found["attack"]) == (1, "best")
    assert all(step["low"] > 0 for step in found["adjacent"])
    alone = order(["a", "b"], values[:2], sample, N=10, full=False)["adjacent"][0]
    assert found["adjacent"][0]["low"] < alone["low"] < alone["high"] < found["adjacent"][0]["high"]
    turned = order(["b", "a", "c"], [values[1], values[0], values[2]], sample, N=10, full=False)
    assert turned["share_of_resamples_in_order"] == 0
    assert [step["difference"] for step in turned["adjacent"]] == pytest.approx([values[0].mean() - values[1].mean(), values[2].mean() - values[0].mean()])
    assert turned["adjacent"][0]["high"] < 0 < turned["adjacent"][1]["low"]


def test_equal_models_are_not_in_order_and_claim_no_interval():
    found = order(["a", "b"], [BEFORE, BEFORE], WORKED, N=11, full=True)
    assert found["share_of_resamples_in_order"] == 0
    assert found["adjacent"] == [{"lower": "a", "upper": "b", "difference": 0.0, "low": None, "high": None}]


def test_rows_say_whose_values_they_are():
    rows = np.array([0, 3, 4, 5])
    found = order(["after", "before"], [AFTER[rows], BEFORE[rows]], WORKED, N=5, full=False, rows=rows)
    assert found["values"] == [1 / 4, 1 / 2]
    assert found["share_of_resamples_in_order"] == pytest.approx(1 - (2 / 3) ** 3, abs=0.01)  # C must be drawn


@pytest.mark.parametrize(("models", "values"), [(["a"], [AFTER]), (["a", "b"], [AFTER, BEFORE[1:]]), (["a", "b"], [AFTER])])
def test_what_cannot_be_ordered_is_one_sentence(models, values):
    with pytest.raises(errors.DataError, match="models differ in order of models"):
        order(models, values, WORKED, N=11, full=True)
