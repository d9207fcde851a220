"""Tries every attack on one set of embeddings: settings by calibration patients, then one counting pass each.

Attacks see image queries only. An attack that cannot be tried (too many candidates, nothing to fit on) is left out with a sentence.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.audit import decisions
from relink_jax.audit.attacks import base, calibration, fusion, hubness, label_only
from relink_jax.audit.attacks.pairs import BEFORE_HEAD, EMBEDDINGS
from relink_jax.audit.per_image import COSINE
from relink_jax.retrieval import counted, loop
from relink_jax.retrieval import counts as counting
from relink_jax.retrieval.counted import I2R, LABEL_MATCHED, OTHER_PATIENT, DirectionCounts, Records, StratumCounts
from relink_jax.retrieval.kept import Item, Kept
from relink_jax.runtime import progress, stopping

_LISTED = 10  # candidates listed, for hubness and for decisions
_TIED = 1e-12
_DECIDED = ("own_score", "best_impostor", "second_impostor", "right")
LABEL_ONLY = "label_only"
_LABEL_ONLY: dict[str, Any] = {
    **{"family": base.BASELINE, "bank": None, "pairs": None, "features": "labels", "params": {}, "passes": 0.0, "released": False},
    **{"calibration": None, "hubness": None},
}  # who knows the 14 findings of an image and nothing else; he needs no pass


@dataclasses.dataclass(frozen=True)
class Tried:
    """What attacks found.

    Attributes:
        counts: of image queries by label of the attack, then stratum. described: each attack's entry of the results without figures, cosine first.
        decided: what decisions of the best attack rest on. warnings: what was left out, and why.
    """

    counts: dict[str, dict[str, StratumCounts]]
    described: list[dict[str, Any]]
    decided: decisions.Decisions
    warnings: list[str]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an attack compares, and its counting pass."""

    space: base.Space
    records: Records
    found: DirectionCounts


def tried(target: base.Target, attacks: Sequence[base.Attack], raw: tuple[Records, DirectionCounts], seed: int, kept: Kept, shared: Kept) -> Tried:
    """Returns what each attack finds in the other-patient and label-matched strata.

    Args:
        raw: records and image counts of plain cosine. seed: of the deal of calibration patients.
        kept: where what an attack found, and the setting that was chosen for it, is kept when it is done; what is there is not tried again. Then all
            processes may stop. shared: the same for attacks that do not depend on the heads.
    """
    warnings = [f"attack {label_of(one)} was left out: {why}" for one in attacks if (why := calibration.why_not(one, target)) is not None]
    able = [one for one in attacks if calibration.why_not(one, target) is None]
    chosen = calibration.choose([one for one in able if _released(one)], target, seed, kept)
    warnings += chosen.notes
    every = [*zip(chosen.attacks, chosen.calibration, strict=True), *((one, None) for one in able if not _released(one))]
    plain = Measured(base.Space(raw[0].images, raw[0].texts), *raw)
    described: list[dict[str, Any]] = []
    counts: dict[str, dict[str, StratumCounts]] = {}
    place, best, decided = 0, _value(*every[0]), None
    with progress.bar(len(every), "attacks", "attacks") as bar:
        for attack, calibrated in every:
            label = label_of(attack)
            if label == COSINE:
                described.append(_entry(attack, label, plain, calibrated))
                bar.update(1)
                continue
            leads = _value(attack, calibrated) > best + _TIED
            found = _once(attack, calibrated, target, raw[0], shared if _features(attack) == BEFORE_HEAD else kept, leads)
            bar.update(1)
            if "left_out" in found.told:
                warnings.append(f"attack {label} was left out: {found.told['left_out']}")
                continue
            described.append(dict(found.told["entry"]))
            counts[label] = counted.from_arrays(found.arrays, found.told["strata"])
            if leads:
                place, best = len(described) - 1, _value(attack, calibrated)
                decided = decisions.Decisions(*(found.arrays[name] for name in _DECIDED))
    described[place]["selected"] = True
    labelled = raw[0].codes[LABEL_MATCHED][raw[0].image_study] >= 0
    if labelled.any():
        counts[LABEL_ONLY] = label_only.strata(raw[1].strata[OTHER_PATIENT], raw[1].strata[LABEL_MATCHED], labelled)
        described.append(_LABEL_ONLY | {"label": LABEL_ONLY, "name": LABEL_ONLY, "selected": False})
    return Tried(counts, described, decided or decisions.from_counts(*raw), warnings)


def _once(attack: base.Attack, calibrated: dict[str, Any] | None, target: base.Target, records: Records, kept: Kept, leads: bool) -> Item:
    """Returns what an attack found, or why it was left out, and keeps it; with what decisions rest on if it is the best so far."""
    label, settings = label_of(attack), [repr(attack), calibrated]
    item = kept.take(label, settings)
    if item is None or (leads and "entry" in item.told and _DECIDED[0] not in item.arrays):
        found = measured(attack, target, records, kept.passes(label, settings))
        if isinstance(found, str):
            item = Item({}, {"left_out": found})
        else:
            arrays = counted.to_arrays(found.found.strata)
            arrays |= dataclasses.asdict(decisions.from_counts(found.records, found.found)) if leads else {}
            item = Item(arrays, {"entry": _entry(attack, label, found, calibrated), "strata": list(found.found.strata)})
        kept.keep(label, item.arrays, item.told, settings)
    stopping.check("audit")
    return item


def _value(attack: base.Attack, calibrated: Mapping[str, Any] | None) -> float:
    """Returns how calibration patients rank an attack on the released embeddings, -1 for any other and for one that they could not try."""
    return float(calibrated["mrr"]) if _released(attack) and calibrated is not None else -1.0


def _released(attack: base.Attack) -> bool:
    """Returns whether an attack uses nothing but released embeddings and auxiliary pairs; only such ones are ranked by calibration people."""
    return _features(attack) != BEFORE_HEAD and attack.name != fusion.ModelFusion.name


def label_of(attack: base.Attack) -> str:
    """Returns the name under which an attack's counts are kept, such as 'csls.inductive' or 'ridge.1000.before_head'."""
    several = attack.family in (base.NORMALISATION,)
    size = None if attack.family != base.REALIGNMENT else str(attack.pairs or "all")
    parts = (attack.name, attack.bank if several else None, size, BEFORE_HEAD if _features(attack) == BEFORE_HEAD else None)
    return ".".join(part for part in parts if part is not None)


def _features(attack: base.Attack) -> str:
    return str(getattr(attack, "features", EMBEDDINGS))


def measured(attack: base.Attack, target: base.Target, records: Records, kept: Kept | None = None) -> Measured | str:
    """Returns what an attack compares and counts, or why it cannot be tried.

    Args: records: of plain cosine. kept: where its passes, and parts of long ones, are kept; None for nowhere.
    """
    try:
        space = attack.space(dataclasses.replace(target, kept=kept))
    except errors.DataError as error:
        return str(error)
    rows = records.study_text if space.study_text is None else space.study_text
    codes = {name: code for name, code in records.codes.items() if name == LABEL_MATCHED}
    asked = dataclasses.replace(records, images=space.images, texts=space.texts, study_text=rows, codes=codes, block=None)
    parts = None if kept is None else loop.worth(asked, kept.parts("count"))
    found = counting.count(asked, mesh=target.mesh, top_k=_LISTED, layout=target.layout, directions=(I2R,), directory=parts)[I2R]
    return Measured(space, asked, found)


def _entry(attack: base.Attack, label: str, measured: Measured, calibrated: dict[str, Any] | None) -> dict[str, Any]:
    listed, n_studies = measured.found.top_id, len(measured.records.study_text)
    return {
        "label": label,
        "name": attack.name,
        "family": attack.family,
        "bank": attack.bank,
        "pairs": measured.space.params.get("fitted_pairs", attack.pairs),
        "features": _features(attack),
        "params": dict(measured.space.params),
        "passes": float(measured.space.passes),
        "released": _released(attack),
        "selected": False,
        "calibration": calibrated,
        "hubness": hubness.hubness(listed, n_studies) if listed.shape[1] else None,
    }
