"""Patient-wise splits by keyed hash: stable, keyed, and of the declared shares."""

import collections
import hashlib
import hmac
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relink_jax import errors
from relink_jax.cohort import splits

KEY = splits.key_of("a seed")
PATIENTS = [str(10_000_001 + number) for number in range(20_000)]
SHARES = [(0.7, 0.1, 0.2), (0.82, 0.0, 0.18), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.05, 0.9, 0.05), (1 / 3, 1 / 3, 1 / 3)]


@pytest.mark.parametrize("shares", SHARES)
def test_shares_are_met_within_binomial_error(shares):
    counted = collections.Counter(splits.by_hash(PATIENTS, KEY, shares).tolist())
    for name, share in zip(("train", "validate", "test"), shares, strict=True):
        assert abs(counted[name] - share * len(PATIENTS)) <= 4 * math.sqrt(share * (1 - share) * len(PATIENTS)) + 1e-9


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=6), max_size=20), st.lists(st.text(max_size=6), max_size=20), st.sampled_from(SHARES))
def test_adding_and_moving_patients_moves_nobody(some, others, shares):
    together = dict(zip(others + some, splits.by_hash(others + some, KEY, shares), strict=True))
    assert [together[patient] for patient in some] == splits.by_hash(some, KEY, shares).tolist()


def test_a_patient_falls_where_its_hmac_says():
    for patient in PATIENTS[:200]:
        place = int.from_bytes(hmac.digest(KEY, patient.encode(), "sha256")[:8], "big") / 2**64
        wanted = "train" if place < 0.7 else "validate" if place < 0.8 else "test"
        assert splits.by_hash([patient], KEY, (0.7, 0.1, 0.2)).tolist() == [wanted]
    assert splits.key_of("x") == hashlib.sha256(b"relink_jax patient split\0x").digest()


def test_another_seed_is_another_split():
    one, other = (splits.by_hash(PATIENTS, splits.key_of(seed), (0.5, 0.0, 0.5)) for seed in ("a", "b"))
    assert abs((one == other).mean() - 0.5) < 0.02


def test_a_larger_test_share_only_adds_to_it():
    small, large = (splits.by_hash(PATIENTS, KEY, shares) == "test" for shares in ((0.7, 0.1, 0.2), (0.5, 0.1, 0.4)))
    assert (large | ~small).all()


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.5, 0.1), (-0.1, 0.6, 0.5), (float("nan"), 0.5, 0.5)])
def test_other_shares_are_refused(shares):
    with pytest.raises(errors.UsageError, match="shares in the recipe's split"):
        splits.by_hash(["p"], KEY, shares)
