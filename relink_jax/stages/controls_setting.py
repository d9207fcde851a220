"""What every control shares: the mitigated model's features of the people concerned, its published heads, and the run's own mechanism."""

import dataclasses

import numpy as np

from relink_jax import config as config_lib
from relink_jax import errors, heads
from relink_jax.audit import strata
from relink_jax.cohort import schema
from relink_jax.privacy import banks, clipping, options, sampling
from relink_jax.stages import context, embedded, ensembles
from relink_jax.stages import heads as heads_stage
from relink_jax.store import digests
from relink_jax.store import workdir as workdir_lib
from relink_jax.utility import probe


@dataclasses.dataclass(frozen=True)
class Database:
    """One group of people as a database of its own.

    Attributes:
        images: int [Q], rows of the setting's image features. study: int32 [Q], 0 .. S-1. text: int [S], rows of its text features.
        patient: int32 [S], numbers of the cohort. y, known: bool [Q, 14], see `probe.targets`.
    """

    images: np.ndarray
    study: np.ndarray
    text: np.ndarray
    patient: np.ndarray
    y: np.ndarray
    known: np.ndarray

    @property
    def least_pool(self) -> int:
        """Candidates, truth included, of the image that has fewest."""
        return len(self.patient) - int(np.bincount(self.patient).max()) + 1


@dataclasses.dataclass(frozen=True)
class Setting:
    """Everything a condition starts from.

    Attributes:
        heads: published heads. images, texts, anchors: frozen features. findings: bool [A, 14], what each anchor states.
        heldout, members, auxiliary: people of the test split of the training site, of the training split, and the attacker's own (validate).
        records, units, codes, patient: the training pairs' features and labels, privacy unit, label code and patient, one row each.
        bank, prototypes: public anchors, and their means by finding. base: the run's own mechanism.
        set_name: the evaluation set. pool: candidates of every Recall@1 here. identity: digest of everything that a condition depends on.
    """

    heads: heads.Heads
    images: np.ndarray
    texts: np.ndarray
    anchors: np.ndarray
    findings: np.ndarray
    heldout: Database
    members: Database
    auxiliary: Database
    records: clipping.Records
    units: np.ndarray
    codes: np.ndarray
    patient: np.ndarray
    bank: banks.PublicBank
    prototypes: banks.PublicBank
    base: options.Options
    set_name: str
    synthetic: bool
    pool: int
    identity: str

    def bank_of(self, objective: str) -> tuple[banks.PublicBank | None, bool]:
        """Returns the public bank that an objective compares with, and whether it reads labels."""
        if objective in options.PROTOTYPED:
            return self.prototypes, True
        return (self.bank if objective in options.BANKED else None), False


def load(config: config_lib.RunConfig, found: workdir_lib.Workdir) -> Setting:
    """Returns the setting of a run whose cohort, converted model and features are in the workdir.

    Raises: UsageError: no model to mitigate, or one whose heads cannot be; DataError: no training pairs, no held-out images of the training
        site, or fewer than 2 patients for the attacker; StoreError: see `context`.
    """
    model = config.mitigate
    if not model:
        raise errors.UsageError(errors.describe("model to mitigate", "config field 'mitigate'", "one of the run's models", "none"))
    ensembles.refuse(found, model, "mitigated", "--config.mitigate")
    cohort = embedded.load_cohort(found)
    original, card, _ = context.load_arm(found, model, "original")
    heads_stage.check_forms(model, card["forms"])
    sites = context.training_sites(config, cohort)
    sets = [one for one in context.evaluation_sets(config, cohort) if not one.external]
    train, aside = (cohort.select(split=split, site=config.heads.train_site or None) for split in (config.heads.train_split, "validate"))
    for what, some in (("training images", train.images), ("held-out images of a training site", sets), ("images of split 'validate'", aside.images)):
        if len(some) == 0:
            raise errors.DataError(errors.describe(f"no {what}", "cohort", f"some (training sites: {', '.join(sites) or 'none'})", "none"))
    heldout, members, auxiliary = (_database(cohort, one) for one in (sets[0].selection, train, aside))
    anchors = context.features(found, model, "anchors")
    images, texts = (context.features(found, model, what) for what in ("images", "texts"))
    studies = cohort.image_study[train.images]
    patient = cohort.study_patient[studies]
    bank, _ = heads_stage.bank("anchor_infonce", anchors, cohort.study_labels[studies] == 1)
    prototypes, labels = heads_stage.bank("prototype", anchors, cohort.study_labels[studies] == 1)
    units = sampling.unit_index(studies if config.heads.mechanism.unit == "study" else patient, config.heads.mechanism.unit)
    resolved = heads_stage.resolved(config.heads.mechanism, original, int(units.max()) + 1)
    settings = {"mechanism": resolved, "heads": card["heads_sha256"], "cohort": cohort.digest(), "set": sets[0].name, "train": config.heads.train_split}
    settings |= {what: context.features_digest(found, model, what) for what in ("images", "texts", "anchors")}
    pool = min(config.report.headline_pool, heldout.least_pool, members.least_pool)
    settings |= {
        "pool": pool,
        "probe": [*config.controls.probe_l2_grid, config.probe.max_iterations],
        "label_policy": config.audit.label_policy,
        "site": config.heads.train_site,
    }
    return Setting(
        original,
        images,
        texts,
        anchors,
        heads_stage.stated_findings(len(anchors)),
        heldout,
        members,
        auxiliary,
        clipping.Records(images[train.images], texts[cohort.study_text[studies]], labels),
        units,
        strata.label_codes(cohort.study_labels[studies], cohort.study_has_labels[studies], config.audit.label_policy),
        patient,
        bank,
        prototypes,
        options.Options(**resolved, **dataclasses.asdict(config.heads.performance)),
        sets[0].name,
        cohort.synthetic,
        pool,
        digests.value_digest(settings),
    )


def _database(cohort: schema.Cohort, chosen: schema.Selection) -> Database:
    study = np.searchsorted(chosen.studies, cohort.image_study[chosen.images]).astype(np.int32)
    of_image = cohort.image_study[chosen.images]
    y, known = probe.targets(cohort.study_labels[of_image], cohort.study_has_labels[of_image])
    return Database(chosen.images, study, cohort.study_text[chosen.studies], cohort.study_patient[chosen.studies], y, known)


def matched_partners(codes: np.ndarray, patient: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns int [N], a random pair of another patient with the same label code for each pair, -1 where there is none.

    Args: codes: int [N], -1 for pairs without labels, which have no partner. patient: int [N].
    """
    partner = np.full(len(codes), -1)
    for pair in np.flatnonzero(codes >= 0):
        fitting = np.flatnonzero((codes == codes[pair]) & (patient != patient[pair]))
        if len(fitting):
            partner[pair] = generator.choice(fitting)
    return partner
