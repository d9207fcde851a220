"""How large a run is: its evaluation sets, models and training pairs, from its workdir, from embeddings brought along, or as given.

Tables of numbers are real where the data are there; rows of vectors are stand-ins that take no memory.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.audit import candidate_side, further, importer, inputs, strata
from relink_jax.cohort import schema
from relink_jax.encoders import published, specs
from relink_jax.retrieval import shapes
from relink_jax.retrieval.counted import LABEL_MATCHED, Records
from relink_jax.stages import context, ensembles
from relink_jax.store import checkpoints
from relink_jax.store import workdir as workdir_lib

NO_HEAD = "none"


@dataclasses.dataclass(frozen=True)
class Set:
    """One evaluation set as it is counted; `records` have rows of width 1 in place of vectors."""

    name: str
    records: Records

    def sizes(self) -> tuple[int, int, int]:
        """Returns (images Q, studies S, distinct reports U)."""
        return len(self.records.images), len(self.records.study_text), len(self.records.texts)

    def wide(self, dim: int) -> Records:
        """Returns the records with stand-ins of `dim` numbers a row."""
        return dataclasses.replace(self.records, images=shapes.rows(len(self.records.images), dim), texts=shapes.rows(len(self.records.texts), dim))


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the run: width D of its embeddings, its arms, and the specs of its encoders (an ensemble's members, none of embeddings)."""

    name: str
    dim: int
    arms: tuple[str, ...]
    encoders: tuple[specs.VLMSpec, ...] = ()

    @property
    def whole(self) -> int:
        """Arms that are attacked and measured beyond counts."""
        return sum(not context.is_redraw(arm) for arm in self.arms)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run works on: images and texts that are embedded, evaluation sets, models, pairs and units of training, and where that is known from."""

    images: int
    texts: int
    sets: tuple[Set, ...]
    models: tuple[Model, ...]
    pairs: int
    units: int
    source: str


def without_lock(workdir: str) -> workdir_lib.Workdir | None:
    """Returns the paths of a workdir that holds a cohort, for reading alone; None where there is none.

    Raises: UsageError: no path that a directory can have.
    """
    if not isinstance(workdir, str | os.PathLike):
        raise errors.UsageError(errors.describe("workdir", "argument 'workdir'", "the path of a directory", type(workdir).__name__))
    try:
        found = workdir_lib.Workdir(pathlib.Path(workdir).expanduser(), "", b"")
        return found if str(workdir) and (found.cohort / "cohort.json").is_file() else None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", "") or "none"
        raise errors.UsageError(errors.describe("workdir", "--workdir", "a path that a directory can have", reason)) from error


def of_cohort(config: config_lib.RunConfig, found: workdir_lib.Workdir, cohort: schema.Cohort, only: str | None = None, *, audited: bool = True) -> Run:
    """Returns the sizes of a run whose cohort is there.

    Args: only: the one model that a command named. audited: whether the evaluation sets are wanted.
    Raises: UsageError: not a model of the run. DataError: nothing to audit. StoreError: a damaged model or ensemble.
    """
    chosen = cohort.select(split=config.heads.train_split, site=config.heads.train_site or None)
    studies = cohort.image_study[chosen.images]
    unit = {"pair": np.arange(len(studies)), "study": studies, "patient": cohort.study_patient[studies]}[config.heads.mechanism.unit]
    sets = tuple(_set(config, cohort, one) for one in context.evaluation_sets(config, cohort)) if audited else ()
    models = tuple(model_of(config, name, found) for name in context.models_of(config, only))
    return Run(len(cohort.image_key), len(cohort.text), sets, models, len(studies), len(np.unique(unit)), "the cohort of this workdir")


def of_embeddings(config: config_lib.RunConfig) -> Run:
    """Returns the sizes of embeddings brought along, which are read as an audit reads them."""
    return of_inputs(config, inputs.prepare(**importer.load_embeddings(config.embeddings)))


def of_inputs(config: config_lib.RunConfig, given: inputs.AuditInputs) -> Run:
    """Returns the sizes of an audit of embeddings."""
    codes = _codes(config, given.study_labels, given.study_has_labels, given.study_facts, near_text=False)
    one = Set("all", _records(config, given.image_study, given.study_text, given.study_patient, codes))
    model = Model(pathlib.Path(config.embeddings).resolve().name, int(given.images.shape[1]), (NO_HEAD,))
    return Run(0, 0, (one,), (model,), 0, 0, "the embeddings brought along")


def as_given(config: config_lib.RunConfig, images: int, studies: int, models: tuple[Model, ...], source: str) -> Run:
    """Returns the sizes of a run of which only numbers are known: two studies a patient, every report another text, and every study in every split."""
    study = np.arange(studies, dtype=np.int32)
    names = [LABEL_MATCHED, *(name for name in config.audit.strata if name != f"label_{config.audit.label_policy}")]
    records = _records(config, (np.arange(images) * studies // images).astype(np.int32), study, study // 2, dict.fromkeys(names, study))
    units = {"pair": images, "study": studies, "patient": -(-studies // 2)}[config.heads.mechanism.unit]
    return Run(images, studies, (Set("all", records),), models, images, units, source)


def model_of(config: config_lib.RunConfig, name: str, found: workdir_lib.Workdir | None = None, *, known: bool = False) -> Model:
    """Returns a model of a run with its arms: as it was converted, or else as it is packaged or published.

    One that is to be brought and was not converted yet has no specs, and counts as wide as the packaged ones.

    Args: known: refuse such a one.
    Raises: UsageError: an unknown model that should be known.
    """
    from relink_jax.encoders import zoo  # which loads towers

    arms = context.arms_of(config, name)
    ensemble = None if found is None else ensembles.load(found, name)
    if found is not None and ensemble is not None:
        members = tuple(_spec(found, one) for one in ensemble.members)
        return Model(name, sum(one.dim for one in members), ("original",), members)
    if not known and name not in (*zoo.ENTRIES, *published.MODELS) and not (found is not None and _converted(found, name)):
        return Model(name, zoo.described(zoo.list_vlms()[-1]).dim, arms)
    spec = _spec(found, name)
    return Model(name, spec.dim, arms, (spec,))


def _spec(found: workdir_lib.Workdir | None, name: str) -> specs.VLMSpec:
    from relink_jax.encoders import zoo  # which loads towers

    if found is not None and _converted(found, name):
        return specs.from_json(checkpoints.provenance_of(found.model(name))["model"], found.model(name) / "spec")
    return zoo.described(name)


def _converted(found: workdir_lib.Workdir, name: str) -> bool:
    return (found.model(name) / "provenance.json").exists()


def _set(config: config_lib.RunConfig, cohort: schema.Cohort, chosen: context.EvaluationSet) -> Set:
    studies = chosen.selection.studies
    facts = {name: values[studies] for name, values in cohort.study_facts.items()}
    codes = _codes(config, cohort.study_labels[studies], cohort.study_has_labels[studies], facts, near_text=True)
    image_study = np.searchsorted(studies, cohort.image_study[chosen.selection.images]).astype(np.int32)
    text, patient = (np.unique(of[studies], return_inverse=True)[1].astype(np.int32) for of in (cohort.study_text, cohort.study_patient))
    return Set(chosen.name, _records(config, image_study, text, patient, codes))


def _records(config: config_lib.RunConfig, image_study: np.ndarray, study_text: np.ndarray, patient: np.ndarray, codes: Mapping[str, np.ndarray]) -> Records:
    block = candidate_side.assign(patient, seed=config.audit.seed) if further.BLOCKS in config.audit.measures else None
    texts = shapes.rows(int(study_text.max(initial=-1)) + 1, 1)
    return Records(shapes.rows(len(image_study), 1), image_study, texts, study_text, patient, codes, block)


def _codes(config: config_lib.RunConfig, labels: Any, has_labels: np.ndarray, facts: Mapping[str, np.ndarray], *, near_text: bool) -> dict[str, np.ndarray]:
    """Returns the label-matched stratum and those further ones that are recorded for some study; which studies match nobody needs to know here."""
    policy, near = config.audit.label_policy, np.zeros(len(has_labels), np.int32) if near_text else None
    known = {name: values for name, values in facts.items() if name != strata.NEAR_TEXT}
    found = strata.codes(config.audit.strata, labels=labels, has_labels=has_labels, facts=known, near_text=near, policy=policy)
    told = {name: code for name, code in found.items() if (code >= 0).any() and name != f"label_{policy}"}
    return {LABEL_MATCHED: np.zeros(len(has_labels), np.int32), **told}
