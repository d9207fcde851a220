"""Joining and normalising sections."""

from hypothesis import given
from hypothesis import strategies as st

from relink_jax.cohort.reports import join_sections, normalise


@given(st.text(max_size=40))
def test_normalising_changes_whitespace_only_and_settles(text):
    once = normalise(text)
    assert normalise(once) == once
    assert "".join(once.split()) == "".join(text.split())


def test_an_empty_section_leaves_the_other():
    assert join_sections(" a\n b", "c ") == "a b c"
    assert join_sections("", " c") == "c"
    assert join_sections("a", "") == "a"
    assert join_sections(" ", "\n") == ""
