import json

import jax
import numpy as np
import pytest

from relink_jax import errors, heads
from relink_jax.privacy import banks, clipping, noise, objectives, options, randomness, sampling, training
from relink_jax.privacy import ledger as ledgers

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

SMALL = {"expected_batch_size": 10, "iterations": 4, "learning_rate": 0.1}
RAW = {**SMALL, "rng_mode": "research"}  # heads as trained, not on the released grid


def train(toy, ledger_path=None, dataset=None, bank="own", **changes):
    records = clipping.Records(changes.pop("images", toy.images), changes.pop("texts", toy.texts))
    public = toy.bank if bank == "own" else bank
    start, owners = changes.pop("initial", toy.heads), changes.pop("owners", toy.patient)
    return training.train_heads(start, records, owners, public, options.Options(**{**SMALL, **changes}), ledger_path=ledger_path, dataset=dataset)


def flat(value):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(value)])


def distance(first, second):
    return float(np.linalg.norm(flat(first) - flat(second)))


def measured_deviation(trained, initial, learning_rate, iterations, batch):
    """Noise stddev on the sum, recovered from how far SGD moved heads that saw no gradient."""
    moved = flat(trained.heads) - flat(initial)
    return moved.std() * batch / (learning_rate * np.sqrt(iterations)), moved.size


def test_training_meets_its_target_and_moves_both_heads(toy):
    trained = train(toy)
    epsilon = trained.ledger["epsilon"]
    assert 0.34 - 1e-3 < epsilon["rdp"] <= 0.34
    assert 0 < epsilon["pld"] < epsilon["rdp"]
    for side in heads.SIDES:
        assert trained.heads[side]["kernel"].dtype == np.float32
        assert not np.array_equal(trained.heads[side]["kernel"], toy.heads[side]["kernel"])


def test_noise_may_be_calibrated_by_pld_and_both_are_reported(toy):
    by_pld, by_rdp = (train(toy, accountant=name).ledger for name in ("pld", "rdp"))
    assert by_pld["epsilon"]["pld"] == pytest.approx(0.34, abs=2e-3)
    assert by_pld["epsilon"]["rdp"] > 0.34
    assert by_pld["noise"]["std_absolute"] < by_rdp["noise"]["std_absolute"]


@pytest.mark.parametrize(("clip", "multiplier"), [(1.0, 3.0), (2.5, 1.3)])
@pytest.mark.parametrize("mode", noise.MODES)
def test_noise_that_moved_the_heads_is_the_noise_in_the_ledger(toy, clip, multiplier, mode):
    trained = train(toy, data=False, l2_norm_clip=clip, noise_multiplier=multiplier, rng_mode=mode, iterations=16)
    found, entries = measured_deviation(trained, toy.heads, 0.1, 16, 10)
    assert trained.ledger["noise"]["std_absolute"] == pytest.approx(clip * multiplier)
    assert found == pytest.approx(trained.ledger["noise"]["std_absolute"], rel=5 / np.sqrt(2 * entries))


@pytest.mark.parametrize(("objective", "factor"), [("anchor_infonce", 1), ("align", 1), ("group_infonce", 2), ("pair_sigmoid", 3)])
def test_noise_follows_the_sensitivity_that_the_objective_declares(toy, objective, factor):
    trained = train(toy, objective=objective, bank=toy.bank if "anchor" in objective else None, data=False, noise_multiplier=2.0, iterations=16, **{})
    found, entries = measured_deviation(trained, toy.heads, 0.1, 16, 10)
    assert found == pytest.approx(2.0 * factor, rel=5 / np.sqrt(2 * entries))
    assert trained.ledger["noise"]["multiplier_vs_sensitivity"] == pytest.approx(2.0)


@pytest.mark.parametrize("mutation", [lambda multiplier, scale: multiplier, lambda multiplier, scale: multiplier * scale / 10])
def test_noise_scaled_without_sensitivity_or_by_the_batch_is_caught(toy, monkeypatch, mutation):
    add = noise.add_noise
    monkeypatch.setattr(noise, "add_noise", lambda value, deviation, *rest: add(value, mutation(1.3, 2.5), *rest))
    with pytest.raises(AssertionError):
        test_noise_that_moved_the_heads_is_the_noise_in_the_ledger(toy, 2.5, 1.3, "research")


def test_a_sum_that_carries_another_sensitivity_is_refused(toy, monkeypatch):
    honest = clipping.clipped_sum

    def halved(*given, **named):
        found = honest(*given, **named)
        return clipping.ClippedSum(found.value, found.sensitivity / 2, found.relation)

    monkeypatch.setattr(clipping, "clipped_sum", halved)
    with pytest.raises(errors.UnsoundError, match="sensitivity"):
        train(toy)


def test_without_noise_the_loss_falls_and_the_ledger_says_infinite(toy):
    trained = train(toy, expected_batch_size=40, iterations=40, learning_rate=0.5, noise_multiplier=0.0)
    objective = objectives.get_objective("anchor_infonce", 0.1)

    def mean_loss(params):
        return np.mean([float(objective.loss(params, (toy.images[k], toy.texts[k], None), toy.bank.arrays())) for k in range(20)])

    assert mean_loss(trained.heads) < 0.5 * mean_loss(toy.heads)
    epsilon = trained.ledger["epsilon"]
    assert (epsilon["infinite"], epsilon["rdp"], epsilon["pld"]) == (True, None, None)
    assert trained.ledger["events"][0]["dp_event"]["class_name"] == "NonPrivateDpEvent"
    assert "NOT PRIVATE: no noise" in trained.ledger["statement"]


def test_empty_batch_is_a_noise_only_step(toy, monkeypatch):
    empty = clipping.Batch(np.zeros((0, 4), np.int32), np.zeros((0, 4), np.float32))
    monkeypatch.setattr(sampling.PoissonSampler, "averaged", lambda self, step, most: empty)
    assert distance(train(toy, noise_multiplier=0.0, rng_mode="research").heads, toy.heads) == 0
    found, entries = measured_deviation(train(toy, noise_multiplier=2.0, rng_mode="research"), toy.heads, 0.1, 4, 10)
    assert found == pytest.approx(2.0, rel=5 / np.sqrt(2 * entries))


def test_a_draw_larger_than_the_physical_batch_is_not_truncated(toy, monkeypatch):
    assert sampling.physical_cap(1, 40) < 40
    drawn = clipping.Batch(np.arange(40, dtype=np.int32)[:, None], np.ones((40, 1), np.float32))
    monkeypatch.setattr(sampling.PoissonSampler, "averaged", lambda self, step, most: drawn)
    trained = train(toy, expected_batch_size=1, iterations=1, learning_rate=1.0, noise_multiplier=0.0, pairs_per_unit=1, rng_mode="research")
    objective = objectives.get_objective("anchor_infonce", 0.1)
    expected = clipping.clipped_sum(objective, toy.heads, clipping.Records(toy.images, toy.texts), drawn, toy.bank.arrays(), l2_norm_clip=1.0)
    np.testing.assert_allclose(flat(toy.heads) - flat(trained.heads), flat(expected.value), atol=1e-5)


def test_implementation_chunk_and_checkpoints_do_not_change_the_heads(toy, tmp_path):
    base = train(toy, test_seed=3)
    for changes in ({"clipping": "vmap"}, {"chunk": 4}, {"ledger_path": tmp_path / "privacy_ledger.json", "checkpoint_every": 1}):
        other = train(toy, test_seed=3, **changes)
        assert distance(base.heads, other.heads) < 1e-5 * distance(base.heads, toy.heads)


def test_randomness_is_fresh_unless_a_test_seed_voids_the_guarantee(toy):
    first, second = (train(toy) for _ in range(2))
    assert distance(first.heads, second.heads) > 0
    seeded = [train(toy, test_seed=1) for _ in range(2)]
    assert distance(seeded[0].heads, seeded[1].heads) == 0
    ledger = seeded[0].ledger
    assert ledger["epsilon"]["infinite"]
    assert ledger["noise"]["rng_mode"] == "test"
    assert "NOT PRIVATE: its random seed" in ledger["statement"]


def test_released_heads_lie_on_the_public_grid_unless_research_is_asked_for(toy):
    careful, research = train(toy), train(toy, rng_mode="research")
    assert (careful.heads["image"]["kernel"].view(np.uint32) & 0xFFFF == 0).all()
    assert (research.heads["image"]["kernel"].view(np.uint32) & 0xFFFF != 0).any()
    assert (careful.ledger["noise"]["rng_mode"], careful.ledger["noise"]["draws_per_step"]) == ("careful", 4)
    assert (research.ledger["noise"]["rng_mode"], research.ledger["noise"]["draws_per_step"]) == ("research", 1)


def test_no_secret_and_no_private_quantity_reaches_the_ledger(toy, monkeypatch, tmp_path, capsys):
    handed, drawn, gradients = [], [], []
    fresh, sample, add_noise = randomness.fresh, sampling.PoissonSampler.averaged, noise.add_noise

    def spy_fresh(*given):
        handed.append(fresh(*given))
        return handed[-1]

    def spy_sample(self, step, most):
        drawn.append(sample(self, step, most))
        return drawn[-1]

    def spy_noise(value, *rest):
        gradients.extend(float(np.linalg.norm(leaf)) for leaf in jax.tree.leaves(value))
        return add_noise(value, *rest)

    monkeypatch.setattr(randomness, "fresh", spy_fresh)
    monkeypatch.setattr(sampling.PoissonSampler, "averaged", spy_sample)
    monkeypatch.setattr(noise, "add_noise", spy_noise)
    path = tmp_path / "run" / "privacy_ledger.json"
    trained = train(toy, ledger_path=path)
    assert len(handed) == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    output = capsys.readouterr()
    written = path.read_text() + json.dumps(trained.ledger) + output.out + output.err
    seed = handed[0].seed
    keys = [np.asarray(jax.random.key_data(handed[0].key(randomness.NOISE, step))) for step in range(4)]
    forms = [seed.hex(), str(int.from_bytes(seed, "little")), str(int.from_bytes(seed, "big")), *(str(word) for key in keys for word in key)]
    assert not any(form in written for form in forms)
    assert not any(repr(value)[:8] in written for value in gradients)
    assert "loss" not in {key for key, _ in leaves(trained.ledger)}
    numbers = [value for key, value in leaves(trained.ledger) if not isinstance(value, str)]
    assert [len(batch.rows) for batch in drawn] not in numbers


def leaves(value, key=""):
    if isinstance(value, dict):
        return [pair for name, inner in value.items() for pair in leaves(inner, name)]
    return [(key, value)]


def test_noise_only_reads_no_private_row(toy):
    images, texts = (np.full_like(features, np.nan) for features in (toy.images, toy.texts))
    control, plain = train(toy, images=images, texts=texts, data=False), train(toy)
    assert np.isfinite(control.heads["image"]["kernel"]).all()
    assert control.ledger["noise"]["std_absolute"] == plain.ledger["noise"]["std_absolute"]
    assert (control.ledger["epsilon"]["rdp"], control.ledger["epsilon"]["pld"]) == (0.0, 0.0)
    assert control.ledger["data_used"] is False


def test_unusable_records_do_not_spoil_the_heads(toy):
    images = toy.images.copy()
    images[:30] = np.nan
    images[30:60] = 1e38
    assert np.isfinite(flat(train(toy, images=images, expected_batch_size=40).heads)).all()


def test_units_set_the_sampling_probability_and_what_is_averaged(toy):
    by_pair, by_patient = train(toy, unit="pair").ledger, train(toy).ledger
    studies = np.arange(len(toy.patient)) // 2
    by_study = train(toy, unit="study", owners=studies, pairs_per_unit=2).ledger
    assert [one["sampling"]["q"] for one in (by_pair, by_patient, by_study)] == ["1/10", "1/4", "1/5"]
    assert [one["dataset"]["n_units_declared"] for one in (by_pair, by_patient, by_study)] == [100, 40, 50]
    assert [one["dataset"]["pairs_per_unit_per_step"] for one in (by_pair, by_patient, by_study)] == [1, 4, 2]


def test_a_unit_with_m_pairs_moves_the_sum_by_the_average_of_their_gradients(toy):
    whole = {"expected_batch_size": 40, "iterations": 1, "learning_rate": 1.0, "noise_multiplier": 0.0, "l2_norm_clip": 1e6, "rng_mode": "research"}
    trained = train(toy, pairs_per_unit=64, **whole)
    objective = objectives.get_objective("anchor_infonce", 0.1)
    gradients = [flat(jax.grad(objective.loss)(toy.heads, (toy.images[k], toy.texts[k], None), toy.bank.arrays())) for k in range(len(toy.patient))]
    expected = sum(np.mean([gradients[k] for k in np.flatnonzero(toy.patient == patient)], axis=0) for patient in range(40)) / 40
    np.testing.assert_allclose(flat(toy.heads) - flat(trained.heads), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("objective", [name for name in objectives.NAMES if name not in options.PROTOTYPED])
def test_every_objective_trains_and_says_what_it_promises(toy, objective):
    unsound = objective == "inbatch_infonce_unsound"
    bank, changes = (toy.bank if "anchor" in objective else None), {}
    if objective == "logit_dp":
        changes = {"temperature": 0.8}
    ledger = train(toy, objective=objective, bank=bank, allow_unsound=unsound, **changes).ledger
    assert ledger["objective"]["id"] == objective
    assert ledger["epsilon"]["infinite"] is unsound
    if unsound:
        assert ledger["events"][0]["dp_event"]["class_name"] == "NonPrivateDpEvent"
        assert "NOT PRIVATE" in ledger["statement"]
    else:
        assert ledger["epsilon"]["rdp"] <= 0.34 + 1e-9
    assert (ledger["sampling"]["overflow_delta"] > 0) is (objective in ("pair_sigmoid", "logit_dp"))


@pytest.mark.parametrize("objective", options.PROTOTYPED)
def test_prototypes_read_the_labels_of_the_records(toy, objective):
    labels = np.random.default_rng(0).integers(0, 2, (len(toy.patient), 3)).astype(np.float32)
    bank = banks.PublicBank(toy.bank.features[:3], "three prototypes of a test")
    records = clipping.Records(toy.images, toy.texts, labels)
    trained = training.train_heads(toy.heads, records, toy.patient, bank, options.Options(**SMALL, objective=objective))
    assert trained.ledger["objective"]["anchors"]["count"] == 3
    with pytest.raises(errors.DataError, match="labels"):
        train(toy, bank=bank, objective=objective)


def test_the_unsound_objective_needs_leave(toy):
    with pytest.raises(errors.RelinkError, match="allow_unsound"):
        train(toy, objective="inbatch_infonce_unsound", bank=None)


@pytest.mark.parametrize(("optimizer", "schedule"), [("adam", "cosine"), ("momentum", "warmup_cosine"), ("nadam", "linear"), ("rmsprop", "constant")])
def test_optimizers_and_schedules_of_optax(toy, optimizer, schedule):
    trained = train(toy, learning_rate=0.01, optimizer=optimizer, schedule=schedule)
    assert 0 < distance(trained.heads, toy.heads) < 0.2 * np.sqrt(8 * 28)
    assert trained.ledger["optimizer"]["name"] == optimizer
    assert trained.ledger["optimizer"]["schedule"] == schedule


def test_a_linear_schedule_shrinks_the_steps(toy):
    settings = {"data": False, "noise_multiplier": 5.0, "iterations": 40, "rng_mode": "research"}
    moved = [distance(train(toy, **settings, schedule=schedule).heads, toy.heads) for schedule in ("constant", "linear")]
    assert moved[1] / moved[0] == pytest.approx(np.sqrt(1 / 3), rel=0.25)


def test_heads_can_be_kept_near_the_pretrained_ones(toy):
    free, held = (train(toy, data=False, noise_multiplier=50.0, stay_within=limit, rng_mode="research") for limit in (0.0, 0.1))
    size = np.linalg.norm(flat(toy.heads))
    assert distance(free.heads, toy.heads) > 0.2 * size
    assert distance(held.heads, toy.heads) <= 0.1 * size * (1 + 1e-5)


def test_numpy_numbers_are_numbers(toy, tmp_path):
    settings = {"expected_batch_size": np.int64(10), "iterations": np.int32(2), "learning_rate": np.float32(0.1), "l2_norm_clip": np.float64(1)}
    path = tmp_path / "privacy_ledger.json"
    train(toy, **settings, n_trials=np.int64(1), ledger_path=path)
    assert ledgers.load(path)["sampling"]["expected"] == 10


@pytest.mark.slow
def test_a_huge_epsilon_trains_and_says_that_it_promises_nothing_of_use(toy):
    ledger = train(toy, target_epsilon=800.0).ledger
    assert 799 < ledger["epsilon"]["rdp"] <= 800
    assert "(more than 1e+06) times" in ledger["statement"]


def test_a_step_size_that_destroys_the_heads_is_refused(toy):
    with pytest.raises(errors.UsageError, match="learning_rate"):
        train(toy, learning_rate=1e39)


@pytest.mark.parametrize("unit", ["patient", "pair"])
def test_every_step_draws_a_batch_of_the_accounted_units_at_the_accounted_rate(toy, monkeypatch, unit):
    made, draws, sound = [], [], sampling.PoissonSampler

    class Spy(sound):
        def __init__(self, units, q, secret):
            made.append((np.asarray(units).copy(), q))
            super().__init__(units, q, secret)

        def averaged(self, step, most=1):
            draws.append(super().averaged(step, most).rows)
            return super().averaged(step, most)

    monkeypatch.setattr(sampling, "PoissonSampler", Spy)
    trained = train(toy, unit=unit)
    (units, q), owners = made[0], np.asarray(toy.patient)
    assert len(made) == 1
    assert units.tolist() == (np.unique(owners, return_inverse=True)[1].tolist() if unit == "patient" else list(range(len(owners))))
    assert str(q) == trained.ledger["sampling"]["q"]
    assert len(draws) == SMALL["iterations"]
    assert len({draw.tobytes() for draw in draws}) > 1
