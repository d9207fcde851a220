"""What an attacker holds of other people, and which attacks he tries with it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from relink_jax import errors
from relink_jax.audit import strata
from relink_jax.audit.attacks import attributes, base, fresh_head, linear, listing, pairs, splitting
from relink_jax.audit.inputs import AuditInputs
from relink_jax.retrieval.kept import Kept
from relink_jax.retrieval.layout import Layout

_SHARE = 5  # one patient in so many is set aside where the attacker has no people of his own
_FEWEST = 8  # patients that can be dealt into banks, calibration and audited people
_STREAM = 5
_UNKNOWN = (strata.NEAR_TEXT,)  # facts that are no attribute
_FITTED = {one.name: one for one in (linear.Ridge, linear.CCA, linear.Procrustes)}
_ONCE = {one.name: one for one in (attributes.LengthOnly, attributes.MetadataOnly)}
NAMES = (*listing.NAMES, *_FITTED, fresh_head.FreshHead.name, *_ONCE)


@dataclasses.dataclass(frozen=True)
class Holding:
    """What an attacker has.

    Attributes:
        auxiliary: pairs of other people, embedded by the audited heads; None where he has none of his own.
        features, auxiliary_features: vectors before the head of the audited and of his people, None where nobody kept them.
        others: the audited people embedded by other models. kept: where what attacks found that do not depend on the heads is kept, shared between
            audits of one model.
    """

    auxiliary: AuditInputs | None
    features: base.Features | None = None
    auxiliary_features: base.Features | None = None
    others: Sequence[AuditInputs] = ()
    kept: Kept = dataclasses.field(default_factory=Kept)


def resolved(inputs: AuditInputs, holding: Holding | None, seed: int) -> tuple[Holding | None, np.ndarray, list[str]]:
    """Returns (what the attacker has, queries bool [Q] that his attacks are judged on, sentences).

    Without people of his own he gets one patient in five of the audited ones, whose queries then judge nothing; None where there are too few.
    """
    everyone = np.ones(len(inputs.images), bool)
    if holding is not None and holding.auxiliary is not None:
        return holding, everyone, []
    n = len(inputs.patient_key)
    if n < _FEWEST:
        return None, everyone, [f"no attack was tried: expected at least {_FEWEST} patients, found {n}"]
    aside = np.random.default_rng([seed, n, _STREAM]).permutation(n)[: max(4, n // _SHARE)]
    his = np.isin(inputs.study_patient, aside)
    part = splitting.part(inputs, his)
    given = holding or Holding(None)
    found = dataclasses.replace(given, auxiliary=part.inputs, auxiliary_features=part.features(given.features))
    told = f"the attacker's pairs are those of {len(aside)} audited patients, as there are no others; attacks are judged on the queries of the rest"
    return found, ~his[inputs.image_study], [told]


def target(inputs: AuditInputs, held: Holding, mesh: Mesh, layout: Layout) -> base.Target:
    """Returns what attacks see of the audited people, and of the attacker's own."""
    if held.auxiliary is None:
        raise errors.DataError(errors.describe("auxiliary people", "attacks", "pairs of people who are not audited", "none"))
    known = [{name: values for name, values in people.study_facts.items() if name not in _UNKNOWN} for people in (inputs, held.auxiliary)]
    return base.Target(inputs, held.auxiliary, mesh, layout, held.features, held.auxiliary_features, held.others, known[0], known[1])


def attacks(names: Sequence[str], aimed: base.Target, seed: int) -> list[base.Attack]:
    """Returns attacks by name at their usual settings: normalisations with both banks, re-alignments with every number of pairs there is.

    Raises: UsageError: an unknown name.
    """
    sizes = pairs.sizes(aimed.auxiliary)
    found: list[base.Attack] = []
    for name in names:
        if name in _FITTED:
            both = (pairs.EMBEDDINGS, pairs.BEFORE_HEAD) if name == linear.Ridge.name else (pairs.EMBEDDINGS,)
            found += [_FITTED[name](pairs=size, features=features, seed=seed) for features in both for size in sizes]
        elif name == fresh_head.FreshHead.name:
            found += [fresh_head.FreshHead(pairs=size, seed=seed) for size in sizes]
        elif name in _ONCE:
            found.append(_ONCE[name]())
        elif name in listing.NAMES:
            found += listing.every([name])
        else:
            raise errors.UsageError(
                errors.describe("unknown attack", "argument 'attacks'", f"one of {', '.join(NAMES)}", repr(name)) + errors.suggest(name, NAMES)
            )
    return found
