"""Ensembles: models of the run that score an image and a report by the mean of their members' cosine similarities.

The mean of m cosine similarities is the dot product of the members' unit embeddings laid side by side over sqrt(m), which are unit-norm
again, so that counting, strata, intervals and the page take an ensemble as any model. It has no towers and no features of its own.

Design note: CheXzero's authors average the probabilities of a label over its ten members. A retrieval has no such probabilities, so the
rule here is another one, and results say which.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from relink_jax import errors
from relink_jax.runtime import progress
from relink_jax.store import checkpoints, digests, files
from relink_jax.store import workdir as workdir_lib
from relink_jax.store.rows import RowSource

RULE = "mean of cosine similarities"
FILE = "ensemble.json"
_FACTS = {"tier": str, "exposure": list, "licence": str, "specialisation": int}
_OWN = ("name", "directory", "sha256")  # fields of a spec in which members differ


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """An ensemble of the run: its members' records (name, file, digests) and what they share (tier, exposure, licence, specialisation)."""

    name: str
    parts: tuple[dict[str, str], ...]
    facts: dict[str, Any]

    @property
    def members(self) -> tuple[str, ...]:
        """The members' names, in the order of their embeddings."""
        return tuple(part["name"] for part in self.parts)

    @property
    def record(self) -> dict[str, Any]:
        """What `ensemble.json` holds under its seal."""
        return {"rule": RULE, "members": list(self.parts), **self.facts}

    @property
    def described(self) -> dict[str, Any]:
        """What results say of the ensemble."""
        return {"rule": RULE, "members": list(self.members)}

    @property
    def warning(self) -> str:
        """The sentence that results carry."""
        return (
            f"{self.name} scores an image and a report by the mean of its {len(self.parts)} members' cosine similarities, "
            "which is not the average of probabilities that CheXzero's authors take"
        )

    def digest(self, field: str) -> str:
        """Returns one digest over the members' `field`: tree_sha256, source_sha256 or heads_sha256."""
        return digests.value_digest([part[field] for part in self.parts])


def is_one(found: workdir_lib.Workdir, model: str) -> bool:
    """Returns whether a model of the workdir is an ensemble."""
    return _path(found, model).exists()


def write(found: workdir_lib.Workdir, model: str, members: Sequence[str]) -> dict[str, Any]:
    """Makes converted models the ensemble `model` and returns its record; one that is there is only compared.

    Raises: StoreError: members of another geometry, layout, preprocessing or tokenizer than the first, or an ensemble of others there.
    """
    provenances = {name: checkpoints.provenance_of(found.model(name)) for name in members}
    first, *others = ((name, _comparable(one)) for name, one in provenances.items())
    for name, facts in others:
        differing = ", ".join(field for field in facts if facts[field] != first[1].get(field))
        if differing:
            raise errors.StoreError(errors.describe("members differ", f"models/{name}", f"what {first[0]} is", f"another {differing}; use a fresh workdir"))
    parts = [{"name": name, "file": one["files"][0]["name"], "source_sha256": one["source_sha256"], **_now(found, name)} for name, one in provenances.items()]
    made = Ensemble(model, tuple(parts), {field: provenances[first[0]]["model"][field] for field in _FACTS})
    before = load(found, model)
    if before is None:
        files.write_json(_path(found, model), digests.sealed(made.record))
    elif before != made:
        raise errors.StoreError(errors.describe("other ensemble", f"models/{model}", "the members that it was made of", "others; use a fresh workdir"))
    return made.record


def load(found: workdir_lib.Workdir, model: str) -> Ensemble | None:
    """Returns the ensemble that `model` is, None for any other model, after comparing the members with what it was made of.

    Raises: StoreError: a damaged record, or a member that is gone or has other towers or heads than it had.
    """
    if not is_one(found, model):
        return None
    where = f"models/{model}/{FILE}"
    record = files.read_object(_path(found, model), {"rule": str, "members": list, **_FACTS}, where)
    if not digests.intact(record) or record["rule"] != RULE:
        raise errors.StoreError(errors.describe("ensemble edited", where, "the content its SHA-256 covers", "other content"))
    for part in record["members"]:
        for field, now in _now(found, part["name"]).items():
            if now != part[field]:
                expected, changed = f"{field} {part[field][:12]} of {part['name']}", f"{now[:12]}; use a fresh workdir"
                raise errors.StoreError(errors.describe("member changed", where, expected, changed))
    return Ensemble(model, tuple(record["members"]), {field: record[field] for field in _FACTS})


def without(found: workdir_lib.Workdir, models: Sequence[str]) -> tuple[str, ...]:
    """Returns the models that are no ensemble, and says of each ensemble that its members are what is embedded."""
    for model in models:
        if (ensemble := load(found, model)) is not None:
            progress.notice(f"{model}: an ensemble has no features of its own, so it is skipped; its members {', '.join(ensemble.members)} are embedded")
    return tuple(model for model in models if not is_one(found, model))


def refuse(found: workdir_lib.Workdir, model: str, done: str, flag: str) -> None:
    """Raises `UsageError` when `model` is an ensemble: only its members can be `done` (mitigated, exported) in this version, by `flag`."""
    if (ensemble := load(found, model)) is not None:
        expected = f"one of its members ({', '.join(ensemble.members)}), such as {flag}={ensemble.members[0]}"
        raise errors.UsageError(errors.describe(f"ensemble that cannot be {done}", f"model {model!r}", expected, "the ensemble itself"))


class SideBySide:
    """Float32 unit vectors [n, m * D], made when they are read, whose dot products are the means of those of `parts`, which are m sources of n rows."""

    def __init__(self, parts: Iterable[RowSource]) -> None:
        self.parts = tuple(parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, m * D)."""
        return len(self), len(self.parts) * self.parts[0].shape[1]

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: Any, /) -> np.ndarray:
        return np.concatenate([part[index] for part in self.parts], axis=-1) / np.float32(math.sqrt(len(self.parts)))


def _path(found: workdir_lib.Workdir, model: str) -> pathlib.Path:
    return found.model(model) / FILE


def _now(found: workdir_lib.Workdir, member: str) -> dict[str, str]:
    """Returns the digests of a member's towers and original heads as they are in the workdir."""
    card = files.read_object(found.heads(member, "original") / "card.json", {"heads_sha256": str}, f"heads/{member}/original/card.json")
    return {"tree_sha256": checkpoints.provenance_of(found.model(member))["tree_sha256"], "heads_sha256": card["heads_sha256"]}


def _comparable(provenance: dict[str, Any]) -> dict[str, Any]:
    """Returns what members must share: every field of the spec that is not a name, the layout, and the side files."""
    spec = {field: value for field, value in provenance["model"].items() if field not in _OWN}
    return {**spec, "layout": provenance["layout"], "side files": provenance.get("side_files_sha256")}
