"""Recall by exposure: seen and unseen studies against the same candidates, traced to the per-query table."""

import arrays
import numpy as np
import pytest

import relink_jax
from relink_jax import errors
from relink_jax.audit import result

OPTIONS = {"bootstrap_replicates": 100, "ks": [1, 5], "pool_sizes": [10, 50]}


def given(words):
    cohort = arrays.cohort()
    return {**cohort, "study_exposure": words(len(cohort["text_study"]))}


def halves(n):
    return np.where(np.arange(n) % 2, "seen", "unseen").astype(object)


@pytest.fixture(scope="module")
def audited():
    return relink_jax.audit(**given(halves), **OPTIONS)


def test_groups_are_means_over_their_own_queries(audited):
    groups = audited.to_json()["by_exposure"]
    assert {entry["exposure"] for entry in groups} == {"seen", "unseen"}
    for entry in groups:
        if entry["full"]:
            continue
        whole = audited.metric("recall", k=entry["k"], pool_size=entry["N"])
        both = [one for one in groups if (one["k"], one["N"], one["full"]) == (entry["k"], entry["N"], False)]
        assert sum(one["n_queries"] for one in both) == whole["n_queries"]
        assert sum(one["value"] * one["n_queries"] for one in both) == pytest.approx(whole["value"] * whole["n_queries"])
        assert entry["ci"]["low"] <= entry["value"] <= entry["ci"]["high"]


def test_a_planted_difference_is_seen():
    cohort = given(halves)
    text_of = {study: row for row, study in enumerate(cohort["text_study"])}
    rows = np.array([text_of[study] for study in cohort["image_study"]])
    random = np.random.default_rng(4).standard_normal(np.shape(cohort["images"]))
    exact = np.asarray(cohort["texts"])[rows]
    cohort["images"] = np.where(np.array([cohort["study_exposure"][row] == "seen" for row in rows])[:, None], exact, random)
    groups = relink_jax.audit(**cohort, **OPTIONS).to_json()["by_exposure"]
    value = {entry["exposure"]: entry["value"] for entry in groups if entry["k"] == 1 and entry["N"] == 50 and not entry["full"]}
    assert value["seen"] > 0.6  # equal reports share their place
    assert value["unseen"] < 0.2


def test_the_table_gives_them_again(audited, tmp_path):
    data = {"name": "x", "synthetic": True}
    path = audited.save(tmp_path / "m__original__x", data=data, model={"name": "m", "head": "original"})
    assert result.recompute(path)["mismatches"] == []
    text = path.read_text()
    first = audited.to_json()["by_exposure"][0]["value"]
    path.write_text(text.replace('"exposure": "seen",\n      "name": "recall"', '"exposure": "unseen",\n      "name": "recall"', 1))
    assert first is not None
    assert result.recompute(path)["mismatches"]


@pytest.mark.parametrize("words", [lambda n: ["seen"] * n, lambda n: ["seen"] * 3 + ["unknown"] * (n - 3)], ids=["one group", "too few patients"])
def test_what_is_no_comparison_or_too_few_people_is_left_out(words):
    groups = relink_jax.audit(**given(words), **OPTIONS).to_json()["by_exposure"]
    assert {entry["exposure"] for entry in groups} <= {"unknown"}


def test_an_unknown_word_is_refused():
    with pytest.raises(errors.DataError, match="unknown exposure in argument 'study_exposure'"):
        relink_jax.audit(**given(lambda n: ["maybe"] * n), **OPTIONS)
