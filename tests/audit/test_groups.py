"""Groups at risk: naming, hiding, shrinking, testing; null and planted differences by simulation."""

import itertools

import numpy as np
import pytest

from relink_jax import errors
from relink_jax.audit import attributes, groups, multiplicity, strata, uncertainty
from relink_jax.audit.sample import Sample


def sample_of(patient, replicates=100):
    return Sample(np.asarray(patient), int(np.max(patient)) + 1, uncertainty.Bootstrap(replicates))


def found(p, patient, **attribute_of):
    named = {name: np.asarray(values, dtype=None if np.asarray(values).dtype.kind == "f" else object) for name, values in attribute_of.items()}
    return groups.section(np.asarray(p, float), np.arange(len(p)), named, sample_of(patient), N=100, full=False)


def row(section, attribute, group):
    return next(one for one in section["rows"] if (one["attribute"], one["group"]) == (attribute, group))


def test_values_and_counts():
    patient = np.repeat(np.arange(40), 2)
    view = np.where(np.arange(80) % 2, "AP", "PA")
    p = np.where(view == "AP", 0.5, 0.1) + np.repeat(np.linspace(-0.05, 0.05, 40), 2)
    section = found(p, patient, view=view)
    assert (section["N"], section["full"], section["suppressed"], section["fewest_patients"]) == (100, False, 0, 10)
    assert [one["group"] for one in section["rows"]] == ["AP", "PA"]
    ap = row(section, "view", "AP")
    assert (ap["n_queries"], ap["n_patients"]) == (40, 40)
    assert ap["value"] == pytest.approx(0.5)
    assert ap["ci"]["low"] < 0.5 < ap["ci"]["high"]
    assert row(section, "view", "PA")["value"] < row(section, "view", "PA")["shrunken"] < 0.3 < ap["shrunken"] < 0.5
    assert ap["p"] < 1e-9


def test_only_the_queries_asked_for():
    patient, view = np.arange(80), np.where(np.arange(80) % 2, "AP", "PA").astype(object)
    section = groups.section(np.linspace(0, 1, 40), np.arange(40, 80), {"view": view}, sample_of(patient), N=9, full=True)
    assert [one["n_patients"] for one in section["rows"]] == [20, 20]
    assert section["full"] is True
    assert groups.section(np.zeros(0), np.zeros(0, int), {"view": view}, sample_of(patient), N=9, full=True) is None


def test_a_single_small_group_would_follow_from_the_total():
    patient = np.arange(60)
    p = np.linspace(0, 1, 60)
    section = found(p, patient, view=["AP"] * 30 + ["PA"] * 18 + ["lateral"] * 12, sex=["F"] * 31 + ["M"] * 25 + ["O"] * 4)
    assert {(one["attribute"], one["group"]) for one in section["rows"]} == {("view", "AP"), ("view", "PA"), ("view", "lateral"), ("sex", "F")}
    assert section["suppressed"] == 2


def test_what_is_hidden_is_never_a_single_group_nor_few_patients():
    generator = np.random.default_rng(0)
    for _ in range(300):
        patient = generator.integers(0, 60, 120)
        codes = np.unique(generator.choice(6, 120, p=generator.dirichlet(np.full(6, 0.4))), return_inverse=True)[1]
        hidden = groups.hide(codes, patient, 10)
        size = {code: len(np.unique(patient[codes == code])) for code in range(codes.max() + 1)}
        assert {code for code, n in size.items() if n < 10} <= hidden
        if hidden and len(hidden) < len(size):
            assert len(hidden) >= 2
            assert len(np.unique(patient[np.isin(codes, list(hidden))])) >= 10
            shown = [n for code, n in size.items() if code not in hidden]
            assert max([size[code] for code in hidden]) <= min(shown)
        if not any(n < 10 for n in size.values()):
            assert hidden == set()
    assert groups.hide(np.repeat([0, 1, 2], [4, 4, 80]), np.arange(88), 10) == {0, 1, 2}
    assert groups.hide(np.repeat([0, 1, 2], [4, 8, 80]), np.arange(92), 10) == {0, 1}


def test_many_queries_of_few_patients_are_few():
    patient = np.concatenate([np.repeat(np.arange(9), 20), np.arange(9, 60)])
    section = found(np.full(len(patient), 0.1), patient, view=["AP"] * 180 + ["PA"] * 51)
    assert section["rows"] == []
    assert section["suppressed"] == 2


def test_missing_values_are_a_group_and_one_group_is_none():
    patient = np.arange(90)
    values = [None, "", float("nan")] * 10 + ["AP"] * 30 + ["PA"] * 30
    section = found(np.linspace(0, 1, 90), patient, view=values, all_alike=["x"] * 90, age_years=np.repeat([np.nan, 40.0], [30, 60]))
    assert {one["group"] for one in section["rows"] if one["attribute"] == "view"} == {attributes.NOT_RECORDED, "AP", "PA"}
    assert {one["group"] for one in section["rows"] if one["attribute"] == "age_years"} == {attributes.NOT_RECORDED, "recorded years"}
    assert all(one["attribute"] != "all_alike" for one in section["rows"])
    assert row(section, "view", attributes.NOT_RECORDED)["n_patients"] == 30


def test_numbers_are_cut_into_fifths_with_open_ends():
    words = np.arange(1.0, 101.0)
    codes, names = attributes.grouped("report_words", words)
    assert names == ["up to 20 words", "21 to 40 words", "41 to 60 words", "61 to 80 words", "81 or more words"]
    assert np.bincount(codes).tolist() == [20] * 5
    for name, group in zip(names[1:4], range(1, 4), strict=True):
        low, high = (int(end) for end in name.removesuffix(" words").split(" to "))
        assert (words[codes == group].min(), words[codes == group].max()) == (low, high)
    assert attributes.grouped("other", np.array([0.0, 0, 0, 0, 0, 0, 0, 0, 1, 2]))[1] == ["up to 0", "1 or more"]
    assert attributes.grouped("rarity", np.array([0.5, 1.25, 2.5, 3.75, 9.125]))[1] == [
        "up to 0.5 bits",
        "0.5 to 1.25 bits",
        "1.25 to 2.5 bits",
        "2.5 to 3.75 bits",
        "above 3.75 bits",
    ]
    near = attributes.grouped("x", 1 + np.arange(5) * 1e-6)[1]
    assert len(set(near)) == 5
    assert attributes.grouped("x", np.full(3, np.nan))[1] == [attributes.NOT_RECORDED]
    assert attributes.grouped("flag", np.array([True, False, True]))[1] == ["no", "yes"]


def test_names_do_not_give_away_the_extremes():
    for values in (np.array([*range(20, 90), 104.0]), np.random.default_rng(0).normal(size=50)):
        told = " ".join(attributes.grouped("age_years", values)[1])
        assert f"{values.max():g}" not in told
        assert f"{values.min():.3g} to" not in told


def test_benjamini_hochberg():
    p = np.array([0.01, 0.8, 0.04, 0.035, 0.005])
    brute = [min(1.0, min(max(p[list(chosen)]) * 5 / sum(p <= max(p[list(chosen)])) for chosen in subsets_with(index))) for index in range(5)]
    np.testing.assert_allclose(multiplicity.benjamini_hochberg(p), brute)
    np.testing.assert_allclose(multiplicity.benjamini_hochberg(p), [0.025, 0.8, 0.05, 0.05, 0.025])
    assert len(multiplicity.benjamini_hochberg(np.zeros(0))) == 0


def subsets_with(index):
    others = [one for one in range(5) if one != index]
    return [(index, *chosen) for size in range(5) for chosen in itertools.combinations(others, size)]


def test_two_sided():
    np.testing.assert_allclose(multiplicity.two_sided(np.array([0.0, 2.2281388520, -2.2281388520]), 10), [1, 0.05, 0.05], atol=1e-9)


def test_shrinking_recovers_planted_rates():
    """Groups of a beta prior: posterior means are nearer the true rates than raw means, and close to those of the true prior."""
    generator = np.random.default_rng(1)
    prior, overall, G = 50, 0.2, 4000
    true = generator.beta(overall * prior, (1 - overall) * prior, G)
    n = generator.integers(10, 200, G)
    raw = generator.binomial(n, true) / n
    mean = (raw * n).sum() / n.sum()
    shrunken = groups.shrink(raw, mean * (1 - mean) / n, np.zeros(G), mean)
    ideal = (prior * overall + n * raw) / (prior + n)
    assert np.abs(shrunken - ideal).max() < 0.02
    assert np.abs(shrunken - ideal).mean() < 0.003
    assert ((shrunken - true) ** 2).mean() < 0.8 * ((raw - true) ** 2).mean()


def test_shrinking_without_differences_gives_the_overall_mean():
    assert groups.shrink(np.array([0.1, 0.11]), np.array([0.01, 0.01]), np.array([0.5, 0.5]), 0.105).tolist() == [0.105, 0.105]
    assert groups.shrink(np.array([0.0, 0.0]), np.zeros(2), np.array([0.5, 0.5]), 0.0).tolist() == [0, 0]


def test_a_tiny_group_does_not_lead():
    generator = np.random.default_rng(5)
    patient = np.arange(2012)
    group = np.array(["large"] * 1000 + ["rest"] * 1000 + ["tiny"] * 12)
    p = np.concatenate([generator.random(1000) < 0.25, generator.random(1000) < 0.1, [1] * 4 + [0] * 8]).astype(float)
    section = found(p, patient, group=group, other=np.where(patient % 2, "a", "b"))
    assert row(section, "group", "tiny")["value"] > row(section, "group", "large")["value"]
    assert section["rows"][0]["group"] == "large"


def test_few_patients_without_a_hit_or_with_one_are_no_news():
    patient = np.arange(5012)
    p = (np.random.default_rng(2).random(5012) < 0.01).astype(float)
    for hits, least in ((0, 0.5), (1, 0.3)):
        p[5000:] = [1.0] * hits + [0.0] * (12 - hits)
        section = found(p, patient, group=np.array(["rest"] * 5000 + ["small"] * 12), other=np.where(patient % 2, "a", "b"))
        assert row(section, "group", "small")["p"] > least


@pytest.mark.parametrize("within", [True, False], ids=["of the image", "of the patient"])
def test_p_values_hold_their_level_with_clusters(within):
    """Nothing is planted: with strong clusters an unclustered test would reject in a third of these."""
    generator = np.random.default_rng(11)
    rejected = plain = 0
    for _ in range(400):
        patient = np.repeat(np.arange(60), generator.integers(1, 16, 60))
        p = np.clip(generator.beta(0.5, 2, 60)[patient] + 0.02 * generator.standard_normal(len(patient)), 0, 1)
        inside = generator.random(len(patient)) < 0.5 if within else (generator.random(60) < 0.4)[patient]
        value = groups.against_rest(p, inside, groups.exchangeable(p, patient))
        gap = p[inside].mean() - p[~inside].mean()
        plain += abs(gap) > 1.96 * np.sqrt(p[inside].var() / inside.sum() + p[~inside].var() / (~inside).sum())
        rejected += value < 0.05
    assert rejected / 400 < 0.08
    assert rejected / 400 > (0 if within else 0.01)
    assert within or plain / 400 > 0.2


def test_exchangeable_moments():
    p, owner = np.array([1.0, 3, 2, 6]), np.array([7, 7, 9, 9])
    model = groups.exchangeable(p, owner)
    assert model.variance == pytest.approx((4 + 0 + 1 + 9) / 4)
    assert model.covariance == 0  # not below it
    model = groups.exchangeable(np.array([1.0, 2, 5, 8]), owner)
    assert model.covariance == pytest.approx((2 * (-3) * (-2) + 2 * 1 * 4) / 4)
    assert model.of_sum(np.array([1.0, 1, 0, 0])) == pytest.approx(2 * model.variance + 2 * model.covariance)
    assert groups.exchangeable(np.array([1.0, 2.0]), np.array([0, 1])).covariance == 0


def test_attributes_of_labels_and_patients():
    labels = np.full((6, 14), strata.BLANK, np.int8)
    labels[:3, 0] = 1
    labels[3, 2], labels[4, 5] = 1, -1
    found = attributes.describe_attributes(labels, np.array([1, 1, 1, 1, 0, 1], bool), np.array([0, 0, 1, 2, 2, 2]), np.array([0, 3, 4, 5, 5]))
    assert found["patient_studies"].tolist() == [2, 3, 3, 3, 3]
    np.testing.assert_allclose(found["rarity"], [-np.log2(3 / 5), -np.log2(1 / 5), np.nan, -np.log2(1 / 5), -np.log2(1 / 5)])
    assert found["Cardiomegaly"].tolist() == ["no", "yes", None, "no", "no"]
    assert set(found) == {"patient_studies", "rarity", *strata.LABELS}
    assert set(attributes.describe_attributes(None, np.zeros(6, bool), np.arange(6), np.arange(6))) == {"patient_studies"}
    with pytest.raises(errors.UsageError, match="unknown policy"):
        attributes.describe_attributes(labels, np.ones(6, bool), np.arange(6), np.arange(6), "loose")


def test_a_small_group_that_was_not_recorded_hides_no_other():
    patient = np.repeat(np.arange(60), 2)
    told = np.where(patient < 4, "", np.where(patient < 20, "yes", "no")).astype(object)
    sample = Sample(patient, 60, uncertainty.Bootstrap(100, 0.95, 0))
    found = groups.section(np.full(120, 0.3), np.arange(120), {"finding": told}, sample, N=10, full=False)
    assert {row["group"] for row in found["rows"]} == {"yes", "no"}
    assert found["suppressed"] == 1
