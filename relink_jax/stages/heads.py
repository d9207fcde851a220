"""The heads stage: the arms of the mitigated model, trained on cached features, each with its card and ledger.

Heads that are already in the workdir are kept when their settings agree: training again would spend epsilon again.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax import heads as heads_lib
from relink_jax.cohort import phantom, schema
from relink_jax.privacy import banks, clipping, controls, options, sampling, training
from relink_jax.privacy import design as designs
from relink_jax.privacy import ledger as ledger_lib
from relink_jax.runtime import progress, stopping
from relink_jax.stages import context, embed, embedded, ensembles, plan_short
from relink_jax.store import digests, files, shards
from relink_jax.store import workdir as workdir_lib

STEP_SIZE_ORIGIN = "default relative_displacement: chosen on the synthetic phantom cohort, whose audit it was looked at for; no patient's data"
ANCHOR_ORIGIN = "synthetic reports of relink_jax.cohort.phantom.anchor_texts, no patient's text"
_UNIT_MAPS = {
    "patient": "one patient per patient_id of the pairs table",
    "study": "one study per study_id of the pairs table",
    "pair": "one pair per row of the pairs table",
}
RANDOM_SEED = 1  # of the untrained control's heads; public


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm's heads on disk; `ledger` is None for arms that saw no private data and drew no noise."""

    model: str
    arm: str
    directory: pathlib.Path
    ledger: dict[str, Any] | None


def run(config: config_lib.RunConfig, workdir: str) -> list[Arm] | None:
    """Trains (or finds) every configured arm of the mitigated model; None on a process that waited for process 0 to do so.

    Raises: UsageError: no model to mitigate, an ensemble, one without projection heads, or no training pairs; StoreError: missing features, or
        heads of other settings; StoppedError: asked to, after a training state or an arm.
    """
    if not config.mitigate:
        raise errors.UsageError(errors.describe("nothing to mitigate", "config field 'mitigate'", f"one of models {list(config.models)}", "''"))
    return context.led(config, workdir, "heads", lambda found: _arms(config, found))


def _arms(config: config_lib.RunConfig, found: workdir_lib.Workdir) -> list[Arm]:
    check_converted(found, config.mitigate)
    cohort, arms = embedded.load_cohort(found), []
    plan_short.announce("heads", config, found, cohort)
    for arm in context.arms_of(config, config.mitigate):
        stopping.check_here("heads")
        arms.append(_arm(config, found, cohort, arm))
    return arms


def describe(arms: list[Arm]) -> str:
    """Returns one line per arm, with what it spent."""
    return "\n".join(f"  {arm.model}  {arm.arm:<12} {_spent(arm.ledger)}" for arm in arms)


def _spent(ledger: dict[str, Any] | None) -> str:
    if ledger is None:
        return "no private data used"
    if not ledger["data_used"]:
        return "noise only: the same noise and steps, no data"
    epsilon, total = ledger["epsilon"], ledger["epsilon_all_runs"]
    if epsilon["infinite"]:
        return f"NOT PRIVATE: epsilon is infinite, objective {ledger['objective']['id']}"
    spent = f"epsilon {epsilon['rdp']:.4g} (RDP), {epsilon['pld']:.4g} (PLD) at delta {epsilon['delta']:g}, unit {ledger['dataset']['unit']}"
    if total["runs"] < 2:
        return spent
    together = "not bounded" if total["rdp"] is None else f"{total['rdp']:.4g} (RDP)"
    return f"{spent}; with {total['runs'] - 1} earlier released on the same people {together}"


def check_converted(found: workdir_lib.Workdir, model: str) -> None:
    """Raises `UsageError` unless a converted model can be mitigated: for an ensemble, and see `check_forms`."""
    ensembles.refuse(found, model, "mitigated", "--config.mitigate")
    original, _, _ = context.load_arm(found, model, "original")
    check_forms(model, {side: heads_lib.form_of(head) for side, head in original.items()})


def check_forms(model: str, forms: Mapping[str, str]) -> None:
    """Raises `UsageError` for a model none of whose heads has a parameter to train."""
    if set(forms.values()) == {"none"}:
        expected = "a projection head on at least one side (--config.mitigate= audits without mitigation)"
        raise errors.UsageError(errors.describe("heads that cannot be mitigated", f"model {model!r}", expected, "none on either side"))


def _arm(config: config_lib.RunConfig, found: workdir_lib.Workdir, cohort: schema.Cohort, arm: str) -> Arm:
    model = config.mitigate
    directory = found.heads(model, arm)
    settings = _settings(config, arm)
    if (directory / "card.json").exists():
        _, card, ledger = context.load_arm(found, model, arm)
        if arm != "original" and card["settings_sha256"] != digests.value_digest(settings):
            raise errors.StoreError(
                errors.describe("heads of other settings", f"heads/{model}/{arm}", "the settings they were trained with", "changed ones; use a fresh workdir")
            )
        return Arm(model, arm, directory, ledger)
    for what in ("images", "texts"):
        shards.discard(found.embeddings(model, arm, what))  # of heads that are no longer there
    original, card, _ = context.load_arm(found, model, "original")
    about = {"arm": arm, "original_sha256": card["heads_sha256"], "settings": settings, "settings_sha256": digests.value_digest(settings)}
    if arm == "random":
        heads_lib.save(directory, heads_lib.random_heads(RANDOM_SEED, original), about)
        return Arm(model, arm, directory, None)
    if (directory / ledger_lib.FILE_NAME).exists():
        progress.notice(f"{model}: heads {arm} are trained again, since those of an earlier run are not there; what it spent stays in the ledger")
    trained = _train(config, found, cohort, arm, directory)
    heads_lib.save(directory, trained.heads, about)
    return Arm(model, arm, directory, trained.ledger)


def _settings(config: config_lib.RunConfig, arm: str) -> dict[str, Any]:
    if arm == "random":
        return {"seed": RANDOM_SEED}
    return {"train_split": config.heads.train_split, "train_site": config.heads.train_site, "mechanism": dataclasses.asdict(config.heads.mechanism)}


@dataclasses.dataclass(frozen=True)
class Training:
    """Everything a training run is given: `training.train_heads`'s arguments by name, the private ones included."""

    initial: heads_lib.Heads
    records: clipping.Records
    units: np.ndarray
    bank: banks.PublicBank | None
    options: options.Options


def prepared(config: config_lib.RunConfig, found: workdir_lib.Workdir, cohort: schema.Cohort, arm: str) -> Training:
    """Returns what the heads of an arm of the mitigated model are trained with; `UsageError` without training pairs."""
    original, _, _ = context.load_arm(found, config.mitigate, "original")
    chosen = cohort.select(split=config.heads.train_split, site=config.heads.train_site or None)
    if len(chosen.images) < 2:
        raise errors.UsageError(
            errors.describe(
                "training pairs",
                f"split {config.heads.train_split!r} of the cohort (table column 'split')",
                "at least 2 pairs; without any, audit only, with --config.mitigate=",
                str(len(chosen.images)),
            )
        )
    studies = cohort.image_study[chosen.images]
    mechanism = config.heads.mechanism
    units = sampling.unit_index(studies if mechanism.unit == "study" else cohort.study_patient[studies], mechanism.unit)
    public, labels = None, None
    if mechanism.objective in options.BANKED:
        public, labels = bank(mechanism.objective, context.features(found, config.mitigate, "anchors"), cohort.study_labels[studies] == 1)
    records = clipping.Records(
        context.features(found, config.mitigate, "images")[chosen.images],
        context.features(found, config.mitigate, "texts")[cohort.study_text[studies]],
        labels,
    )
    fields = resolved(mechanism, original, int(units.max()) + 1)
    tuning = STEP_SIZE_ORIGIN if _untouched(mechanism) else None
    wanted = options.Options(**fields, **dataclasses.asdict(config.heads.performance), data=not context.is_noise(arm), public_tuning_data=tuning)
    return Training(original, records, units, public, wanted)


def _train(config: config_lib.RunConfig, found: workdir_lib.Workdir, cohort: schema.Cohort, arm: str, directory: pathlib.Path) -> training.TrainedHeads:
    given = prepared(config, found, cohort, arm)
    files.make_dir(directory)
    about = {
        "name": cohort.name,
        "synthetic": cohort.synthetic,
        "split": config.heads.train_split,
        "site": ", ".join(context.training_sites(config, cohort)),
        "unit_map": _UNIT_MAPS[given.options.unit],
    }
    ledger_path = directory / ledger_lib.FILE_NAME
    return training.train_heads(given.initial, given.records, given.units, given.bank, given.options, ledger_path=ledger_path, dataset=about)


def bank(objective: str, anchors: np.ndarray, positive: np.ndarray) -> tuple[banks.PublicBank, np.ndarray | None]:
    """Returns the public bank that an objective of `options.BANKED` compares with, and what it reads of the records' labels.

    Args: anchors: features of the public anchors [A, F_t]. positive: bool [N, 14], the labels that each pair's study has.
    """
    if objective not in options.PROTOTYPED:
        return banks.PublicBank(anchors, provenance=ANCHOR_ORIGIN), None
    stated = stated_findings(len(anchors))
    named = np.flatnonzero(stated.any(axis=0))
    prototypes = np.stack([anchors[stated[:, label]].mean(axis=0) for label in named])
    return banks.PublicBank(prototypes, provenance=f"means by finding of {ANCHOR_ORIGIN}"), positive[:, named].astype(np.float32)


def stated_findings(anchors: int) -> np.ndarray:
    """Returns bool [A, 14], the findings that each public anchor report states."""
    return np.stack(list(phantom.anchor_reports(anchors, embed.ANCHOR_SEED).values())) == 1


def _untouched(mechanism: config_lib.MechanismConfig) -> bool:
    """Returns whether the step size is the default one, whose origin is known; how a user chose another is not."""
    default = config_lib.MechanismConfig()
    return (mechanism.learning_rate, mechanism.relative_displacement) == (default.learning_rate, default.relative_displacement)


def resolved(mechanism: config_lib.MechanismConfig, original: heads_lib.Heads, n_units: int) -> dict[str, Any]:
    """Returns the fields of `Options` that a config has, with batch size and step size derived where they are 0, from public numbers only."""
    fields = dataclasses.asdict(mechanism)
    relative = fields.pop("relative_displacement")
    batch = fields["expected_batch_size"] = mechanism.expected_batch_size or min(256, max(1, n_units // 3))
    if mechanism.learning_rate == 0:
        made = designs.design(options.Options(**{**fields, "learning_rate": 1.0}), n_units).mechanism
        fields["learning_rate"] = controls.learning_rate_for(
            original, relative, iterations=mechanism.iterations, noise_stddev=made.noise_stddev, expected_batch_size=batch
        )
    return fields
