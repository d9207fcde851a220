"""Coverage of the intervals by simulation, nominal 95%, with patients that cluster and reports that everybody finds (hubs).

Each simulated database draws patients with one to three studies. A query's score with its own report has the skill of its patient in it,
and every score with a report has that report's hub in it. Two questions may be asked of one database, and each has its interval:
new query patients against these reports (patient bootstrap), and new patients on both sides (two-sided jackknife).
Shares of 600 databases are known to 0.009, and are held to three of that; the jackknife may be wider than it need be.
"""

import numpy as np
import pytest
from scipy import special

from relink_jax.audit import bands, candidate_side, uncertainty
from relink_jax.audit.sample import Sample
from relink_jax.retrieval.counted import StratumCounts

pytestmark = pytest.mark.slow

PATIENTS, REPLICATES = 150, 600
SIGNAL, SKILL = 3.5, 0.7
SETTINGS = uncertainty.Bootstrap(1000, 0.95, 0)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(48)


def database(generator, hubs):
    """Returns (patient [n], block [n], (M, g, t, M_b, g_b, t_b), hub of each report [n])."""
    patient = np.repeat(np.arange(PATIENTS), generator.integers(1, 4, PATIENTS))
    n = len(patient)
    hub = hubs * generator.standard_normal(n)
    own = SIGNAL + SKILL * generator.standard_normal(PATIENTS)[patient] + hub + generator.standard_normal(n)
    eligible = patient[:, None] != patient
    greater = eligible & (generator.standard_normal((n, n)) + hub > own[:, None])
    block = candidate_side.assign(patient)
    inside = (block[:, None] == np.arange(block.max() + 1)).astype(np.float32)
    M_b, g_b = ((part.astype(np.float32) @ inside).T.astype(int) for part in (eligible, greater))
    return patient, block, (M_b.sum(0), g_b.sum(0), np.zeros(n, int), M_b, g_b, np.zeros_like(M_b)), hub


def fixed_database_recall(patient, hub, hubs):
    """Returns the Recall@1 in the full pool that new patients would have against these reports, by quadrature over the own score."""
    own = SIGNAL + np.sqrt(SKILL**2 + hubs**2 + 1) * NODES
    below = special.log_ndtr(own[:, None] - hub)
    others = below.sum(axis=1)[:, None] - np.stack([np.bincount(patient, weights=row) for row in below])
    expected = WEIGHTS @ np.exp(others) / WEIGHTS.sum()
    return float(expected @ np.bincount(patient) / len(patient))


def coverage(hubs, seed):
    """Returns the shares of databases whose interval covers: query-only of its own question, query-only of the two-sided one, jackknife of it."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(REPLICATES):
        patient, block, counts, hub = database(generator, hubs)
        hits, queries = np.bincount(patient, weights=counts[1] == 0), np.bincount(patient).astype(float)
        found = uncertainty.intervals(hits[:, None], queries[:, None], SETTINGS)
        both = candidate_side.interval(*counts, block, None, 1, 0.95)
        rows.append(
            [found.estimate[0], fixed_database_recall(patient, hub, hubs), found.low[0], found.high[0], found.se[0], both["low"], both["high"], both["se"]]
        )
    value, fixed, low, high, se, low_both, high_both, se_both = np.array(rows).T
    truth = value.mean()  # its own error is a 24th of the spread of one database
    shares = [((low <= fixed) & (fixed <= high)).mean(), ((low <= truth) & (truth <= high)).mean(), ((low_both <= truth) & (truth <= high_both)).mean()]
    print(f"hubs {hubs}: SD {value.std():.4f}, se {se.mean():.4f} and {se_both.mean():.4f}, coverage {', '.join(f'{share:.3f}' for share in shares)}")
    return shares


def test_without_hubs_both_intervals_cover():
    fixed, new, both = coverage(hubs=0.0, seed=1)
    assert 0.923 <= fixed <= 0.977
    assert 0.923 <= new <= 0.977
    assert 0.923 <= both <= 0.995


def test_with_hubs_only_the_jackknife_covers_new_candidates():
    fixed, new, both = coverage(hubs=1.0, seed=1)
    assert 0.923 <= fixed <= 0.977
    assert new <= 0.9
    assert 0.923 <= both <= 0.985


def risks(generator, patients):
    """Returns (patient, counts) of one to three queries per patient, with others above the truth as often as the patient's risk says."""
    patient = np.repeat(np.arange(patients), generator.integers(1, 4, patients))
    above = generator.geometric(generator.beta(0.5, 3, patients)[patient]) - 1
    return patient, StratumCounts(np.full(len(patient), 200), np.minimum(above, 200), np.zeros(len(patient), int))


def test_the_band_covers_the_whole_curve_and_pointwise_intervals_do_not():
    sizes, generator = [2, 10, 50, None], np.random.default_rng(2)
    truth = np.array([one.values.mean() for one in bands.pooled(risks(generator, 200000)[1], sizes)])
    covered = []
    for _ in range(REPLICATES):
        patient, counts = risks(generator, PATIENTS)
        found = bands.curve("cosine", bands.pooled(counts, sizes), Sample(patient, PATIENTS, SETTINGS))["points"]
        ends = np.array([[point[end] for end in ("band_low", "low", "high", "band_high")] for point in found])
        covered.append([((ends[:, side] <= truth) & (truth <= ends[:, 3 - side])).all() for side in (0, 1)])
    band, pointwise = np.mean(covered, axis=0)
    print(f"whole curve: band {band:.3f}, pointwise {pointwise:.3f}")
    assert 0.923 <= band <= 0.985
    assert pointwise < band - 0.03
