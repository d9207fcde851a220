"""The auxiliary pairs that a fitted attack may use: which, in what order, and whether they suffice."""

import dataclasses

import numpy as np

from relink_jax import errors
from relink_jax.audit.attacks.base import Target
from relink_jax.audit.inputs import AuditInputs
from relink_jax.store.rows import RowSource, select

EMBEDDINGS, BEFORE_HEAD = "embeddings", "before_head"
SIZES = (100, 1000, 10000)


@dataclasses.dataclass(frozen=True)
class Known:
    """Pairs that an attacker holds: images [n, D] and their reports [n, G] row by row, and numbers [n] of whose they are."""

    images: RowSource
    texts: RowSource
    patient: np.ndarray


def sizes(auxiliary: AuditInputs) -> list[int | None]:
    """Returns the numbers of pairs that an attack is tried with, rising: those of `SIZES` below the number of auxiliary images, then None for all."""
    return [*(size for size in SIZES if size < len(auxiliary.images)), None] if len(auxiliary.patient_key) > 1 else []


def order(auxiliary: AuditInputs, seed: int) -> np.ndarray:
    """Returns the numbers of all auxiliary images, patient after patient in random order, int64 [Q]; the first m are the pairs of size m."""
    generator = np.random.default_rng([seed, len(auxiliary.patient_key), len(auxiliary.images)])
    place = generator.permutation(len(auxiliary.patient_key))[auxiliary.study_patient[auxiliary.image_study]]
    return np.lexsort((generator.permutation(len(place)), place))


def problem(name: str, target: Target, pairs: int | None, features: str, seed: int) -> str | None:
    """Returns the sentence why attack `name` cannot be fitted on `pairs` auxiliary pairs (None: all); None where it can."""
    where, auxiliary = f"attack {name!r}", target.auxiliary
    if features not in (EMBEDDINGS, BEFORE_HEAD):
        return errors.describe("unknown features", where, f"{EMBEDDINGS!r} or {BEFORE_HEAD!r}", repr(features))
    if features == BEFORE_HEAD and (target.features is None or target.auxiliary_features is None):
        return errors.describe("features", where, "vectors before the head of audited and auxiliary people", "none kept")
    if pairs is not None and not 2 <= pairs <= len(auxiliary.images):
        return errors.describe("auxiliary pairs", where, f"2 to {len(auxiliary.images)}, as many as there are", str(pairs))
    patients = len(np.unique(auxiliary.study_patient[auxiliary.image_study[order(auxiliary, seed)[:pairs]]]))
    return None if patients > 1 else errors.describe("auxiliary pairs", where, "pairs of at least 2 patients", str(patients))


def known(name: str, target: Target, pairs: int | None, features: str, seed: int) -> Known:
    """Returns the pairs that attack `name` is fitted on. Raises: DataError: what `problem` says."""
    sentence = problem(name, target, pairs, features, seed)
    if sentence is not None:
        raise errors.DataError(sentence)
    auxiliary = target.auxiliary
    rows = order(auxiliary, seed)[:pairs]
    study = auxiliary.image_study[rows]
    held = auxiliary if features == EMBEDDINGS or target.auxiliary_features is None else target.auxiliary_features
    return Known(select(held.images, rows), select(held.texts, auxiliary.study_text[study]), auxiliary.study_patient[study])


def audited(target: Target, features: str) -> tuple[RowSource, RowSource]:
    """Returns the audited people's images [Q, D] and distinct reports [U, G], as they are before or after the head."""
    held = target.inputs if features == EMBEDDINGS or target.features is None else target.features
    return held.images, held.texts
