"""The page: self-contained, escaped, reproducible, every number traced to a file, and every change noticed."""

import base64
import hashlib
import html.parser
import json
import re

import pytest
import report_fixtures

from relink_jax import errors
from relink_jax.report import check as check_lib
from relink_jax.report import figures, page, plots

IMAGE = re.compile(r'data:image/svg\+xml;base64,([^"]+)')


class Text(html.parser.HTMLParser):
    """Collects visible text outside traced numbers, and all tags with their attributes."""

    def __init__(self):
        super().__init__()
        self.tags, self.loose, self._traced, self._hidden = [], [], False, False

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._traced = "data-id" in dict(attrs)
        self._hidden = tag in ("style", "title")

    def handle_endtag(self, tag):
        self._traced = self._hidden = False

    def handle_data(self, data):
        if not self._traced and not self._hidden:
            self.loose.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = page.render(report_fixtures.results(), report_fixtures.ledgers(), tmp_path_factory.mktemp("report"))
    return path, path.read_text()


def parsed(text):
    found = Text()
    found.feed(text)
    return found


def test_nothing_is_loaded_from_anywhere(written):
    text = written[1]
    tags = parsed(text).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        assert attributes.get("href", "#").startswith(("#", "data:text/csv;")) or attributes["href"] == "summary.html"
        for name in ("src", "srcset"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "http" not in re.sub(r"data:[^\"]+", "", text).replace("http-equiv", "")
    style = re.search(r"<style>(.*?)</style>", text, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = next(attributes["content"] for tag, attributes in tags if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;")
    assert "url(" not in style
    assert "@import" not in style


def test_page_is_accessible(written):
    tags = parsed(written[1]).tags
    assert ("html", {"lang": "en"}) in tags
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 4
    assert all(len(attributes["alt"]) > 40 for attributes in images)
    assert sum(tag == "caption" for tag, _ in tags) == sum(tag == "table" for tag, _ in tags) >= 4
    assert [tag for tag, _ in tags if tag == "h1"] == ["h1"]
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")


def test_every_number_is_traced(written):
    path, text = written
    record = json.loads(path.with_name("numbers.json").read_text())
    known = {entry["id"] for entry in record["numbers"]}
    used = {attributes["data-id"] for _, attributes in parsed(text).tags if "data-id" in attributes}
    assert used <= known
    assert len(used) > 250
    body = text[text.index("<main id=") : text.index('id="sources"')]
    loose = " ".join(parsed(body).loose)
    names = r"0f3a5c7e9b12|2030-01-02 03:04|0\.1\.0|phantom-\d-\w+"
    terms = r"Recall@1|rank 1|1 in N|1/N|14[- ](?:labels|label|findings)|95%|0 is no|0\.5 is guessing"
    loose = re.sub(r"(?<!\S)0(?!\S)", "", re.sub(f"{names}|{terms}", "", loose))  # a bare 0 is the lift of chance in bits
    assert re.findall(r"\S*\d\S*", loose) == []


def test_check_passes_and_counts(written):
    path, _ = written
    record = json.loads(path.with_name("numbers.json").read_text())
    assert check_lib.check(report_fixtures.results(), report_fixtures.ledgers(), path.parent) == len(record["numbers"])


def test_check_notices_every_change(written, tmp_path):
    path, text = written
    record = path.with_name("numbers.json").read_text()

    def check(html_text=text, numbers=record, results=None, ledgers=None):
        (tmp_path / "index.html").write_text(html_text)
        (tmp_path / "numbers.json").write_text(numbers)
        (tmp_path / "summary.html").write_bytes(path.with_name("summary.html").read_bytes())
        return check_lib.check(results or report_fixtures.results(), ledgers or report_fixtures.ledgers(), tmp_path)

    assert check() > 0
    with pytest.raises(errors.StoreError, match=r"number does not come out again in report/index.html, Recall@1, .*expected 52.4%.*found 42.4%"):
        check(text.replace(">52.4%<", ">42.4%<", 1))
    with pytest.raises(errors.StoreError, match="page edited"):
        check(text.replace("The finding", "A finding"))
    with pytest.raises(errors.StoreError, match="number without a source"):
        check(re.sub(r'data-id="n\d+"', 'data-id="n99999"', text, count=1))
    results = report_fixtures.results()
    results[0]["metrics"][0]["value"] += 1e-6
    with pytest.raises(errors.StoreError, match="number does not come out again"):
        check(results=results)
    results = report_fixtures.results()
    results[0]["run"]["note"] = "other"
    with pytest.raises(errors.StoreError, match="page made from other results"):
        check(results=results)
    ledgers = report_fixtures.ledgers()
    ledgers["heads/phantom-3-specialist/dp/privacy_ledger.json"]["epsilon"]["rdp"] = 0.5
    with pytest.raises(errors.StoreError, match="epsilon RDP"):
        check(ledgers=ledgers)
    forged = json.loads(record)
    forged["numbers"][2]["value"] = 0.25
    with pytest.raises(errors.StoreError, match="number does not come out again"):
        check(numbers=json.dumps(forged))


def test_equal_inputs_give_equal_bytes_in_any_order(written, tmp_path):
    again = page.render(report_fixtures.results()[::-1], dict(reversed(report_fixtures.ledgers().items())), tmp_path)
    assert again.read_bytes() == written[0].read_bytes()
    assert (tmp_path / "numbers.json").read_bytes() == written[0].with_name("numbers.json").read_bytes()


def test_hostile_names_stay_text(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "image", lambda *_: "<svg/>")
    evil = "<script>alert(1)</script>\"'&"
    results = [one for one in report_fixtures.results() if one["data"]["name"] == "phantom-A-test"]
    for one in results:
        one["model"]["name"] += evil.replace("/", "")
        one["warnings"].append(evil)
        one["utility"]["probe"][1]["per_label"][evil] = 0.5
    ledgers = {name: {**ledger, "statement": evil} for name, ledger in report_fixtures.ledgers().items()}
    text = page.render(results, ledgers, tmp_path, title=evil).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert check_lib.check(results, ledgers, tmp_path) > 0


def test_synthetic_label_comes_from_the_data(written, tmp_path, monkeypatch):
    assert '<p class="banner"' in written[1]
    assert "(synthetic data)</title>" in written[1]
    monkeypatch.setattr(plots, "image", lambda *_: "<svg/>")
    results = report_fixtures.results()
    for one in results:
        one["data"]["synthetic"] = False
    real = page.render(results, {}, tmp_path).read_text()
    assert "ynthetic" not in re.sub(r"<style>.*?</style>", "", real, flags=re.S)


def test_a_single_model_without_arms_or_probe_still_makes_a_page(tmp_path):
    lone = next(one for one in report_fixtures.results() if one["model"]["head"] == "original")
    lone["model"] |= {"head": "none", "specialisation": None, "weights_sha256": None}
    lone["utility"] = {"probe": []}
    lone["metrics"] = [one for one in lone["metrics"] if "label_matched" not in one["stratum"]]
    for name in ("n_images", "text_field", "exposure"):
        del lone["data"][name]
    text = page.render([lone], {}, tmp_path).read_text()
    assert len(IMAGE.findall(text)) == 2
    assert "What this does not show" in text
    assert "linear probe</h2>" not in text
    assert check_lib.check([lone], {}, tmp_path) > 0


def test_zero_recall_is_drawn_and_written(tmp_path):
    results = [one for one in report_fixtures.results() if one["data"]["name"] == "phantom-A-test"]
    for entry in results[-1]["metrics"]:
        if entry["name"] == "recall":
            entry |= {"value": 0.0, "lift": 0.0, "log2_lift": None}
            entry["ci"] |= {"low": 0.0, "high": 0.001, "lift_low": 0.0, "lift_high": 1.2}
    text = page.render(results, {}, tmp_path).read_text()
    assert "0.00%" in text
    assert check_lib.check(results, {}, tmp_path) > 0


def test_figures_are_reproducible_text_free_of_dates(written):
    images = [base64.b64decode(found).decode() for found in IMAGE.findall(written[1])]
    assert len(images) == 8
    for svg in images:
        assert svg.lstrip().startswith("<?xml")
        assert "<dc:date>" not in svg
        assert "<text" not in svg
    widths = sorted({float(re.search(r'<svg[^>]* width="([\d.]+)pt"', svg).group(1)) for svg in images})
    assert widths[0] == pytest.approx(270)
    assert widths[-1] > 700


def test_drawing_leaves_matplotlib_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    panel = figures.Panel("t", (figures.Series("s", figures.ladder_style(0, 1), ((10, 0.5, 0.4, 0.6), (100, 0.0, 0.0, 0.1)), True),), ((10, 0.1), (100, 0.01)))
    figures.lines([panel], figures.Frame("N", "linked", x_count=True, x_log=True, y_log=True), phone=True)
    assert dict(matplotlib.rcParams) == before


def test_bad_documents_are_refused_before_anything_is_written(tmp_path):
    results = report_fixtures.results()
    results[3]["metrics"][0]["chance"] = None
    with pytest.raises(errors.StoreError, match="chance beside every value"):
        page.render(results, {}, tmp_path / "out")
    with pytest.raises(errors.StoreError, match="results missing"):
        page.render([], {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
