"""Patient-wise splits of one's own, by keyed hash: the split of a patient depends on nothing but the patient's id, the key and the shares.

Adding, removing or reordering patients therefore moves nobody, and archives joined into one cohort are split as each alone.

Design note: the key of such a split comes from a seed that the recipe declares (`key_of`), not from the workdir's secret key: a split drawn
with a secret could be repeated nowhere else, and whoever trains and whoever audits have to agree on it. The price is that whoever knows an id
of the archive can tell its split, as with any published list.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from relink_jax import errors
from relink_jax.cohort.schema import SPLITS
from relink_jax.store import digests

_RANGE = 2**64  # of `digests.keyed`: 16 hexadecimal digits


def key_of(seed: str) -> bytes:
    """Returns the key of the splits that a declared, public seed stands for."""
    return hashlib.sha256(b"relink_jax patient split\0" + seed.encode("utf-8", "surrogatepass")).digest()


def by_hash(patient_ids: Sequence[str], key: bytes, shares: Sequence[float]) -> np.ndarray:
    """Returns one of `SPLITS` per entry of `patient_ids`, object [n]; the same id always gets the same one.

    Each patient falls independently into a split with the probability of its share, so that a split of P patients holds a share s of them
    within binomial error, sqrt(s (1 - s) / P); how many images that makes depends on the patients.

    Args: shares: of train, validate and test, in that order; each in [0, 1], together 1.
    Raises: UsageError: other shares.
    """
    check_shares(shares)
    first, second = shares[0] * _RANGE, (1 - shares[2]) * _RANGE
    known: dict[str, str] = {}
    for patient in patient_ids:
        if patient not in known:
            place = int(digests.keyed(key, patient), 16)
            known[patient] = SPLITS[0] if place < first else SPLITS[1] if place < second else SPLITS[2]
    return np.array([known[patient] for patient in patient_ids], dtype=object)


def check_shares(shares: Sequence[float]) -> None:
    """Raises `UsageError` unless `shares` are three numbers in [0, 1] that together make 1."""
    if len(shares) != len(SPLITS) or not all(0 <= share <= 1 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-9):
        expected = f"{len(SPLITS)} numbers in [0, 1], of {', '.join(SPLITS)}, that make 1 together"
        raise errors.UsageError(errors.describe("shares", "the recipe's split", expected, ", ".join(f"{share:g}" for share in shares)))
