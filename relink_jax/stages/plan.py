"""The plan stage: what audit, embed and heads will cost, by formula, before anything runs."""

import reprlib
from collections.abc import Sequence

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.runtime import plan

PLANNED = ("audit", "embed", "heads")
LARGEST = 1_000_000_000
_STUDIES_PER_PATIENT, _IMAGES_PER_STUDY = 2.0, 4 / 3  # of the synthetic generator
_PHANTOM = {"feature_dim": 96, "parameters": 480_000, "tokens": 65}  # of the packaged models' image towers


def run(
    config: config_lib.RunConfig, workdir: str, words: Sequence[str] = PLANNED, *, images: str | None = None, studies: str | None = None, dim: str | None = None
) -> dict[str, list[plan.Line]]:
    """Returns the plan of each stage named in `words` (all when empty); nothing is read from or written to `workdir`.

    Args:
        images, studies, dim: sizes Q, S and D as text or None for the configured synthetic cohort's.

    Raises: UsageError: an unknown stage or a size that is not a whole number from 1 to `LARGEST`.
    """
    config.validate()
    expected = config.cohort.phantom.n_patients
    n_studies = _size("studies", studies, round(expected * _STUDIES_PER_PATIENT))
    n_images = _size("images", images, round(expected * _STUDIES_PER_PATIENT * _IMAGES_PER_STUDY))
    width = _size("dim", dim, 64)
    plans: dict[str, list[plan.Line]] = {}
    for stage in words or PLANNED:
        if stage not in PLANNED:
            raise errors.UsageError(f"no plan for stage {stage!r}: expected one of {', '.join(PLANNED)}{errors.suggest(stage, PLANNED)}")
        if stage == "audit":
            plans[stage] = plan.audit_plan(n_images, n_studies, width, config.audit.query_block, config.audit.tile, 1)
        elif stage == "embed":
            plans[stage] = plan.embed_plan(n_images, n_studies, config.cohort.phantom.image_size, **_PHANTOM)
        else:
            plans[stage] = _heads_plan(config.heads.mechanism)
    return plans


def describe(plans: dict[str, list[plan.Line]]) -> str:
    """Returns the plans as text."""
    return "\n\n".join(f"plan of {stage}:\n{plan.table(lines)}" for stage, lines in plans.items())


def _heads_plan(mechanism: config_lib.MechanismConfig) -> list[plan.Line]:
    batch = f"{mechanism.expected_batch_size:,}" if mechanism.expected_batch_size else "a third of the units"
    return [
        plan.Line("epsilon to be spent", f"{mechanism.target_epsilon:g}", f"at delta {mechanism.target_delta:g}, per {mechanism.unit}, zero-out"),
        plan.Line("noisy steps", f"{mechanism.iterations:,}", f"expected batch {batch}, clip {mechanism.l2_norm_clip:g}"),
    ]


def _size(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and 1 <= int(text) <= LARGEST):
        raise errors.UsageError(errors.describe("size", f"--{name}", f"a whole number from 1 to {LARGEST:,}", reprlib.repr(text)))
    return int(text)
