"""What an audit measures beyond its counts: each measure that needs a pass of its own over images and reports, by name.

blocks          counts by jackknife block of the candidates, in the counting pass itself: intervals for new candidates
right_patient   other studies of the patient that beat the truth: right study, right patient, wrong patient
tiers           pools of hard negatives that are filled from the nearest label codes
verification    scores of all impostor pairs: pairwise true and false positives
infonce         bits, from the softmax share of each truth
shuffle         the null experiment: reports exchanged within a label code
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from relink_jax import errors
from relink_jax.audit import (
    adversary,
    attributes,
    decisions,
    hard_negatives,
    holdings,
    per_image,
    posterior,
    right_patient,
    right_patient_counts,
    sections,
    strata,
    verification,
)
from relink_jax.audit.attacks import shuffle
from relink_jax.audit.inputs import AuditInputs
from relink_jax.audit.per_image import PerImage
from relink_jax.retrieval import counts as counting
from relink_jax.retrieval import eligible, impostors, loop, resume
from relink_jax.retrieval.counted import I2R, LABEL_MATCHED, OTHER_PATIENT, DirectionCounts, Records, StratumCounts, from_arrays, to_arrays
from relink_jax.retrieval.kept import Item, Kept
from relink_jax.retrieval.layout import Layout

BLOCKS, RIGHT_PATIENT, TIERS, VERIFICATION, INFONCE, SHUFFLE = "blocks", "right_patient", "tiers", "verification", "infonce", "shuffle"
MEASURES = (BLOCKS, RIGHT_PATIENT, TIERS, VERIFICATION, INFONCE, SHUFFLE)
_NOT_ATTRIBUTES = (strata.NEAR_TEXT,)


@dataclasses.dataclass(frozen=True)
class Passes:
    """Where and how passes run, the seed of what is drawn, and where what is measured is kept as soon as it is finished."""

    mesh: Mesh
    layout: Layout
    precision: str
    seed: int
    policy: str
    kept: Kept = dataclasses.field(default_factory=Kept)

    def parts(self, name: str, records: Records) -> resume.Place | None:
        """Returns where a measure keeps the parts of a pass over records, None where that is short or nothing is kept."""
        return loop.worth(records, self.kept.parts(name))


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of image queries beyond counts by cosine: see `PerImage`, `adversary.Tried` and `sections`."""

    per_image: PerImage
    described: list[dict[str, Any]]
    given: sections.Given
    warnings: list[str]


def check(wanted: Sequence[str]) -> None:
    """Raises `UsageError` for an unknown measure."""
    for name in wanted:
        if name not in MEASURES:
            raise errors.UsageError(
                errors.describe("unknown measure", "argument 'measures'", f"one of {', '.join(MEASURES)}", repr(name)) + errors.suggest(name, MEASURES)
            )


def measured(
    inputs: AuditInputs,
    records: Records,
    counted: DirectionCounts,
    run: Passes,
    attacks: Sequence[str],
    wanted: Sequence[str],
    holding: holdings.Holding | None,
) -> Measured:
    """Returns everything that `attacks` and the measures `wanted` find; `counted`: image queries of the counting pass over `records`.

    Raises: UsageError: an unknown attack; see also the passes.
    """
    table = _per_image(inputs, records, counted, wanted, run)
    alone = "right patient and right study were not told apart: the patient's other studies count as wrong candidates here"
    held, evaluated, warnings = holdings.resolved(inputs, holding, run.seed) if attacks or INFONCE in wanted else (None, table.evaluated, [])
    counts, described, decided = {}, [], None
    if attacks and held is not None:
        target = holdings.target(inputs, held, run.mesh, run.layout)
        found = adversary.tried(target, holdings.attacks(attacks, target, run.seed), (records, counted), run.seed, run.kept, _shared(held, run))
        counts, described, decided = found.counts, found.described, found.decided
        warnings += found.warnings
    if SHUFFLE in wanted and LABEL_MATCHED in records.codes:
        counts |= {per_image.SHUFFLE: _shuffled(inputs, records, run)}
    warnings += [alone] if RIGHT_PATIENT in wanted and table.siblings is None else []
    scored, beta = _scores(decided or decisions.from_counts(records, counted), counted), None
    if INFONCE in wanted and held is not None and held.auxiliary is not None:
        beta, scored["log2_posterior"] = _posteriors(records, held.auxiliary, run)
    verified = _verified(records, counted, run) if VERIFICATION in wanted else None
    tiers = _tiers(inputs, records, run) if TIERS in wanted else ()
    table = dataclasses.replace(table, evaluated=evaluated, attacks=counts, tiers=tiers, scores=scored)
    return Measured(table, described, sections.Given(verified, beta), warnings)


def _shared(held: holdings.Holding, run: Passes) -> Kept:
    """Returns where what does not depend on the heads is kept: with the attacker, or on disk with the rest where he keeps it in memory alone."""
    return run.kept if held.kept.directory is None and run.kept.directory is not None else held.kept


def _per_image(inputs: AuditInputs, records: Records, counted: DirectionCounts, wanted: Sequence[str], run: Passes) -> PerImage:
    """Returns what is known of every image query by plain cosine; scores and attacks come later."""
    keys, texts, asked = records.exclusion, records.study_text, records.image_study
    duplicates = eligible.sizes(keys, {}, keys[asked], {}, texts, texts[asked])[OTHER_PATIENT]
    siblings, apart = None, np.array_equal(records.exclusion, inputs.study_patient)  # candidates of other patients only
    if RIGHT_PATIENT in wanted and apart:
        siblings = _siblings(records, counted, run)
    blocks = tuple(counted.blocks.get(OTHER_PATIENT, ()))
    return PerImage(
        np.ones(len(asked), bool),
        block=None if records.block is None or not blocks else records.block[asked],
        blocks=blocks,
        attributes=attributes_of(inputs, run.policy),
        duplicates=duplicates,
        label_code=records.codes[LABEL_MATCHED][asked].astype(np.int64) if inputs.study_has_labels.any() else None,
        siblings=siblings,
    )


def _siblings(records: Records, counted: DirectionCounts, run: Passes) -> right_patient.Siblings:
    """Returns the other studies of the patient of every image."""

    def made() -> Item:
        parts, strangers = run.kept.parts(RIGHT_PATIENT), counted.strata[OTHER_PATIENT]
        found = right_patient_counts.find(records, strangers, run.mesh, run.layout, precision=run.precision, directory=parts)
        return Item(dataclasses.asdict(found), {})

    return right_patient.Siblings(**run.kept.once(RIGHT_PATIENT, made).arrays)


def attributes_of(inputs: AuditInputs, policy: str) -> dict[str, np.ndarray]:
    """Returns what is recorded of the study of each image, by name: facts that came with the data, and what labels and patients tell."""
    told = attributes.describe_attributes(inputs.study_labels, inputs.study_has_labels, inputs.study_patient, inputs.image_study, policy)
    facts = {name: values[inputs.image_study] for name, values in inputs.study_facts.items() if name not in _NOT_ATTRIBUTES}
    return {**facts, **told}


def _scores(made: decisions.Decisions, cosine: DirectionCounts) -> dict[str, np.ndarray]:
    """Returns what decisions of the best attack rest on, see `decisions`, and the truth's score by plain cosine."""
    return {"own": made.own_score, "best_impostor": made.best_impostor, "second_impostor": made.second_impostor, "cosine_own": cosine.own_score}


def _verified(records: Records, counted: DirectionCounts, run: Passes) -> verification.Measured:
    """Returns thresholds at false-positive rates, and the pooled AUC, from the scores of all impostor pairs."""

    def made() -> Item:
        plain = dataclasses.replace(records, codes={}, block=None)
        scored = impostors.count(plain, run.mesh, layout=run.layout, kept=run.parts(VERIFICATION, plain))
        return Item(verification.to_arrays(verification.measure(scored, counted.own_score)), {})

    return verification.from_arrays(run.kept.once(VERIFICATION, made).arrays)


def _posteriors(records: Records, calibration: AuditInputs, run: Passes) -> tuple[float, np.ndarray]:
    """Returns (inverse temperature of the softmax, by calibration people; log2 of the truth's share of each image, float64 [Q])."""
    his = Records(calibration.images, calibration.image_study, calibration.texts, calibration.study_text, calibration.study_patient, {})
    plain = dataclasses.replace(records, codes={}, block=None)

    def made() -> Item:
        beta = posterior.calibrated_beta(his, seed=run.seed)
        shares = posterior.log2_posterior(plain, beta, run.mesh, layout=run.layout, kept=run.kept.passes(INFONCE))
        return Item({"log2_posterior": shares}, {"beta": beta})

    found = run.kept.once(INFONCE, made)
    return found.told["beta"], found.arrays["log2_posterior"]


def _tiers(inputs: AuditInputs, records: Records, run: Passes) -> tuple[StratumCounts, ...]:
    """Returns counts in each tier of label codes, nearest first; none where nobody labelled."""
    if inputs.study_labels is None or not inputs.study_has_labels.any():
        return ()
    labels, plain = inputs.study_labels, dataclasses.replace(records, codes={}, block=None)

    def made() -> Item:
        parts = run.parts(TIERS, plain)
        found = hard_negatives.count(records, labels, inputs.study_has_labels, run.policy, mesh=run.mesh, layout=run.layout, kept=parts)
        return Item(to_arrays({str(number): one for number, one in enumerate(found)}), {"tiers": len(found)})

    found = run.kept.once(TIERS, made)
    return tuple(from_arrays(found.arrays, map(str, range(found.told["tiers"]))).values())


def _shuffled(inputs: AuditInputs, records: Records, run: Passes) -> dict[str, StratumCounts]:
    """Returns counts of images among reports that changed hands within their label code."""
    dealt = shuffle.deal(inputs.study_text, inputs.study_patient, records.codes[LABEL_MATCHED], run.seed)
    asked = dataclasses.replace(records, study_text=dealt.study_text, codes={sections.DEALT: dealt.codes}, block=None)

    def made() -> Item:
        parts = run.parts(SHUFFLE, asked)
        found = counting.count(asked, mesh=run.mesh, top_k=0, layout=run.layout, directions=(I2R,), directory=parts)[I2R]
        return Item(to_arrays({sections.DEALT: found.strata[sections.DEALT]}), {})

    return from_arrays(run.kept.once(SHUFFLE, made).arrays, [sections.DEALT])
