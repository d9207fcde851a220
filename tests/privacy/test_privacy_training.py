import json
import math
import secrets

import jax
import numpy as np
import pytest

from relink_jax import errors, heads
from relink_jax.privacy import clipping, controls, noise, objectives, sampling, training
from relink_jax.privacy import ledger as ledgers

SMALL = {"expected_batch_size": 10, "iterations": 4, "learning_rate": 0.1}


def distance(first, second):
    return np.sqrt(sum(float(np.sum((np.asarray(first[s]["kernel"], np.float64) - second[s]["kernel"]) ** 2)) for s in heads.SIDES))


def measured_deviation(trained, initial, learning_rate, iterations, batch):
    """Noise stddev on the sum, recovered from how far SGD moved heads that saw no gradient."""
    moved = np.concatenate([(trained.heads[s]["kernel"] - initial[s]["kernel"]).ravel() for s in heads.SIDES]).astype(np.float64)
    return moved.std() * batch / (learning_rate * np.sqrt(iterations)), moved.size


def test_training_meets_its_target_and_moves_both_heads(toy):
    trained = training.train_heads(*toy.arguments, **SMALL)
    epsilon = trained.ledger["epsilon"]
    assert 0.34 - 1e-3 < epsilon["rdp"] <= 0.34
    assert 0 < epsilon["pld"] < epsilon["rdp"]
    for side in heads.SIDES:
        assert trained.heads[side]["kernel"].dtype == np.float32
        assert not np.array_equal(trained.heads[side]["kernel"], toy.heads[side]["kernel"])


@pytest.mark.parametrize(("clip", "multiplier"), [(1.0, 3.0), (2.5, 1.3)])
def test_noise_that_moved_the_heads_is_the_noise_in_the_ledger(toy, clip, multiplier):
    trained = controls.noise_only(*toy.arguments, **SMALL, l2_norm_clip=clip, noise_multiplier=multiplier)
    found, entries = measured_deviation(trained, toy.heads, 0.1, 4, 10)
    assert trained.ledger["noise"]["std_absolute"] == pytest.approx(clip * multiplier)
    assert found == pytest.approx(trained.ledger["noise"]["std_absolute"], rel=5 / np.sqrt(2 * entries))


@pytest.mark.parametrize("mutation", [lambda multiplier, sensitivity: multiplier, lambda multiplier, sensitivity: multiplier * sensitivity / 10])
def test_noise_scaled_without_sensitivity_or_by_the_batch_is_caught(toy, monkeypatch, mutation):
    sound = noise.stddev
    calls = []

    def wrong_at_the_draw(multiplier, sensitivity):
        calls.append(1)
        return sound(multiplier, sensitivity) if len(calls) == 1 else mutation(multiplier, sensitivity)

    monkeypatch.setattr(noise, "stddev", wrong_at_the_draw)
    with pytest.raises(AssertionError):
        test_noise_that_moved_the_heads_is_the_noise_in_the_ledger(toy, 2.5, 1.3)


def test_one_draw_per_step_divided_by_the_public_batch(toy, monkeypatch):
    drawn = []
    sound = noise.add_noise

    def spy(total, multiplier, key):
        drawn.append(np.asarray(jax.random.key_data(key)).tobytes())
        return sound(total, multiplier, key)

    monkeypatch.setattr(noise, "add_noise", spy)
    training.train_heads(*toy.arguments, **SMALL)
    assert len(drawn) == 4
    assert len(set(drawn)) == 4


def test_without_noise_the_loss_falls_and_the_ledger_says_infinite(toy):
    settings = {"expected_batch_size": 40, "iterations": 40, "learning_rate": 0.5, "noise_multiplier": 0.0}
    trained = training.train_heads(*toy.arguments, **settings)
    objective = objectives.get_objective("anchor_infonce", 0.1)

    def mean_loss(params):
        return np.mean([float(objective.loss(params, (toy.images[k], toy.texts[k]), toy.bank.features)) for k in range(20)])

    assert mean_loss(trained.heads) < 0.5 * mean_loss(toy.heads)
    epsilon = trained.ledger["epsilon"]
    assert (epsilon["infinite"], epsilon["rdp"], epsilon["pld"]) == (True, None, None)
    assert trained.ledger["events"][0]["dp_event"]["class_name"] == "NonPrivateDpEvent"
    assert "NOT PRIVATE: no noise" in trained.ledger["statement"]


def test_empty_batch_is_a_noise_only_step(toy, monkeypatch):
    monkeypatch.setattr(sampling.PoissonSampler, "sample", lambda self: np.zeros(0, np.int32))
    quiet = training.train_heads(*toy.arguments, **SMALL, noise_multiplier=0.0)
    assert distance(quiet.heads, toy.heads) == 0
    noisy = training.train_heads(*toy.arguments, **SMALL, noise_multiplier=2.0)
    found, entries = measured_deviation(noisy, toy.heads, 0.1, 4, 10)
    assert found == pytest.approx(2.0, rel=5 / np.sqrt(2 * entries))


def test_a_draw_larger_than_the_physical_batch_is_not_truncated(toy, monkeypatch):
    settings = {"expected_batch_size": 1, "iterations": 1, "learning_rate": 1.0, "noise_multiplier": 0.0}
    assert sampling.physical_cap(1, 40, 256)[0] < 40
    drawn = np.arange(40, dtype=np.int32)
    monkeypatch.setattr(sampling.PoissonSampler, "sample", lambda self: drawn)
    trained = training.train_heads(*toy.arguments, **settings)
    objective = objectives.get_objective("anchor_infonce", 0.1)
    expected = clipping.clipped_sum(objective, toy.heads, toy.images, toy.texts, drawn, np.zeros(40, bool), toy.bank.features, l2_norm_clip=1.0, chunk=40)
    for side in heads.SIDES:
        np.testing.assert_allclose(toy.heads[side]["kernel"] - trained.heads[side]["kernel"], expected.value[side]["kernel"], atol=1e-5)


def test_implementation_and_chunk_do_not_change_the_heads(toy):
    base = training.train_heads(*toy.arguments, **SMALL, test_seed=3)
    for changes in ({"clipping": "vmap"}, {"chunk": 4}):
        other = training.train_heads(*toy.arguments, **SMALL, test_seed=3, **changes)
        assert distance(base.heads, other.heads) < 1e-5 * distance(base.heads, toy.heads)


def test_randomness_is_fresh_unless_a_test_seed_voids_the_guarantee(toy):
    first, second = (training.train_heads(*toy.arguments, **SMALL) for _ in range(2))
    assert distance(first.heads, second.heads) > 0
    seeded = [training.train_heads(*toy.arguments, **SMALL, test_seed=1) for _ in range(2)]
    assert distance(seeded[0].heads, seeded[1].heads) == 0
    ledger = seeded[0].ledger
    assert ledger["epsilon"]["infinite"]
    assert ledger["noise"]["rng_mode"] == "test"
    assert "NOT PRIVATE: its random seed" in ledger["statement"]


def test_no_secret_and_no_private_quantity_reaches_the_ledger(toy, monkeypatch, tmp_path, capsys):
    handed, drawn, gradients = [], [], []
    token_bytes, sample, add_noise = secrets.token_bytes, sampling.PoissonSampler.sample, noise.add_noise

    def spy_bytes(size):
        handed.append(token_bytes(size))
        return handed[-1]

    def spy_sample(self):
        drawn.append(sample(self))
        return drawn[-1]

    def spy_noise(total, multiplier, key):
        gradients.extend(float(np.linalg.norm(leaf)) for leaf in jax.tree.leaves(total.value))
        return add_noise(total, multiplier, key)

    monkeypatch.setattr(secrets, "token_bytes", spy_bytes)
    monkeypatch.setattr(sampling.PoissonSampler, "sample", spy_sample)
    monkeypatch.setattr(noise, "add_noise", spy_noise)
    path = tmp_path / "privacy_ledger.json"
    trained = training.train_heads(*toy.arguments, **SMALL, ledger_path=path)
    run_id = trained.ledger["run_id"]
    handed = [secret for secret in handed if secret.hex() != run_id]
    assert sorted(map(len, handed)) == [8, 8, 8, 8, 32]
    output = capsys.readouterr()
    written = path.read_text() + json.dumps(trained.ledger) + output.out + output.err
    for secret in handed:
        forms = [secret.hex(), str(int.from_bytes(secret, "little")), str(int.from_bytes(secret, "big")), *map(str, np.frombuffer(secret, np.uint32))]
        assert not any(form in written for form in forms)
    assert not any(repr(value)[:8] in written for value in gradients)
    numbers = [value for key, value in leaves(trained.ledger) if not isinstance(value, str)]
    assert [len(rows) for rows in drawn] not in numbers
    assert set(trained.ledger["sampling"]) == {"kind", "q", "expected", "physical_cap", "truncation", "seed_disclosed"}
    assert "loss" not in {key for key, _ in leaves(trained.ledger)}


def leaves(value, key=""):
    if isinstance(value, dict):
        return [pair for name, inner in value.items() for pair in leaves(inner, name)]
    return [(key, value)]


def test_noise_only_reads_no_private_row(toy):
    images, texts = (np.full_like(features, np.nan) for features in (toy.images, toy.texts))
    control = controls.noise_only(toy.heads, images, texts, toy.patient, toy.bank, **SMALL)
    plain = training.train_heads(*toy.arguments, **SMALL)
    assert np.isfinite(control.heads["image"]["kernel"]).all()
    assert control.ledger["noise"]["std_absolute"] == plain.ledger["noise"]["std_absolute"]
    assert (control.ledger["epsilon"]["rdp"], control.ledger["epsilon"]["pld"]) == (0.0, 0.0)
    assert control.ledger["data_used"] is False


def test_unusable_records_do_not_spoil_the_heads(toy):
    images = toy.images.copy()
    images[:30] = np.nan
    images[30:60] = 1e38
    trained = training.train_heads(toy.heads, images, toy.texts, toy.patient, toy.bank, **{**SMALL, "expected_batch_size": 40})
    assert np.isfinite(trained.heads["image"]["kernel"]).all()


def test_unit_pair_ignores_patients_and_costs_a_smaller_q(toy):
    by_pair = training.train_heads(*toy.arguments, **SMALL, unit="pair")
    assert by_pair.ledger["sampling"]["q"] == "1/10"
    assert by_pair.ledger["dataset"]["n_units_declared"] == 100
    assert training.train_heads(*toy.arguments, **SMALL).ledger["sampling"]["q"] == "1/4"


def test_adam_is_an_optimizer_too(toy):
    trained = training.train_heads(*toy.arguments, **{**SMALL, "learning_rate": 0.01}, optimizer="adam")
    assert 0 < distance(trained.heads, toy.heads) < 0.05 * np.sqrt(8 * 28)


def test_bad_input_is_named_before_any_step(toy, tmp_path):
    cases = [
        (errors.DataError, "rows, one per pair", {"image_features": toy.images[:-1]}),
        (errors.DataError, "text features", {"text_features": toy.texts[:, :-1]}),
        (errors.DataError, "anchor features", {"public": objectives.PublicBank(toy.bank.features[:, :-1], "x")}),
        (errors.DataError, "sides", {"initial": {"image": toy.heads["image"]}}),
        (errors.UnsoundError, "public bank", {"public": objectives.PublicBank(toy.texts[:5], "x")}),
        (errors.UsageError, "optimizer", {"optimizer": "sdg"}),
        (errors.UsageError, "privacy unit", {"unit": "study"}),
        (errors.UsageError, "objective", {"objective": "inbatch_infonce"}),
        (errors.UsageError, "expected_batch_size", {"expected_batch_size": 41}),
        (errors.UsageError, "expected_batch_size", {"expected_batch_size": 10.5}),
        (errors.UsageError, "expected_batch_size", {"expected_batch_size": True}),
        (errors.UsageError, "target_epsilon", {"target_epsilon": 0.0}),
        (errors.UsageError, "target_epsilon", {"target_epsilon": math.nan}),
        (errors.UsageError, "privacy target", {"target_epsilon": 1e7}),
        (errors.UsageError, "target_delta", {"target_delta": -1}),
        (errors.UsageError, "target_delta", {"target_delta": 0.0, "noise_multiplier": 1.0}),
        (errors.UsageError, "target_delta", {"target_delta": math.nan, "noise_multiplier": 0.0}),
        (errors.UsageError, "did you mean 'vmap'", {"clipping": "vmapp"}),
        (errors.UsageError, "clipping", {"clipping": "ghost"}),
        (errors.UsageError, "chunk", {"chunk": 0}),
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
        (errors.UsageError, "temperature", {"temperature": math.nan}),
        (errors.UsageError, r"dataset in ledger.*n_units_declared", {"dataset": {"n_units_declared": 10**6, "name": "toy"}}),
        (errors.UsageError, "dataset in ledger", {"dataset": {"seen": {1, 2}}}),
        (errors.UsageError, "n_trials", {"n_trials": 0, "tuned": True}),
        (errors.UsageError, "n_trials", {"n_trials": 5, "tuned": False}),
        (errors.UsageError, "tuned", {"tuned": "no"}),
        (errors.UsageError, "public_tuning_data", {"public_tuning_data": " "}),
        (errors.DataError, "image head", {"initial": {**toy.heads, "image": {"kernel": np.full_like(toy.heads["image"]["kernel"], np.nan)}}}),
        (errors.DataError, "image features", {"initial": {**toy.heads, "image": {"kernel": np.zeros(3, np.float32)}}}),
        (errors.DataError, "one kernel each", {"initial": {**toy.heads, "image": {}}}),
    ]
    names = ("initial", "image_features", "text_features", "pair_unit", "public")
    path = tmp_path / "run" / "privacy_ledger.json"
    for kind, message, change in cases:
        with pytest.raises(kind, match=message) as caught:
            training.train_heads(**{**dict(zip(names, toy.arguments, strict=True)), **SMALL, "ledger_path": path, **change})
        assert "\n" not in str(caught.value)
        assert not path.parent.exists()


def test_numpy_numbers_are_numbers(toy, tmp_path):
    settings = {"expected_batch_size": np.int64(10), "iterations": np.int32(2), "learning_rate": np.float32(0.1), "l2_norm_clip": np.float64(1)}
    path = tmp_path / "privacy_ledger.json"
    training.train_heads(*toy.arguments, **settings, n_trials=np.int64(1), ledger_path=path)
    assert ledgers.load(path)["sampling"]["expected"] == 10


def test_a_huge_epsilon_trains_and_says_that_it_promises_nothing_of_use(toy):
    ledger = training.train_heads(*toy.arguments, **SMALL, target_epsilon=800.0).ledger
    assert 799 < ledger["epsilon"]["rdp"] <= 800
    assert "(more than 1e+06) times" in ledger["statement"]
    assert "gains at most 1.000" in ledger["statement"]


def test_a_step_size_that_destroys_the_heads_is_refused(toy):
    with pytest.raises(errors.UsageError, match="learning_rate"):
        training.train_heads(*toy.arguments, **{**SMALL, "learning_rate": 1e39})


@pytest.mark.parametrize("unit", ["patient", "pair"])
def test_every_step_draws_a_batch_of_the_accounted_units_at_the_accounted_rate(toy, monkeypatch, unit):
    made, draws, sound = [], [], sampling.PoissonSampler

    class Spy(sound):
        def __init__(self, units, q, *rest):
            made.append((np.asarray(units).copy(), q))
            super().__init__(units, q, *rest)

        def sample(self):
            draws.append(super().sample())
            return draws[-1]

    monkeypatch.setattr(sampling, "PoissonSampler", Spy)
    trained = training.train_heads(*toy.arguments, **SMALL, unit=unit)
    (units, q), owners = made[0], np.asarray(toy.arguments[3])
    assert len(made) == 1
    assert units.tolist() == (np.unique(owners, return_inverse=True)[1].tolist() if unit == "patient" else list(range(len(owners))))
    assert str(q) == trained.ledger["sampling"]["q"]
    assert len(draws) == SMALL["iterations"]
    assert len({draw.tobytes() for draw in draws}) > 1
