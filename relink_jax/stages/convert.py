"""The convert stage: published checkpoints to Flax towers and heads, strictly checked, with their provenance."""

import pathlib
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors, heads
from relink_jax.encoders import convert as convert_lib
from relink_jax.encoders import specs, zoo
from relink_jax.stages import context
from relink_jax.store import checkpoints, digests, files
from relink_jax.store import workdir as workdir_lib

_SIDE_FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")


def converted_spec(found: workdir_lib.Workdir, model: str) -> specs.VLMSpec:
    """Returns the spec of a converted model, read from the side files kept beside its checkpoint."""
    return zoo.from_directory(found.model(model) / "spec")


def run(config: config_lib.RunConfig, workdir: str) -> dict[str, dict[str, Any]]:
    """Converts every configured model that is not yet in the workdir and returns each model's provenance.

    Raises: DataError: see `encoders.convert.convert`; StoreError: a checkpoint of other weights under the same name.
    """
    if config.source and len(config.models) != 1:
        raise errors.UsageError(errors.describe("models", "config field 'models' beside a --source", "one name, given with --model", str(len(config.models))))
    found = context.open_run(config, workdir)
    converted = {}
    with workdir_lib.locked(found):
        for model in config.models:
            spec = zoo.from_directory(pathlib.Path(config.source)) if config.source else zoo.get_vlm(model)
            converted[model] = _convert(found, model, spec)
    return converted


def _convert(found: workdir_lib.Workdir, model: str, spec: specs.VLMSpec) -> dict[str, Any]:
    directory = found.model(model)
    if (directory / "provenance.json").exists() and (found.heads(model, "original") / "card.json").exists():
        _, provenance = checkpoints.restore(directory)
        source = digests.file_digest(spec.directory / convert_lib.WEIGHTS)
        if provenance["source_sha256"] != source:
            raise errors.StoreError(
                errors.describe("other weights", f"models/{model}", f"SHA-256 {provenance['source_sha256'][:12]}", f"{source[:12]}; use a fresh workdir")
            )
        return provenance
    result = convert_lib.convert(spec)
    for name in _SIDE_FILES:
        if (spec.directory / name).is_file():
            files.write_bytes(directory / "spec" / name, (spec.directory / name).read_bytes())
    provenance = {**result.provenance, "logit_scale": result.logit_scale, "specialisation": spec.specialisation, "exposure": spec.exposure}
    heads.save(found.heads(model, "original"), result.heads, {"arm": "original", "source_sha256": provenance["source_sha256"]})
    checkpoints.save(directory, result.params, provenance)
    return provenance


def describe(converted: dict[str, dict[str, Any]]) -> str:
    """Returns one line per converted model."""
    lines = [
        f"  {name:<24} {entry['parameters']:>9,} parameters  layout {entry['layout']}  sha256 {entry['source_sha256'][:12]}"
        + (f"  ignored {len(entry['ignored'])} keys" if entry["ignored"] else "")
        for name, entry in converted.items()
    ]
    return "\n".join(["converted, every key accounted for:", *lines])
