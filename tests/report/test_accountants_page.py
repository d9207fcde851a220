"""The accountants page, from the golden document of the comparison: self-contained, readable, and true to its document."""

import base64
import copy
import hashlib
import json
import pathlib
import re
import xml.etree.ElementTree

import pytest

from relink_jax import errors
from relink_jax.report import accountants_figures, accountants_page, accountants_words

GOLDEN = pathlib.Path(__file__).parent.parent / "goldens" / "accountants" / "comparison.json"


@pytest.fixture(scope="module")
def document():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def page(document):
    return accountants_page.render(document)


def visible(html):
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.S)).split())


def test_page_loads_nothing_and_allows_one_style(page):
    style = re.search(r"<style>(.*?)</style>", page, re.S).group(1)
    assert f"style-src 'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in page
    assert "<script" not in page
    assert re.findall(r"(?:src|srcset|href)=\"(?!data:image/svg)", page) == []


def test_page_begins_in_plain_words_and_ends_with_what_epsilon_does_not_say(page):
    text = visible(page)
    order = [
        text.index(part) for part in ("In plain words", "Red flags", "Side by side", "Figures", "Runs that touch the same people", "What epsilon does not say")
    ]
    assert order == sorted(order)
    assert "A smaller epsilon means harder to tell" in text
    assert "Someone who thought it even odds that a given patient was used becomes at most 64.7% sure on average" in text
    assert "a patient who owns several pairs gets less" in text


def test_page_shows_the_numbers_of_its_document(document, page):
    text = visible(page)
    for run in document["runs"]:
        shown = [run["epsilon"][which][view] for which in ("own", "common") for view in ("rdp", "pld")]
        shown += [row["epsilon"] for row in [*run["per_patient"], *run["tuning"]]]
        assert all(accountants_words.number(value) in text for value in shown)
        assert run["statement"] in text
    assert [row["name"] for row in document["ranking"]["rows"]] == re.findall(r"model/\w+(?= [\d.]+ as )", text)
    assert "epsilon at least 0.4 at confidence 0.95, claimed 2" in text


def test_figures_are_drawn_for_runs_with_curves_and_described(document, page):
    images = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', page)
    assert len(images) == 4
    assert all(len(alt) > 80 and "model/dp, model/pair" in alt for _, alt in images)
    for drawn, _ in images:
        assert xml.etree.ElementTree.fromstring(base64.b64decode(drawn)).tag.endswith("svg")
    bare = {**document, "runs": [{key: value for key, value in run.items() if key != "curves"} for run in document["runs"]]}
    assert "<figure" not in accountants_page.render(bare)


def test_a_measured_attack_is_drawn_only_where_there_is_one(document):
    curves = {run["name"]: run["curves"] for run in document["runs"]}
    assert curves["model/pair"]["attacks"]
    quiet = {**curves["model/pair"], "attacks": []}
    drawn, bare = (accountants_figures.trade_off([("run", one)], False) for one in (curves["model/pair"], quiet))
    assert len(drawn) > len(bare)


def test_equal_documents_give_equal_bytes(document, page, tmp_path):
    path = accountants_page.write(copy.deepcopy(document), tmp_path / "accounts.html")
    assert path.read_text() == page
    assert path.stat().st_mode & 0o777 == 0o600


def test_names_and_statements_are_escaped(document):
    hostile = copy.deepcopy(document)
    hostile["runs"][0]["name"] = hostile["runs"][0]["statement"] = "<script>alert(1)</script>"
    hostile["runs"][0].pop("curves")
    assert "<script>" not in accountants_page.render(hostile)


def test_a_refused_ranking_and_an_infinite_run_are_said(document):
    refused = copy.deepcopy(document)
    refused.update(ranking=None, not_ranked="ranking in these runs: expected one of each", converted=False)
    run = refused["runs"][0]
    run.update(infinite=True, conversions=[], curves=None, flags=[{"code": "no_noise", "severity": "void", "text": "not private: no noise was added."}])
    run["epsilon"]["own"].update(rdp="infinite", pld="infinite")
    text = visible(accountants_page.render(refused))
    assert "No ranking ranking in these runs" in text
    assert "epsilon is infinite, not private: no noise was added." in text
    assert "model/dp: promises nothing" in text


@pytest.mark.parametrize("wrong", [{}, {"kind": "relink accountants plan", "runs": [1]}, {"kind": accountants_page.KIND, "runs": []}])
def test_other_documents_are_refused(wrong):
    with pytest.raises(errors.StoreError, match="accountants page"):
        accountants_page.render(wrong)
