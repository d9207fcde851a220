"""Near-duplicate reports against the exact Jaccard index of all pairs of generated reports."""

import re

import numpy as np
import pytest
from scipy import sparse

from relink_jax.cohort import near_text, words
from relink_jax.cohort.phantom import people


def shingles(text):
    found = re.findall(r"[a-z0-9]+(?:['.,][a-z0-9]+)*", text.lower())
    return {tuple(found[place : place + 3]) for place in range(max(1, len(found) - 2))}


def exact(texts, threshold=0.9):
    """Returns the connected parts of all pairs with a high enough index."""
    sets = [shingles(text) for text in texts]
    known = {shingle: place for place, shingle in enumerate(set().union(*sets))}
    held = np.zeros((len(sets), len(known)), np.float32)
    for row, one in zip(held, sets, strict=True):
        row[[known[shingle] for shingle in one]] = 1
    shared, size = held @ held.T, held.sum(axis=1)
    return sparse.csgraph.connected_components(shared / (size[:, None] + size[None] - shared) >= np.float32(threshold))[1]


def numbered(groups):
    """Returns groups numbered in order of first appearance."""
    first, number = np.unique(groups, return_index=True, return_inverse=True)[1:]
    return np.argsort(np.argsort(first))[number]


@pytest.fixture(scope="module")
def reports():
    """Generated reports, and those whose words, case, spacing or end somebody changed."""
    draw, made = np.random.default_rng(0), people.anchor_texts(250, 5)
    copies = []
    for text in made[:120]:
        parts = (text + " " + made[draw.integers(250)]).split()
        parts[draw.integers(len(parts))] = "unchanged"
        copies += [" ".join(parts), " ".join(parts[: -draw.integers(1, 5)]), " ".join(parts).upper()]
    return [*made, *copies, *made[:5]]


def test_equals_the_index_of_all_pairs(reports):
    found, wanted = near_text.groups(reports), numbered(exact(reports))
    assert found.dtype == np.int32
    assert 200 < len(set(wanted)) < len(reports) - 100
    np.testing.assert_array_equal(found, wanted)


def test_a_text_has_the_same_neighbours_in_any_order_and_company(reports):
    order = np.random.default_rng(1).permutation(len(reports))
    np.testing.assert_array_equal(near_text.groups([reports[place] for place in order]), numbered(near_text.groups(reports)[order]))
    np.testing.assert_array_equal(near_text.groups(reports[:300]), near_text.groups([*reports[:300], *(text[::-1] for text in reports)])[:300])


def test_a_chain_is_one_group_and_one_index_below_is_none():
    long = [f"word{number}" for number in range(22)]
    chain = [" ".join(long[:end]) for end in (20, 21, 22)]  # 18, 19 and 20 shingles: 18/19, 19/20
    assert near_text.groups(chain).tolist() == [0, 0, 0]
    short = [" ".join(long[:end]) for end in (10, 11, 12)]  # 8, 9 and 10 shingles: 8/9 is below 0.9, 9/10 is not
    assert near_text.groups(short).tolist() == [0, 1, 1]


def test_texts_of_few_or_no_words():
    texts = ["Normal.", "normal", "Normal chest.", "Normal chest x", "", "...", "chest normal", "3.5 cm", "35 cm"]
    assert near_text.groups(texts).tolist() == [0, 0, 1, 2, 3, 3, 4, 5, 6]
    assert near_text.groups([]).tolist() == []
    assert near_text.groups(["a"]).tolist() == [0]


def test_thousands_of_copies_of_one_template_are_one_group():
    template = [f"w{number}" for number in range(80)]
    texts = [" ".join([*template, f"date{number}"]) for number in range(3000)] + [" ".join(template[40:])]
    assert near_text.groups(texts).tolist() == [0] * 3000 + [1]


def test_blocks_and_chunks_of_any_size(reports, monkeypatch):
    wanted = near_text.groups(reports)
    monkeypatch.setattr(near_text, "_BLOCK", 700)
    monkeypatch.setattr(near_text, "_PAIRS", 5)
    np.testing.assert_array_equal(near_text.groups(reports), wanted)


def test_rarity_is_the_mean_of_the_distinct_words_bits():
    found = words.rarity(words.numbered(["a b", "a a a", "A, c!", "--"]), np.array([1, 4, 2, 1]))
    np.testing.assert_allclose(found[:3], [(np.log2(8 / 7) + 3) / 2, np.log2(8 / 7), (np.log2(8 / 7) + 2) / 2])
    assert np.isnan(found[3])


def test_sentences_end_where_white_space_follows():
    assert [words.sentences(text) for text in ("Clear.", "Size 3.5 cm. No change!  ", "One? Two... Three", "...", "")] == [1, 2, 3, 0, 0]


def test_every_pair_of_a_key_meets_once_unless_it_is_joined_before():
    key, group = np.array([1, 0, 1, 1, 0, 1, 2]), np.arange(7)
    met = [pair for round_ in near_text._met(key, group) for pair in zip(*(side.tolist() for side in round_), strict=True)]
    assert sorted(met) == [(0, 2), (0, 3), (0, 5), (1, 4), (2, 3), (2, 5), (3, 5)]
    met = []
    for first, second in near_text._met(key, group):
        met += zip(first.tolist(), second.tolist(), strict=True)
        near_text._join(group, first, second)
    assert sorted(met) == [(0, 2), (1, 4), (2, 3), (3, 5)]
    assert group.tolist() == [0, 1, 0, 0, 1, 0, 6]
