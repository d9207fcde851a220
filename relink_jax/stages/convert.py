"""The convert stage: published checkpoints to Flax towers and heads, strictly checked, with their provenance; and back (`export`)."""

import dataclasses
import pathlib
import re
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors import numpy as safetensors_numpy

from relink_jax import config as config_lib
from relink_jax import errors, heads
from relink_jax.encoders import convert as convert_lib
from relink_jax.encoders import layouts, published, sharded, sources, specs, zoo
from relink_jax.stages import context, ensembles
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
    ensemble: bool | None = None,
    sha256: str | None = None,
) -> dict[str, dict[str, Any]] | None:
    """Converts every model of the run that is not yet in the workdir, or only `model`, and returns each one's provenance.

    With `config.source`, a checkpoint of the user's (directory, weight file or Hugging Face cache directory), that checkpoint becomes
    the run's model `model` (default: named after the source): beside models already converted here, in the place of packaged ones that
    were not. It is the published model `entry` (default: the one called `model`, else what its `config.json` says). With `ensemble`, every
    weight file of the directory becomes a model `model`-1, `model`-2 and so on, in the order of the files' names, and `model` their ensemble.
    Without a source, published models of the run that are not yet converted are looked for under their names in `config.checkpoints`.
    `sha256` holds the digests that the source's weight files must have, one for each, commas between; they are compared before one is opened.

    With `to`, nothing is converted: heads `arm` (default dp) of `model` (default the mitigated one) go back, with their towers, into the
    published layout under export/MODEL/ARM. Returns None on a process that waited for process 0.

    Raises: UsageError: not a model of the run; DataError: see `encoders.convert.convert`; StoreError: a checkpoint of other
        weights under the same name, or heads that are not there.
    """
    if to is not None:
        return _export(config, workdir, model, to, arm or "dp")
    if arm is not None:
        raise errors.UsageError(errors.describe("flag --arm", "'relink convert'", "--to=hf beside it", "no --to"))
    source = pathlib.Path(config.source) if config.source else None
    if ensemble and source is None:
        raise errors.UsageError(errors.describe("flag --ensemble", "'relink convert'", "--source=DIR beside it", "no --source"))
    brought: dict[str, _Source] = {}
    pins = _pins(sha256, source)
    if entry is not None and (source is None or entry not in published.MODELS):
        expected = f"--source, and one of {', '.join(published.MODELS)}"
        raise errors.UsageError(errors.describe("published model", "flag --entry", expected, repr(entry)) + errors.suggest(entry, published.MODELS))
    if source is not None:
        model = _named(config, source, model)
        directory, weights = sources.locate(source)
        pinned = _pinned(model, weights or sources.weights(directory), pins) if pins else {}
        spec = zoo.of_source(entry or model, directory, weights, trust_pickle=bool(trust_pickle))
        files_of = {f"{model}-{number}": (path,) for number, path in enumerate(_members(directory, weights), 1)} if ensemble else {model: weights}
        for name, paths in files_of.items():
            own = tuple(digest for path in paths or pinned for digest in pinned.get(path, ()))
            brought[name] = _Source(dataclasses.replace(spec, name=name, sha256=own), tuple(paths), bool(trust_pickle))
        _bring(config, pathlib.Path(str(workdir)), tuple(brought), model if ensemble else "")
    names = tuple(brought) if source else context.models_of(config, model)
    return context.led(config, workdir, "convert", lambda found: _every(config, found, names, brought, model if ensemble else None))


def _every(
    config: config_lib.RunConfig, found: workdir_lib.Workdir, names: Sequence[str], brought: dict[str, _Source], ensemble: str | None
) -> dict[str, dict[str, Any]]:
    """Returns what is recorded of the models `names`, converting those that are not there, and last of the `ensemble` that they become."""
    brought = brought or _listed(config, found, tuple(names))
    if ensemble and (found.model(ensemble) / "provenance.json").exists():
        raise errors.StoreError(errors.describe("other checkpoint", f"models/{ensemble}", "an ensemble", "a single model; choose another --model"))
    converted = {name: _one(found, name, brought.get(name), bool(ensemble)) for name in names}
    if ensemble:
        converted[ensemble] = ensembles.write(found, ensemble, tuple(brought))
    return converted


def _named(config: config_lib.RunConfig, source: pathlib.Path, model: str | None) -> str:
    """Returns the name that the user's checkpoint gets."""
    named = config.models[0] if len(config.models) == 1 and config.models[0] not in zoo.ENTRIES else None
    name = model or named or _called(source.expanduser().resolve())
    config_lib.check_name(name, "flag --model (default: the name of the --source)")
    if name in zoo.ENTRIES:
        raise errors.UsageError(errors.describe("model name", "flag --model", "one that no packaged model has", repr(name)))
    return name


def _pins(text: str | None, source: pathlib.Path | None) -> tuple[str, ...]:
    """Returns the digests of a flag --sha256, none without it; `UsageError` for what is none, or without a source."""
    if text is None:
        return ()
    found = tuple(part.strip().lower() for part in text.split(","))
    if source is None or not all(re.fullmatch("[0-9a-f]{64}", part) for part in found):
        expected = "--source beside it, and 64 hexadecimal digits for each weight file, with commas between"
        raise errors.UsageError(errors.describe("digest", "flag --sha256", expected, reprlib.repr(text) if source else "no --source"))
    return found


def _pinned(model: str, paths: Sequence[pathlib.Path], pins: tuple[str, ...]) -> dict[pathlib.Path, tuple[str, ...]]:
    """Returns each weight file's digests, several for one in shards, after comparing all of them with the pins; opens none."""
    found = {path: sources.parts_sha256(path) for path in paths}
    sources.check_pinned(model, [part for parts in found.values() for part in parts.items()], pins)
    return {path: tuple(parts.values()) for path, parts in found.items()}


def _bring(config: config_lib.RunConfig, workdir: pathlib.Path, names: tuple[str, ...], ensemble: str) -> None:
    """Makes the user's checkpoints models of the run, their ensemble (unless '') too, and a single one the model to mitigate if no other is left.

    The recorded config keeps the models, not the source: the workdir holds all that later stages need of them.
    """
    names = (*names, ensemble) if ensemble else names
    kept = [other for other in config.models if other not in names and _there(workdir / "models" / other)]
    config.source, config.models = "", (*kept, *names)
    if config.mitigate and config.mitigate not in config.models:
        config.mitigate = "" if ensemble else names[0]


def _listed(config: config_lib.RunConfig, found: workdir_lib.Workdir, models: tuple[str, ...]) -> dict[str, _Source]:
    """Returns the sources, in `config.checkpoints`, of those models that are neither packaged nor in the workdir; `DataError` for one that is not there."""
    if not config.checkpoints:
        return {}
    root, brought = pathlib.Path(config.checkpoints), dict[str, _Source]()
    for name in models:
        if name in zoo.ENTRIES or _finished(found, name) or ensembles.is_one(found, name):
            continue
        if not (root / name).is_dir():
            expected = f"a directory {name!r} with the checkpoint as published"
            raise errors.DataError(errors.describe(f"model {name!r}", f"directory {root.name!r} of config field 'checkpoints'", expected, "none"))
        directory, weights = sources.locate(root / name)
        brought[name] = _Source(zoo.of_source(name, directory, weights), weights)
    return brought


def _there(directory: pathlib.Path) -> bool:
    return any((directory / name).exists() for name in ("provenance.json", ensembles.FILE))


def _members(directory: pathlib.Path, named: tuple[pathlib.Path, ...]) -> list[pathlib.Path]:
    """Returns the weight files of an ensemble's directory by name.

    Raises: UsageError: the source is one of them; DataError: fewer than two, or one of them twice, which would count double.
    """
    expected = "a directory with at least two weight files, one for each member"
    if named:
        raise errors.UsageError(errors.describe("members of an ensemble", f"--source {named[0].name!r}", expected, "a single file"))
    paths = sources.weights(directory)
    if len(paths) < 2:
        raise errors.DataError(errors.describe("members of an ensemble", f"source {directory.name!r}", expected, paths[0].name))
    seen: dict[tuple[str, ...], str] = {}
    for path in paths:
        first = seen.setdefault(tuple(sources.parts_sha256(path).values()), path.name)
        if first != path.name:
            raise errors.DataError(errors.describe("member twice", f"source {directory.name!r}", "each member once", f"one file as {first} and {path.name}"))
    return paths


def _one(found: workdir_lib.Workdir, name: str, source: _Source | None, member: bool) -> dict[str, Any]:
    """Returns what is recorded of one model of the run, converting it when it is not there; the user's own ones have a source."""
    ensemble = ensembles.load(found, name)
    if ensemble is not None and source is not None:
        raise errors.StoreError(errors.describe("other checkpoint", f"models/{name}", "a single model", "an ensemble; choose another --model"))
    if ensemble is not None:
        return ensemble.record
    if source is None and (name in zoo.ENTRIES or not _finished(found, name)):
        source = _Source(zoo.get_vlm(name))
    try:
        return _convert(found, name, source)
    except errors.DataError as error:
        if not member or source is None:
            raise
        raise errors.DataError(f"{source.weights[0].name}: {error}") from error


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
    named = [part for path in source.weights for part in sources.parts(path)]
    places = {path.name: path for path in named or source.spec.directory.glob("*")}
    parts = [one.get("parts") or {one["name"]: one["sha256"]} for one in provenance["files"]]  # files of one weight file: itself, or its shards
    before = {name: digest for one in parts for name, digest in one.items()} | {specs.CONFIG: provenance["config_sha256"]}
    now = {name: _digest(places.get(name, source.spec.directory)) for name in before if name != specs.CONFIG}
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


def _export(config: config_lib.RunConfig, workdir: str, model: str | None, to: str, arm: str) -> dict[str, dict[str, Any]] | None:
    """Writes one model with the heads of one arm under export/MODEL/ARM, float32, in the layout that it came in."""
    if to not in _FORMATS:
        raise errors.UsageError(errors.describe("export format", "flag --to", " or ".join(_FORMATS), repr(to)) + errors.suggest(to, _FORMATS))
    return context.led(config, workdir, "export", lambda found: _exported(found, context.models_of(config, model or config.mitigate or None)[0], arm))


def _exported(found: workdir_lib.Workdir, model: str, arm: str) -> dict[str, dict[str, Any]]:
    """Returns what `_export` wrote."""
    ensembles.refuse(found, model, "exported", "--model")
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
    return pathlib.Path(name.removesuffix(sharded.SUFFIX)).stem.replace("pytorch_model", "model").replace("flax_model", "model") + ".safetensors"


def describe(converted: dict[str, dict[str, Any]]) -> str:
    """Returns one line per converted model, or what was exported."""
    if all("directory" in entry for entry in converted.values()):
        lines = [f"  {name}, heads {entry['arm']}, layout {entry['layout']}: {', '.join(entry['files'])}" for name, entry in converted.items()]
        return "\n".join(["exported, float32:", *lines, *(f"  in {entry['directory']}" for entry in converted.values())])
    lines = []
    for name, entry in converted.items():
        if "members" in entry:
            lines.append(f"  {name:<24} ensemble of {len(entry['members'])}: {entry['rule']} of {', '.join(one['name'] for one in entry['members'])}")
            continue
        line = f"  {name:<24} {entry['parameters']:>9,} parameters  layout {entry['layout']}  sha256 {entry['source_sha256'][:12]}"
        left = [part for one in entry["files"] for part in (*one["left_out"], *one["unbuilt"])]
        line += f"  ignored {len(entry['ignored'])} keys" if entry["ignored"] else ""
        line += f"  not read: {', '.join([*entry['not_read'], *left])}" if entry["not_read"] or left else ""
        lines.append(line)
        if not entry["model"]["sha256"]:
            lines += [f"    {digest}  {part}" for one in entry["files"] for part, digest in one["parts"].items()]
    return "\n".join(["converted, every key accounted for:", *lines])
