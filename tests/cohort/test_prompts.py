"""The zero-shot prompts: a pair for every label, in words that reports and the synthetic cohort use, which every text cleaning keeps apart."""

import re

from relink_jax.cohort import prompts
from relink_jax.cohort.phantom import captions, wording, words_acute, words_chronic
from relink_jax.cohort.schema import LABELS
from relink_jax.encoders import cleaning

GENERAL = {"chest", "radiograph", "showing", "seen", "there", "is", "a", "an", "in", "place", "finding", "support", "tubes", "lines", "devices", "or"}


def test_every_label_has_a_pair_and_the_two_sides_share_nothing():
    assert tuple(prompts.pairs()) == LABELS
    for claimed, denied in prompts.pairs().values():
        assert len(claimed) >= 3
        assert len(denied) >= 3
        assert not set(claimed) & set(denied)


def test_rows_point_at_the_texts_and_every_text_is_used():
    texts, rows = prompts.texts(), prompts.rows()
    assert len(set(texts)) == len(texts)
    for (claimed, denied), sides in zip(rows, prompts.pairs().values(), strict=True):
        assert tuple(tuple(texts[row] for row in side) for side in (claimed, denied)) == sides
    assert {row for pair in rows for side in pair for row in side} == set(range(len(texts)))


def test_no_cleaning_empties_a_prompt_or_makes_two_the_same():
    for clean in cleaning.CLEANING.values():
        cleaned = [clean(text).strip() for text in prompts.texts()]
        assert all(cleaned)
        assert len(set(cleaned)) == len(cleaned)


def test_every_word_is_one_that_the_synthetic_reports_know():
    sentences = [text for entry in (words_acute.ACUTE | words_chronic.CHRONIC).values() for text in (*entry.plain, *entry.terse, entry.brief, *entry.hedged)]
    sentences += [negation[1] for negation in wording.NEGATIONS] + [text for macros in wording.MACROS.values() for macro in macros for text in macro[:2]]
    sentences += [text for quiet in wording.QUIET.values() for text in quiet] + [captions.caption([1] * 14), captions.caption([0] * 14)]
    known = set(re.findall(r"[a-z]+", " ".join(sentences).lower())) | GENERAL
    assert {word for text in prompts.texts() for word in re.findall(r"[a-z]+", text.lower())} - known == set()
