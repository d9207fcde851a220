"""Verdicts are computed from the numbers: each flips when its numbers do."""

import numpy as np
import pytest
import report_fixtures
from scipy import stats

from relink_jax.report import answers, caveats, first_screen, values, words
from relink_jax.report.evidence import Evidence


def text_of(parts):
    return "".join(part if isinstance(part, str) else part.number.text if isinstance(part, words.Strong) else part.text for part in parts)


def verdicts(results, pool=1000):
    return {answer.question: (answer.verdict, text_of(answer.body)) for answer in answers.answers(Evidence(results, report_fixtures.ledgers(), pool))}


def find(results, head, dataset="phantom-A-test", model="phantom-3-specialist"):
    return next(one for one in results if (one["model"]["name"], one["model"]["head"], one["data"]["name"]) == (model, head, dataset))


def recall(document, pool=1000, stratum="other_patient"):
    return next(m for m in document["metrics"] if (m["name"], m["k"], m["N"], m["direction"], m["stratum"]) == ("recall", 1, pool, "i2r", stratum))


@pytest.fixture
def results():
    return report_fixtures.results()


def test_finding_is_one_sentence_with_every_part(results):
    sentence = text_of(first_screen.finding(Evidence(results, report_fixtures.ledgers(), 1000)))
    assert sentence.startswith("At N = 1,000 candidates, phantom-3-specialist links 52.4% [48.2, 56.6] of the images to their report (chance 0.1%, lift 524×)")
    assert "after DP-SGD on its projection heads (ε = 0.34, δ = 6e-6 per patient), 0.89% [0.82, 0.96] (8.91× chance remains)" in sentence
    assert "with noise of the same size and no data, 0.82% [0.76, 0.89]" in sentence
    assert sentence.endswith("macro AUROC goes from 0.806 to 0.798.")


def test_headline_pool_falls_back_to_what_fits(results):
    assert text_of(first_screen.finding(Evidence(results, {}, 500))).startswith("At N = 100 candidates")
    assert text_of(first_screen.finding(Evidence(results, {}, 10**6))).startswith("At N = 1,000 candidates")


def test_ladder_verdict(results):
    question = "Does linkage rise with specialisation?"
    verdict, body = verdicts(results)[question]
    assert verdict == "Yes"
    assert "phantom-0-untrained 1.17×, phantom-1-labels 13.0×, phantom-2-reports 163×, phantom-3-specialist 524×" in body
    assert "do not overlap" in body
    entry = recall(find(results, "original", model="phantom-2-reports"))
    entry["ci"]["high"] = 0.6
    assert "The intervals of phantom-2-reports and phantom-3-specialist overlap." in verdicts(results)[question][1]
    assert verdicts(results)[question][0] == "On the whole"
    entry["lift"] = 5.0
    assert verdicts(results)[question][0] == "No"
    assert "does not rise at phantom-2-reports" in verdicts(results)[question][1]


def test_matched_verdict(results):
    question = "Is it more than the disease labels?"
    verdict, body = verdicts(results)[question]
    assert verdict == "Yes"
    assert "N = 100" in body
    assert "38% of the queries" in body
    recall(find(results, "original"), 100, "label_matched")["ci"]["low"] = 0.005
    assert verdicts(results)[question][0] == "Not shown"


@pytest.mark.parametrize(("low", "high", "verdict"), [(-0.01, 0.01, "Not distinguishable"), (0.001, 0.01, "It kept linkage"), (-0.01, -0.001, "Yes")])
def test_dp_against_noise(results, low, high, verdict):
    for entry in find(results, "dp")["paired"]:
        if "noise_only" in entry["against"]:
            entry["ci"] |= {"low": low, "high": high}
    found, body = verdicts(results)["Did DP training do more than its noise?"]
    assert found == verdict
    assert ("nothing here shows that learning" in body) == (verdict == "Not distinguishable")


def test_dp_against_one_draw_without_a_paired_interval_says_nothing(results):
    find(results, "dp")["paired"] = []
    assert "Did DP training do more than its noise?" not in verdicts(results)
    assert "Did the DP heads remove the linkage?" not in verdicts(results)


DRAWS = (0.10, 0.14, 0.12, 0.11, 0.13)


@pytest.mark.parametrize(("after", "verdict"), [(0.12, "Not distinguishable"), (0.168, "Not distinguishable"), (0.169, "It kept linkage"), (0.071, "Yes")])
def test_dp_against_the_spread_of_noise_draws(results, after, verdict):
    recall(find(results, "dp"))["value"] = after
    found, body = verdicts(report_fixtures.with_draws(results, DRAWS))["Did DP training do more than its noise?"]
    reach = stats.t.ppf(0.975, 4) * np.std(DRAWS, ddof=1) * np.sqrt(1 + 1 / 5)
    assert f"leaves 12.0% [{100 * (0.12 - reach):.1f}, {100 * (0.12 + reach):.1f}]" in body
    assert "mean of 5 draws" in body
    share = (recall(find(results, "original"))["value"] - 0.12) / (recall(find(results, "original"))["value"] - after)
    assert f"accounts for {100 * share:.0f}% of the fall" in body
    assert found == verdict


def test_further_draws_are_no_rows_of_the_page(results):
    plain, drawn = (Evidence(one, {}, 1000) for one in (results, report_fixtures.with_draws(results, DRAWS)))
    assert [(row.model, row.head) for row in plain.arms] == [(row.model, row.head) for row in drawn.arms]
    sentence = text_of(first_screen.finding(drawn))
    assert "with noise of the same size and no data, 12.0% (mean of 5 draws)" in sentence


def test_no_share_of_a_fall_that_there_was_not(results):
    recall(find(results, "dp"))["value"] = 0.9
    _, body = verdicts(report_fixtures.with_draws(results, DRAWS))["Did DP training do more than its noise?"]
    assert "of the fall" not in body


def test_removal_verdict(results):
    question = "Did the DP heads remove the linkage?"
    verdict, body = verdicts(results)[question]
    assert verdict == "In part"
    assert "a fall of 98.3%" in body
    assert "9.03 before, 3.16 [3.04, 3.27] left, 5.88" in body
    recall(find(results, "dp"))["ci"]["lift_low"] = 0.9
    assert verdicts(results)[question][0] == "Down to chance"
    for entry in find(results, "dp")["paired"]:
        entry["ci"] |= {"low": -0.1, "high": 0.1}
    assert verdicts(results)[question][0] == "No"


def test_price_verdict(results):
    question = "What did it cost?"
    assert verdicts(results)[question][0] == "A measurable loss"
    find(results, "dp")["utility"]["paired"][0]["ci"]["high"] = 0.001
    assert verdicts(results)[question][0] == "Not resolved to a point"
    find(results, "dp")["utility"]["paired"][0]["ci"]["low"] = -0.0099
    assert verdicts(results)[question][0] == "No loss of a point or more"
    find(results, "dp")["utility"]["paired"] = []
    assert verdicts(results)[question][0] == "Not tested"


def test_one_brought_along_model_gets_a_plain_finding(results):
    lone = find(results, "original")
    lone["model"] |= {"name": "embeddings", "head": "none", "specialisation": None}
    lone["utility"] = {"probe": []}
    evidence = Evidence([lone], {}, 1000)
    assert text_of(first_screen.finding(evidence)).startswith("At N = 1,000 candidates, embeddings links 52.4%")
    assert [answer.question for answer in answers.answers(evidence)] == ["Is it more than the disease labels?"]
    assert "An attacker who keeps the original" not in dict(caveats.limits(evidence))


def test_limits_follow_the_protocol(results):
    evidence = Evidence(results, report_fixtures.ledgers(), 1000)
    limits = {heading: text_of(body) for heading, body in caveats.limits(evidence)}
    assert "737 patients" in limits["Protection of the audited patients"]
    assert "findings+impression" in limits["Other text"]
    assert "1,174 studies hold 1,012 different texts" in limits["Ties"]
    assert "left out of the candidates" in limits["Same patient"]
    for one in results:
        one["protocol"]["same_patient"] = "negative"
        one["data"]["synthetic"] = False
    real = dict(caveats.limits(Evidence(results, {}, 1000)))
    assert "A real archive" not in real
    assert "counted as wrong" in text_of(real["Same patient"])


def test_ledger_rows():
    evidence = Evidence(report_fixtures.results(), report_fixtures.ledgers(), 1000)
    dp, control = (dict(caveats.ledger_rows(evidence, name)) for name in evidence.ledgers)
    shown = {term: text_of(value) for term, value in dp.items()}
    assert shown["ε (Rényi DP)"] == "0.34"
    assert shown["sampling probability, q"] == "0.174"
    assert shown["δ × N"] == "0.00442"
    assert shown["neighbouring relation"] == "zero-out (N is public)"
    assert control["private records read"] == ["none, so nothing was spent"]
    assert "δ" not in control
    ledgers = report_fixtures.ledgers()
    ledgers["heads/phantom-3-specialist/dp/privacy_ledger.json"]["epsilon"] |= {"infinite": True, "rdp": None}
    unsound = Evidence(report_fixtures.results(), ledgers, 1000)
    assert dict(caveats.ledger_rows(unsound, next(iter(ledgers))))["ε (Rényi DP)"] == ["infinite, no guarantee"]
    assert isinstance(dp["δ"][0], values.Number)
