"""Several runs on one page: a row for each thing audited, other rules set apart, every number traced to its run."""

import copy
import json
import re

import pytest
import report_fixtures

from relink_jax import config, errors
from relink_jax.report import plots, runs
from relink_jax.stages import report


def one_site(documents):
    return [one for one in documents if one["data"]["name"] == "phantom-A-test"]


@pytest.fixture(scope="module")
def three():
    first = one_site(report_fixtures.results())
    smaller, other = copy.deepcopy(first), copy.deepcopy(first)
    for one in smaller:
        one["metrics"] = [entry for entry in one["metrics"] if entry["N"] != 1000]
    for one in other:
        one["protocol"] |= {"ties": "optimistic"}
    return {"first": first, "smaller": smaller, "<b>other": other}


@pytest.fixture
def written(three, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "image", lambda *_: "<svg/>")
    return runs.render(three, tmp_path / "side" / "runs.html")


def test_every_run_model_and_heads_has_a_row(written, three):
    text = written.read_text()
    for name in ("first", "smaller", "&lt;b&gt;other"):
        assert text.count(f'scope="row">{name}: phantom-3-specialist') == 4
        assert text.count(f'scope="row">{name}: phantom-') == 7
    assert "<b>other" not in text
    assert "<script" not in text
    headers = "".join(re.findall(r"<thead.*?</thead>", text, re.S))
    assert "10</span>" in headers
    assert "100</span>" in headers
    assert "1,000</span>" not in headers  # not every run has it


def test_other_rules_are_named_and_stand_apart(written):
    text = written.read_text()
    assert "&lt;b&gt;other: ties is optimistic, not expected as in first." in text
    table = text[text.index("<tbody") :]
    assert table.index("Under other rules: &lt;b&gt;other") > table.index("smaller: phantom-3-specialist")
    assert table.index("Under other rules: &lt;b&gt;other") < table.index("&lt;b&gt;other: phantom-0-untrained")


def test_runs_under_the_same_rules_raise_no_alarm(three, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "image", lambda *_: "<svg/>")
    text = runs.render({name: three[name] for name in ("first", "smaller")}, tmp_path / "runs.html").read_text()
    assert "Under other rules" not in text
    assert '<section class="alarm"' not in text


def test_every_number_is_checked_against_its_own_run(written, three):
    record = json.loads(written.with_name("runs.numbers.json").read_text())
    assert {source["file"].split("/")[0] for entry in record["numbers"] for source in entry["sources"]} == set(three)
    assert runs.check_runs(three, written) == len(record["numbers"])
    changed = copy.deepcopy(three)
    entry = next(m for m in changed["smaller"][3]["metrics"] if m["name"] == "recall" and m["N"] == 100)
    entry["value"] += 1e-6
    with pytest.raises(errors.StoreError, match=r"number does not come out again in runs\.html, .*smaller/results"):
        runs.check_runs(changed, written)
    with pytest.raises(errors.StoreError, match=r"page missing .*expected other\.html"):
        runs.check_runs(three, written.with_name("other.html"))


def test_the_stage_reads_workdirs_and_leaves_them_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "image", lambda *_: "<svg/>")
    roots = [tmp_path / "a" / "out", tmp_path / "b" / "out"]
    for root in roots:
        report_fixtures.save(root / "results")
    before = {path: path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file()}
    page = tmp_path / "page.html"
    made = report.run(config.RunConfig(), "", [str(root) for root in roots], page=str(page))
    assert report.describe(made) == f"2 runs side by side\n\npage: {page}"
    assert str(tmp_path) not in page.read_text()
    assert "out-2: phantom-3-specialist" in page.read_text()
    assert report.run(config.RunConfig(), "", [str(root) for root in roots], check=True, page=str(page)).checked > 100
    assert {path: path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "workdir", "flags", "message"),
    [
        (["out"], "elsewhere", {}, "flag --workdir in 'relink report RUN ...': expected runs only"),
        ([], "out", {"page": "x.html"}, "flag --page in 'relink report'"),
        (["nowhere"], "", {}, "run in 'relink report RUN ...': expected the workdir of a run, found no directory 'nowhere'"),
    ],
)
def test_misuse_gets_one_sentence(words, workdir, flags, message):
    with pytest.raises(errors.UsageError) as caught:
        report.run(config.RunConfig(), workdir, words, **flags)
    assert message in str(caught.value)
