"""From validated inputs to an `AuditResult`: strata, counting pass, float64 recheck, attacks, further measures, metrics."""

import numbers
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from jax.sharding import Mesh

from relink_jax import errors
from relink_jax.audit import candidate_side, further, holdings, identities, metrics, new_candidates, queries, result, strata
from relink_jax.audit.inputs import AuditInputs
from relink_jax.retrieval import counts as counting
from relink_jax.retrieval import loop, recheck
from relink_jax.retrieval.counted import I2R, LABEL_MATCHED, R2I, Records
from relink_jax.retrieval.kept import Kept
from relink_jax.retrieval.layout import AUTO, Layout
from relink_jax.retrieval.product import FLOAT32
from relink_jax.store import digests

SAME_PATIENT = ("exclude", "negative")
POOL_SIZES = (10, 100, 1000, 10000)
KS = (1, 5, 10)


def audit_inputs(
    inputs: AuditInputs,
    *,
    mesh: Mesh,
    pool_sizes: Sequence[int] = POOL_SIZES,
    ks: Sequence[int] = KS,
    top_k: int = 10,
    label_policy: str = "ternary",
    same_patient: str = "exclude",
    further_strata: Sequence[str] = (),
    attacks: Sequence[str] = (),
    measures: Sequence[str] = (),
    holding: holdings.Holding | None = None,
    bootstrap_replicates: int = 2000,
    level: float = 0.95,
    mc_repeats: int = 0,
    precision: str = FLOAT32,
    split: str = AUTO,
    query_block: int = 0,
    tile: int = 0,
    panel: int = 0,
    memory: int = 0,
    kernel: str = AUTO,
    seed: int = 0,
    directory: pathlib.Path | None = None,
    identity: str = "",
) -> result.AuditResult:
    """Returns the audit of one set of embeddings.

    Args:
        mesh: device mesh of the counting pass.
        pool_sizes: candidate-pool sizes N, the truth included; those that fit no query are left out with a warning; the full pool is always measured.
        ks: Recall@k for these k; left out where k > N.
        top_k: candidates kept per query; 0 keeps none.
        label_policy: see `audit.strata`.
        same_patient: the query patient's other studies are left out ('exclude', primary) or count as wrong ('negative'). The
            strata keep their names in the second case, and the protocol says so.
        further_strata: of hard negatives besides label-matched ones, see `strata.codes`; each costs little in the same pass.
        attacks: beyond plain cosine, see `holdings.NAMES`; each costs a pass of its own or a few, for image queries.
        measures: that need passes of their own, see `further`.
        holding: what the attacker has; None sets a fifth of the patients aside for him, whose queries attacks are then not judged on.
        bootstrap_replicates, level: patient-clustered intervals.
        mc_repeats: sampled pools per query as a cross-check of the closed form; 0 for none.
        precision: of the matrix product, see `retrieval.product`; faster ones end with the integers of exact scores.
        split, query_block, tile, panel, memory, kernel: how the pass lies on the devices, see `retrieval.layout`; speed and memory only.
        seed: of bootstrap, Monte Carlo and the choice of rechecked queries.
        directory: where what is finished is kept, so that an audit that stops goes on: parts of long passes, attacks and measures; None keeps nothing.
        identity: a digest that stands for the inputs and the holding there; '' for one of their bytes.
    Raises:
        UsageError: unknown policy or rule, an empty or repeated list of sizes, or an option out of range.
        DataError: no pool size fits, or k larger than the largest pool.
        UnsoundError: the counts fail their float64 recheck. StoreError: see `counts.count`. StoppedError: after a part, an attack or a measure.
    """
    if not isinstance(mesh, Mesh):
        raise errors.UsageError(errors.describe("value", "argument 'mesh'", "a device mesh", type(mesh).__name__))
    if same_patient not in SAME_PATIENT:
        raise errors.UsageError(
            errors.describe("unknown rule", "argument 'same_patient'", f"one of {', '.join(SAME_PATIENT)}", repr(same_patient))
            + errors.suggest(str(same_patient), SAME_PATIENT)
        )
    _check_list("pool_sizes", pool_sizes, 2)
    _check_list("ks", ks, 1)
    least = {"top_k": (top_k, 0), "bootstrap_replicates": (bootstrap_replicates, 2), "mc_repeats": (mc_repeats, 0), "query_block": (query_block, 0)}
    for name, (value, low) in {**least, "tile": (tile, 0), "panel": (panel, 0), "memory": (memory, 0), "seed": (seed, 0)}.items():
        if not _at_least(value, low):
            raise errors.UsageError(errors.describe("value", f"argument {name!r}", f"an integer of at least {low}", repr(value)))
    if not isinstance(level, numbers.Real) or not 0 < level < 1:
        raise errors.UsageError(errors.describe("value", "argument 'level'", "a number between 0 and 1", repr(level)))
    further.check(measures)
    exclusion = _exclusion(inputs, same_patient)
    codes = {LABEL_MATCHED: strata.label_codes(inputs.study_labels, inputs.study_has_labels, label_policy), **_strata(inputs, further_strata, label_policy)}
    metrics.check_sizes(largest_pool(inputs, same_patient), pool_sizes, ks)
    block = candidate_side.assign(inputs.study_patient, seed=seed) if further.BLOCKS in measures else None
    records = Records(inputs.images, inputs.image_study, inputs.texts, inputs.study_text, exclusion, codes, block)
    layout = Layout(split, query_block, tile, panel, memory, kernel=kernel)
    counted = counting.count(records, mesh=mesh, top_k=top_k, layout=layout, precision=precision, directory=loop.worth(records, directory))
    checks = {"recheck": recheck.recheck(records, counted, seed=seed), "tie_sensitivity": result.tie_sensitivity(counted[I2R])}
    if precision != FLOAT32:
        checks["settling"] = {direction: dict(found.settling) for direction, found in counted.items()}
    protocol = {
        "directions": list(counted),
        "query_unit": {I2R: "image", R2I: "study"},
        "candidates": {I2R: "study", R2I: "image"},
        "truth": "study",
        "same_patient": same_patient,
        "ties": "expected",
        "pool": "closed_form",
        "label_policy": label_policy,
        "attack": {"name": "cosine", "params": {}},
        "attacks": list(attacks),
        "measures": list(measures),
        "strata": list(codes),
        "precision": described(precision),
        "ks": [int(k) for k in ks],
        "pool_sizes": [int(size) for size in pool_sizes],
        "top_k": top_k,
        "bootstrap": {"replicates": bootstrap_replicates, "level": level, "seed": seed},
        "mc_repeats": mc_repeats,
    }
    tables = queries.from_counts(inputs, counted)
    entries, warnings = metrics.compute(tables, protocol)
    warnings += _unresolved(checks["tie_sensitivity"])
    if not inputs.study_has_labels.any():
        warnings.append("no study has labels: label-matched strata are absent")
    if (wrong := strata.contradictions(inputs.study_labels)) > 0:
        warnings.append(f"{wrong:,} studies have 'No Finding' beside a pathology")
    depends = [identity or identities.of(inputs, holding), seed, label_policy, same_patient, precision] if directory else []
    kept = Kept(directory and directory / "kept", digests.value_digest([depends, identities.versions()]))
    run = further.Passes(mesh, layout, precision, seed, label_policy, kept)
    more = further.measured(inputs, records, counted[I2R], run, attacks, measures, holding)
    top = {direction: (found.top_id, found.top_score) for direction, found in counted.items()}
    own = {direction: found.own_score for direction, found in counted.items()}
    keys = {I2R: inputs.study_key, R2I: inputs.image_key}
    warnings += more.warnings
    entries = new_candidates.with_intervals(entries, tables, more.per_image, level)
    return result.AuditResult(tables, entries, protocol, inputs.describe(), checks, warnings, top, own, keys, more.per_image, more.described, more.given)


def described(precision: str) -> str:
    """Returns how results name the precision of a counting pass."""
    return "float32/highest" if precision == FLOAT32 else f"{precision}/settled in float64"


def largest_pool(inputs: AuditInputs, same_patient: str) -> int:
    """Returns the number of candidates, truth included, of the query that has most, over both directions."""
    exclusion = _exclusion(inputs, same_patient)
    asked = exclusion[inputs.image_study]
    i2r = len(exclusion) - np.bincount(exclusion)[asked]
    r2i = len(asked) - np.bincount(asked)[asked]
    return int(max(i2r.max(), r2i.max())) + 1


def _exclusion(inputs: AuditInputs, same_patient: str) -> np.ndarray:
    """Returns int32 [S]: studies with equal values are not each other's candidates."""
    return inputs.study_patient if same_patient == "exclude" else np.arange(len(inputs.study_text), dtype=np.int32)


def _strata(inputs: AuditInputs, names: Sequence[str], policy: str) -> dict[str, np.ndarray]:
    """Returns the codes of further strata that are recorded for some study; the label policy that is matched anyway is not among them."""
    facts = {name: values for name, values in inputs.study_facts.items() if name != strata.NEAR_TEXT}
    near = inputs.study_facts.get(strata.NEAR_TEXT)
    groups = None if near is None else near.astype(np.int32)
    found = strata.codes(names, labels=inputs.study_labels, has_labels=inputs.study_has_labels, facts=facts, near_text=groups, policy=policy)
    return {name: code for name, code in found.items() if (code >= 0).any() and name != f"label_{policy}"}


def _check_list(name: str, values: Sequence[int], low: int) -> None:
    listed = list(values) if isinstance(values, Iterable) else []
    if not listed or not all(_at_least(value, low) for value in listed) or len(set(listed)) != len(listed):
        raise errors.UsageError(errors.describe("list", f"argument {name!r}", f"distinct integers of at least {low}", repr(values)))


def _at_least(value: object, low: int) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= low


def _unresolved(sensitivity: dict[str, float]) -> list[str]:
    low, high = sensitivity["recall1_lo"], sensitivity["recall1_hi"]
    if high - low <= 0.01 * high:
        return []
    return [f"numerically unresolved: full-pool i2r Recall@1 moves from {low:.6f} to {high:.6f} when the threshold moves by 1e-6"]
