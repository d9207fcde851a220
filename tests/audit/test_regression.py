"""Fractional logit: closed forms, finite differences, planted coefficients, clustered errors, and what is left out."""

import numpy as np
import pytest
from scipy import special

from relink_jax.audit import regression, uncertainty
from relink_jax.audit.sample import Sample


def section(p, patient, level=0.95, rows=None, **attribute_of):
    patient = np.asarray(patient)
    sample = Sample(patient, int(patient.max()) + 1, uncertainty.Bootstrap(100, level))
    rows = np.arange(len(p)) if rows is None else rows
    return regression.section(np.asarray(p, float), rows, attribute_of, sample, N=1000, full=False)


def words(values):
    return np.array(values, dtype=object)


def clustered(generator, n_patients=600, each=5, effects=(0.8, -0.5), spread=0.0):
    """Returns (p, patient, x, group): risks with a logistic mean, and a patient effect of the given spread beside it."""
    patient = np.repeat(np.arange(n_patients), each)
    x = generator.standard_normal(n_patients)[patient]
    group = generator.choice(["a", "b"], n_patients, p=[0.6, 0.4])[patient]
    mean = special.expit(-1.5 + effects[0] * x + effects[1] * (group == "b"))
    noise = generator.beta(1, 1 + spread, n_patients)[patient] if spread else 1.0
    p = np.clip(mean * noise * (1 + spread if spread else 1), 0, 1)
    return generator.beta(4 * p + 1e-9, 4 * (1 - p) + 1e-9), patient, x, words(group)


def test_one_yes_or_no_is_the_ratio_of_odds_with_its_closed_error():
    generator = np.random.default_rng(0)
    patient = np.repeat(np.arange(50), 3)
    edema = words(np.where(np.arange(50) < 20, "yes", "no")[patient])
    p = generator.random(150) * np.where(edema == "yes", 0.8, 0.3)
    found = section(p, patient, Edema=edema)
    assert (found["N"], found["full"], found["n_queries"], found["n_patients"], found["left_out"]) == (1000, False, 150, 50, [])
    term = found["terms"][0]
    inside = edema == "yes"
    means = p[inside].mean(), p[~inside].mean()
    variance = 0
    for among, mean in ((inside, means[0]), (~inside, means[1])):
        sums = np.bincount(patient[among], p[among] - mean)
        variance += (sums @ sums) / (among.sum() * mean * (1 - mean)) ** 2
    log_odds, error = special.logit(means[0]) - special.logit(means[1]), np.sqrt(variance * 50 / 49)
    reach = special.stdtrit(49, 0.975) * error
    assert (term["name"], term["per"]) == ("Edema", "yes rather than no")
    assert np.log([term["odds_ratio"], term["low"], term["high"]]) == pytest.approx([log_odds, log_odds - reach, log_odds + reach])
    assert term["p"] == pytest.approx(2 * special.stdtr(49, -abs(log_odds / error)))


def test_fit_is_where_the_likelihood_is_flat_and_bread_is_its_curvature():
    generator = np.random.default_rng(1)
    design = np.column_stack([np.ones(80), generator.standard_normal((80, 3))])
    p = generator.random(80)
    beta, done = regression.fit(design, p)
    assert done

    def likelihood(b):
        mean = special.expit(design @ b)
        return (p * np.log(mean) + (1 - p) * np.log1p(-mean)).sum()

    step = 1e-4 * np.eye(4)
    slope = [(likelihood(beta + one) - likelihood(beta - one)) / 2e-4 for one in step]
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    curved = np.array(
        [[(likelihood(beta + a + b) - likelihood(beta + a - b) - likelihood(beta - a + b) + likelihood(beta - a - b)) / 4e-8 for a in step] for b in step]
    )
    owner = np.repeat(np.arange(20), 4)
    residual = p - special.expit(design @ beta)
    meat = sum(np.outer(one, one) for one in ((design[owner == g] * residual[owner == g][:, None]).sum(axis=0) for g in range(20)))
    wanted = np.linalg.inv(curved) @ meat @ np.linalg.inv(curved) * 20 / 19
    np.testing.assert_allclose(regression.clustered_covariance(design, p, beta, owner), wanted, rtol=1e-4)


def test_planted_odds_ratios_are_found_and_their_intervals_cover():
    generator = np.random.default_rng(2)
    covered, estimates = np.zeros(2), []
    for _ in range(120):
        p, patient, x, group = clustered(generator, 200, 3)
        terms = section(p, patient, x=x, group=group)["terms"]
        assert [term["name"] for term in terms] == ["x", "group: b"]
        wanted = np.exp([0.8 * x.std(), -0.5])
        estimates.append(np.log([term["odds_ratio"] for term in terms]) - np.log(wanted))
        covered += [term["low"] < one < term["high"] for term, one in zip(terms, wanted, strict=True)]
    np.testing.assert_allclose(np.mean(estimates, axis=0), 0, atol=0.03)
    assert (covered / 120 > 0.88).all()


def test_errors_grow_with_clusters_and_the_spread_of_estimates_is_theirs():
    generator = np.random.default_rng(3)
    estimates, errors, unclustered = [], [], []
    for _ in range(150):
        p, patient, x, _ = clustered(generator, 150, 8, effects=(0.0, 0.0), spread=2.0)
        for owner, into in ((patient, errors), (np.arange(len(p)), unclustered)):
            term = section(p, owner, x=x)["terms"][0]
            into.append(np.log(term["high"] / term["low"]) / 2 / 1.97)
        estimates.append(np.log(term["odds_ratio"]))
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.15)
    assert np.mean(errors) > 1.7 * np.mean(unclustered)


def test_constant_collinear_and_separating_terms_are_left_out_and_named():
    generator = np.random.default_rng(4)
    p, patient, x, group = clustered(generator)
    never = words(np.where(patient < 60, "yes", "no"))
    p[patient < 60] = 0
    found = section(
        p, patient, x=x, twice=2 * x + 1, same=np.full(len(p), 3.0), only=words(["u"] * len(p)), group=group, other=words(group == "b"), never=never
    )
    assert [term["name"] for term in found["terms"]] == ["x", "group: b"]
    assert found["left_out"] == ["twice", "same", "only", "other", "never"]
    without = section(p, patient, x=x, group=group)
    assert found["terms"] == without["terms"]


def test_standard_deviations_references_and_missing_values():
    generator = np.random.default_rng(5)
    p, patient, x, group = clustered(generator)
    scaled = section(p, patient, report_words=50 + 10 * x, group=group)["terms"]
    plain = section(p, patient, x=x, group=group)["terms"]
    assert scaled[0]["odds_ratio"] == pytest.approx(plain[0]["odds_ratio"])
    assert scaled[0]["per"] == f"one standard deviation more, {10 * x.std():.3g} words"
    assert plain[1]["per"] == "rather than a"
    gone = patient % 4 == 0
    missing = words(np.where(gone, None, "yes"))
    often = words(np.where(patient % 3 == 0, np.where(patient % 2, "b", "a"), ""))
    assert [term["per"] for term in section(p, patient, group=often)["terms"]] == ["rather than a"] * 2
    found = section(p, patient, x=np.where(gone, np.nan, x), group=group, view=missing)
    assert [(term["name"], term["per"]) for term in found["terms"][1:]] == [("x: not recorded", "rather than recorded"), ("group: b", "rather than a")]
    assert found["left_out"] == ["view: not recorded"]
    assert found["terms"][0]["per"] == f"one standard deviation more, {x[~gone].std():.3g}"


def test_groups_of_few_patients_are_not_named():
    p, patient, x, _ = clustered(np.random.default_rng(6))
    maker = words(np.where(patient < 5, "Secret Devices", np.where(patient < 300, "one", "two")))
    found = section(p, patient, x=x, maker=maker, rare=words(np.where(patient < 9, "yes", "no")))
    assert [term["name"] for term in found["terms"]] == ["x", "maker: one"]
    assert found["left_out"] == ["maker: small groups", "rare: small groups"]
    assert "Secret" not in str(found)


def test_too_few_patients_for_so_many_terms():
    generator = np.random.default_rng(7)
    p, patient, _, _ = clustered(generator, 20, 4)
    many = {f"t{number}": generator.standard_normal(len(p)) for number in range(6)}
    found = section(p, patient, **many)
    assert [term["name"] for term in found["terms"]] == ["t0", "t1", "t2", "t3"]
    assert found["left_out"] == ["t4", "t5"]


def test_nothing_to_explain():
    patient = np.arange(40)
    x = np.linspace(0, 1, 40)
    assert section(np.zeros(40), patient, x=x) is None
    assert section(np.ones(40), patient, x=x) is None
    assert section(np.zeros(0), patient, rows=np.zeros(0, int), x=x) is None
    assert section(np.linspace(0, 1, 40), patient % 9, x=x) is None
    assert section(np.linspace(0, 1, 40), patient, same=np.ones(40))["terms"] == []


def test_only_the_queries_asked_for_and_tiny_risks():
    p, patient, x, group = clustered(np.random.default_rng(8))
    rows = np.flatnonzero(patient >= 100)
    found = section(p[rows], patient, rows=rows, x=x, group=group)
    assert (found["n_queries"], found["n_patients"]) == (2500, 500)
    alone = section(p[rows], patient[rows] - 100, x=x[rows], group=group[rows])
    assert found == alone
    small = section(1e-6 * special.expit(0.5 * x), patient, x=x)["terms"][0]
    assert 1.1 < small["odds_ratio"] < 1.7


def test_a_rare_group_with_ten_thousand_times_the_risk():
    """A first Newton step of 300 must neither be taken nor be taken for separation."""
    patient = np.arange(4000)
    rare, x = patient < 12, np.random.default_rng(9).standard_normal(4000)
    p = np.where(rare, 0.03, 3e-6) * np.exp(0.1 * x)
    found = section(p, patient, x=x, rare=words(np.where(rare, "yes", "no")))
    assert found["left_out"] == []
    assert found["terms"][1]["odds_ratio"] == pytest.approx(1e4, rel=0.1)
    assert found["terms"][0]["odds_ratio"] == pytest.approx(np.exp(0.1 * x.std()), rel=0.02)
