"""The embed stage: frozen features per image, per unique report text, per zero-shot prompt and, for the mitigated model, per anchor text.

With `embed.prior` 'table' a model that compares images is shown each image beside its prior one; other models, and every model where
the cohort has no prior images, see what they always see. Of several processes each encodes shards of its own on its own devices.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from relink_jax import config as config_lib
from relink_jax.cohort import phantom, record_shards, records, schema
from relink_jax.cohort import pictures as pictures_lib
from relink_jax.cohort import prompts as prompts_lib
from relink_jax.encoders import embed as embed_lib
from relink_jax.encoders import preprocess, specs, towers
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress
from relink_jax.stages import context, ensembles, plan_short, together, utility_prompts
from relink_jax.stages import convert as convert_stage
from relink_jax.store import checkpoints
from relink_jax.store import workdir as workdir_lib

ANCHOR_SEED = 340_000_006  # of the public population of synthetic texts; far from any cohort's seed


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Rows encoded per model, those images among them that were shown beside a prior, the towers' precision, and the digests of the shard manifests."""

    model: str
    precision: str
    images: int
    compared: int
    texts: int
    anchors: int
    digests: dict[str, str]


def run(config: config_lib.RunConfig, workdir: str, *, model: str | None = None) -> list[Embedded]:
    """Encodes the cohort with every model of the run but its ensembles, or only with `model`, going on where an earlier run stopped.

    Raises: UsageError: not a model of the run; StoreError: no cohort or no converted model in the workdir; DataError: see `encoders.embed`.
    """
    with context.opened(config, workdir) as found:
        models = ensembles.without(found, context.models_of(config, model))
        cohort = context.load_cohort(found)
        plan_short.announce("embed", config, found, cohort, model)
        mesh = meshes.local_mesh()
        _check_priors(config, found, cohort, models)
        anchors = phantom.anchor_texts(config.embed.anchors, ANCHOR_SEED) if config.mitigate else []
        return [_embed(config, found, cohort, name, anchors if name == config.mitigate else [], mesh) for name in models]


def _embed(config: config_lib.RunConfig, found: workdir_lib.Workdir, cohort: schema.Cohort, model: str, anchors: list[str], mesh: meshes.Mesh) -> Embedded:
    context.needs(found.model(model) / "provenance.json", f"model {model!r}", "convert")
    params, provenance = checkpoints.restore(found.model(model))
    spec = convert_stage.converted_spec(found, model, provenance)
    options: dict[str, Any] = {
        "batch_size": config.embed.batch_size,
        "shard_rows": config.embed.shard_rows,
        "precision": config.embed.precision,
        "identity": {"weights": provenance["tree_sha256"], "cohort": cohort.digest()},
        "crew": _crew(found, f"embed with {model}"),
    }
    shown: dict[str, Any] = {"map_dtype": config.embed.map_dtype}
    compared = int(np.count_nonzero(cohort.image_prior >= 0)) if config.embed.prior == "table" and towers.prior_shape(spec) else 0
    if compared:
        shown["missing"] = context.load_arm(found, model, "original")[0]["image"]["missing"]
    pictures, of_pictures = _pictures(config, found, cohort, preprocess.dicom_mode(spec))
    images = np.arange(len(cohort.image_key), dtype=np.int32)
    texts = np.arange(len(cohort.text), dtype=np.int32)
    digests = {
        "images": embed_lib.embed_images(
            spec,
            params,
            cohort,
            images,
            found.features(model, "images"),
            mesh,
            pictures=pictures,
            **shown,
            **options | {"identity": options["identity"] | of_pictures},
        ),
        "texts": embed_lib.embed_texts(spec, params, cohort.text, texts, found.features(model, "texts"), mesh, **options),
    }
    if anchors:
        rows = np.arange(len(anchors), dtype=np.int32)
        options["identity"] = {"weights": provenance["tree_sha256"], "anchors": f"phantom {ANCHOR_SEED} {len(anchors)}"}
        digests["anchors"] = embed_lib.embed_texts(spec, params, anchors, rows, found.features(model, "anchors"), mesh, **options)
    prompts = prompts_lib.texts()
    rows = np.arange(len(prompts), dtype=np.int32)
    options["identity"] = {"weights": provenance["tree_sha256"], "prompts": prompts_lib.digest()}
    digests["prompts"] = embed_lib.embed_texts(spec, params, prompts, rows, found.features(model, utility_prompts.WHAT), mesh, **options)
    return Embedded(model, config.embed.precision, len(images), compared, len(texts), len(anchors), digests)


def _crew(found: workdir_lib.Workdir, what: str) -> embed_lib.Crew:
    """Returns how the processes of this command share the shards."""
    first, arriving = functools.partial(together.first, found, what), functools.partial(together.arriving, found, what)
    return embed_lib.Crew(jax.process_index(), meshes.processes(), meshes.make_mesh().size, first, arriving)


def _pictures(config: config_lib.RunConfig, found: workdir_lib.Workdir, cohort: schema.Cohort, dicom: str) -> tuple[Any, dict[str, Any]]:
    """Returns where images are read from, the records where there are some or else the loose files, and what features have to say of that."""
    directory = found.root / context.RECORDS
    if config.cohort.records and (directory / record_shards.MANIFEST).exists():
        stored = records.Pictures(directory, cohort, dicom=dicom)
        return stored, stored.identity
    return pictures_lib.Files(cohort, dicom=dicom, refuse_burned_in=config.cohort.burned_in == "refuse"), {}


def _check_priors(config: config_lib.RunConfig, found: workdir_lib.Workdir, cohort: schema.Cohort, models: tuple[str, ...]) -> None:
    """Says, before anything is computed, when prior images are asked for and change nothing."""
    if config.embed.prior == "none":
        return
    for name in models:
        context.needs(found.model(name) / "provenance.json", f"model {name!r}", "convert")
    if not any(towers.prior_shape(specs.from_json(checkpoints.provenance_of(found.model(name))["model"], found.model(name))) for name in models):
        progress.notice("embed.prior is 'table', but no model here compares images: every image is embedded alone")
    elif not np.any(cohort.image_prior >= 0):
        progress.notice("embed.prior is 'table', but no image has a prior in the cohort (column prior_image_id of its table): every image is embedded alone")


def describe(done: list[Embedded]) -> str:
    """Returns one line per model."""
    lines = []
    for one in done:
        told = [(one.anchors, "anchors"), (one.compared, "images beside their prior")]
        rest = "".join(f"  {count:,} {what}" for count, what in told if count)
        lines.append(f"  {one.model:<24} {one.images:>7,} images  {one.texts:>7,} unique texts{rest}")
    return "\n".join([f"features before the head, computed in {done[0].precision}:" if done else "no model with features of its own", *lines])
