"""Numbers of the page: how they are written, computed and traced."""

import pytest

from relink_jax import errors
from relink_jax.report import values


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("percent", 0.52436, "52.4%"),
        ("percent", 0.0523, "5.23%"),
        ("percent", 0.00191, "0.19%"),
        ("percent", 0.000123, "0.012%"),
        ("percent", 0.0, "0.00%"),
        ("percent", 1.0, "100.0%"),
        ("percent", -0.0523, "-5.23%"),
        ("chance", 0.001, "0.1%"),
        ("chance", 1 / 1174, "0.0852%"),
        ("times", 523.6, "524×"),
        ("times", 12.96, "13.0×"),
        ("times", 1.166, "1.17×"),
        ("times", 12345.6, "12,346×"),
        ("points", 0.00068, "+0.07 pp"),
        ("points", -0.0053, "−0.53 pp"),
        ("points", -0.00001, "0.00 pp"),
        ("points_end", -0.0053, "−0.53"),
        ("percent_end:2", 0.0048, "0.48"),
        ("bits", -0.034, "−0.03"),
        ("bits_end", None, "−∞"),
        ("auroc", 0.79634, "0.796"),
        ("auroc_difference", -0.0081, "−0.008"),
        ("count", 43793, "43,793"),
        ("small", 6e-6, "6e-6"),
        ("small", 0.33987, "0.34"),
        ("small", 0.00442, "0.00442"),
        ("small", 0, "0"),
        ("percent", None, "n/a"),
    ],
)
def test_writing(kind, value, text):
    assert values.write(kind, value) == text


def test_ends_share_the_decimals_of_their_value():
    assert values.end_kind("percent", 0.524) == "percent_end:1"
    assert values.end_kind("percent", 0.0011) == "percent_end:2"
    assert values.end_kind("points", 0.1) == "points_end"
    assert values.end_kind("auroc", 0.8) == "auroc"


def test_pointers_and_formulas():
    documents = {"f": {"a/b": {"~": [1, 8.0]}, "zero": 0, "none": None, "q": "128/737"}}
    assert values.resolve(documents["f"], "/a~1b/~0/1") == 8.0
    assert values.escape("a/~b") == "a~1~0b"
    assert values.evaluate(documents, "log2", [("f", "/a~1b/~0/1")]) == 3
    assert values.evaluate(documents, "bits", [("f", "/zero"), ("f", "/a~1b/~0/1")]) is None
    assert values.evaluate(documents, "value", [("f", "/none")]) is None
    assert values.evaluate(documents, "value", [("f", "/q")]) == 128 / 737
    assert values.evaluate(documents, "product", [("f", "/q"), ("f", "/a~1b/~0/1")]) == 128 / 737 * 8
    assert values.has(documents["f"], "/zero")
    assert not values.has(documents["f"], "/zero/deeper")
    with pytest.raises(errors.StoreError, match="number missing"):
        values.resolve(documents["f"], "/a~1b/~0/2")
    with pytest.raises(errors.StoreError, match="source missing"):
        values.evaluate(documents, "value", [("g", "/a")])


def test_a_book_keeps_each_number_once():
    book = values.Book({"f": {"x": 0.25}})
    first = book.number("percent", "x", ("f", "/x"))
    assert book.number("percent", "x", ("f", "/x")) is first
    assert book.number("auroc", "x", ("f", "/x")).text == "0.250"
    assert [entry["id"] for entry in book.entries()] == ["n1", "n2"]
    assert book.entries()[0]["sources"] == [{"file": "f", "pointer": "/x"}]


def test_what_is_left_and_what_having_been_seen_adds():
    documents = {"f": {"before": 50e-4, "after": 19.1e-4, "chance": 1e-4, "seen": 0.3, "unseen": 0.1}}

    def formula(name, *fields):
        return values.evaluate(documents, name, [("f", f"/{field}") for field in fields])

    assert formula("excess_reduction", "before", "after", "chance") == pytest.approx(309 / 490)
    assert formula("excess_reduction", "before", "chance", "chance") == pytest.approx(1)
    assert formula("excess_reduction", "chance", "after", "chance") is None
    assert formula("residual_risk", "seen", "unseen") == pytest.approx(2 / 9)
