import dataclasses
import json

import ledger_plans
import pytest
from ledger_plans import HEADS, STATE

from relink_jax import errors
from relink_jax.privacy import accounting, ledger, ledger_chain, ledger_rules


@pytest.fixture
def path(tmp_path):
    return tmp_path / "dp" / ledger.FILE_NAME


def kinds(path):
    return [one["kind"] for one in json.loads(path.read_text())["entries"]]


def test_a_released_run_round_trips(path):
    made = ledger_plans.run(path)
    found = ledger.load(path)
    assert found == made
    assert kinds(path) == ["planned", "charged", "released"]
    assert found["steps"] == {"planned": 4, "executed": 4, "status": "complete", "resumed_from": []}
    assert found["released"] == [{"artifact": "heads", "sha256": HEADS, "step": 4}]
    assert found["clipping"] == {"norm": 1.0, "mode": "global", "per": "unit", "impl": "auto", "self_test": "passed"}
    assert found["dataset"]["overlap_group"] == "toy"
    assert found["objective"]["anchors"]["provenance"] == "synthetic texts of a test"
    priced = accounting.price(ledger.mechanism_of(found), 1e-5)
    assert (found["epsilon"]["rdp"], found["epsilon"]["pld"]) == (priced.rdp, priced.pld)
    assert [row["delta"] for row in found["epsilon"]["at_delta"]] == [1e-4, 1e-5, 1e-6, 1e-7, 1e-8]
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_a_path_everything_is_in_memory_and_says_the_same(path):
    plan = ledger_plans.plan()
    on_disk, in_memory = ledger_plans.run(path, plan), ledger_plans.run(None, plan)
    assert {**on_disk, "chain": None} == {**in_memory, "chain": None}


def test_a_run_is_on_disk_before_it_starts_and_costs_what_was_charged(path):
    with ledger.opened(path, ledger_plans.plan()) as opened:
        planned = ledger.load(path)
        assert planned["steps"]["status"] == "planned"
        assert planned["clipping"]["self_test"] == "not run"
        opened.charge(2)
        found = ledger.load(path)
    assert found["steps"] == {"planned": 4, "executed": 2, "status": "interrupted", "resumed_from": []}
    assert found["released"] == []
    assert 0 < found["epsilon"]["pld"] < planned["epsilon"]["pld"]
    assert ledger.mechanism_of(found).iterations == 2


def test_killed_between_charge_and_checkpoint_the_run_goes_on_from_the_state_it_committed(path):
    plan = ledger_plans.plan()
    with ledger.opened(path, plan) as opened:  # what a kill leaves is what was written by then
        opened.checkpoint(0, "e" * 64)
        opened.charge(2)
        opened.checkpoint(2, STATE)
        opened.charge(3)
    assert ledger.resumable(path) == (2, STATE, plan)
    with ledger.opened(path, ledger_plans.plan()) as opened:
        assert opened.resumable == (2, STATE)
        opened.charge(3)  # was charged before the kill and is not charged twice
        opened.charge(4)
        opened.release([{"artifact": "heads", "sha256": HEADS, "step": 4}], "passed")
    found = ledger.load(path)
    assert found["steps"] == {"planned": 4, "executed": 4, "status": "complete", "resumed_from": [2]}
    assert found["run_id"] == plan["run_id"]
    assert found["earlier"] == []
    assert kinds(path) == ["planned", "checkpoint", "charged", "checkpoint", "charged", "resumed", "charged", "released"]
    assert ledger.resumable(path) is None


@pytest.mark.parametrize("changes", [{"multiplier": 5.0}, {"delta": 2e-5}, {"initial_heads_sha256": "f" * 64}, {"dataset": {"name": "other"}}])
def test_other_settings_never_go_on_with_a_state_and_start_a_run_of_their_own(path, changes):
    with ledger.opened(path, ledger_plans.plan()) as opened:
        opened.charge(2)
        opened.checkpoint(2, STATE)
    found = ledger_plans.run(path, ledger_plans.plan(**changes))
    assert [one["status"] for one in found["earlier"]] == ["interrupted"]
    assert found["steps"]["resumed_from"] == []
    assert "resumed" not in kinds(path)


def test_a_run_without_a_committed_state_starts_over(path):
    ledger_plans.run(path, through=2)
    assert ledger.resumable(path) is None
    assert len(ledger_plans.run(path)["earlier"]) == 1


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda opened: opened.charge(5), "ledger order"),
        (lambda opened: opened.charge(2.5), "ledger order"),
        (lambda opened: opened.checkpoint(3, STATE), "ledger order"),
        (lambda opened: opened.checkpoint(1, "short"), "ledger order"),
        (lambda opened: opened.release([{"artifact": "heads", "sha256": HEADS, "step": 4}], "passed"), "ledger order"),
        (lambda opened: opened.resume(), "ledger order"),
    ],
)
def test_what_may_not_follow_is_refused_and_not_written(path, act, message):
    with ledger.opened(path, ledger_plans.plan()) as opened:
        opened.charge(2)
        before = path.read_text()
        with pytest.raises(errors.StoreError, match=message):
            act(opened)
        opened.charge(1)  # fewer than before: nothing to charge
        assert path.read_text() == before


@pytest.mark.parametrize(("decomposition", "said"), [("per_record", "not run"), ("per_record", ledger_chain.UNTESTABLE), ("none", "passed")])
def test_nothing_leaves_without_the_self_test_that_its_objective_has(path, decomposition, said):
    with ledger.opened(path, ledger_plans.plan(decomposition)) as opened:
        opened.charge(4)
        with pytest.raises(errors.StoreError, match="passed self-test"):
            opened.release([{"artifact": "heads", "sha256": HEADS, "step": 4}], said)


def test_two_writers_do_not_overwrite_each_other(path):
    with ledger.opened(path, ledger_plans.plan()) as first:
        ledger.Ledger(path).charge(1)
        with pytest.raises(errors.StoreError, match="one run at a time"):
            first.charge(2)


def test_a_second_run_in_place_adds_to_the_first(path):
    first = ledger_plans.run(path)
    second = ledger_plans.run(path, artifact="9" * 64)
    assert [one["run_id"] for one in second["earlier"]] == [first["run_id"]]
    total = second["epsilon_all_runs"]
    assert total["runs"] == 2
    assert second["epsilon"]["rdp"] < total["rdp"] < 2 * second["epsilon"]["rdp"]
    assert second["epsilon"]["pld"] < total["pld"] < 2 * second["epsilon"]["pld"]
    assert "1 earlier released run(s)" in second["statement"]
    assert ledger.load(path) == second
    third = ledger_plans.run(path, ledger_plans.plan(unit="pair"))
    assert third["epsilon_all_runs"]["mixed_units"] is True
    assert third["epsilon_all_runs"]["rdp"] is None


def test_earlier_runs_that_released_nothing_or_used_no_data_are_listed_and_add_nothing(path):
    ledger_plans.run(path, through=2)
    with ledger.opened(path, ledger_plans.plan()):
        pass
    control = ledger_plans.run(path, ledger_plans.plan(data_used=False))
    assert control["epsilon"]["rdp"] == 0
    found = ledger_plans.run(path)
    assert [(one["status"], one["steps"], one["data_used"]) for one in found["earlier"]] == [
        ("interrupted", 2, True),
        ("planned", 4, True),
        ("complete", 4, False),
    ]
    assert found["epsilon_all_runs"]["runs"] == 1
    assert found["epsilon_all_runs"]["rdp"] == found["epsilon"]["rdp"]
    assert "add nothing to epsilon: 1 interrupted, 1 noise-only, 1 planned." in found["statement"]


def test_a_ledger_vouches_for_its_own_heads_only(path, tmp_path):
    made = ledger_plans.run(path)
    assert ledger.load_for(path, HEADS, data_used=True) == made
    with pytest.raises(errors.StoreError, match="ledger of other heads"):
        ledger.load_for(path, "9" * 64, data_used=True)
    with pytest.raises(errors.StoreError, match="expected that of a noise-only control"):
        ledger.load_for(path, HEADS, data_used=False)
    ledger_plans.run(path, through=1)
    with pytest.raises(errors.StoreError, match="unfinished training"):
        ledger.load_for(path, HEADS, data_used=True)


AUDIT = {"method": "one run", "claim": 2.0, "lower_bound": 0.4, "confidence": 0.95, "canaries": 500, "threat_model": "black box", "power": {"noise_free": 4.1}}


def test_an_audit_is_kept_with_the_claim_it_tested(path):
    ledger_plans.run(path)
    found = ledger.record_audit(path, AUDIT)
    assert found["audit"] == AUDIT == ledger.load(path)["audit"]
    assert "epsilon is at least 0.4" in found["statement"]
    with pytest.raises(errors.UsageError, match="audit result"):
        ledger.record_audit(path, {**AUDIT, "canary_scores": [1.0]})
    with pytest.raises(errors.StoreError, match="ledger order"):
        ledger.record_audit(path, {**AUDIT, "confidence": 95})
    assert ledger.load(path)["steps"]["status"] == "complete"


@pytest.mark.parametrize("changes", [{"decomposition": "none"}, {"multiplier": 0.0}, {"disclosed": True}])
def test_infinite_epsilon_is_null_in_strict_json(path, changes):
    found = ledger_plans.run(path, ledger_plans.plan(**changes))
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert found["epsilon"]["infinite"] is True
    assert found["epsilon"]["rdp"] is found["epsilon"]["pld"] is None
    assert {one["dp_event"]["class_name"] for one in found["events"]} == {"NonPrivateDpEvent"}
    assert ledger.load(path) == found


def test_a_capped_objective_pays_for_batches_above_its_cap(path):
    found = ledger_plans.run(path, ledger_plans.plan("per_pair", cap=30))
    lost = found["sampling"]["overflow_delta"]
    assert 0 < lost == found["epsilon"]["overflow_delta"] < 1e-5
    assert [row["rdp"] is None for row in found["epsilon"]["at_delta"]] == [row["delta"] <= lost for row in found["epsilon"]["at_delta"]]
    free = accounting.price(dataclasses.replace(ledger.mechanism_of(found), overflow_delta=0.0), 1e-5 - lost)
    assert found["epsilon"]["rdp"] == pytest.approx(free.rdp, rel=1e-9)
    half = ledger_plans.run(path.with_name("other.json"), ledger_plans.plan("per_pair", cap=30), through=2)
    assert half["epsilon"]["overflow_delta"] == pytest.approx(lost / 2)


def test_no_seed_key_index_size_norm_or_identifier_is_in_the_file(path):
    ledger_plans.run(path, ledger_plans.plan("per_pair", unit="pair"))
    ledger.record_audit(path, AUDIT)
    names = set(ledger_rules.names(json.loads(path.read_text())))
    assert {name for name in names if "seed" in name} == {"seed_disclosed"}
    for word in ("secret", "indices", "realised", "norms", "loss", "patient_id", "study_id", "path"):
        assert not any(word in name for name in names), word
    for private in ({"batch_indices": [1]}, {"patient_ids": ["a"]}, {"seed": 3}, {"stage": {"noise_key": 1}}):
        with pytest.raises(errors.StoreError, match="no seed, key, batch, norm or identifier"):
            ledger_plans.run(None, ledger_plans.plan(dataset=private))


@pytest.mark.parametrize("content", ["{", "[]", '"text"', '{"schema_version": "1.1"}', '{"schema_version": "2.0", "entries": []}'])
def test_missing_broken_or_older_files_are_refused(path, content):
    with pytest.raises(errors.StoreError, match="missing"):
        ledger.load(path)
    path.parent.mkdir()
    path.write_text(content)
    for act in (lambda: ledger.load(path), lambda: ledger.Ledger(path)):
        with pytest.raises(errors.StoreError):
            act()
