"""What kept results of an audit depend on, as digests: the bytes of its inputs and of what the attacker holds, and the code that made them."""

import functools
from typing import Any

import numpy as np

from relink_jax.audit import holdings
from relink_jax.audit.inputs import AuditInputs
from relink_jax.runtime import provenance
from relink_jax.store import digests

_ROWS = ("images", "texts", "image_study", "study_text", "study_patient", "study_has_labels")
_CODE = ("relink_jax", "jax", "jaxlib", "numpy")


@functools.cache
def versions() -> tuple[str, ...]:
    """Returns the versions of the packages that numbers come from, and the commit of a checkout."""
    found = provenance.versions()["package_versions"]
    return (*(f"{name} {found[name]}" for name in _CODE), provenance.commit())


def of(inputs: AuditInputs, holding: holdings.Holding | None) -> str:
    """Returns a digest of the inputs of an audit and of what the attacker holds, reading every row once."""
    held: list[Any] = [_people(inputs)]
    if holding is not None:
        held += [holding.auxiliary and _people(holding.auxiliary), *map(_people, holding.others)]
        held += [one and digests.arrays_digest({"images": one.images, "texts": one.texts}) for one in (holding.features, holding.auxiliary_features)]
    return digests.value_digest(held)


def _people(inputs: AuditInputs) -> list[Any]:
    arrays = {name: getattr(inputs, name) for name in _ROWS}
    arrays |= {} if inputs.study_labels is None else {"labels": inputs.study_labels}
    facts = {name: _digest(values) for name, values in sorted(inputs.study_facts.items())}
    return [digests.arrays_digest(arrays), facts, None if inputs.study_exposure is None else _digest(inputs.study_exposure)]


def _digest(values: np.ndarray) -> str:
    return digests.value_digest([str(values.dtype), values.tolist()])
