"""Every setting and array of a training run is checked, and named in one sentence, before anything is computed or written."""

import dataclasses
import math

import numpy as np
import pytest

from relink_jax import config, errors
from relink_jax.privacy import banks, clipping, objectives, options, sampling, selftest, training

SMALL = {"expected_batch_size": 10, "iterations": 4, "learning_rate": 0.1}


def train(toy, ledger_path=None, dataset=None, bank="own", **changes):
    records = clipping.Records(changes.pop("images", toy.images), changes.pop("texts", toy.texts))
    public = toy.bank if bank == "own" else bank
    start, owners = changes.pop("initial", toy.heads), changes.pop("owners", toy.patient)
    return training.train_heads(start, records, owners, public, options.Options(**{**SMALL, **changes}), ledger_path=ledger_path, dataset=dataset)


def test_bad_input_is_named_before_any_step(toy, tmp_path):
    narrow = banks.PublicBank(toy.bank.features[:, :-1], "x")
    cases = [
        (errors.DataError, "rows, one per pair", {"images": toy.images[:-1]}),
        (errors.DataError, "text features|head of form", {"texts": toy.texts[:, :-1]}),
        (errors.DataError, "anchor features|head of form", {"bank": narrow}),
        (errors.DataError, "sides", {"initial": {"image": toy.heads["image"]}}),
        (errors.UnsoundError, "public bank", {"bank": banks.PublicBank(toy.texts[:5], "x")}),
        (errors.UsageError, "optimizer", {"optimizer": "sdg"}),
        (errors.UsageError, "schedule", {"schedule": "cosin"}),
        (errors.UsageError, "did you mean 'study'", {"unit": "studdy"}),
        (errors.UsageError, "objective", {"objective": "inbatch_infonce"}),
        (errors.UsageError, "expected_batch_size", {"expected_batch_size": 41}),
        (errors.UsageError, "expected_batch_size", {"expected_batch_size": 10.5}),
        (errors.UsageError, "expected_batch_size", {"expected_batch_size": True}),
        (errors.UsageError, "pairs_per_unit", {"pairs_per_unit": 0}),
        (errors.UsageError, "target_epsilon", {"target_epsilon": 0.0}),
        (errors.UsageError, "target_epsilon", {"target_epsilon": math.nan}),
        (errors.UsageError, "privacy target", {"target_epsilon": 1e7}),
        (errors.UsageError, "target_delta", {"target_delta": -1}),
        (errors.UsageError, "target_delta", {"target_delta": 0.0, "noise_multiplier": 1.0}),
        (errors.UsageError, "target_delta", {"target_delta": math.nan, "noise_multiplier": 0.0}),
        (errors.UsageError, "did you mean 'vmap'", {"clipping": "vmapp"}),
        (errors.UsageError, "rng_mode", {"rng_mode": "hardened"}),
        (errors.UsageError, "accountant", {"accountant": "gdp"}),
        (errors.UsageError, "chunk", {"chunk": -1}),
        (errors.UsageError, "noise_multiplier", {"noise_multiplier": -1.0}),
        (errors.UsageError, "noise_multiplier", {"noise_multiplier": math.nan}),
        (errors.UsageError, "noise_multiplier", {"noise_multiplier": 1e-200}),
        (errors.UsageError, "l2_norm_clip", {"l2_norm_clip": 0.0}),
        (errors.UsageError, "l2_norm_clip", {"l2_norm_clip": math.inf}),
        (errors.UsageError, "l2_norm_clip", {"l2_norm_clip": "1"}),
        (errors.UsageError, "iterations", {"iterations": 0}),
        (errors.UsageError, "iterations", {"iterations": 4.0}),
        (errors.UsageError, "learning_rate", {"learning_rate": math.nan}),
        (errors.UsageError, "learning_rate", {"learning_rate": 0.0}),
        (errors.UsageError, "temperature", {"temperature": math.inf}),
        (errors.UsageError, "temperature", {"objective": "logit_dp", "bank": None}),
        (errors.UsageError, r"dataset in ledger.*n_units_declared", {"dataset": {"n_units_declared": 10**6, "name": "toy"}}),
        (errors.UsageError, "dataset in ledger", {"dataset": {"seen": {1, 2}}}),
        (errors.UsageError, "n_trials", {"n_trials": 0, "tuned": True}),
        (errors.UsageError, "n_trials", {"n_trials": 5, "tuned": False}),
        (errors.UsageError, "tuned", {"tuned": "no"}),
        (errors.UsageError, "public_tuning_data", {"public_tuning_data": " "}),
        (errors.DataError, "image head", {"initial": {**toy.heads, "image": {"kernel": np.full_like(toy.heads["image"]["kernel"], np.nan)}}}),
        (errors.DataError, "no known form|something to train", {"initial": {"image": {}, "text": {}}}),
        (errors.UsageError, "public bank", {"bank": None}),
    ]
    path = tmp_path / "run" / "privacy_ledger.json"
    for kind, message, change in cases:
        with pytest.raises(kind, match=message) as caught:
            train(toy, **{"ledger_path": path, **change})
        assert "\n" not in str(caught.value)
        assert not path.parent.exists()


def test_a_failed_self_test_stops_before_any_row_is_read_or_ledger_written(toy, tmp_path, monkeypatch):
    def failing(*given, **named):
        raise errors.UnsoundError("sensitivity in objective 'anchor_infonce': expected at most 1 C, found 7 C")

    monkeypatch.setattr(selftest, "check", failing)
    monkeypatch.setattr(clipping, "clipped_sum", lambda *given, **named: pytest.fail("a private row was read"))
    with pytest.raises(errors.UnsoundError, match="found 7 C"):
        train(toy, ledger_path=tmp_path / "run" / "privacy_ledger.json")
    assert not (tmp_path / "run").exists()


def test_what_a_config_may_say_is_what_training_takes():
    """`config` imports no jax and so lists the names again."""
    assert set(config.OBJECTIVES) == set(objectives.NAMES)
    assert config.UNITS == sampling.UNITS
    assert set(config.OPTIMIZERS) == set(options.OPTIMIZERS)
    assert set(config.SCHEDULES) == set(options.SCHEDULES)
    for section, own in ((config.MechanismConfig, {"relative_displacement"}), (config.PerformanceConfig, set())):
        assert {field.name for field in dataclasses.fields(section)} - own <= {field.name for field in dataclasses.fields(options.Options)}
