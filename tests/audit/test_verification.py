"""TPR at FPR with ties under three definitions, of which results use the conservative one; pooled AUC between its bounds; predictive values."""

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest

from relink_jax.audit import sample, uncertainty, verification
from relink_jax.retrieval import impostor_pass, impostors
from relink_jax.retrieval.counted import Records
from relink_jax.retrieval.layout import Layout
from relink_jax.runtime import mesh as meshes

POSITIVE, NEGATIVE = np.array([9, 8, 8, 6, 3]), np.array([8, 7, 6, 6, 5, 4, 3, 2, 1, 0])


def found_of(scores, reach, bins=64):
    """Returns what a pass finds of impostor scores with a tail of `reach`."""
    scores = np.sort(np.asarray(scores, np.float32))[::-1]
    histogram = np.bincount(np.searchsorted(impostor_pass.edges(bins), scores, "right") - 1, minlength=bins)
    cut = math.inf if not reach else -math.inf if reach == len(scores) else float(scores[reach - 1])
    tail = scores[scores > cut]
    return impostors.Impostors(histogram, len(scores), reach, cut, tail, np.zeros(len(tail), np.int32), np.zeros(len(tail), np.int32))


def points_of(positive, negative):
    """Returns (FPR, TPR) at every threshold, from (0, 0) to (1, 1)."""
    levels = sorted({*positive, *negative}, reverse=True)
    return [
        (Fraction(0), Fraction(0)),
        *((Fraction(int((negative >= v).sum()), len(negative)), Fraction(int((positive >= v).sum()), len(positive))) for v in levels),
    ]


def hull_of(points):
    """Returns the upper convex hull of points of a curve."""
    kept = []
    for point in points:
        while len(kept) > 1 and (kept[-1][0] - kept[-2][0]) * (point[1] - kept[-2][1]) >= (point[0] - kept[-2][0]) * (kept[-1][1] - kept[-2][1]):
            kept.pop()
        kept.append(point)
    return kept


def interpolated(points, rate):
    """Returns the TPR at a rate on straight lines between points, the greatest where the curve is upright."""
    best = max(tpr for fpr, tpr in points if fpr <= rate)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= rate < x1:
            best = max(best, y0 + (rate - x0) * (y1 - y0) / (x1 - x0))
    return best


def area(points):
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in itertools.pairwise(points))


@pytest.mark.parametrize("reach", [10, 3, 0])
@pytest.mark.parametrize(
    ("rate", "conservative", "trapezoid", "hull"),
    [("0", "1/5", "1/5", "1/5"), ("1/20", "1/5", "2/5", "2/5"), ("1/10", "3/5", "3/5", "3/5"), ("1/5", "3/5", "3/5", "2/3"), ("2/5", "4/5", "4/5", "4/5")],
)
def test_three_definitions_of_the_worked_example(reach, rate, conservative, trapezoid, hull):
    rate, conservative, trapezoid, hull = map(Fraction, (rate, conservative, trapezoid, hull))
    measured = verification.measure(found_of(NEGATIVE / 16, reach), (POSITIVE / 16).astype(np.float32), [float(rate)])
    threshold = measured.points[0][1]
    assert Fraction(int((threshold <= POSITIVE / 16).sum()), 5) == conservative
    points = points_of(POSITIVE, NEGATIVE)
    assert interpolated(points, rate) == trapezoid
    if rate:
        assert interpolated(hull_of(points), rate) == hull


@pytest.mark.parametrize(
    ("positive", "negative", "auc", "of_hull"),
    [(POSITIVE, NEGATIVE, Fraction(79, 100), Fraction(41, 50)), (np.array([5, 1]), np.array([3, 3, 0]), Fraction(2, 3), Fraction(5, 6))],
)
def test_pooled_auc_of_the_worked_examples(positive, negative, auc, of_hull):
    assert (area(points_of(positive, negative)), area(hull_of(points_of(positive, negative)))) == (auc, of_hull)
    own = (positive / 16).astype(np.float32)
    whole = verification.measure(found_of(negative / 16, len(negative)), own)
    assert whole.auc_low == whole.auc_high == pytest.approx(float(auc), abs=1e-15)
    wide = verification.measure(found_of(negative / 16, 1, bins=8), own)
    body = verification.measure(found_of(negative / 16, 0, bins=32), own)
    assert wide.auc_low < auc < wide.auc_high
    assert (body.auc_low + body.auc_high) / 2 == pytest.approx(float(auc))  # bins that hold one score each: ties are halves


def random_scores(seed=0, n=300, n_impostors=5000):
    generator = np.random.default_rng(seed)
    return ((generator.standard_normal(size) / 5 + shift).astype(np.float32) for size, shift in ((n, 0.3), (n_impostors, 0)))


def test_bounds_hold_the_exact_area_and_close_with_the_bins():
    own, other = random_scores()
    exact = np.mean([(other < one).mean() + (other == one).mean() / 2 for one in own])
    widths = []
    for bins, reach in ((16, 50), (256, 50), (1 << 20, 50), (16, 2000)):
        measured = verification.measure(found_of(other, reach, bins), own)
        assert measured.auc_low - 1e-12 <= exact <= measured.auc_high + 1e-12
        widths.append(measured.auc_high - measured.auc_low)
    assert widths[0] > 10 * widths[1] > 100 * widths[2]
    assert widths[0] > 2 * widths[3]
    assert abs((measured.auc_low + measured.auc_high) / 2 - exact) < 0.02


def test_the_section_states_rates_that_were_kept():
    own, other = random_scores(1)
    found = found_of(other, 40, 1 << 20)
    who = sample.Sample(np.arange(300) // 3, 100, uncertainty.Bootstrap(200))
    shown = verification.section(verification.measure(found, own), own, who, [100, None], 4000)
    assert (shown["n_impostors"], shown["n_true"], shown["definition"]) == (5000, 300, "conservative")
    assert [point["resolved"] for point in shown["points"]] == [True, False, False, False]
    for point in shown["points"]:
        assert (other >= point["threshold"]).mean() <= point["fpr"]
        assert point["fpr_found"] <= point["fpr"]
        rate, hits = (other >= point["threshold"]).mean(), (own >= point["threshold"]).mean()
        assert point["tpr"]["value"] == pytest.approx(hits)
        assert point["tpr"]["n_patients"] == 100
        assert point["tpr"]["ci"]["low"] <= hits <= point["tpr"]["ci"]["high"]
        assert [(one["N"], one.get("full")) for one in point["ppv"]] == [(100, None), (4000, True)]
        for one in point["ppv"]:
            assert one["value"] == pytest.approx(hits / (hits + (one["N"] - 1) * rate), rel=1e-3)
    again = verification.section(verification.measured_of(json.loads(json.dumps(shown, allow_nan=False))), own, who, [100, None], 4000)
    assert again == shown


def test_a_rate_that_sounds_low_is_not():
    measured = verification.Measured(10**9, 0.9, 0.9, ((1e-5, 0.5, 1e-5),))
    own = np.where(np.arange(1000) < 300, 0.6, 0.1).astype(np.float32)
    shown = verification.section(measured, own, sample.Sample(np.arange(1000), 1000, uncertainty.Bootstrap(20)), [100, 10_000, None], 43_793)
    assert [round(one["value"], 3) for one in shown["points"][0]["ppv"]] == [0.997, 0.75, 0.407]
    nobody = verification.section(measured, own * 0, sample.Sample(np.arange(1000), 1000, uncertainty.Bootstrap(20)), [1], 2)
    assert nobody["points"][0]["ppv"][0] == {"N": 1, "value": None}


@pytest.mark.usefixtures("quick_module")
def test_a_pass_over_records_gives_the_same_area_as_all_pairs():
    generator = np.random.default_rng(3)
    texts, images = (generator.integers(-2, 3, (n, 4)).astype(np.float32) / 8 for n in (90, 120))
    study, patient = generator.integers(0, 90, 120).astype(np.int32), (np.arange(90) // 2).astype(np.int32)
    data = Records(images, study, texts, np.arange(90, dtype=np.int32), patient, {})
    scores = images.astype(np.float64) @ texts.T.astype(np.float64)
    own, other = scores[np.arange(120), study], scores[patient[study][:, None] != patient[None]]
    exact = np.mean([(other < one).mean() + (other == one).mean() / 2 for one in own])
    found = impostors.count(data, meshes.make_mesh(1), tail_share=0.05, layout=Layout(query_block=128, tile=128))
    measured = verification.measure(found, own.astype(np.float32), [0.01, 0.2])
    assert measured.auc_low < exact < measured.auc_high
    assert measured.n_impostors == len(other)
    for rate, threshold, kept in measured.points:
        assert kept == (other >= threshold).mean() <= rate
