"""Sizes of anonymity sets: the worked example, and the summaries by hand."""

import numpy as np

from relink_jax.audit import anonymity


def test_o4_five_by_score_three_by_text():
    """What is tied is counted in test_oracles: four by score, two by text."""
    found = anonymity.section(np.array([4]), np.array([2]))
    assert found["by_score"] == {"unique_share": 0.0, "median": 5.0, "p99": 5.0, "max": 5}
    assert found["by_text"] == {"unique_share": 0.0, "median": 3.0, "p99": 3.0, "max": 3}


def test_summaries():
    found = anonymity.section(np.array([0] * 50 + [1] * 48 + [6, 40]), None)
    assert found == {"by_score": {"unique_share": 0.5, "median": 1.5, "p99": 7.0, "max": 41}}
    assert anonymity.section(np.zeros(0, int)) == {}
