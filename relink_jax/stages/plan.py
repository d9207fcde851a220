"""The plan stage: what audit, embed and heads will cost, by formula, before anything runs."""

import dataclasses
import reprlib
from collections.abc import Sequence

import numpy as np

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.encoders import cost, specs, towers, zoo
from relink_jax.encoders import embed as embed_lib
from relink_jax.retrieval import arrange, layout, probe
from relink_jax.retrieval import product as products
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import plan

_ATTACKS = {
    **{"znorm": 2, "csls": 4, "inverted_softmax": 4, "sinkhorn": 22, "assignment": 1, "study_mean": 1, "model_fusion": 1},
    **{"ridge": 8, "cca": 4, "procrustes": 4, "fresh_head": 4, "length_only": 1, "metadata_only": 1},
}  # passes over all images and reports that each name takes at most: both banks, every number of known pairs, the counts themselves
_MEASURES = {"blocks": 0, "right_patient": 1, "tiers": 3, "verification": 2, "infonce": 2, "shuffle": 1}
PLANNED = ("audit", "embed", "heads")
LARGEST = 1_000_000_000
_STUDIES_PER_PATIENT, _IMAGES_PER_STUDY = 2.0, 4 / 3  # of the synthetic generator


def run(
    config: config_lib.RunConfig,
    workdir: str,
    words: Sequence[str] = PLANNED,
    *,
    images: str | None = None,
    studies: str | None = None,
    dim: str | None = None,
    model: str | None = None,
    timed: bool = True,
) -> dict[str, list[plan.Line]]:
    """Returns the plan of each stage named in `words` (all when empty); nothing is read from or written to `workdir`.

    Args:
        images, studies, dim: sizes Q, S and D as text or None for the configured synthetic cohort's and the model's.
        timed: time a few tiles on this device, to state the time of an audit and its share of the bare product.
        model: a packaged or published model, None for the packaged ones, which share one geometry.

    Raises: UsageError: an unknown stage or model, or a size that is not a whole number from 1 to `LARGEST`.
    """
    config.validate()
    expected = config.cohort.phantom.n_patients
    n_studies = _size("studies", studies, round(expected * _STUDIES_PER_PATIENT))
    n_images = _size("images", images, round(expected * _STUDIES_PER_PATIENT * _IMAGES_PER_STUDY))
    spec = zoo.described(model or zoo.list_vlms()[-1])
    width = _size("dim", dim, spec.dim)
    plans: dict[str, list[plan.Line]] = {}
    for stage in words or PLANNED:
        if stage not in PLANNED:
            raise errors.UsageError(f"no plan for stage {stage!r}: expected one of {', '.join(PLANNED)}{errors.suggest(stage, PLANNED)}")
        if stage == "audit":
            plans[stage] = _audit_plan(config.audit, n_images, n_studies, width, timed)
        elif stage == "embed":
            plans[stage] = _embed_plan(spec, config.embed, n_images, n_studies)
        else:
            plans[stage] = _heads_plan(config.heads.mechanism)
    return plans


def describe(plans: dict[str, list[plan.Line]]) -> str:
    """Returns the plans as text."""
    return "\n\n".join(f"plan of {stage}:\n{plan.table(lines)}" for stage, lines in plans.items())


def _audit_plan(settings: config_lib.AuditConfig, n_images: int, n_studies: int, dim: int, timed: bool) -> list[plan.Line]:
    meshes.share_cpu()
    mesh = meshes.make_mesh()
    products.check(settings.precision, mesh)
    platform = mesh.devices.flat[0].platform
    size = layout.Size(n_studies, products.row_bytes(dim, settings.precision), k=settings.top_k, devices=mesh.size, platform=platform)
    asked = layout.Layout(settings.split, settings.query_block, settings.tile, settings.panel)
    found = layout.chosen(size, asked, int(settings.memory * 2**30) or meshes.memory(mesh))
    rows, _, columns = layout.default_shape(platform)
    shape = settings.query_block or rows * (1 if found.split == layout.STUDIES else mesh.size), arrange.arrange(n_studies, settings.tile or columns).width
    placed = plan.Counting(*shape, found.panel, found.split, mesh.size, **dataclasses.asdict(layout.taken(size, found)))
    speed = probe.reached(mesh, dim, n_studies, settings.top_k, settings.precision) if timed else probe.Speed(0.0, 1.0)
    lines = plan.audit_plan(n_images, n_studies, dim, placed, speed.rate * dim / products.width(dim, settings.precision), speed.share)
    further = sum(_ATTACKS[name] for name in settings.attacks) + sum(_MEASURES[name] for name in settings.measures)
    told = f"for {len(settings.attacks)} attacks and {len(settings.measures)} measures, each like the pass above; 'relink bench attacks' measures them"
    return [*lines, plan.Line("further passes, image to report", f"at most {further}", told)]


def _embed_plan(spec: specs.VLMSpec, settings: config_lib.EmbedConfig, n_images: int, n_texts: int) -> list[plan.Line]:
    costs = cost.of(spec, prior=settings.prior == "table")  # as if every image had a prior
    map_bytes = np.dtype(embed_lib.MAP_DTYPES[settings.map_dtype]).itemsize
    rows = {"image": n_images, "text": n_texts}
    sides = {
        side: plan.Encoding(rows[side], one.parameters, one.flop, one.features, map_bytes if len(one.features) > 1 else plan.FLOAT)
        for side, one in costs.items()
    }
    weight_bytes = np.dtype(embed_lib.PRECISIONS[settings.precision]).itemsize
    lines = plan.embed_plan(sides["image"], sides["text"], spec.image.image_size, towers.text_length(spec), weight_bytes)
    return [plan.Line("model", spec.name, spec.description), *lines]


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
