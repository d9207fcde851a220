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

_SIDE_FILES = (
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)


def converted_spec(found: workdir_lib.Workdir, model: str, provenance: dict[str, Any]) -> specs.VLMSpec:
    """Returns the spec of a converted model, read from the side files kept beside its checkpoint.

    Raises: StoreError: side files that are not those of the conversion: they decide what the towers are shown.
    """
    directory = found.model(model) / "spec"
    now = _side_digests(directory)
    if now != provenance.get("side_files_sha256"):
        raise errors.StoreError(errors.describe("model files changed", f"models/{model}/spec", "those of the conversion", "others; convert in a fresh workdir"))
    return zoo.from_directory(directory)


def _side_digests(directory: pathlib.Path) -> dict[str, str]:
    return {name: digests.file_digest(directory / name) for name in _SIDE_FILES if (directory / name).is_file()}


def run(config: config_lib.RunConfig, workdir: str, *, model: str | None = None) -> dict[str, dict[str, Any]]:
    """Converts every model of the run that is not yet in the workdir, or only `model`, and returns each one's provenance.

    With `config.source`, a checkpoint directory of the user's, that checkpoint becomes the run's model `model` (default: named
    after the directory): beside models already converted here, in the place of packaged ones that were not.

    Raises: UsageError: not a model of the run; DataError: see `encoders.convert.convert`; StoreError: a checkpoint of other
        weights under the same name.
    """
    source = pathlib.Path(config.source) if config.source else None
    if source is not None:
        model = _bring(config, source, pathlib.Path(str(workdir)), model)
    with context.opened(config, workdir) as found:
        converted = {}
        for name in context.models_of(config, model):
            brought = name not in zoo.ENTRIES and _finished(found, name)
            spec = zoo.from_directory(source) if source is not None else None if brought else zoo.get_vlm(name)
            converted[name] = _convert(found, name, spec)
        return converted


def _bring(config: config_lib.RunConfig, source: pathlib.Path, workdir: pathlib.Path, model: str | None) -> str:
    """Makes the user's checkpoint a model of the run, and the one to mitigate when no other is left, and returns its name.

    The recorded config keeps the model, not the source: the workdir holds all that later stages need of it.
    """
    named = config.models[0] if len(config.models) == 1 and config.models[0] not in zoo.ENTRIES else None
    name = model or named or source.expanduser().resolve().name
    config_lib.check_name(name, "flag --model (default: the name of the --source directory)")
    if name in zoo.ENTRIES:
        raise errors.UsageError(errors.describe("model name", "flag --model", "one that no packaged model has", repr(name)))
    kept = [other for other in config.models if other != name and (workdir / "models" / other / "provenance.json").exists()]
    config.source, config.models = "", (*kept, name)
    config.mitigate = config.mitigate if not config.mitigate or config.mitigate in kept else name
    return name


def _finished(found: workdir_lib.Workdir, model: str) -> bool:
    return (found.model(model) / "provenance.json").exists() and (found.heads(model, "original") / "card.json").exists()


def _convert(found: workdir_lib.Workdir, model: str, spec: specs.VLMSpec | None) -> dict[str, Any]:
    """Returns the provenance of `model`, converting it when it is not there; `spec` None: it is, and its source is not asked for."""
    directory = found.model(model)
    if spec is None or _finished(found, model):
        _, provenance = checkpoints.restore(directory)
        converted_spec(found, model, provenance)
        context.load_arm(found, model, "original")
        if spec is not None:
            now = {
                "source_sha256": digests.file_digest(spec.directory / convert_lib.WEIGHTS),
                "config_sha256": digests.value_digest(specs.read_json(spec.directory)),
            }
            changed = next((name for name, digest in now.items() if provenance[name] != digest), None)
            if changed is not None:
                raise errors.StoreError(
                    errors.describe("other checkpoint", f"models/{model}", f"{changed} {provenance[changed][:12]}", f"{now[changed][:12]}; use a fresh workdir")
                )
        return provenance
    result = convert_lib.convert(spec)
    for name in _SIDE_FILES:
        if (spec.directory / name).is_file():
            files.write_bytes(directory / "spec" / name, (spec.directory / name).read_bytes())
    provenance = {**result.provenance, "logit_scale": result.logit_scale, "specialisation": spec.specialisation, "exposure": spec.exposure}
    provenance["side_files_sha256"] = _side_digests(directory / "spec")
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
