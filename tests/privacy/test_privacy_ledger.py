import dataclasses
import json

import numpy as np
import pytest

from relink_jax import errors, heads
from relink_jax.privacy import accounting, controls, ledger, noise, training

SMALL = {"expected_batch_size": 10, "iterations": 4, "learning_rate": 0.1, "dataset": {"name": "toy", "synthetic": True}}


@pytest.fixture
def written(toy, tmp_path):
    path = tmp_path / "dp" / ledger.FILE_NAME
    return path, training.train_heads(*toy.arguments, **SMALL, ledger_path=path)


def test_ledger_round_trips_and_says_what_was_released(written):
    path, trained = written
    found = ledger.load(path)
    assert found == trained.ledger
    assert found["steps"] == {"planned": 4, "executed": 4, "status": "complete", "resumed_from": []}
    assert found["released"][0]["step"] == 4
    assert found["sampling"]["q"] == "1/4"
    assert found["dataset"]["name"] == "toy"
    assert found["clipping"]["self_test"] == "passed"
    assert found["objective"]["sensitivity"]["add_remove"] == 1.0
    assert found["objective"]["anchors"]["provenance"] == "synthetic texts of a test"
    assert found["noise"]["std_absolute"] == pytest.approx(found["noise"]["multiplier_vs_sensitivity"])
    assert [row["delta"] for row in found["epsilon"]["at_delta"]] == [1e-4, 1e-5, 1e-6, 1e-7, 1e-8]
    assert path.stat().st_mode & 0o777 == 0o600


def test_statement_says_who_how_much_and_what_not(written):
    text = written[1].ledger["statement"]
    for phrase in (
        "one patient",
        "add/remove",
        "0.34 at delta 6e-06",
        "by PLD",
        "1.405 times",
        "N = 40 patients",
        "delta x N = 0.00024",
        "Poisson sampling with q = 1/4",
    ):
        assert phrase in text
    for phrase in ("never in the training set", "pretraining", "keeps the original heads", "fits a new map", "not cryptographic"):
        assert phrase in text


def test_control_statement_claims_nothing_learned(toy):
    text = controls.noise_only(*toy.arguments, **SMALL).ledger["statement"]
    assert "Noise-only control" in text
    assert "No private record was read" in text


def test_any_edit_without_a_new_seal_is_refused(written):
    content = json.loads(written[0].read_text())
    content["dataset"]["unit"] = "hospital"
    written[0].write_text(json.dumps(content))
    with pytest.raises(errors.StoreError, match="ledger edited"):
        ledger.load(written[0])


def test_missing_or_broken_file_is_refused(tmp_path):
    path = tmp_path / ledger.FILE_NAME
    with pytest.raises(errors.StoreError, match="missing"):
        ledger.load(path)
    for content in ("{", "[]", '"text"'):
        path.write_text(content)
        with pytest.raises(errors.StoreError):
            ledger.load(path)


def test_infinite_epsilon_is_null_in_strict_json(toy, tmp_path):
    path = tmp_path / ledger.FILE_NAME
    training.train_heads(*toy.arguments, **SMALL, noise_multiplier=0.0, ledger_path=path)
    content = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert content["epsilon"]["infinite"] is True
    assert content["epsilon"]["rdp"] is None
    assert ledger.load(path)["epsilon"]["infinite"] is True


def test_ledger_is_on_disk_before_the_first_step_and_survives_an_interruption(toy, tmp_path, monkeypatch):
    path, steps = tmp_path / ledger.FILE_NAME, []
    sound = noise.add_noise

    def stopping(total, multiplier, key):
        if not steps:
            planned = ledger.load(path)
            assert planned["steps"]["status"] == "planned"
            assert planned["epsilon"]["rdp"] == pytest.approx(0.34, abs=1e-3)
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return sound(total, multiplier, key)

    monkeypatch.setattr(noise, "add_noise", stopping)
    with pytest.raises(KeyboardInterrupt):
        training.train_heads(*toy.arguments, **SMALL, ledger_path=path)
    found = ledger.load(path)
    assert found["steps"] == {"planned": 4, "executed": 2, "status": "interrupted", "resumed_from": []}
    assert found["released"] == []
    assert found["epsilon"]["rdp"] < 0.33


def test_retraining_in_place_carries_the_earlier_release(toy, written):
    path, first = written
    second = training.train_heads(*toy.arguments, **SMALL, ledger_path=path).ledger
    assert [run["run_id"] for run in second["earlier"]] == [first.ledger["run_id"]]
    total = second["epsilon_all_runs"]
    assert total["runs"] == 2
    assert second["epsilon"]["rdp"] < total["rdp"] < 2 * second["epsilon"]["rdp"]
    assert "1 earlier released run(s)" in second["statement"]
    third = training.train_heads(*toy.arguments, **SMALL, unit="pair", ledger_path=path).ledger
    assert len(third["earlier"]) == 2
    assert third["epsilon_all_runs"]["mixed_units"] is True
    assert third["epsilon_all_runs"]["rdp"] is None
    assert ledger.load(path)["run_id"] == third["run_id"]


def stop_after(monkeypatch, steps):
    sound, drawn = noise.add_noise, []

    def stopping(total, multiplier, key):
        drawn.append(1)
        if len(drawn) > steps:
            raise KeyboardInterrupt
        return sound(total, multiplier, key)

    monkeypatch.setattr(noise, "add_noise", stopping)


def test_an_earlier_run_that_released_nothing_leaves_a_trace_and_adds_nothing(toy, tmp_path, monkeypatch):
    path = tmp_path / ledger.FILE_NAME
    with monkeypatch.context() as patched:
        stop_after(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            training.train_heads(*toy.arguments, **SMALL, ledger_path=path)
    stopped = ledger.load(path)
    assert "Released: nothing; training ended after 2 of 4 steps" in stopped["statement"]
    assert "final heads" not in stopped["statement"]
    with monkeypatch.context() as patched:
        patched.setattr(ledger, "executed", lambda *rest: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            training.train_heads(*toy.arguments, **SMALL, ledger_path=path)
    planned = ledger.load(path)
    assert planned["steps"]["status"] == "planned"
    assert "Released: nothing so far" in planned["statement"]
    last = training.train_heads(*toy.arguments, **SMALL, ledger_path=path).ledger
    assert [run["run_id"] for run in last["earlier"]] == [stopped["run_id"], planned["run_id"]]
    assert [(run["status"], run["steps"], run["released"], run["unit"]) for run in last["earlier"]] == [
        ("interrupted", 2, [], "patient"),
        ("planned", 4, [], "patient"),
    ]
    assert last["earlier"][0]["events"] == stopped["events"]
    assert last["epsilon_all_runs"]["runs"] == 1
    assert last["epsilon_all_runs"]["rdp"] == last["epsilon"]["rdp"]
    assert "add nothing to epsilon: 1 interrupted, 1 planned." in last["statement"]


def test_released_runs_still_compose_after_an_interruption_or_a_control_in_between(toy, written, monkeypatch):
    path, first = written
    with monkeypatch.context() as patched:
        stop_after(patched, 1)
        with pytest.raises(KeyboardInterrupt):
            training.train_heads(*toy.arguments, **SMALL, ledger_path=path)
    control = controls.noise_only(*toy.arguments, **SMALL, ledger_path=path).ledger
    assert "Together with 1 earlier released run(s)" in control["statement"]
    last = training.train_heads(*toy.arguments, **SMALL, ledger_path=path).ledger
    assert [run["status"] for run in last["earlier"]] == ["complete", "interrupted", "complete"]
    assert [run["data_used"] for run in last["earlier"]] == [True, True, False]
    assert last["epsilon_all_runs"]["runs"] == 2
    assert first.ledger["epsilon"]["rdp"] < last["epsilon_all_runs"]["rdp"] < 2 * last["epsilon"]["rdp"]
    assert "1 interrupted, 1 noise-only" in last["statement"]


def test_heads_that_stop_being_finite_are_not_released(toy, tmp_path):
    path = tmp_path / ledger.FILE_NAME
    with pytest.raises(errors.UsageError, match="learning_rate"):
        training.train_heads(*toy.arguments, **{**SMALL, "learning_rate": 1e39}, ledger_path=path)
    found = ledger.load(path)
    assert (found["steps"]["status"], found["steps"]["executed"], found["released"]) == ("interrupted", 4, [])


def test_a_damaged_ledger_in_place_stops_training(toy, tmp_path):
    path = tmp_path / ledger.FILE_NAME
    path.write_text("{")
    with pytest.raises(errors.StoreError):
        training.train_heads(*toy.arguments, **SMALL, ledger_path=path)


def test_a_ledger_vouches_for_its_own_heads_only(toy, written, tmp_path, monkeypatch):
    path, trained = written
    digest = heads.save(tmp_path / "saved", trained.heads, {})
    assert heads.load(tmp_path / "saved")[1]["heads_sha256"] == digest == trained.ledger["released"][0]["sha256"]
    assert ledger.load_for(path, digest, data_used=True) == trained.ledger
    other = heads.save(tmp_path / "other", toy.heads, {})
    with pytest.raises(errors.StoreError, match="ledger of other heads"):
        ledger.load_for(path, other, data_used=True)
    with pytest.raises(errors.StoreError, match=r"expected that of a noise-only control"):
        ledger.load_for(path, digest, data_used=False)
    control = controls.noise_only(*toy.arguments, **SMALL, ledger_path=tmp_path / "control" / ledger.FILE_NAME)
    with pytest.raises(errors.StoreError, match=r"expected that of training on data"):
        ledger.load_for(tmp_path / "control" / ledger.FILE_NAME, control.ledger["released"][0]["sha256"], data_used=True)
    stop_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        training.train_heads(*toy.arguments, **SMALL, ledger_path=path)
    with pytest.raises(errors.StoreError, match="unfinished training"):
        ledger.load_for(path, digest, data_used=True)


def test_initial_heads_are_digested_as_the_float32_they_train_from(toy, tmp_path):
    wide = {side: {"kernel": kernel["kernel"].astype(np.float64)} for side, kernel in toy.heads.items()}
    found = training.train_heads(wide, *toy.arguments[1:], **SMALL).ledger
    assert found["optimizer"]["initial_heads_sha256"] == heads.save(tmp_path, toy.heads, {})


def test_n_is_public_so_the_claim_is_zero_out_at_the_epsilon_of_add_remove(written):
    found = written[1].ledger
    assert {event["relation"] for event in found["events"]} == {"zero_out"}
    mechanism = ledger.mechanism_of(found)
    either = accounting.price(dataclasses.replace(mechanism, relation="add_remove"), found["epsilon"]["delta"])
    assert (found["epsilon"]["rdp"], found["epsilon"]["pld"]) == pytest.approx((either.rdp, either.pld), rel=1e-9)
    assert "N is treated as public" in found["statement"]
    assert "used or blanked (zero-out), at the same epsilon as add/remove" in found["statement"]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({}, "Settings: not recorded how they were chosen"),
        ({"public_tuning_data": "a phantom cohort"}, "whether they were tuned is not recorded"),
        ({"tuned": False}, "declared as not tuned on private data"),
        ({"tuned": True, "n_trials": 7}, "declared as tuned in 7 tries"),
        ({"tuned": True}, "declared as tuned in a number of tries that is not recorded"),
    ],
)
def test_how_settings_were_chosen_is_what_the_caller_declares(toy, tmp_path, declared, said):
    path = tmp_path / ledger.FILE_NAME
    training.train_heads(*toy.arguments, **SMALL, **declared, ledger_path=path)
    found = ledger.load(path)
    assert found["selection"] == {"tuned": None, "n_trials": None, "public_tuning_data": None} | declared
    assert said in found["statement"]
    assert ("Chosen on public data: a phantom cohort." in found["statement"]) == ("public_tuning_data" in declared)


def test_the_statement_says_what_the_check_of_the_anchors_does_not_see(written):
    assert "only features equal to the last bit are detected" in written[1].ledger["statement"]
