"""What the attacker of a run holds: image-report pairs of people who are not audited, features before the head, the other models' embeddings.

His people are those of the splits train and validate, at the sites that the heads learn from; where there are none, the audit sets some of the
audited people aside for him.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from relink_jax import config as config_lib
from relink_jax.audit import holdings
from relink_jax.audit import inputs as inputs_lib
from relink_jax.audit.attacks import base
from relink_jax.cohort import near_text, schema
from relink_jax.retrieval.kept import Kept
from relink_jax.stages import context, ensembles
from relink_jax.store import workdir as workdir_lib
from relink_jax.store.rows import RowSource, select

_HIS_SPLITS = ("train", "validate")
NEAR_TEXT = "near_text"


@dataclasses.dataclass(frozen=True)
class People:
    """A part of the cohort as it is audited or attacked: its selection, what is recorded of its studies, and what the model's training has seen."""

    chosen: schema.Selection
    facts: Mapping[str, np.ndarray]
    seen: np.ndarray | None = None


def prepared(cohort: schema.Cohort, people: People, images: RowSource, texts: RowSource) -> inputs_lib.AuditInputs:
    """Returns people's embeddings joined by study number; the ids are the workdir's keyed pseudonyms. `images`, `texts`: of the whole cohort."""
    chosen, studies = people.chosen, people.chosen.studies
    return inputs_lib.prepare(
        images=select(images, chosen.images),
        texts=select(texts, cohort.study_text[studies]),
        image_study=cohort.study_key[cohort.image_study[chosen.images]],
        text_study=cohort.study_key[studies],
        patient=cohort.patient_key[cohort.study_patient[studies]],
        labels=cohort.study_labels[studies],
        has_labels=cohort.study_has_labels[studies],
        image_id=cohort.image_key[chosen.images],
        study_exposure=people.seen,
        study_facts=people.facts,
        keep_ids=True,
    )


def facts(config: config_lib.RunConfig, cohort: schema.Cohort) -> dict[str, np.ndarray]:
    """Returns what is recorded of every study of the cohort, with the group of its report among near duplicates where that stratum is asked for."""
    found = dict(cohort.study_facts)
    if NEAR_TEXT in config.audit.strata:
        found[NEAR_TEXT] = near_text.groups(cohort.text)[cohort.study_text].astype(np.float64)
    return found


def of(every: Mapping[str, np.ndarray], chosen: schema.Selection) -> dict[str, np.ndarray]:
    """Returns the facts of a selection's studies."""
    return {name: values[chosen.studies] for name, values in every.items()}


def auxiliary(config: config_lib.RunConfig, cohort: schema.Cohort, audited: schema.Selection, every: Mapping[str, np.ndarray]) -> People | None:
    """Returns the people whose pairs the attacker holds, None where the cohort has none besides the audited."""
    sites = set(context.training_sites(config, cohort))
    kept = np.isin(cohort.study_split, _HIS_SPLITS) & np.isin(cohort.study_site.astype(str), sorted(sites))
    kept &= ~np.isin(cohort.study_patient, cohort.study_patient[audited.studies])
    images = np.flatnonzero(kept[cohort.image_study]).astype(np.int32)
    if not len(images):
        return None
    chosen = schema.Selection(images, np.unique(cohort.image_study[images]).astype(np.int32))
    return People(chosen, of(every, chosen))


class Attacker:
    """What the attacker of one model and evaluation set holds, whatever heads are attacked.

    Args:
        people: the audited. aside: whose pairs he holds, None to let the audit set some aside.
        kept: where what his attacks find that does not depend on the heads is kept.
    """

    def __init__(
        self, config: config_lib.RunConfig, found: workdir_lib.Workdir, cohort: schema.Cohort, model: str, people: People, aside: People | None, kept: Kept
    ) -> None:
        self._config, self._found, self._cohort, self._model = config, found, cohort, model
        self._people, self._aside, self._kept = people, aside, kept
        self._features: dict[str, np.ndarray] | None = None

    def holding(self, arm: str, audited: inputs_lib.AuditInputs, images: RowSource, texts: RowSource) -> holdings.Holding:
        """Returns what he holds against `audited`, made from `images` and `texts`, the embeddings of the whole cohort by one arm's heads."""
        aside = None if self._aside is None else prepared(self._cohort, self._aside, images, texts)
        features = self._before_head(self._people, audited), None if self._aside is None or aside is None else self._before_head(self._aside, aside)
        others = self._others() if arm in ("original",) else ()
        return holdings.Holding(aside, features[0], features[1], others, self._kept)

    def _others(self) -> tuple[inputs_lib.AuditInputs, ...]:
        """Returns the audited people embedded by the run's other models with their original heads."""
        others = [name for name in self._config.models if name != self._model]
        rows = [context.embeddings(self._found, name, "original", self._config.embed.shard_rows) for name in others]
        return tuple(prepared(self._cohort, self._people, *pair) for pair in rows)

    def _before_head(self, people: People, joined: inputs_lib.AuditInputs) -> base.Features | None:
        """Returns features before the head of people's images and distinct reports; None for an ensemble, which has none of its own."""
        if ensembles.is_one(self._found, self._model):
            return None
        if self._features is None:
            self._features = {what: context.vectors(self._found, self._model, what) for what in context.SIDES.values()}
        first = np.unique(joined.study_text, return_index=True)[1]
        report = self._cohort.study_text[people.chosen.studies[first]]
        return base.Features(self._features["images"][people.chosen.images], self._features["texts"][report])
