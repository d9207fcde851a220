"""The convert stage: published checkpoints to Flax towers and heads, strictly checked, with their provenance; and back (`export`)."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from safetensors import numpy as safetensors_numpy

from relink_jax import config as config_lib
from relink_jax import errors, heads
from relink_jax.encoders import convert as convert_lib
from relink_jax.encoders import layouts, published, sources, specs, zoo
from relink_jax.stages import context
from relink_jax.store import checkpoints, digests, files
from relink_jax.store import workdir as workdir_lib

_SIDE_FILES = (
    *("config.json", "open_clip_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
    *("vocab.txt", "spiece.model", "special_tokens_map.json", "added_tokens.json"),
)
_FORMATS = ("hf",)


@dataclasses.dataclass(frozen=True)
class _Source:
    """A checkpoint to convert: its spec, the weight files that were named, and whether torch may run them."""

    spec: specs.VLMSpec
    weights: tuple[pathlib.Path, ...] = ()
    trust_pickle: bool = False


def converted_spec(found: workdir_lib.Workdir, model: str, provenance: dict[str, Any]) -> specs.VLMSpec:
    """Returns the spec of a converted model; its directory holds the side files kept beside the checkpoint.

    Raises: StoreError: side files that are not those of the conversion: they decide what the towers are shown.
    """
    directory = found.model(model) / "spec"
    now = _side_digests(directory)
    if now != provenance.get("side_files_sha256"):
        raise errors.StoreError(errors.describe("model files changed", f"models/{model}/spec", "those of the conversion", "others; convert in a fresh workdir"))
    return specs.from_json(provenance.get("model"), directory)


def run(
    config: config_lib.RunConfig,
    workdir: str,
    *,
    model: str | None = None,
    entry: str | None = None,
    to: str | None = None,
    arm: str | None = None,
    trust_pickle: bool | None = None,
) -> dict[str, dict[str, Any]]:
    """Converts every model of the run that is not yet in the workdir, or only `model`, and returns each one's provenance.

    With `config.source`, a checkpoint of the user's (directory, weight file or Hugging Face cache directory), that checkpoint becomes
    the run's model `model` (default: named after the source): beside models already converted here, in the place of packaged ones that
    were not. It is the published model `entry` (default: the one called `model`, else what its `config.json` says).

    With `to`, nothing is converted: heads `arm` (default dp) of `model` (default the mitigated one) go back, with their towers, into the
    published layout under export/MODEL/ARM.

    Raises: UsageError: not a model of the run; DataError: see `encoders.convert.convert`; StoreError: a checkpoint of other
        weights under the same name, or heads that are not there.
    """
    if to is not None:
        return _export(config, workdir, model, to, arm or "dp")
    if arm is not None:
        raise errors.UsageError(errors.describe("flag --arm", "'relink convert'", "--to=hf beside it", "no --to"))
    source, brought = pathlib.Path(config.source) if config.source else None, None
    if entry is not None and (source is None or entry not in published.MODELS):
        expected = f"--source, and one of {', '.join(published.MODELS)}"
        raise errors.UsageError(errors.describe("published model", "flag --entry", expected, repr(entry)) + errors.suggest(entry, published.MODELS))
    if source is not None:
        model = _bring(config, source, pathlib.Path(str(workdir)), model)
        directory, weights = sources.locate(source)
        spec = dataclasses.replace(zoo.of_source(entry or model, directory), name=model)
        brought = _Source(spec, weights, bool(trust_pickle))
    with context.opened(config, workdir) as found:
        converted = {}
        for name in context.models_of(config, model):
            there = name not in zoo.ENTRIES and _finished(found, name)
            converted[name] = _convert(found, name, brought or (None if there else _Source(zoo.get_vlm(name))))
        return converted


def _bring(config: config_lib.RunConfig, source: pathlib.Path, workdir: pathlib.Path, model: str | None) -> str:
    """Makes the user's checkpoint a model of the run, and the one to mitigate when no other is left, and returns its name.

    The recorded config keeps the model, not the source: the workdir holds all that later stages need of it.
    """
    named = config.models[0] if len(config.models) == 1 and config.models[0] not in zoo.ENTRIES else None
    name = model or named or _called(source.expanduser().resolve())
    config_lib.check_name(name, "flag --model (default: the name of the --source)")
    if name in zoo.ENTRIES:
        raise errors.UsageError(errors.describe("model name", "flag --model", "one that no packaged model has", repr(name)))
    kept = [other for other in config.models if other != name and (workdir / "models" / other / "provenance.json").exists()]
    config.source, config.models = "", (*kept, name)
    config.mitigate = config.mitigate if not config.mitigate or config.mitigate in kept else name
    return name


def _called(source: pathlib.Path) -> str:
    """Returns the name of a source: a file's without its suffix, a cache directory's without its organisation."""
    if source.is_file():
        return source.stem
    return source.name.rpartition("--")[2] if source.name.startswith("models--") else source.name


def _finished(found: workdir_lib.Workdir, model: str) -> bool:
    return (found.model(model) / "provenance.json").exists() and (found.heads(model, "original") / "card.json").exists()


def _convert(found: workdir_lib.Workdir, model: str, source: _Source | None) -> dict[str, Any]:
    """Returns the provenance of `model`, converting it when it is not there; no source: it is, and its files are not asked for."""
    directory = found.model(model)
    if source is None or _finished(found, model):
        _, provenance = checkpoints.restore(directory)
        converted_spec(found, model, provenance)
        context.load_arm(found, model, "original")
        if source is not None:
            _check_same(model, provenance, source)
        return provenance
    spec = source.spec
    result = convert_lib.convert(spec, source.weights, trust_pickle=source.trust_pickle)
    for name in _SIDE_FILES:
        if (spec.directory / name).is_file():
            files.write_bytes(directory / "spec" / name, (spec.directory / name).read_bytes())
    provenance = {**result.provenance, "logit_scale": result.logit_scale, "logit_bias": result.logit_bias}
    provenance["side_files_sha256"] = _side_digests(directory / "spec")
    provenance["left_out_sha256"] = [_keep(directory, index, tensors) for index, tensors in enumerate(result.left_out)]
    heads.save(found.heads(model, "original"), result.heads, {"arm": "original", "source_sha256": provenance["source_sha256"]})
    checkpoints.save(directory, result.params, provenance)
    return provenance


def _check_same(model: str, provenance: dict[str, Any], source: _Source) -> None:
    """Raises `StoreError` unless the source holds the weights and config that `model` was converted from."""
    named = {path.name: path for path in source.weights}
    before = {one["name"]: one["sha256"] for one in provenance["files"]} | {specs.CONFIG: provenance["config_sha256"]}
    now = {name: _digest(named.get(name, source.spec.directory / name)) for name in before if name != specs.CONFIG}
    config = specs.read_json(source.spec.directory) if (source.spec.directory / specs.CONFIG).is_file() else {}
    now[specs.CONFIG] = digests.value_digest(config)
    changed = next((name for name, digest in now.items() if before[name] != digest), None)
    if changed is not None:
        expected = f"{'config' if changed == specs.CONFIG else 'source'}_sha256 {before[changed][:12]} of {changed}"
        raise errors.StoreError(errors.describe("other checkpoint", f"models/{model}", expected, f"{now[changed][:12]}; use a fresh workdir"))


def _digest(path: pathlib.Path) -> str:
    return digests.file_digest(path) if path.is_file() else "no such file"


def _side_digests(directory: pathlib.Path) -> dict[str, str]:
    return {name: digests.file_digest(directory / name) for name in _SIDE_FILES if (directory / name).is_file()}


def _left_out(directory: pathlib.Path, index: int) -> pathlib.Path:
    """Returns where the ignored tensors of a model's weight file number `index` are kept for an export."""
    return directory / f"left_out_{index}.safetensors"


def _keep(directory: pathlib.Path, index: int, tensors: dict[str, np.ndarray]) -> str:
    """Keeps ignored tensors and returns their file's SHA-256, '' when there are none."""
    if not tensors:
        return ""
    files.write_with(_left_out(directory, index), lambda temporary: safetensors_numpy.save_file(tensors, str(temporary)))
    return digests.file_digest(_left_out(directory, index))


def _kept(directory: pathlib.Path, index: int, digest: str) -> dict[str, np.ndarray]:
    """Returns what `_keep` wrote; `StoreError` when it is damaged or gone."""
    if not digest:
        return {}
    path = _left_out(directory, index)
    found = _digest(path)
    if found != digest:
        raise errors.StoreError(errors.describe("file corrupted", f"models/{directory.name}/{path.name}", f"SHA-256 {digest[:12]}", found[:12]))
    return safetensors_numpy.load_file(str(path))


def _export(config: config_lib.RunConfig, workdir: str, model: str | None, to: str, arm: str) -> dict[str, dict[str, Any]]:
    """Writes one model with the heads of one arm under export/MODEL/ARM, float32, in the layout that it came in."""
    if to not in _FORMATS:
        raise errors.UsageError(errors.describe("export format", "flag --to", " or ".join(_FORMATS), repr(to)) + errors.suggest(to, _FORMATS))
    with context.opened(config, workdir) as found:
        model = context.models_of(config, model or config.mitigate or None)[0]
        context.needs(found.model(model) / "provenance.json", f"model {model!r}", "convert")
        params, provenance = checkpoints.restore(found.model(model))
        converted_spec(found, model, provenance)
        loaded, card, ledger = context.load_arm(found, model, arm)
        read = [layouts.named(one["layout"]) for one in provenance["files"]]
        into = [layouts.named(layout.exported_as or layout.name) for layout in read]
        tree = {**params, "heads": loaded, "logit_scale": np.float32(provenance["logit_scale"])}
        if provenance["logit_bias"] is not None:
            tree["logit_bias"] = np.float32(provenance["logit_bias"])
        directory, written = found.root / "export" / model / arm, {}
        for index, (one, state) in enumerate(zip(provenance["files"], convert_lib.export_states(tree, into), strict=True)):
            kept = _kept(found.model(model), index, provenance["left_out_sha256"][index]) if into[index] is read[index] else {}
            name = _exported_name(one["name"])
            written[name] = convert_lib.write_checkpoint(directory / name, {**state, **kept}, np.float32)
        for name in provenance["side_files_sha256"]:
            files.write_bytes(directory / name, (found.model(model) / "spec" / name).read_bytes())
        exported = {
            **{"model": model, "arm": arm, "layout": "+".join(layout.name for layout in into), "files": written},
            **{"heads_sha256": card["heads_sha256"], "tree_sha256": provenance["tree_sha256"], "source_sha256": provenance["source_sha256"]},
            "dp": context.spent(ledger),
        }
        files.write_json(directory / "export.json", exported)
        return {model: {**exported, "directory": str(directory)}}


def _exported_name(name: str) -> str:
    """Returns the safetensors name that torch stacks look for where they looked for `name`."""
    return pathlib.Path(name).stem.replace("pytorch_model", "model").replace("flax_model", "model") + ".safetensors"


def describe(converted: dict[str, dict[str, Any]]) -> str:
    """Returns one line per converted model, or what was exported."""
    if all("directory" in entry for entry in converted.values()):
        lines = [f"  {name}, heads {entry['arm']}, layout {entry['layout']}: {', '.join(entry['files'])}" for name, entry in converted.items()]
        return "\n".join(["exported, float32:", *lines, *(f"  in {entry['directory']}" for entry in converted.values())])
    lines = []
    for name, entry in converted.items():
        line = f"  {name:<24} {entry['parameters']:>9,} parameters  layout {entry['layout']}  sha256 {entry['source_sha256'][:12]}"
        left = [part for one in entry["files"] for part in (*one["left_out"], *one["unbuilt"])]
        line += f"  ignored {len(entry['ignored'])} keys" if entry["ignored"] else ""
        line += f"  not read: {', '.join([*entry['not_read'], *left])}" if entry["not_read"] or left else ""
        lines.append(line)
    return "\n".join(["converted, every key accounted for:", *lines])
