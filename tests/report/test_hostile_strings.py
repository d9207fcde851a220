"""Names that mean to be markup: every text that reaches a page changes its words, and never its tags, attributes, policy or addresses."""

import base64
import copy
import functools
import html.parser
import json
import pathlib
import re
import xml.etree.ElementTree

import complete_fixtures
import pytest
import report_fixtures
import test_controls_page
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relink_jax import errors
from relink_jax.report import accountants_page, controls_figure, controls_page, figures, page, plots, runs, schema

ACCOUNTS = pathlib.Path(__file__).parent.parent / "goldens" / "accountants" / "comparison.json"
SITE, OTHER, RUN = "phantom-A-test", "phantom-B-external", "0f3a5c7e9b12"
NAMED = (
    "phantom-3-specialist",
    "phantom-A",
    RUN,
    "Cardiomegaly",
    "Support Devices",
    "device_maker",
    "lateral",
    "sex",
    "probe of Pleural Other",
    "Privacy unit",
)
ATTACKS = (
    *(
        "<script>alert(1)</script>",
        "</title><script>",
        "</style><img src=x onerror=alert(1)>",
        '" onload="alert(1)',
        "' onmouseover='x",
        "<!--",
        "]]>",
        "--><b>",
    ),
    *("&lt;b&gt;", "&#x3c;script&#x3e;", "{{ 7*7 }}", "{% include 'style.css' %}", "{# x #}", "javascript:alert(1)", "url(http://evil)", "@import 'x'"),
    *(
        "<svg/onload=alert(1)>",
        "<iframe src=//evil>",
        "<a href=//evil>x</a>",
        "<base href=//evil>",
        "<meta http-equiv=refresh content=0>",
        "<form action=//evil>",
    ),
    *(
        "$\\frac{1}{0}$",
        "$x$",
        "\\$",
        "\u202edlrow\u2066",
        "\u05e9\u05dc\u05d5\u05dd",
        "a\nb\r\nc",
        "\t=cmd|' /C calc'!A0",
        "胸\U0001f480",
        "`${x}`",
        "%s%n{0}",
    ),
)
UNSEEN = ("a\x00b", "\x1b[2Jgone", "\ud800", "x\udfff", "\x9b31m")
SHOWN = st.one_of(
    st.sampled_from(ATTACKS),
    st.lists(st.sampled_from([*ATTACKS, "<", ">", '"', "'", "&", "=", "/", " ", "x"]), min_size=1, max_size=6).map("".join),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20),
).filter(lambda text: "__" not in text)  # which parts the names of results files
ANYTHING = st.one_of(SHOWN, st.sampled_from(UNSEEN), st.text(min_size=1, max_size=20))
FEW = settings(max_examples=5, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=300, derandomize=False)
DRAWN = {"svg", "metadata", "RDF", "Work", "type", "creator", "Agent", "title", "format", "defs", "style", "g", "path", "use", "clipPath", "rect"}
LOADING = {"src", "srcset", "href", "data", "action", "poster", "background", "xlink:href"}


class Skeleton(html.parser.HTMLParser):
    """What a browser would make of a page: its tags with the names of their attributes, comments and other declarations, and addresses."""

    def __init__(self, text):
        super().__init__()
        self.parts, self.addresses, self.policies = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.parts.append((tag, *(name for name, _ in attrs)))
        self.addresses += [value or "" for name, value in attrs if name in LOADING]
        self.policies += [value for name, value in attrs if name == "content" and ("http-equiv", "Content-Security-Policy") in attrs]

    def handle_endtag(self, tag):
        self.parts.append(f"/{tag}")

    def handle_comment(self, data):
        self.parts.append("comment")

    handle_decl = unknown_decl = handle_pi = lambda self, data: self.parts.append(data)


def planted(value, text):
    """Returns a document with `text` behind every name of `NAMED`, in keys and values alike."""
    if isinstance(value, str):
        return functools.reduce(lambda told, name: told.replace(name, f"{name}{text}"), NAMED, value)
    if isinstance(value, dict):
        return {planted(name, text): planted(one, text) for name, one in value.items()}
    return [planted(one, text) for one in value] if isinstance(value, list) else value


@functools.cache
def documents():
    found = complete_fixtures.results(released=3.2)
    return found, complete_fixtures.comparisons(found), report_fixtures.ledgers()


def told(text, number):
    """Returns (results, comparisons, ledgers) of a site, with `text` in them."""
    results, compared, ledgers = documents()
    wanted = [one for one in results if one["data"]["name"] == SITE][-number:]
    compared = {**compared, "datasets": [one for one in compared["datasets"] if one["dataset"] == SITE]}
    return planted(wanted, text), planted(compared, text), planted(ledgers, one_line(text))


def one_line(text):
    """Returns text as a line of a statement, of which every line is a paragraph."""
    return " ".join(text.splitlines())


def run_page(text, beyond, directory):
    results, compared, ledgers = told(text, 7)
    written = page.render(results, ledgers, directory, title=f"title{beyond}", check_command=f"relink report {beyond}", comparisons=compared)
    return [written.read_text(), written.with_name("summary.html").read_text()]


def side_page(text, beyond, directory):
    results = told(text, 4)[0]
    others = copy.deepcopy(results)
    for one in others:
        one["protocol"]["ties"] = f"rule{text}"
    return [runs.render({f"one{beyond}": results, f"two{beyond}": others}, directory / "runs.html", title=f"title{beyond}").read_text()]


def accounts_page(text, beyond, directory):
    document = json.loads(ACCOUNTS.read_text())
    for run in document["runs"]:
        run.pop("curves")
        run["name"] += beyond
        run["statement"] += one_line(beyond)
        run["facts"]["run_id"] = f"id{beyond}"
        for flag in run["flags"]:
            flag["text"] += beyond
    for one in document["compositions"]:
        one["group"] += beyond
        one["runs"] = [f"{name}{beyond}" for name in one["runs"]]
    document["ranking"]["rows"] = [{**row, "name": f"{row['name']}{beyond}"} for row in document["ranking"]["rows"]]
    return [accountants_page.render(document, title=f"title{beyond}")]


def controls(text, beyond, directory):
    document = test_controls_page.document()
    document["run"], document["model"], document["set"] = {"id": f"a{beyond}", "git_commit": f"c{beyond}"}, f"m{beyond}", f"s{beyond}"
    document["mechanism"] |= {f"setting{beyond}": f"value{beyond}"}
    for one in document["conditions"]:
        one["label"] += beyond
    return [controls_page.render(document, directory).read_text()]


PAGES = {"run": run_page, "runs": side_page, "accountants": accounts_page, "controls": controls}
HARMLESS = "plain words"


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Returns the function (page, text in documents, text beyond them) -> pages, with figures left empty; a page of harmless text is built once."""
    root = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "image", lambda *_: "<svg/>")
        patch.setattr(controls_figure, "png", lambda _: b"")
        yield functools.lru_cache(maxsize=8)(lambda name, text, beyond: [Skeleton(one) for one in PAGES[name](text, beyond, root / name)])


def same_pages(build, name, text, beyond):
    usual, found = build(name, HARMLESS, HARMLESS), build(name, text, beyond)
    for before, after in zip(usual, found, strict=True):
        assert after.parts == before.parts
        assert after.policies == before.policies
        assert len(after.policies) == 1
        assert after.policies[0].startswith("default-src 'none'; style-src 'sha256-")
        assert all(address.startswith(("#", "data:image/", "data:text/csv;")) or address in ("summary.html", "index.html") for address in after.addresses)


@pytest.mark.parametrize("name", PAGES)
def test_hostile_text_is_only_ever_text(build, name):
    everything = "".join(ATTACKS)
    same_pages(build, name, everything, everything + "".join(UNSEEN))

    some = FEW if name in ("accountants", "controls") else settings(FEW, max_examples=1 if name == "run" else 2)  # pages that take long
    some(given(SHOWN, ANYTHING)(lambda text, beyond: same_pages(build, name, text, beyond)))()


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_much_hostile_text_is_only_ever_text(build, name):
    MANY(given(SHOWN, ANYTHING)(lambda text, beyond: same_pages(build, name, text, beyond)))()


def test_the_page_says_what_the_names_are(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "image", lambda *_: "<svg/>")
    html_text = page.render(told("<b>&amp;", 1)[0], {}, tmp_path, title="title\u202ex\x00").read_text()
    assert "phantom-3-specialist&lt;b&gt;&amp;amp;" in html_text
    assert "<h1>title\ufffdx\ufffd</h1>" in html_text


def test_markup_that_gets_through_is_seen(build, monkeypatch):
    """The comparison of skeletons notices a template that does not escape."""
    from relink_jax.report.page import environment

    def open_environment():
        made = environment()
        made.autoescape = False
        return made

    monkeypatch.setattr(controls_page, "environment", open_environment)
    with pytest.raises(AssertionError):
        same_pages(build, "controls", HARMLESS, "<b>x</b>")


@pytest.mark.parametrize("text", UNSEEN)
def test_results_with_control_characters_are_refused_before_a_terminal_sees_them(text):
    (first, *_), _, _ = told(text, 1)
    with pytest.raises(errors.StoreError, match="expected text without control characters, found some") as caught:
        schema.validate(first, "results file")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("draw", [figures.lines, lambda panels, *_: controls_like(panels[0].title)])
def test_a_figure_takes_names_as_text(draw):
    for text in ("$\\nonsense$ <b>", "$x$ --> ]]> &amp; \\$"):
        series = (figures.Series(f"name {text}", figures.ladder_style(0, 1), ((10, 0.5, 0.4, 0.6), (100, 0.1, None, None))),)
        svg = draw([figures.Panel(f"panel {text}", series)], figures.Frame("N", "linked"), False)
        root = xml.etree.ElementTree.fromstring(svg)
        assert {one.tag.rpartition("}")[2] for one in root.iter()} <= DRAWN
        assert not [name for one in root.iter() for name in one.attrib if name.lower().startswith("on")]


def controls_like(name):
    """Returns a figure of the accountants page with a run of that name."""
    from relink_jax.report import accountants_figures

    curves = json.loads(ACCOUNTS.read_text())["runs"][0]["curves"]
    return accountants_figures.epsilon_of_delta([(name, curves)], False)


def test_a_data_address_is_base64():
    assert re.fullmatch(r"data:text/csv;charset=utf-8;base64,[A-Za-z0-9+/=]+", plots._address("text/csv;charset=utf-8", '"><script>'))
    assert base64.b64decode(plots._address("a/b", "<>").partition(",")[2]) == b"<>"
