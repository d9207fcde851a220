"""Strata by name: which studies share a code, and what is not recorded."""

import numpy as np
import pytest

from relink_jax import cohort_config, errors
from relink_jax.audit import strata
from relink_jax.cohort import facts as cohort_facts

LABELS = np.full((6, 14), strata.BLANK, np.int8)
LABELS[0, 2], LABELS[1, 2], LABELS[2, 2], LABELS[3, 5] = 1, 1, -1, 1
HAS = np.array([True, True, True, True, True, False])
FACTS = {
    "sex": np.array(["F", "F", "M", "F", "", "F"], object),
    "age_years": np.array([60.0, 69, 60, 70, 60, np.nan]),
    "views": np.array(["PA", "LATERAL+PA", "PA", "PA", "", "PA"], object),
    "report_words": np.array([10.0, 20, 30, 40, 50, 20]),
    "ward": np.array(["a", "b", "a", "", "c", "b"], object),
}


def codes(*names, **changes):
    return strata.codes(names, **{"labels": LABELS, "has_labels": HAS, "facts": FACTS} | changes)


def classes(found):
    """Returns sets of studies with one code, those without a code left out."""
    assert found.dtype == np.int32
    return sorted(tuple(np.flatnonzero(found == one).tolist()) for one in set(found.tolist()) - {-1})


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("label_ternary", [(0, 1), (2,), (3,), (4,)]),
        ("label_u_one", [(0, 1, 2), (3,), (4,)]),
        ("label_u_zero", [(0, 1), (2, 4), (3,)]),
        ("view", [(0, 2, 3, 5), (1,)]),
        ("label_view", [(0,), (1,), (2,), (3,)]),
        ("sex_age", [(0, 1), (2,), (3,)]),
        ("length", [(0, 1, 5), (2,), (3,), (4,)]),
        ("near_text", [(0, 4), (1,)]),
        ("ward", [(0, 2), (1, 5), (4,)]),
        ("age_years", [(0, 2, 4), (1,), (3,)]),
    ],
)
def test_who_is_alike(name, wanted):
    found = codes(name, near_text=np.array([0, 1, -1, -1, 0, -1]))
    assert list(found) == [name]
    assert classes(found[name]) == wanted


def test_quintiles_hold_a_fifth_each():
    found = codes(
        "length", labels=None, has_labels=np.zeros(1000, bool), facts={"report_words": np.random.default_rng(0).permutation(1000.0 * np.arange(1000))}
    )
    assert np.bincount(found["length"]).tolist() == [200] * 5


def test_what_nobody_recorded_is_no_stratum():
    found = codes("view", "label_view", "sex_age", "length", "near_text", "label_quaternary", facts={}, labels=None)
    assert {name: set(code.tolist()) for name, code in found.items()} == {name: {-1} for name in found}


def test_label_view_follows_the_policy():
    assert classes(codes("label_view", policy="u_one")["label_view"]) == [(0, 2), (1,), (3,)]


@pytest.mark.parametrize("name", ["wards", "label_terniary", "views ", "", "report_wrods"])
def test_an_unknown_name_is_one_sentence(name):
    with pytest.raises(errors.UsageError, match=r"unknown stratum in hard negatives: expected one of label_quaternary, .*, ward, found '"):
        codes("view", name)
    with pytest.raises(errors.UsageError, match="did you mean 'ward'"):
        codes("wards")


def test_no_finding_beside_a_pathology_is_a_contradiction():
    labels = np.full((5, 14), strata.BLANK, np.int8)
    labels[:4, 0] = 1
    labels[0, 13], labels[1, 3], labels[2, 3], labels[4, 3] = 1, 1, -1, 1
    assert strata.contradictions(labels) == 1
    assert strata.contradictions(None) == 0


def test_no_column_can_take_the_name_of_a_stratum_or_of_a_fact():
    taken = {*(f"label_{one}" for one in strata.POLICIES), strata.VIEW, strata.LABEL_VIEW, strata.SEX_AGE, strata.LENGTH, strata.NEAR_TEXT}
    assert {*taken, *cohort_facts.BUILT_IN} <= set(cohort_config.NO_FACTS)
