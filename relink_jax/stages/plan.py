"""The plan stage: what audit, embed and heads will cost and whether they can run here, before anything runs.

Sizes are those of the workdir's cohort, of embeddings brought along, or of flags. Memory of a device is that of the programs, which are
compiled from shapes with nothing of that size allocated; arithmetic is a formula. Nothing is written to the workdir and its lock is not taken.
"""

import dataclasses
import reprlib
from collections.abc import Sequence

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.runtime import plan, progress
from relink_jax.stages import context, plan_audit, plan_embed, plan_short, plan_sizes, plan_training
from relink_jax.store import workdir as workdir_lib

PLANNED = ("audit", "embed", "heads")
LARGEST = 1_000_000_000
_STUDIES_PER_PATIENT, _IMAGES_PER_STUDY = 2.0, 4 / 3  # of the synthetic generator


def run(
    config: config_lib.RunConfig,
    workdir: str,
    words: Sequence[str] = (),
    *,
    images: str | None = None,
    studies: str | None = None,
    dim: str | None = None,
    model: str | None = None,
    timed: bool | None = None,
) -> dict[str, plan.Plan]:
    """Returns the plan of each stage named in `words` (all when empty) that fits this machine; one that does not is printed and refused.

    Args:
        images, studies, dim: sizes Q, S and D as text, or None for those of the cohort in `workdir`, else of the embeddings that the config names, else
            of the configured synthetic cohort and the models.
        model: one of the run's models, a packaged or a published one; None for all models of the run.
        timed: time a few tiles, batches and steps on this device; None for yes.

    Raises: UsageError: an unknown stage or model, a size that is not a whole number from 1 to `LARGEST`, or memory that is not there, with what to
        change. StoreError: disk that is not there, or a damaged workdir.
    """
    config.validate()
    for stage in words:
        if stage not in PLANNED:
            raise errors.UsageError(f"no plan for stage {stage!r}: expected one of {', '.join(PLANNED)}{errors.suggest(stage, PLANNED)}")
    wanted = list(words or (("audit",) if config.embeddings else PLANNED))
    found = plan_sizes.without_lock(workdir)
    n_images, n_studies, width = _size("images", images), _size("studies", studies), _size("dim", dim)
    sizes = _sizes(config, found, wanted, n_images, n_studies, model)
    if width:
        sizes = dataclasses.replace(sizes, models=tuple(dataclasses.replace(one, dim=width) for one in sizes.models))
    plans: dict[str, plan.Plan] = {}
    for stage in wanted:
        held = plan_short.held(found, stage) if found else 0
        if stage == "audit":
            plans[stage] = plan_audit.planned(config, sizes, workdir, held, timed is not False)
        elif stage == "embed":
            plans[stage] = plan_embed.planned(config, sizes, workdir, held, timed is not False)
        else:
            plans[stage] = plan_training.planned(config, sizes, found, workdir, timed is not False)
    if not all(need.fits for one in plans.values() for need in one.needs):
        progress.notice(describe(plans))
    plan.check(plans)
    return plans


def describe(plans: dict[str, plan.Plan]) -> str:
    """Returns the plans as text."""
    return "\n\n".join(f"plan of {stage}:\n{one.table()}" for stage, one in plans.items())


def _sizes(
    config: config_lib.RunConfig, found: workdir_lib.Workdir | None, wanted: Sequence[str], images: int, studies: int, model: str | None
) -> plan_sizes.Run:
    """Returns the sizes of the run: as given, else of the data that are there, else of the synthetic cohort."""
    given = images or studies
    if found is not None and not given and not config.embeddings:
        return plan_sizes.of_cohort(config, found, context.load_cohort(found), model, audited="audit" in wanted)
    if config.embeddings and not given:
        return plan_sizes.of_embeddings(config)
    names = config.models if model is None else (model,)
    models = tuple(plan_sizes.model_of(config, name, found, known=model is not None) for name in names)
    expected = config.cohort.phantom.n_patients * _STUDIES_PER_PATIENT
    source = "as given on the command line" if given else "the configured synthetic cohort, every study in every split"
    return plan_sizes.as_given(config, images or round(expected * _IMAGES_PER_STUDY), studies or round(expected), models, source)


def _size(name: str, text: str | None) -> int:
    """Returns a size given on the command line, 0 for none."""
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and 1 <= int(text) <= LARGEST):
        raise errors.UsageError(errors.describe("size", f"--{name}", f"a whole number from 1 to {LARGEST:,}", reprlib.repr(text)))
    return int(text)
