import ledger_plans
import pytest

from relink_jax.privacy import ledger, statement


def said(decomposition="per_record", through=None, **changes):
    return ledger_plans.run(None, ledger_plans.plan(decomposition, **changes), through)["statement"]


def test_it_says_who_how_much_how_and_what_not():
    found = ledger_plans.run(None)
    text, epsilon = found["statement"], found["epsilon"]
    for phrase in (
        "Privacy unit: one patient (all pairs of one patient)",
        "N is treated as public",
        "used or blanked (zero-out), at the same epsilon as add/remove",
        f"Epsilon {epsilon['rdp']:.4g} at delta 1e-05 by Renyi DP ({epsilon['pld']:.4g} by PLD)",
        "for the 4 charged of 4 planned steps; dp-accounting 0.",
        "N = 40 patients",
        "delta x N = 0.0004, below 1",
        "One pair of a patient that owns others: epsilon at most",
        "Poisson sampling with q = 1/4 per step, executed without truncation",
        "up to 4 random pairs of each drawn patient, averaged; its gradient clipped",
        "20 anchor texts (synthetic texts of a test)",
        "only features equal to the last bit are detected",
        "Randomness: careful mode, fresh operating-system entropy, four float32",
        "Released: the final heads only",
        "Empirical audit: none recorded",
        "never in the training set",
        "pretraining",
        "keeps the original heads",
        "fits a new map",
        "reports that name two people",
        "training loss or the share of clipped gradients",
    ):
        assert phrase in text, phrase
    assert "own derivation" not in text
    assert "NOT PRIVATE" not in text


@pytest.mark.parametrize(
    ("decomposition", "changes", "phrases"),
    [
        ("per_record", {"unit": "pair"}, ["one pair (one image with its report)", "A patient who owns several pairs is protected less", "each drawn pair"]),
        ("per_record", {"unit": "study", "dataset": {"unit_map": "column study"}}, ["one study (column study)", "several studies", "One pair of a study"]),
        ("per_record", {"rng_mode": "research"}, ["research mode", "only final heads may leave"]),
        ("per_record", {"pairs_per_unit": 1}, ["one random pair of each drawn patient"]),
        ("per_record", {"delta": 0.05}, ["not below 1"]),
        ("per_group", {}, ["each group's gradient clipped", "this project's own derivation", "sensitivity 2:", "no public records are compared with"]),
        ("per_pair", {"cap": 30}, ["at most 30 drawn patients kept, which costs", "sensitivity 3:", "own derivation"]),
        ("none", {}, ["NOT PRIVATE: its objective has no bounded sensitivity", "sensitivity unbounded", "which bounds nothing here"]),
        ("per_record", {"multiplier": 0.0}, ["NOT PRIVATE: no noise was added"]),
        ("per_record", {"disclosed": True}, ["NOT PRIVATE: its random seed was fixed and is known", "test mode, a fixed seed"]),
        ("per_record", {"data_used": False}, ["Noise-only control", "No private record was read"]),
        ("per_record", {"selection": {"tuned": True, "n_trials": 7, "public_tuning_data": None}}, ["declared as tuned in 7 tries"]),
        ("per_record", {"truncated_batch": 30, "cap": 30}, ["by PLD (Renyi DP has no bound for this sampling)", "batches above 30 truncated at random"]),
    ],
)
def test_it_says_what_kind_of_run_it_was(decomposition, changes, phrases):
    text = said(decomposition, **changes)
    for phrase in phrases:
        assert phrase in text, phrase


def test_no_number_of_a_guarantee_is_said_where_there_is_none():
    for changes in ({"decomposition": "none"}, {"multiplier": 0.0}, {"disclosed": True}):
        text = said(**changes)
        assert "membership test gains" not in text
        assert "by Renyi DP" not in text


def test_an_interrupted_run_released_nothing():
    text = said(through=2)
    assert "Released: nothing; training ended after at most 2 of 4 steps" in text
    assert "2 charged of 4 planned" in text


def test_an_audit_above_the_claim_is_called_what_it_is():
    flat = ledger_plans.run(None)
    audit = {"method": "paired", "claim": 1.0, "lower_bound": 5.6, "confidence": 0.95, "canaries": 5, "threat_model": "white box", "power": {"noise_free": 5.6}}
    assert "THE CLAIM IS REFUTED" in statement.text({**flat, "audit": audit})
    sound = statement.text({**flat, "audit": {**audit, "lower_bound": 0.2}})
    assert "REFUTED" not in sound
    assert "What it would have found, noise free: 5.6." in sound


def test_it_is_a_function_of_the_flat_ledger_alone(tmp_path):
    path = tmp_path / ledger.FILE_NAME
    ledger_plans.run(path)
    found = ledger.load(path)
    assert found["statement"] == statement.text({name: value for name, value in found.items() if name not in ("statement", "chain")})
