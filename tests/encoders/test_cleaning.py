"""Text rules against the upstream code restated, on the odd texts of real archives."""

import csv
import io
import re
import string

import pytest

from relink_jax.encoders import cleaning, tokenize

pytestmark = pytest.mark.usefixtures("quick_module")  # compared with tolerances, or counted

AWKWARD = [
    *(
        "AP/PA",
        "___",
        "XXXX",
        "36.5 \N{DEGREE SIGN}C, Größe, naïve, a\N{NO-BREAK SPACE}b",
        "effusion " * 400,
        "",
        "?!...",
        "  \n\t ",
        "one\nline\r\nmore\ttext.",
    ),
    *("&lt;5 mm&gt; &amp;amp; 2.5-cm nodule", "胸部", "1. Clear lungs. 2. No \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} effusion. Normal."),
    "No pneumothorax [MASK] seen.",
]
REPORTS = [
    *("FINDINGS: clear IMPRESSION: No acute disease.", "IMPRESSION: First. IMPRESSION: Second line\nhere. RECOMMENDATION(S): CT NOTIFICATION: called"),
    *("RECOMMENDATION: CT IMPRESSION: effusion.", "FINAL REPORT FINDINGS: nothing else", "IMPRESSION:", "IMPRESSION: a NOTIFICATIONS: b RECOMMENDATIONS: c"),
    *("IMPRESSION: a RECOMMENDATIONS: b RECOMMENDATION: c", "EXAMINATION: chest Impression: lower case does not count"),
    *("RECOMMENDATION: first IMPRESSION: a NOTIFICATION: b", "NOTIFICATION: IMPRESSION: a RECOMMENDATION: b"),
]


def _write_report_csv(report):
    """`write_report_csv` and the NaN rule of `CXRDataset.__getitem__`, one report through a real CSV."""
    words = report.split()
    if "IMPRESSION:" in words:
        begin = max(place for place, word in enumerate(words) if word == "IMPRESSION:") + 1
        end = first = second = None
        if "RECOMMENDATION(S):" in words:
            first = words.index("RECOMMENDATION(S):")
        elif "RECOMMENDATION:" in words:
            first = words.index("RECOMMENDATION:")
        elif "RECOMMENDATIONS:" in words:
            first = words.index("RECOMMENDATIONS:")
        if "NOTIFICATION:" in words:
            second = words.index("NOTIFICATION:")
        elif "NOTIFICATIONS:" in words:
            second = words.index("NOTIFICATIONS:")
        if first and second:
            end = min(first, second)
        elif first:
            end = first
        elif second:
            end = second
        found = " ".join(words[begin:]) if end is None else " ".join(words[begin:end])
    else:
        found = "NO IMPRESSION"
    table = io.StringIO()
    csv.writer(table).writerow([found])
    (cell,) = next(csv.reader(io.StringIO(table.getvalue())))
    return cell or " "


@pytest.mark.parametrize("report", REPORTS)
def test_impressions_of_whole_reports_are_chexzeros(report):
    assert cleaning.impression(report) == _write_report_csv(report)


def test_sections_and_prompts_are_taken_as_they_are():
    assert cleaning.impression("No acute\n disease.") == "No acute disease."
    assert cleaning.impression("pneumothorax") == "pneumothorax"
    assert cleaning.impression("") == " "


def test_two_sections_do_not_become_one_text():
    """Without headers in the text, upstream's rule alone would make every report 'NO IMPRESSION' and every rank a tie."""
    assert cleaning.impression("Lungs are clear. No effusion.") != cleaning.impression("Large right effusion.")


@pytest.mark.parametrize("text", AWKWARD)
def test_siglips_canonical_form_is_big_visions(text):
    lower = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    assert cleaning.canonical(text) == " ".join(re.sub(r"\s+", " ", lower).split())


def test_what_canonical_form_does_to_reports():
    assert cleaning.canonical("AP/PA views: 2.5-cm nodule, no <effusion>.") == "appa views 25cm nodule no effusion"
    assert cleaning.canonical("___") == ""


@pytest.mark.parametrize("text", AWKWARD)
def test_biovil_loses_only_the_marks_at_its_very_end(text):
    end = len(text)
    while end and text[end - 1] in "!?.":
        end -= 1
    assert cleaning.unended(text) == text[:end]


def test_html_is_resolved_twice_and_whitespace_collapsed():
    assert cleaning.unescaped("&lt;5&nbsp;mm&gt; \n &amp;amp; more ") == "<5 mm> & more"


def _process_text(text):
    """GLoRIA's `process_text` up to its tokenizer."""
    captions = re.compile("[0-9]+\\.").split(text.replace("\n", " "))
    sentences = [sentence for point in [point.split(".") for point in captions] for sentence in point]
    kept = []
    for sentence in sentences:
        tokens = re.compile(r"\w+", flags=re.UNICODE | re.MULTILINE | re.DOTALL).findall(sentence.replace("\ufffd\ufffd", " ").lower())
        if len(tokens) <= 1:
            continue
        included = []
        for token in tokens:
            token = token.encode("ascii", "ignore").decode("ascii")
            if len(token) > 0:
                included.append(token)
        kept.append(" ".join(included))
    return " ".join(kept)


@pytest.mark.parametrize("text", [*AWKWARD, *REPORTS])
def test_glorias_sentences_are_upstreams(text):
    assert cleaning.sentences(text) == _process_text(text)


def test_sentences_of_one_word_and_numbers_of_lists_are_dropped():
    assert cleaning.sentences("1. Clear lungs. 2. Normal. 3. Größe 2.5-cm") == "clear lungs 5 cm"


@pytest.mark.parametrize("rule", tokenize.RULES)
def test_every_rule_names_a_cleaning_and_cleaning_twice_of_plain_words_changes_nothing(rule):
    clean = cleaning.CLEANING[tokenize.RULES[rule].cleaning]
    assert clean(clean("small left pleural effusion")) == "small left pleural effusion"
