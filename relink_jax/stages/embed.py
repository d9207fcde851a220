"""The embed stage: frozen features per image, per unique report text and, for the mitigated model, per anchor text."""

import dataclasses
from typing import Any

import numpy as np

from relink_jax import config as config_lib
from relink_jax.cohort import phantom, schema
from relink_jax.encoders import embed as embed_lib
from relink_jax.runtime import mesh as meshes
from relink_jax.stages import context
from relink_jax.stages import convert as convert_stage
from relink_jax.store import checkpoints
from relink_jax.store import workdir as workdir_lib

ANCHOR_SEED = 340_000_006  # of the public population of synthetic texts; far from any cohort's seed


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Rows encoded per model, the towers' precision, and the digests of the shard manifests."""

    model: str
    precision: str
    images: int
    texts: int
    anchors: int
    digests: dict[str, str]


def run(config: config_lib.RunConfig, workdir: str, *, model: str | None = None) -> list[Embedded]:
    """Encodes the cohort with every model of the run, or only with `model`, going on where an earlier run stopped.

    Raises: UsageError: not a model of the run; StoreError: no cohort or no converted model in the workdir; DataError: see `encoders.embed`.
    """
    with context.opened(config, workdir) as found:
        models = context.models_of(config, model)
        cohort = context.load_cohort(config, found)
        mesh = meshes.make_mesh()
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
    }
    images = np.arange(len(cohort.image_key), dtype=np.int32)
    texts = np.arange(len(cohort.text), dtype=np.int32)
    digests = {
        "images": embed_lib.embed_images(spec, params, cohort, images, found.features(model, "images"), mesh, map_dtype=config.embed.map_dtype, **options),
        "texts": embed_lib.embed_texts(spec, params, cohort.text, texts, found.features(model, "texts"), mesh, **options),
    }
    if anchors:
        rows = np.arange(len(anchors), dtype=np.int32)
        options["identity"] = {"weights": provenance["tree_sha256"], "anchors": f"phantom {ANCHOR_SEED} {len(anchors)}"}
        digests["anchors"] = embed_lib.embed_texts(spec, params, anchors, rows, found.features(model, "anchors"), mesh, **options)
    return Embedded(model, config.embed.precision, len(images), len(texts), len(anchors), digests)


def describe(done: list[Embedded]) -> str:
    """Returns one line per model."""
    lines = [f"  {one.model:<24} {one.images:>7,} images  {one.texts:>7,} unique texts" + (f"  {one.anchors:,} anchors" if one.anchors else "") for one in done]
    return "\n".join([f"features before the head, computed in {done[0].precision}:", *lines])
