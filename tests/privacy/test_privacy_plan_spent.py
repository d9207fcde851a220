"""What a plan says of epsilon: spent by the ledgers of a workdir, and to be spent by heads that are not there."""

import dataclasses
import pathlib

import pytest
from ledger_plans import HEADS, plan

from relink_jax import config as config_lib
from relink_jax.privacy import ledger
from relink_jax.stages import plan_heads
from relink_jax.store import workdir

CONFIG = config_lib.RunConfig()


@pytest.fixture
def found(tmp_path):
    return workdir.Workdir(pathlib.Path(tmp_path), "", b"")


def written(found, arm, released=True):
    path = found.heads(CONFIG.mitigate, arm) / ledger.FILE_NAME
    path.parent.mkdir(parents=True)
    with ledger.opened(path, plan()) as one:
        one.charge(4 if released else 2)
        if released:
            one.release([{"artifact": "heads", "sha256": HEADS, "step": 4}], "passed")
    return ledger.load(path)


def test_a_fresh_workdir_has_spent_nothing_and_will_spend_the_target(found):
    assert plan_heads.spent(found, CONFIG) == ("0", "no ledger in this workdir")
    assert plan_heads.spent(None, CONFIG)[0] == "0"
    assert plan_heads.to_spend(found, CONFIG) == ("0.34", "at delta 6e-06, per patient, zero-out, by dp")
    assert plan_heads.to_spend(found, dataclasses.replace(CONFIG, arms=("random", "noise_only"))) == ("0", "no arm is trained on data")


def test_what_a_ledger_says_was_spent_and_heads_that_are_there_spend_nothing_more(found):
    spent = written(found, "dp")
    value, terms = plan_heads.spent(found, CONFIG)
    assert float(value) == pytest.approx(spent["epsilon_all_runs"]["rdp"], rel=1e-3)
    assert terms == "by dp, at delta 1e-05 (RDP), in 1 runs, the last complete"
    (found.heads(CONFIG.mitigate, "dp") / "card.json").write_text("{}")
    assert plan_heads.to_spend(found, CONFIG) == ("0", "heads of every arm on data are there and kept")


def test_training_that_was_killed_has_spent_what_was_charged(found):
    half = written(found, "dp", released=False)
    value, terms = plan_heads.spent(found, CONFIG)
    assert float(value) == pytest.approx(half["epsilon"]["rdp"], rel=1e-3)
    assert terms.endswith("the last interrupted")
    assert plan_heads.to_spend(found, CONFIG)[0] == "0.34"


def test_the_noise_only_control_spends_nothing(found):
    written(found, "noise_only")
    assert plan_heads.spent(found, CONFIG)[0] == "0"
