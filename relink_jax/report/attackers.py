"""The attacks of a results document: what each is called, which are of a kind, and which mitigations only plain cosine believes in."""

import dataclasses
from typing import Any

from relink_jax.report import values
from relink_jax.report.evidence import BEST, EMPTY, Cell, Evidence, Row
from relink_jax.report.words import Fragments

NAMES = {
    "cosine": "plain cosine", "znorm": "z-normalised scores", "csls": "CSLS", "inverted_softmax": "inverted softmax", "sinkhorn": "Sinkhorn",
    "assignment": "one-to-one assignment", "study_mean": "all images of a study together", "model_fusion": "several models together", "ridge": "a ridge map",
    "cca": "a CCA map", "procrustes": "a rotation", "fresh_head": "fresh heads on the features before the head", "length_only": "report length only",
    "metadata_only": "metadata only", "label_only": "the labels only",
}  # fmt: skip
FAMILIES = {
    "normalisation": "normalised scores", "assignment": "assignment over all pairs", "fusion": "several images or models together",
    "realignment": "maps re-fitted on known pairs",
}  # fmt: skip
CONTROLS = ("noise_only", "random")
LOOKS_GOOD = 0.25  # share of the linkage above chance that plain cosine must see removed before it can be fooled about it
TWICE = 2.0


@dataclasses.dataclass(frozen=True)
class Exposure:
    """One set of heads that plain cosine finds safer than it is.

    Attributes: by_cosine, by_attack: Recall@1 left; cosine_removed, attack_removed: share of the linkage above chance that is gone;
        place: the attack's place in the document; chosen: calibration patients chose it.
    """

    row: Row
    dataset: str
    pool: int | str
    place: int
    chosen: bool
    by_cosine: Cell
    by_attack: Cell
    chance: values.Number
    cosine_removed: values.Number
    attack_removed: values.Number


def tried(evidence: Evidence, file: str | None) -> list[dict[str, Any]]:
    """Returns a document's attacks, plain cosine first; empty where none was recorded."""
    return evidence.documents[file].get("attacks", []) if file else []


def name(evidence: Evidence, file: str, place: int) -> Fragments:
    """Returns what an attack is called, with the number of known pairs it was fitted on."""
    one = tried(evidence, file)[place]
    called = NAMES.get(one["name"], one["name"].replace("_", " "))
    if not one.get("pairs"):
        return [called]
    return [f"{called} fitted on ", evidence.book.number("count", f"known pairs of {one['name']}", (file, f"/attacks/{place}/pairs")), " known pairs"]


def best_name(evidence: Evidence, row: Row, dataset: str) -> Fragments:
    """Returns what the best attack on a row is called; empty where no attack was recorded."""
    file = evidence.file(row, dataset)
    place = evidence.attack_at(file, BEST)
    return [] if file is None or place is None else name(evidence, file, place)


def realigned(evidence: Evidence, file: str | None, features: str = "embeddings") -> dict[int, int]:
    """Returns {known pairs: place} of the re-alignment attacks on `features`, of several at one number of pairs the best on calibration patients."""
    found: dict[int, int] = {}
    attacks = tried(evidence, file)
    for place, one in enumerate(attacks):
        if one["family"] == "realignment" and one.get("pairs") and one.get("features", "embeddings") == features:
            held = found.get(one["pairs"])
            if held is None or _calibrated(one) > _calibrated(attacks[held]):
                found[one["pairs"]] = place
    return dict(sorted(found.items()))


def realignment(evidence: Evidence, file: str | None) -> int | None:
    """Returns the place of the re-alignment attack on embeddings that calibration patients find best; None where none was tried."""
    attacks = tried(evidence, file)
    return max(realigned(evidence, file).values(), key=lambda place: (_calibrated(attacks[place]), attacks[place]["pairs"]), default=None)


def exposures(evidence: Evidence) -> list[Exposure]:
    """Returns the heads of the subject's model whose linkage plain cosine sees removed and a better attack finds again, mitigations first.

    Plain cosine must see at least `LOOKS_GOOD` removed. An attack then exposes it with `TWICE` the Recall@1 that plain cosine leaves, or
    where it sees less than half of that share removed. The attack is the one that calibration patients chose, with an interval above
    chance; else the strongest other one on the released embeddings whose whole interval is `TWICE` as high, since it is chosen in hindsight.
    """
    arms = sorted((row for row in evidence.arms if row.model == evidence.subject.model), key=lambda row: row.head in CONTROLS)
    found = [next((one for one in (_exposed(evidence, row, name) for name in evidence.datasets) if one is not None), None) for row in arms]
    return [one for one in found if one is not None]


def _exposed(evidence: Evidence, row: Row, dataset: str) -> Exposure | None:
    file, pool = evidence.file(row, dataset), evidence.headline(dataset) or "full"
    chance = evidence.single(row, dataset, "chance", "chance", pool)
    before, after = (evidence.recall(one, dataset, pool) for one in (evidence.subject, row))
    if file is None or chance is None or not all(_known(cell) for cell in (before, after)) or after.value is None:
        return None
    looked = _removed(evidence, row, dataset, pool, None)
    if looked is None or looked.value is None or looked.value < LOOKS_GOOD:
        return None
    for place in _suspects(evidence, file, row, dataset, pool):
        chosen = place == evidence.attack_at(file, BEST)
        cell, left = evidence.recall(row, dataset, pool, attack=place), _removed(evidence, row, dataset, pool, place)
        low, bar = _low(cell), TWICE * _value(after.value)
        restored = _value(cell.value) >= bar or (left is not None and left.value is not None and left.value < looked.value / 2)
        if left is not None and low > _value(chance) and restored and (chosen or low >= bar):
            return Exposure(row, dataset, pool, place, chosen, after, cell, chance, looked, left)
    return None


def _suspects(evidence: Evidence, file: str, row: Row, dataset: str, pool: int | str) -> list[int]:
    """Returns the places of attacks on released embeddings: the chosen one, then the others from the strongest down."""
    best, attacks = evidence.attack_at(file, BEST), tried(evidence, file)
    others = [
        place
        for place, one in enumerate(attacks)
        if place not in (0, best) and one["family"] != "baseline" and one.get("released", one.get("features", "embeddings") == "embeddings")
    ]
    others = [place for place in others if _known(evidence.recall(row, dataset, pool, attack=place))]
    others.sort(key=lambda place: -_low(evidence.recall(row, dataset, pool, attack=place)))
    return [best, *others] if best and _known(evidence.recall(row, dataset, pool, attack=best)) else others


def _removed(evidence: Evidence, row: Row, dataset: str, pool: int | str, place: int | None) -> values.Number | None:
    """Returns the share of the subject's linkage above chance that `row` has lost: under plain cosine, or by an attack against the best on the subject."""
    file, other = evidence.file(row, dataset), evidence.file(evidence.subject, dataset)
    whole = evidence.pointer(other, "recall", pool=pool, attack=None if place is None else BEST) or evidence.pointer(other, "recall", pool=pool)
    left = evidence.pointer(file, "recall", pool=pool, attack=place)
    if file is None or other is None or whole is None or left is None:
        return None
    label = f"share of the linkage above chance removed, {row.model} ({row.head}), {dataset}, N={pool}, attack {place or 0}"
    return evidence.book.number("share", label, (other, f"{whole}/value"), (file, f"{left}/value"), (file, f"{left}/chance"), formula="excess_reduction")


def gain(evidence: Evidence, row: Row, dataset: str, pool: int | str, place: int) -> Cell:
    """Returns how far an attack lies above plain cosine in Recall@1, with its paired interval."""
    file = evidence.file(row, dataset)
    for index, entry in enumerate(tried(evidence, file)[place].get("gain", ()) if file else ()):
        reference = entry["metric_ref"]
        at_pool = reference.get("full", False) if pool == "full" else (reference.get("N") == pool and not reference.get("full", False))
        if file and at_pool and reference.get("stratum") == "other_patient" and reference.get("k") == 1:
            return evidence.cell(file, f"/attacks/{place}/gain/{index}", "points", f"gain of attack {place}, {row.model}, {dataset}, N={pool}", "difference")
    return EMPTY


def _calibrated(one: dict[str, Any]) -> float:
    return float((one.get("calibration") or {}).get("mrr", 0.0))


def _known(cell: Cell) -> bool:
    return cell.value is not None and cell.value.value is not None


def _low(cell: Cell) -> float:
    return _value(cell.low) if cell.low is not None and cell.low.value is not None else _value(cell.value)


def _value(number: values.Number | None) -> float:
    return float("nan") if number is None or number.value is None else number.value
