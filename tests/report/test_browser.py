"""The pages in a real browser: nothing to complain of, dark is dark, and the summary prints on one page."""

import browser
import complete_fixtures
import numpy as np
import pytest
import report_fixtures
from PIL import Image

from relink_jax.report import page

pytestmark = [pytest.mark.slow, pytest.mark.skipif(browser.browser() is None, reason="needs a Chromium")]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    documents = complete_fixtures.results(released=3.2)
    folder = tmp_path_factory.mktemp("report")
    page.render(documents, report_fixtures.ledgers(), folder, comparisons=complete_fixtures.comparisons(documents))
    return {name: browser.look(folder / name, folder / "seen") for name in browser.PAGES}


def brightness(path):
    return float(np.asarray(Image.open(path).convert("L")).mean())


def test_the_console_has_nothing_to_say(seen):
    assert {name: one.complaints for name, one in seen.items()} == {name: [] for name in browser.PAGES}


def test_light_is_light_and_dark_is_dark(seen):
    for one in seen.values():
        assert brightness(one.pictures["light"]) > 200
        assert brightness(one.pictures["phone"]) > 200
        assert brightness(one.pictures["dark"]) < 60
        assert brightness(one.pictures["phone-dark"]) < 60


def test_the_summary_prints_on_one_page_and_the_page_on_several(seen):
    assert seen["summary.html"].printed_pages == 1
    assert seen["index.html"].printed_pages > 4
