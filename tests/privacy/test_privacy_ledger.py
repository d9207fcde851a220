import json

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.privacy import controls, ledger, noise, training

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


def edit(path, change, reseal):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(ledger.sealed(content) if reseal else content))


EDITS = [
    ("epsilon", lambda c: c["epsilon"].update(rdp=0.1)),
    ("epsilon", lambda c: c["epsilon"].update(pld=0.1)),
    ("epsilon", lambda c: c["epsilon"].update(infinite=True, rdp=None, pld=None)),
    ("event", lambda c: c["noise"].update(std_absolute=999.0)),
    ("event", lambda c: c["sampling"].update(q="1/400")),
    ("event", lambda c: c["steps"].update(executed=1)),
    ("event", lambda c: c["objective"]["sensitivity"].update(add_remove=0.5)),
    ("event", lambda c: c["events"][0]["dp_event"]["event"]["event"].update(noise_multiplier=99.0)),
    ("mechanism", lambda c: c["sampling"].update(q="one in ten")),
    ("mechanism", lambda c: c.update(events=[])),
    ("no statement", lambda c: c.pop("statement")),
    ("schema", lambda c: c.update(schema_version="9")),
]


@pytest.mark.parametrize(("message", "change"), EDITS)
def test_inconsistent_ledger_is_refused_even_with_a_new_seal(written, message, change):
    edit(written[0], change, reseal=True)
    with pytest.raises(errors.StoreError, match=message):
        ledger.load(written[0])


def test_any_edit_without_a_new_seal_is_refused(written):
    edit(written[0], lambda c: c["dataset"].update(unit="hospital"), reseal=False)
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


def test_a_control_or_a_damaged_ledger_in_place_is_not_carried(toy, tmp_path):
    path = tmp_path / ledger.FILE_NAME
    controls.noise_only(*toy.arguments, **SMALL, ledger_path=path)
    assert training.train_heads(*toy.arguments, **SMALL, ledger_path=path).ledger["earlier"] == []
    path.write_text("{")
    with pytest.raises(errors.StoreError):
        training.train_heads(*toy.arguments, **SMALL, ledger_path=path)


def test_released_digest_is_that_of_the_heads(written):
    from relink_jax.store import checkpoints

    _, trained = written
    assert trained.ledger["released"][0]["sha256"] == checkpoints.tree_digest(trained.heads)
    assert np.isfinite(trained.heads["text"]["kernel"]).all()
