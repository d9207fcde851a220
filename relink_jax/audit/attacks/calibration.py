"""Settings of attacks, and the best attack, chosen on people who are not audited.

The attacker's own people are dealt in two halves. One half plays the audited people, the other is what he then holds; every setting of every
attack is tried there by its mean reciprocal rank (MRR), which sees more of a ranking than Recall@1 and so needs fewer people. The half that is
asked is capped, so that its scores fit in one float64 array.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.audit.attacks import base, splitting
from relink_jax.audit.attacks.cosine import Cosine
from relink_jax.audit.inputs import AuditInputs
from relink_jax.retrieval import expectation
from relink_jax.retrieval.kept import Item, Kept
from relink_jax.store import digests

MOST = 2000
_FEW = 10
_TIED = 1e-12


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What calibration decided.

    Attributes:
        attacks: cosine, then each attack that can be tried, with its best setting. calibration: of each {'mrr', 'n_queries', 'n_patients'}, None where
            it could not be tried. selected: number of the best; of equal ones the first, so cosine before any other.
        notes: sentences about what could not be done.
    """

    attacks: tuple[base.Attack, ...]
    calibration: tuple[dict[str, Any] | None, ...]
    selected: int
    notes: tuple[str, ...]


def choose(attacks: Sequence[base.Attack], target: base.Target, seed: int = 0, kept: Kept | None = None) -> Chosen:
    """Returns every attack at its best setting on calibration people, and which attack is best; nothing of the audited people is read.

    An attack that cannot be tried on the audited people is left out. One that cannot be tried on calibration people keeps the setting it has and
    cannot be selected. Each setting costs what the attack does on the capped half.

    Args: seed: of the deal of patients. kept: where each attack's setting is kept once it is chosen; None for nowhere.
    """
    kept = kept or Kept()
    left_out = {attack.name: why for attack in attacks if (why := why_not(attack, target))}
    every: tuple[base.Attack, ...] = (Cosine(), *(attack for attack in attacks if attack.name != Cosine.name and not why_not(attack, target)))
    notes = [f"{name} was not tried: {why}" for name, why in left_out.items()]
    stage, note = _stage(target, seed)
    notes += [note] if note else []
    if stage is None:
        return Chosen(every, (None,) * len(every), 0, tuple(notes))
    best, found = [], []
    for attack in every:
        setting, measured, why = _once(attack, stage, kept)
        best.append(setting)
        found.append(measured)
        notes += [f"{attack.name} was not calibrated: {why}"] if why else []
    values = [one["mrr"] if one else -np.inf for one in found]
    selected = next(number for number, value in enumerate(values) if value >= max(values) - _TIED)
    return Chosen(tuple(best), tuple(found), selected, tuple(notes))


def why_not(attack: base.Attack, target: base.Target) -> str | None:
    """Returns a sentence that says why an attack cannot be tried on a target, None where it can.

    Attacks that can always be tried have no `why_not` of their own.
    """
    own = getattr(attack, "why_not", None)
    return None if own is None else own(target)


def reciprocal_ranks(space: base.Space, inputs: AuditInputs) -> np.ndarray:
    """Returns the expected reciprocal rank of each image's study among it and all studies of other patients, float64 [Q], ties broken at random.

    Holds all scores, images x studies, in float64.
    """
    scores = (np.asarray(space.images[:], np.float64) @ np.asarray(space.texts[:], np.float64).T)[
        :, inputs.study_text if space.study_text is None else space.study_text
    ]
    own = scores[np.arange(len(scores)), inputs.image_study][:, None]
    rival = inputs.study_patient[inputs.image_study][:, None] != inputs.study_patient
    M, g, t = (np.sum(rival & which, axis=1) for which in (True, scores > own, scores == own))
    return expectation.pool_metrics(M, g, t, None, (1,))["mrr"].expected


def _once(attack: base.Attack, stage: base.Target, kept: Kept) -> tuple[base.Attack, dict[str, Any] | None, str | None]:
    """Returns what `_best` does, from what was kept of it where there is any."""

    def made() -> Item:
        setting, measured, why = _best(attack, stage)
        number = next((number for number, one in enumerate(attack.variants(stage)) if one == setting), -1) if measured else -1
        return Item({}, {"setting": number, "measured": measured, "why": why})

    told = kept.once(f"calibration-{digests.value_digest(repr(attack))[:16]}", made).told
    return attack if told["setting"] < 0 else list(attack.variants(stage))[told["setting"]], told["measured"], told["why"]


def _best(attack: base.Attack, stage: base.Target) -> tuple[base.Attack, dict[str, Any] | None, str | None]:
    """Returns (best setting, what it reaches, None), or (the attack, None, why it could not be tried)."""
    best, measured, why = attack, None, why_not(attack, stage)
    if why:
        return attack, None, why
    for setting in attack.variants(stage):
        try:
            ranks = reciprocal_ranks(setting.space(stage), stage.inputs)
        except errors.DataError as error:
            why = why or str(error)
            continue
        if measured is None or ranks.mean() > measured["mrr"] + _TIED:
            asked = stage.inputs.study_patient[stage.inputs.image_study]
            best, measured = setting, {"mrr": float(ranks.mean()), "n_queries": len(ranks), "n_patients": len(np.unique(asked))}
    return best, measured, None if measured else why


def _stage(target: base.Target, seed: int) -> tuple[base.Target | None, str | None]:
    """Returns the auxiliary people as a target of their own, half of them as its audited people, and a sentence where they are few or too few."""
    people = target.auxiliary
    n = len(people.patient_key)
    order = np.random.default_rng(seed).permutation(n)
    asked = _capped(people, order[n // 2 :])
    played, held = (splitting.part(people, np.isin(people.study_patient, chosen)) for chosen in (asked, order[: n // 2]))
    if len(held.inputs.patient_key) < 2 or len(played.inputs.patient_key) < 2 or not len(played.images):
        return None, f"attacks were not calibrated: expected at least 2 patients in each half of the attacker's people, found {n} in all"
    stage = dataclasses.replace(
        target,
        inputs=played.inputs,
        auxiliary=held.inputs,
        features=played.features(target.auxiliary_features),
        auxiliary_features=held.features(target.auxiliary_features),
        others=(),
        kept=None,
        attributes=played.attributes(target.auxiliary_attributes),
        auxiliary_attributes=held.attributes(target.auxiliary_attributes),
    )
    few = len(played.inputs.patient_key) < _FEW
    return stage, f"attacks were calibrated on {len(played.inputs.patient_key)} patients only; their settings may be chance" if few else None


def _capped(people: AuditInputs, order: np.ndarray) -> np.ndarray:
    """Returns patients in order, as many as have at most `MOST` studies and as many images between them, and two at least."""
    n = len(people.patient_key)
    studies = np.bincount(people.study_patient, minlength=n)[order]
    images = np.bincount(people.study_patient[people.image_study], minlength=n)[order]
    fits = (np.cumsum(studies) <= MOST) & (np.cumsum(images) <= MOST)
    return order[: max(2, int(fits.sum()))]
