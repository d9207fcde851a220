"""How many candidates each query has, from keys and codes alone: the integers M, and the duplicates of a right report."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from relink_jax.retrieval.counted import OTHER_PATIENT


def sizes(
    keys: np.ndarray,
    codes: Mapping[str, np.ndarray],
    query_keys: np.ndarray,
    query_codes: Mapping[str, np.ndarray],
    texts: np.ndarray | None = None,
    query_texts: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Returns per stratum how many candidates each query has, int64 [Q], among those of its own text when texts are given.

    Args:
        keys, query_keys: int [C], [Q]; a candidate with the query's key is none.
        codes, query_codes: int [C], [Q] by stratum; candidates with the query's code are in the stratum, negative codes in none.
        texts, query_texts: int [C], [Q], text groups.
    """
    text, query_text = (np.zeros(len(keys), np.int64), np.zeros(len(query_keys), np.int64)) if texts is None else (texts, query_texts)
    key_span = _span(keys, query_keys)
    out = {OTHER_PATIENT: _tally(_pair(text, keys, key_span), _pair(query_text, query_keys, key_span), _as_int(text), _as_int(query_text))}
    for name, code in codes.items():
        wanted, labelled = query_codes[name], code >= 0
        span = _span(code, wanted)
        cell, query_cell = _pair(text, code, span)[labelled], _pair(query_text, np.maximum(wanted, 0), span)
        pair, query_pair = _pair(cell, keys[labelled], key_span), _pair(query_cell, query_keys, key_span)
        out[name] = np.where(wanted >= 0, _tally(pair, query_pair, cell, query_cell), 0)
    return out


def _span(values: np.ndarray, wanted: np.ndarray) -> int:
    """Returns a number above every value on either side, so that pairs of values stay apart."""
    return max(int(values.max(initial=0)), int(wanted.max(initial=0))) + 1


def _as_int(values: Any) -> np.ndarray:
    return np.asarray(values, np.int64)


def _pair(high: Any, low: Any, span: int) -> np.ndarray:
    return _as_int(high) * span + low


def _tally(excluded: np.ndarray, query_excluded: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns how many of `values` equal each of `wanted`, less how many of `excluded` equal each of `query_excluded`."""
    return _count(values, wanted) - _count(excluded, query_excluded)


def _count(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    known = np.sort(values)
    return np.searchsorted(known, wanted, "right") - np.searchsorted(known, wanted, "left")
