"""Plans against the tables of the design: noise for epsilon 0.34 at delta 6e-6, and epsilons that other accountants confirmed."""

import json

import pytest

from relink_jax import errors
from relink_jax.privacy import accounting, planning

CHEAP = {"units": 100, "delta": 1e-4, "batch": 100}  # q = 1: the plain Gaussian mechanism


def plan(**given):
    return planning.plan(**{"table": "none", **given})


@pytest.mark.slow
@pytest.mark.parametrize(("units", "batch", "epochs", "steps", "multiplier"), [(150_000, 1024, 5, 733, 2.276), (166_667, 4096, 5, 204, 4.165)])
def test_noise_of_the_design_table(units, batch, epochs, steps, multiplier):
    found = plan(units=units, delta=6e-6, batch=batch, epochs=epochs, epsilon=0.34)["plan"]
    assert (found["iterations"], found["solved_for"]) == (steps, "noise_multiplier")
    assert found["noise_multiplier"] == pytest.approx(multiplier, abs=2e-3)
    assert found["rdp"] == pytest.approx(0.34, abs=1e-4)
    assert found["pld"] == pytest.approx(0.308, abs=1e-3)


@pytest.mark.parametrize(
    ("units", "batch", "steps", "multiplier", "rdp", "pld"), [(166_667, 1024, 814, 2.0, 0.37758, 0.34116), (150_000, 512, 1465, 1.5, 0.46293, 0.36031)]
)
def test_epsilon_of_the_oracle_rows(units, batch, steps, multiplier, rdp, pld):
    found = plan(units=units, delta=6e-6, batch=batch, iterations=steps, noise_multiplier=multiplier)
    assert found["plan"]["rdp"] == pytest.approx(rdp, abs=5e-5)
    assert found["plan"]["pld"] == pytest.approx(pld, abs=2e-4)
    assert found["meaning"]["membership_advantage"] == pytest.approx(accounting.membership_advantage(rdp, 6e-6), abs=1e-4)


@pytest.mark.parametrize("missing", ["batch", "iterations", pytest.param("noise_multiplier", marks=pytest.mark.slow), "epsilon"])
def test_any_of_the_four_is_found_from_the_others(missing):
    whole = {"batch": 50, "iterations": 4, "noise_multiplier": 6.0}
    whole["epsilon"] = plan(units=100, delta=1e-4, **whole)["plan"]["rdp"]
    found = plan(units=100, delta=1e-4, **{name: value for name, value in whole.items() if name != missing})["plan"]
    assert found["solved_for"] == planning.KNOWN[missing]
    assert found[planning.KNOWN[missing]] == pytest.approx(whole[missing], rel=1e-3)


def test_pld_needs_less_noise_for_the_same_epsilon():
    by = {name: plan(**CHEAP, iterations=2, epsilon=0.5, accountant=name)["plan"] for name in ("rdp", "pld")}
    assert by["pld"]["noise_multiplier"] < by["rdp"]["noise_multiplier"]
    assert by["pld"]["pld"] == pytest.approx(0.5, abs=2e-3)


def test_warnings_meaning_and_text():
    found = plan(units=100, delta=0.02, batch=100, iterations=2, noise_multiplier=1.0)
    assert "delta x N = 2 is not below 1" in found["warnings"][0]
    assert plan(**CHEAP, iterations=2, noise_multiplier=10.0)["warnings"] == []
    assert "promises next to nothing" in plan(**CHEAP, iterations=2, noise_multiplier=0.3)["warnings"][-1]
    text = planning.text(found)
    assert "epsilon by RDP" in text
    assert text.count("<- solved") == 1
    assert "! delta x N" in text


def test_table_lays_out_what_the_accountant_found(monkeypatch):
    asked = []

    def table(units, epsilon, delta, batches, epochs, accountant):
        asked.append((units, epsilon, delta, accountant))
        return [{"expected_batch_size": batches[0], "epochs": epochs[0], "iterations": 1, "noise_multiplier": batches[0] + epochs[0] / 1000}]

    monkeypatch.setattr(accounting, "sigma_table", table)
    found = planning.plan(**{**CHEAP, "units": 200, "batch": 100}, iterations=2, noise_multiplier=30.0, table="full")
    assert set(asked) == {(200, found["plan"]["epsilon"], 1e-4, "rdp")}
    assert [row["expected_batch_size"] for row in found["table"]["rows"][::5]] == [25, 50, 100, 200]
    lines = planning.text(found).splitlines()
    assert next(line for line in lines if line.startswith("100 ")).split()[1:] == ["100.001", "100.003", "100.005", "100.010", "100.020"]


@pytest.mark.slow
def test_table_holds_the_plan_itself_and_falls_with_smaller_batches():
    seen = []
    found = planning.plan(units=400, delta=1e-4, batch=100, epochs=1, epsilon=1.0, track=lambda cells: seen.extend(cells) or cells)
    rows = {(row["expected_batch_size"], row["epochs"]): row["noise_multiplier"] for row in found["table"]["rows"]}
    assert set(rows) == set(seen) == {(batch, epochs) for batch in (50, 100, 200) for epochs in (1, 5, 20)}
    assert rows[100, 1] == pytest.approx(found["plan"]["noise_multiplier"], abs=1e-4)
    assert rows[50, 1] < rows[100, 1] < rows[100, 5] < rows[100, 20]
    text = planning.text(json.loads(json.dumps(found)))
    assert f"{rows[200, 5]:.3f}" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iterations": 2}, "exactly three of --batch"),
        ({"iterations": 2, "noise_multiplier": 1.0, "epsilon": 1.0}, "exactly three of --batch"),
        ({"iterations": 2, "epochs": 1.0, "epsilon": 1.0}, "both"),
        ({"batch": None, "epochs": 1.0, "epsilon": 1.0, "noise_multiplier": 1.0}, "--batch beside --epochs"),
        ({"epochs": 0.0, "epsilon": 1.0}, "positive"),
        ({"iterations": 2, "epsilon": 1.0, "accountant": "rpd"}, "did you mean 'rdp'"),
        ({"iterations": 2, "epsilon": 1.0, "table": "ful"}, "did you mean 'full'"),
        ({"batch": 101, "iterations": 2, "epsilon": 1.0}, "1 to 100"),
    ],
)
def test_wrong_plans_are_one_sentence(given, message):
    with pytest.raises(errors.UsageError, match=message):
        planning.plan(**{**CHEAP, "table": "none", **given})
