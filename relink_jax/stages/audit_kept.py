"""What keeps an audit from doing work twice: finished arms of one that stopped, and the results of one that is complete.

Everything lies in the workdir's counting/. An arm keeps its parts, attacks and measures there while it is audited, and itself when it is
finished, until the results of all arms are written. Then that goes, and a record stays of what each result was made from: an audit of the
same finds it there and reads its results. Settings of speed and memory alone are no part of what results are made from.

What one stop repeats at most, besides host work such as reading, fitting and intervals:
    a long counting pass, of plain cosine, of an attack, of right_patient or shuffle    one part, a fortieth or about `loop.LONG` FLOP
    a long pass of bank statistics, infonce, tiers or verification                      one part, and for verification one batch more
    any other pass                                                                      itself, less than `loop.LONG` FLOP
    settings of one attack                                                              those of that attack, on a few thousand people
    writing the results                                                                 the writing
Asked by a signal, it stops after the part, attack, measure or arm it is at, and repeats none of it.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.audit import identities, reading, result
from relink_jax.cohort import schema
from relink_jax.retrieval.kept import Kept
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress
from relink_jax.stages import adversary, audit_records, context, ensembles, together
from relink_jax.store import digests, files, shards
from relink_jax.store import workdir as workdir_lib

_RECORD = "audited.json"
_SPEED = ("split", "query_block", "tile", "panel", "memory", "kernel")


def directory(found: workdir_lib.Workdir, stem: str) -> pathlib.Path:
    """Returns where an audit keeps what is finished until its result is written."""
    return found.root / "counting" / stem


def settings(config: config_lib.RunConfig) -> dict[str, Any]:
    """Returns the settings of an audit that its numbers depend on."""
    return {name: value for name, value in dataclasses.asdict(config.audit).items() if name not in _SPEED}


@dataclasses.dataclass(frozen=True)
class Made:
    """What a result is made from: a digest, and where its embeddings lie in the workdir, nowhere for those that were brought along."""

    identity: str
    embeddings: tuple[pathlib.Path, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sources:
    """What the audits of one model on one set are made from. Args: people: the audited. aside: whose pairs the attacker holds."""

    config: config_lib.RunConfig
    found: workdir_lib.Workdir
    cohort: str
    model: str
    people: adversary.People
    aside: adversary.People | None

    def made(self, arm: str) -> Made:
        """Returns what the audit of an arm is made from. Raises: StoreError: what it reads is damaged or not there."""
        others = [name for name in self.config.models if name != self.model] if arm == "original" else []
        seen = None if self.people.seen is None else self.people.seen.tolist()
        identity = digests.value_digest([self._shared, self._record(self.model, arm), [self._record(name, "original") for name in others], seen])
        return Made(identity, tuple(self.found.embeddings(self.model, arm, what) for what in context.SIDES.values()))

    def shared(self, name: str) -> Kept:
        """Returns where what does not depend on the heads is kept, for the set `name`."""
        chosen = self.config.audit
        depends = [self._shared, chosen.seed, chosen.label_policy, chosen.same_patient, chosen.precision, identities.versions()]
        return Kept(directory(self.found, f"{self.model}__before_head__{name}"), digests.value_digest(depends))

    def _record(self, model: str, arm: str) -> dict[str, Any]:
        ensemble = ensembles.load(self.found, model)
        for one in (model,) if ensemble is None else ensemble.members:
            for what in context.SIDES.values():
                context.needs(self.found.features(one, what) / "manifest.json", f"features of {what} by {one!r}", "embed")
        return audit_records.model_record(self.found, model, arm)

    @functools.cached_property
    def _shared(self) -> list[Any]:
        self._record(self.model, "original")
        features = [context.features_digest(self.found, self.model, what) for what in context.SIDES.values()]
        return [self.cohort, _chosen(self.people.chosen), self.aside and _chosen(self.aside.chosen), sorted(self.people.facts), features]


def _chosen(selection: schema.Selection) -> str:
    return digests.arrays_digest({"images": selection.images, "studies": selection.studies})


def complete(config: config_lib.RunConfig, found: workdir_lib.Workdir, made_from: Mapping[str, Made], ordered: bool) -> dict[str, result.AuditResult] | None:
    """Returns the results of an audit that is complete, by stem; None, on every process, where anything is missing, changed or damaged.

    Processes but the first get none of them. Args: made_from: of each result, by stem. ordered: whether comparisons of models belong to them.
    """
    there = together.first(found, "look for results", functools.partial(_complete, config, found, made_from, ordered))
    if not meshes.agreed(int(there is not None)):
        return None
    progress.notice("nothing changed since these results were made, so they are shown as they are; 'relink audit --again' makes them anew")
    return there or {}


def _complete(config: config_lib.RunConfig, found: workdir_lib.Workdir, made_from: Mapping[str, Made], ordered: bool) -> dict[str, result.AuditResult] | None:
    try:
        known = files.read_object(directory(found, _RECORD), {"results": dict, "order": list})
        entries = [known["results"].get(stem) for stem in made_from]
        if not digests.intact(known) or entries != [_entry(config, one) for one in made_from.values()]:
            return None
        if ordered and known["order"] != _order(config, found, made_from):
            return None
        paths = {stem: found.results / f"{stem}.json" for stem in made_from}
        if not all(map(reading.intact, paths.values())) or not all(_whole(place) for one in made_from.values() for place in one.embeddings):
            return None
        return {stem: reading.load(path) for stem, path in paths.items()}
    except (errors.StoreError, AttributeError, KeyError, TypeError, ValueError):  # sealed, and of another form all the same
        return None


def record(config: config_lib.RunConfig, found: workdir_lib.Workdir, made_from: Mapping[str, Made], ordered: bool) -> None:
    """Records what results are made from, now that all of them are written. Args: as in `complete`."""
    path = directory(found, _RECORD)
    try:
        before = files.read_object(path, {"results": dict, "order": list})
    except errors.StoreError:
        before = {"results": {}, "order": []}
    entries = {stem: _entry(config, one) for stem, one in made_from.items()}
    order = _order(config, found, made_from) if ordered else before["order"]
    files.write_json(path, digests.sealed({"results": {**before["results"], **entries}, "order": order}))


def discard(found: workdir_lib.Workdir, names: Sequence[str]) -> None:
    """Removes what audits kept, by stem."""
    for name in names:
        shards.discard(directory(found, name))


def _entry(config: config_lib.RunConfig, made: Made) -> str:
    """Returns a digest of everything that a result depends on."""
    return digests.value_digest([made.identity, settings(config), identities.versions(), [shards.digest(place) for place in made.embeddings]])


def _whole(place: pathlib.Path) -> bool:
    """Returns whether every shard of a directory has the digest that its manifest names."""
    return all(digests.stored_digest(place / one["file"]) == one["sha256"] for one in shards.manifest(place)["shards"])


def _order(config: config_lib.RunConfig, found: workdir_lib.Workdir, made_from: Mapping[str, Made]) -> list[str]:
    """Returns what comparisons of models are made from, and the digest of their file, '' without one."""
    path = found.results / "comparisons.json"
    made = digests.value_digest([{stem: one.identity for stem, one in made_from.items()}, settings(config)])
    return [made, digests.file_digest(path) if path.exists() else ""]
