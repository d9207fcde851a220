import pytest

from relink_jax import errors
from relink_jax.privacy import compare, controls, ledger, training

SMALL = {"expected_batch_size": 10, "iterations": 4, "learning_rate": 0.1, "dataset": {"name": "toy"}}


@pytest.fixture
def heads_dir(toy, tmp_path):
    root = tmp_path / "heads" / "model"
    training.train_heads(*toy.arguments, **SMALL, ledger_path=root / "dp" / ledger.FILE_NAME)
    controls.noise_only(*toy.arguments, **SMALL, ledger_path=root / "noise_only" / ledger.FILE_NAME)
    training.train_heads(*toy.arguments, **SMALL, unit="pair", target_delta=1e-5, ledger_path=root / "pair" / ledger.FILE_NAME)
    return root


def row(text, label):
    return next(line for line in text.splitlines() if line.startswith(label))


def test_runs_stand_side_by_side(heads_dir):
    text = compare.compare([heads_dir])
    assert text.splitlines()[1].split() == ["model/dp", "model/noise_only", "model/pair"]
    assert row(text, "privacy unit").split()[2:] == ["patient", "patient", "pair"]
    assert row(text, "epsilon, RDP").split()[-3:] == ["0.34", "0", "0.34"]
    assert row(text, "sampling").count("q = 1/4") == 2
    assert row(text, "delta x N").split()[-3:] == ["0.00024", "0.00024", "0.001"]
    assert row(text, "uses private data").split()[3] == "yes"
    assert str(heads_dir) not in text


def test_common_deltas_price_every_run_again(heads_dir):
    text = compare.compare([heads_dir])
    at_1e5, at_6e6 = (row(text, f"delta {delta}").split() for delta in ("1e-05", "6e-06"))
    assert at_1e5[-3] == "0.34"
    assert at_6e6[2] == "0.34"
    assert float(at_1e5[2]) < 0.34 < float(at_6e6[-3])


def test_group_table_covers_pair_level_runs_only(heads_dir):
    text = compare.compare([heads_dir])
    values = [float(row(text, f"{k} pair").split()[-1]) for k in compare.PAIRS_PER_PATIENT]
    assert values == sorted(values)
    assert values[0] == pytest.approx(ledger.load(heads_dir / "pair" / ledger.FILE_NAME)["epsilon"]["pld"], abs=2e-3)
    assert values[-1] > 5 * values[0]
    assert "k pairs" not in compare.compare([heads_dir / "dp"])


def test_what_may_not_be_ranked_is_said(heads_dir):
    text = compare.compare([heads_dir])
    assert "privacy units differ (pair, patient): not comparable" in text
    assert "recorded deltas differ" in text
    assert "name the same cohort" in text
    assert "No warnings" in compare.compare([heads_dir / "dp", heads_dir / "noise_only"])


def test_runs_that_name_no_cohort_or_others_are_not_said_to_share_one(toy, tmp_path):
    for name, dataset in (("first", None), ("second", {}), ("third", {"name": "toy"})):
        training.train_heads(*toy.arguments, **SMALL | {"iterations": 1, "dataset": dataset}, ledger_path=tmp_path / name / ledger.FILE_NAME)
    assert "same cohort" not in compare.compare([tmp_path / "first", tmp_path / "second"])
    assert "same cohort" not in compare.compare([tmp_path])


def test_runs_without_a_guarantee_are_flagged(toy, tmp_path):
    for name, change in (("open", {"noise_multiplier": 0.0}), ("seeded", {"test_seed": 1}), ("loose", {"target_delta": 0.03, "target_epsilon": 2.0})):
        training.train_heads(*toy.arguments, **SMALL, **change, ledger_path=tmp_path / name / ledger.FILE_NAME)
    text = compare.compare([tmp_path])
    assert "open: not private, epsilon is infinite (no noise)" in text
    assert "seeded: not private, epsilon is infinite (fixed random seed)" in text
    assert "loose: delta times the number of units is not below 1" in text
    assert row(text, "epsilon, RDP").count("infinite") == 2


def test_more_runs_than_columns_wrap_and_duplicates_count_once(toy, tmp_path):
    for k in range(5):
        training.train_heads(*toy.arguments, **{**SMALL, "iterations": 1}, ledger_path=tmp_path / f"run{k}" / ledger.FILE_NAME)
    runs = compare.read_runs([tmp_path, tmp_path / "run0" / ledger.FILE_NAME])
    assert len(runs) == 5
    text = compare.compare([tmp_path])
    assert sum(line.startswith("privacy unit") for line in text.splitlines()) == 2


def test_missing_runs_are_named_without_paths(tmp_path):
    with pytest.raises(errors.UsageError, match="runs missing"):
        compare.compare([])
    with pytest.raises(errors.StoreError, match="no run") as caught:
        compare.compare([tmp_path])
    assert str(tmp_path.parent) not in str(caught.value)
    with pytest.raises(errors.StoreError, match="missing"):
        compare.compare([tmp_path / "absent.json"])
