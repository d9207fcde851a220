"""Audits of noisy steps, whole runs and one run with canaries: right mechanisms pass, wrong ones are caught, and power is stated."""

import dataclasses
import fractions
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relink_jax import errors, heads
from relink_jax.privacy import accounting, clipping
from relink_jax.privacy.empirical import bounds, canaries, configured, gate, guesses, paired, search, trajectories

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

LIKE = gate.toy_record()
QUARTER = fractions.Fraction(1, 4)


@pytest.fixture(scope="module")
def anchored():
    step = gate.toy_step("anchor_infonce")
    return step, search.neighbours(step, LIKE, n=32)


def noise_of(step, deviation, spared=()):
    trained, _ = heads.partition(step.params)

    def draw(key):
        keys = jax.random.split(key, len(trained))
        return {
            side: jax.tree.map(lambda leaf, key=key, scale=0.0 if side in spared else deviation: scale * jax.random.normal(key, leaf.shape), head)
            for key, (side, head) in zip(keys, trained.items(), strict=True)
        }

    return draw


@pytest.mark.parametrize("claim", gate.CLAIMS)
def test_a_right_step_is_not_refuted_and_the_claim_is_what_was_asked(anchored, claim):
    result = paired.audit(*anchored, noise_multiplier=paired.multiplier_for(claim), draws=4000)
    assert not result.refuted
    assert result.claim_rdp == pytest.approx(claim, rel=1e-3)
    assert result.claim_pld < result.claim_rdp
    assert result.distance == pytest.approx(1.0, abs=1e-4)


def test_half_the_noise_and_no_noise_are_caught(anchored):
    step, found = anchored
    multiplier = paired.multiplier_for(4.0)
    assert paired.audit(step, found, noise_multiplier=multiplier, noise_scale=0.5 * step.l2_norm_clip, draws=4000).refuted
    free = paired.audit(step, found, noise_multiplier=0.0)
    assert free.bounds.clopper_pearson == free.bounds.ceiling > 4
    assert free.claim_rdp == math.inf


def test_noise_code_is_audited_and_one_head_without_noise_is_caught(anchored):
    step, found = anchored
    multiplier = paired.multiplier_for(4.0)
    audited = {
        name: paired.audit(step, found, noise_multiplier=multiplier, draws=1000, candidates=1, noise=noise_of(step, multiplier, spared))
        for name, spared in (("right", ()), ("no text noise", ("text",)), ("no image noise", ("image",)))
    }
    assert not audited["right"].refuted
    assert any(audited[name].refuted for name in ("no text noise", "no image noise"))


def test_the_unsound_step_is_caught_at_the_paper_s_claim():
    step = gate.toy_step(gate.UNSOUND)
    result = paired.audit(step, search.neighbours(step, LIKE, n=64, climbs=0), noise_multiplier=paired.multiplier_for(0.34))
    assert result.bounds.clopper_pearson > 4
    assert result.refuted


def test_paired_refuses_nothing_to_attack(anchored):
    step, found = anchored
    with pytest.raises(errors.DataError, match="neighbours"):
        paired.audit(step, [dataclasses.replace(found[0], joined=found[0].without)], noise_multiplier=1.0)
    with pytest.raises(errors.UsageError, match="draws"):
        paired.audit(step, found, noise_multiplier=1.0, draws=4)


def trajectory(step, neighbour, claim, q, runs=100):
    multiplier = accounting.calibrate(QUARTER, 20, claim, bounds.DELTA)
    claimed = paired.claimed(QUARTER, multiplier, 20, bounds.DELTA)
    stddev = multiplier * step.objective.noise_scale(step.l2_norm_clip)
    return trajectories.audit(step, neighbour, claimed, sampling_probability=q, noise_stddev=stddev, iterations=20, runs=runs)


@pytest.mark.slow
def test_sampling_that_is_claimed_and_not_done_is_caught(anchored):
    step, found = anchored
    right, wrong = (trajectory(step, found[0], 6.0, q) for q in (0.25, 1.0))
    assert right.claim_rdp == pytest.approx(6.0, rel=1e-3)
    assert not right.refuted
    assert wrong.refuted
    assert wrong.bounds.auroc > right.bounds.auroc


@pytest.mark.slow
def test_unsound_runs_are_caught_without_assumptions():
    step = gate.toy_step(gate.UNSOUND)
    result = trajectory(step, search.neighbours(step, LIKE, n=64, climbs=0)[0], 1.0, 0.25)
    assert result.bounds.clopper_pearson > 1


def test_trajectories_refuse_settings_out_of_range(anchored):
    step, found = anchored
    with pytest.raises(errors.UsageError, match="settings"):
        trajectories.audit(step, found[0], (1.0, 1.0), sampling_probability=0.0, noise_stddev=1.0)


def private_records(count=200, width=12):
    generator = np.random.default_rng(5)
    return clipping.Records(*(generator.standard_normal((count, width)).astype(np.float32) for _ in range(2))), np.repeat(np.arange(count // 2), 2)


def hebbian(records, units, noise_multiplier, seen=None):
    """One clipped step on u.v from identity heads: each pair adds x t' of norm 1 to the text kernel."""
    if seen is not None:
        seen.append((records, units, noise_multiplier))
    width = records.images.shape[1]
    initial = {side: {"kernel": np.eye(width, dtype=np.float32)} for side in heads.SIDES}
    x, t = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in records[:2])
    noise = noise_multiplier * np.random.default_rng(1).standard_normal((width, width))
    moved = np.eye(width) + 0.05 * (t.T @ x + noise)
    return initial, {"image": initial["image"], "text": {"kernel": moved.astype(np.float32)}}


def test_one_run_states_its_power_and_inserts_canaries_as_units():
    records, units = private_records(width=40)
    seen = []
    result = canaries.one_run(lambda *given: hebbian(*given, seen=seen), records, units, noise_multiplier=4.0, n_canaries=300)
    assert [multiplier for *_, multiplier in seen] == [4.0, 0.0, 2.0]
    assert result.noise_free.lower_bound > result.configured.lower_bound
    assert result.noise_free.auroc > result.undernoised.auroc > result.configured.auroc > 0.5
    joined, owners, _ = seen[0]
    assert len(joined.images) == len(owners) > 300
    np.testing.assert_array_equal(joined.images[:200], records.images)
    np.testing.assert_array_equal(owners[:200], units)
    assert len(np.unique(owners[200:])) == len(owners) - 200
    assert owners[200:].min() > units.max()
    assert "sibling" in result.audited


def test_one_run_finds_nothing_where_nothing_is_learned():
    records, units = private_records()
    initial, _ = hebbian(records, units, 0.0)
    result = canaries.one_run(lambda *_: (initial, initial), records, units, noise_multiplier=1.0, n_canaries=200)
    assert (result.configured.lower_bound, result.noise_free.lower_bound, result.configured.auroc) == (0.0, 0.0, 0.5)


def test_canaries_have_the_shapes_and_lengths_of_the_records():
    generator = np.random.default_rng(0)
    like = clipping.Records(3 * generator.standard_normal((50, 4, 6)), generator.standard_normal((50, 8)), np.eye(5, dtype=np.float32)[np.arange(50) % 5])
    made = canaries.drawn(like, 40, 0)
    assert made.records.images.shape == (40, 4, 6)
    assert made.records.labels.shape == (40, 5)
    np.testing.assert_allclose(np.linalg.norm(made.records.images, axis=-1), np.median(np.linalg.norm(like.images, axis=-1)), rtol=1e-5)
    assert 5 < made.included.sum() < 35


def test_one_run_refuses_settings_out_of_range():
    records, units = private_records()
    for settings, match in (({"n_canaries": 3}, "n_canaries"), ({"noise_multiplier": 0.0}, "noise_multiplier")):
        with pytest.raises(errors.UsageError, match=match):
            canaries.one_run(hebbian, records, units, **{"noise_multiplier": 1.0, **settings})
    with pytest.raises(errors.DataError, match="units"):
        canaries.one_run(hebbian, records, units[:5], noise_multiplier=1.0)


@pytest.mark.parametrize("name", ["anchor_infonce", gate.UNSOUND])
def test_the_record_of_a_configuration_is_json_and_says_what_was_found(name):
    step = gate.toy_step(name)
    generator = np.random.default_rng(0)
    records = clipping.Records(*(generator.standard_normal((60, np.shape(rows)[1])).astype(np.float32) for rows in LIKE))

    def train(joined, units, multiplier):
        total = step.total(joined, np.ones(len(joined.images), bool))
        noisy = jnp.asarray(total + multiplier * np.random.default_rng(2).standard_normal(total.shape), jnp.float32)
        return step.params, trajectories._moved(step.params, -0.02 * noisy)

    result = configured.audit(
        step.objective, step.params, records, np.arange(60), step.public,
        l2_norm_clip=1.0, noise_multiplier=2.0, sampling_probability=QUARTER, iterations=10, delta=1e-5, train=train, n_canaries=60, rows=32,
    )  # fmt: skip
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["refuted"] == (name == gate.UNSOUND)
    assert (result["search"]["declared_removed"] is None) == (name == gate.UNSOUND)
    entries = configured.ledger_entries(result)
    assert [set(entry) for entry in entries] == [{"method", "claim", "lower_bound", "confidence", "canaries", "threat_model", "power"}] * 2
    assert all((entry["claim"] is None) == (name == gate.UNSOUND) for entry in entries)
    assert entries[1]["power"]["noise_free"] == result["one_run"]["noise_free"]["lower_bound"]
    text = configured.describe(result)
    assert ("REFUTED" in text) == (name == gate.UNSOUND)
    assert "sibling" in text


def test_without_training_the_one_run_audit_is_left_out():
    step = gate.toy_step("pair_sigmoid")
    result = configured.audit(
        step.objective, step.params, LIKE, np.zeros(1, int), step.public,
        l2_norm_clip=1.0, noise_multiplier=2.0, sampling_probability=QUARTER, iterations=10, delta=1e-5, rows=1000,
    )  # fmt: skip
    assert result["one_run"] is None
    assert len(configured.ledger_entries(result)) == 1
    assert not result["refuted"]


def test_gate_passes_and_catches():
    rows = gate.gate(null_seeds=5, names=("group_infonce", gate.UNSOUND))
    assert all(row.passed for row in rows), gate.describe(rows)
    assert sum("must be caught" in row.check for row in rows) == 2
    text = gate.describe(rows)
    assert "FAILED" not in text
    assert len(text.splitlines()) == len(rows) + 1


def test_gate_fails_for_a_wrong_declaration(monkeypatch):
    monkeypatch.setattr(type(gate.toy_step("group_infonce").objective), "factor", lambda self: 1.0)
    failed = [row.check for row in gate.gate(draws=4000, null_seeds=4, names=("group_infonce",)) if not row.passed]
    assert "sensitivity, group_infonce" in failed
    assert "one step, group_infonce" in failed


def test_gate_fails_for_an_auditor_that_finds_what_is_not_there(monkeypatch):
    monkeypatch.setattr(guesses, "lower_bound", lambda *_: 0.1)
    row = gate.null_rows(0, 12)[2]
    assert (row.verdict, row.found) == ("FAILED", "12 of 12 above 0")


@pytest.mark.slow
def test_the_whole_gate():
    rows = gate.gate(runs=200)
    assert all(row.passed for row in rows), gate.describe(rows)
    assert sum("steps," in row.check for row in rows) == 3
