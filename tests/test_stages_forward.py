"""Stages hand every setting on to the rooms, and each split to its use: seen on the arguments that arrive there."""

import dataclasses
import inspect
import types

import numpy as np
import pytest

from relink_jax import config as config_lib
from relink_jax.audit import run as audit_run
from relink_jax.cohort import pictures, prompts, schema
from relink_jax.retrieval import loop
from relink_jax.stages import adversary, audit, context, embed, utility_tasks

pytestmark = pytest.mark.usefixtures("quick_module")  # the arithmetic of what is compiled here is tested elsewhere


class ArrivedError(Exception):
    """Raised in place of the work, with what arrived."""


def small_cohort(tmp_path):
    """Returns 12 studies of 12 patients with two images each: 6 train, 2 validate, 4 test; studies 1 and 9 without labels."""
    names = np.array([f"k{number:02d}" for number in range(24)], dtype=object)
    labels = np.full((12, 14), schema.BLANK, np.int8)
    labels[:, 0] = 1
    labels[[1, 9]] = schema.BLANK
    return schema.Cohort(
        name="mine",
        synthetic=True,
        image_roots=(tmp_path,),
        image_key=names,
        image_study=np.arange(24, dtype=np.int32) // 2,
        image_source=np.zeros(24, np.int32),
        image_path=names,
        image_view=np.full(24, "PA", dtype=object),
        image_prior=np.full(24, -1, np.int32),
        study_key=names[:12],
        study_patient=np.arange(12, dtype=np.int32),
        study_split=np.array(["train"] * 6 + ["validate"] * 2 + ["test"] * 4, dtype=object),
        study_site=np.full(12, "A", dtype=object),
        study_exposure=np.full(12, "unseen", dtype=object),
        study_origin=np.full(12, "", dtype=object),
        study_text=np.arange(12, dtype=np.int32),
        study_labels=labels,
        study_has_labels=np.isin(np.arange(12), [1, 9], invert=True),
        patient_key=names[:12],
        text=[f"text {number}" for number in range(12)],
        text_key=names[:12],
        counts={},
    )


def test_defaults_of_the_audit_are_the_primary_analysis():
    defaults = {name: parameter.default for name, parameter in inspect.signature(audit_run.audit_inputs).parameters.items()}
    chosen = config_lib.AuditConfig()
    assert (chosen.label_policy, chosen.same_patient) == ("ternary", "exclude")
    for name in ("pool_sizes", "ks", "top_k", "label_policy", "same_patient", "bootstrap_replicates", "level", "mc_repeats", "seed"):
        assert defaults[name] == getattr(chosen, name), name


def test_every_audit_setting_arrives(monkeypatch):
    settings = {
        "pool_sizes": (7, 9), "ks": (2,), "top_k": 3, "label_policy": "u_one", "same_patient": "negative", "bootstrap_replicates": 123, "level": 0.8,
        "mc_repeats": 2, "precision": "bf16x3", "split": "ring", "query_block": 11, "tile": 13, "panel": 17, "memory": 2.0, "kernel": "never", "seed": 5, "attacks": ("csls",), "measures": ("blocks",),
    }  # fmt: skip
    run = config_lib.RunConfig(audit=config_lib.AuditConfig(**settings, strata=("view",)))
    settings |= {"further_strata": ("view",), "holding": None, "identity": ""}

    def stop(prepared, **given):
        raise ArrivedError(given)

    monkeypatch.setattr(audit.audit_run, "audit_inputs", stop)
    rows = types.SimpleNamespace(images=np.empty((20_000, 512), np.uint8), study_text=np.empty(1000, np.uint8))
    with pytest.raises(ArrivedError) as arrived:
        audit._audit(run, rows, mesh="the mesh", counting="here")
    assert arrived.value.args[0] == {**settings, "memory": 2 * 2**30, "mesh": "the mesh", "directory": "here"}


def test_parts_of_a_long_pass_go_once_its_result_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LONG", 0)
    draw = np.random.default_rng(0)
    brought = tmp_path / "vectors"
    brought.mkdir()
    for name in ("images", "texts"):
        np.save(brought / f"{name}.npy", draw.standard_normal((40, 8)).astype(np.float32))
    for name in ("image_study", "text_study", "patient"):
        np.save(brought / f"{name}.npy", np.arange(40))
    seen, honest = [], audit.audit_run.audit_inputs
    monkeypatch.setattr(
        audit.audit_run, "audit_inputs", lambda *rows, directory, **given: (honest(*rows, directory=directory, **given), seen.append(directory))[0]
    )
    config = config_lib.RunConfig(embeddings=str(brought), audit=config_lib.AuditConfig(pool_sizes=(10,), ks=(1,), bootstrap_replicates=100))
    audit.run(config, str(tmp_path / "out"))
    assert len(seen) == 1
    assert seen[0].parent.name == "counting"
    assert not seen[0].exists()
    assert list((tmp_path / "out" / "results").glob("*.json"))


def test_unlabelled_studies_arrive_as_unlabelled(tmp_path):
    cohort = small_cohort(tmp_path)
    vectors = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float32)
    people = adversary.People(cohort.select(split="test"), {}, cohort.study_exposure[8:12])
    prepared = adversary.prepared(cohort, people, vectors, vectors[:12])
    assert prepared.study_has_labels.tolist() == [True, False, True, True]
    np.testing.assert_allclose(prepared.texts, vectors[8:12] / np.linalg.norm(vectors[8:12], axis=1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("task", ["probe", "report_probe"])
def test_the_probe_is_fitted_on_training_patients_chosen_on_validation_and_scored_on_test(tmp_path, monkeypatch, task):
    cohort = small_cohort(tmp_path)
    features = np.arange(24, dtype=np.float32)[:, None]
    seen = {}
    monkeypatch.setattr(utility_tasks.probe, "fit_probe", lambda **given: seen.update(train=given["train"][0], validate=given["validate"][0]))
    monkeypatch.setattr(utility_tasks.probe, "evaluate", lambda fitted, **given: seen.update(test=given["test"][0], patients=given["patient_test"]))
    run = config_lib.RunConfig()
    utility_tasks.linear_probe(run, cohort, context.evaluation_sets(run, cohort), features, "original", task)
    rows = [list(range(12)), list(range(12, 16)), list(range(16, 24))] if task == "probe" else [list(range(6)), list(range(6, 8)), list(range(8, 12))]
    assert [seen[name].ravel().tolist() for name in ("train", "validate", "test")] == rows
    assert seen["patients"].tolist() == ([8, 8, 9, 9, 10, 10, 11, 11] if task == "probe" else [8, 9, 10, 11])


def test_only_the_site_that_was_chosen_trains(tmp_path):
    cohort = dataclasses.replace(small_cohort(tmp_path), study_site=np.array(["A", "B"] * 6, dtype=object))
    run = config_lib.RunConfig(heads=config_lib.HeadsConfig(train_site="B"))
    assert context.training_sites(run, cohort) == ["B"]
    assert [(one.name, one.external) for one in context.evaluation_sets(run, cohort)] == [("mine-A-external", True), ("mine-B-test", False)]


def handed(tmp_path, monkeypatch, cohort, **settings):
    """Returns what the embed stage says of one model of which it keeps anchors too, and what it hands on for images, texts, anchors and prompts."""
    seen = []
    monkeypatch.setattr(embed.context, "needs", lambda *_: None)
    monkeypatch.setattr(embed.checkpoints, "restore", lambda _: ({}, {"tree_sha256": "of the weights"}))
    monkeypatch.setattr(embed.convert_stage, "converted_spec", lambda *_: types.SimpleNamespace(recipe=""))
    for side in ("embed_images", "embed_texts"):
        monkeypatch.setattr(embed.embed_lib, side, lambda *_, **given: seen.append(given) or "done")
    found = types.SimpleNamespace(root=tmp_path, model=lambda name: tmp_path, features=lambda *_: tmp_path)
    run = config_lib.RunConfig(embed=config_lib.EmbedConfig(**settings))
    return embed._embed(run, found, cohort, "mine", ["an anchor"], None), seen


def test_features_are_kept_under_the_digests_of_weights_and_cohort(tmp_path, monkeypatch):
    cohort = small_cohort(tmp_path)
    _, seen = handed(tmp_path, monkeypatch, cohort)
    assert seen[0]["identity"] == seen[1]["identity"] == {"weights": "of the weights", "cohort": cohort.digest()}
    assert [given["identity"]["weights"] for given in seen[2:]] == ["of the weights"] * 2
    assert seen[3]["identity"]["prompts"] == prompts.digest()


def test_every_embed_setting_arrives(tmp_path, monkeypatch):
    settings = {"batch_size": 3, "shard_rows": 5, "precision": "bf16"}
    _, seen = handed(tmp_path, monkeypatch, small_cohort(tmp_path), map_dtype="float16", **settings)
    assert [{name: value for name, value in given.items() if name not in ("identity", "pictures", "crew")} for given in seen] == [
        {**settings, "map_dtype": "float16"},
        settings,
        settings,
        settings,
    ]
    assert [type(given.get("pictures")) for given in seen] == [pictures.Files, *[type(None)] * 3]


@pytest.mark.parametrize(("mode", "compared"), [("table", 2), ("none", 0)])
def test_an_image_whose_prior_is_the_first_one_is_shown_beside_it(tmp_path, monkeypatch, mode, compared):
    monkeypatch.setattr(embed.towers, "prior_shape", lambda _: (4,))
    monkeypatch.setattr(embed.context, "load_arm", lambda *_: ({"image": {"missing": "the stand-in"}}, {}, None))
    priors = np.full(24, -1, np.int32)
    priors[[1, 3]] = 0, 2
    done, seen = handed(tmp_path, monkeypatch, dataclasses.replace(small_cohort(tmp_path), image_prior=priors), prior=mode)
    assert done.compared == compared
    assert [given.get("missing") for given in seen] == ["the stand-in" if compared else None, None, None, None]
