"""Words of many texts as numbers in one flat array, for everything that counts or compares words."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"[^\W_]+(?:['.,][^\W_]+)*")  # '3.5' and "patient's" are one word each
_END = re.compile(r"[.!?]+(?:\s+|$)")


@dataclasses.dataclass(frozen=True)
class Words:
    """Words of texts, lower-cased, in order.

    Attributes:
        number: int32 [T], words of all texts end to end, numbered in order of first appearance. start: int64 [n_texts + 1], where each text begins.
        known: the words, by number.
    """

    number: np.ndarray
    start: np.ndarray
    known: list[str]


def numbered(texts: Sequence[str]) -> Words:
    """Returns the words of every text: runs of letters and digits, with the dots, commas and apostrophes inside them."""
    number: defaultdict[str, int] = defaultdict(lambda: len(number))
    parts, start = [], np.zeros(len(texts) + 1, np.int64)
    for place, text in enumerate(texts):
        found = _WORD.findall(text.lower())
        parts.append(np.fromiter(map(number.__getitem__, found), np.int32, len(found)))
        start[place + 1] = start[place] + len(found)
    return Words(np.concatenate([np.zeros(0, np.int32), *parts]), start, list(number))


def sentences(text: str) -> int:
    """Returns how many parts with a word '.', '!' and '?' divide a text into where white space or the end follows them."""
    return sum(1 for part in _END.split(text) if _WORD.search(part))


def rarity(words: Words, weight: np.ndarray) -> np.ndarray:
    """Returns the mean inverse document frequency of each text's distinct words in bits, float64 [n_texts]; NaN for a text without words.

    A word's is log2(n / n_w), with n documents of which n_w have the word: 0 for one that all have, log2(n) for one that a single one has.
    Spärck Jones (1972), "A statistical interpretation of term specificity and its application in retrieval".

    Args: weight: documents that have each text, [n_texts].
    """
    n_texts, span = len(words.start) - 1, max(1, len(words.known))
    owner = np.repeat(np.arange(n_texts, dtype=np.int64), np.diff(words.start))
    text, word = np.divmod(distinct(owner * span + words.number), span)
    weight = np.asarray(weight, np.float64)
    held = np.bincount(word, weight[text], minlength=span)
    bits = np.log2(weight.sum() / np.maximum(held, 1e-300))
    counted, summed = (np.bincount(text, values, minlength=n_texts) for values in (None, bits[word]))
    return np.divide(summed, counted, out=np.full(n_texts, np.nan), where=counted > 0)


def distinct(values: np.ndarray) -> np.ndarray:
    """Returns the distinct integers [k] of `values`, ascending; by sorting, which for millions is far faster than NumPy's hashing."""
    ordered = np.sort(values)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered
