"""The whole honest audit on arrays: attacks, measures and sections together, saved, recomputed, and shown on the page."""

import json
import math

import numpy as np
import pytest

import relink_jax
from relink_jax import errors
from relink_jax.audit import comparison, further, holdings, inputs, per_image, result
from relink_jax.report import page, plots, schema

pytestmark = pytest.mark.usefixtures("quick_module")

PATIENTS, DIM = 90, 16
OPTIONS = {"ks": (1,), "pool_sizes": (10, 50), "bootstrap_replicates": 150, "seed": 3}
ATTACKS = ("inverted_softmax", "procrustes", "ridge")


def arrays(seed=0, noise=0.8):
    """Returns two studies for every second patient, an image each and two of some, that link well by what they share."""
    generator = np.random.default_rng(seed)
    patient = np.sort(np.concatenate([np.arange(PATIENTS), np.arange(0, PATIENTS, 2)]))
    shared = generator.standard_normal((len(patient), DIM))
    study = np.concatenate([np.arange(len(patient)), np.arange(0, len(patient), 5)])
    labels = np.where(generator.random((len(patient), 14)) < 0.15, 1.0, -2.0)
    return {
        "images": shared[study] + noise * generator.standard_normal((len(study), DIM)),
        "texts": shared + noise * generator.standard_normal(shared.shape),
        "image_study": study,
        "text_study": np.arange(len(patient)),
        "patient": patient,
        "labels": labels,
        "study_facts": {"views": generator.choice(["AP", "PA"], len(patient)).tolist(), "report_words": generator.integers(10, 90, len(patient)).tolist()},
    }


def rotated(given, seed=9):
    """Returns what a mitigation does that only turns the images: cosine finds nothing, and nothing is gone."""
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((DIM, DIM)))[0]
    return {**given, "images": given["images"] @ turn}


@pytest.fixture(scope="module")
def audited():
    options = {**OPTIONS, "attacks": ATTACKS, "measures": further.MEASURES, "further_strata": ("view", "length")}
    arms = {"original": (arrays(), arrays(seed=5)), "mitigated": (rotated(arrays()), rotated(arrays(seed=5)))}
    return {name: relink_jax.audit(**given, **options, holding=holdings.Holding(inputs.prepare(**his))) for name, (given, his) in arms.items()}


@pytest.fixture(scope="module")
def saved(audited, tmp_path_factory):
    """The results files of both, the second with its paired changes."""
    folder = tmp_path_factory.mktemp("results")
    before, after = audited["original"], audited["mitigated"]
    metric = next(one for one in after.metrics if (one["name"], one["k"], one["stratum"], one["N"]) == ("recall", 1, "other_patient", 50))
    changes = [comparison.entry("model__original__set", before, after, metric, attack) for attack in ("cosine", comparison.BEST, "procrustes.all")]
    for name, one, paired in (("original", before, ()), ("mitigated", after, changes)):
        about = {"run": {"id": "0" * 12, "created_utc": "2030-01-02T03:04:05+00:00"}, "data": {"name": "set", "synthetic": True}}
        one.save(folder / f"model__{name}__set", **about, model={"name": "model", "head": name, "specialisation": 1}, paired=paired)
    return folder


def entry(document, label, pool=50):
    found = next(one for one in document["attacks"] if one["label"] == label)
    return next(one for one in found["metrics"] if one["N"] == pool and one["stratum"] == "other_patient")


def test_every_number_of_every_section_is_rebuilt_from_the_tables(saved):
    for path in sorted(saved.glob("*.json")):
        found = result.recompute(path)
        document = json.loads(path.read_text())
        assert found["mismatches"] == []
        assert {"attacks", "curve", "risk", "groups", "regression", "selective", "open_set", "verification", "bits", "matched", "tiered", "null"} <= set(
            document
        )
        assert {"right_patient", "anonymity"} <= set(document)


def test_a_changed_number_of_a_section_is_found(saved, tmp_path):
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "model__original__set.json"
    document = json.loads(path.read_text())
    document["selective"]["at_coverage"][0]["precision"]["value"] += 0.01
    document["attacks"][1]["metrics"][0]["ci"]["low"] -= 0.001
    path.write_text(json.dumps(document))
    named = [line.split(":")[0] for line in result.recompute(path)["mismatches"]]
    assert sorted(named) == ["attacks[1].metrics[0].ci.low", "selective.at_coverage[0].precision.value"]


def test_nothing_in_the_file_is_nan(saved):
    def check(value):
        if isinstance(value, dict | list):
            for one in value.values() if isinstance(value, dict) else value:
                check(one)
        assert not isinstance(value, float) or math.isfinite(value)

    for path in saved.glob("*.json"):
        check(json.loads(path.read_text()))


def test_a_mitigation_that_fools_cosine_is_undone_by_the_best_attack(saved):
    before, after = (json.loads((saved / f"model__{name}__set.json").read_text()) for name in ("original", "mitigated"))
    best = next(one["label"] for one in after["attacks"] if one["selected"])
    assert best.startswith(("procrustes", "ridge"))
    assert entry(after, "cosine")["ci"]["low"] < 1 / 50
    assert entry(after, "cosine")["value"] < 2 / 50
    assert entry(after, best)["value"] > 0.8 * entry(before, "cosine")["value"] > 0.2
    cosine, under_best, _ = after["paired"]
    assert cosine["bits_removed"]["low"] > 2
    assert under_best["bits_removed"]["value"] < 0.5
    gain = next(one for one in after["attacks"] if one["label"] == best)["gain"]
    assert max(one["bits_removed"]["high"] for one in gain if one["bits_removed"]["high"] is not None) < 0


def test_without_people_of_his_own_attacks_are_judged_on_queries_of_patients_who_gave_nothing():
    one = relink_jax.audit(**arrays(), **OPTIONS, attacks=("ridge",))
    keys = one.queries["i2r"].patient_key
    aside = set(keys[~one.per_image.evaluated])
    assert len(aside) == PATIENTS // 5
    assert not aside & set(keys[one.per_image.evaluated])
    measured = one.to_json()["attacks"]
    assert {m["n_queries"] for a in measured for m in a["metrics"] if m["stratum"] == "other_patient"} == {int(one.per_image.evaluated.sum())}
    assert any("audited patients" in line for line in one.warnings)


def test_shuffled_reports_link_at_chance(saved):
    for path in saved.glob("*original*.json"):
        for point in json.loads(path.read_text())["null"]["points"]:
            assert point["z"] is None or abs(point["z"]) < 4


def test_auxiliary_people_of_his_own_leave_every_query_judged(audited):
    for one in audited.values():
        assert one.per_image.evaluated.all()
        assert not any("audited patients" in line for line in one.warnings)


def test_few_patients_are_audited_without_attacks():
    few = {name: value for name, value in arrays().items() if name not in ("labels", "study_facts")}
    kept = few["patient"][few["image_study"]] < 6
    studies = few["patient"] < 6
    few = {
        "images": few["images"][kept],
        "image_study": few["image_study"][kept],
        "texts": few["texts"][studies],
        "text_study": few["text_study"][studies],
        "patient": few["patient"][studies],
    }
    found = relink_jax.audit(**few, ks=(1,), pool_sizes=(5,), bootstrap_replicates=100, attacks=ATTACKS, measures=further.MEASURES)
    assert any("no attack was tried" in line for line in found.warnings)
    assert found.selected == per_image.COSINE
    assert "attacks" not in found.to_json()


def test_same_patient_candidates_leave_right_patient_out_and_say_so():
    found = relink_jax.audit(**arrays(), **OPTIONS, same_patient="negative", measures=("right_patient",))
    assert "right_patient" not in found.to_json()
    assert any("right patient" in line for line in found.warnings)


@pytest.mark.parametrize(("option", "value"), [("attacks", ("cosyne",)), ("measures", ("block",)), ("further_strata", ("vew",))])
def test_unknown_names_are_refused_with_what_is_known(option, value):
    with pytest.raises(errors.UsageError, match="expected one of"):
        relink_jax.audit(**arrays(), **OPTIONS, **{option: value})


def test_the_first_screen_says_that_cosine_is_fooled(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "image", lambda *_: "data:,")
    page.render(schema.load_results(saved), {}, tmp_path, headline_pool=50)
    first_screen = (tmp_path / "index.html").read_text().split("<table")[0]
    assert "Plain cosine is fooled" in first_screen
