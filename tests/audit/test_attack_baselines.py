"""Attackers that see no image content beyond a few attributes, label-only integers, and the null in which reports change hands."""

import dataclasses
from fractions import Fraction

import linked
import numpy as np
import pytest
from matrices import O7, O7_LABELS, audited

from relink_jax import errors
from relink_jax.audit import metrics, queries
from relink_jax.audit.attacks import attributes, label_only, shuffle
from relink_jax.retrieval import counts, expectation
from relink_jax.retrieval.counted import I2R, LABEL_MATCHED, OTHER_PATIENT, Records, StratumCounts

pytestmark = pytest.mark.usefixtures("quick_module")

SIZES = 400, 800


def known(generator, planted):
    """A target whose reports are noise and whose images tell the attributes `planted` by strength; and those attributes."""
    sides, columns = [], []
    for n in SIZES:
        words, age = np.round(np.exp(4 + 0.5 * generator.standard_normal(n))), generator.normal(60, 15, n)
        sex, ward = np.array(["F", "M"])[generator.integers(0, 2, n)], np.array(["a", "b", "c"])[generator.integers(0, 3, n)]
        found = {"report_words": words, "age": age, "sex": sex.astype(object), "ward": ward.astype(object)}
        signal = {"report_words": (np.log(words) - 4) / 0.5, "age": (age - 60) / 15, "sex": (sex == "F") * 2.0 - 1, "ward": (ward == "a") * 2.0 - 1}
        images = generator.standard_normal((n, 12))
        for place, name in enumerate(found):
            images[:, place] += planted.get(name, 0.0) * signal[name]
        sides.append((images @ np.linalg.qr(np.arange(144).reshape(12, 12) % 7 + np.eye(12))[0], generator.standard_normal((n, 12))))
        columns.append(found)
    return linked.target(*sides, attributes=columns[0], auxiliary_attributes=columns[1])


def test_length_links_where_images_tell_it_and_nowhere_else():
    generator = np.random.default_rng(0)
    told, other = (known(generator, planted) for planted in ({"report_words": 3.0}, {"age": 3.0}))
    attack = attributes.LengthOnly()
    assert linked.apart(told.inputs, attack.space(told), 10) > 8
    assert linked.recall(told.inputs, attack.space(told), 10) > 0.25
    assert abs(linked.apart(other.inputs, attack.space(other), 10)) < 4
    assert attack.space(told).params["explained"][0] == pytest.approx(0.8, abs=0.1)


def test_metadata_adds_up_and_what_images_do_not_tell_does_not_drown_it():
    generator = np.random.default_rng(1)
    told = known(generator, {"age": 3.0, "sex": 2.0, "ward": 2.0})
    whole = linked.recall(told.inputs, attributes.MetadataOnly().space(told), 10)
    alone = [linked.recall(told.inputs, attributes.MetadataOnly((name,)).space(told), 10) for name in ("report_words", "age", "sex")]
    assert alone[0] == pytest.approx(0.1, abs=0.05)
    assert 0.15 < alone[2] < alone[1] < whole - 0.1
    useful = linked.recall(told.inputs, attributes.MetadataOnly(("age", "sex", "ward")).space(told), 10)
    assert whole == pytest.approx(useful, abs=0.04)
    nothing = known(generator, {})
    assert abs(linked.apart(nothing.inputs, attributes.MetadataOnly().space(nothing), 10)) < 4


def test_scores_are_log_likelihood_ratios():
    told = known(np.random.default_rng(2), {"age": 1.0})
    space = attributes.MetadataOnly(("age",)).space(told)
    scores = (space.images @ space.texts.T)[:, space.study_text]
    age, v = told.auxiliary_attributes["age"], 1 - space.params["explained"][0]
    b = (told.attributes["age"] - age.mean()) / age.std()
    curve = np.polynomial.polynomial.polyfit(b, scores[:5].T, 2)
    np.testing.assert_allclose(curve[2], -(1 / v - 1) / 2, rtol=1e-3)
    a = curve[1] * v
    own, prior = (-((b - a[0]) ** 2) / v / 2, -(b**2) / 2)
    np.testing.assert_allclose(scores[0] - scores[0].mean(), (own - prior) - (own - prior).mean(), atol=0.02)


def test_attributes_are_compared_in_units_of_what_images_were_fitted_on():
    told = known(np.random.default_rng(8), {"age": 3.0, "ward": 2.0})
    old = np.flatnonzero(told.auxiliary_attributes["age"] > 60)
    rows = np.concatenate([np.arange(SIZES[1]), old, old])
    aside = dataclasses.replace(told.auxiliary, images=told.auxiliary.images[rows], image_study=told.auxiliary.image_study[rows])
    itself = dataclasses.replace(told, inputs=aside, auxiliary=aside, attributes=told.auxiliary_attributes)
    space = attributes.MetadataOnly(("age", "ward")).space(itself)
    seen = space.texts[space.study_text[aside.image_study]]
    np.testing.assert_allclose(seen[:, :-1].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(seen[:, :-1].T, bias=True), np.eye(seen.shape[1] - 1), atol=1e-4)


def test_errors_are_those_on_patients_left_out():
    generator = np.random.default_rng(9)
    few = dataclasses.replace(known(generator, {}), auxiliary=linked.cohort(*generator.standard_normal((2, 24, 12))))
    few = dataclasses.replace(few, auxiliary_attributes={"age": generator.normal(60, 15, 24)})
    assert sum(attributes.MetadataOnly(("age",)).space(few).params["explained"]) < 0.2


def test_missing_and_unheard_values_say_nothing_and_equal_attributes_tie():
    told = known(np.random.default_rng(3), {"age": 3.0, "ward": 2.0})
    odd = {"age": told.attributes["age"].copy(), "ward": told.attributes["ward"].copy()}
    odd["age"][:3], odd["ward"][:3] = np.nan, [None, "unheard of", ""]
    odd["age"][3:5], odd["ward"][3:5] = 60, "a"
    space = attributes.MetadataOnly(("age", "ward")).space(dataclasses.replace(told, attributes=odd))
    assert np.isfinite(space.texts).all()
    assert len(set(space.study_text[:3])) == len(set(space.study_text[3:5])) == 1
    assert len(np.unique(space.texts, axis=0)) == len(space.texts) == space.study_text.max() + 1


def test_attributes_that_images_do_not_tell_at_all_tie_everybody():
    told = known(np.random.default_rng(4), {})
    blank = dataclasses.replace(told, auxiliary=dataclasses.replace(told.auxiliary, images=np.ones_like(told.auxiliary.images)))
    space = attributes.LengthOnly().space(blank)
    assert linked.hits(told.inputs, space, 10) == pytest.approx(0.1)


def test_attributes_that_are_not_there_or_do_not_differ_say_so():
    told = known(np.random.default_rng(5), {})
    same = dict.fromkeys(("report_words",), np.full(SIZES[1], 7.0))
    for attack, target, why in (
        (attributes.MetadataOnly(("age", "scanner")), told, "no scanner"),
        (attributes.MetadataOnly(), dataclasses.replace(told, attributes={}), "found none"),
        (attributes.LengthOnly(), dataclasses.replace(told, auxiliary_attributes=same), "differs among auxiliary studies"),
    ):
        assert why in attack.why_not(target)
        with pytest.raises(errors.DataError, match=why):
            attack.space(target)
    assert attributes.LengthOnly().why_not(told) is None


def passed(target, images, texts, study_text, codes=None):
    people = target.inputs
    strata = {} if codes is None else {LABEL_MATCHED: codes}
    records = Records(images, people.image_study, texts, study_text, people.study_patient, strata)
    return counts.count(records, mesh=target.mesh, top_k=0, directions=(I2R,))[I2R].strata


def test_the_counting_pass_takes_attributes_of_studies_in_place_of_reports():
    told = known(np.random.default_rng(6), {"sex": 2.0})
    space = attributes.MetadataOnly(("sex",)).space(told)
    assert len(space.texts) == 2
    found = passed(told, space.images, space.texts, space.study_text)[OTHER_PATIENT]
    wanted = linked.counted(told.inputs, space.images, space.texts, space.study_text)
    for name in ("M", "g", "t"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert found.t.min() > 150


def test_o7_label_only_integers_go_through_the_same_metrics():
    table = audited(O7, "uvwxyz", labels=O7_LABELS).queries["i2r"]
    found = label_only.strata(table.strata[OTHER_PATIENT], table.strata[LABEL_MATCHED], np.ones(6, bool))
    guessed = dataclasses.replace(table, strata=found)
    for size, wanted in ((2, Fraction(13, 15)), (3, Fraction(3, 4)), (6, Fraction(1, 2))):
        assert metrics.recall(guessed, "i2r", OTHER_PATIENT, size, 1) == pytest.approx(float(wanted), abs=1e-13)
    two = next(one for one in metrics.per_query(guessed, "i2r", OTHER_PATIENT, [2], [1]) if one.name == "recall")
    np.testing.assert_allclose(two.bounds.expected, [4 / 5, 4 / 5, 9 / 10, 4 / 5, 9 / 10, 1], atol=1e-13)
    assert metrics.recall(guessed, "i2r", LABEL_MATCHED, 2, 1) == pytest.approx(1 / 2)
    assert metrics.recall(guessed, "i2r", LABEL_MATCHED, 3, 1) == pytest.approx(1 / 3)


def test_label_only_has_no_query_without_labels_and_needs_matched_among_all():
    M, same = np.array([5, 5]), np.array([2, 0])
    none = np.zeros(2, np.int64)
    found = label_only.strata(StratumCounts(M, M, none), StratumCounts(same, same, none), np.array([True, False]))
    assert [found[name].M.tolist() for name in (OTHER_PATIENT, LABEL_MATCHED)] == [[5, 0], [2, 0]]
    assert found[OTHER_PATIENT].t.tolist() == [2, 0]
    table = queries.Queries(np.array(["0", "1"]), np.array(["0", "1"]), found)
    assert metrics.per_query(table, "i2r", OTHER_PATIENT, [2], [1])[0].eligible.tolist() == [0]
    with pytest.raises(errors.DataError, match="label-matched negatives among all"):
        label_only.strata(StratumCounts(same, same, none), StratumCounts(M, M, none), np.array([True, True]))


@pytest.fixture(scope="module")
def strong():
    """A cohort that links perfectly, with patients of three studies, label codes of very different frequency, and repeated reports."""
    generator = np.random.default_rng(7)
    images, texts = linked.rows(generator, 600, noise=0.05, dim=12)
    texts[generator.integers(0, 600, 60)] = texts[0]
    codes = np.minimum(generator.geometric(0.4, 600), 9) - 1
    codes[:20] = -1
    people = dataclasses.replace(linked.target((images, texts), (images, texts)), inputs=linked.cohort(images, texts, per_patient=3))
    return people, codes.astype(np.int32)


def test_dealt_reports_come_from_the_other_half_of_the_same_code(strong):
    target, codes = strong
    people = dataclasses.replace(target.inputs, study_text=np.arange(600, dtype=np.int32))
    dealt = shuffle.deal(people.study_text, people.study_patient, codes, seed=3)
    inside = np.flatnonzero(dealt.codes >= 0)
    giver = dealt.study_text[inside]
    assert len(np.unique(giver)) == len(inside) > 450
    assert (codes[giver] == codes[inside]).all()
    assert (dealt.codes[giver] ^ 1 == dealt.codes[inside]).all()
    assert np.mean(dealt.study_text[giver] == inside) < 0.2
    half = {(patient, code % 2) for patient, code in zip(people.study_patient[inside], dealt.codes[inside], strict=True)}
    assert len(half) == len({patient for patient, _ in half})
    assert (dealt.codes[codes < 0] == -1).all()


def test_dealt_reports_of_a_space_that_links_perfectly_give_chance(strong):
    target, codes = strong
    people = target.inputs
    patient = people.study_patient[people.image_study]
    matched = passed(target, people.images, people.texts, people.study_text, codes)[LABEL_MATCHED]
    dealt = shuffle.deal(people.study_text, people.study_patient, codes)
    null = passed(target, people.images, people.texts, dealt.study_text, dealt.codes)[LABEL_MATCHED]
    sizes = (2, 10, 50, 10**6, None)
    points = shuffle.null(null, patient, sizes)["points"]
    assert [(point["N"], point["full"]) for point in points[:-1]] == [(2, False), (10, False), (50, False)]
    assert points[-1]["full"]
    assert [point["z"] is None for point in points[:2]] == [False, False]
    for point in points[:-1]:
        assert point["chance"] == pytest.approx(1 / point["N"])
        assert abs(point["z"] or 0) < 4
        assert point["n_queries"] == int((point["N"] - 1 <= null.M).sum())
    assert shuffle.null(matched, patient, [10])["points"][0]["z"] > 10
    wanted = linked.counted(people, people.images, people.texts, dealt.study_text, dealt.codes)
    np.testing.assert_array_equal(null.g, wanted.g)
    np.testing.assert_array_equal(null.M, wanted.M)


def test_dealing_is_chance_on_average_over_seeds_however_small_the_codes(strong):
    target, codes = strong
    few = np.arange(90)
    people = dataclasses.replace(target.inputs, study_text=target.inputs.study_text[few], study_patient=target.inputs.study_patient[few] % 12)
    people = dataclasses.replace(people, images=people.images[few], image_study=people.image_study[few])
    excess = []
    for seed in range(60):
        dealt = shuffle.deal(people.study_text, people.study_patient, codes[few] % 4, seed)
        found = linked.counted(people, people.images, people.texts, dealt.study_text, dealt.codes)
        asked = found.M > 0
        full = expectation.pool_metrics(found.M[asked], found.g[asked], found.t[asked], None, [1])["recall@1"].expected
        excess.append(np.mean(full - 1 / (found.M[asked] + 1)))
    assert abs(np.mean(excess)) < 4 * np.std(excess) / np.sqrt(60)
    assert np.std(excess) / np.sqrt(60) < 0.02


def test_z_is_told_only_where_chance_expects_enough_hits():
    M, none = np.full(40, 9), np.zeros(40, np.int64)
    assert shuffle.null(StratumCounts(M, none, none), np.arange(40), [10])["points"][0]["z"] is None
    tied = shuffle.null(StratumCounts(M, none, M), np.arange(40), [3])["points"][0]
    assert tied["z"] == pytest.approx(0, abs=1e-6)
    clear = shuffle.null(StratumCounts(M, none, none), np.arange(40) // 2, [2])["points"][0]
    assert clear["z"] == pytest.approx(np.sqrt(20))
    assert (clear["value"], clear["chance"]) == (1.0, 0.5)
    assert shuffle.null(StratumCounts(M, none, none), np.zeros(40, int), [2])["points"][0]["z"] is None
