"""A training run that is killed goes on with the draws it would have made, and its ledger never forgets what was charged."""

import os
import stat

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.privacy import clipping, noise, options, randomness, training, training_state
from relink_jax.privacy import ledger as ledgers
from relink_jax.store import files

SETTINGS = {"expected_batch_size": 10, "iterations": 12, "learning_rate": 0.1, "checkpoint_every": 3, "optimizer": "adam"}


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


def train(toy, path, **changes):
    records = clipping.Records(changes.pop("images", toy.images), toy.texts)
    return training.train_heads(toy.heads, records, toy.patient, toy.bank, options.Options(**{**SETTINGS, **changes}), ledger_path=path)


def killed_at(toy, path, monkeypatch, step, **changes):
    """Trains until the noise of `step` is about to be drawn, and dies there."""
    seen, sound = [], noise.add_noise

    def dying(*given):
        seen.append(1)
        if len(seen) > step:
            raise KilledError
        return sound(*given)

    with monkeypatch.context() as patch:
        patch.setattr(noise, "add_noise", dying)
        with pytest.raises(KilledError):
            train(toy, path, **changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "privacy_ledger.json"


@pytest.fixture
def one_secret(monkeypatch):
    """Makes every run begin with the same secret, as if it were the same run, without disclosing it to the ledger."""
    monkeypatch.setattr(randomness, "fresh", lambda seed=None: randomness.Secret(bytes(range(32))))


@pytest.mark.parametrize("step", [0, 1, 3, 7, 11])
def test_a_killed_run_ends_with_the_heads_of_one_that_was_not(toy, path, tmp_path, monkeypatch, one_secret, step):
    whole = train(toy, tmp_path / "whole" / "privacy_ledger.json")
    killed_at(toy, path, monkeypatch, step)
    begun = ledgers.load(path)
    assert begun["steps"]["status"] != "complete"
    assert begun["steps"]["executed"] == min(12, step // 3 * 3 + 3)
    monkeypatch.setattr(randomness, "fresh", lambda seed=None: pytest.fail("a resumed run must not draw a new secret"))
    again = train(toy, path)
    for side in toy.heads:
        np.testing.assert_array_equal(whole.heads[side]["kernel"], again.heads[side]["kernel"])
    assert again.ledger["steps"]["executed"] == 12
    assert again.ledger["epsilon"]["rdp"] == pytest.approx(whole.ledger["epsilon"]["rdp"])
    assert again.ledger["steps"]["resumed_from"] == [step // 3 * 3]
    assert again.ledger["earlier"] == []
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]


def test_a_run_killed_twice_goes_on_twice(toy, path, tmp_path, monkeypatch, one_secret):
    whole = train(toy, tmp_path / "whole" / "privacy_ledger.json")
    killed_at(toy, path, monkeypatch, 5)
    killed_at(toy, path, monkeypatch, 4)
    again = train(toy, path)
    np.testing.assert_array_equal(whole.heads["image"]["kernel"], again.heads["image"]["kernel"])
    assert again.ledger["steps"]["resumed_from"] == [3, 6]


@pytest.mark.parametrize("write", range(1, 14))
def test_a_write_that_fails_leaves_a_run_that_can_go_on(toy, path, tmp_path, one_secret, write):
    whole = train(toy, tmp_path / "whole" / "privacy_ledger.json")
    try:
        with files.fail_at(write):
            train(toy, path)
    except errors.StoreError:
        pass
    again = train(toy, path)
    np.testing.assert_array_equal(whole.heads["image"]["kernel"], again.heads["image"]["kernel"])
    assert ledgers.load(path)["steps"]["status"] == "complete"


def test_steps_are_charged_before_their_noise_is_drawn(toy, path, monkeypatch):
    seen, sound = [], noise.add_noise

    def spy(*given):
        seen.append(ledgers.load(path)["steps"]["executed"])
        return sound(*given)

    monkeypatch.setattr(noise, "add_noise", spy)
    train(toy, path)
    assert seen == [3] * 3 + [6] * 3 + [9] * 3 + [12] * 3


def test_the_state_is_private_and_gone_at_the_end(toy, path, monkeypatch):
    killed_at(toy, path, monkeypatch, 7)
    (state,) = path.parent.glob("training_state-*")
    assert stat.S_IMODE(os.stat(state).st_mode) == 0o600
    train(toy, path)
    assert not list(path.parent.glob("training_state-*"))


def test_other_records_are_not_gone_on_with(toy, path, monkeypatch):
    killed_at(toy, path, monkeypatch, 7)
    with pytest.raises(errors.StoreError, match="other records"):
        train(toy, path, images=toy.images + 1)


def test_a_damaged_state_is_refused(toy, path, monkeypatch):
    killed_at(toy, path, monkeypatch, 7)
    (state,) = path.parent.glob("training_state-*")
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    with pytest.raises(errors.StoreError, match="training state damaged"):
        train(toy, path)


def test_other_settings_begin_a_run_of_their_own_and_the_first_stays_listed(toy, path, monkeypatch):
    killed_at(toy, path, monkeypatch, 7)
    other = train(toy, path, l2_norm_clip=2.0).ledger
    assert other["steps"]["resumed_from"] == []
    assert [run["status"] for run in other["earlier"]] == ["interrupted"]
    assert other["earlier"][0]["steps"] == 9


def test_a_state_of_other_shapes_is_named(toy, path, monkeypatch, tmp_path):
    state = training_state.State(3, {"a": np.zeros(2, np.float32)}, {}, randomness.fresh())
    sha256 = training_state.save(tmp_path, state, "00" * 32)
    again = training_state.load(tmp_path, 3, sha256, ({"a": np.zeros(2, np.float32)}, {}), "00" * 32)
    assert (again.step, again.secret.seed) == (3, state.secret.seed)
    with pytest.raises(errors.StoreError, match="other heads"):
        training_state.load(tmp_path, 3, sha256, ({"a": np.zeros(3, np.float32)}, {}), "00" * 32)
