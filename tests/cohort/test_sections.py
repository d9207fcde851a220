"""The section rule against records of the official scripts (see mimic_oracle.py), and the few things the rule promises."""

import json
import pathlib
import time

import pytest

from relink_jax.cohort import sections, sections_fixed

RECORDS = json.loads((pathlib.Path(__file__).resolve().parents[1] / "goldens" / "mimic-sections.json").read_text(encoding="utf-8"))
ORDINARY = [record for record in RECORDS if record["sectioned"] is not None]


def test_the_records_cover_every_way_out():
    sources = [sections.conclusions(record["text"], record["study"][1:]).source for record in RECORDS]
    assert set(sources) == {*sections.CONCLUSIONS, sections.HAND_FIXED, ""}
    assert len(ORDINARY) >= 60
    assert sources.count(sections.HAND_FIXED) == 54


@pytest.mark.parametrize("record", ORDINARY, ids=range(len(ORDINARY)))
def test_sections_are_the_official_ones(record):
    assert sections.parse(record["text"]) == [tuple(part) for part in record["parts"]]


@pytest.mark.parametrize("record", RECORDS, ids=range(len(RECORDS)))
def test_conclusions_are_the_official_ones(record):
    found = sections.conclusions(record["text"], record["study"][1:])
    assert found.labelled_text == record["labelled"].strip()
    assert [found.impression, found.findings, found.last_paragraph, found.comparison] == (record["sectioned"] or [""] * 4)


def test_every_study_fixed_by_hand_is_recorded():
    fixed = {f"s{study}" for studies in sections_fixed.UNDER_OTHER_HEADERS.values() for study in studies}
    fixed |= {f"s{study}" for study in (*sections_fixed.SPANS, *sections_fixed.NOTHING_SAID)}
    assert len(fixed) == 54
    assert fixed == {record["study"] for record in RECORDS if record["sectioned"] is None}


def test_a_hand_fixed_study_with_another_text_is_read_by_the_rule():
    study = str(sections_fixed.UNDER_OTHER_HEADERS["history"][0])
    found = sections.conclusions("\n FINDINGS:  Clear.\n", study)
    assert (found.labelled_text, found.source) == ("Clear.", "findings")


def test_nothing_of_the_text_is_lost_but_headers():
    text = "TOP\n HISTORY:  Cough.\n \n TECHNIQUE:  Two views.\n \n FINDINGS:  Clear.\n"
    parsed = sections.parse(text)
    assert [name for name, _ in parsed] == ["preamble", "history", "technique", "findings"]
    assert "".join(body for _, body in parsed).split() == text.replace("HISTORY:", "").replace("TECHNIQUE:", "").replace("FINDINGS:", "").split()


def test_long_reports_take_linear_time():
    """A megabyte of capitals, of headers, and of blank lines: a quadratic rule would need minutes."""
    start = time.process_time()
    for text in ("\n " + "A" * 1_000_000, "\n HISTORY:  x\n" * 70_000, "\n \n" * 300_000, "\n AB CD " * 120_000):
        sections.conclusions(text)
    assert time.process_time() - start < 5
