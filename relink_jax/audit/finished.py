"""A finished audit as a kept result: numbers as arrays, what is told as JSON; whose they are comes from the inputs again."""

import dataclasses
from typing import Any

import numpy as np

from relink_jax.audit import further, queries, result, right_patient, sections, verification
from relink_jax.audit.inputs import AuditInputs
from relink_jax.audit.per_image import PerImage
from relink_jax.retrieval.counted import I2R, R2I, DirectionCounts, StratumCounts, from_arrays, to_arrays
from relink_jax.retrieval.kept import Item, Kept

LABEL = "finished"
_TOLD = ("metrics", "protocol", "data", "checks", "warnings")
_SINGLE = ("evaluated", "block", "duplicates", "label_code")


def keep(kept: Kept, audited: result.AuditResult, depends: Any) -> None:
    """Keeps an audit; every process must come here. Args: depends: what it depends on besides the identity of `kept`, JSON-ready."""
    arrays: dict[str, np.ndarray] = {}
    for direction, table in audited.queries.items():
        arrays |= _named(direction, to_arrays(table.strata))
        numbers, scores = audited.top[direction]
        arrays |= _named(direction, {"top_id": numbers, "top_score": scores, "own_score": audited.own_score[direction]})
    given = audited.given
    told: dict[str, Any] = {name: getattr(audited, name) for name in _TOLD} | {"attacks": list(audited.attacks), "beta": given.beta}
    told["strata"] = {direction: list(table.strata) for direction, table in audited.queries.items()}
    if given.verification is not None:
        arrays |= _named("verification", verification.to_arrays(given.verification))
    if audited.per_image is not None:
        more, names = _of_images(audited.per_image)
        arrays, told["images"] = arrays | _named("images", more), names
    kept.keep(LABEL, arrays, told, depends)


def take(kept: Kept, inputs: AuditInputs, policy: str, depends: Any) -> result.AuditResult | None:
    """Returns the audit of `inputs` that was kept, None where there is none. Args: policy: of labels. depends: as in `keep`."""
    item = kept.take(LABEL, depends)
    if item is None:
        return None
    told, counted = item.told, {}
    for direction, names in told["strata"].items():
        found = _part(item, direction)
        query = np.arange(len(inputs.image_study), dtype=np.int32) if direction == I2R else np.unique(inputs.image_study).astype(np.int32)
        counted[direction] = DirectionCounts(query, found["own_score"], from_arrays(found, names), found["top_id"], found["top_score"])
    verified = _part(item, "verification")
    given = sections.Given(verification.from_arrays(verified) if verified else None, told["beta"])
    return result.AuditResult(
        queries=queries.from_counts(inputs, counted),
        **{name: told[name] for name in _TOLD},
        top={direction: (found.top_id, found.top_score) for direction, found in counted.items()},
        own_score={direction: found.own_score for direction, found in counted.items()},
        candidate_key={direction: {I2R: inputs.study_key, R2I: inputs.image_key}[direction] for direction in counted},
        per_image=_images_of(_part(item, "images"), told["images"], inputs, policy) if "images" in told else None,
        attacks=told["attacks"],
        given=given,
    )


def _of_images(table: PerImage) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays of a table without its attributes, which the inputs give again, and the names in it."""
    arrays = {name: values for name in _SINGLE if (values := getattr(table, name)) is not None}
    for label, strata in table.attacks.items():
        arrays |= _named(f"attack/{label}", to_arrays(strata))
    for kind, counted in (("tier", table.tiers), ("candidates", table.blocks)):
        arrays |= _named(kind, to_arrays({str(number): one for number, one in enumerate(counted)}))
    arrays |= _named("score", table.scores)
    arrays |= {} if table.siblings is None else _named("sibling", dataclasses.asdict(table.siblings))
    names = {"attacks": {label: list(strata) for label, strata in table.attacks.items()}, "scores": list(table.scores)}
    return arrays, names | {"tiers": len(table.tiers), "blocks": len(table.blocks)}


def _images_of(arrays: dict[str, np.ndarray], names: dict[str, Any], inputs: AuditInputs, policy: str) -> PerImage:
    def several(kind: str, number: int) -> tuple[StratumCounts, ...]:
        return tuple(from_arrays(_under(arrays, kind), map(str, range(number))).values())

    siblings = _under(arrays, "sibling")
    return PerImage(
        attacks={label: from_arrays(_under(arrays, f"attack/{label}"), strata) for label, strata in names["attacks"].items()},
        tiers=several("tier", names["tiers"]),
        blocks=several("candidates", names["blocks"]),
        scores={name: arrays[f"score/{name}"] for name in names["scores"]},
        attributes=further.attributes_of(inputs, policy),
        siblings=right_patient.Siblings(**siblings) if siblings else None,
        **{name: arrays.get(name) for name in _SINGLE},  # type: ignore[arg-type]
    )


def _named(kind: str, arrays: Any) -> dict[str, np.ndarray]:
    return {f"{kind}/{name}": array for name, array in arrays.items()}


def _part(item: Item, kind: str) -> dict[str, np.ndarray]:
    return _under(dict(item.arrays), kind)


def _under(arrays: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{kind}/"): array for name, array in arrays.items() if name.startswith(f"{kind}/")}
