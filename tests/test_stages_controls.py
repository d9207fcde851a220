"""Controls of a mitigation: every one is there, differs in what it is named after, and is measured right on planted structure."""

import dataclasses
import json

import numpy as np
import pytest

from relink_jax import config as config_lib
from relink_jax import errors, heads
from relink_jax.audit import refit
from relink_jax.cohort import phantom, schema
from relink_jax.privacy import accounting, control_arms, output_changes
from relink_jax.privacy.options import Options
from relink_jax.report import controls_figure
from relink_jax.runtime import mesh as meshes
from relink_jax.stages import context, controls, controls_measure, controls_setting, controls_summary, embed
from relink_jax.store import shards

pytestmark = pytest.mark.usefixtures("quick_module")  # the arithmetic of what is compiled here is tested elsewhere

PATIENTS, F_IMAGE, F_TEXT, D, ANCHORS = 96, 20, 18, 12, 64
EVERY = control_arms.conditions(0.34, (0.1, 0.34, 1.0, 3.0, 8.0))
BASE = Options(expected_batch_size=16, iterations=12, learning_rate=0.05)


def run_config(**changes):
    run = config_lib.RunConfig(models=("mine",), mitigate="mine")
    run.embed.anchors, run.report.headline_pool = ANCHORS, 20
    run.heads.mechanism.iterations = 12
    run.controls = config_lib.ControlsConfig(seeds=2, probe_seeds=0, **changes)
    run.validate()
    return run


def cohort_of(directory, generator):
    """Returns 96 patients with two studies of one image each: half trained on, a quarter the attacker's, a quarter held out."""
    patient = np.repeat(np.arange(PATIENTS, dtype=np.int32), 2)
    studies = len(patient)
    names = np.array([f"k{number:03d}" for number in range(studies)], dtype=object)
    split = np.array(["train"] * 48 + ["validate"] * 24 + ["test"] * 24, dtype=object)[patient]
    patterns = generator.random((24, 14)) < 0.3
    labels = patterns[generator.integers(0, len(patterns), studies)].astype(np.int8)
    labels[0] = 1  # a training pair without a partner
    return schema.Cohort(
        name="mine", synthetic=True, image_roots=(directory,), image_key=names, image_study=np.arange(studies, dtype=np.int32),
        image_source=np.zeros(studies, np.int32), image_path=names, image_view=np.full(studies, "PA", object), image_prior=np.full(studies, -1, np.int32), study_key=names, study_patient=patient,
        study_split=split, study_site=np.full(studies, "A", object), study_exposure=np.full(studies, "unseen", object), study_origin=np.full(studies, "", object),
        study_text=np.arange(studies, dtype=np.int32), study_labels=labels, study_has_labels=np.ones(studies, bool),
        patient_key=names[:PATIENTS], text=[f"text {number}" for number in range(studies)], text_key=names, counts={},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workdir with features whose heads link an image to its report, and findings to their prototypes."""
    root, generator = tmp_path_factory.mktemp("run") / "w", np.random.default_rng(0)
    config = run_config()
    with context.opened(config, root) as found:
        cohort = cohort_of(root, generator)
        context.save_roots(found, cohort.image_roots, {})
        cohort.save(found.cohort)
        axes = generator.standard_normal((14, D))
        latent = (cohort.study_labels == 1) @ axes + 1.5 * generator.standard_normal((len(cohort.study_key), D))
        stated = np.stack(list(phantom.anchor_reports(ANCHORS, embed.ANCHOR_SEED).values())) == 1
        kernels = {side: generator.standard_normal((width, D)) / np.sqrt(width) for side, width in (("image", F_IMAGE), ("text", F_TEXT))}
        wanted = {"images": (latent, "image"), "texts": (latent, "text"), "anchors": (stated @ axes + 0.3 * generator.standard_normal((ANCHORS, D)), "text")}
        for what, (rows, side) in wanted.items():
            features = (rows + 0.5 * generator.standard_normal(rows.shape)) @ np.linalg.pinv(kernels[side])
            table = {"features": features.astype(np.float32), "index": np.arange(len(rows), dtype=np.int32)}
            shards.write_all(found.features("mine", what), table, 1024, {})
        original = {side: {"kernel": kernel.astype(np.float32)} for side, kernel in kernels.items()}
        heads.save(found.heads("mine", "original"), original, {"arm": "original"})
        setting = controls_setting.load(config, found)
    rows = output_changes.Embeddings(
        *(np.asarray(heads.project(original[side], x)) for side, x in (("image", setting.images), ("text", setting.texts), ("text", setting.anchors)))
    )
    return root, setting, rows


def test_every_control_of_the_design_is_there_and_has_a_mark_of_its_own():
    assert sorted({one.control for one in EVERY}) == list(range(11))
    assert len({one.id for one in EVERY}) == len(EVERY)
    assert {one.family for one in EVERY} == set(control_arms.FAMILIES) == set(controls_figure.STYLES)
    styles = [style for _, style in controls_figure.STYLES.values()]
    assert len({style.marker for style in styles}) == len(styles)
    assert all(one.heads != control_arms.ORIGINAL or one.change for one in EVERY[1:])
    doses = [one.epsilon for one in EVERY if one.family == "dp" and not one.unit]
    assert doses == [0.1, 0.34, 1.0, 3.0, 8.0]
    assert [one.epsilon for one in control_arms.conditions(0.5, (1.0,)) if one.family == "noise_only"] == [0.5, 1.0]


def named(name):
    return next(one for one in EVERY if one.id == name)


def test_noise_only_is_the_dp_condition_without_data():
    for epsilon in ("0.1", "0.34", "1", "3", "8"):
        dp, noise = (control_arms.options_of(named(f"{kind}_{epsilon}"), BASE, 40, 3) for kind in ("dp", "noise_only"))
        assert dp.data
        assert noise == dataclasses.replace(dp, data=False)
    dp, noise = (control_arms.options_of(named(f"{kind}_1"), BASE, 40, 3) for kind in ("dp", "noise_only"))
    assert control_arms.secret_mechanism(dp, 40).noise_stddev == control_arms.secret_mechanism(noise, 40).noise_stddev


def test_conditions_change_what_they_are_named_after_and_nothing_else():
    finetune, clip, dp, unsound, pair, long = (
        control_arms.options_of(named(name), BASE, 40, 3) for name in ("finetune", "clip_only", "dp_1", "unsound_1", "dp_pair", "unlink_long")
    )
    assert clip == dataclasses.replace(BASE, noise_multiplier=0.0, test_seed=3)
    assert finetune == dataclasses.replace(clip, l2_norm_clip=control_arms.NO_CLIP)
    assert dp == dataclasses.replace(BASE, target_epsilon=1.0, test_seed=3)
    assert pair == dataclasses.replace(BASE, unit="pair", target_epsilon=0.34, test_seed=3)
    assert long == dataclasses.replace(finetune, objective="unlink", **control_arms.LONG)
    sound, other = (control_arms.secret_mechanism(one, 40) for one in (dp, unsound))
    assert other.noise_stddev == sound.noise_stddev
    assert sound.bounded
    assert not other.bounded
    assert accounting.price(sound, 6e-6).rdp == pytest.approx(1.0, rel=1e-3)
    assert accounting.price(other, 6e-6).rdp == accounting.price(control_arms.secret_mechanism(clip, 40), 6e-6).rdp == np.inf


def test_only_takes_names_and_refuses_others():
    assert [one.id for one in control_arms.chosen(EVERY, "rotation, dp_1")] == ["original", "rotation", "dp_1"]
    assert control_arms.chosen(EVERY, "") == EVERY
    with pytest.raises(errors.UsageError, match="rotation"):
        control_arms.chosen(EVERY, "rotatoin")


def recalls(made, rows):
    _, setting, _ = made
    return dict(zip(controls_measure.LINKAGE, controls_measure.recalls(setting, rows, meshes.make_mesh()), strict=True))


def changed(made, name, amount, seed=0):
    _, setting, rows = made
    people = setting.members
    return output_changes.changed(name, amount, rows, np.concatenate([rows.images[people.images], rows.texts[people.text]]), seed)


def test_rotation_fools_the_plain_attacker_and_not_the_one_who_refits(made):
    before, after = recalls(made, made[2]), recalls(made, changed(made, "rotation", 0))
    assert before["raw"] > 0.6
    assert before["refit"] > 0.5
    assert after["raw"] < 0.25
    assert after["refit"] == pytest.approx(before["refit"], abs=0.02)
    assert after["members_refit"] == pytest.approx(before["members_refit"], abs=0.02)


def test_a_destroyed_space_is_chance_for_both_attackers(made):
    _, setting, rows = made
    generator = np.random.default_rng(5)
    drawn = [recalls(made, output_changes.Embeddings(*(output_changes.unit(generator.standard_normal(side.shape)) for side in rows))) for _ in range(6)]
    for measure in controls_measure.LINKAGE:
        assert np.mean([one[measure] for one in drawn]) == pytest.approx(1 / setting.pool, abs=0.03)
    constant = output_changes.Embeddings(*(np.full_like(side, 1 / np.sqrt(D)) for side in rows))
    assert recalls(made, constant)["raw"] == pytest.approx(1 / setting.pool)
    assert recalls(made, constant)["refit"] == pytest.approx(1 / setting.pool)


def test_recall_is_what_counting_by_hand_gives(made):
    _, setting, rows = made
    people = setting.heldout
    scores = rows.images[people.images] @ rows.texts[people.text].T
    own = scores[np.arange(len(scores)), people.study]
    other = people.patient[people.study][:, None] != people.patient[None]
    above = (scores > own[:, None]) & other
    pool, negatives = setting.pool - 1, other.sum(axis=1)
    hit = [np.prod([(m - g - k) / (m - k) for k in range(pool)]) if m - g >= pool else 0.0 for m, g in zip(negatives, above.sum(axis=1), strict=True)]
    assert recalls(made, rows)["raw"] == pytest.approx(np.mean(hit), abs=1e-6)


def test_zero_shot_follows_the_prototypes(made):
    _, setting, rows = made
    value = controls_measure.zero_shot(rows, setting.findings, setting.heldout)
    assert value > 0.65
    turned = controls_measure.zero_shot(rows._replace(anchors=-rows.anchors), setting.findings, setting.heldout)
    assert turned == pytest.approx(1 - value)
    assert controls_measure.zero_shot(rows, np.zeros_like(setting.findings), setting.heldout) is None


@pytest.mark.slow
def test_the_probe_reads_labels_that_are_there(made):
    _, setting, rows = made
    settings = config_lib.ProbeConfig(l2_grid=(0.1, 1.0), max_iterations=20)
    generator = np.random.default_rng(0)
    noise = output_changes.Embeddings(*(output_changes.unit(generator.standard_normal(side.shape)) for side in rows))
    assert controls_measure._probe(setting, rows.images, settings) > controls_measure._probe(setting, noise.images, settings) + 0.1


def test_changes_do_what_they_say(made):
    _, _, rows = made
    noisy = changed(made, "noise", 0.5)
    angle = np.sum(noisy.images * rows.images, axis=1)
    assert angle.mean() == pytest.approx(1 / np.sqrt(1.25), abs=0.03)
    np.testing.assert_array_equal(noisy.anchors, output_changes.unit(rows.anchors))
    for name in ("pca", "random_projection"):
        assert all(side.shape[1] == D // 4 for side in changed(made, name, 0.25))
    drawn = [changed(made, "random_projection", 0.25, seed) for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0].texts, drawn[1].texts)
    assert not np.array_equal(drawn[0].texts, drawn[2].texts)
    fitted_on = np.concatenate([rows.images, rows.texts])
    np.testing.assert_allclose(output_changes.changed("quantise", 12, rows, fitted_on, 0).images, rows.images, atol=2e-3)
    coarse = output_changes.changed("quantise", 1, rows, np.array([[-1.0] * D, [1.0] * D]), 0).images
    np.testing.assert_allclose(np.abs(coarse), 1 / np.sqrt(D), rtol=1e-5)
    assert np.mean(np.sign(coarse) == np.sign(rows.images)) == 1
    for side in (*changed(made, "rotation", 0), *noisy):
        np.testing.assert_allclose(np.linalg.norm(side, axis=1), 1, atol=1e-5)
    with pytest.raises(errors.UsageError, match="rotation"):
        changed(made, "rotatoin", 0)


def test_partners_have_the_same_labels_and_are_other_people():
    codes, patient = np.array([0, 0, 0, 1, 1, 2, -1, -1]), np.array([0, 0, 1, 2, 2, 3, 4, 5])
    partner = controls_setting.matched_partners(codes, patient, np.random.default_rng(0))
    assert partner.tolist()[:2] == [2, 2]
    assert partner[2] in (0, 1)
    assert partner.tolist()[3:] == [-1] * 5


def test_the_refit_attacker_needs_pairs_of_two_patients_and_chooses_by_other_patients(made):
    generator = np.random.default_rng(1)
    x = generator.standard_normal((40, 6))
    truth = generator.standard_normal((6, 6))
    sharp = refit.fit(x, x @ truth, np.arange(40) // 2)
    blurred = refit.fit(x, x @ truth + 20 * generator.standard_normal((40, 6)), np.arange(40) // 2)
    assert sharp.strength == min(refit.STRENGTHS) < blurred.strength
    np.testing.assert_allclose(sharp.images(x), (x - x.mean(axis=0)) @ truth, atol=0.05)
    with pytest.raises(errors.DataError, match="2 patients"):
        refit.fit(x, x, np.zeros(40))
    with pytest.raises(errors.DataError, match="as many images as reports"):
        refit.fit(x, x[:3], np.arange(40))


def planted(name, family, epsilon, raw, refit_values=None, unit=""):
    draws = [
        {"seed": seed, "raw": one, "refit": other, "members_raw": one + 0.1, "members_refit": other, "zero_shot": 0.8, "probe": None}
        for seed, (one, other) in enumerate(zip(raw, refit_values or raw, strict=True))
    ]
    return {
        "condition": {"id": name, "control": 0, "family": family, "label": "", "unit": unit, "random": True, "epsilon": epsilon},
        "epsilon": None,
        "draws": draws,
    }


def test_shares_and_order_come_out_of_planted_numbers():
    found = controls_summary.summary(
        [
            planted("original", "baseline", 0.0, [0.9]),
            planted("noise_only_1", "noise_only", 1.0, [0.7, 0.5]),
            planted("noise_only_3", "noise_only", 3.0, [0.8, 0.8]),
            planted("dp_1", "dp", 1.0, [0.5, 0.3], [0.9, 0.95]),
            planted("dp_3", "dp", 3.0, [0.85, 0.75], [0.899, 0.895]),
            planted("dp_pair", "dp", 1.0, [0.1, 0.1], unit="pair"),
        ]
    )
    shares = {(one["id"], one["measure"]): one for one in found["explained"]}
    assert set(shares) == {(name, measure) for name in ("dp_1", "dp_3") for measure in ("raw", "refit")}
    first = shares["dp_1", "raw"]
    assert first["share"] == pytest.approx(0.3 / 0.5)
    assert (first["low"], first["high"]) == (pytest.approx(0.5), pytest.approx(0.4 / 0.6))
    assert shares["dp_1", "refit"]["share"] is None
    assert shares["dp_1", "refit"]["draws"] == 0
    assert shares["dp_3", "raw"]["share"] == pytest.approx(1.0)
    assert shares["dp_3", "refit"]["share"] is None
    ladders = {(one["family"], one["measure"]): one for one in found["monotone"]}
    assert ladders["dp", "raw"]["monotone"]
    assert ladders["dp", "raw"]["epsilons"] == [1.0, 3.0]
    assert not ladders["dp", "refit"]["monotone"]
    entry = {one["id"]: one for one in found["conditions"]}["dp_1"]
    assert entry["raw_lost"] == {"mean": pytest.approx(0.5), "sd": pytest.approx(np.std([0.4, 0.6], ddof=1)), "n": 2}
    assert entry["gap_raw"]["mean"] == pytest.approx(0.1)
    assert entry["probe_lost"] == {"mean": None, "sd": None, "n": 0}


@pytest.mark.slow
def test_the_stage_from_features_to_page_and_what_is_finished_is_kept(made, monkeypatch):
    root = made[0]
    config = run_config(only="rotation,label_matched,noise_only_0.34,dp_0.34,unsound_0.34,unlink_dp,quantised_1", epsilons=(0.34,))
    done = controls.run(config, str(root))
    document = json.loads((root / "results" / "controls.json").read_text())
    by_id = {one["id"]: one for one in document["conditions"]}
    assert [one["draws"] for one in document["conditions"]] == [1, 2, 2, 2, 1, 2, 2, 2]
    assert by_id["dp_0.34"]["epsilon"]["rdp"] == pytest.approx(0.34, rel=1e-3)
    assert by_id["noise_only_0.34"]["epsilon"]["rdp"] == 0
    assert by_id["unsound_0.34"]["epsilon"]["infinite"]
    assert by_id["rotation"]["epsilon"] is None
    assert by_id["label_matched"]["pairs_left_out"] == 1
    assert by_id["dp_0.34"]["raw"]["sd"] > 0
    assert by_id["dp_0.34"]["raw"] != by_id["noise_only_0.34"]["raw"]
    assert done.page.exists()
    assert (root / "report" / "controls.png").exists()
    assert not (root / "heads" / "mine" / "dp").exists()  # nothing is released

    def refuse(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(controls_measure, "measure", refuse)
    assert controls.run(config, str(root)).document["conditions"] == done.document["conditions"]
    config.controls.seeds = 1
    assert [one["draws"] for one in controls.run(config, str(root)).document["conditions"]] == [1] * 8
    for more in ({"seeds": 3}, {"probe_seeds": 1}):
        config.controls = dataclasses.replace(config.controls, **{"seeds": 1, "probe_seeds": 0} | more)
        with pytest.raises(AssertionError, match="measured again"):
            controls.run(config, str(root))
