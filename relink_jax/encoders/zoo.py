"""The dual encoders relink_jax ships and knows, and the door for a user's own.

The four phantom models are synthetic: trained by `python -m launch.make_phantom_vlms` on generated images and reports,
one CLIP-form architecture at four stages of one training, so that the ladder of specialisation can be audited anywhere
without a licence or a download. They say nothing about any real model's risk. Published models are entries of
`published.MODELS`; their files are the user's to bring.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from relink_jax import errors
from relink_jax.encoders import formats, geometry, hf_config, layouts, published, recipes, rules, sources, specs
from relink_jax.runtime import progress

_DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
_LICENCE = "Apache-2.0; trained on synthetic data only"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a packaged model beside its files."""

    specialisation: int
    description: str
    seen: str
    sha256: str


ENTRIES = {
    "phantom-0-untrained": Entry(
        specialisation=0,
        description="random initialisation, no training",
        seen="no text",
        sha256="0b05c71080f5cde5e1fc026c857d4f61b4fcb04123667a6263fc268024320461",
    ),
    "phantom-1-labels": Entry(
        specialisation=1,
        description="image to label caption, contrastive",
        seen="one caption per study naming its positive labels",
        sha256="11b2a611baae23abafe30b65d9a3e576592b5c279385f05ec001f456709f76bf",
    ),
    "phantom-2-reports": Entry(
        specialisation=2,
        description="rung 1, then image to report for a short time",
        seen="findings and impression of synthetic site A reports",
        sha256="42698b84c751f72460294a1eeb161213170626e5182696a1e269cb7bb225c2ee",
    ),
    "phantom-3-specialist": Entry(
        specialisation=3,
        description="rung 2, then image to report for the longest time",
        seen="findings and impression of synthetic site A reports",
        sha256="0cc5472f7a8a49f7894ee960f49301f8e1fb877fba9e0562b0cb1c69a9c8586c",
    ),
}


def list_vlms() -> tuple[str, ...]:
    """Returns the names of the packaged models in rising order of specialisation."""
    return tuple(sorted(ENTRIES, key=lambda name: ENTRIES[name].specialisation))


def get_vlm(name: str) -> specs.VLMSpec:
    """Returns the spec of a packaged model.

    Raises: UsageError: no such model (suggests the nearest name). DataError: damaged package data.
    """
    if name not in ENTRIES:
        hint = f"relink convert --model={name} --source=DIR" if name in published.MODELS else "--source=DIR with --model=NAME for a checkpoint directory"
        raise errors.UsageError(
            f"unknown model {name!r} in models: expected one of {', '.join(list_vlms())}, or {hint}, found another name"
            f"{errors.suggest(name, [*ENTRIES, *published.MODELS])}"
        )
    entry = ENTRIES[name]
    return dataclasses.replace(
        from_directory(_DATA / name),
        specialisation=entry.specialisation,
        description=entry.description,
        tier=f"synthetic rung {entry.specialisation}",
        exposure=(specs.Exposure("phantom", "none" if entry.specialisation == 0 else "pairs", entry.seen, "launch.make_phantom_vlms", "stated"),),
        licence=_LICENCE,
        sha256=(entry.sha256,),
    )


def described(name: str) -> specs.VLMSpec:
    """Returns the spec of a packaged or published model by its name alone; a published one has the entry's geometry and no files.

    Raises: UsageError: no such model (suggests the nearest name).
    """
    if name in ENTRIES:
        return get_vlm(name)
    if name not in published.MODELS:
        known = [*list_vlms(), *published.MODELS]
        raise errors.UsageError(errors.describe("unknown model", "flag --model", f"one of {', '.join(known)}", repr(name)) + errors.suggest(name, known))
    return published_spec(name, pathlib.Path())


def from_directory(path: str | pathlib.Path) -> specs.VLMSpec:
    """Returns the spec of a checkpoint directory in a Hugging Face layout (CLIP or SigLIP), named after the directory.

    The directory holds config.json, the weights, preprocessor_config.json and tokenizer files; only the first is read here,
    `convert.convert` checks them all.
    Raises: DataError: a missing or unreadable config, or one that describes another kind of model.
    """
    directory = pathlib.Path(path).expanduser()
    decided = hf_config.read(specs.read_json(directory))
    return specs.VLMSpec(name=directory.resolve().name, directory=directory, description="checkpoint directory of the user", **decided)


def of_source(name: str, path: str | pathlib.Path, weights: Sequence[pathlib.Path] = (), *, trust_pickle: bool = False) -> specs.VLMSpec:
    """Returns the spec of the user's copy of a model: an entry of `published.MODELS`, or any checkpoint that says itself what it is.

    Geometry comes from `config.json`, and preprocessing from `preprocessor_config.json`, where the entry is in a Hugging Face layout and
    the files are there; otherwise the entry's own are used (CLIP in its original layout has neither file). Without an entry and a config,
    OpenAI's layout tells its geometry by its shapes (`geometry`).

    Args:
        weights, trust_pickle: as in `convert.convert`; the files are opened only where their shapes are needed.

    Raises: DataError: see `from_directory` and `formats.opened`.
    """
    directory = pathlib.Path(path).expanduser()
    if name not in published.MODELS:
        if not (directory / specs.CONFIG).is_file():
            return _of_shapes(name, directory, weights, trust_pickle)
        return dataclasses.replace(from_directory(directory), name=name)
    entry = published.MODELS[name]
    spec = published_spec(name, directory)
    if not entry.hf or not (directory / specs.CONFIG).is_file():
        return spec
    recipe = "" if (directory / "preprocessor_config.json").is_file() else spec.recipe
    return dataclasses.replace(spec, recipe=recipe, **hf_config.read(specs.read_json(directory)))


def published_spec(name: str, directory: pathlib.Path) -> specs.VLMSpec:
    """Returns the spec of a published model with the geometry of its entry, its files in `directory`; `UsageError` for another name."""
    if name not in published.MODELS:
        raise errors.UsageError(
            errors.describe("published model", "model name", f"one of {', '.join(published.MODELS)}", repr(name)) + errors.suggest(name, published.MODELS)
        )
    entry = published.MODELS[name]
    shared = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry) if field.name not in ("origin", "files", "hf")}
    return specs.VLMSpec(name=name, directory=directory, specialisation=entry.rung, **shared)


def _of_shapes(name: str, directory: pathlib.Path, weights: Sequence[pathlib.Path], trust_pickle: bool) -> specs.VLMSpec:
    """Returns the spec of a checkpoint whose keys and shapes say what it is; `DataError` when they do not, or when no file can be read."""
    known: list[str] = []
    refused: list[errors.DataError] = []
    for path in weights or sources.listed(directory):
        try:
            with formats.opened(path, trust_pickle) as contents:
                shapes = {key: contents.tensors[spelled].shape for key, spelled in rules.canonical(contents.tensors).items()}
            layout = layouts.detect(None, shapes, f"file {path.name!r}")
        except errors.DataError as error:
            refused.append(error)
            continue
        if layout is layouts.OPENAI_CLIP:
            return _openai(name, directory, geometry.read(shapes, f"file {path.name!r}"))
        known.append(layout.name)
    if refused and not known:
        raise refused[0]
    expected = f"a file {specs.CONFIG}, or --entry with one of the published models of 'relink convert --help'"
    found = f"neither, and layout {' and '.join(known)}" if known else "neither"
    raise errors.DataError(errors.describe("kind of model", f"source {directory.name!r}", expected, found) + errors.suggest(name, published.MODELS))


def _openai(name: str, directory: pathlib.Path, decided: dict[str, Any]) -> specs.VLMSpec:
    """Returns the spec of a checkpoint in OpenAI's layout, and says what no shape tells."""
    progress.notice(
        f"{name}: geometry read from the shapes of OpenAI's layout, which means {geometry.ASSUMED}; a model that open_clip trained with plain gelu "
        "looks the same and would be converted wrongly: give such a one a config.json"
    )
    own = (directory / "preprocessor_config.json").is_file()
    description = f"checkpoint of the user in OpenAI's layout; geometry from its shapes, {geometry.ASSUMED}"
    recipe = "" if own else recipes.clip_name(decided["image"].image_size)
    return specs.VLMSpec(name=name, directory=directory, description=description, recipe=recipe, text_rule="clip", **decided)
