"""The first screen names the best attack, and says so where a mitigation only fools plain cosine."""

import complete_fixtures
import pytest
import report_fixtures

from relink_jax.report import attackers, first_screen, words
from relink_jax.report.evidence import Evidence


def text_of(parts):
    return "".join(part if isinstance(part, str) else part.number.text if isinstance(part, words.Strong) else part.text for part in parts)


def evidence_of(documents):
    return Evidence(documents, report_fixtures.ledgers(), 1000)


def exposed(documents):
    return [
        (one.row.head, attackers.tried(evidence, evidence.file(one.row, one.dataset))[one.place]["name"])
        for evidence in [evidence_of(documents)]
        for one in attackers.exposures(evidence)
    ]


def arm(documents, head="dp", dataset="phantom-A-test"):
    return next(one for one in documents if (one["model"]["name"], one["model"]["head"], one["data"]["name"]) == ("phantom-3-specialist", head, dataset))


def entry(document, name, pool=1000):
    chosen = document if name is None else next(one for one in document["attacks"] if one["name"] == name)
    return next(m for m in chosen["metrics"] if (m["name"], m["k"], m["N"], m["stratum"], m["direction"]) == ("recall", 1, pool, "other_patient", "i2r"))


@pytest.fixture(scope="module")
def honest():
    return complete_fixtures.results()


@pytest.fixture
def planted():
    return [one for one in complete_fixtures.results(released=3.2) if one["data"]["name"] == "phantom-A-test"]


def test_the_sentence_names_the_best_attack_before_and_after(honest):
    sentence = text_of(first_screen.finding(evidence_of(honest)))
    best = f"{100 * report_fixtures.recall_at_1(1.1 * 3.3, 1000):.1f}%"
    assert sentence.startswith(f"At N = 1,000 candidates, the best attack on phantom-3-specialist (inverted softmax) links {best} [")
    assert "(chance 0.1%, lift 645×; plain cosine 52.4%)" in sentence
    assert "per patient), 1.08% [0.99, 1.17] by the best attack (inverted softmax; plain cosine 0.89%; 10.8× chance remains)" in sentence
    assert sentence.endswith("zero-shot macro AUROC goes from 0.741 to 0.563 and a linear probe's macro AUROC from 0.806 to 0.798.")


def test_plain_cosine_as_the_best_attack_is_not_said_twice(honest):
    documents = [dict(one) for one in honest]
    for one in documents:
        one["attacks"] = [attack | {"selected": attack["name"] == "cosine"} for attack in one["attacks"]]
    sentence = text_of(first_screen.finding(evidence_of(documents)))
    assert "the best attack on phantom-3-specialist (plain cosine) links 52.4%" in sentence
    assert "; plain cosine" not in sentence


def test_a_mitigation_that_holds_against_every_attack_raises_no_alarm(honest):
    assert exposed(honest) == [("random", "ridge")]  # random heads are invertible, and a control


@pytest.mark.parametrize(("planting", "attack"), [({"released": 3.2}, "inverted_softmax"), ({"restored": 0.95}, "ridge")])
def test_a_mitigation_that_fools_plain_cosine_is_exposed(planting, attack):
    documents = complete_fixtures.results(**planting)
    assert exposed(documents)[0] == ("dp", attack)
    (alarm,) = first_screen.warnings(evidence_of(documents))
    assert alarm.heading == "Plain cosine is fooled"
    told = text_of(alarm.body[1])
    assert told.startswith(
        "DP-SGD heads on phantom-A-test, N = 1,000: plain cosine links 0.11% [0.10, 0.12] and sees 100% of the linkage above chance removed; "
    )
    assert f"{attackers.NAMES[attack]}" in told
    assert "chosen on calibration patients, links 4" in told


def test_what_counts_as_exposed_follows_the_numbers(planted):
    document = arm(planted)
    cosine, best = entry(document, None)["value"], entry(document, "inverted_softmax")
    assert ("dp", "inverted_softmax") in exposed(planted)
    best["ci"]["low"] = 0.0009  # no longer above chance
    assert "dp" not in dict(exposed(planted))
    best["value"], best["ci"]["low"] = 1.9 * cosine, 1.3 * cosine
    assert "dp" not in dict(exposed(planted))
    best["value"] = 2.1 * cosine
    assert ("dp", "inverted_softmax") in exposed(planted)
    entry(document, None)["value"] = 0.45  # plain cosine sees hardly anything removed: it fools nobody
    best["value"] = 0.95
    assert "dp" not in dict(exposed(planted))


def test_half_of_what_cosine_sees_removed_is_enough(planted):
    document = arm(planted)
    entry(document, None)["value"], best = 0.2, entry(document, "inverted_softmax")
    best["value"], best["ci"]["low"] = 0.39, 0.3  # less than twice cosine's, but only 40% of the best attack's linkage is gone
    assert "dp" not in dict(exposed(planted))  # 0.62 removed by cosine, 0.40 by the attack
    best["value"] = 0.4
    assert ("dp", "inverted_softmax") in exposed(planted)
    entry(document, None)["value"], best["value"] = 0.3, 0.55  # 0.43 removed by cosine, 0.15 by the attack
    assert ("dp", "inverted_softmax") in exposed(planted)


def test_an_attack_that_was_not_chosen_needs_its_whole_interval(planted):
    document = arm(planted)
    for attack in document["attacks"]:
        attack["selected"] = attack["name"] == "cosine"
    assert ("dp", "inverted_softmax") in exposed(planted)
    assert "the strongest of those tried" in text_of(first_screen.warnings(evidence_of(planted))[0].body[1])
    entry(document, "inverted_softmax")["ci"]["low"] = 1.9 * entry(document, None)["value"]
    assert "dp" not in dict(exposed(planted))


def test_attacks_that_need_more_than_the_release_expose_nothing(planted):
    document = arm(planted)
    for attack in document["attacks"]:
        if attack["name"] == "inverted_softmax":
            attack["released"] = False
        attack["selected"] = attack["name"] == "cosine"
    assert "dp" not in dict(exposed(planted))


def test_documents_without_attacks_raise_no_alarm():
    assert first_screen.warnings(evidence_of(report_fixtures.results())) == []
